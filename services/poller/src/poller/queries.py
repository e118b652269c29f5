"""All SQL but that of tickets. conn: inside the caller's transaction; pool: a statement of its own. The tenant is in
every WHERE.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from shared.db import Conn, Pool
from shared.events import AMAZON, ConnectionConnected, ConnectionDisconnected, TenantSynced

from .domain import (
    Address,
    Fetched,
    HeldMail,
    Lease,
    MailboxLease,
    MailboxState,
    Quarantined,
    QuarantineReason,
    QuarantineState,
    Schedule,
)

_QUARANTINED = "id, reason, state, mailbox, tenant_id, received_at, headers, created_at, decided_at, decided_by"


async def upsert_schedule(conn: Conn, event: ConnectionConnected, interval_seconds: int) -> None:
    """Poll a connection at once and then on its grid; one that we know already stays on its own. A poll in hand was of
    the connection before.
    """
    await conn.execute(
        """
        INSERT INTO poll_schedules AS s (tenant_id, marketplace, connection_id, connected_at, interval_seconds)
        VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (tenant_id, marketplace) DO UPDATE
           SET connection_id = excluded.connection_id, connected_at = excluded.connected_at,
               interval_seconds = excluded.interval_seconds, next_due = clock_timestamp(), failures = 0,
               disconnected_at = NULL, lease_token = s.lease_token + 1, leased_until = NULL
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
    await conn.execute(
        "UPDATE poll_schedules SET next_due = clock_timestamp(), failures = 0 WHERE tenant_id = $1", tenant_id
    )


