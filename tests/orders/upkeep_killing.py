"""Accounts whose upkeep is killed and goes on: what there is to do for each, and what has to be true afterwards."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from msgspec import Struct

from devstack.outside import eventually
from orders import order_queries
from orders.domain import Detail, NewOrder, Task, placeholder
from orders.mapping import from_amazon
from shared.amazon.orders import Order
from shared.amazon.spapi import decode
from shared.db import open_pool
from tests.orders.killing import System

CHANGED = 250
NAMED, REPORTED = 4, 60
MISSING = 5
UNKNOWN = "999-9999999-9999999"


class Kept(Struct, frozen=True):
    """An account with one task, which is due."""

    system: System
    tenant_id: str
    seller_id: str

    async def truth(self) -> list[NewOrder]:
        found = await self.system.amazon.all_orders_of(self.seller_id)
        return [from_amazon(decode(msgspec.json.encode(order), Order)) for order in found]

    async def store(self, orders: Sequence[NewOrder]) -> None:
        """As something before has done."""
        pool = await open_pool(self.system.stack.endpoints.postgres.dsns["orders"], "kills", size=1)
        async with pool.acquire() as conn, conn.transaction():
            await order_queries.upsert_orders(conn, self.tenant_id, orders)
        await pool.close()

    async def owe(self, task: Task) -> None:
        await self.system.pool.execute(
            "INSERT INTO orders.upkeep (tenant_id, marketplace, task, seller_id, cursor_at)"
            " VALUES ($1, 'AMAZON', $2, $3, clock_timestamp() - interval '23 h 50 min')",
            *(self.tenant_id, task, self.seller_id),
        )

    async def start(self, point: str = "never", times: int = 1) -> None:
        """A process, which comes to its work only when it is ready."""
        await self.system.pool.execute(
            "UPDATE orders.upkeep SET next_due = 'infinity' WHERE tenant_id = $1", self.tenant_id
        )
        await self.system.start(point, times)
        await self.system.pool.execute(
            "UPDATE orders.upkeep SET next_due = clock_timestamp() WHERE tenant_id = $1", self.tenant_id
        )

    async def rest(self) -> None:
        await self.system.pool.execute("DELETE FROM orders.upkeep WHERE tenant_id = $1", self.tenant_id)

    async def settled(self, what: str, query: str) -> Any:
        """What the query finds at last, when it is published too. Nothing is in hand then, and orders is killed."""

        async def ask() -> Any:
            return await self.system.pool.fetchrow(query, self.tenant_id)

        async def unpublished() -> Any:
            return await self.system.pool.fetchval("SELECT count(*) FROM orders.outbox WHERE published_at IS NULL")

        async def stop() -> Any:
            return await self.system.pool.fetchval(
                "UPDATE orders.upkeep SET next_due = 'infinity' WHERE tenant_id = $1 AND leased_until IS NULL"
                " RETURNING true",
                self.tenant_id,
            )

        found = await eventually(what, ask)
        await eventually("the events", unpublished, (0).__eq__)
        await eventually("the end of the turn", stop)
        await self.system.kill()
        return found

    async def stored(self) -> dict[str, tuple[str, datetime, str, list[str | None]]]:
        rows = await self.system.pool.fetch(
            "SELECT external_order_id, detail, external_updated_at, external_status,"
            " ARRAY(SELECT external_item_id FROM orders.order_items WHERE order_id = id ORDER BY 1) AS items"
            "  FROM orders.orders WHERE tenant_id = $1",
            self.tenant_id,
        )
        return {row["external_order_id"]: tuple(row)[1:] for row in rows}

    async def told(self) -> Counter[tuple[str, bool, str]]:
        """How often the stream tells of each order, whether it was new, and why."""
        messages = await self.system.outside.messages("ORDER")
        bodies = [msgspec.json.decode(body) for subject, _, body in messages if subject == "order.stored"]
        return Counter(
            (body["externalOrderId"], body["isNew"], body["cause"])
            for body in bodies
            if body["tenantId"] == self.tenant_id
        )

    async def calls(self, operation: str) -> int:
        return sum((await self.system.amazon.calls(operation, self.seller_id)).values())


def as_stored(orders: Sequence[NewOrder]) -> dict[str, Any]:
    return {
        order.external_order_id: (
            *(order.detail, order.external_updated_at, order.external_status),
            sorted(str(item.external_item_id) for item in order.items),
        )
        for order in orders
    }


async def changes(system: System) -> Kept:
    """Three pages of orders have changed in the last day."""
    kept = Kept(system, *await system.account(CHANGED, days=1))
    await kept.owe(Task.DELTA)
    return kept


async def changes_are_stored(kept: Kept, lost: int) -> None:
    await kept.settled("a delta", "SELECT 1 FROM orders.upkeep WHERE tenant_id = $1 AND last_success_at IS NOT NULL")
    true = as_stored(await kept.truth())
    assert len(true) == CHANGED
    assert await kept.stored() == true
    assert await kept.told() == Counter((order_id, True, "DELTA") for order_id in true)
    rounds = sum('"delta_stored"' in line and kept.tenant_id in line for line in kept.system.said().splitlines())
    assert await kept.calls("searchOrders") <= 3 + (rounds - 1) + lost


async def lacks(system: System) -> Kept:
    """Messages named some orders, a report told of the others, and of one that Amazon does not know."""
    kept = Kept(system, *await system.account(NAMED + REPORTED))
    true = await kept.truth()
    named = [placeholder(order.external_order_id, order.order_date) for order in true[:NAMED]]
    unknown = msgspec.structs.replace(true[NAMED], external_order_id=UNKNOWN)
    reported = [
        msgspec.structs.replace(
            order,
            detail=Detail.REPORT,
            items=[msgspec.structs.replace(item, external_item_id=None) for item in order.items],
        )
        for order in (*true[NAMED:], unknown)
    ]
    await kept.store([*named, *reported])
    await kept.owe(Task.DETAILS)
    return kept


async def details_are_filled_in(kept: Kept, lost: int) -> None:
    await kept.settled(
        "the last detail",
        "SELECT 1 FROM orders.upkeep WHERE tenant_id = $1 AND last_success_at IS NOT NULL AND NOT EXISTS"
        " (SELECT FROM orders.orders WHERE tenant_id = $1 AND detail <> 'FULL' AND unknown_at IS NULL)",
    )
    stored = await kept.stored()
    assert stored.pop(UNKNOWN)[0] == Detail.REPORT
    true = await kept.truth()
    assert stored == as_stored(true)
    assert await kept.told() == Counter((order.external_order_id, False, "MESSAGE") for order in true[:NAMED])
    assert await kept.calls("getOrder") + await kept.calls("searchOrders") <= NAMED + 1 + 1 + lost


async def differences(system: System) -> Kept:
    """A backfill is complete that has not found some orders, and there is one that Amazon does not have."""
    kept = Kept(system, *await system.account(40, days=80))
    true = await kept.truth()
    stray = msgspec.structs.replace(true[0], external_order_id=UNKNOWN, order_date=true[0].order_date + timedelta(1))
    await kept.store([*true[:-MISSING], stray])
    await system.pool.execute(
        "INSERT INTO orders.backfill_jobs"
        " (tenant_id, marketplace, seller_id, days, window_from, window_to, state, finished_at)"
        " VALUES ($1, 'AMAZON', $2, 90, now() - interval '90 days', now() - interval '3 minutes', 'COMPLETED', now())",
        *(kept.tenant_id, kept.seller_id),
    )
    await kept.owe(Task.AUDIT)
    return kept


async def differences_are_counted(kept: Kept, lost: int) -> None:
    job = await kept.settled(
        "the audit's end",
        "SELECT days_checked, missing, unlisted FROM orders.backfill_jobs"
        " WHERE tenant_id = $1 AND audited_at IS NOT NULL",
    )
    assert tuple(job) == (90, MISSING, 1)
    stored = await kept.stored()
    assert stored.pop(UNKNOWN)
    true = await kept.truth()
    assert {order_id: len(items) for order_id, (*_, items) in stored.items()} == {
        order.external_order_id: len(order.items) for order in true
    }
    assert await kept.told() == Counter((order.external_order_id, True, "AUDIT") for order in true[-MISSING:])
    assert await kept.calls("createReport") + await kept.calls("getReportDocument") <= 3 + 3 + lost


class Keeping(Struct, frozen=True):
    """owe: an account that has much to do; paid: returns when it is done, each thing once,
    and so many answers of Amazon's were lost at most.
    """

    owe: Callable[[System], Awaitable[Kept]]
    paid: Callable[[Kept, int], Awaitable[None]]


KEEPING: Mapping[Task, Keeping] = {
    Task.DELTA: Keeping(changes, changes_are_stored),
    Task.DETAILS: Keeping(lacks, details_are_filled_in),
    Task.AUDIT: Keeping(differences, differences_are_counted),
}
