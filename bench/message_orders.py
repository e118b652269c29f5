"""A message's order, from message.received published to the order's row committed: two replicas of orders as they run,
which fetch each order from Amazon's sandbox through the shared gate. Beside them, in the same rounds, two processes of
a bare consumer that makes the same call, writes one row and acknowledges, and then the same without the call. What the
machine carries is said by rates below the goal's, and what limits it by the CPU time of each process and by the time of
one message alone. Times of commit are PostgreSQL's own.
"""

import asyncio
import os
import re
import statistics
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import asyncpg
import httpx
import msgspec
import nats
import nats.errors
import psutil
import uvloop
from msgspec import Struct
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import api
from rich.console import Console
from rich.table import Table

from devstack.services import environment
from devstack.stack import Stack
from devstack.supervisor import spawn
from orders import handlers
from orders.settings import OrdersSettings
from shared.amazon.credentials import TenantCredentials, store_tenant
from shared.amazon.gate import Gate
from shared.amazon.orders import GET_ORDER, INCLUDED_DATA
from shared.amazon.spapi import SpApi
from shared.bus import WORKERS
from shared.db import open_pool
from shared.events import AMAZON, MessageReceived, MessageSource
from shared.outbox import Outbox
from shared.settings import AmazonSettings, load
from shared.telemetry import configure_logging
from shared.topology import consumer_of
from shared.vault import Found, Vault

RATES = (100, 200, 500)
GOAL_RATE = RATES[-1]
GOAL = 10.0
"""Milliseconds that the p99 takes at most at that rate; the bare consumer's stands beside it."""
SECONDS = 2
ROUNDS = 5
SELLERS = 100
"""So many that no seller's burst is used up in a run, and so few that credentials and access tokens are known to each
replica: what a seller's first message of a minute costs beyond that is a read of Vault.
"""
MOST = GOAL_RATE * SECONDS
WARM = 800
"""Messages: each replica asks for each seller's access token meanwhile."""
ALONE = 200
REPLICAS = 2
OURS, BARE, WITHOUT_CALL = WAYS = ("orders", "bare", "bare without the call")
SUBJECTS = {OURS: MessageReceived.SUBJECT, BARE: "bench.call", WITHOUT_CALL: "bench.row"}
ROWS = {OURS: "orders.orders WHERE detail = 'FULL'", BARE: "orders.bare", WITHOUT_CALL: "orders.bare"}
CONSUMER = consumer_of("orders", "fetch_missing_order")
RESULT = Path(__file__).parent / "results" / "message_orders.json"

STORED = "SELECT count(*) FROM {rows}"
COMMITTED = """
SELECT tenant_id || ' ' || external_order_id AS name,
       extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 AS at FROM {rows}
"""

Json = dict[str, Any]


class Seller(Struct, frozen=True):
    """A connected account; the access token is for the bare consumer."""

    tenant_id: str
    orders: list[str]
    access_token: str


class Run(Struct, frozen=True):
    """What came of messages that were published at a rate."""

    p50: float
    p99: float
    carried: float
    """A second, until the last one."""
    behind: float
    """Messages whose order was not committed yet when the last one was published."""
    cpu: dict[str, float]
    """Milliseconds a message, by process; replicas together."""


Runs = dict[tuple[str, int], Run]
"""By way and rate."""


async def bare(nats_url: str, dsn: str, amazon_url: str) -> None:
    """In processes of its own, as orders is."""
    access_tokens: dict[str, str] = msgspec.json.decode(sys.stdin.buffer.read())
    decoder = msgspec.json.Decoder(MessageReceived)
    connection = await nats.connect(nats_url)
    pool = await open_pool(dsn, "bare", size=WORKERS)
    subscription = await connection.jetstream().pull_subscribe_bind("bare", "BENCH")
    free = asyncio.Semaphore(WORKERS)
    async with (
        httpx.AsyncClient(timeout=30, trust_env=False, base_url=amazon_url) as http,
        asyncio.TaskGroup() as tasks,
    ):

        async def handle(message: Msg) -> None:
            event = decoder.decode(message.data)
            if message.subject == SUBJECTS[BARE]:
                answer = await http.get(
                    f"/orders/2026-01-01/orders/{event.external_order_id}",
                    params={"includedData": INCLUDED_DATA},
                    headers={"x-amz-access-token": access_tokens[event.tenant_id]},
                )
                answer.raise_for_status()
            await pool.execute("INSERT INTO bare VALUES ($1, $2)", event.tenant_id, event.external_order_id)
            await message.ack()
            free.release()

        print("ready", flush=True)
        while True:
            await free.acquire()
            try:
                [message] = await subscription.fetch(1, timeout=5)
            except (nats.errors.TimeoutError, TimeoutError):
                free.release()
                continue
            tasks.create_task(handle(message))


