"""What a buyer wrote, without Amazon's frame around it and what is quoted below. What to look for is data: markers.json
says of each where it is known from.
"""

import re
from enum import StrEnum
from importlib.resources import files

import msgspec
from msgspec import Struct


class Kind(StrEnum):
    """What a mail of Amazon's is about."""

    BUYER_MESSAGE = "BUYER_MESSAGE"
    SELLER_REPLY = "SELLER_REPLY"
    """Amazon's copy of what the seller wrote, wherever the seller wrote it."""
    RETURN = "RETURN"
    REFUND = "REFUND"
    CLAIM = "CLAIM"
    OTHER = "OTHER"


class _Domains(Struct, frozen=True, forbid_unknown_fields=True):
    source: str
    own: list[str]


class _Notifications(Struct, frozen=True, forbid_unknown_fields=True):
    source: str
    kinds: dict[str, Kind]


class _Ends(Struct, frozen=True, forbid_unknown_fields=True):
    begin: list[str]
    end: list[str]


class _Frame(Struct, frozen=True, forbid_unknown_fields=True):
    source: str
    any: _Ends
    languages: dict[str, _Ends]


class _Footers(Struct, frozen=True, forbid_unknown_fields=True):
    source: str
    lines: list[str]


class _Quotes(Struct, frozen=True, forbid_unknown_fields=True):
    source: str
    lines: list[str]
    between_dashes: list[str]


class Markers(Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    domains: _Domains
    notifications: _Notifications
    frame: _Frame
    footers: _Footers
    quotes: _Quotes


class Said(Struct, frozen=True):
    text: str
    language: str | None
    """Of the frame; None where there is none, or it does not tell."""
    framed: bool


MARKERS = msgspec.json.decode(files(__package__).joinpath("markers.json").read_bytes(), type=Markers)
RELAY_DOMAINS = frozenset(f"marketplace.{domain}" for domain in MARKERS.domains.own)
AMAZON_DOMAINS = RELAY_DOMAINS | frozenset(MARKERS.domains.own)


def _between_dashes(expression: str) -> str:
    return rf"(?<!-)-{{3,}}+ *+(?:{expression}) *+-{{3,}}+"


def _any_of(texts: list[str]) -> str:
    return "|".join(re.escape(text).replace(r"\ ", " +") for text in texts)


_LANGUAGES = MARKERS.frame.languages
_BEGIN = re.compile(
    _between_dashes(
        "|".join(
            [_any_of(MARKERS.frame.any.begin), *(f"(?P<{name}>{_any_of(of.begin)})" for name, of in _LANGUAGES.items())]
        )
    ),
    re.IGNORECASE,
)
_END = re.compile(
    _between_dashes("|".join(f"(?P<{name}>{_any_of(of.end)})" for name, of in _LANGUAGES.items())), re.IGNORECASE
)
_QUOTE = re.compile(
    rf"{_between_dashes(_any_of(MARKERS.quotes.between_dashes))}|^(?:{'|'.join(MARKERS.quotes.lines)})",
    re.IGNORECASE | re.MULTILINE,
)
_FOOTER = re.compile(rf"^(?:{'|'.join(MARKERS.footers.lines)})", re.IGNORECASE | re.MULTILINE)
_PRODUCT = re.compile(r"\[ASIN: ?[A-Z0-9]{10}\]\n")
_SPACES = re.compile(r"[ \t\u00a0]+")
_AROUND_LINES = re.compile(r" ?\n ?")
_EMPTY_LINES = re.compile(r"\n{3,}")
_BLANK = re.compile(r"\s*+")
_CITED = re.compile(r"^>.*\n?", re.MULTILINE)


def said(text: str) -> Said:
    """Never nothing where the writer wrote something."""
    whole = tidy(text)
    inner, language, framed = _framed(whole)
    return Said(_own(inner), language, framed)


def tidy(text: str) -> str:
    return _EMPTY_LINES.sub("\n\n", _AROUND_LINES.sub("\n", _SPACES.sub(" ", text))).strip()


def _framed(whole: str) -> tuple[str, str | None, bool]:
    """The frame's inside. Its end tells the language, as it may begin in another; the last end is the frame's, as the
    others stand in what the writer quotes.
    """
    begin = _BEGIN.search(whole)
    quote = _QUOTE.search(whole, 0, begin.start()) if begin else None
    ends = list(_END.finditer(whole, begin.end() if begin else 0))
    if (quote and whole[: quote.start()].strip()) or not (begin or ends):
        return whole, None, False
    stop = ends[-1].start() if ends else len(whole)
    start, told = _inside(whole, begin, stop)
    language = (ends[-1].lastgroup if ends else None) or told
    inner = whole[start:stop].strip()
    return (inner, language, True) if inner or (begin and ends) else (whole, language, False)


def _inside(whole: str, begin: re.Match[str] | None, stop: int) -> tuple[int, str | None]:
    """Where the inside begins, below a second heading too; without a begin, below Amazon's line of the product."""
    if begin is None:
        products = list(_PRODUCT.finditer(whole, 0, stop))
        return (products[-1].end() if products else 0), None
    start = begin.end()
    blank = _BLANK.match(whole, start)
    heading = _BEGIN.match(whole, blank.end() if blank else start)
    return (heading.end() if heading else start), begin.lastgroup


def _own(text: str) -> str:
    for marker in (_QUOTE, _FOOTER):
        found = marker.search(text)
        if found and text[: found.start()].strip():
            text = text[: found.start()].strip()
    return tidy(_CITED.sub("", text)) or text
