"""The text of a mail from its parts: of alternatives the plain one, decoded, and no more of it than is told."""

import re
from collections.abc import Sequence

from msgspec import Struct

from . import markup, mime
from .charset import decode_text

MAX_CHARS = 50_000
"""Of a mail's text. Amazon's own limit for a message is some thousands."""
MAX_BYTES = MAX_CHARS * 4
MAX_HTML_BYTES = 300_000

_SOFT_LINE_END = re.compile(r"(?<!\n--) \n(?![> ])")
_META_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset=[\"']?([A-Za-z0-9_-]{1,40})", re.IGNORECASE)


class Body(Struct, frozen=True):
    text: str
    written: str
    """What Amazon's HTML marks as the writer's words; empty where it does not, or is not needed."""
    cut: bool
    """More was there than is read."""


def read(parts: Sequence[mime.Part]) -> Body:
    """HTML is read where it stands alone, or its alternative is blank."""
    texts: dict[int, str] = {}
    left, cut, written = MAX_BYTES, False, ""
    for place, part in enumerate(parts):
        if part.media_type == "text/plain":
            texts[place], used = _plain(part, left)
            left -= used
            cut |= left <= 0
    plain = {parts[place].choice for place, text in texts.items() if text.strip()} - {None}
    left = MAX_HTML_BYTES
    for place, part in enumerate(parts):
        if part.media_type == "text/html" and part.choice not in plain:
            page, used = _page(part, left)
            texts[place] = page.text
            written = written or page.written.strip()
            left -= used
            cut |= page.cut or left <= 0
    text = "\n\n".join(texts[place] for place in sorted(texts))
    return Body(text[:MAX_CHARS], written[:MAX_CHARS], cut or len(text) > MAX_CHARS)


def _plain(part: mime.Part, left: int) -> tuple[str, int]:
    body = mime.decode_body(part, left)
    text = decode_text(body, part.parameters.get("charset"), MAX_CHARS + 1)
    if part.parameters.get("format", "").lower() == "flowed":
        text = _SOFT_LINE_END.sub("" if part.parameters.get("delsp", "").lower() == "yes" else " ", text)
    return text, len(body)


def _page(part: mime.Part, left: int) -> tuple[markup.Page, int]:
    body = mime.decode_body(part, left)
    meta = _META_CHARSET.search(body, 0, 2_000)
    charset = part.parameters.get("charset") or (meta[1].decode() if meta else None)
    return markup.read(decode_text(body, charset, markup.MAX_CHARS)), len(body)
