"""MIME as it comes, not as it should be: bytes in, headers and parts out. It never raises, copies each byte at most
once, and takes no more parts, depth or header than it is told; what is beyond is noted, not read.
Sources: RFC 5322, 2045 to 2047, 2231.
"""

import binascii
import codecs
import re
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from msgspec import Struct

MAX_HEADER_BYTES = 128 << 10
MAX_HEADERS = 500
MAX_VALUE = 16 << 10
"""Of one header, unfolded."""
MAX_PARTS = 200
MAX_DEPTH = 12
MAX_LINES = 20_000
"""That begin like a boundary, of one multipart."""

_HEADER_END = re.compile(rb"\r?\n[ \t]*\r?\n|\A\r?\n")
_HEADER = re.compile(rb"^([!-9;-~]{1,128})[ \t]*:[ \t]*((?:[^\r\n]|\r?\n[ \t]+|\r(?!\n))*)", re.MULTILINE)
_FOLD = re.compile(rb"\r?\n[ \t]+")
_WORD = re.compile(r"=\?([!->@-~]{1,64})\?([bBqQ])\?([^?\s]{0,2048})\?=")
_BETWEEN_WORDS = re.compile(r"(?<=\?=)[ \t]+(?==\?)")
_PARAMETER = re.compile(r""";\s*([\w!#$%&*+^`{|}~.'-]{1,64})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;\s]*))""")
_LINE_END = re.compile(rb"(--)?[ \t]*(?:\r?\n|\Z)")
_MEDIA_TYPE = re.compile(r"[\w!#$&^.+-]{1,64}/[\w!#$&^.+-]{1,64}")
_CHARSETS = {"ks_c_5601-1987": "cp949", "x-sjis": "cp932", "shift_jis": "cp932", "iso-2022-jp": "iso2022_jp_ext"}
_UNSAFE = {"idna", "punycode", "unicode_escape", "raw_unicode_escape", "mbcs", "oem", "undefined"}
"""Encodings of Python's that are none of a text, or take quadratic time."""


class Part(Struct, frozen=True):
    """A leaf of the tree: its body is still encoded."""

    media_type: str
    charset: str | None
    filename: str | None
    disposition: str
    encoding: str
    body: memoryview


class Message(Struct, frozen=True):
    """Headers by lower-case name, in their order, decoded; parts in theirs."""

    headers: dict[str, list[str]]
    parts: list[Part]
    cut: bool
    """More was there than is read."""

    def first(self, name: str) -> str:
        """The first value, nearest to us of those that servers on the way have added; empty when there is none."""
        return self.headers.get(name, [""])[0]


class _Span(NamedTuple):
    """A piece of the mail, not copied."""

    start: int
    end: int


def read(raw: bytes) -> Message:
    headers, body = _split(raw, _Span(0, len(raw)))
    parts: list[Part] = []
    cut = _walk(raw, headers, body, parts, 0)
    return Message({name: [decode_words(value) for value in values] for name, values in headers.items()}, parts, cut)


def _split(raw: bytes, entity: _Span) -> tuple[dict[str, list[str]], _Span]:
    head = raw[entity.start : min(entity.end, entity.start + MAX_HEADER_BYTES)]
    end = _HEADER_END.search(head)
    headers: dict[str, list[str]] = {}
    for number, found in enumerate(_HEADER.finditer(head, 0, end.start() + 1 if end else len(head))):
        if number == MAX_HEADERS:
            break
        value = _FOLD.sub(b" ", found[2])[:MAX_VALUE].strip()
        headers.setdefault(found[1].decode("ascii").lower(), []).append(_text_of(value))
    return headers, _Span(entity.start + (end.end() if end else len(head)), entity.end)


