"""What is done for accounts again and again, as the tests follow it: by turns, on a stack whose Amazon may be moved on
in time, and compared with the truth.
"""

from typing import Any

import msgspec

from orders import delta, upkeep, upkeep_queries
from orders.domain import Task, Turn
from orders.mapping import from_amazon
from orders.upkeep import Duty
from orders.windows import LEASE, Parts
from shared.amazon.orders import Order
from shared.amazon.spapi import decode
from tests.orders.backfills import QUOTA_IS_BACK
from tests.orders.conftest import Seller, connect

DELTA = delta.duty(600)


async def account(parts: Parts, seller: Seller) -> None:
    """The seller's account was connected now."""
    await connect(parts.pool, seller.tenant_id, seller.seller_id)
    async with parts.pool.acquire() as conn, conn.transaction():
        await upkeep_queries.upsert_upkeep(conn, seller.tenant_id, seller.seller_id, 600)


async def is_due(parts: Parts) -> None:
    """Everything, with the usage plans full again."""
    await parts.pool.execute(QUOTA_IS_BACK)
    await parts.pool.execute("UPDATE upkeep SET next_due = clock_timestamp(), leased_until = NULL")


async def claim(parts: Parts, task: Task = Task.DELTA) -> Turn:
    await is_due(parts)
    turn = await upkeep_queries.claim(parts.pool, task, LEASE)
    assert turn is not None
    return turn


async def take(parts: Parts, duty: Duty = DELTA) -> None:
    await upkeep.take(parts, duty, await claim(parts, duty.task))


async def advance(seller: Seller, seconds: float) -> None:
    """Amazon's clock goes on."""
    await seller.amazon.control("POST", "clock", {"advanceSeconds": seconds})


async def row(parts: Parts, task: Task = Task.DELTA) -> Any:
    found = await parts.pool.fetchrow("SELECT *, clock_timestamp() AS now FROM upkeep WHERE task = $1", task)
    assert found is not None
    return found


async def truth(parts: Parts, seller: Seller) -> dict[str, Any]:
    """What of each order is compared, as Amazon has it, of those that last changed before the cursor."""
    found = await seller.amazon.all_orders_of(seller.seller_id)
    orders = [from_amazon(decode(msgspec.json.encode(order), Order)) for order in found]
    cursor_at = (await row(parts))["cursor_at"]
    return {
        each.external_order_id: (
            *(each.external_status, each.delivery_status, each.tracking_code, each.external_updated_at),
            *(each.total_amount, sorted(str(item.external_item_id) for item in each.items)),
        )
        for each in orders
        if each.external_updated_at <= cursor_at
    }


async def copy(parts: Parts, seller: Seller) -> dict[str, Any]:
    rows = await parts.pool.fetch(
        "SELECT external_order_id, external_status, delivery_status, tracking_code, external_updated_at, total_amount,"
        " ARRAY(SELECT external_item_id FROM order_items WHERE order_id = id ORDER BY 1) AS items"
        "  FROM orders WHERE tenant_id = $1",
        seller.tenant_id,
    )
    return {each["external_order_id"]: (*list(each.values())[1:6], sorted(map(str, each["items"]))) for each in rows}
