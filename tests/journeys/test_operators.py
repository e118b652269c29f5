"""The commands of docs/operations.md that ask the services, in the order of the page, on all four as they run."""

import os
import re
import shlex
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import msgspec
import nats
import pytest

from devstack.outside import Outside, eventually
from devstack.stack import Stack
from shared.topology import SERVICES
from tests.builders import Operator, new_id
from tests.docs.test_publishing import run
from tests.poller.mails import raw

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
TENANT = "ecomlg-001"
COMMANDS = re.findall(r"^    (nats (?:req|micro) .*?)(?:  +#.*)?$", PAGE, re.MULTILINE)


async def hold(stack: Stack) -> str:
    """A mail to nobody, held back; its id."""
    admin = urlsplit(stack.endpoints.postgres.dsns["admin"])
    conn = await asyncpg.connect(urlunsplit(admin._replace(path="/keybuzz_backend")))
    try:
        mail_id = await conn.fetchval(
            "INSERT INTO poller.quarantined_mails (digest, mailbox, reason, headers, raw, received_at)"
            " VALUES (sha256($1), 'main', 'UNKNOWN_RECIPIENT', '{}', $1, now()) RETURNING id",
            raw(new_id(), to="amazon.lost.fr@inbound.keybuzz.test"),
        )
    finally:
        await conn.close()
    return str(mail_id)


async def prepare(running: Stack, outside: Outside, operator: Operator) -> dict[str, str]:
    """The tenant is known everywhere, its account connected, polled, its orders fetched, two mails held; the variables
    that the page's commands want.
    """
    await outside.publish("tenant.created", {"tenantId": TENANT})

    async def is_known() -> Any:
        return await operator.ask("tenant-sync.status", tenantId=TENANT)

    await eventually("the tenant", is_known, lambda status: status["inSync"])
    assert (await outside.connect(TENANT)).status_code == 200
    await eventually("what follows", outside.waiting, lambda waiting: waiting == 0)

    async def is_polled() -> Any:
        return (await operator.ask("poller.status", tenantId=TENANT))["schedules"]

    await eventually("a poll", is_polled, lambda found: bool(found) and found[0]["lastSuccessAt"] is not None)
    job = await operator.ask("orders.backfill", tenantId=TENANT, days=7)
    return {"MAIL": await hold(running), "FORGED": await hold(running), "JOB": job["id"]}


async def plainly(operator: Operator, words: list[str]) -> Any:
    """What a command's request brings, without the command."""
    if words[1] == "req":
        subject, body = words[-2:]
        return await operator.ask(subject, **msgspec.json.decode(body))
    if words[2] == "ls":
        inbox = operator.client.new_inbox()
        answers = await operator.client.subscribe(inbox)
        await operator.client.publish("$SRV.PING", reply=inbox)
        return [msgspec.json.decode((await answers.next_msg(timeout=30)).data)["name"] for _ in SERVICES]
    return await operator.ask(f"$SRV.{words[2].upper()}.{words[3]}")


@pytest.fixture
async def operator(running: Stack) -> AsyncIterator[Operator]:
    client = await nats.connect(running.endpoints.nats.users["operator"].url)
    yield Operator(client)
    await client.close()


async def test_every_command_of_the_page_is_a_request_that_does_what_it_says(
    running: Stack, outside: Outside, operator: Operator
) -> None:
    known = await prepare(running, outside, operator)
    said: dict[str, Any] = {}
    for command in COMMANDS:
        for name, value in known.items():
            command = command.replace(f"'${name}'", value)  # noqa: PLW2901 - as the shell does
        words = shlex.split(command)
        answer = await plainly(operator, words)
        assert "code" not in answer, (command, answer)
        said[words[-2]] = answer
    assert sorted(said["micro"]) == sorted(SERVICES)
    assert said["poller.quarantine.release"]["state"] == "RELEASED"
    assert said["poller.quarantine.drop"]["decidedBy"] == "operator"
    assert said["orders.backfill.status"]["id"] == said["orders.backfill.cancel"]["id"] == known["JOB"]
    assert said["orders.freshness"]["accounts"][0]["marketplace"] == "AMAZON"
    assert said["tenant-sync.sync"]["tenant"]["id"] == TENANT
    assert said["tenant-sync.sync-all.status"]["state"] == "COMPLETED"
    assert said["oauth.status"]["status"] == "CONNECTED"
    assert (await outside.connection(TENANT))["status"] == "DISCONNECTED"


async def test_every_command_of_the_page_works_on_the_command_line(
    running: Stack, outside: Outside, operator: Operator, tmp_path: Path
) -> None:
    if shutil.which("nats") is None:
        pytest.skip("the NATS CLI (nats) is not on this machine")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    environment |= {"NATS_URL": running.endpoints.nats.users["operator"].url}
    environment |= await prepare(running, outside, operator)
    for command in COMMANDS:
        said = await run("/bin/sh", "-ec", command, folder=tmp_path, **environment)
        assert "Nats-Service-Error" not in said, said
        assert {"ls": "tenant-sync"}.get(command.split()[-1], "poller") in said or command.split()[1] == "req", said
    assert (await outside.connection(TENANT))["status"] == "DISCONNECTED"


async def test_the_page_names_every_operation(running: Stack, operator: Operator) -> None:
    assert running
    offered = {
        endpoint["subject"]
        for service in SERVICES
        for endpoint in (await operator.ask(f"$SRV.INFO.{service}"))["endpoints"]
    }
    assert {shlex.split(command)[-2] for command in COMMANDS if " req " in command} == offered
