"""Every list of a seller with very many orders, among many small sellers, is read from an index: by what PostgreSQL did
for it, not by the time it took. ORDERS says how many: 200,000 unless it is set (`make plans`).
"""

import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest
from msgspec import Struct

from devstack.many_orders import BIG, RARE_MARKETPLACE, SMALL, fill
from devstack.stack import Stack
from orders.domain import DeliveryStatus, OrderStatus, Search, SlaStatus, Sort
from orders.search_queries import PLANNED, depends_on_values, select_orders
from shared.db import use_msgspec_for_json

ORDERS = int(os.environ.get("ORDERS", "200000"))
LIMIT = 51
FEW = 5_000
"""Of some facets a page each; what no number of orders makes more."""
LONG_AGO = datetime.now(UTC) - timedelta(days=400)

Place = tuple[datetime, UUID]


CUSTOM, GENERIC = (f"SET LOCAL plan_cache_mode = force_{plan}_plan" for plan in ("custom", "generic"))
"""Which plan PostgreSQL may take for a statement that it has prepared: by the values, or for any."""

SEARCHES = {
    "all": Search(),
    "a common status": Search(order_status=frozenset({OrderStatus.DELIVERED})),
    "a rare status": Search(order_status=frozenset({OrderStatus.RETURNED})),
    "two statuses": Search(order_status=frozenset({OrderStatus.CONFIRMED, OrderStatus.SHIPPED})),
    "a rare delivery": Search(delivery_status=frozenset({DeliveryStatus.LOST})),
    "no delivery": Search(
        delivery_status=frozenset({DeliveryStatus.DELIVERED}), order_status=frozenset({OrderStatus.CANCELLED})
    ),
    "breached": Search(sla_status=frozenset({SlaStatus.BREACHED})),
    "at risk": Search(sla_status=frozenset({SlaStatus.AT_RISK})),
    "ok": Search(sla_status=frozenset({SlaStatus.OK})),
    "breached or at risk": Search(sla_status=frozenset({SlaStatus.BREACHED, SlaStatus.AT_RISK})),
    "breached and lost": Search(
        sla_status=frozenset({SlaStatus.BREACHED}), delivery_status=frozenset({DeliveryStatus.LOST})
    ),
    "breached, not shipped": Search(
        sla_status=frozenset({SlaStatus.BREACHED}), order_status=frozenset({OrderStatus.CONFIRMED})
    ),
    "at risk in a marketplace": Search(
        sla_status=frozenset({SlaStatus.AT_RISK}), marketplace_id=frozenset({"A1PA6795UKMFR9"})
    ),
    "a common marketplace": Search(marketplace_id=frozenset({"A13V1IB3VIYZZH"})),
    "a rare marketplace": Search(marketplace_id=frozenset({RARE_MARKETPLACE})),
    "a marketplace without orders": Search(marketplace_id=frozenset({"A1F83G8C2ARO7P"})),
    "a day": Search(ordered_from=LONG_AGO, ordered_to=LONG_AGO + timedelta(days=1)),
    "returned in a month": Search(
        ordered_from=LONG_AGO, ordered_to=LONG_AGO + timedelta(days=30), order_status=frozenset({OrderStatus.RETURNED})
    ),
    "a year": Search(ordered_from=LONG_AGO, ordered_to=LONG_AGO + timedelta(days=365)),
    "an order's id": Search(external_order_id="404-0000000-0000000"),
    "the beginning of an id": Search(q="404-12345"),
    "the beginning of many ids": Search(q="404-1"),
    "a ref": Search(q="#123456"),
    "a ref, or a number": Search(q="123456"),
    "a word": Search(q="marie"),
    "words": Search(q="marie lam"),
    "a mail address": Search(q="d41d8cd98f"),
    "a word in a rare status": Search(q="marie", order_status=frozenset({OrderStatus.RETURNED})),
}


class Done(Struct):
    """What was done for a statement: the rows that were looked at, and the most that were sorted."""

    looked_at: float = 0
    sorted: float = 0
    milliseconds: float = 0
    scans: set[str] = msgspec.field(default_factory=set)

    def add(self, node: dict[str, Any]) -> "Done":
        inner = node.get("Plans", [])
        loops = node["Actual Loops"]
        if node["Node Type"].endswith("Scan") and "Relation Name" in node:
            self.scans.add(node["Node Type"])
            removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
            self.looked_at += (node["Actual Rows"] + removed) * loops
        if node["Node Type"] == "Sort":
            self.sorted = max(self.sorted, sum(each["Actual Rows"] * each["Actual Loops"] for each in inner))
        for each in inner:
            self.add(each)
        return self


