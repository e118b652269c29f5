"""The source `mock`: three fixed messages for every tenant, to see tickets without Amazon. One is about an order
of the last weeks, one about an old order, one asks before it buys.
"""

from datetime import UTC, datetime

from shared.events import MessageSource

from .domain import Found, IncomingMessage, Lease

_MESSAGES = (
    (
        "mock-001",
        "407-8949262-6149120",
        "buyer-1@marketplace.amazon.fr",
        "Où est ma commande ?",
        "Bonjour, ma commande devait arriver hier. Où est-elle ?",
    ),
    (
        "mock-002",
        "171-3125066-7920325",
        "buyer-2@marketplace.amazon.de",
        "Rücksendung",
        "Guten Tag, der Artikel ist nach drei Monaten defekt. Wie kann ich ihn zurückschicken?",
    ),
    (
        "mock-003",
        None,
        "buyer-3@marketplace.amazon.es",
        "Pregunta sobre el producto",
        "Hola, ¿es compatible este adaptador con un enchufe español?",
    ),
)


async def fetch(_: Lease) -> Found:
    now = datetime.now(UTC)
    return Found(
        [
            IncomingMessage(external_id, order_id, buyer, subject, body, now, MessageSource.MOCK)
            for external_id, order_id, buyer, subject, body in _MESSAGES
        ]
    )
