"""The SQL that reads orders: lists of any order and filter, and one with its items. The tenant is in every WHERE."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from shared.db import Pool

from .domain import Item, Search, SlaStatus, StoredOrder
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