async def claim_due(pool: Pool, limit: int, lease: timedelta) -> list[Lease]:
    """The schedules of connected accounts that have been due longest, of whichever tenants that are not archived, for
    the time of the lease.
    """
    rows = await pool.fetch(
        """
        UPDATE poll_schedules s SET leased_until = clock_timestamp() + $2, lease_token = lease_token + 1
          FROM (SELECT tenant_id, marketplace FROM poll_schedules
                 WHERE greatest(next_due, leased_until) <= clock_timestamp() AND disconnected_at IS NULL
                   AND NOT EXISTS (SELECT FROM tenants t WHERE t.id = tenant_id AND t.archived)
                 ORDER BY greatest(next_due, leased_until) LIMIT $1 FOR UPDATE SKIP LOCKED) due
         WHERE (s.tenant_id, s.marketplace) = (due.tenant_id, due.marketplace)
        RETURNING s.tenant_id, s.marketplace, s.lease_token AS token
        """,
        limit,
        lease,
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


async def finish_poll(conn: Conn, lease: Lease) -> bool:
    """Give the lease back and go to the next slot of the grid that is still to come: missed ones are made up for by
    one poll. False when the lease is lost: roll back.
    """
    finished = await conn.fetchval(
        """
        UPDATE poll_schedules
           SET leased_until = NULL, failures = 0, last_success_at = clock_timestamp(), last_error = NULL,
               next_due = next_due + make_interval(secs => interval_seconds * greatest(0, ceil(
                   extract(epoch FROM clock_timestamp() - next_due) / interval_seconds)))
         WHERE tenant_id = $1 AND marketplace = $2 AND lease_token = $3 RETURNING true
        """,
        lease.tenant_id,
        lease.marketplace,
        lease.token,
    )
    return finished is not None


async def fail_poll(conn: Conn | Pool, lease: Lease, error: str) -> tuple[UUID, datetime] | None:
    """Try again after a delay that grows with the failures, up to an hour. Which connection failed, and when; None
    when the lease is lost.
    """
    row = await conn.fetchrow(
        "UPDATE poll_schedules SET leased_until = NULL, failures = failures + 1, last_error = $4,"
        " next_due = clock_timestamp() + make_interval(secs => least(3600, interval_seconds * 2 ^ least(failures, 10)))"
        " WHERE tenant_id = $1 AND marketplace = $2 AND lease_token = $3"
        " RETURNING connection_id, clock_timestamp() AS at",
        lease.tenant_id,
        lease.marketplace,
        lease.token,
        error,
    )
    return (row["connection_id"], row["at"]) if row else None


async def list_schedules(pool: Pool, tenant_id: str) -> list[Schedule]:
    rows = await pool.fetch(
        "SELECT marketplace, interval_seconds, next_due, coalesce(leased_until > clock_timestamp(), false) AS running,"
        " failures, last_success_at, last_error, disconnected_at"
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


async def claim_mailbox(pool: Pool, name: str, lease: timedelta) -> MailboxLease | None:
    """None while another replica has it. The first time makes its row."""
    row = await pool.fetchrow(
        """
        INSERT INTO mailboxes AS m (name, leased_until, lease_token) VALUES ($1, clock_timestamp() + $2, 1)
        ON CONFLICT (name) DO UPDATE SET leased_until = excluded.leased_until, lease_token = m.lease_token + 1
         WHERE m.leased_until IS NULL OR m.leased_until < clock_timestamp()
        RETURNING name, lease_token AS token, uid_validity, last_uid
        """,
        name,
        lease,
    )
    return MailboxLease(**row) if row else None


async def renew_mailbox(pool: Pool, held: MailboxLease, lease: timedelta, error: str | None = None) -> bool:
    """Keep a mailbox, and say that all is read that there was, or what keeps us from it. False when it is lost."""
    renewed = await pool.fetchval(
        "UPDATE mailboxes SET leased_until = clock_timestamp() + $3, last_error = $4,"
        " last_read_at = CASE WHEN $4::text IS NULL THEN clock_timestamp() ELSE last_read_at END"
        " WHERE name = $1 AND lease_token = $2 RETURNING true",
        held.name,
        held.token,
        lease,
        error,
    )
    return renewed is not None


async def release_mailbox(pool: Pool, held: MailboxLease) -> None:
    await pool.execute(
        "UPDATE mailboxes SET leased_until = NULL WHERE name = $1 AND lease_token = $2", held.name, held.token
    )


async def advance_mailbox(conn: Conn, held: MailboxLease, uid_validity: int, uid: int) -> bool:
    """All up to this one is stored. False when the lease is lost: roll back."""
    advanced = await conn.fetchval(
        "UPDATE mailboxes SET uid_validity = $3, last_uid = $4, last_mail_at = clock_timestamp()"
        " WHERE name = $1 AND lease_token = $2 RETURNING true",
        held.name,
        held.token,
        uid_validity,
        uid,
    )
    return advanced is not None


async def insert_quarantined(
    conn: Conn,
    digest: bytes,
    mailbox: str,
    reason: QuarantineReason,
    tenant_id: str | None,
    headers: dict[str, list[str]],
    mail: Fetched,
) -> bool:
    """False when this very mail is, or was, there already."""
    inserted = await conn.fetchval(
        "INSERT INTO quarantined_mails (digest, mailbox, reason, tenant_id, headers, raw, received_at)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (digest) DO NOTHING RETURNING true",
        digest,
        mailbox,
        reason,
        tenant_id,
        headers,
        mail.raw,
        mail.received_at,
    )
    return inserted is not None


async def list_quarantined(
    pool: Pool, *, limit: int, before: tuple[datetime, UUID] | None, state: str | None
) -> list[Quarantined]:
    """The latest first, of every tenant and of none."""
    before_at, before_id = before or (None, None)
    rows = await pool.fetch(
        f"SELECT {_QUARANTINED} FROM quarantined_mails"  # noqa: S608 - a constant list of columns
        " WHERE ($2::timestamptz IS NULL OR (created_at, id) < ($2, $3::uuid)) AND ($4::text IS NULL OR state = $4)"
        " ORDER BY created_at DESC, id DESC LIMIT $1",
        limit,
        before_at,
        before_id,
        state,
    )
    return [Quarantined(**row) for row in rows]


async def get_quarantined(conn: Conn, quarantined_id: UUID) -> HeldMail | None:
    """Locked: it is decided on once."""
    row = await conn.fetchrow(
        "SELECT state, reason, received_at, raw FROM quarantined_mails WHERE id = $1 FOR UPDATE", quarantined_id
    )
    return HeldMail(**row) if row else None


async def decide_quarantined(
    conn: Conn, quarantined_id: UUID, state: QuarantineState, tenant_id: str | None, by: str
) -> Quarantined:
    """Decided: its content is not kept any longer."""
    row = await conn.fetchrow(
        "UPDATE quarantined_mails SET state = $2, tenant_id = coalesce($3, tenant_id), raw = NULL,"  # noqa: S608 - constant
        f" decided_at = clock_timestamp(), decided_by = $4 WHERE id = $1 RETURNING {_QUARANTINED}",
        quarantined_id,
        state,
        tenant_id,
        by,
    )
    return Quarantined(**row)


async def get_tenant_archived(conn: Conn, tenant_id: str) -> bool | None:
    """None when we have not heard of the tenant."""
    archived: bool | None = await conn.fetchval("SELECT archived FROM tenants WHERE id = $1", tenant_id)
    return archived


async def list_mailboxes(pool: Pool) -> list[MailboxState]:
    rows = await pool.fetch("SELECT name, last_read_at, last_mail_at, last_error FROM mailboxes ORDER BY name")
    return [MailboxState(**row) for row in rows]


async def count_waiting(pool: Pool) -> tuple[int, int]:
    """Of all tenants: tickets whose answer is overdue, and mails that are held."""
    row = await pool.fetchrow(
        "SELECT (SELECT count(*) FROM tickets WHERE status = 'OPEN' AND reply_by < now()),"
        " (SELECT count(*) FROM quarantined_mails WHERE state = 'HELD')"
    )
    overdue, held = row
    return overdue, held
