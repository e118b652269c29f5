"""A mail as the mailbox gives it, read as what it is: who may have sent it, what kind it is, what was said in it. Pure,
and never an error: what cannot be read is left out.
"""

import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from msgspec import Struct

from . import body, mime
from .charset import decode_header
from .origin import MAX_RECIPIENTS, addresses, is_from_amazon, is_relay, sender_of
from .wording import MARKERS, Kind, said

MAX_ATTACHMENT_BYTES = 10 << 20
"""Amazon's own limit, for all of a message's files."""
MAX_ATTACHMENTS = 20
MAX_REFERENCES = 50
MAX_SUBJECT = 1_000

ORDER_ID = re.compile(r"(?<![0-9-])[0-9]{3}-[0-9]{7}-[0-9]{7}(?![0-9-])")
_MESSAGE_ID = re.compile(r"<([!-;=?-~]{1,500}+)>")
_BARE_MESSAGE_ID = re.compile(r"[!-;=?A-~]{1,250}+@[!-;=?A-~]{1,250}+")
_MARKETPLACE_ID = re.compile(r"[A-Z0-9]{10,20}")
_ONCE = (
    *("from", "subject", "date", "message-id", "in-reply-to", "references"),
    *("content-type", "content-transfer-encoding", "x-space-notification-type", "x-marketplace-id"),
)
"""What is read of a mail and may stand in it once: a second one may have been put above what Amazon signed."""
_DELIVERED = ("delivered-to", "x-original-to", "envelope-to", "x-envelope-to", "to", "cc")


class Attachment(Struct, frozen=True):
    """A file of a message. Where they are too large together to be kept, it is noted without content."""

    name: str | None
    media_type: str
    size_bytes: int
    """Without content, what it comes to when decoded, as near as can be told."""
    sha256: str | None
    content: bytes | None


class Mail(Struct, frozen=True):
    """A mail, read."""

    message_id: str
    """Message-ID; where there is none, made from the mail itself."""
    in_reply_to: str | None
    references: list[str]
    """The oldest first; where there are too many, the latest of them."""
    sender: str
    """The address of From, lower case; empty when there is none, or not one only."""
    recipients: list[str]
    """Whom it was delivered to, the servers' word before the sender's, the nearest server's first."""
    subject: str
    sent_at: datetime | None
    kind: Kind
    marketplace_id: str | None
    order_id: str | None
    language: str | None
    text: str
    attachments: list[Attachment]
    is_from_amazon: bool
    """The receiving server has seen Amazon's signature on it, or Amazon's server bring it."""
    is_cut: bool
    """More was there than was read."""


def read_mail(raw: bytes, trusted: str) -> Mail:
    """trusted: the name of the receiving server, whose Authentication-Results are believed, the nearest one only."""
    message = mime.read(raw)
    headers = message.headers
    sender = sender_of(headers.get("from", []))
    subject = decode_header(message.first("subject"))[:MAX_SUBJECT]
    texts, files = _sorted(message.parts)
    content = body.read(texts)
    found = said(content.text)
    order = ORDER_ID.search(subject) or ORDER_ID.search(content.text)
    marketplace_id = message.first("x-marketplace-id")
    authentic = is_from_amazon(headers.get("authentication-results", []), sender, trusted)
    return Mail(
        message_id=_message_id(message.first("message-id")) or f"sha256:{hashlib.sha256(raw).hexdigest()}",
        in_reply_to=next(iter(_ids(headers.get("in-reply-to", []))), None),
        references=_ids(headers.get("references", []))[-MAX_REFERENCES:],
        sender=sender,
        recipients=_recipients(headers),
        subject=subject,
        sent_at=_date(message.first("date")),
        kind=_kind(message, sender),
        marketplace_id=marketplace_id if _MARKETPLACE_ID.fullmatch(marketplace_id) else None,
        order_id=order[0] if order else None,
        language=found.language,
        text=content.written if content.written and not found.framed else found.text,
        attachments=_attachments(files),
        is_from_amazon=authentic and message.has_all_headers and all(len(headers.get(name, [])) <= 1 for name in _ONCE),
        is_cut=message.cut or content.cut or len(files) > MAX_ATTACHMENTS,
    )


def _message_id(value: str) -> str | None:
    found = _MESSAGE_ID.search(value)
    if found is not None:
        return found[1]
    return value if _BARE_MESSAGE_ID.fullmatch(value) else None


def _kind(message: mime.Message, sender: str) -> Kind:
    """What Amazon's own header says, else a message when a buyer's alias sends it and no machine does."""
    told = message.first("x-space-notification-type").upper()
    if told:
        return MARKERS.notifications.kinds.get(told, Kind.OTHER)
    by_machine = (
        message.first("auto-submitted").lower().partition(";")[0].strip() not in {"", "no"}
        or message.first("return-path").replace(" ", "") == "<>"
        or message.first("content-type").lower().startswith("multipart/report")
        or message.first("precedence").lower() == "auto_reply"
        or "x-autoreply" in message.headers
    )
    return Kind.BUYER_MESSAGE if is_relay(sender) and not by_machine else Kind.OTHER


def _ids(values: Sequence[str]) -> list[str]:
    """Message ids in their order, each where it stands last."""
    found = _MESSAGE_ID.findall(" ".join(values))
    return list(dict.fromkeys(reversed(found)))[::-1]


def _recipients(headers: dict[str, list[str]]) -> list[str]:
    found: dict[str, None] = {}
    for name in _DELIVERED:
        for value in headers.get(name, [])[:MAX_RECIPIENTS]:
            found |= dict.fromkeys(addresses(value))
    return list(found)[:MAX_RECIPIENTS]


def _date(value: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(value[:200])
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _sorted(parts: Sequence[mime.Part]) -> tuple[list[mime.Part], list[mime.Part]]:
    """The parts that are the message, and its files."""
    texts: list[mime.Part] = []
    files: list[mime.Part] = []
    for part in parts:
        is_text = part.media_type in {"text/plain", "text/html"}
        (texts if is_text and not part.filename and part.disposition != "attachment" else files).append(part)
    return texts, files


def _attachments(parts: Sequence[mime.Part]) -> list[Attachment]:
    """In their order, as long as all of them together may be kept."""
    made: list[Attachment] = []
    left = MAX_ATTACHMENT_BYTES
    for part in parts[:MAX_ATTACHMENTS]:
        size, content, digest = mime.size_of(part), None, None
        if size <= left:
            content = mime.decode_body(part, left)
            size, digest = len(content), hashlib.sha256(content).hexdigest()
            left -= size
        made.append(Attachment(part.filename, part.media_type, size, digest, content))
    return made
