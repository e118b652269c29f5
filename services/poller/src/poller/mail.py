"""A mail as the mailbox gives it, read as what it is: who may have sent it, what kind it is, what was said in it. Pure,
and never an error: what cannot be read is left out. What to look for in each language is data, in markers.json.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from email.utils import parseaddr, parsedate_to_datetime
from enum import StrEnum
from importlib.resources import files

import msgspec
from msgspec import Struct
from selectolax.lexbor import LexborHTMLParser

from . import mime

MAX_TEXT = 200_000
"""Characters of a message's text that are kept."""
MAX_HTML = 400_000
MAX_HTML_DEPTH = 1_500
"""Deeper ones take the parser quadratic time: their tags are cut instead."""
MAX_ATTACHMENT_BYTES = 10 << 20
"""Amazon's own limit for a message's attachments."""
MAX_ATTACHMENTS = 20
MAX_REFERENCES = 50

ORDER_ID = re.compile(r"(?<![\d-])\d{3}-\d{7}-\d{7}(?![\d-])")
_MESSAGE_ID = re.compile(r"<([^<>\s]{1,500})>")
_ADDRESS = re.compile(r"[^\s<>@,;:\"]{1,128}@[A-Za-z0-9.-]{1,128}")
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)[^>]*?(/?)>")
_BLOCK = re.compile(r"<(?=/?(?:br|p|div|tr|li|h[1-6]|blockquote|table|ul|ol|hr|pre)\b)", re.IGNORECASE)
_EMPTY_ELEMENTS = frozenset({"br", "hr", "img", "input", "meta", "link", "col", "area", "base", "wbr", "source"})
_SPACES = re.compile(r"[ \t\u00a0\u200b]+")
_EMPTY_LINES = re.compile(r"\n{3,}")
_COMMENT = re.compile(r"\([^()]*\)")
_RESULT = re.compile(r"^(dkim|spf)\s*=\s*pass\b", re.IGNORECASE)
_DOMAIN_OF = re.compile(
    r"\b(header\.d|header\.i|smtp\.mailfrom|smtp\.helo)\s*=\s*\"?(?:[^\s;\"@]*@)?([A-Za-z0-9.-]+)", re.IGNORECASE
)


class Kind(StrEnum):
    """What a mail of Amazon's is about."""

    BUYER_MESSAGE = "BUYER_MESSAGE"
    SELLER_REPLY = "SELLER_REPLY"
    """Amazon's copy of what the seller wrote, wherever the seller wrote it."""
    RETURN = "RETURN"
    REFUND = "REFUND"
    CLAIM = "CLAIM"
    OTHER = "OTHER"


class Attachment(Struct, frozen=True):
    """A file of a message; content is None where it was too large to be kept."""

    name: str | None
    media_type: str
    size_bytes: int
    sha256: str
    content: bytes | None


class Mail(Struct, frozen=True):
    """A mail, read."""

    message_id: str
    """Message-ID; where there is none, made from the mail itself."""
    in_reply_to: str | None
    references: list[str]
    sender: str
    """The address of From, lower case; empty when there is none."""
    recipients: list[str]
    """Whom it was delivered to, the servers' word before the sender's."""
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


class _Language(Struct, frozen=True):
    begin: list[str]
    end: list[str]
    quotes: list[str]
    footers: list[str]


class _Markers(Struct, frozen=True):
    version: int
    relay_domains: list[str]
    own_domains: list[str]
    notification_types: dict[str, Kind]
    languages: dict[str, _Language]


def _any_of(expressions: Iterator[str]) -> re.Pattern[str]:
    return re.compile("|".join(expressions), re.IGNORECASE)


MARKERS = msgspec.json.decode(files(__package__).joinpath("markers.json").read_bytes(), type=_Markers)
RELAY_DOMAINS = frozenset(MARKERS.relay_domains)
AMAZON_DOMAINS = RELAY_DOMAINS | frozenset(MARKERS.own_domains)
_FRAMES = {
    language: (
        _any_of(rf"^[ \t]*[-–—_=* ]*(?:{each})[ \t:]*[-–—_=* ]*$" for each in found.begin).pattern,
        _any_of(rf"^[ \t]*[-–—_=* ]*(?:{each})[ \t:]*[-–—_=* ]*$" for each in found.end).pattern,
    )
    for language, found in MARKERS.languages.items()
}
_BEGIN = {language: re.compile(begin, re.IGNORECASE | re.MULTILINE) for language, (begin, _) in _FRAMES.items()}
_END = {language: re.compile(end, re.IGNORECASE | re.MULTILINE) for language, (_, end) in _FRAMES.items()}
_QUOTE = re.compile(
    "|".join(rf"^[ \t>]*(?:{each})[ \t]*$" for found in MARKERS.languages.values() for each in found.quotes),
    re.IGNORECASE | re.MULTILINE,
)
_FOOTER = re.compile(
    "|".join(
        [
            *(rf"^[ \t]*(?:{each})" for found in MARKERS.languages.values() for each in found.footers),
            r"\[commMgrTok:",
            r"^[ \t]*SPC-[A-Z]{2}Amazon-",
        ]
    ),
    re.IGNORECASE | re.MULTILINE,
)


