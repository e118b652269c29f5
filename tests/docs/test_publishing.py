"""docs/publishing.md: its examples, as they stand there, on a real server as the user `product`."""

import asyncio
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from devstack.stack import Stack
from tests.builders import new_id
from tests.shared.conftest import Recorded, Recording, nats_as

PAGE = (Path(__file__).parents[2] / "docs" / "publishing.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SUBJECTS = ("tenant.created", "tenant.updated", "tenant.archived")
TYPESCRIPT = ("typescript@5.9.3", "@types/node@20.19.0")
TSCONFIG = """\
{"compilerOptions": {"strict": true, "target": "es2022", "module": "nodenext", "noUncheckedIndexedAccess": true,
                     "verbatimModuleSyntax": true, "erasableSyntaxOnly": true, "types": ["node"]}}
"""


def block(language: str, start: str = "") -> str:
    [text] = [text for found, text in BLOCKS if found == language and text.startswith(start)]
    return str(text)


async def run(*command: str | Path, folder: Path, **variables: str) -> str:
    """What the command said; the test fails when it fails."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=variables,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(240):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, said.decode()
    return said.decode()


@asynccontextmanager
async def recording(stack: Stack) -> AsyncIterator[Recording]:
    async with nats_as(stack, "operator") as operator:
        yield await Recording.begin(operator, "TENANT")


@asynccontextmanager
async def losing_an_acknowledgement(url: str) -> AsyncIterator[str]:
    """The server's address by way of somebody who loses the first answer that it sends."""
    server = urlsplit(url)
    lost = False

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        nonlocal lost
        with closing(writer):
            while chunk := await reader.read(65_536):
                if answers and not lost and b"MSG _INBOX_product." in chunk:
                    lost = True
                    continue
                writer.write(chunk)
                await writer.drain()

    async def accept(from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection(server.hostname, server.port)
        await asyncio.gather(
            pass_on(from_client, to_server, answers=False), pass_on(from_server, to_client, answers=True)
        )

    between = await asyncio.start_server(accept, "127.0.0.1", 0)
    host, port = between.sockets[0].getsockname()
    async with between:
        yield urlunsplit(server._replace(netloc=f"{server.username}:{server.password}@{host}:{port}"))
    assert lost


def is_whole(message: Recorded, subject: str, tenant_id: str) -> bool:
    """The body says which tenant and nothing else, the headers are those that the page recommends."""
    headers = message.headers
    assert (message.subject, message.body) == (subject, {"tenantId": tenant_id})
    assert headers["ce-id"] == headers["Nats-Msg-Id"]
    return (headers["ce-type"], headers["ce-source"], headers["ce-specversion"], "ce-time" in headers) == (
        *(subject, "/keybuzz/product"),
        *("1.0", True),
    )


def test_every_example_of_the_page_is_run_here() -> None:
    assert [language for language, _ in BLOCKS] == ["sh", "python", "sh", "ts"]
    assert block("sh", "id=")
    assert block("sh", "npm install ")


@pytest.fixture(scope="module", params=["python", "typescript"])
async def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str | Path]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "python":
        (folder / "publish.py").write_text(block("python"))
        return [sys.executable, "-W", "error", folder / "publish.py"]
    return await compiled(folder)


async def compiled(folder: Path) -> list[str | Path]:
    """The example in TypeScript, checked, with the client that the page names, as npm has it."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node and npm are not on this machine")
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    (folder / "tsconfig.json").write_text(TSCONFIG)
    (folder / "publish.ts").write_text(block("ts"))
    install = block("sh", "npm install ").split()
    quietly = ("--no-audit", "--no-fund", "--loglevel=error", "--prefer-offline")
    await run(npm, *install[1:], *TYPESCRIPT, *quietly, folder=folder, **os.environ)
    await run(node, "node_modules/typescript/bin/tsc", folder=folder)
    return [node, folder / "publish.js"]


async def test_a_program_publishes_and_hears_that_it_is_stored(
    stack: Stack, program: list[str | Path], tmp_path: Path
) -> None:
    url = stack.endpoints.nats.users["product"].url
    for subject in SUBJECTS:
        tenant_id = new_id()
        async with recording(stack) as recorded:
            said = await run(*program, subject, tenant_id, folder=tmp_path, NATS_URL=url)
            [message] = await recorded.messages()
        assert is_whole(message, subject, tenant_id)
        assert said == f"{subject} is message {message.sequence} of TENANT\n"


async def test_a_program_whose_acknowledgement_is_lost_publishes_again_and_it_is_stored_once(
    stack: Stack, program: list[str | Path], tmp_path: Path
) -> None:
    tenant_id = new_id()
    async with (
        recording(stack) as recorded,
        losing_an_acknowledgement(stack.endpoints.nats.users["product"].url) as url,
    ):
        said = await run(*program, "tenant.created", tenant_id, folder=tmp_path, NATS_URL=url)
        [message] = await recorded.messages()
    assert is_whole(message, "tenant.created", tenant_id)
    assert said.count("no acknowledgement") == 1
    assert said.endswith(f"tenant.created is message {message.sequence} of TENANT\n")


async def test_the_command_line_publishes_and_shows_that_it_is_stored_once(stack: Stack, tmp_path: Path) -> None:
    if shutil.which("nats") is None:
        pytest.skip("the NATS CLI (nats) is not on this machine")
    assigned, command = block("sh", "id=").strip().split("\n")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    environment["NATS_URL"] = stack.endpoints.nats.users["product"].url
    async with recording(stack) as recorded:
        script = f"{assigned}\n{command}\n{command}"  # the second time as one does without an answer
        said = await run("/bin/sh", "-ec", script, folder=tmp_path, **environment)
        [message] = await recorded.messages()
    assert (message.subject, message.body) == ("tenant.created", {"tenantId": "kbz-003"})
    assert message.headers["ce-id"] == message.headers["Nats-Msg-Id"]
    assert len(re.findall(r'"stream": ?"TENANT"', said)) == 2, said
    assert len(re.findall(r'"duplicate": ?true', said)) == 1, said
