"""All SQL. conn: inside the caller's transaction; pool: a statement of its own. The tenant is in every WHERE."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from shared.db import Conn, Pool
from shared.events import AMAZON, ConnectionConnected, ConnectionDisconnected, TenantSynced

from .domain import (
    REPLY_WITHIN,
    Address,
    Fetched,
    IncomingMessage,
    Lease,
    MailboxLease,
    QuarantineReason,
    Schedule,
    Ticket,
    TicketMessage,
    reply_by,
)
from .mail import Attachment

_TICKET = "id, tenant_id, marketplace, external_order_id, subject, status, reply_by, last_message_at, created_at"


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


async def lock_conversations(conn: Conn, tenant_id: str, marketplace: str) -> None:
    """Two messages of a tenant's do not begin the same conversation at once, whichever source brings them."""
    await conn.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"conversations {marketplace} {tenant_id}"
    )


async def insert_message(conn: Conn, tenant_id: str, marketplace: str, message: IncomingMessage) -> UUID | None:
    """None when we have it already."""
    message_id: UUID | None = await conn.fetchval(
        """
        INSERT INTO external_messages
               (tenant_id, marketplace, external_id, source, kind, external_order_id, buyer, subject, body, language,
                inbound_address, received_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
        ON CONFLICT (tenant_id, marketplace, external_id) DO NOTHING RETURNING id
        """,
        tenant_id,
        marketplace,
        message.external_id,
        message.source,
        message.kind,
        message.external_order_id,
        message.buyer,
        message.subject,
        message.body,
        message.language,
        message.inbound_address,
        message.received_at,
    )
    return message_id


async def insert_attachment(conn: Conn, message_id: UUID, attachment: Attachment) -> None:
    await conn.execute(
        "INSERT INTO attachments (external_message_id, name, media_type, size_bytes, sha256, content)"
        " VALUES ($1, $2, $3, $4, $5, $6)",
        message_id,
        attachment.name,
        attachment.media_type,
        attachment.size_bytes,
        attachment.sha256,
        attachment.content,
    )


async def find_ticket(conn: Conn, tenant_id: str, marketplace: str, message: IncomingMessage) -> UUID | None:
    """The conversation that a message belongs to, locked: that of the message it answers; else the latest one with
    the buyer, unless both name an order and not the same one; else the latest one about the order, where one of the
    two does not say whose it is.
    """
    ticket_id: UUID | None = await conn.fetchval(
        """
        SELECT t.id FROM tickets t JOIN (
            SELECT ticket_id AS id, 1 AS rank FROM ticket_messages
              JOIN external_messages m ON m.id = external_message_id
             WHERE m.tenant_id = $1 AND m.marketplace = $2 AND m.external_id = ANY ($3::text[])
            UNION ALL
            SELECT id, 2 FROM tickets
             WHERE tenant_id = $1 AND marketplace = $2 AND buyer = $4
               AND coalesce(external_order_id = $5, true)
            UNION ALL
            SELECT id, 3 FROM tickets
             WHERE tenant_id = $1 AND marketplace = $2 AND external_order_id = $5 AND coalesce(buyer = $4, true)
        ) found USING (id)
        ORDER BY rank, last_message_at DESC, t.id DESC LIMIT 1 FOR UPDATE OF t
        """,
        tenant_id,
        marketplace,
        list(message.replies_to),
        message.buyer,
        message.external_order_id,
    )
    return ticket_id


async def insert_ticket(
    conn: Conn, tenant_id: str, marketplace: str, message: IncomingMessage
) -> tuple[UUID, datetime]:
    """A new conversation, and when to answer by."""
    row = await conn.fetchrow(
        """
        INSERT INTO tickets
               (tenant_id, marketplace, channel, buyer, external_order_id, subject, language, reply_by, last_message_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING id, reply_by
        """,
        tenant_id,
        marketplace,
        message.source,
        message.buyer,
        message.external_order_id,
        message.subject,
        message.language,
        reply_by(message.received_at),
        message.received_at,
    )
    return row["id"], row["reply_by"]


async def open_ticket(conn: Conn, ticket_id: UUID, message: IncomingMessage) -> datetime | None:
    """A message more, and when to answer by: the earliest of what waits counts. One that the seller had answered
    before it came to us opens nothing.
    """
    due: datetime | None = await conn.fetchval(
        """
        UPDATE tickets t
           SET status = CASE WHEN answered THEN t.status ELSE 'OPEN' END,
               reply_by = CASE WHEN answered THEN t.reply_by
                               WHEN t.status = 'OPEN' THEN least(t.reply_by, $2) ELSE $2 END,
               last_message_at = greatest(last_message_at, $3),
               external_order_id = coalesce(external_order_id, $4), buyer = coalesce(buyer, $5),
               language = coalesce(language, $6), updated_at = clock_timestamp()
          FROM (SELECT EXISTS (SELECT FROM ticket_messages
                                WHERE ticket_id = $1 AND kind = 'SELLER_REPLY' AND sent_at >= $3) AS answered) a
         WHERE id = $1 RETURNING reply_by
        """,
        ticket_id,
        reply_by(message.received_at),
        message.received_at,
        message.external_order_id,
        message.buyer,
        message.language,
    )
    return due


