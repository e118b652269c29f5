"""The SQL of tickets and their messages. The tenant is in every WHERE, but where a ticket is in hand already."""

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from shared.db import Conn, Pool
from shared.events import MessageSource

from .domain import (
    OPENS,
    REPLY_WITHIN,
    AttachmentFile,
    AttachmentInfo,
    Incoming,
    IncomingMessage,
    Ticket,
    TicketMessage,
)
from .mail import Attachment

_TICKET = (
    "id, tenant_id, marketplace, channel, language, external_order_id, subject, status, reply_by, last_message_at,"
    " created_at"
)
_OPENS = sorted(OPENS)


async def lock_conversations(conn: Conn, conversations: Collection[tuple[str, str]]) -> None:
    """Two messages of a tenant's do not begin the same conversation at once, whichever source brings them. In one
    order for all who lock.
    """
    await conn.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended(name, 0)) FROM unnest($1::text[]) AS name",
        [f"conversations {marketplace} {tenant_id}" for tenant_id, marketplace in sorted(conversations)],
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


async def insert_messages(conn: Conn, incoming: Sequence[Incoming]) -> list[UUID | None]:
    """The id of each, in their order; None for one that we have already."""
    rows = await conn.fetchmany(
        """
        INSERT INTO external_messages
               (tenant_id, marketplace, external_id, source, kind, external_order_id, buyer, subject, body, language,
                inbound_address, received_at, replies_to)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
        ON CONFLICT (tenant_id, marketplace, external_id) DO NOTHING RETURNING id, tenant_id, marketplace, external_id
        """,
        [
            (
                each.tenant_id,
                each.marketplace,
                each.message.external_id,
                each.message.source,
                each.message.kind,
                each.message.external_order_id,
                each.message.buyer,
                each.message.subject,
                each.message.body,
                each.message.language,
                each.message.inbound_address,
                each.message.received_at,
                list(each.message.replies_to),
            )
            for each in incoming
        ],
    )
    ids = {(row["tenant_id"], row["marketplace"], row["external_id"]): row["id"] for row in rows}
    return [ids.pop((*each.conversations, each.message.external_id), None) for each in incoming]


async def insert_attachments(conn: Conn, attachments: Sequence[tuple[UUID, Attachment]]) -> None:
    """With the message that each belongs to."""
    if attachments:
        await conn.executemany(
            "INSERT INTO attachments (external_message_id, name, media_type, size_bytes, sha256, content)"
            " VALUES ($1, $2, $3, $4, $5, $6)",
            [
                (message_id, each.name, each.media_type, each.size_bytes, each.sha256, each.content)
                for message_id, each in attachments
            ],
        )


