"""Mails in: how many are read, routed and stored in a second, beside the standard library's parser alone and our reader
alone; and from a mail in the mailbox (Dovecot) to its event on NATS, at a steady rate, poller as it runs. Its limit is
the mail server's own notice to a bare client that waits, and then an outbox's way from a commit to NATS. Dovecot holds
notices back for up to half a second; who has just read looks once more before it waits, and may find a mail sooner.
"""

import asyncio
import contextlib
import re
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import msgspec
import nats
import trustme
from nats.aio.client import Client
from nats.aio.msg import Msg
from rich.console import Console
from rich.table import Table

from devstack import dovecot
from devstack.dovecot import Dovecot
from devstack.provisioning import mailbox_account
from devstack.sandbox.mails import SERVER, generate
from devstack.stack import Stack
from mail import USUAL, default, ours, seconds
from poller import mail_queries
from poller.domain import Fetched, MailboxLease
from poller.intake import Intake, take_batch
from poller.mailbox import AT_ONCE
from shared.db import Pool, open_pool
from shared.events import MessageReceived, MessageSource
from shared.outbox import Outbox

ROUNDS = 5
TENANTS = 40
OF_A_TENANT = 25
RATE = 20
MAILS = 200
MAILBOX = "bench"
RESULT = Path(__file__).parent / "results" / "intake.json"
EXISTS = re.compile(rb"\* (\d+) EXISTS")
Times = dict[str, float]
"""When, by the Message-ID of a mail."""


def address(tenant: int) -> str:
    return f"amazon.t-{tenant}.fr.abc123@inbound.test"