async def answer_ticket(conn: Conn, ticket_id: UUID, message: IncomingMessage) -> None:
    """The seller has answered; what came from the buyer after that still waits."""
    await conn.execute(
        """
        UPDATE tickets t
           SET status = CASE WHEN waits IS NULL THEN 'ANSWERED' ELSE t.status END,
               reply_by = CASE WHEN waits IS NULL THEN NULL ELSE waits + $3::interval END,
               last_message_at = greatest(last_message_at, $2), updated_at = clock_timestamp()
          FROM (SELECT min(sent_at) AS waits FROM ticket_messages
                 WHERE ticket_id = $1 AND kind <> 'SELLER_REPLY' AND sent_at > $2) m
         WHERE id = $1 AND t.status <> 'CLOSED'
        """,
        ticket_id,
        message.received_at,
        REPLY_WITHIN,
    )


async def insert_ticket_message(conn: Conn, ticket_id: UUID, message_id: UUID, message: IncomingMessage) -> None:
    await conn.execute(
        "INSERT INTO ticket_messages (ticket_id, external_message_id, kind, body, sent_at) VALUES ($1, $2, $3, $4, $5)",
        ticket_id,
        message_id,
        message.kind,
        message.body,
        message.received_at,
    )


async def replace_addresses(conn: Conn, event: TenantSynced) -> None:
    """The tenant's addresses as the event has them; one that it does not name any more takes no mail."""
    await conn.execute("UPDATE inbound_addresses SET enabled = false WHERE tenant_id = $1", event.tenant_id)
    await conn.execute(
        """
        INSERT INTO inbound_addresses (email, tenant_id, marketplace, country, enabled)
        SELECT lower(email), $1, marketplace, country, status <> 'DISABLED'
          FROM unnest($2::text[], $3::text[], $4::text[], $5::text[]) a (email, marketplace, country, status)
        ON CONFLICT (email) DO UPDATE
           SET tenant_id = excluded.tenant_id, marketplace = excluded.marketplace, country = excluded.country,
               enabled = excluded.enabled
        """,
        event.tenant_id,
        [address.email for address in event.inbound_addresses],
        [address.marketplace for address in event.inbound_addresses],
        [address.country for address in event.inbound_addresses],
        [address.status for address in event.inbound_addresses],
    )


async def list_addresses(conn: Conn, emails: Sequence[str]) -> dict[str, Address]:
    """Those of the addresses that are ours, by address."""
    rows = await conn.fetch(
        "SELECT email, tenant_id, marketplace, enabled FROM inbound_addresses WHERE email = ANY ($1::text[])",
        list(emails),
    )
    return {row["email"]: Address(**row) for row in rows}


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


async def list_tickets(
    pool: Pool, tenant_id: str, *, limit: int, before: tuple[datetime, UUID] | None, status: str | None
) -> list[Ticket]:
    """The latest first; before is the place of the last ticket of the page before."""
    before_at, before_id = before or (None, None)
    rows = await pool.fetch(
        f"SELECT {_TICKET} FROM tickets WHERE tenant_id = $1"  # noqa: S608 - a constant list of columns
        " AND ($2::timestamptz IS NULL OR (last_message_at, id) < ($2, $3::uuid))"
        " AND ($4::text IS NULL OR status = $4)"
        " ORDER BY last_message_at DESC, id DESC LIMIT $5",
        tenant_id,
        before_at,
        before_id,
        status,
        limit,
    )
    return [Ticket(**row) for row in rows]


async def get_ticket(pool: Pool, tenant_id: str, ticket_id: UUID) -> tuple[Ticket, list[TicketMessage]] | None:
    row = await pool.fetchrow(
        f"SELECT {_TICKET} FROM tickets WHERE tenant_id = $1 AND id = $2",  # noqa: S608 - as above
        tenant_id,
        ticket_id,
    )
    if row is None:
        return None
    messages = await pool.fetch(
        "SELECT id, body, sent_at FROM ticket_messages WHERE ticket_id = $1 ORDER BY sent_at, id", ticket_id
    )
    return Ticket(**row), [TicketMessage(**message) for message in messages]
