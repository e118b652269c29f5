"""The SQL that stores orders and their items, and of what is known of them. The tenant is in every WHERE."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
from msgspec.structs import astuple

from shared.db import Conn, Pool
from shared.events import AMAZON

from .domain import (
    BEGINNING,
    DeliveryStatus,
    Detail,
    Item,
    Lacking,
    NewOrder,
    OrderStatus,
    Upserted,
)
from .merging import merge

WRITTEN = (
    *("id", "tenant_id", "marketplace", "external_order_id", "order_ref", "detail", "marketplace_id", "customer_name"),
    *("customer_email", "order_date", "currency", "total_amount", "order_status", "external_status"),
    *("delivery_status", "carrier", "tracking_code", "shipping_address", "ship_by", "deliver_by", "shipped_at"),
    *("delivered_at", "external_updated_at", "external_detailed_at", "package_status", "known_items"),
)
_SET = ", ".join(f"{name} = ${place}" for place, name in enumerate(WRITTEN, 1) if place > 1)
_ITEM = ("external_item_id", "sku", "asin", "title", "quantity", "unit_price", "currency")
ITEM_WRITTEN = ("order_id", "position", *_ITEM)

_Order = tuple[UUID, NewOrder]


async def upsert_orders(conn: Conn, tenant_id: str, orders: Sequence[NewOrder]) -> list[Upserted]:
    """Store orders with their items as merging.merge() has it: neither the order of arrival nor a repetition matters.
    Those about which we learn nothing are not returned. A tenant has one writer at a time until its transaction ends;
    who stores for several tenants in one transaction goes by tenant_id, so that none waits for another in a circle.
    """
    told: dict[str, NewOrder] = {}
    for order in orders:
        before = told.get(order.external_order_id)
        told[order.external_order_id] = order if before is None else merge(before, order)
    # A statement of its own: the next one must see what the writer before committed.
    await conn.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"orders {tenant_id}")
    rows = await conn.fetch(
        "SELECT coalesce(o.id, uuidv7()), t.external_order_id, o.external_updated_at, o.detail, o.external_detailed_at"
        "  FROM unnest($3::text[]) AS t (external_order_id) LEFT JOIN orders o"
        "    ON (o.tenant_id, o.marketplace, o.external_order_id) = ($1, $2, t.external_order_id)",
        tenant_id,
        AMAZON,
        list(told),
    )
    new: list[_Order] = []
    changed: list[_Order] = []
    unclear: list[UUID] = []
    for order_id, external_id, updated_at, detail, detailed_at in rows:
        order = told[external_id]
        if detail is None:
            if order.continues is None:
                new.append((order_id, order))
        elif _takes_its_place(order, updated_at.replace(tzinfo=UTC), detail):
            changed.append((order_id, order))
        elif _may_tell(order, updated_at.replace(tzinfo=UTC), detail, detailed_at):
            unclear.append(order_id)
    for order_id, held in await _read(conn, tenant_id, unclear):
        merged = merge(held, told[held.external_order_id])
        if merged != held:
            changed.append((order_id, merged))
    await _insert(conn, tenant_id, new)
    await _update(conn, tenant_id, changed)
    return [
        Upserted(order_id, order.external_order_id, order.order_status, is_new, order.detail)
        for written, is_new in ((new, True), (changed, False))
        for order_id, order in written
    ]


def _takes_its_place(order: NewOrder, updated_at: datetime, detail: str) -> bool:
    """Whether nothing stays of what we hold: no need to read it."""
    same_change = order.external_updated_at == updated_at and detail != Detail.FULL
    return order.detail is Detail.FULL and (updated_at < order.external_updated_at or same_change)


def _may_tell(order: NewOrder, updated_at: datetime, detail: str, detailed_at: datetime | None) -> bool:
    """Whether we might learn something from the order."""
    return (
        order.continues is not None
        or detail == Detail.PLACEHOLDER
        or updated_at < order.external_updated_at
        or (detailed_at or BEGINNING) < (order.detailed_at or BEGINNING)
    )


async def _insert(conn: Conn, tenant_id: str, orders: Sequence[_Order]) -> None:
    if orders:
        records = (_row(tenant_id, order_id, order) for order_id, order in orders)
        await conn.copy_records_to_table("orders", columns=WRITTEN, records=records)
        await _insert_items(conn, orders)


async def _update(conn: Conn, tenant_id: str, orders: Sequence[_Order]) -> None:
    if orders:
        await conn.executemany(
            f"UPDATE orders SET {_SET}, updated_at = clock_timestamp(), fetched_at = clock_timestamp(),"  # noqa: S608
            " unknown_at = NULL WHERE id = $1 AND tenant_id = $2",
            [_row(tenant_id, order_id, order) for order_id, order in orders],
        )
        await conn.execute("DELETE FROM order_items WHERE order_id = ANY ($1::uuid[])", [each for each, _ in orders])
        await _insert_items(conn, orders)


async def _insert_items(conn: Conn, orders: Sequence[_Order]) -> None:
    await conn.copy_records_to_table("order_items", columns=ITEM_WRITTEN, records=_item_rows(orders))


def _item_rows(orders: Sequence[_Order]) -> Iterator[tuple[object, ...]]:
    """As ITEM_WRITTEN has it."""
    for order_id, order in orders:
        for position, item in enumerate(order.items):
            yield order_id, position, *astuple(item)


def _row(tenant_id: str, order_id: UUID, order: NewOrder) -> tuple[object, ...]:
    """As WRITTEN has it."""
    return (
        order_id,
        tenant_id,
        AMAZON,
        order.external_order_id,
        order.order_ref,
        order.detail,
        order.marketplace_id,
        order.customer_name,
        order.customer_email,
        order.order_date,
        order.currency,
        order.total_amount,
        order.order_status,
        order.external_status,
        order.delivery_status,
        order.carrier,
        order.tracking_code,
        order.shipping_address,
        order.ship_by,
        order.deliver_by,
        order.shipped_at,
        order.delivered_at,
        order.external_updated_at,
        order.detailed_at,
        order.package_status,
        order.known_items,
    )


async def _read(conn: Conn, tenant_id: str, ids: Sequence[UUID]) -> list[_Order]:
    """The orders as they were merged last."""
    if not ids:
        return []
    rows = await conn.fetch(
        "SELECT id, external_order_id, detail, marketplace_id, customer_name, customer_email, order_date, currency,"
        " total_amount, order_status, external_status, delivery_status, carrier, tracking_code, shipping_address,"
        " ship_by, deliver_by, shipped_at, delivered_at, external_updated_at, external_detailed_at, package_status,"
        " known_items FROM orders WHERE tenant_id = $1 AND id = ANY ($2::uuid[])",
        tenant_id,
        ids,
    )
    items: dict[UUID, list[Item]] = {order_id: [] for order_id in ids}
    for order_id, *columns in await conn.fetch(
        f"SELECT order_id, {', '.join(_ITEM)} FROM order_items"  # noqa: S608 - a constant list of columns
        " WHERE order_id = ANY ($1::uuid[]) ORDER BY order_id, position",
        ids,
    ):
        items[order_id].append(Item(*columns))
    return [(row["id"], _held(row, items[row["id"]])) for row in rows]


def _held(row: asyncpg.Record, items: list[Item]) -> NewOrder:
    columns = dict(row)
    del columns["id"]
    detailed_at = columns.pop("external_detailed_at")
    detail = Detail(columns["detail"])
    package_status, known_items = columns["package_status"], columns["known_items"]
    return NewOrder(
        **columns
        | {
            "detail": detail,
            "order_status": OrderStatus(columns["order_status"]),
            "delivery_status": DeliveryStatus(columns["delivery_status"]),
            "external_updated_at": columns["external_updated_at"].replace(tzinfo=UTC),  # -infinity comes without
            "detail_from": None if detail is Detail.FULL else detailed_at,
            "package_status": package_status and DeliveryStatus(package_status),
            "known_items": None if known_items is None else [tuple(each) for each in known_items],
        },
        items=items,
    )


async def list_lacking_detail(
    pool: Pool, tenant_id: str, detail: Detail, *, limit: int, before: tuple[datetime, UUID] | None = None
) -> list[Lacking]:
    """PLACEHOLDER or REPORT orders that Amazon may tell of, the newest first; before is the place of the last one of
    the list before.
    """
    before_date, before_id = before or (None, None)
    rows = await pool.fetch(
        "SELECT id, external_order_id, order_date FROM orders"
        " WHERE tenant_id = $1 AND detail = $2 AND detail <> 'FULL' AND unknown_at IS NULL"
        " AND ($3::timestamptz IS NULL OR (order_date, id) < ($3, $4::uuid))"
        " ORDER BY order_date DESC, id DESC LIMIT $5",
        tenant_id,
        detail,
        before_date,
        before_id,
        limit,
    )
    return [Lacking(**row) for row in rows]


async def list_placeholders(conn: Conn, tenant_id: str, external_order_ids: Sequence[str]) -> set[str]:
    """Which of these orders are known by a message alone."""
    rows = await conn.fetch(
        "SELECT external_order_id FROM orders WHERE tenant_id = $1 AND marketplace = $2 AND detail = 'PLACEHOLDER'"
        " AND external_order_id = ANY ($3::text[])",
        tenant_id,
        AMAZON,
        external_order_ids,
    )
    return {row["external_order_id"] for row in rows}


async def is_fresh(pool: Pool, tenant_id: str, external_order_id: str, within: timedelta) -> bool:
    """Whether Amazon has told all of an order lately."""
    return bool(
        await pool.fetchval(
            "SELECT EXISTS (SELECT FROM orders WHERE tenant_id = $1 AND marketplace = $2 AND external_order_id = $3"
            " AND detail = 'FULL' AND fetched_at > clock_timestamp() - $4::interval)",
            tenant_id,
            AMAZON,
            external_order_id,
            within,
        )
    )


async def note_fetched(conn: Conn, tenant_id: str, external_order_id: str) -> None:
    """Amazon has told of the order, and nothing new; what changes an order notes it too."""
    await conn.execute(
        "UPDATE orders SET fetched_at = clock_timestamp()"
        " WHERE tenant_id = $1 AND marketplace = $2 AND external_order_id = $3",
        tenant_id,
        AMAZON,
        external_order_id,
    )


async def note_unknown(conn: Conn, tenant_id: str, external_order_id: str) -> Detail | None:
    """Amazon does not know the order: it is not asked for in the background any more, unless something new is learned.
    What we know of it.
    """
    detail = await conn.fetchval(
        "UPDATE orders SET unknown_at = coalesce(unknown_at, clock_timestamp())"
        " WHERE tenant_id = $1 AND marketplace = $2 AND external_order_id = $3 RETURNING detail",
        tenant_id,
        AMAZON,
        external_order_id,
    )
    return Detail(detail) if detail else None


async def is_lacking_detail(pool: Pool, tenant_id: str, external_order_id: str) -> bool:
    """Whether Amazon may tell more of an order."""
    return bool(
        await pool.fetchval(
            "SELECT EXISTS (SELECT FROM orders WHERE tenant_id = $1 AND marketplace = $2 AND external_order_id = $3"
            " AND detail <> 'FULL' AND unknown_at IS NULL)",
            tenant_id,
            AMAZON,
            external_order_id,
        )
    )
