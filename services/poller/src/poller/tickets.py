"""What a message becomes: stored once, in its conversation, and told. In the caller's transaction."""

from datetime import datetime

from shared.db import Conn
from shared.events import MessageReceived
from shared.outbox import Outbox

from . import queries
from .domain import IncomingMessage, reply_by
from .mail import Kind

OPENS = frozenset({Kind.BUYER_MESSAGE, Kind.RETURN, Kind.CLAIM})
"""What wants an answer of the seller."""


async def take(conn: Conn, outbox: Outbox, tenant_id: str, marketplace: str, message: IncomingMessage) -> bool:
    """Store a message that we do not have yet. What wants an answer continues its conversation, opened again, or
    begins one, and is told; the seller's own reply answers it; anything else only joins it. True when it was new and
    wants an answer.
    """
    await queries.lock_conversations(conn, tenant_id, marketplace)
    message_id = await queries.insert_message(conn, tenant_id, marketplace, message)
    if message_id is None:
        return False
    for attachment in message.attachments:
        await queries.insert_attachment(conn, message_id, attachment)
    ticket_id = await queries.find_ticket(conn, tenant_id, marketplace, message)
    if message.kind not in OPENS:
        if ticket_id is not None:
            await queries.insert_ticket_message(conn, ticket_id, message_id, message)
            if message.kind is Kind.SELLER_REPLY:
                await queries.answer_ticket(conn, ticket_id, message)
        return False
    due: datetime | None
    if ticket_id is None:
        ticket_id, due = await queries.insert_ticket(conn, tenant_id, marketplace, message)
    else:
        due = await queries.open_ticket(conn, ticket_id, message)
    await queries.insert_ticket_message(conn, ticket_id, message_id, message)
    await outbox.add(
        conn,
        MessageReceived(
            tenant_id=tenant_id,
            marketplace=marketplace,
            message_id=message_id,
            external_id=message.external_id,
            ticket_id=ticket_id,
            external_order_id=message.external_order_id,
            source=message.source,
            inbound_address=message.inbound_address,
            received_at=message.received_at,
            reply_by=due,
        ),
    )
    return True
