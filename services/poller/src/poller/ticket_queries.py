"""The SQL of tickets and their messages. The tenant is in every WHERE, but where a ticket is in hand already."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from shared.db import Conn, Pool
from shared.events import MessageSource

from .domain import OPENS, REPLY_WITHIN, AttachmentFile, AttachmentInfo, IncomingMessage, Ticket, TicketMessage
from .mail import Attachment

_TICKET = (
    "id, tenant_id, marketplace, channel, language, external_order_id, subject, status, reply_by, last_message_at,"
    " created_at"
)
_OPENS = sorted(OPENS)


async def lock_conversations(conn: Conn, tenant_id: str, marketplace: str) -> None:
    """Two messages of a tenant's do not begin the same conversation at once, whichever source brings them."""
    await conn.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"conversations {marketplace} {tenant_id}"
    )


async def list_known(pool: Pool, tenant_id: str, marketplace: str, external_ids: Sequence[str]) -> set[str]:
    """Those of the messages that we have."""
    rows = await pool.fetch(
        "SELECT external_id FROM external_messages"
        " WHERE tenant_id = $1 AND marketplace = $2 AND external_id = ANY ($3::text[])",
        tenant_id,
        marketplace,
        list(external_ids),
    )
    return {row["external_id"] for row in rows}