def mixed(number: int) -> list[bytes]:
    """Usual mails that nobody has yet, the tenants' in turns."""
    each = [
        generate(
            number * TENANTS + tenant,
            OF_A_TENANT,
            recipient=address(tenant),
            order_ids=[f"4{number:02}-{tenant:07}-{order:07}" for order in range(OF_A_TENANT // 2)],
            sorts=USUAL,
        )
        for tenant in range(TENANTS)
    ]
    return [mail.raw for mails in zip(*each, strict=True) for mail in mails]


class Taking:
    """A mailbox whose mails are stored as poller stores them."""

    def __init__(self, intake: Intake, lease: MailboxLease) -> None:
        self._intake, self._lease = intake, lease
        self._uid = 0

    async def seconds(self, mails: list[bytes]) -> float:
        """In batches, as large as poller takes them."""
        fetched = [Fetched(self._uid + number, datetime.now(UTC), raw) for number, raw in enumerate(mails, 1)]
        self._uid += len(mails)
        began = time.perf_counter()
        for start in range(0, len(fetched), AT_ONCE):
            await take_batch(self._intake, self._lease, 1, fetched[start : start + AT_ONCE])
        return time.perf_counter() - began


async def speeds(pool: Pool, outbox: Outbox) -> dict[str, float]:
    """Mails a second, medians of rounds in which each way takes its turn."""
    for tenant in range(TENANTS):
        await pool.execute(
            "INSERT INTO inbound_addresses (email, tenant_id, marketplace, country, enabled)"
            " VALUES ($1, $2, 'AMAZON', 'FR', true)",
            address(tenant),
            f"t-{tenant}",
        )
    lease = await mail_queries.claim_mailbox(pool, "throughput", timedelta(hours=1))
    assert lease is not None  # noqa: S101 - nobody else is there
    taking = Taking(Intake(pool, outbox, SERVER), lease)
    rounds: dict[str, list[float]] = {"take_batch": [], "read_mail": [], "policy.default": []}
    await taking.seconds(mixed(ROUNDS))
    for number in range(ROUNDS):
        mails = mixed(number)
        for name in list(rounds) if number % 2 else reversed(rounds):
            parse = {"read_mail": ours, "policy.default": default}.get(name)
            took = seconds(parse, mails) if parse else await taking.seconds(mails)
            rounds[name].append(len(mails) / took)
        print(f"throughput, round {number + 1} of {ROUNDS} done")
    return {name: statistics.median(each) for name, each in rounds.items()}


@asynccontextmanager
async def idling(server: Dovecot, context: ssl.SSLContext) -> AsyncIterator[list[tuple[float, int]]]:
    """A bare client that waits in the mailbox: when it hears of how many mails."""
    heard: list[tuple[float, int]] = []
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
    password = dovecot.PASSWORD.replace("\\", "\\\\").replace('"', '\\"')
    for command in (f'LOGIN {dovecot.USER} "{password}"', "EXAMINE INBOX", "IDLE"):
        writer.write(f"a {command}\r\n".encode())
        while not (await reader.readline()).startswith((b"a OK", b"+")):
            pass

    async def listen() -> None:
        while line := await reader.readline():
            if found := EXISTS.match(line):
                heard.append((time.time(), int(found[1])))

    listening = asyncio.create_task(listen())
    try:
        yield heard
    finally:
        listening.cancel()
        writer.close()


class Told:
    """When which mail's event came over NATS."""

    def __init__(self) -> None:
        self.at: Times = {}

    async def hear(self, message: Msg) -> None:
        self.at[msgspec.json.decode(message.data, type=MessageReceived).external_id] = time.time()

    async def all_of(self, ids: Times) -> Times:
        async with asyncio.timeout(60):
            while not ids.keys() <= self.at.keys():  # noqa: ASYNC110 - a subscription fills it
                await asyncio.sleep(0.05)
        return self.at


def steadily(count: int) -> Iterator[float]:
    """When the next one is due, at the rate of the bench whatever the others do."""
    began = time.perf_counter()
    for number in range(count):
        yield max(0.0, began + number / RATE - time.perf_counter())


async def arrive(server: Dovecot, number: int, told: Told, heard: list[tuple[float, int]]) -> dict[str, list[float]]:
    """Mails, one after another: milliseconds until the bare client knew, and until the event was told."""
    mails = generate(1_000 + number, MAILS, recipient=address(0), order_ids=(), sorts=["buyer"])
    before = server.kept()
    delivered: Times = {}
    for pause, mail in zip(steadily(MAILS), mails, strict=True):
        await asyncio.sleep(pause)
        delivered[str(mail.expected.message_id)] = time.time()
        server.deliver(mail.raw)
    at = await told.all_of(delivered)
    async with asyncio.timeout(60):
        while not heard or heard[-1][1] < before + MAILS:  # noqa: ASYNC110 - a connection fills it
            await asyncio.sleep(0.05)
    notices = iter(heard)
    noticed, there = 0.0, 0
    waits = []
    for place, since in enumerate(delivered.values(), before + 1):
        while there < place:
            noticed, there = next(notices)
        waits.append((noticed - since) * 1000)
    return {
        "message.received": [(at[message_id] - since) * 1000 for message_id, since in delivered.items()],
        "IDLE notice": waits,
    }


async def publish(pool: Pool, outbox: Outbox, told: Told) -> list[float]:
    """The same events, each in a transaction of its own that does nothing else: milliseconds until it was told."""
    committed: Times = {}
    for pause in steadily(MAILS):
        await asyncio.sleep(pause)
        event = MessageReceived(
            tenant_id="t-0",
            marketplace="AMAZON",
            message_id=uuid4(),
            external_id=f"bench-{uuid4()}",
            ticket_id=uuid4(),
            source=MessageSource.EMAIL,
            received_at=datetime.now(UTC),
        )
        committed[event.external_id] = time.time()
        async with pool.acquire() as conn, conn.transaction():
            await outbox.add(conn, event)
    at = await told.all_of(committed)
    return [(at[external_id] - since) * 1000 for external_id, since in committed.items()]


async def latencies(stack: Stack, connection: Client) -> dict[str, tuple[float, float]]:
    """p50 and p99 in milliseconds, medians of rounds."""
    endpoints = stack.endpoints
    authority = trustme.CA()
    context = ssl.create_default_context()
    authority.configure_trust(context)
    cacert = stack.folder / "bench-ca.pem"
    authority.cert_pem.write_to_path(cacert)
    told = Told()
    await connection.subscribe("message.received", cb=told.hear)
    found: dict[str, list[list[float]]] = {"message.received": [], "IDLE notice": [], "outbox to NATS": []}
    dsn = endpoints.postgres.dsns["orders"]
    outbox, pool = Outbox("orders", dsn), await open_pool(dsn, "bench")
    async with dovecot.serving(authority) as server:
        mailbox = msgspec.structs.replace(
            endpoints.mailbox, name=MAILBOX, port=server.port, user=dovecot.USER, password=dovecot.PASSWORD
        )
        await mailbox_account(msgspec.structs.replace(endpoints, mailbox=mailbox), stack._client)  # noqa: SLF001
        await stack.start("poller", {"MAILBOXES": MAILBOX, "MAILBOX_CACERT": str(cacert)})
        relay = asyncio.create_task(outbox.run(connection))
        async with idling(server, context) as heard:
            for number in range(ROUNDS + 1):  # the first is not counted
                heard.clear()
                took = await arrive(server, number, told, heard)
                took["outbox to NATS"] = await publish(pool, outbox, told)
                if number:
                    for name, each in took.items():
                        found[name].append(sorted(each))
                print(f"latency, round {number} of {ROUNDS} done")
        relay.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await relay
        await stack.stop("poller")
    await pool.close()
    return {
        name: (
            statistics.median(each[len(each) // 2] for each in rounds),
            statistics.median(each[len(each) * 99 // 100] for each in rounds),
        )
        for name, rounds in found.items()
    }


async def main() -> int:
    if reason := dovecot.why_not():
        print(reason)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        async with Stack(Path(folder) / "state", services=()) as stack:
            dsn = stack.endpoints.postgres.dsns["poller"]
            pool = await open_pool(dsn, "bench")
            speed = await speeds(pool, Outbox("poller", dsn))
            await pool.execute("UPDATE outbox SET published_at = now()")
            await pool.close()
            connection = await nats.connect(stack.endpoints.nats.users["operator"].url)
            latency = await latencies(stack, connection)
            await connection.close()
    ratios = {name: round(speed["take_batch"] / figure, 2) for name, figure in speed.items()}
    limit = [latency["IDLE notice"][place] + latency["outbox to NATS"][place] for place in (0, 1)]
    table = Table("", "mails/s", "ratio", title=f"usual mails of {TENANTS} tenants, medians of {ROUNDS} rounds")
    for name, figure in speed.items():
        table.add_row(name, f"{figure:.0f}", f"{ratios[name]:.2f}")
    Console().print(table)
    table = Table("", "p50", "p99", title=f"from mailbox to NATS at {RATE} mails/s, medians of {ROUNDS} rounds")
    for name, each in latency.items():
        table.add_row(name, *(f"{figure:.1f} ms" for figure in each))
    to_limit = [round(ours / least, 2) for ours, least in zip(latency["message.received"], limit, strict=True)]
    table.add_row("ratio to notice and outbox", *(f"{ratio:.2f}" for ratio in to_limit))
    Console().print(table)
    result = {
        "rounds": ROUNDS,
        "throughput": {
            "mailsPerRound": TENANTS * OF_A_TENANT,
            "tenants": TENANTS,
            "mailsPerSecond": {name: round(figure) for name, figure in speed.items()},
            "ratiosOfTakeBatch": {name: ratio for name, ratio in ratios.items() if name != "take_batch"},
        },
        "latency": {
            "mailServer": "Dovecot",
            "mailsPerSecond": RATE,
            "mailsPerRound": MAILS,
            "milliseconds": {
                name: {"p50": round(half, 1), "p99": round(most, 1)} for name, (half, most) in latency.items()
            },
            "ratiosToNoticeAndOutbox": {"p50": to_limit[0], "p99": to_limit[1]},
        },
    }
    RESULT.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
