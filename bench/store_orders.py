"""Orders with two items each from pages as Amazon answers them, and from a report's document, to rows in PostgreSQL:
mapped and stored, a page a transaction. Beside it the limit: the same rows, made beforehand, by COPY straight into the
same tables.

Then the refills: the same pages again, 1 % of them changed, and all of them changed. CPU is that of this process, which
is the client's.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import asyncpg
import msgspec
from rich.console import Console
from rich.table import Table

from devstack.stack import Stack
from orders import order_queries, report
from orders.mapping import from_amazon
from shared.amazon.orders import SearchOrdersPage
from shared.db import open_pool
from shared.telemetry import configure_logging

ORDERS = 20_000
PAGE = 500
ROUNDS = 7
GOAL = 0.75
TENANT = "bench"
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
CASES = ("pages", "report", "unchanged", "1 % changed", "all changed", "report filled in")
RESULT = Path(__file__).parent / "results" / "store_orders.json"

Json = dict[str, object]


def order_of(number: int, *, changes: int = 0) -> Json:
    created = BEGAN + timedelta(seconds=number)
    items = [
        {
            "orderItemId": f"{number}{place}",
            "quantityOrdered": 1 + place,
            "product": {
                "asin": f"B0{number % 5000:08}",
                "title": "Stainless steel vacuum flask, 1 l, with a cup",
                "sellerSku": f"SKU-{number % 5000}-{place}",
                "price": {"unitPrice": {"amount": f"{number % 97}.90", "currencyCode": "EUR"}},
            },
        }
        for place in range(2)
    ]
    return {
        "orderId": f"407-{number // 10**7:07}-{number:07}",
        "createdTime": created.isoformat(),
        "lastUpdatedTime": (created + timedelta(days=2 + changes)).isoformat(),
        "salesChannel": {"channelName": "AMAZON", "marketplaceId": "A13V1IB3VIYZZH"},
        "orderItems": items,
        "buyer": {"buyerName": f"Buyer {number}", "buyerEmail": f"b{number}@marketplace.amazon.fr"},
        "recipient": {
            "deliveryAddress": {"name": "Ada", "addressLine1": "1 rue X", "city": "Lyon", "countryCode": "FR"}
        },
        "proceeds": {"grandTotal": {"amount": f"{3 * (number % 97)}.70", "currencyCode": "EUR"}},
        "fulfillment": {
            "fulfillmentStatus": "SHIPPED",
            "shipByWindow": {"latestDateTime": (created + timedelta(days=2)).isoformat()},
            "deliverByWindow": {"latestDateTime": (created + timedelta(days=6)).isoformat()},
        },
        "packages": [
            {
                "packageReferenceId": "1",
                "packageStatus": {"status": "IN_TRANSIT"},
                "carrier": "Colissimo",
                "shipTime": (created + timedelta(days=1)).isoformat(),
                "trackingNumber": f"6A{number:011}",
            }
        ],
    }


def pages(changes: Callable[[int], int] = lambda _: 0) -> list[SearchOrdersPage]:
    """As they are parsed from Amazon's answers."""
    bodies = [
        [order_of(number, changes=changes(number)) for number in range(start, start + PAGE)]
        for start in range(0, ORDERS, PAGE)
    ]
    return [msgspec.json.decode(msgspec.json.encode({"orders": body}), type=SearchOrdersPage) for body in bodies]


def document() -> bytes:
    """The same orders as a report."""
    names = report._COLUMNS  # noqa: SLF001 - Amazon's columns
    lines = ["\t".join(names)]
    for page in pages():
        for order in map(from_amazon, page.orders):
            for item in order.items:
                cells = {
                    "amazon-order-id": order.external_order_id,
                    "merchant-order-id": order.external_order_id,
                    "purchase-date": order.order_date.isoformat(),
                    "last-updated-date": order.external_updated_at.isoformat(),
                    "order-status": "Shipped",
                    "sales-channel": "Amazon.fr",
                    "product-name": item.title,
                    "sku": item.sku,
                    "asin": item.asin,
                    "quantity": str(item.quantity),
                    "currency": item.currency,
                    "item-price": str((item.unit_price or 0) * item.quantity),
                    "ship-city": "Lyon",
                }
                lines.append("\t".join(cells.get(name) or "" for name in names))
    return "\r\n".join(lines).encode()


