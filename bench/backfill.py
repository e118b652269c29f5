"""Backfills of sellers with 94 to 100,000 orders in 90 days, under Amazon's published usage plans: the services as they
run, from the request to the last order, on a clock of usual speed, as our own work must not seem faster than it is.
Beside it python-amazon-sp-api's getOrders and getOrderItems for the same sellers, on a fast clock as it does nothing
but wait; where that takes too long, what it needs is computed from the plans.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from operator import mul
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import httpx
import msgspec
import psutil
from rich.console import Console
from rich.table import Table
from sp_api.api.orders.orders_v0 import OrdersV0
from sp_api.base import Marketplaces
from sp_api.base._transport_httpx import HttpxTransport
from sp_api.util import load_all_pages, throttle_retry

from devstack import secrets
from devstack.outside import Outside
from devstack.sandbox.client import approve
from devstack.sandbox.quota import GET_ORDER_ITEMS, GET_ORDERS_V0
from devstack.sandbox.reportbook import Habits
from devstack.stack import Stack

TENANTS = {94: "ecomlg-001", 2_000: "kbz-001", 20_000: "kbz-002", 100_000: "kbz-003"}
DAYS = 90
PAGE = 100
PAGED = 2_000
"""So many orders and fewer come by pages, without a wait."""
GOAL = 1.1
"""Times the longest report's generation, until every order and item is stored."""
CPU_GOAL = 0.1
"""Milliseconds an order."""
PEER_SPEED = 25
"""Of the clock, for the library."""
PEER_MOST = 2_000
"""Its time for more orders is computed."""
PEER = "python-amazon-sp-api"
CONNECTING = ("token", "getMarketplaceParticipations")
RESULT = Path(__file__).parent / "results" / "backfill.json"
"""Of sizes that are left out, what was measured before stays."""

JOB = "SELECT * FROM orders.backfill_jobs WHERE tenant_id = $1"
WINDOWS = """
SELECT w.items, w.asked_at, w.ready_at, w.done_at
  FROM orders.backfill_windows w JOIN orders.backfill_jobs j ON j.id = w.job_id
 WHERE j.tenant_id = $1 AND w.kind = 'REPORT'
"""
STORED = """
SELECT o.external_order_id AS id, count(i.order_id) AS items, sum(i.quantity) AS quantity,
       sum(i.unit_price * i.quantity) AS amount
  FROM orders.orders o LEFT JOIN orders.order_items i ON i.order_id = o.id
 WHERE o.tenant_id = $1 GROUP BY o.id
"""

Json = dict[str, Any]
Content = tuple[int, int, Decimal]
"""Of an order: its items, their pieces, what they cost: nothing where it is cancelled."""


def seller_of(orders: int) -> str:
    return f"ABENCH{orders:08}"