def read_mail(raw: bytes, trusted: str) -> Mail:
    """trusted: the name of the receiving server, whose Authentication-Results are believed, the nearest one only."""
    message = mime.read(raw)
    sender = address_of(message.first("from"))
    kind = _kind(message, sender)
    texts, attachments = _parts(message.parts)
    subject = " ".join(message.first("subject").split())[:1_000]
    body, language = said(texts)
    found_order = ORDER_ID.search(subject) or ORDER_ID.search(texts[:MAX_TEXT])
    identity = _MESSAGE_ID.search(message.first("message-id"))
    replies = _MESSAGE_ID.findall(message.first("in-reply-to"))
    return Mail(
        message_id=identity[1] if identity else f"sha256:{hashlib.sha256(raw).hexdigest()}",
        in_reply_to=replies[0] if replies else None,
        references=_MESSAGE_ID.findall(message.first("references"))[-MAX_REFERENCES:],
        sender=sender,
        recipients=_recipients(message),
        subject=subject,
        sent_at=_date(message.first("date")),
        kind=kind,
        marketplace_id=message.first("x-marketplace-id").strip()[:20] or None,
        order_id=found_order[0] if found_order else None,
        language=language,
        text=body,
        attachments=attachments,
        is_from_amazon=is_from_amazon(message.headers.get("authentication-results", []), sender, trusted),
        is_cut=message.cut or len(texts) > MAX_TEXT,
    )


def address_of(value: str) -> str:
    """The address in a From or To header, lower case; empty when there is none."""
    found = _ADDRESS.fullmatch(parseaddr(value[:2_000])[1])
    return found[0].lower() if found else ""


def is_from_amazon(results: Sequence[str], sender: str, trusted: str) -> bool:
    """Does the trusted server say that DKIM or SPF passed, for the domain that the mail claims to be from, and is that
    one of Amazon's? Source: RFC 8601. Only the nearest of the headers counts: those below came with the mail.
    """
    domain = sender.rpartition("@")[2]
    if not results or domain not in AMAZON_DOMAINS:
        return False
    server, *told = _COMMENT.sub(" ", results[0]).split(";")
    if server.strip().split(" ")[0].lower() != trusted.lower():
        return False
    for each in told:
        if _RESULT.match(each.strip()):
            for name, passed in _DOMAIN_OF.findall(each):
                if name.lower() != "smtp.helo" and _covers(passed.lower().rstrip("."), domain):
                    return True
    return False


def _covers(passed: str, domain: str) -> bool:
    """amazon.fr speaks for marketplace.amazon.fr, and a host below either for it."""
    return (passed in AMAZON_DOMAINS and (domain == passed or domain.endswith(f".{passed}"))) or passed.endswith(
        f".{domain}"
    )


def _kind(message: mime.Message, sender: str) -> Kind:
    told = message.first("x-space-notification-type").strip()
    if told in MARKERS.notification_types:
        return MARKERS.notification_types[told]
    if (
        not told
        and sender.rpartition("@")[2] in RELAY_DOMAINS
        and not message.first("auto-submitted").startswith("auto")
    ):
        return Kind.BUYER_MESSAGE
    return Kind.OTHER


def _recipients(message: mime.Message) -> list[str]:
    found: dict[str, None] = {}
    for name in ("delivered-to", "x-original-to", "envelope-to", "x-envelope-to", "to", "cc"):
        for value in message.headers.get(name, [])[:20]:
            for address in _ADDRESS.findall(value)[:20]:
                found.setdefault(address.lower(), None)
    return list(found)


def _date(value: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(value[:200])
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _parts(parts: Sequence[mime.Part]) -> tuple[str, list[Attachment]]:
    """The text of the mail, plain before HTML, and its files."""
    plain, html = [], []
    attachments: list[Attachment] = []
    for part in parts:
        if part.disposition == "attachment" or part.filename or not part.media_type.startswith("text/"):
            if len(attachments) < MAX_ATTACHMENTS:
                attachments.append(_attachment(part))
        elif part.media_type == "text/html":
            html.append(part)
        else:
            plain.append(part)
    text = "\n".join(mime.decode_text(mime.decode_body(part, MAX_TEXT * 2), part.charset) for part in plain[:5]).strip()
    if not text:
        raws = (mime.decode_text(mime.decode_body(part, MAX_HTML), part.charset) for part in html[:5])
        text = "\n".join(text_of_html(raw) for raw in raws)
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", ""), attachments


def _attachment(part: mime.Part) -> Attachment:
    content = mime.decode_body(part, MAX_ATTACHMENT_BYTES + 1)
    kept = content if len(content) <= MAX_ATTACHMENT_BYTES else None
    return Attachment(part.filename, part.media_type, len(content), hashlib.sha256(content).hexdigest(), kept)


def text_of_html(html: str) -> str:
    """What a reader sees, a line for each block."""
    html = html[:MAX_HTML]
    depth = deepest = 0
    for closing, name, empty in _TAG.findall(html):
        if name.lower() not in _EMPTY_ELEMENTS and not empty:
            depth += -1 if closing else 1
            deepest = max(deepest, depth)
    if deepest > MAX_HTML_DEPTH:
        return _TAG.sub(" ", html)
    tree = LexborHTMLParser(_BLOCK.sub("\n<", html))
    for hidden in tree.css("style,script,head,title,noscript,template"):
        hidden.decompose()
    return tree.text() if tree.root else ""


def said(text: str) -> tuple[str, str | None]:
    """What the writer wrote, without Amazon's frame, what is quoted and what comes below; and in which language."""
    text, language = _framed(text[:MAX_TEXT])
    for marker in (_QUOTE, _FOOTER):
        found = marker.search(text)
        if found and text[: found.start()].strip():
            text = text[: found.start()]
    lines = [line for line in text.split("\n") if not line.lstrip().startswith(">")]
    kept = "\n".join(_SPACES.sub(" ", line).strip() for line in lines)
    return _EMPTY_LINES.sub("\n\n", kept).strip(), language


def _framed(text: str) -> tuple[str, str | None]:
    for language, begin in _BEGIN.items():
        found = begin.search(text)
        if found:
            end = _END[language].search(text, found.end())
            return text[found.end() : end.start() if end else len(text)], language
    return text, None
