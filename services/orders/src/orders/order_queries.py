"""The SQL of orders and their items. The tenant is in every WHERE."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    Search,
    SlaStatus,
    StoredOrder,
    Upserted,
)
from .merging import merge
from .sla import AT_RISK

_NOW = "statement_timestamp()"
_SOON = f"{_NOW} + interval '{AT_RISK // timedelta(seconds=1)} seconds'"
_SLA = {
    SlaStatus.BREACHED: f"sla_due < {_NOW}",
    SlaStatus.AT_RISK: f"sla_due < 'infinity' AND sla_due >= {_NOW} AND sla_due < {_SOON}",
    SlaStatus.OK: f"sla_due >= {_SOON}",
}
"""As sla_status() has it; 'infinity' because orders_due ends there."""
_PHASES = {
    SlaStatus.BREACHED: frozenset({"MISSED", "OPEN"}),
    SlaStatus.AT_RISK: frozenset({"OPEN"}),
    SlaStatus.OK: frozenset({"DONE", "OPEN"}),
}
"""In which facets orders of that status may be."""
SLA_STATUS = "CASE " + " ".join(f"WHEN {condition} THEN '{status}'" for status, condition in _SLA.items()) + " END"
_ORDER = ", ".join(
    f"{SLA_STATUS} AS {column}" if column == "sla_status" else column for column in StoredOrder.__struct_fields__
)
"""In the order of the struct, which is made of a row as it is."""
_TERMS = "search_terms(tenant_id, order_ref, customer_name, customer_email)"
_BEGINS_AN_ID = re.compile(r"[0-9A-Z]{3}-[0-9-]*")
_IS_A_REF = re.compile(r"[0-9]{6}")
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


async def list_orders(
    pool: Pool, tenant_id: str, search: Search, *, limit: int, after: tuple[datetime, UUID] | None = None
) -> list[StoredOrder]:
    """A page of them; after is the place of the last order of the page before: the time it is sorted by, and its id."""
    statement, arguments = select_orders(tenant_id, search, limit=limit, after=after)
    if not depends_on_values(search):
        return [StoredOrder(*row) for row in await pool.fetch(statement, *arguments)]
    async with pool.acquire() as conn, conn.transaction(readonly=True):
        await conn.execute(PLANNED)
        return [StoredOrder(*row) for row in await conn.fetch(statement, *arguments)]


PLANNED = "SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL enable_seqscan = off; SET LOCAL work_mem = '16MB'"
"""How a list is read that depends_on_values(); the memory holds the places of some 200,000 orders."""


def depends_on_values(search: Search) -> bool:
    """Whether it finds ten orders or a million by the values that it is asked for, so that a plan that was made
    without them would be a wrong one.
    """
    is_ranged = search.ordered_from is not None or search.ordered_to is not None
    return _is_rare(search) or (is_ranged and search.sort.column != "order_date")


def _is_rare(search: Search) -> bool:
    """Whether few orders are found by something else than their facets: those of a day are due within a day."""
    return bool(search.q or search.external_order_id or search.sla_status == {SlaStatus.AT_RISK})


def select_orders(
    tenant_id: str, search: Search, *, limit: int, after: tuple[datetime, UUID] | None = None
) -> tuple[str, Sequence[object]]:
    """Only the conditions that are asked for, so that each list finds its index. The limit is a part of the statement:
    without it a plan is made for a tenth of all orders.
    """
    arguments: list[object] = [tenant_id]

    def bind(value: object) -> str:
        arguments.append(value)
        return f"${len(arguments)}"

    by, way = search.sort.column, "DESC" if search.sort.is_descending else "ASC"
    order = f"ORDER BY {by} {way}, id {way} LIMIT {limit}"
    where = ["tenant_id = $1"]
    if after is not None:
        where.append(f"({by}, id) {'<' if search.sort.is_descending else '>'} ({bind(after[0])}, {bind(after[1])})")
    if search.ordered_from is not None:
        where.append(f"order_date >= {bind(search.ordered_from)}")
    if search.ordered_to is not None:
        where.append(f"order_date < {bind(search.ordered_to)}")
    if search.sla_status:
        where.append(f"({' OR '.join(_SLA[status] for status in sorted(search.sla_status))})")
    if search.external_order_id is not None:
        where.append(f"external_order_id = {bind(search.external_order_id)}")
    if search.q is not None:
        where.append(_found_by(tenant_id, search.q, bind))
    columns = {
        "order_status": search.order_status,
        "delivery_status": search.delivery_status,
        "phase": frozenset[str]().union(*(_PHASES[status] for status in search.sla_status)),
        "marketplace_id": search.marketplace_id,
    }
    if _is_rare(search):
        where += [
            f"{column} = ANY ({bind(sorted(values))}::text[])"
            for column, values in columns.items()
            if values and column != "phase"
        ]
    elif by != "order_date" or any(columns.values()):
        return _select_by_facets(columns, where, by, order, bind), arguments
    return f"SELECT {_ORDER} FROM orders WHERE {' AND '.join(where)} {order}", arguments  # noqa: S608 - constants


def _select_by_facets(
    columns: Mapping[str, frozenset[str]], where: list[str], by: str, order: str, bind: Callable[[object], str]
) -> str:
    """A page of each facet that fits, and of them together the page. The LIMIT 1 keeps a plan that was made for a small
    tenant from reading all of a large one's orders.
    """
    facets = [
        f"split_part(facets.facet, ' ', {number}) = ANY ({bind(sorted(values))}::text[])"
        for number, values in enumerate(columns.values(), 1)
        if values
    ]
    return f"""
        WITH RECURSIVE facets AS (
            SELECT min(facet) AS facet FROM orders WHERE tenant_id = $1
            UNION ALL
            SELECT (SELECT min(facet) FROM orders WHERE tenant_id = $1 AND facet > facets.facet)
              FROM facets WHERE facet IS NOT NULL),
        page AS (
            SELECT id AS order_id FROM facets CROSS JOIN LATERAL (
                SELECT id, {by} FROM orders WHERE {" AND ".join(where)} AND facet = facets.facet {order}) of_facet
             WHERE {" AND ".join([*facets, "true"])} {order})
        SELECT {_ORDER} FROM page CROSS JOIN LATERAL (
            SELECT * FROM orders WHERE tenant_id = $1 AND id = order_id LIMIT 1) found {order}
        """  # noqa: S608 - constants


def _found_by(tenant_id: str, q: str, bind: Callable[[object], str]) -> str:
    """The beginning of an order's id, or words that each begin one of its search_terms()."""
    if _BEGINS_AN_ID.fullmatch(q.upper()):
        first = q.upper()
        beyond = first[:-1] + chr(ord(first[-1]) + 1)
        return f"external_order_id >= {bind(first)} AND external_order_id < {bind(beyond)}"
    terms = " & ".join(_term(tenant_id, word) for word in q.lower().split())
    return f"{_TERMS} @@ {bind(terms)}::text::tsquery"


def _term(tenant_id: str, word: str) -> str:
    quoted = f"{tenant_id} {word}".replace("\\", "\\\\").replace("'", "''")
    if _IS_A_REF.fullmatch(word):
        return f"('{tenant_id} #{word}' | '{quoted}':*)"
    return f"'{quoted}'" if word.startswith("#") else f"'{quoted}':*"


async def get_order(pool: Pool, tenant_id: str, order_id: UUID) -> tuple[StoredOrder, list[Item]] | None:
    row = await pool.fetchrow(
        f"SELECT {_ORDER} FROM orders WHERE tenant_id = $1 AND id = $2",  # noqa: S608 - a constant list of columns
        tenant_id,
        order_id,
    )
    if row is None:
        return None
    items = await pool.fetch(
        "SELECT external_item_id, sku, asin, title, quantity, unit_price, currency FROM order_items"
        " WHERE order_id = $1 ORDER BY position",
        order_id,
    )
    return StoredOrder(*row), [Item(**item) for item in items]