class Bench:
    """A running stack."""

    def __init__(self, stack: Stack, outside: Outside, admin: asyncpg.Connection) -> None:
        self.stack, self.outside, self.admin = stack, outside, admin
        self.url = stack.endpoints.amazon.url

    async def backfill(self, orders: int) -> Json:
        """Connecting the account asks for it; its times are the database's own."""
        tenant, seller = TENANTS[orders], seller_of(orders)
        answer = await self.outside.http.put(
            f"{self.url}/sandbox/sellers/{seller}", json={"orders": orders, "days": DAYS}
        )
        answer.raise_for_status()
        load, cpu = os.getloadavg()[0], self.cpu_seconds()
        (await self.outside.connect(tenant, seller)).raise_for_status()
        while (job := await self.admin.fetchrow(JOB, tenant)) is None or job["finished_at"] is None:  # noqa: ASYNC110 - the database knows
            await asyncio.sleep(0.05)
        cpu = self.cpu_seconds() - cpu
        seconds = (job["finished_at"] - job["created_at"]).total_seconds()
        windows = await self.admin.fetch(WINDOWS, tenant)
        habits = Habits()
        generation = max((habits.seconds + habits.seconds_per_row * window["items"] for window in windows), default=0)
        truth = await self.truth(seller, job["window_from"], job["window_to"])
        stored = {
            row["id"]: (row["items"], row["quantity"], row["amount"] or Decimal())
            for row in await self.admin.fetch(STORED, tenant, timeout=120)
        }
        return {
            "state": job["state"],
            "calls": await self.calls(seller),
            "quotaWaitedSeconds": round(job["quota_waited_seconds"], 1),
            "seconds": round(seconds, 1),
            "reportSeconds": round(generation, 1) or None,
            "ratio": round(seconds / generation, 3) if generation else None,
            "secondsUntil": {
                "reportsFound": [since(job, window["ready_at"]) for window in windows],
                "reportsStored": [since(job, window["done_at"]) for window in windows],
            },
            "clientCpuMillisecondsPerOrder": round(cpu / len(truth) * 1000, 3),
            "orders": len(stored),
            "items": sum(items for items, _, _ in stored.values()),
            "differences": sum(
                stored.get(order_id) != truth.get(order_id) for order_id in stored.keys() | truth.keys()
            ),
            "loadAverage": round(load, 1),
        }

    async def truth(self, seller: str, start: datetime, end: datetime) -> dict[str, Content]:
        """What the sandbox has of a time."""
        found: dict[str, Content] = {}
        offset, total = 0, 1
        while offset < total:
            address = f"{self.url}/sandbox/sellers/{seller}/orders?limit=1000&offset={offset}"
            page = (await self.outside.http.get(address, timeout=120)).raise_for_status().json()
            total = page["total"]
            offset += len(page["orders"])
            for order in page["orders"]:
                if start <= datetime.fromisoformat(order["createdTime"]) < end:
                    found[order["orderId"]] = content(order)
        return found

    async def calls(self, seller: str) -> dict[str, dict[str, int]]:
        """By operation and what was answered, of a seller."""
        counted = (await self.outside.http.get(f"{self.url}/sandbox/calls")).json()
        return {operation: each[seller] for operation, each in counted.items() if seller in each}

    def cpu_seconds(self) -> float:
        """Of the orders service, so far."""
        times = psutil.Process(self.stack.pid("orders")).cpu_times()
        return float(times.user + times.system)

    async def idle_cores(self) -> float:
        """What the orders service takes with nothing to do."""
        before = self.cpu_seconds()
        await asyncio.sleep(5)
        return (self.cpu_seconds() - before) / 5

    async def credentials(self, orders: int) -> dict[str, str]:
        """For the library: a consent of the seller to the same application."""
        consent = await self.outside.begin_consent(TENANTS[orders])
        callback = urlsplit(await approve(self.outside.http, consent, seller_of(orders)))
        application = secrets.load(self.stack.folder).amazon
        form = {
            "grant_type": "authorization_code",
            "code": parse_qs(callback.query)["spapi_oauth_code"][0],
            "redirect_uri": callback._replace(query="").geturl(),
            "client_id": application.client_id,
            "client_secret": application.client_secret,
        }
        answer = await self.outside.http.post(f"{self.url}/auth/o2/token", data=form)
        return {
            "refresh_token": answer.raise_for_status().json()["refresh_token"],
            "lwa_app_id": application.client_id,
            "lwa_client_secret": application.client_secret,
        }

    async def peer(self, orders: int, ours: Json) -> Json:
        """In a process of its own."""
        before = await self.calls(seller_of(orders))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            __file__,
            "--peer",
            self.url,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"NO_PROXY": "127.0.0.1", "SP_API_AUTH_CACHE_TTL": str(3_200 // PEER_SPEED)},
        )
        output, _ = await process.communicate(msgspec.json.encode(await self.credentials(orders)))
        if process.returncode:
            raise SystemExit(f"{PEER} failed for {orders} orders")
        found: Json = msgspec.json.decode(output.splitlines()[-1])
        calls = await self.calls(seller_of(orders))
        return {
            "measured": True,
            "calls": {operation: counts for operation, counts in calls.items() if counts != before.get(operation)},
            "seconds": round(found["seconds"] * PEER_SPEED),
            "clientCpuMillisecondsPerOrder": round(found["cpuSeconds"] / found["orders"] * 1000, 3),
            "orders": found["orders"],
            "items": found["items"],
            "complete": (found["orders"], found["items"]) == (ours["orders"], ours["items"]),
        }


def since(job: asyncpg.Record, moment: datetime) -> float:
    seconds: float = (moment - job["created_at"]).total_seconds()
    return round(seconds, 1)


def content(order: Json) -> Content:
    items = order["orderItems"]
    pieces = [item["quantityOrdered"] for item in items]
    prices = [Decimal(item["product"]["price"]["unitPrice"]["amount"]) for item in items]
    return len(items), sum(pieces), sum(map(mul, prices, pieces), Decimal())


