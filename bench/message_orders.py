"""A message's order, from message.received published to the order's row committed: two replicas of orders as they run,
each order being fetched from Amazon's sandbox through the shared gate. Beside them, in the same rounds, two processes of
a bare consumer that makes the same call, writes one row and acknowledges, and then the same without the call. What the
machine carries is said by rates below the goal's, what limits it by the CPU time of each process per message and by the
time of one message alone. Times of commit are PostgreSQL's own.
"""

import asyncio
import os
import re
import statistics
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator, Sequence
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

RATES = (50, 100, 200, 500)
GOAL_RATE = 500
GOAL = 10.0
"""Milliseconds, at most, of the p99 at that rate; beside it is the bare consumer's."""
SECONDS = 2
ROUNDS = 5
SELLERS = 100
"""So many that no seller's burst is used up in a run."""
MOST = GOAL_RATE * SECONDS
ALONE = 200
REPLICAS = 2
WAYS = {"orders": "message.received", "bare": "bench.call", "bare without the call": "bench.row"}
RESULT = Path(__file__).parent / "results" / "message_orders.json"

STORED = "SELECT count(*) FROM {table}"
COMMITTED = """
SELECT tenant_id || ' ' || external_order_id AS name,
       extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 AS at FROM {table}
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
    behind: int
    """Messages whose order was not committed yet when the last one was published."""
    cpu: dict[str, float]
    """Milliseconds a message."""


async def bare(nats_url: str, dsn: str, amazon_url: str) -> None:
    """In processes of its own, as orders is."""
    access_tokens: dict[str, str] = msgspec.json.decode(sys.stdin.buffer.read())
    decoder = msgspec.json.Decoder(MessageReceived)
    connection = await nats.connect(nats_url)
    pool = await open_pool(dsn, "bare", size=WORKERS)
    subscription = await connection.jetstream().pull_subscribe_bind("bare", "BENCH")
    free = asyncio.Semaphore(WORKERS)
    async with httpx.AsyncClient(timeout=30, trust_env=False, base_url=amazon_url) as http, asyncio.TaskGroup() as tasks:

        async def handle(message: Msg) -> None:
            event = decoder.decode(message.data)
            if message.subject == WAYS["bare"]:
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
        self.pids = {name: stack.pid(name) for name in ("postgres", "nats", "openbao", "sandbox")}
        self.pids["bench"] = os.getpid()

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
            self.pids[f"orders {number}"] = process.pid
            yield

    @asynccontextmanager
    async def bare(self, number: int) -> AsyncIterator[None]:
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
            self.pids[f"bare {number}"] = process.pid
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
        while await self.admin.fetchval("SELECT count(*) FROM orders.outbox WHERE published_at IS NULL"):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        await self.admin.execute("TRUNCATE orders.orders, orders.order_items, orders.bare, amazon.request_buckets")
        refill = {"advanceSeconds": (MOST // SELLERS + 1) / GET_ORDER.rate}
        (await self.http.post(f"{self.url}/sandbox/clock", json=refill)).raise_for_status()
        await self.admin.execute("CHECKPOINT")

    async def run(self, way: str, rate: int, number: int) -> Run:
        await self.settle()
        table = "orders.orders" if way == "orders" else "orders.bare"
        messages = self.messages(number)
        cpu = self.cpu_seconds()
        published = await self.publish(WAYS[way], messages, rate)
        done = await self.committed(table, number)
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

    async def committed(self, table: str, number: int) -> dict[str, float]:
        """When each row was committed, once all of them are."""
        async with asyncio.timeout(120):
            while await self.admin.fetchval(STORED.format(table=table)) < number:  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        return {row["name"]: row["at"] for row in await self.admin.fetch(COMMITTED.format(table=table))}

    def cpu_seconds(self) -> dict[str, float]:
        """Of each process and its children, so far."""
        return {name: sum(map(cpu_seconds, family(pid))) for name, pid in self.pids.items()}


@asynccontextmanager
async def ended(process: Process) -> AsyncIterator[None]:
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


def family(pid: int) -> Iterator[psutil.Process]:
    process = psutil.Process(pid)
    yield process
    if pid != os.getpid():
        yield from process.children()


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def try_it() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with Stack(Path(folder) / "state", services=()) as stack, httpx.AsyncClient(timeout=30, trust_env=False) as http:
            admin = await asyncpg.connect(stack.endpoints.postgres.dsns["admin"])
            await admin.execute("ALTER SYSTEM SET track_commit_timestamp = on")
            await admin.close()
            await stack.stop("postgres")
            await stack.start("postgres")
            admin = await asyncpg.connect(stack.endpoints.postgres.dsns["admin"].rsplit("/", 1)[0] + "/keybuzz_backend")
            operator = await nats.connect(stack.endpoints.nats.users["operator"].url)
            js = operator.jetstream()
            await js.add_stream(api.StreamConfig(name="BENCH", subjects=["bench.>"]))
            await js.add_consumer("BENCH", api.ConsumerConfig(durable_name="bare", ack_policy=api.AckPolicy.EXPLICIT))
            await admin.execute("CREATE TABLE orders.bare (tenant_id text, external_order_id text, PRIMARY KEY (tenant_id, external_order_id))")
            await admin.execute("GRANT SELECT, INSERT ON orders.bare TO orders")
            bench = Bench(stack, http, admin, operator)
            began = time.perf_counter()
            await bench.connect_sellers()
            print("connected", time.perf_counter() - began)
            async with AsyncExitStack() as processes:
                for number in range(REPLICAS):
                    await processes.enter_async_context(bench.replica(number + 1))
                    await processes.enter_async_context(bench.bare(number + 1))
                for way in WAYS:
                    print("warm", way, await bench.run(way, 100, 800))
                for _ in range(2):
                    for rate in RATES:
                        for way in WAYS:
                            r = await bench.run(way, rate, rate * SECONDS)
                            print(rate, way, f"p50 {r.p50:.1f} p99 {r.p99:.1f} carried {r.carried:.0f} behind {r.behind}", {k: round(v, 2) for k, v in r.cpu.items()}, os.getloadavg()[0], flush=True)
            print((await http.get(f"{bench.url}/sandbox/calls")).json()["getOrder"]["ABENCH00000000"])
            for n in (1,2):
                print(n, (stack.logs / f"orders_{n}.log").read_bytes().count(b"\n"), (stack.logs / f"orders_{n}.log").read_text()[-1500:])
            await operator.close(); await admin.close()

if __name__ == "__main__":
    if sys.argv[1:2] == ["--bare"]:
        uvloop.run(bare(*sys.argv[2:]))
    else:
        asyncio.run(try_it())
