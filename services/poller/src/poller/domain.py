"""Messages, tickets and schedules."""

from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from msgspec import Struct

from shared.errors import NotFoundError, PermanentError, RetryLaterError
from shared.events import MessageSource

from .mail import Attachment
from .wording import Kind

REPLY_WITHIN = timedelta(hours=24)
"""Amazon counts a reply within 24 hours, weekends too (Seller Central help G200383320)."""
OPENS = frozenset({Kind.BUYER_MESSAGE, Kind.RETURN, Kind.CLAIM})
"""What wants an answer of the seller."""


class TicketNotFoundError(NotFoundError):
    """Not there, or another tenant's."""

    code = "ticket_not_found"


class AttachmentNotFoundError(NotFoundError):
    """Not of this ticket, or not kept."""

    code = "attachment_not_found"


class TenantNotFoundError(NotFoundError):
    """Nobody has told us of such a tenant."""

    code = "tenant_not_found"


class ForbiddenError(PermanentError):
    """For an admin and for the product's server."""

    code = "forbidden"
    status = 403


class QuarantinedNotFoundError(NotFoundError):
    code = "quarantined_mail_not_found"


class QuarantineDecidedError(PermanentError):
    """Somebody has released or dropped it already."""

    code = "already_decided"
    status = 409


class NotReleasableError(PermanentError):
    """What held it back still does."""

    code = "not_releasable"
    status = 409


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


class QuarantineState(StrEnum):
    """What became of a mail that was held back."""

    HELD = "HELD"
    RELEASED = "RELEASED"
    DROPPED = "DROPPED"


class Quarantined(Struct, frozen=True, rename="camel"):
    """A mail that is, or was, held back; what it says is for nobody's eyes."""

    id: UUID
    reason: QuarantineReason
    state: QuarantineState
    mailbox: str
    tenant_id: str | None
    received_at: datetime
    headers: dict[str, list[str]]
    created_at: datetime
    decided_at: datetime | None
    decided_by: str | None


class HeldMail(Struct, frozen=True):
    """The mail itself, while it is held; raw is None where only its headers were kept."""

    state: QuarantineState
    reason: QuarantineReason
    received_at: datetime
    raw: bytes | None


class MailboxState(Struct, frozen=True, rename="camel"):
    """When a mailbox was read to its end last, and what keeps us from it."""

    name: str
    last_read_at: datetime | None
    last_mail_at: datetime | None
    last_error: str | None


class MailboxLostError(RetryLaterError):
    """Another replica reads the mailbox now."""

    code = "mailbox_lost"


class Address(Struct, frozen=True):
    """Where a tenant's mail comes to."""

    email: str | None
    """None where a person said whose the mail is."""
    tenant_id: str
    marketplace: str
    enabled: bool
    verified: bool
    """A mail of the marketplace has come to it."""


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
    channel: MessageSource
    language: str | None
    external_order_id: str | None
    subject: str
    status: str
    reply_by: datetime | None
    last_message_at: datetime
    created_at: datetime


class AttachmentInfo(Struct, frozen=True, rename="camel"):
    """A file of a message, without its content."""

    id: UUID
    name: str | None
    media_type: str
    size_bytes: int
    sha256: str | None


class AttachmentFile(Struct, frozen=True):
    """What is in a file; None where it was too large to be kept."""

    name: str | None
    content: bytes | None


class TicketMessage(Struct, frozen=True, rename="camel"):
    """One message of a ticket."""

    id: UUID
    kind: Kind
    body: str
    sent_at: datetime
    attachments: list[AttachmentInfo]


def buyer_of(sender: str) -> str:
    """The marketplace's alias of a buyer, without what it adds to tell its mails apart: alias+….@marketplace.…"""
    local, _, domain = sender.partition("@")
    return f"{local.partition('+')[0]}@{domain}"
