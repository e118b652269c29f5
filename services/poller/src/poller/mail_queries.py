"""The SQL of mailboxes and of the quarantine, which belong to no tenant."""

from datetime import datetime, timedelta
from uuid import UUID

from shared.db import Conn, Pool

from .domain import Fetched, HeldMail, MailboxLease, MailboxState, Quarantined, QuarantineReason, QuarantineState

_QUARANTINED = "id, reason, state, mailbox, tenant_id, received_at, headers, created_at, decided_at, decided_by"


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
    pool: Pool,
    *,
    limit: int,
    before: tuple[datetime, UUID] | None,
    state: str | None,
    mailbox: str | None = None,
    tenant_id: str | None = None,
) -> list[Quarantined]:
    """The latest first, of every tenant and of none."""
    before_at, before_id = before or (None, None)
    rows = await pool.fetch(
        f"SELECT {_QUARANTINED} FROM quarantined_mails"  # noqa: S608 - a constant list of columns
        " WHERE ($2::timestamptz IS NULL OR (created_at, id) < ($2, $3::uuid)) AND ($4::text IS NULL OR state = $4)"
        " AND ($5::text IS NULL OR mailbox = $5) AND ($6::text IS NULL OR tenant_id = $6)"
        " ORDER BY created_at DESC, id DESC LIMIT $1",
        limit,
        before_at,
        before_id,
        state,
        mailbox,
        tenant_id,
    )
    return [Quarantined(**row) for row in rows]


async def get_quarantined(pool: Pool, quarantined_id: UUID) -> Quarantined | None:
    row = await pool.fetchrow(
        f"SELECT {_QUARANTINED} FROM quarantined_mails WHERE id = $1",  # noqa: S608 - a constant list of columns
        quarantined_id,
    )
    return Quarantined(**row) if row else None


async def lock_quarantined(conn: Conn, quarantined_id: UUID) -> HeldMail | None:
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
