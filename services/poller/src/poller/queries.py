"""The SQL of schedules, tenants and their addresses. conn: inside the caller's transaction; pool: a statement of its
own. The tenant is in every WHERE.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from shared.db import Conn, Pool
from shared.events import AMAZON, ConnectionConnected, ConnectionDisconnected, TenantSynced

from .domain import (
    Address,
    Cursor,
    Failed,
    Lease,
    Schedule,
)

_HELD = (
    "tenant_id = $1 AND marketplace = $2 AND lease_token = $3"
    " AND NOT EXISTS (SELECT FROM tenants t WHERE t.id = $1 AND t.archived)"
)
"""Who has lost the lease, or polls for a tenant that was archived meanwhile, changes nothing any more."""


async def upsert_schedule(conn: Conn, event: ConnectionConnected, interval_seconds: int) -> None:
    """Poll a connection at once and then in its slots; one that we know already stays in its own. A poll in hand was of
    the connection before.
    """
    await conn.execute(
        """
        INSERT INTO poll_schedules AS s (tenant_id, marketplace, connection_id, connected_at, interval_seconds)
        VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (tenant_id, marketplace) DO UPDATE
           SET connection_id = excluded.connection_id, connected_at = excluded.connected_at,
               interval_seconds = excluded.interval_seconds, next_due = clock_timestamp(), failures = 0,
               disconnected_at = NULL, rejected_at = NULL, lease_token = s.lease_token + 1, leased_until = NULL
         WHERE greatest(s.connected_at, s.disconnected_at) < excluded.connected_at
        """,
        event.tenant_id,
        event.marketplace,
        event.connection_id,
        event.connected_at,
        interval_seconds,
    )


async def disconnect(conn: Conn, event: ConnectionDisconnected, interval_seconds: int) -> None:
    """Let a schedule rest and end its lease, unless it was connected after that. One that we have not heard of yet
    gets a row, so that an older connection that is told late does not start it.
    """
    await conn.execute(
        """
        INSERT INTO poll_schedules AS s
               (tenant_id, marketplace, connection_id, connected_at, disconnected_at, interval_seconds)
        VALUES ($1, $2, $3, $4, $4, $5)
        ON CONFLICT (tenant_id, marketplace) DO UPDATE
           SET disconnected_at = excluded.disconnected_at, lease_token = s.lease_token + 1, leased_until = NULL
         WHERE greatest(s.connected_at, s.disconnected_at) <= excluded.disconnected_at
        """,
        event.tenant_id,
        event.marketplace,
        event.connection_id,
        event.at,
        interval_seconds,
    )


async def upsert_tenant(conn: Conn, event: TenantSynced) -> bool | None:
    """True when the tenant was archived and is no more; None when the event is older than what we know."""
    came_back: bool | None = await conn.fetchval(
        """
        INSERT INTO tenants AS t (id, archived, synced_at) VALUES ($1, $2, $3)
        ON CONFLICT (id) DO UPDATE SET archived = excluded.archived, synced_at = excluded.synced_at
         WHERE t.synced_at IS NULL OR t.synced_at < excluded.synced_at
        RETURNING coalesce(old.archived AND NOT new.archived, false)
        """,
        event.tenant_id,
        event.archived,
        event.synced_at,
    )
    return came_back


async def is_archived(pool: Pool, tenant_id: str) -> bool:
    return bool(await pool.fetchval("SELECT archived FROM tenants WHERE id = $1", tenant_id))


async def make_due(conn: Conn, tenant_id: str) -> None:
    """Poll at once; a poll in hand was of the time before."""
    await conn.execute(
        "UPDATE poll_schedules SET next_due = clock_timestamp(), failures = 0, lease_token = lease_token + 1,"
        " leased_until = NULL WHERE tenant_id = $1",
        tenant_id,
    )


async def get_now(pool: Pool) -> datetime:
    """The database's clock."""
    now: datetime = await pool.fetchval("SELECT now()")
    return now