def _text_of(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = value.decode("latin-1")
    return "".join(each if each.isprintable() else " " for each in text)


def _walk(raw: bytes, headers: dict[str, list[str]], body: _Span, parts: list[Part], depth: int) -> bool:
    media_type, parameters = parse_parameters(headers.get("content-type", [""])[0])
    if not _MEDIA_TYPE.fullmatch(media_type):
        media_type = "text/plain"
    boundary = parameters.get("boundary", "")
    if media_type.startswith("multipart/") and boundary and depth < MAX_DEPTH:
        cut = False
        for inner in _between(raw, body, boundary.encode(errors="replace")):
            if len(parts) >= MAX_PARTS:
                return True
            cut |= _walk(raw, *_split(raw, inner), parts, depth + 1)
        return cut
    disposition, about = parse_parameters(headers.get("content-disposition", [""])[0])
    filename = about.get("filename") or parameters.get("name")
    parts.append(
        Part(
            media_type=media_type,
            charset=parameters.get("charset"),
            filename=decode_words(filename)[:255] if filename else None,
            disposition=disposition,
            encoding=headers.get("content-transfer-encoding", [""])[0].lower(),
            body=memoryview(raw)[body.start : body.end],
        )
    )
    return media_type.startswith("multipart/")


def _between(raw: bytes, body: _Span, boundary: bytes) -> Iterator[_Span]:
    """What stands between the lines of a boundary; the last part may lack its end."""
    line, begin = b"\n--" + boundary, -1
    found = body.start - 1 if raw.startswith(line[1:], body.start) else raw.find(line, body.start, body.end)
    for _ in range(MAX_LINES):
        if found < 0:
            break
        rest = _LINE_END.match(raw, found + len(line), body.end)
        if rest is not None:
            if begin >= 0:
                yield _Span(begin, max(begin, found - 1 if raw[found - 1 : found] == b"\r" else found))
            if rest[1]:
                return
            begin = rest.end()
        found = raw.find(line, found + len(line) if rest is None else rest.end() - 1, body.end)
    if begin >= 0:
        yield _Span(begin, body.end)


def parse_parameters(value: str) -> tuple[str, dict[str, str]]:
    """`text/plain; charset=utf-8` and the like; the first of a name counts, RFC 2231's forms too."""
    bare = value.partition(";")[0].strip().lower()
    found: dict[str, str] = {}
    pieces: dict[str, dict[int, str]] = {}
    for match in _PARAMETER.finditer(value):
        name = match[1].lower()
        text = re.sub(r"\\(.)", r"\1", match[2]) if match[2] is not None else match[3]
        base, star, number = name.partition("*")
        if not star:
            found.setdefault(base, text)
        elif number in {"", "0*"} or not number.rstrip("*").isdigit():
            pieces.setdefault(base, {}).setdefault(0, _extended(text))
        else:
            pieces.setdefault(base, {}).setdefault(int(number.rstrip("*")[:3]), unquoted(text, "utf-8"))
    for base, numbered in pieces.items():
        found.setdefault(base, "".join(numbered[key] for key in sorted(numbered)))
    return bare, found


def _extended(text: str) -> str:
    charset, quote, rest = text.partition("'")
    if not quote:
        return text
    return unquoted(rest.partition("'")[2], charset)


def unquoted(text: str, charset: str) -> str:
    return decode_text(unquote_to_bytes(text), charset)


def decode_words(value: str) -> str:
    """Encoded words (RFC 2047) as text; what is none stays."""
    if "=?" not in value:
        return value
    decoded = _WORD.sub(_word, _BETWEEN_WORDS.sub("", value))
    return "".join(each if each.isprintable() else " " for each in decoded)


def _word(found: re.Match[str]) -> str:
    charset = found[1].partition("*")[0]
    if found[2] in "bB":
        raw = decode_base64(found[3].encode("ascii", "ignore"))
    else:
        raw = binascii.a2b_qp(found[3].replace("_", " ").encode("ascii", "ignore"), header=False)
    return decode_text(raw, charset)


def decode_body(part: Part, limit: int) -> bytes:
    """The part's bytes, at most limit of them."""
    if part.encoding == "base64":
        return decode_base64(bytes(part.body[: limit * 2]))[:limit]
    if part.encoding == "quoted-printable":
        return binascii.a2b_qp(bytes(part.body[: limit * 3]))[:limit]
    return bytes(part.body[:limit])


def decode_base64(text: bytes) -> bytes:
    """Whatever can be read of it."""
    try:
        return binascii.a2b_base64(text)
    except binascii.Error:
        clean = re.sub(rb"[^A-Za-z0-9+/]", b"", text)
        return binascii.a2b_base64(clean[: len(clean) - len(clean) % 4])


def decode_text(raw: bytes, charset: str | None) -> str:
    """As declared, else as UTF-8, else as Windows' western one, which takes anything."""
    for name in (charset, "utf-8"):
        codec = _codec(name)
        if codec is None:
            continue
        try:
            return codec.decode(raw)[0]
        except (UnicodeError, ValueError):
            continue
    return raw.decode("cp1252", "replace")


def _codec(name: str | None) -> codecs.CodecInfo | None:
    if not name or not name.isascii() or len(name) > 40:  # noqa: PLR2004 - no charset's name is longer
        return None
    name = name.strip("\"' ").lower()
    try:
        codec = codecs.lookup(_CHARSETS.get(name, name))
    except (LookupError, ValueError):
        return None
    return codec if codec._is_text_encoding and codec.name not in _UNSAFE else None  # noqa: SLF001 - no other way to ask