class Bench:
    """A running stack with connected sellers, and the processes that are measured."""

    def __init__(self, stack: Stack, http: httpx.AsyncClient, admin: asyncpg.Connection, operator: Client) -> None:
        self.stack, self.http, self.admin, self.operator = stack, http, admin, operator
        self.url = stack.endpoints.amazon.url
        self.sellers: list[Seller] = []
        self.pids: dict[str, list[int]] = {"orders": [], "bare": []}
        self.pids |= {name: [stack.pid(name)] for name in ("postgres", "nats", "openbao", "sandbox")}
        self.pids["publisher"] = [os.getpid()]

    async def connect_sellers(self) -> None:
        """Consent, credentials in Vault and the row that start_backfill keeps, with neither backfill nor upkeep."""
        settings = load(AmazonSettings, self.environment("oauth"))
        vault = Vault(settings)
        amazon = SpApi(settings, vault, self.http, gate=None)
        for number in range(SELLERS):
            seller_id, tenant_id = f"ABENCH{number:08}", f"bench-{number:03}"
            path = f"{self.url}/sandbox/sellers/{seller_id}"
            (await self.http.put(path, json={"orders": -(-MOST // SELLERS)})).raise_for_status()
            orders = (await self.http.get(f"{path}/orders")).raise_for_status().json()["orders"]
            form = {"application_id": self.stack.endpoints.amazon.application_id, "state": "bench"}
            form |= {"seller_id": seller_id, "decision": "approve"}
            sent_back = (await self.http.post(f"{self.url}/apps/authorize/consent", data=form)).headers["location"]
            tokens = await amazon.exchange(parse_qs(urlsplit(sent_back).query)["spapi_oauth_code"][0])
            marketplace_id = orders[0]["salesChannel"]["marketplaceId"]
            credentials = TenantCredentials(
                refresh_token=tokens.refresh_token or "",
                seller_id=seller_id,
                marketplace_id=marketplace_id,
                region="eu",
                created_at=datetime.now(UTC),
                app_source=settings.amazon_spapi_app_source,
            )
            await store_tenant(vault, tenant_id, credentials)
            await self.admin.execute(
                "INSERT INTO orders.connections"
                " (tenant_id, marketplace, connection_id, seller_id, region, marketplace_ids, connected_at)"
                " VALUES ($1, $2, gen_random_uuid(), $3, 'eu', $4, now())",
                tenant_id,
                AMAZON,
                seller_id,
                [marketplace_id],
            )
            self.sellers.append(Seller(tenant_id, [order["orderId"] for order in orders], tokens.access_token))

    def environment(self, service: str) -> dict[str, str]:
        return environment(service, self.stack.endpoints, self.stack._ports)  # noqa: SLF001 - as tests do

    @asynccontextmanager
    async def replica(self, number: int) -> AsyncIterator[None]:
        log = self.stack.logs / f"orders_{number}.log"
        variables = self.environment("orders") | {"PORT": "0"}
        process = await spawn([sys.executable, "-m", "orders.app"], variables, log=log)
        async with ended(process):
            while b'"started"' not in log.read_bytes():  # noqa: ASYNC110 - a file tells nobody
                await asyncio.sleep(0.1)
            self.pids["orders"].append(process.pid)
            yield

    @asynccontextmanager
    async def bare(self) -> AsyncIterator[None]:
        endpoints = self.stack.endpoints
        arguments = (endpoints.nats.users["operator"].url, endpoints.postgres.dsns["orders"], self.url)
        process = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--bare", *arguments, stdin=PIPE, stdout=PIPE
        )
        async with ended(process):
            assert process.stdin is not None  # noqa: S101 - both were asked for
            assert process.stdout is not None  # noqa: S101
            process.stdin.write(msgspec.json.encode({each.tenant_id: each.access_token for each in self.sellers}))
            process.stdin.close()
            await process.stdout.readline()
            self.pids["bare"].append(process.pid)
            yield

    def messages(self, number: int) -> list[MessageReceived]:
        """Each about another order, the sellers by turns."""
        return [
            MessageReceived(
                tenant_id=seller.tenant_id,
                marketplace=AMAZON,
                message_id=uuid4(),
                external_id=uuid4().hex,
                ticket_id=uuid4(),
                external_order_id=seller.orders[each // SELLERS],
                source=MessageSource.EMAIL,
                received_at=datetime.now(UTC),
            )
            for each in range(number)
            for seller in [self.sellers[each % SELLERS]]
        ]

    async def settle(self) -> None:
        """No order is stored, every usage plan is full, and nothing is left over that would cost the next run."""
        await self.relay_is_done()
        await self.admin.execute("TRUNCATE orders.orders, orders.order_items, orders.bare, amazon.request_buckets")
        refill = {"advanceSeconds": (MOST // SELLERS + 1) / GET_ORDER.rate}
        (await self.http.post(f"{self.url}/sandbox/clock", json=refill)).raise_for_status()
        await self.admin.execute("CHECKPOINT")

    async def relay_is_done(self) -> None:
        while await self.admin.fetchval("SELECT count(*) FROM orders.outbox WHERE published_at IS NULL"):  # noqa: ASYNC110 - the database knows
            await asyncio.sleep(0.1)

    async def run(self, way: str, rate: int, number: int) -> Run:
        await self.settle()
        messages = self.messages(number)
        cpu = self.cpu_seconds()
        published = await self.publish(SUBJECTS[way], messages, rate)
        done = await self.committed(ROWS[way], number)
        spent = {name: (seconds - cpu[name]) * 1000 / number for name, seconds in self.cpu_seconds().items()}
        took = sorted((done[name] - at) * 1000 for name, at in published.items())
        first, *_, last = published.values()
        return Run(
            p50=took[number // 2],
            p99=took[number * 99 // 100],
            carried=number / (max(done.values()) - first),
            behind=sum(at > last for at in done.values()),
            cpu=spent,
        )

    async def handle_known(self) -> float:
        """Events a second that come at once, where the run before has just stored their orders."""
        await self.relay_is_done()
        began = time.perf_counter()
        await self.publish(SUBJECTS[OURS], self.messages(MOST), rate=1_000_000)
        js = self.operator.jetstream()
        while True:
            info = await js.consumer_info(CONSUMER.stream, CONSUMER.durable)
            if not info.num_pending and not info.num_ack_pending:
                return MOST / (time.perf_counter() - began)
            await asyncio.sleep(0.02)

    async def publish(self, subject: str, messages: Sequence[MessageReceived], rate: int) -> dict[str, float]:
        """When each was published, at the rate whatever the consumer does."""
        began = time.perf_counter()
        at = {}
        for number, message in enumerate(messages):
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            at[f"{message.tenant_id} {message.external_order_id}"] = time.time()
            event_id = str(uuid4())
            headers = {"Nats-Msg-Id": event_id, "ce-id": event_id}
            await self.operator.publish(subject, msgspec.json.encode(message), headers=headers)
        await self.operator.flush()
        return at

    async def committed(self, rows: str, number: int) -> dict[str, float]:
        """When each row was committed, once all of them are."""
        async with asyncio.timeout(120):
            while await self.admin.fetchval(STORED.format(rows=rows)) < number:  # noqa: ASYNC110 - the database knows
                await asyncio.sleep(0.2)
        return {row["name"]: row["at"] for row in await self.admin.fetch(COMMITTED.format(rows=rows))}

    def cpu_seconds(self) -> dict[str, float]:
        """Of each process and its children, so far."""
        return {name: sum(map(cpu_seconds, pids)) for name, pids in self.pids.items()}


@asynccontextmanager
async def ended(process: Process) -> AsyncIterator[None]:
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


def cpu_seconds(pid: int) -> float:
    """PostgreSQL's children are its sessions; the publisher's are the others."""
    process = psutil.Process(pid)
    times = [each.cpu_times() for each in (process, *(process.children() if pid != os.getpid() else ()))]
    return float(sum(each.user + each.system for each in times))


class TimedVault(Vault):
    note: Callable[[str, float], None]

    async def look(self, path: str) -> Found:
        began = time.perf_counter()
        found = await super().look(path)
        self.note("Vault read", time.perf_counter() - began)
        return found


class TimedClient(httpx.AsyncClient):
    note: Callable[[str, float], None]

    async def request(self, *arguments: Any, **more: Any) -> httpx.Response:
        began = time.perf_counter()
        answer = await super().request(*arguments, **more)
        self.note("call to Amazon", time.perf_counter() - began)
        return answer


async def alone(bench: Bench) -> dict[str, float]:
    """What the handler's parts take where it has one message at a time: milliseconds, medians."""
    settings = load(OrdersSettings, bench.environment("orders"))
    parts: Counter[str] = Counter()

    def note(part: str, seconds: float) -> None:
        parts[part] += seconds * 1000  # type: ignore[assignment] # counts need not be whole

    def note_statement(logged: asyncpg.connection.LoggedQuery) -> None:
        table = re.search(r"(?:FROM|INTO|UPDATE) ([a-z_.]+)", logged.query)
        verb = logged.query.split(maxsplit=1)[0].rstrip(";")
        note(f"{verb} {table[1]}" if table else verb, logged.elapsed)

    vault = TimedVault(settings)
    vault.note = note
    pool = await open_pool(settings.database_url.reveal(), "bench", size=1)
    async with pool.acquire() as conn:
        conn.add_query_logger(note_statement)
    await bench.settle()
    each: list[dict[str, float]] = []
    async with TimedClient(timeout=30, trust_env=False) as http:
        http.note = note
        amazon = SpApi(settings, vault, http, Gate(pool, settings.amazon_spapi_app_source))
        for message in bench.messages(SELLERS + ALONE):
            parts.clear()
            began = time.perf_counter()
            await handlers.fetch_missing_order(message, str(uuid4()), pool=pool, outbox=Outbox("bench", ""), api=amazon)
            total = (time.perf_counter() - began) * 1000
            each.append(dict(parts) | {"COPY, mapping, the rest": total - parts.total(), "together": total})
    async with pool.acquire() as conn:
        conn.remove_query_logger(note_statement)
    await pool.close()
    measured = each[SELLERS:]  # with the first ones, access tokens were asked for
    return {part: statistics.median(one.get(part, 0.0) for one in measured) for part in measured[0]}


async def measure(bench: Bench) -> tuple[Runs, float]:
    """What came of each way and rate, and the events a second whose orders are known and fresh."""
    for way in WAYS:
        await bench.run(way, RATES[0], WARM)
    runs: dict[tuple[str, int], list[Run]] = {}
    known = []
    for number in range(ROUNDS):
        for rate in RATES:
            ways = [way for way in WAYS if way != WITHOUT_CALL or rate == GOAL_RATE]
            for way in ways if number % 2 else reversed(ways):
                runs.setdefault((way, rate), []).append(await bench.run(way, rate, rate * SECONDS))
                if (way, rate) == (OURS, GOAL_RATE):
                    known.append(await bench.handle_known())
        print(f"round {number + 1} of {ROUNDS} done", flush=True)
    return {key: median(each) for key, each in runs.items()}, statistics.median(known)


def median(runs: Sequence[Run]) -> Run:
    """Of each figure."""
    return Run(
        p50=statistics.median(run.p50 for run in runs),
        p99=statistics.median(run.p99 for run in runs),
        carried=statistics.median(run.carried for run in runs),
        behind=statistics.median(run.behind for run in runs),
        cpu={name: statistics.median(run.cpu[name] for run in runs) for name in runs[0].cpu},
    )


def missed(runs: Runs) -> Iterator[str]:
    """Goals, in words."""
    ours, limit = runs[OURS, GOAL_RATE], runs[BARE, GOAL_RATE]
    if ours.p99 > GOAL:
        yield (
            f"p99 of {ours.p99:,.0f} ms at {GOAL_RATE}/s, beside {limit.p99:,.0f} ms of the bare consumer: of {MOST:,}"
            f" messages {ours.behind:,.0f} were waiting when the last one was published (bare {limit.behind:,.0f}), as"
            f" the machine with all of it carries {ours.carried:.0f} orders/s (bare {limit.carried:.0f})"
        )


def show(runs: Runs, known: float, parts: dict[str, float]) -> None:
    cores = os.cpu_count() or 1
    title = f"{REPLICAS} replicas, medians of {ROUNDS} rounds of {SECONDS} s"
    table = Table("", "p50", "p99", "carried", "behind", "CPU a message", title=title)
    for (way, rate), run in sorted(runs.items(), key=lambda each: (each[0][1], WAYS.index(each[0][0]))):
        figures = (f"{run.p50:,.1f} ms", f"{run.p99:,.1f} ms", f"{run.carried:.0f}/s", f"{run.behind:.0f}")
        table.add_row(f"{rate}/s, {way}", *figures, f"{sum(run.cpu.values()):.2f} ms")
    Console().print(table)
    title = f"CPU a message at {GOAL_RATE}/s, where {cores} cores have {cores * 1000 / GOAL_RATE:.1f} ms"
    table = Table("", *WAYS, title=title)
    for name in runs[OURS, GOAL_RATE].cpu:
        table.add_row(name, *(f"{runs[way, GOAL_RATE].cpu[name]:.2f} ms" for way in WAYS))
    Console().print(table)
    table = Table("", "", title=f"the handler alone, medians of {ALONE} messages")
    for part, milliseconds in parts.items():
        table.add_row(part, f"{milliseconds:.2f} ms")
    Console().print(table)
    print(f"events whose orders are known and fresh: {known:,.0f}/s")


def rounded(run: Run) -> Json:
    return {
        "p50Milliseconds": round(run.p50, 2),
        "p99Milliseconds": round(run.p99, 2),
        "carriedPerSecond": round(run.carried, 1),
        "behind": round(run.behind),
        "cpuMilliseconds": {name: round(each, 2) for name, each in run.cpu.items()},
    }


async def main() -> int:
    load_average = os.getloadavg()[0]
    async with AsyncExitStack() as running:
        folder = running.enter_context(tempfile.TemporaryDirectory())
        stack = await running.enter_async_context(Stack(Path(folder) / "state", services=()))
        superuser = stack.endpoints.postgres.dsns["admin"]
        admin = await asyncpg.connect(superuser)
        await admin.execute("ALTER SYSTEM SET track_commit_timestamp = on")
        await admin.close()
        await stack.stop("postgres")
        await stack.start("postgres")
        admin = await asyncpg.connect(superuser.rsplit("/", 1)[0] + "/keybuzz_backend")
        running.push_async_callback(admin.close)
        operator = await nats.connect(stack.endpoints.nats.users["operator"].url)
        running.push_async_callback(operator.close)
        http = await running.enter_async_context(httpx.AsyncClient(timeout=30, trust_env=False))
        js = operator.jetstream()
        await js.add_stream(api.StreamConfig(name="BENCH", subjects=["bench.>"]))
        await js.add_consumer("BENCH", api.ConsumerConfig(durable_name="bare", ack_policy=api.AckPolicy.EXPLICIT))
        await admin.execute("CREATE TABLE orders.bare (tenant_id text, external_order_id text PRIMARY KEY)")
        await admin.execute("GRANT SELECT, INSERT ON orders.bare TO orders")
        bench = Bench(stack, http, admin, operator)
        await bench.connect_sellers()
        for number in range(REPLICAS):
            await running.enter_async_context(bench.replica(number + 1))
            await running.enter_async_context(bench.bare())
        runs, known = await measure(bench)
        parts = await alone(bench)
        calls = (await http.get(f"{bench.url}/sandbox/calls")).json()[GET_ORDER.name]
    show(runs, known, parts)
    refused = sum(number for counts in calls.values() for status, number in counts.items() if status != "200")
    goals_missed = list(missed(runs))
    for goal in goals_missed:
        print(f"goal missed: {goal}")
    result = {
        "replicas": REPLICAS,
        "rounds": ROUNDS,
        "seconds": SECONDS,
        "goalMilliseconds": GOAL,
        "goalsMissed": goals_missed,
        "callsRefused": refused,
        "loadAverage": round(load_average, 1),
        "perSecond": {
            str(rate): {way: rounded(runs[way, rate]) for way in WAYS if (way, rate) in runs} for rate in RATES
        },
        "knownAndFreshPerSecond": round(known),
        "aloneMilliseconds": {part: round(each, 2) for part, each in parts.items()},
    }
    RESULT.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    return int(refused > 0)


if __name__ == "__main__":
    configure_logging("bench", "WARNING")
    if sys.argv[1:2] == ["--bare"]:
        uvloop.run(bare(*sys.argv[2:]))
    else:
        sys.exit(uvloop.run(main()))