class Many:
    """The orders, and what PostgreSQL does for a list of them."""

    def __init__(self, conn: asyncpg.Connection, open_orders: int) -> None:
        self.conn, self.open_orders = conn, open_orders

    async def done(self, tenant_id: str, search: Search, mode: str, after: Place | None) -> Done:
        statement, arguments = select_orders(tenant_id, search, limit=LIMIT, after=after)
        explain = f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE list ({', '.join(map(literal, arguments))})"
        async with self.conn.transaction():
            await self.conn.execute(mode)
            await self.conn.execute(f"PREPARE list AS {statement}")
            [explained] = msgspec.json.decode(await self.conn.fetchval(explain))
            await self.conn.execute("DEALLOCATE list")
        return Done(milliseconds=explained["Execution Time"]).add(explained["Plan"])

    async def last_place(self, tenant_id: str, search: Search) -> Place | None:
        """Where the last page begins."""
        statement, arguments = select_orders(tenant_id, backwards(search), limit=LIMIT)
        rows = await self.conn.fetch(statement, *arguments)
        return (rows[-1][search.sort.column], rows[-1]["id"]) if rows else None

    async def found(self, tenant_id: str, search: Search) -> int:
        """How many the search finds, without its other filters and by its first word alone."""
        if search.q is None and search.external_order_id is None:
            return 0
        bare = Search(q=search.q and search.q.split()[0], external_order_id=search.external_order_id)
        statement, arguments = select_orders(tenant_id, bare, limit=1_000_000_000)
        found: int = await self.conn.fetchval(f"SELECT count(*) FROM ({statement}) found", *arguments)  # noqa: S608
        return found


def backwards(search: Search) -> Search:
    turned = search.sort.removeprefix("-") if search.sort.is_descending else f"-{search.sort}"
    return msgspec.structs.replace(search, sort=Sort(turned))


def literal(value: object) -> str:
    """An argument as it can stand in a statement."""
    if isinstance(value, list):
        value = "{" + ",".join(f'"{each}"' for each in value) + "}"
    return "'" + str(value).replace("'", "''") + "'"


@pytest.fixture(scope="module")
async def many(stack: Stack) -> AsyncIterator[Many]:
    parts = urlsplit(stack.endpoints.postgres.dsns["admin"])
    source = urlsplit(stack.endpoints.postgres.dsns["orders"]).path.removeprefix("/")
    admin = await asyncpg.connect(urlunsplit(parts))
    clone = f"test_{uuid4().hex}"
    await admin.execute(f'CREATE DATABASE "{clone}" TEMPLATE "{source}"')
    conn = await asyncpg.connect(
        urlunsplit(parts._replace(path=f"/{clone}")), server_settings={"search_path": "orders"}, timeout=60
    )
    await use_msgspec_for_json(conn)
    await fill(conn, ORDERS)
    open_orders = await conn.fetchval(
        "SELECT count(*) FROM orders WHERE tenant_id = $1 AND sla_due < 'infinity' AND sla_due > '-infinity'", BIG
    )
    yield Many(conn, open_orders)
    await conn.close()
    await admin.execute(f'DROP DATABASE "{clone}" WITH (FORCE)')
    await admin.close()


@pytest.mark.parametrize("tenant_id", [BIG, SMALL])
@pytest.mark.parametrize("sort", Sort)
@pytest.mark.parametrize("name", SEARCHES)
async def test_no_list_reads_or_sorts_more_than_its_page_asks_for(
    many: Many, name: str, sort: Sort, tenant_id: str
) -> None:
    search = msgspec.structs.replace(SEARCHES[name], sort=sort)
    may_look_at, may_sort = FEW, FEW + ORDERS // 365  # what was ordered, or is due, in a day or two may be sorted
    if search.sla_status:  # what is open is not in the order of its deadlines: a list passes over it
        may_look_at += many.open_orders
    if sort.column != "order_date":
        may_sort += await many.found(tenant_id, search)  # what a search finds is sorted
        if search.ordered_from:  # an order of that date may have changed at any time since
            may_look_at += ORDERS
    may_look_at += await many.found(tenant_id, search)
    for mode in (PLANNED,) if depends_on_values(search) else (CUSTOM, GENERIC):
        for after in (None, await many.last_place(tenant_id, search)):
            done = await many.done(tenant_id, search, mode, after)
            page = "last" if after else "first"
            print(  # noqa: T201 - for `make plans`
                f"{name} | {sort} | {tenant_id} | {page} page | looked at {done.looked_at:.0f},"
                f" sorted {done.sorted:.0f}, {done.milliseconds:.1f} ms"
            )
            assert "Seq Scan" not in done.scans
            assert done.looked_at <= may_look_at, done
            assert done.sorted <= may_sort, done
