"""All SQL. conn: inside the caller's transaction; pool: a statement of its own. The tenant is in every WHERE."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg
import msgspec

from shared.db import Conn, Pool
from shared.events import AMAZON, ConnectionConnected, ConnectionDisconnected, TenantSynced

from .domain import Connection, Item, Job, JobState, Lease, NewOrder, StoredOrder, Upserted, sla_status

_JOB = (
    "id, tenant_id, marketplace, days, window_from, window_to, state, orders_stored, items_stored, pages,"
    " error_code, error, next_attempt_at, created_at, finished_at"
)
_ORDER = (
    "id, tenant_id, external_order_id, order_ref, marketplace, marketplace_id, customer_name, customer_email,"
    " order_date, currency, total_amount, order_status, delivery_status, sav_status, carrier, tracking_code,"
    " shipping_address, ship_by, deliver_by, created_at, updated_at, shipped_at, delivered_at,"
    " clock_timestamp() AS now"
)
_UNFINISHED = "('REQUESTED', 'RUNNING', 'WAITING')"
_STALE = "next_token_at <= clock_timestamp() - interval '23 hours'"
"""A page token lives for 24 hours."""


async def upsert_tenant(conn: Conn, event: TenantSynced) -> bool:
    """False when the event is older than what we know."""
    changed = await conn.fetchval(
        """
        INSERT INTO tenants AS t (id, archived, synced_at) VALUES ($1, $2, $3)
        ON CONFLICT (id) DO UPDATE SET archived = excluded.archived, synced_at = excluded.synced_at
         WHERE t.synced_at IS NULL OR t.synced_at < excluded.synced_at
        RETURNING true
        """,
        event.tenant_id,
        event.archived,
        event.synced_at,
    )
    return changed is not None


async def lock_tenant(conn: Conn, tenant_id: str) -> bool:
    """Whether the tenant is archived, which stays so until the transaction ends. One that we have not heard of yet
    gets a row: what does not exist cannot be locked.
    """
    archived: bool = await conn.fetchval(
        "INSERT INTO tenants AS t (id, archived) VALUES ($1, false)"
        " ON CONFLICT (id) DO UPDATE SET archived = t.archived RETURNING archived",
        tenant_id,
    )
    return archived


async def upsert_connection(conn: Conn, event: ConnectionConnected) -> bool:
    """False when we know this connection, a newer one, or a later end already."""
    changed = await conn.fetchval(
        """
        INSERT INTO connections AS c
               (tenant_id, marketplace, connection_id, seller_id, region, marketplace_ids, connected_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
        ON CONFLICT (tenant_id, marketplace) DO UPDATE
           SET connection_id = excluded.connection_id, seller_id = excluded.seller_id, region = excluded.region,
               marketplace_ids = excluded.marketplace_ids, connected_at = excluded.connected_at,
               disconnected_at = NULL
         WHERE greatest(c.connected_at, c.disconnected_at) < excluded.connected_at
        RETURNING true
        """,
        event.tenant_id,
        event.marketplace,
        event.connection_id,
        event.seller_id,
        event.region,
        event.marketplace_ids,
        event.connected_at,
    )
    return changed is not None


async def disconnect(conn: Conn, event: ConnectionDisconnected) -> bool:
    """False when the account was connected after that. One that we have not heard of yet gets a row, so that an older
    connection that is told late is not taken for usable.
    """
    changed = await conn.fetchval(
        """
        INSERT INTO connections AS c
               (tenant_id, marketplace, connection_id, seller_id, region, marketplace_ids, connected_at,
                disconnected_at)
        VALUES ($1, $2, $3, '', '', '{}', $4, $4)
        ON CONFLICT (tenant_id, marketplace) DO UPDATE SET disconnected_at = excluded.disconnected_at
         WHERE greatest(c.connected_at, c.disconnected_at) <= excluded.disconnected_at
        RETURNING true
        """,
        event.tenant_id,
        event.marketplace,
        event.connection_id,
        event.at,
    )
    return changed is not None


async def get_connection(conn: Conn | Pool, tenant_id: str) -> Connection | None:
    """The account that we may ask; None when there is none, or it is disconnected."""
    row = await conn.fetchrow(
        "SELECT tenant_id, marketplace, connection_id FROM connections"
        " WHERE tenant_id = $1 AND marketplace = $2 AND disconnected_at IS NULL",
        tenant_id,
        AMAZON,
    )
    return Connection(**row) if row else None


async def lock_connection(conn: Conn, tenant_id: str) -> bool:
    """Whether the tenant's account is connected, which stays so until the transaction ends."""
    connected = await conn.fetchval(
        "SELECT true FROM connections WHERE tenant_id = $1 AND marketplace = $2 AND disconnected_at IS NULL FOR SHARE",
        tenant_id,
        AMAZON,
    )
    return connected is not None


async def now(conn: Conn) -> datetime:
    """The database's clock, which all that is told and compared goes by."""
    at: datetime = await conn.fetchval("SELECT clock_timestamp()")
    return at


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


async def insert_job(conn: Conn, tenant_id: str, days: int) -> tuple[Job, bool]:
    """The tenant's unfinished backfill, and whether it is a new one: there is one at a time. Its window ends three
    minutes ago: Amazon refuses the last two, by a clock that is not ours.
    """
    row = await conn.fetchrow(
        f"""
        INSERT INTO backfill_jobs (tenant_id, marketplace, days, window_from, window_to)
        VALUES ($1, $2, $3, clock_timestamp() - make_interval(days => $3), clock_timestamp() - interval '3 minutes')
        ON CONFLICT (tenant_id, marketplace) WHERE state IN {_UNFINISHED} DO NOTHING RETURNING {_JOB}
        """,  # noqa: S608 - constants
        tenant_id,
        AMAZON,
        days,
    )
    if row is not None:
        return _job(row), True
    row = await conn.fetchrow(
        f"SELECT {_JOB} FROM backfill_jobs"  # noqa: S608 - constants
        f" WHERE tenant_id = $1 AND marketplace = $2 AND state IN {_UNFINISHED}",
        tenant_id,
        AMAZON,
    )
    return (_job(row), False) if row is not None else await insert_job(conn, tenant_id, days)


async def get_job(pool: Pool, tenant_id: str, job_id: UUID) -> Job | None:
    row = await pool.fetchrow(
        f"SELECT {_JOB} FROM backfill_jobs WHERE tenant_id = $1 AND id = $2",  # noqa: S608 - a constant
        tenant_id,
        job_id,
    )
    return _job(row) if row else None


async def claim_job(pool: Pool, lease: timedelta) -> Lease | None:
    """The job that has been due longest, of whichever tenant that is not archived, for the time of the lease. One
    whose page token is too old for Amazon begins its window again, and its count with it.
    """
    row = await pool.fetchrow(
        f"""
        UPDATE backfill_jobs SET state = 'RUNNING', lease_token = lease_token + 1,
               leased_until = clock_timestamp() + $1,
               next_token = CASE WHEN {_STALE} THEN NULL ELSE next_token END,
               orders_stored = CASE WHEN {_STALE} THEN 0 ELSE orders_stored END,
               items_stored = CASE WHEN {_STALE} THEN 0 ELSE items_stored END,
               pages = CASE WHEN {_STALE} THEN 0 ELSE pages END
         WHERE id = (SELECT id FROM backfill_jobs
                      WHERE state IN {_UNFINISHED} AND next_attempt_at <= clock_timestamp()
                        AND (leased_until IS NULL OR leased_until < clock_timestamp())
                        AND NOT EXISTS (SELECT FROM tenants t WHERE t.id = tenant_id AND t.archived)
                      ORDER BY next_attempt_at LIMIT 1 FOR UPDATE SKIP LOCKED)
        RETURNING {_JOB}, lease_token, attempts, next_token
        """,  # noqa: S608 - constants
        lease,
    )
    if row is None:
        return None
    return Lease(_job(row), row["lease_token"], row["next_token"], row["attempts"])


async def renew_job(pool: Pool, lease: Lease, extend: timedelta) -> None:
    """Keep a lease that is still ours."""
    await pool.execute(
        "UPDATE backfill_jobs SET leased_until = clock_timestamp() + $3"
        " WHERE id = $1 AND lease_token = $2 AND state = 'RUNNING'",
        lease.job.id,
        lease.token,
        extend,
    )


async def advance_job(
    conn: Conn, lease: Lease, *, extend: timedelta, next_token: str | None, orders: int, items: int
) -> Job | None:
    """Note a stored page; without a next one the job is complete. None when the lease is lost: roll back."""
    row = await conn.fetchrow(
        f"""
        UPDATE backfill_jobs
           SET orders_stored = orders_stored + $4, items_stored = items_stored + $5, pages = pages + 1,
               next_token = $3, next_token_at = clock_timestamp(), attempts = 0, error_code = NULL, error = NULL,
               state = CASE WHEN $3::text IS NULL THEN 'COMPLETED' ELSE 'RUNNING' END,
               finished_at = CASE WHEN $3::text IS NULL THEN clock_timestamp() END,
               leased_until = CASE WHEN $3::text IS NULL THEN NULL ELSE clock_timestamp() + $6 END
         WHERE id = $1 AND lease_token = $2 AND state = 'RUNNING' RETURNING {_JOB}
        """,  # noqa: S608 - a constant
        lease.job.id,
        lease.token,
        next_token,
        orders,
        items,
        extend,
    )
    return _job(row) if row else None


async def postpone_job(pool: Pool, lease: Lease, delay: timedelta, code: str, error: str) -> None:
    """Let the job wait and say why."""
    await pool.execute(
        "UPDATE backfill_jobs SET state = 'WAITING', leased_until = NULL, attempts = attempts + 1,"
        " next_attempt_at = clock_timestamp() + $3, error_code = $4, error = $5"
        " WHERE id = $1 AND lease_token = $2 AND state = 'RUNNING'",
        lease.job.id,
        lease.token,
        delay,
        code,
        error,
    )


async def fail_job(conn: Conn, lease: Lease, code: str, error: str) -> Job | None:
    """End the job; None when the lease is lost."""
    row = await conn.fetchrow(
        f"UPDATE backfill_jobs SET state = 'FAILED', leased_until = NULL, finished_at = clock_timestamp(),"  # noqa: S608
        f" error_code = $3, error = $4 WHERE id = $1 AND lease_token = $2 AND state = 'RUNNING' RETURNING {_JOB}",
        lease.job.id,
        lease.token,
        code,
        error,
    )
    return _job(row) if row else None


async def fail_jobs(conn: Conn, tenant_id: str, code: str, error: str) -> list[Job]:
    """End what is unfinished of a tenant, whoever has it in hand."""
    rows = await conn.fetch(
        f"UPDATE backfill_jobs SET state = 'FAILED', leased_until = NULL, finished_at = clock_timestamp(),"  # noqa: S608
        f" error_code = $2, error = $3 WHERE tenant_id = $1 AND state IN {_UNFINISHED} RETURNING {_JOB}",
        tenant_id,
        code,
        error,
    )
    return [_job(row) for row in rows]


def _job(row: asyncpg.Record) -> Job:
    fields = {field.name for field in msgspec.structs.fields(Job)}
    columns = {name: value for name, value in row.items() if name in fields}
    return Job(**columns | {"state": JobState(columns["state"])})
