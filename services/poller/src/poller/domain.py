"""Messages, tickets and schedules."""

from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from msgspec import Struct

from shared.errors import NotFoundError, RetryLaterError
from shared.events import MessageSource

from .mail import Attachment, Kind

REPLY_WITHIN = timedelta(hours=24)
"""Amazon counts a reply within 24 hours, weekends too (Seller Central help G200383320)."""


class TicketNotFoundError(NotFoundError):
    """Not there, or another tenant's."""

    code = "ticket_not_found"


class NotScheduledError(NotFoundError):
    """The tenant is not polled: no account is connected (any more), or it is archived."""

    code = "not_scheduled"


class PollRunningError(RetryLaterError):
    """Somebody polls the tenant at this moment."""

    code = "poll_running"
    status = 409


class IncomingMessage(Struct, frozen=True):
    """A buyer's message as a source gives it."""

    external_id: str
    external_order_id: str | None
    buyer: str | None
    subject: str
    body: str
    received_at: datetime
    source: MessageSource
    kind: Kind = Kind.BUYER_MESSAGE
    language: str | None = None
    replies_to: tuple[str, ...] = ()
    """External ids of the messages before it, the nearest first."""
    inbound_address: str | None = None
    attachments: tuple[Attachment, ...] = ()


class QuarantineReason(StrEnum):
    """Why a mail is held back."""

    UNKNOWN_RECIPIENT = "UNKNOWN_RECIPIENT"
    """Nobody's address, or one of a token that we never gave."""
    DISABLED_RECIPIENT = "DISABLED_RECIPIENT"
    NOT_FROM_AMAZON = "NOT_FROM_AMAZON"
    TOO_LARGE = "TOO_LARGE"
    UNREADABLE = "UNREADABLE"


class MailboxLostError(RetryLaterError):
    """Another replica reads the mailbox now."""

    code = "mailbox_lost"


class Address(Struct, frozen=True):
    """Where a tenant's mail comes to."""

    email: str
    tenant_id: str
    marketplace: str
    enabled: bool


class MailboxLease(Struct, frozen=True):
    """A mailbox in our hands, and how far it has been read."""

    name: str
    token: int
    uid_validity: int | None
    last_uid: int


class Fetched(Struct, frozen=True):
    """A mail as the mailbox gave it; raw is None where it is too large to be read, head then holds its headers."""

    uid: int
    received_at: datetime
    """When the mailbox took it: its server's word, not the sender's."""
    raw: bytes | None
    head: bytes = b""


class Lease(Struct, frozen=True):
    """A schedule in our hands; the token proves that it still is."""

    tenant_id: str
    marketplace: str
    token: int


class Polled(Struct, frozen=True):
    """What a poll brought."""

    fetched: int
    stored: int


class Schedule(Struct, frozen=True, rename="camel"):
    """How a tenant is polled."""

    marketplace: str
    interval_seconds: int
    next_due: datetime
    running: bool
    failures: int
    last_success_at: datetime | None
    last_error: str | None
    disconnected_at: datetime | None


class Ticket(Struct, frozen=True, rename="camel"):
    """A conversation with a buyer."""

    id: UUID
    tenant_id: str
    marketplace: str
    external_order_id: str | None
    subject: str
    status: str
    reply_by: datetime
    last_message_at: datetime
    created_at: datetime


class TicketMessage(Struct, frozen=True, rename="camel"):
    """One message of a ticket."""

    id: UUID
    body: str
    sent_at: datetime


def reply_by(received_at: datetime) -> datetime:
    return received_at + REPLY_WITHIN
