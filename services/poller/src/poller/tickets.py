"""What a message becomes: stored once, in its conversation, and told. In the caller's transaction."""

from shared.db import Conn
from shared.events import MessageReceived
from shared.outbox import Outbox

from . import ticket_queries as queries
from .domain import OPENS, IncomingMessage


async def take(conn: Conn, outbox: Outbox, tenant_id: str, marketplace: str, message: IncomingMessage) -> bool:
    """Store a message that we do not have yet. What wants an answer continues its conversation, opened again, or
    begins one, and is told; the seller's own reply answers it; anything else only joins it, at once or when what it
    belongs to has come. True when it was new and wants an answer.
    """
    await queries.lock_conversations(conn, tenant_id, marketplace)
    message_id = await queries.insert_message(conn, tenant_id, marketplace, message)
    if message_id is None:
        return False
    for attachment in message.attachments:
        await queries.insert_attachment(conn, message_id, attachment)
    opens = message.kind in OPENS
    ticket_id = await queries.find_ticket(conn, tenant_id, marketplace, message)
    if ticket_id is None and not opens:
        if message.external_order_id or message.replies_to:
            await queries.set_loose(conn, message_id)
        return False
    if ticket_id is None:
        ticket_id = await queries.insert_ticket(conn, tenant_id, marketplace, message)
    elif opens:
        await queries.complete_ticket(conn, ticket_id, message)
    await queries.insert_ticket_message(conn, ticket_id, message_id, message)
    while await queries.adopt_messages(conn, ticket_id):
        pass  # what answers an adopted one comes along too
    due = await queries.settle_ticket(conn, ticket_id)
    if opens:
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
    return opens