async def claim_due(pool: Pool, limit: int, lease: timedelta, due_by: datetime | None = None) -> list[Lease]:
    """The schedules of connected accounts that have been due longest, now and by that time, of whichever tenants that
    are not archived, for the time of the lease.
    """
    # now() and not clock_timestamp(), which no index can be searched by.
    rows = await pool.fetch(
        """
        WITH due AS MATERIALIZED (
            SELECT tenant_id, marketplace FROM poll_schedules
             WHERE greatest(next_due, leased_until) <= least(now(), $3::timestamptz) AND disconnected_at IS NULL
               AND NOT EXISTS (SELECT FROM tenants t WHERE t.id = tenant_id AND t.archived)
             ORDER BY greatest(next_due, leased_until) LIMIT $1 FOR UPDATE SKIP LOCKED)
        UPDATE poll_schedules s SET leased_until = clock_timestamp() + $2, lease_token = lease_token + 1
          FROM due WHERE (s.tenant_id, s.marketplace) = (due.tenant_id, due.marketplace)
        RETURNING s.tenant_id, s.marketplace, s.lease_token AS token,
                  extract(epoch FROM clock_timestamp() - s.next_due)::float8 AS late_seconds
        """,
        limit,
        lease,
        due_by,
    )
    return [Lease(**row) for row in rows]


async def claim_schedule(pool: Pool, tenant_id: str, lease: timedelta) -> Lease | None:
    """A tenant's schedule, due or not; None while somebody else has it, the account is disconnected, or the tenant
    is archived.
    """
    row = await pool.fetchrow(
        "UPDATE poll_schedules SET leased_until = clock_timestamp() + $3, lease_token = lease_token + 1"
        " WHERE tenant_id = $1 AND marketplace = $2 AND (leased_until IS NULL OR leased_until < clock_timestamp())"
        " AND disconnected_at IS NULL AND NOT EXISTS (SELECT FROM tenants t WHERE t.id = tenant_id AND t.archived)"
        " RETURNING tenant_id, marketplace, lease_token AS token",
        tenant_id,
        AMAZON,
        lease,
    )
    return Lease(**row) if row else None


async def renew_lease(pool: Pool, held: Lease, lease: timedelta) -> bool:
    """False when the lease is lost."""
    renewed = await pool.fetchval(
        f"UPDATE poll_schedules SET leased_until = clock_timestamp() + $4 WHERE {_HELD} RETURNING true",  # noqa: S608 - constant
        held.tenant_id,
        held.marketplace,
        held.token,
        lease,
    )
    return renewed is not None


async def release_lease(pool: Pool, held: Lease) -> None:
    """The poll was given up: it is due again at once, for anybody."""
    await pool.execute(
        f"UPDATE poll_schedules SET leased_until = NULL WHERE {_HELD}",  # noqa: S608 - constant
        held.tenant_id,
        held.marketplace,
        held.token,
    )


async def finish_poll(conn: Conn | Pool, held: Lease) -> bool:
    """Give the lease back and go to the next slot that is still to come: missed ones are made up for by one poll.
    False when the lease is lost: roll back.
    """
    finished = await conn.fetchval(
        f"""
        UPDATE poll_schedules
           SET leased_until = NULL, failures = 0, rejected_at = NULL, last_success_at = clock_timestamp(),
               last_error = NULL, next_due = next_slot(tenant_id, interval_seconds, clock_timestamp())
         WHERE {_HELD} RETURNING true
        """,  # noqa: S608 - constant
        held.tenant_id,
        held.marketplace,
        held.token,
    )
    return finished is not None


async def get_cursor(pool: Pool, lease: Lease) -> tuple[Cursor | None, datetime]:
    """How far the connection in use has been looked at, and the time now."""
    row = await pool.fetchrow(
        "SELECT CASE WHEN message_cursor->>'connectionId' = connection_id::text THEN message_cursor END AS cursor,"
        " clock_timestamp() AS now FROM poll_schedules WHERE tenant_id = $1 AND marketplace = $2",
        lease.tenant_id,
        lease.marketplace,
    )
    return msgspec.convert(row["cursor"], Cursor | None), row["now"]


async def set_cursor(conn: Conn, lease: Lease, cursor: Cursor) -> None:
    await conn.execute(
        "UPDATE poll_schedules SET message_cursor = $3::jsonb || jsonb_build_object('connectionId', connection_id)"
        " WHERE tenant_id = $1 AND marketplace = $2",
        lease.tenant_id,
        lease.marketplace,
        msgspec.to_builtins(cursor),
    )


