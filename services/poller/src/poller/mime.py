"""MIME as it comes, not as it should be: bytes in, headers and parts out. It never raises, copies no part, and takes no
more parts, depth or header than it is told; what is beyond is noted, not read. Sources: RFC 5322, 2045, 2046, 2231.
"""

import binascii
import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from msgspec import Struct

from .charset import decode_base64, decode_header, decode_text, one_line

MAX_HEADER_BYTES = 128 << 10
MAX_HEADERS = 500
MAX_ENTITIES = 300
"""Parts, and what parts are in."""
MAX_DEPTH = 12
MAX_LINES = 20_000
"""That begin like a boundary, of a mail."""
MAX_LINE_BYTES = 2_000
MAX_OLD_BYTES = 1 << 20
"""Of a mail whose lines end as they did on old Macs."""
MAX_PARAMETERS_CHARS = 8 << 10
MAX_BOUNDARY_CHARS = 200
MAX_NAME_CHARS = 255

_HEADER_END = re.compile(rb"\n\r?\n")
_HEADER = re.compile(rb"^([!-9;-~]{1,128}+)[ \t]*+:([^\n]*+(?:\n[ \t][^\n]*+)*+)", re.MULTILINE)
_HEADER_LINES = re.compile(rb"(?:(?:[!-9;-~]{1,128}+[ \t]*+:|[ \t]|>?From )[^\n]*+(?:\n|\Z))*+")
_LINE_END = re.compile(rb"(--)?[ \t]*+(?:\r?\n|\Z)")
_LIKE_A_BOUNDARY = re.compile(rb"^--([^\r\n]{1,200}+)\r?\n(?=[!-9;-~]{1,60}+:|\r?\n)", re.MULTILINE)
_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]{1,64}/[a-z0-9!#$&^_.+-]{1,64}")
_PARAMETER = re.compile(
    r""";\s*+([A-Za-z0-9!#$%&+^_`{|}~.'-]{1,64}+)(\*[0-9]{0,3})?+(\*)?+\s*+=\s*+"""
    r"""(?:"((?:[^"\\]|\\.)*+)(?:"|\\?\Z)|([^;\s]*+))""",
    re.DOTALL,
)
_NO_BASE64 = re.compile(rb"[\r\n]*+[^\r\n]{0,998}?[^A-Za-z0-9+/=\r\n\t -]|[\r\n]*+[A-Za-z]++[ \t]")


class Part(Struct, frozen=True):
    """A leaf of the tree: its body is still encoded."""

    media_type: str
    parameters: dict[str, str]
    filename: str | None
    disposition: str
    encoding: str
    body: memoryview
    choice: int | None
    """The same for all that stand in one multipart/alternative."""


class Message(Struct, frozen=True):
    """Headers by lower-case name, in their order, unfolded, a character a byte; parts in theirs."""

    headers: dict[str, list[str]]
    parts: list[Part]
    has_all_headers: bool
    cut: bool
    """More was there than is read."""

    def first(self, name: str) -> str:
        """The first value, nearest to us of those that servers on the way have added; empty when there is none."""
        return self.headers.get(name, [""])[0]


def read(raw: bytes) -> Message:
    if len(raw) <= MAX_OLD_BYTES and b"\n" not in raw:
        raw = raw.replace(b"\r", b"\n")
    return _Reader(raw).message()


class _Reader:
    """Goes through a mail by the places of its pieces."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._view = memoryview(raw)
        self._parts: list[Part] = []
        self._entities = 0
        self._lines = 0
        self._cut = False

    def message(self) -> Message:
        headers, start = self._headers(0, len(self._raw))
        has_all_headers = not self._cut
        self._entity(headers, start, len(self._raw), 0, None)
        return Message(headers, self._parts, has_all_headers, self._cut)

    def _headers(self, start: int, end: int) -> tuple[dict[str, list[str]], int]:
        """Of the entity there, and where its body begins."""
        raw, limit = self._raw, min(end, start + MAX_HEADER_BYTES)
        for line_end in (b"\n", b"\r\n"):
            if raw.startswith(line_end, start, end):
                return {}, start + len(line_end)
        blank = _HEADER_END.search(raw, start, limit)
        if blank is not None:
            stop, body = blank.start(), blank.end()
        else:
            lines = _HEADER_LINES.match(raw, start, limit)
            stop = body = lines.end() if lines else start
            self._cut |= limit < end
        headers: dict[str, list[str]] = {}
        for number, found in enumerate(_HEADER.finditer(raw, start, stop)):
            if number == MAX_HEADERS:
                self._cut = True
                break
            value = found[2].replace(b"\r", b"").replace(b"\n", b"")
            headers.setdefault(found[1].decode("ascii").lower(), []).append(value.decode("latin-1").strip())
        return headers, body if headers else start

    def _entity(self, headers: dict[str, list[str]], start: int, end: int, depth: int, choice: int | None) -> None:
        self._entities += 1
        media_type, parameters = parse_parameters(headers.get("content-type", [""])[0])
        if not _MEDIA_TYPE.fullmatch(media_type):
            media_type = "text/plain"
        if media_type.startswith("multipart/") and depth < MAX_DEPTH:
            if media_type == "multipart/alternative":
                choice = self._entities
            found = False
            for inner_start, inner_end in self._pieces(start, end, parameters.get("boundary", "")):
                found = True
                if self._entities >= MAX_ENTITIES:
                    self._cut = True
                    return
                inner, body = self._headers(inner_start, inner_end)
                self._entity(inner, body, inner_end, depth + 1, choice)
            if found:
                return
            media_type = "text/plain"
        self._cut |= media_type.startswith("multipart/")
        disposition, about = parse_parameters(headers.get("content-disposition", [""])[0])
        filename = about.get("filename") or parameters.get("name")
        encoding = headers.get("content-transfer-encoding", [""])[0].lower().split()
        self._parts.append(
            Part(
                media_type=media_type,
                parameters=parameters,
                filename=_file_name(filename) if filename else None,
                disposition=disposition,
                encoding=encoding[0].rstrip(";") if encoding else "",
                body=self._view[start:end],
                choice=choice,
            )
        )

    def _pieces(self, start: int, end: int, boundary: str) -> Iterator[tuple[int, int]]:
        """What stands between a boundary's lines, or those that look like one where it is none; the last may lack its
        end.
        """
        told = boundary[:MAX_BOUNDARY_CHARS].encode("latin-1", "replace")
        found = False
        for piece in self._between(start, end, told) if told else ():
            found = True
            yield piece
        if not found:
            like = _LIKE_A_BOUNDARY.search(self._raw, start, min(end, start + MAX_HEADER_BYTES))
            if like is not None:
                yield from self._between(start, end, like[1].rstrip())

    def _between(self, start: int, end: int, boundary: bytes) -> Iterator[tuple[int, int]]:
        raw, line, begin = self._raw, b"\n--" + boundary, -1
        found = start - 1 if start and raw.startswith(line[1:], start, end) else raw.find(line, start, end)
        while found >= 0:
            self._lines += 1
            if self._lines > MAX_LINES:
                self._cut = True
                break
            rest = _LINE_END.match(raw, found + len(line), end)
            if rest is not None:
                if begin >= 0:
                    yield begin, max(begin, found - 1 if raw[found - 1 : found] == b"\r" else found)
                if rest[1]:
                    return
                begin = rest.end()
            found = raw.find(line, found + len(line) if rest is None else max(rest.end() - 1, found + 1), end)
        if begin >= 0:
            yield begin, end


def parse_parameters(value: str) -> tuple[str, dict[str, str]]:
    """`text/plain; charset=utf-8` and the like. The first of a name counts, RFC 2231's pieces where none is whole."""
    value = value[:MAX_PARAMETERS_CHARS]
    found: dict[str, str] = {}
    pieces: dict[str, dict[int, tuple[bool, str]]] = {}
    for match in _PARAMETER.finditer(value):
        name, number, extended = match[1].lower(), match[2], match[3]
        text = re.sub(r"\\(.)", r"\1", match[4]) if match[4] is not None else match[5]
        if number is None:
            found.setdefault(name, decode_header(text) if name in {"filename", "name"} else text)
        else:
            encoded = bool(extended) or number == "*"
            pieces.setdefault(name, {}).setdefault(int(number[1:] or 0), (encoded, text))
    for name, numbered in pieces.items():
        found.setdefault(name, _joined([numbered[key] for key in sorted(numbered)]))
    return value.partition(";")[0].strip().lower(), found


def _joined(pieces: list[tuple[bool, str]]) -> str:
    """The first encoded piece tells the charset of all; a character may begin in one and end in the next."""
    charset, raw = "", b""
    for place, (encoded, text) in enumerate(pieces):
        rest = text
        if encoded and not place and text.count("'") > 1:
            charset, _, rest = text.split("'", 2)
        piece = rest.encode("latin-1", "replace")
        raw += unquote_to_bytes(piece) if encoded else piece
    return decode_text(raw, charset)


def _file_name(told: str) -> str | None:
    """Without folders; where it is too long, its end, which says what it is."""
    return re.split(r"[/\\]", one_line(told))[-1].strip()[-MAX_NAME_CHARS:] or None


def decode_body(part: Part, limit: int) -> bytes:
    """The part's bytes, at most limit of them. What says that it is base64 and is plain words is taken as it is."""
    if part.encoding == "base64" and not (
        part.media_type.startswith("text/") and _NO_BASE64.match(part.body[:MAX_LINE_BYTES])
    ):
        return decode_base64(part.body[: limit * 2])[:limit]
    if part.encoding == "quoted-printable":
        return binascii.a2b_qp(part.body[: limit * 3])[:limit]
    return bytes(part.body[:limit])


def size_of(part: Part) -> int:
    """How many bytes it has once decoded, as near as can be told without doing so."""
    if part.encoding != "base64":
        return len(part.body)
    letters = len(part.body)
    for place in range(0, letters, 1 << 20):
        piece = bytes(part.body[place : place + (1 << 20)])
        letters -= len(piece) - len(piece.translate(None, b"\r\n \t="))
    return letters * 3 // 4
