"""All SQL but that of orders. conn: inside the caller's transaction; pool: a statement of its own. The tenant is in
every WHERE.
"""

from datetime import datetime, timedelta
from uuid import UUID

import asyncpg
import msgspec

from shared.db import Conn, Pool
from shared.events import AMAZON, ConnectionConnected, ConnectionDisconnected, TenantSynced

from .domain import Connection, Job, JobState, Lease

_JOB = (
    "id, tenant_id, marketplace, days, window_from, window_to, state, orders_stored, items_stored, pages,"
    " error_code, error, next_attempt_at, created_at, finished_at"
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