async def list_with_loose(conn: Conn, conversations: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
    """Which of them have messages that wait for what they belong to."""
    rows = await conn.fetch(
        "SELECT tenant_id, marketplace FROM unnest($1::text[], $2::text[]) AS c (tenant_id, marketplace)"
        " WHERE EXISTS (SELECT FROM external_messages m WHERE is_loose"
        " AND (m.tenant_id, m.marketplace) = (c.tenant_id, c.marketplace))",
        *map(list, zip(*conversations, strict=True)),
    )
    return {(row["tenant_id"], row["marketplace"]) for row in rows}


async def find_ticket(conn: Conn, incoming: Incoming) -> UUID | None:
    """The conversation that a message belongs to, locked: that of the nearest message that it answers; else the
    latest one with the buyer, unless both name an order and not the same one; else the latest one about the order.
    Never one with another buyer.
    """
    ticket_id: UUID | None = await conn.fetchval(
        """
        SELECT t.id FROM tickets t JOIN (
            SELECT ticket_id AS id, 1 AS rank, distance
              FROM unnest($3::text[]) WITH ORDINALITY answered (external_id, distance)
              JOIN external_messages m USING (external_id) JOIN ticket_messages ON external_message_id = m.id
             WHERE m.tenant_id = $1 AND m.marketplace = $2
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
        incoming.tenant_id,
        incoming.marketplace,
        list(incoming.message.replies_to),
        incoming.message.buyer,
        incoming.message.external_order_id,
    )
    return ticket_id


async def insert_ticket(conn: Conn, incoming: Incoming, message_id: UUID) -> UUID:
    """A new conversation, begun by a message."""
    message = incoming.message
    ticket_id: UUID = await conn.fetchval(
        """
        WITH ticket AS (
            INSERT INTO tickets (tenant_id, marketplace, channel, buyer, external_order_id, subject, last_message_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id)
        INSERT INTO ticket_messages (ticket_id, external_message_id, kind, body, sent_at)
        SELECT id, $8, $9, $10, $7 FROM ticket RETURNING ticket_id
        """,
        incoming.tenant_id,
        incoming.marketplace,
        message.source,
        message.buyer,
        message.external_order_id,
        message.subject,
        message.received_at,
        message_id,
        message.kind,
        message.body,
    )
    return ticket_id


async def join_ticket(
    conn: Conn, ticket_id: UUID, message_id: UUID, message: IncomingMessage, *, completes: bool
) -> None:
    """One message more. completes: it may say who the buyer is and which order it is about, where none did before."""
    await conn.execute(
        """
        WITH completed AS (
            UPDATE tickets SET external_order_id = coalesce(external_order_id, $6), buyer = coalesce(buyer, $7),
                               last_message_at = greatest(last_message_at, $5)
             WHERE id = $1)
        INSERT INTO ticket_messages (ticket_id, external_message_id, kind, body, sent_at) VALUES ($1, $2, $3, $4, $5)
        """,
        ticket_id,
        message_id,
        message.kind,
        message.body,
        message.received_at,
        message.external_order_id if completes else None,
        message.buyer if completes else None,
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
            RETURNING m.id, m.kind, m.body, m.received_at),
        later AS (
            UPDATE tickets SET last_message_at = greatest(last_message_at, (SELECT max(received_at) FROM adopted))
             WHERE id = $1 AND EXISTS (SELECT FROM adopted))
        INSERT INTO ticket_messages (ticket_id, external_message_id, kind, body, sent_at)
        SELECT $1, id, kind, body, received_at FROM adopted RETURNING id
        """,
        ticket_id,
    )
    return len(adopted)


async def settle_tickets(conn: Conn, ticket_ids: Collection[UUID]) -> dict[UUID, datetime | None]:
    """Make tickets what their messages say, in whatever order they came, and when to answer each by. What wants an
    answer waits for it until the seller writes later than that, or a person closes the ticket after it came to us.
    """
    rows = await conn.fetch(
        """
        WITH messages AS (
            SELECT ticket_id, m.sent_at, m.kind = ANY ($2::text[]) AS opens, e.external_id, e.subject, e.language,
                   coalesce(m.created_at > closed_at, true) AS is_new,
                   coalesce(max(m.sent_at) FILTER (WHERE m.kind = 'SELLER_REPLY') OVER (PARTITION BY ticket_id),
                            '-infinity') AS replied_at
              FROM tickets t JOIN ticket_messages m ON m.ticket_id = t.id
              JOIN external_messages e ON e.id = m.external_message_id WHERE t.id = ANY ($1::uuid[]))
        UPDATE tickets t
           SET status = CASE WHEN since_closed = 0 THEN 'CLOSED' WHEN waits_since IS NULL THEN 'ANSWERED'
                             ELSE 'OPEN' END,
               reply_by = waits_since + $3::interval, last_message_at = latest, updated_at = clock_timestamp(),
               subject = subjects[1], language = languages[1]
          FROM (SELECT ticket_id, max(sent_at) AS latest,
                       count(*) FILTER (WHERE opens AND is_new) AS since_closed,
                       min(sent_at) FILTER (WHERE opens AND is_new AND sent_at > replied_at) AS waits_since,
                       array_agg(subject ORDER BY sent_at, external_id) FILTER (WHERE opens) AS subjects,
                       array_agg(language ORDER BY sent_at, external_id)
                           FILTER (WHERE opens AND language IS NOT NULL) AS languages
                  FROM messages GROUP BY ticket_id) summary
         WHERE t.id = ticket_id RETURNING t.id, reply_by
        """,
        list(ticket_ids),
        _OPENS,
        REPLY_WITHIN,
    )
    return {row["id"]: row["reply_by"] for row in rows}


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
