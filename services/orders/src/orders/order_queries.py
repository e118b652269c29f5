"""The SQL of orders and their items. The tenant is in every WHERE."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import asyncpg

from shared.db import Conn, Pool
from shared.events import AMAZON

from .domain import Item, NewOrder, StoredOrder, Upserted, sla_status

_ORDER = (
    "id, tenant_id, external_order_id, order_ref, marketplace, marketplace_id, customer_name, customer_email,"
    " order_date, currency, total_amount, order_status, delivery_status, sav_status, carrier, tracking_code,"
    " shipping_address, ship_by, deliver_by, created_at, updated_at, shipped_at, delivered_at,"
    " clock_timestamp() AS now"
)


async def upsert_orders(conn: Conn, tenant_id: str, orders: Sequence[NewOrder]) -> list[Upserted]:
    """Store orders with their items. Those of which we hold the same or a newer version are left as they are and
    not returned: the order of arrival does no harm.
    """
    newest = {order.external_order_id: order for order in sorted(orders, key=lambda order: order.external_updated_at)}
    batch = [newest[external_id] for external_id in sorted(newest)]  # one order of locks for all: no deadlock
    rows = await conn.fetch(
        """
        INSERT INTO orders AS o
               (tenant_id, marketplace, external_order_id, order_ref, marketplace_id, customer_name, customer_email,
                order_date, currency, total_amount, order_status, external_status, delivery_status, carrier,
                tracking_code, shipping_address, ship_by, deliver_by, shipped_at, delivered_at, external_updated_at)
        SELECT $1, * FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                $8::timestamptz[], $9::text[], $10::numeric[], $11::text[], $12::text[], $13::text[], $14::text[],
                $15::text[], $16::jsonb[], $17::timestamptz[], $18::timestamptz[], $19::timestamptz[],
                $20::timestamptz[], $21::timestamptz[])
        ON CONFLICT (tenant_id, marketplace, external_order_id) DO UPDATE
           SET marketplace_id = excluded.marketplace_id, customer_name = excluded.customer_name,
               customer_email = excluded.customer_email, order_date = excluded.order_date,
               currency = excluded.currency, total_amount = excluded.total_amount,
               order_status = excluded.order_status, external_status = excluded.external_status,
               delivery_status = excluded.delivery_status, carrier = excluded.carrier,
               tracking_code = excluded.tracking_code, shipping_address = excluded.shipping_address,
               ship_by = excluded.ship_by, deliver_by = excluded.deliver_by, shipped_at = excluded.shipped_at,
               delivered_at = excluded.delivered_at, external_updated_at = excluded.external_updated_at,
               updated_at = clock_timestamp()
         WHERE o.external_updated_at < excluded.external_updated_at
        RETURNING new.id, new.external_order_id, new.order_status, old.id IS NULL AS is_new
        """,
        tenant_id,
        [order.marketplace for order in batch],
        [order.external_order_id for order in batch],
        [order.order_ref for order in batch],
        [order.marketplace_id for order in batch],
        [order.customer_name for order in batch],
        [order.customer_email for order in batch],
        [order.order_date for order in batch],
        [order.currency for order in batch],
        [order.total_amount for order in batch],
        [order.order_status for order in batch],
        [order.external_status for order in batch],
        [order.delivery_status for order in batch],
        [order.carrier for order in batch],
        [order.tracking_code for order in batch],
        [order.shipping_address for order in batch],
        [order.ship_by for order in batch],
        [order.deliver_by for order in batch],
        [order.shipped_at for order in batch],
        [order.delivered_at for order in batch],
        [order.external_updated_at for order in batch],
    )
    stored = [Upserted(**row) for row in rows]
    await _replace_items(conn, [(each.id, newest[each.external_order_id].items) for each in stored])
    return stored


async def _replace_items(conn: Conn, items_of: Sequence[tuple[UUID, Sequence[Item]]]) -> None:
    await conn.execute(
        "DELETE FROM order_items WHERE order_id = ANY ($1::uuid[])", [order_id for order_id, _ in items_of]
    )
    flat = [(order_id, item) for order_id, items in items_of for item in items]
    await conn.execute(
        """
        INSERT INTO order_items (order_id, external_item_id, sku, asin, title, quantity, unit_price, currency)
        SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int[], $7::numeric[],
                             $8::text[])
        ON CONFLICT (order_id, external_item_id) DO NOTHING
        """,
        [order_id for order_id, _ in flat],
        [item.external_item_id for _, item in flat],
        [item.sku for _, item in flat],
        [item.asin for _, item in flat],
        [item.title for _, item in flat],
        [item.quantity for _, item in flat],
        [item.unit_price for _, item in flat],
        [item.currency for _, item in flat],
    )


async def has_order(pool: Pool, tenant_id: str, external_order_id: str) -> bool:
    return bool(
        await pool.fetchval(
            "SELECT EXISTS (SELECT FROM orders WHERE tenant_id = $1 AND marketplace = $2 AND external_order_id = $3)",
            tenant_id,
            AMAZON,
            external_order_id,
        )
    )


async def list_orders(
    pool: Pool,
    tenant_id: str,
    *,
    limit: int,
    before: tuple[datetime, UUID] | None = None,
    external_order_id: str | None = None,
) -> list[StoredOrder]:
    """The newest first; before is the place of the last order of the page before."""
    before_date, before_id = before or (None, None)
    rows = await pool.fetch(
        f"SELECT {_ORDER} FROM orders WHERE tenant_id = $1"  # noqa: S608 - a constant list of columns
        " AND ($2::timestamptz IS NULL OR (order_date, id) < ($2, $3::uuid))"
        " AND ($4::text IS NULL OR external_order_id = $4)"
        " ORDER BY order_date DESC, id DESC LIMIT $5",
        tenant_id,
        before_date,
        before_id,
        external_order_id,
        limit,
    )
    return [_stored(row) for row in rows]


async def get_order(pool: Pool, tenant_id: str, order_id: UUID) -> tuple[StoredOrder, list[Item]] | None:
    row = await pool.fetchrow(
        f"SELECT {_ORDER} FROM orders WHERE tenant_id = $1 AND id = $2",  # noqa: S608 - as above
        tenant_id,
        order_id,
    )
    if row is None:
        return None
    items = await pool.fetch(
        "SELECT external_item_id, sku, asin, title, quantity, unit_price, currency FROM order_items"
        " WHERE order_id = $1 ORDER BY external_item_id",
        order_id,
    )
    return _stored(row), [Item(**item) for item in items]


def _stored(row: asyncpg.Record) -> StoredOrder:
    columns = dict(row)
    now, ship_by, deliver_by = (columns.pop(name) for name in ("now", "ship_by", "deliver_by"))
    return StoredOrder(
        **columns,
        sla_status=sla_status(columns["order_status"], ship_by, deliver_by, columns["shipped_at"], now),
    )