class Bench:
    """The orders service's role on its tables, and the superuser to empty them."""

    def __init__(self, stack: Stack) -> None:
        self.dsns = stack.endpoints.postgres.dsns
        self.made = pages()
        self.some = pages(lambda number: number % 100 == 0)
        self.all = pages(lambda _: 1)
        self.document = document()
        self.rows: list[tuple[list[tuple[object, ...]], list[tuple[object, ...]]]] = []
        for page in self.made:
            stored = [(uuid4(), from_amazon(order)) for order in page.orders]
            self.rows.append(
                (
                    [order_queries._row(TENANT, order_id, order) for order_id, order in stored],  # noqa: SLF001
                    list(order_queries._item_rows(stored)),  # noqa: SLF001
                )
            )

    async def open(self) -> None:
        self.pool = await open_pool(self.dsns["orders"], "bench", size=1)
        self.admin = await asyncpg.connect(self.dsns["admin"].rsplit("/", 1)[0] + "/keybuzz_backend")

    async def close(self) -> None:
        await self.pool.close()
        await self.admin.close()

    async def empty(self) -> None:
        await self.admin.execute("TRUNCATE orders.orders, orders.order_items")

    async def limit(self) -> None:
        for orders, items in self.rows:
            async with self.pool.acquire() as conn, conn.transaction():
                await conn.copy_records_to_table("orders", columns=order_queries.WRITTEN, records=orders)
                await conn.copy_records_to_table("order_items", columns=order_queries.ITEM_WRITTEN, records=items)

    async def store(self, made: list[SearchOrdersPage]) -> None:
        for page in made:
            orders = [from_amazon(order) for order in page.orders]
            async with self.pool.acquire() as conn, conn.transaction():
                await order_queries.upsert_orders(conn, TENANT, orders)

    async def store_report(self) -> None:
        async for orders in report.read_orders(self._chunks()):
            async with self.pool.acquire() as conn, conn.transaction():
                await order_queries.upsert_orders(conn, TENANT, orders)

    async def _chunks(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self.document), 1 << 16):
            yield self.document[start : start + (1 << 16)]

    async def timed(self, way: Callable[[], Awaitable[None]]) -> tuple[float, float]:
        """Seconds, and seconds of this process's CPU. What is left over of one must not cost the next one."""
        await self.admin.execute("VACUUM ANALYZE orders.orders, orders.order_items")
        await self.admin.execute("CHECKPOINT")
        began, cpu = time.perf_counter(), time.process_time()
        await way()
        return time.perf_counter() - began, time.process_time() - cpu

    async def round(self, *, limit_first: bool) -> dict[str, tuple[float, float]]:
        async def limit() -> None:
            await self.empty()
            figures["limit"] = await self.timed(self.limit)

        figures: dict[str, tuple[float, float]] = {}
        if limit_first:
            await limit()
        await self.empty()
        figures["pages"] = await self.timed(lambda: self.store(self.made))
        figures["unchanged"] = await self.timed(lambda: self.store(self.made))
        figures["1 % changed"] = await self.timed(lambda: self.store(self.some))
        figures["all changed"] = await self.timed(lambda: self.store(self.all))
        if not limit_first:
            await limit()
        await self.empty()
        figures["report"] = await self.timed(self.store_report)
        figures["report filled in"] = await self.timed(lambda: self.store(self.made))
        return figures


async def main() -> int:
    rounds: list[dict[str, tuple[float, float]]] = []
    with tempfile.TemporaryDirectory() as folder:
        async with Stack(Path(folder) / "state", services=()) as stack:
            bench = Bench(stack)
            await bench.open()
            for number in range(ROUNDS + 1):
                figures = await bench.round(limit_first=number % 2 == 0)
                if number:  # the first one warms up
                    rounds.append(figures)
                    print(f"round {number} of {ROUNDS} done")
            await bench.close()
    limit = statistics.median(each["limit"][0] for each in rounds)
    table = Table("", "orders/s", "ratio to COPY", "client CPU per order", title=f"{ORDERS:,} orders, {ROUNDS} rounds")
    table.add_row("COPY straight in", f"{ORDERS / limit:,.0f}", "1", "")
    results: dict[str, dict[str, float]] = {}
    for case in CASES:
        ratio = statistics.median(each["limit"][0] / each[case][0] for each in rounds)
        rate = ORDERS / statistics.median(each[case][0] for each in rounds)
        cpu = statistics.median(each[case][1] for each in rounds) / ORDERS * 1000
        table.add_row(case, f"{rate:,.0f}", f"{ratio:.2f}", f"{cpu:.4f} ms")
        results[case] = {
            "ordersPerSecond": round(rate),
            "ratio": round(ratio, 2),
            "clientCpuMillisecondsPerOrder": round(cpu, 4),
        }
    Console().print(table)
    result = {
        "orders": ORDERS,
        "ordersInATransaction": PAGE,
        "rounds": ROUNDS,
        "copyOrdersPerSecond": round(ORDERS / limit),
        "goalRatio": GOAL,
        "cases": results,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    return 0


if __name__ == "__main__":
    configure_logging("bench", "WARNING")
    sys.exit(asyncio.run(main()))