async def insert_message(conn: Conn, tenant_id: str, marketplace: str, message: IncomingMessage) -> UUID | None:
    """None when we have it already."""
    message_id: UUID | None = await conn.fetchval(
        """
        INSERT INTO external_messages
               (tenant_id, marketplace, external_id, source, kind, external_order_id, buyer, subject, body, language,
                inbound_address, received_at, replies_to)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
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
        list(message.replies_to),
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
    """The conversation that a message belongs to, locked: that of the nearest message that it answers; else the
    latest one with the buyer, unless both name an order and not the same one; else the latest one about the order.
    Never one with another buyer.
    """
    ticket_id: UUID | None = await conn.fetchval(
        """
        SELECT t.id FROM tickets t JOIN (
            SELECT ticket_id AS id, 1 AS rank, array_position($3::text[], m.external_id) AS distance
              FROM external_messages m JOIN ticket_messages ON external_message_id = m.id
             WHERE m.tenant_id = $1 AND m.marketplace = $2 AND m.external_id = ANY ($3::text[])
            UNION ALL
            SELECT id, 2, CASE WHEN external_order_id = $5 THEN 1 ELSE 2 END FROM tickets
             WHERE tenant_id = $1 AND marketplace = $2 AND buyer = $4
               AND coalesce(external_order_id = $5, true)
            UNION ALL
            SELECT id, 3, 1 FROM tickets
             WHERE tenant_id = $1 AND marketplace = $2 AND external_order_id = $5
        ) found USING (id)
         WHERE coalesce(t.buyer = $4, true)
         ORDER BY rank, distance, last_message_at DESC, t.id DESC LIMIT 1 FOR UPDATE OF t
        """,
        tenant_id,
        marketplace,
        list(message.replies_to),
        message.buyer,
        message.external_order_id,
    )
    return ticket_id


async def insert_ticket(conn: Conn, tenant_id: str, marketplace: str, message: IncomingMessage) -> UUID:
    """A new conversation."""
    ticket_id: UUID = await conn.fetchval(
        """
        INSERT INTO tickets (tenant_id, marketplace, channel, buyer, external_order_id, subject, last_message_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id
        """,
        tenant_id,
        marketplace,
        message.source,
        message.buyer,
        message.external_order_id,
        message.subject,
        message.received_at,
    )
    return ticket_id


async def complete_ticket(conn: Conn, ticket_id: UUID, message: IncomingMessage) -> None:
    """A message may say what the ones before it did not: who the buyer is, which order it is about."""
    await conn.execute(
        "UPDATE tickets SET external_order_id = coalesce(external_order_id, $2), buyer = coalesce(buyer, $3)"
        " WHERE id = $1",
        ticket_id,
        message.external_order_id,
        message.buyer,
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


async def set_loose(conn: Conn, message_id: UUID) -> None:
    """It came before what it belongs to, or belongs to nothing."""
    await conn.execute("UPDATE external_messages SET is_loose = true WHERE id = $1", message_id)


async def adopt_messages(conn: Conn, ticket_id: UUID) -> int:
    """The loose messages that answer one of the ticket's or are about its order join it; how many."""
    adopted = await conn.fetch(
        """
        WITH adopted AS (
            UPDATE external_messages m SET is_loose = false
              FROM tickets t
             WHERE t.id = $1 AND m.tenant_id = t.tenant_id AND m.marketplace = t.marketplace AND m.is_loose
               AND (m.external_order_id = t.external_order_id
                    OR m.replies_to && ARRAY (SELECT e.external_id FROM ticket_messages JOIN external_messages e
                                                  ON e.id = external_message_id WHERE ticket_id = $1))
            RETURNING m.id, m.kind, m.body, m.received_at)
        INSERT INTO ticket_messages (ticket_id, external_message_id, kind, body, sent_at)
        SELECT $1, id, kind, body, received_at FROM adopted RETURNING id
        """,
        ticket_id,
    )
    return len(adopted)


async def settle_ticket(conn: Conn, ticket_id: UUID) -> datetime | None:
    """Make the ticket what its messages say, in whatever order they came, and when to answer by. What wants an answer
    waits for it until the seller writes later than that, or a person closes the ticket after it came to us.
    """
    due: datetime | None = await conn.fetchval(
        """
        WITH messages AS (
            SELECT m.sent_at, m.kind = ANY ($2::text[]) AS opens, m.created_at, e.external_id, e.subject, e.language,
                   coalesce(max(m.sent_at) FILTER (WHERE m.kind = 'SELLER_REPLY') OVER (), '-infinity') AS replied_at
              FROM ticket_messages m JOIN external_messages e ON e.id = m.external_message_id WHERE ticket_id = $1)
        UPDATE tickets t
           SET status = CASE WHEN since_closed = 0 THEN 'CLOSED' WHEN waits_since IS NULL THEN 'ANSWERED'
                             ELSE 'OPEN' END,
               reply_by = waits_since + $3::interval, last_message_at = latest, updated_at = clock_timestamp(),
               subject = subjects[1], language = languages[1]
          FROM (SELECT max(sent_at) AS latest,
                       count(*) FILTER (WHERE opens AND is_new) AS since_closed,
                       min(sent_at) FILTER (WHERE opens AND is_new AND sent_at > replied_at) AS waits_since,
                       array_agg(subject ORDER BY sent_at, external_id) FILTER (WHERE opens) AS subjects,
                       array_agg(language ORDER BY sent_at, external_id)
                           FILTER (WHERE opens AND language IS NOT NULL) AS languages
                  FROM (SELECT messages.*, coalesce(messages.created_at > closed_at, true) AS is_new
                          FROM messages, tickets WHERE id = $1) judged) summary
         WHERE id = $1 RETURNING reply_by
        """,
        ticket_id,
        _OPENS,
        REPLY_WITHIN,
    )
    return due


async def close_ticket(pool: Pool, tenant_id: str, ticket_id: UUID) -> Ticket | None:
    """What is there by now waits no more."""
    row = await pool.fetchrow(
        "UPDATE tickets SET status = 'CLOSED', reply_by = NULL, closed_at = clock_timestamp(),"  # noqa: S608 - constant
        f" updated_at = clock_timestamp() WHERE tenant_id = $1 AND id = $2 RETURNING {_TICKET}",
        tenant_id,
        ticket_id,
    )
    return Ticket(**row) if row else None


async def list_tickets(
    pool: Pool,
    tenant_id: str,
    *,
    limit: int,
    before: tuple[datetime, UUID] | None = None,
    status: str | None = None,
    overdue: bool | None = None,
    order: str | None = None,
    channel: MessageSource | None = None,
) -> list[Ticket]:
    """The latest first; before is the place of the last ticket of the page before."""
    statement, arguments = select_tickets(
        tenant_id, limit=limit, before=before, status=status, overdue=overdue, order=order, channel=channel
    )
    return [Ticket(**row) for row in await pool.fetch(statement, *arguments)]


def select_tickets(
    tenant_id: str,
    *,
    limit: int,
    before: tuple[datetime, UUID] | None,
    status: str | None,
    overdue: bool | None,
    order: str | None,
    channel: MessageSource | None,
) -> tuple[str, Sequence[object]]:
    """Only the conditions that are asked for, so that every one of them finds its index."""
    where, arguments = ["tenant_id = $1"], [tenant_id, limit]
    for column, value in (("status", status), ("external_order_id", order), ("channel", channel)):
        if value is not None:
            arguments.append(value)
            where.append(f"{column} = ${len(arguments)}")
    if before is not None:
        arguments += before
        where.append(f"(last_message_at, id) < (${len(arguments) - 1}, ${len(arguments)})")
    if overdue is not None:
        is_overdue = "(status = 'OPEN' AND reply_by < now())"
        where.append(is_overdue if overdue else f"{is_overdue} IS NOT TRUE")
    statement = f"SELECT {_TICKET} FROM tickets WHERE {' AND '.join(where)}"  # noqa: S608 - constants
    return f"{statement} ORDER BY last_message_at DESC, id DESC LIMIT $2", arguments


async def get_ticket(pool: Pool, tenant_id: str, ticket_id: UUID) -> tuple[Ticket, list[TicketMessage]] | None:
    row = await pool.fetchrow(
        f"SELECT {_TICKET} FROM tickets WHERE tenant_id = $1 AND id = $2",  # noqa: S608 - a constant list of columns
        tenant_id,
        ticket_id,
    )
    if row is None:
        return None
    messages = await pool.fetch(
        "SELECT id, kind, body, sent_at FROM ticket_messages WHERE ticket_id = $1 ORDER BY sent_at, id", ticket_id
    )
    attachments = await pool.fetch(
        "SELECT m.id AS message, a.id, name, media_type, size_bytes, sha256"
        " FROM ticket_messages m JOIN attachments a USING (external_message_id) WHERE ticket_id = $1 ORDER BY a.id",
        ticket_id,
    )
    files: dict[UUID, list[AttachmentInfo]] = {}
    for message, *attachment in attachments:
        files.setdefault(message, []).append(AttachmentInfo(*attachment))
    return Ticket(**row), [TicketMessage(**each, attachments=files.get(each["id"], [])) for each in messages]


async def get_attachment(pool: Pool, tenant_id: str, ticket_id: UUID, attachment_id: UUID) -> AttachmentFile | None:
    row = await pool.fetchrow(
        "SELECT name, content FROM tickets t JOIN ticket_messages m ON m.ticket_id = t.id"
        " JOIN attachments a USING (external_message_id) WHERE t.tenant_id = $1 AND t.id = $2 AND a.id = $3",
        tenant_id,
        ticket_id,
        attachment_id,
    )
    return AttachmentFile(**row) if row else None


async def get_last_message(pool: Pool, tenant_id: str) -> tuple[datetime, MessageSource] | None:
    """When the tenant's latest message came, and by which source."""
    row = await pool.fetchrow(
        "SELECT received_at, source FROM external_messages WHERE tenant_id = $1 ORDER BY received_at DESC LIMIT 1",
        tenant_id,
    )
    return (row["received_at"], MessageSource(row["source"])) if row else None
