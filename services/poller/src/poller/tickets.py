"""What a message becomes: stored once, in its conversation, and told. In the caller's transaction."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from shared.db import Conn
from shared.events import MessageReceived
from shared.outbox import Outbox

from . import ticket_queries as queries
from .domain import OPENS, Incoming


async def take_all(conn: Conn, outbox: Outbox, incoming: Sequence[Incoming]) -> list[bool]:
    """Store the messages that we do not have yet, in this order. What wants an answer continues its conversation,
    opened again, or begins one, and is told; the seller's own reply answers it; anything else only joins it, at once
    or when what it belongs to has come. True for each that was new and wants an answer.
    """
    if not incoming:
        return []
    conversations = {each.conversations for each in incoming}
    await queries.lock_conversations(conn, conversations)
    ids = await queries.insert_messages(conn, incoming)
    await queries.insert_attachments(
        conn,
        [
            (message_id, attachment)
            for message_id, each in zip(ids, incoming, strict=True)
            if message_id
            for attachment in each.message.attachments
        ],
    )
    have_loose = await queries.list_with_loose(conn, conversations)
    joined = [
        (each, message_id, await _join(conn, each, message_id, have_loose) if message_id else None)
        for message_id, each in zip(ids, incoming, strict=True)
    ]
    due = await queries.settle_tickets(conn, {ticket_id for *_, ticket_id in joined if ticket_id})
    events = [
        _event(each, message_id, ticket_id, due[ticket_id])
        if message_id and ticket_id and each.message.kind in OPENS
        else None
        for each, message_id, ticket_id in joined
    ]
    if told := [event for event in events if event]:
        await outbox.add(conn, *told)
    return [event is not None for event in events]


async def _join(conn: Conn, incoming: Incoming, message_id: UUID, have_loose: set[tuple[str, str]]) -> UUID | None:
    """The ticket that a message becomes a part of; who have loose messages gain it where there is none."""
    message = incoming.message
    opens = message.kind in OPENS
    ticket_id = await queries.find_ticket(conn, incoming)
    if ticket_id is None and not opens:
        if message.external_order_id or message.replies_to:
            await queries.set_loose(conn, message_id)
            have_loose.add(incoming.conversations)
        return None
    if ticket_id is None:
        ticket_id = await queries.insert_ticket(conn, incoming, message_id)
    else:
        await queries.join_ticket(conn, ticket_id, message_id, message, completes=opens)
    if incoming.conversations in have_loose:
        while await queries.adopt_messages(conn, ticket_id):
            pass  # what answers an adopted one comes along too
    return ticket_id


def _event(incoming: Incoming, message_id: UUID, ticket_id: UUID, due: datetime | None) -> MessageReceived:
    message = incoming.message
    return MessageReceived(
        tenant_id=incoming.tenant_id,
        marketplace=incoming.marketplace,
        message_id=message_id,
        external_id=message.external_id,
        ticket_id=ticket_id,
        external_order_id=message.external_order_id,
        source=message.source,
        inbound_address=message.inbound_address,
        received_at=message.received_at,
        reply_by=due,
    )
