"""Mails as Amazon sends them, and the mailbox that they come from."""

from datetime import datetime

from poller import mail_queries
from poller.domain import Fetched, MailboxLease
from shared.db import Pool
from shared.events import InboundAddress
from tests.poller.conftest import MINUTE, NOW

SERVER = "mx.keybuzz.test"
ADDRESS = "amazon.kbz-001.fr@inbound.keybuzz.test"
ORDER = "407-8949262-6149120"


def raw(message_id: str = "m-1", to: str = ADDRESS, domain: str = "marketplace.amazon.fr", **changes: str) -> bytes:
    """A mail as Amazon sends it; text, subject, sender, headers and results may be others."""
    sender = changes.get("sender", f"alias+f3a@{domain}")
    passed = f"Authentication-Results: {SERVER}; dkim=pass header.d={domain}\r\n"
    return (
        f"Delivered-To: {to}\r\n"
        + changes.get("results", passed)
        + f"From: Jean - Amazon Marketplace <{sender}>\r\nTo: <{to}>\r\n"
        f"Subject: {changes.get('subject', f'secret subject (Order: {ORDER})')}\r\nMessage-ID: <{message_id}>\r\n"
        f"X-Space-Notification-Type: {changes.get('kind', 'BBC_MESSAGE_SENT_TO_MERCHANT')}\r\n"
        + changes.get("headers", "")
        + f"Content-Type: text/plain; charset=utf-8\r\n\r\n{changes.get('text', 'secret text')}\r\n"
    ).encode()


def fetched(uid: int = 1, mail: bytes | None = None, received_at: datetime = NOW) -> Fetched:
    return Fetched(uid, received_at, raw(f"m-{uid}") if mail is None else mail)


def address(email: str = ADDRESS, status: str = "ACTIVE") -> InboundAddress:
    return InboundAddress(marketplace="AMAZON", country="FR", email=email, status=status)


async def lease(pool: Pool, name: str = "main") -> MailboxLease:
    held = await mail_queries.claim_mailbox(pool, name, MINUTE)
    assert held is not None
    return held