def computed(orders: int) -> Json:
    """The library's calls and the least time that the plans allow for them, with full bursts: pages and items have
    their own, and fill up while one waits for the other.
    """
    calls = {GET_ORDERS_V0: -(-orders // PAGE), GET_ORDER_ITEMS: orders}
    return {
        "measured": False,
        "calls": {plan.operation: {"200": number} for plan, number in calls.items()},
        "seconds": round(max((number - plan.burst) / plan.rate for plan, number in calls.items())),
    }


def call_the_library(sandbox: str, credentials: dict[str, str]) -> Json:
    """As its documentation shows, but for one client for all calls, and no longer a pause after a refusal than the
    plan asks for. It has no setting for where Amazon is.
    """
    request = HttpxTransport.request

    def redirected(transport: HttpxTransport, method: str, url: str, **more: object) -> httpx.Response:
        answer: httpx.Response = request(transport, method, sandbox + urlsplit(url).path, **more)
        return answer

    HttpxTransport.request = redirected
    client = OrdersV0(marketplace=Marketplaces.FR, credentials=credentials)
    orders = throttle_retry(delay=1 / GET_ORDERS_V0.rate / PEER_SPEED, rate=1)(client.get_orders)
    order_items = throttle_retry(delay=1 / GET_ORDER_ITEMS.rate / PEER_SPEED, rate=1)(client.get_order_items)
    pages = load_all_pages(throttle_by_seconds=0)(orders)
    after = (datetime.now(UTC) - timedelta(days=DAYS)).isoformat(timespec="seconds")
    number = items = 0
    began, cpu = time.perf_counter(), time.process_time()
    for page in pages(CreatedAfter=after, MaxResultsPerPage=PAGE):
        for order in page.payload["Orders"]:
            number += 1
            items += len(order_items(order["AmazonOrderId"]).payload["OrderItems"])
    return {
        "seconds": time.perf_counter() - began,
        "cpuSeconds": time.process_time() - cpu,
        "orders": number,
        "items": items,
    }


def missed(ours: dict[int, Json]) -> Iterator[str]:
    """Goals, in words."""
    for orders, each in ours.items():
        if each["state"] != "COMPLETED" or each["differences"]:
            yield f"{orders} orders: {each['state']}, {each['differences']} orders differ from the truth"
        pages = each["calls"]["searchOrders"].get("200", 0)
        if orders <= PAGED and (pages > -(-orders // PAGE) or each["quotaWaitedSeconds"]):
            yield f"{orders} orders: {pages} calls, {each['quotaWaitedSeconds']} s waited for quota"
        if orders > PAGED and (each["ratio"] is None or each["ratio"] > GOAL):
            yield f"{orders} orders: {each['ratio']} times the report's generation"
        if each["clientCpuMillisecondsPerOrder"] > CPU_GOAL:
            yield f"{orders} orders: {each['clientCpuMillisecondsPerOrder']} ms of CPU an order"


def shown(calls: dict[str, dict[str, int]]) -> str:
    """How many there were, but for those that connected the account."""
    counts = [each for operation, each in calls.items() if operation not in CONNECTING]
    refused = sum(each.get("429", 0) for each in counts)
    return f"{sum(sum(each.values()) for each in counts):,}" + (f", {refused:,} refused" if refused else "")


async def main(sizes: Sequence[int]) -> int:
    ours: dict[int, Json] = {}
    peers = {orders: computed(orders) for orders in sizes}
    with tempfile.TemporaryDirectory() as folder:
        async with (
            Stack(Path(folder) / "state", services=("tenant-sync", "oauth", "orders")) as stack,
            Outside(stack.endpoints) as outside,
        ):
            admin = await asyncpg.connect(stack.endpoints.postgres.dsns["admin"].rsplit("/", 1)[0] + "/keybuzz_backend")
            bench = Bench(stack, outside, admin)
            idle = await bench.idle_cores()
            for orders in sizes:
                ours[orders] = await bench.backfill(orders)
                print(f"{orders:,} orders: {ours[orders]}", flush=True)
            (await outside.http.post(f"{bench.url}/sandbox/clock", json={"speed": PEER_SPEED})).raise_for_status()
            measured = [orders for orders in sizes if orders <= PEER_MOST]
            found = await asyncio.gather(*(bench.peer(orders, ours[orders]) for orders in measured))
            peers |= dict(zip(measured, found, strict=True))
            await admin.close()
    table = Table("orders", "", "calls", "time", "of reports", "CPU/order", "complete", title="Backfills of 90 days")
    for orders in sizes:
        own, peer = ours[orders], peers[orders]
        ratio = f"{own['ratio']:.2f} x {own['reportSeconds']:.0f} s" if own["ratio"] else ""
        cpu = f"{own['clientCpuMillisecondsPerOrder']:.3f} ms"
        complete = "no" if own["differences"] else "yes"
        table.add_row(f"{orders:,}", "orders", shown(own["calls"]), f"{own['seconds']:,.1f} s", ratio, cpu, complete)
        cpu, complete = "", "computed"
        if peer["measured"]:
            cpu = f"{peer['clientCpuMillisecondsPerOrder']:.3f} ms"
            complete = "yes" if peer["complete"] else "no"
        table.add_row("", PEER, shown(peer["calls"]), f"{peer['seconds']:,} s", "", cpu, complete)
    Console().print(table)
    kept = msgspec.json.decode(RESULT.read_bytes())["sellers"] if RESULT.exists() else {}
    sellers = kept | {str(orders): {"orders": ours[orders], PEER: peers[orders]} for orders in sizes}
    goals_missed = list(missed({int(orders): each["orders"] for orders, each in sellers.items()}))
    for goal in goals_missed:
        print(f"goal missed: {goal}")
    result = {
        "days": DAYS,
        "goalRatio": GOAL,
        "goalCpuMillisecondsPerOrder": CPU_GOAL,
        "goalsMissed": goals_missed,
        "ordersIdleCores": round(idle, 3),
        "peerClockSpeed": PEER_SPEED,
        "sellers": dict(sorted(sellers.items(), key=lambda each: int(each[0]))),
    }
    RESULT.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    return int(any(each["differences"] or each["state"] != "COMPLETED" for each in ours.values()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", type=int, help=f"of {', '.join(map(str, TENANTS))}; all of them by default")
    parser.add_argument("--peer", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer is not None:
        print(
            msgspec.json.encode(call_the_library(options.peer, msgspec.json.decode(sys.stdin.buffer.read()))).decode()
        )
    else:
        sys.exit(asyncio.run(main(options.sizes or list(TENANTS))))