async def fail_poll(conn: Conn | Pool, held: Lease, error: str, *, rejected: bool = False) -> Failed | None:
    """Try again in a slot after a delay that grows with the failures, up to an hour, and is an hour where credentials
    were rejected. None when the lease is lost.
    """
    row = await conn.fetchrow(
        f"""
        UPDATE poll_schedules
           SET leased_until = NULL, failures = failures + 1, last_error = $4,
               rejected_at = CASE WHEN $5 THEN coalesce(rejected_at, clock_timestamp()) ELSE rejected_at END,
               next_due = next_slot(tenant_id, interval_seconds, clock_timestamp() + make_interval(secs => greatest(0,
                   CASE WHEN $5 OR rejected_at IS NOT NULL THEN 3600
                        ELSE least(3600, interval_seconds * 2 ^ least(failures, 10)) END - interval_seconds)))
         WHERE {_HELD}
        RETURNING connection_id, clock_timestamp() AS at, $5 AND old.rejected_at IS NULL AS newly_rejected
        """,  # noqa: S608 - constant
        held.tenant_id,
        held.marketplace,
        held.token,
        error,
        rejected,
    )
    return Failed(**row) if row else None


async def count_not_polled(pool: Pool) -> int:
    """Schedules that should have been polled by their next slot, and were not."""
    count: int = await pool.fetchval(
        "SELECT count(*) FROM poll_schedules WHERE next_due < now() - make_interval(secs => interval_seconds)"
        " AND disconnected_at IS NULL AND NOT EXISTS (SELECT FROM tenants t WHERE t.id = tenant_id AND t.archived)"
    )
    return count


async def list_schedules(pool: Pool, tenant_id: str) -> list[Schedule]:
    rows = await pool.fetch(
        "SELECT marketplace, interval_seconds, next_due, coalesce(leased_until > clock_timestamp(), false) AS running,"
        " failures, last_success_at, last_error, rejected_at, disconnected_at"
        " FROM poll_schedules WHERE tenant_id = $1 ORDER BY marketplace",
        tenant_id,
    )
    return [Schedule(**row) for row in rows]


async def replace_addresses(conn: Conn, event: TenantSynced) -> None:
    """The tenant's addresses as the event has them; one that it does not name any more takes no mail, nor does any of
    an archived tenant.
    """
    await conn.execute("UPDATE inbound_addresses SET enabled = false WHERE tenant_id = $1", event.tenant_id)
    await conn.execute(
        """
        INSERT INTO inbound_addresses AS i (email, tenant_id, marketplace, country, enabled, verified)
        SELECT DISTINCT ON (lower(email))
               lower(email), $1, marketplace, country, status <> 'DISABLED' AND NOT $6, status = 'ACTIVE'
          FROM unnest($2::text[], $3::text[], $4::text[], $5::text[]) a (email, marketplace, country, status)
         ORDER BY lower(email)
        ON CONFLICT (email) DO UPDATE
           SET tenant_id = excluded.tenant_id, marketplace = excluded.marketplace, country = excluded.country,
               enabled = excluded.enabled,
               verified = excluded.verified OR (i.verified AND i.tenant_id = excluded.tenant_id)
        """,
        event.tenant_id,
        [address.email for address in event.inbound_addresses],
        [address.marketplace for address in event.inbound_addresses],
        [address.country for address in event.inbound_addresses],
        [address.status for address in event.inbound_addresses],
        event.archived,
    )


async def list_addresses(conn: Conn, emails: Sequence[str]) -> dict[str, Address]:
    """Those of the addresses that are ours, by address."""
    rows = await conn.fetch(
        "SELECT email, tenant_id, marketplace, enabled, verified FROM inbound_addresses WHERE email = ANY ($1::text[])",
        list(emails),
    )
    return {row["email"]: Address(**row) for row in rows}


async def verify_address(conn: Conn, email: str) -> datetime | None:
    """A mail of the marketplace has come to it; when, if it is the first."""
    at: datetime | None = await conn.fetchval(
        "UPDATE inbound_addresses SET verified = true WHERE email = $1 AND NOT verified RETURNING clock_timestamp()",
        email,
    )
    return at


async def get_tenant_archived(conn: Conn, tenant_id: str) -> bool | None:
    """None when we have not heard of the tenant."""
    archived: bool | None = await conn.fetchval("SELECT archived FROM tenants WHERE id = $1", tenant_id)
    return archived
