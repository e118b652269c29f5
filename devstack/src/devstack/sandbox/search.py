"""Searching a seller's orders page by page: what Orders v2026-01-01 and v0 share, under the names that each has."""

import hashlib
import re
from datetime import UTC, datetime

import msgspec
from litestar.datastructures import MultiDict

from .orderbook import Family, OrderBook
from .spapi import invalid_input

MAX_PAGE = 100
MAX_MARKETPLACES = 50
TOKEN_SECONDS = 24 * 3600
LAG = 2 * 60_000
"""Amazon serves nothing of the last two minutes."""


class Names(msgspec.Struct, frozen=True):
    """The parameters of a version: *After and *Before of each family, the marketplaces."""

    families: dict[Family, tuple[str, str]]
    marketplace_ids: str


class Filter(msgspec.Struct, frozen=True):
    """What must stay the same from page to page; times in milliseconds since 1970."""

    family: Family
    after: int
    before: int | None
    marketplace_ids: tuple[str, ...]
    statuses: tuple[str, ...]
    fulfilled_by: tuple[str, ...]

    def digest(self) -> str:
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()

    def admits(self, book: OrderBook, index: int) -> bool:
        if not (self.marketplace_ids or self.statuses or self.fulfilled_by):
            return True
        traits = book.traits(index)
        return (
            (not self.marketplace_ids or traits.marketplace_id in self.marketplace_ids)
            and (not self.statuses or traits.status in self.statuses)
            and (not self.fulfilled_by or traits.fulfilled_by in self.fulfilled_by)
        )


def find_page(
    book: OrderBook, search: Filter, before: int, start: tuple[int, int], size: int
) -> tuple[list[int], tuple[int, int] | None]:
    """The indexes of a page, and where it ended when there are more."""
    found: list[tuple[int, int]] = []
    for place in book.walk(search.family, start):
        if place[0] > before or len(found) > size:
            break
        if search.admits(book, place[1]):
            found.append(place)
    return [index for _, index in found[:size]], found[size - 1] if len(found) > size else None


def read_filter(
    parameters: MultiDict[str], names: Names, latest: int, statuses: tuple[str, ...], fulfilled_by: tuple[str, ...]
) -> Filter:
    """Exactly one *After; its *Before, when given, is not before it and two minutes old."""
    asked: list[Family] = [family for family, (after, _) in names.families.items() if after in parameters]
    if len(asked) != 1:
        either = ", ".join(after for after, _ in names.families.values())
        raise invalid_input(either, "exactly one of them must be provided.")
    family = asked[0]
    other_before = names.families["updated" if family == "created" else "created"][1]
    after_name, before_name = names.families[family]
    if other_before in parameters:
        raise invalid_input(other_before, f"cannot be combined with {after_name}.")
    after = read_time(parameters, after_name)
    before = read_time(parameters, before_name) if before_name in parameters else None
    if before is not None and before > latest:
        raise invalid_input(before_name, "must be at least two minutes before the time of the request.")
    if before is not None and before < after:
        raise invalid_input(before_name, f"must be equal to or after {after_name}.")
    if after > latest:
        raise invalid_input(after_name, "must be at least two minutes before the time of the request.")
    marketplace_ids = values(parameters, names.marketplace_ids)
    if len(marketplace_ids) > MAX_MARKETPLACES:
        raise invalid_input(names.marketplace_ids, f"at most {MAX_MARKETPLACES} are allowed.")
    return Filter(family, after, before, marketplace_ids, statuses, fulfilled_by)


def values(parameters: MultiDict[str], name: str) -> tuple[str, ...]:
    """Comma separated or repeated, in an order that does not matter."""
    parts = [part.strip() for value in parameters.getall(name, []) for part in value.split(",")]
    return tuple(sorted({part for part in parts if part}))


def one_of(parameters: MultiDict[str], name: str, known: tuple[str, ...]) -> tuple[str, ...]:
    found = values(parameters, name)
    unknown = [value for value in found if value not in known]
    if unknown:
        raise invalid_input(name, f"{unknown[0]!r} is none of {', '.join(known)}.")
    return found


def read_time(parameters: MultiDict[str], name: str) -> int:
    time = milliseconds(parameters[name])
    if time is None:
        raise invalid_input(name, "is no date and time in ISO 8601.")
    return time


def milliseconds(text: str) -> int | None:
    """Since 1970; None for what is no time."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0, int(moment.timestamp() * 1000))
    except (ValueError, OverflowError):
        return None


def read_size(parameters: MultiDict[str], name: str, default: int = MAX_PAGE) -> int:
    text = parameters.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,3}", text) or not 1 <= int(text) <= MAX_PAGE:
        raise invalid_input(name, f"must be a number from 1 to {MAX_PAGE}.")
    return int(text)
