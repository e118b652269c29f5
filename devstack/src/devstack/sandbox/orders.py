"""searchOrders and getOrder (Orders model v2026-01-01)."""

import hashlib
import re
from bisect import bisect_left
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import cast

import msgspec
from litestar import get
from litestar.datastructures import MultiDict
from litestar.response import Response

from .http import HttpRequest
from .orderbook import FULFILLED_BY, FULFILLMENT_STATUSES, Family, Json, OrderBook, iso
from .quota import GET_ORDER, SEARCH_ORDERS
from .signing import SignatureError, seal, unseal
from .spapi import answer, invalid_input, not_found
from .state import Sandbox, Seller

PATH = "/orders/2026-01-01/orders"
MAX_PAGE = 100
MAX_MARKETPLACES = 50
TOKEN_SECONDS = 24 * 3600
_LAG = 2 * 60_000
_ORDER_ID = re.compile(r"\d{3}-\d{7}-\d{7}")
_SECTIONS = {
    "buyer": "BUYER",
    "recipient": "RECIPIENT",
    "proceeds": "PROCEEDS",
    "fulfillment": "FULFILLMENT",
    "packages": "PACKAGES",
    "tax": "TAX",
    "payment": "PAYMENT",
    "fulfillmentOrders": "FULFILLMENT_ORDERS",
}
_ITEM_SECTIONS = {
    "proceeds": "PROCEEDS",
    "expense": "EXPENSE",
    "promotion": "PROMOTION",
    "cancellation": "CANCELLATION",
    "fulfillment": "FULFILLMENT",
    "tax": "TAX",
}
INCLUDED_DATA = tuple(sorted({*_SECTIONS.values(), *_ITEM_SECTIONS.values()}))
_FAMILIES: dict[Family, tuple[str, str]] = {
    "created": ("createdAfter", "createdBefore"),
    "updated": ("lastUpdatedAfter", "lastUpdatedBefore"),
}


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
        traits = book.traits(index)
        return (
            (not self.marketplace_ids or traits.marketplace_id in self.marketplace_ids)
            and (not self.statuses or traits.status in self.statuses)
            and (not self.fulfilled_by or traits.fulfilled_by in self.fulfilled_by)
        )


class PageToken(msgspec.Struct, frozen=True):
    """Where a page ended, and of which search."""

    seller_id: str
    filter: str
    before: int
    time: int
    index: int
    expires_at: float


@get(PATH)
async def search_orders(request: HttpRequest, sandbox: Sandbox) -> Response[bytes]:
    return await answer(request, sandbox, SEARCH_ORDERS, lambda seller: _search(sandbox, seller, request.query_params))


@get(f"{PATH}/{{order_id:str}}")
async def get_order(request: HttpRequest, sandbox: Sandbox, order_id: str) -> Response[bytes]:
    def operation(seller: Seller) -> Json:
        if not _ORDER_ID.fullmatch(order_id):
            raise invalid_input("orderId", "must be of the form 123-1234567-1234567.")
        wanted = _one_of(request.query_params, "includedData", INCLUDED_DATA)
        book = sandbox.book(seller)
        index = book.find(order_id)
        if index is None:
            raise not_found(f"There is no order {order_id}.")
        return {"order": _include(book.order(index), wanted)}

    return await answer(request, sandbox, GET_ORDER, operation)


def _search(sandbox: Sandbox, seller: Seller, parameters: MultiDict[str]) -> Json:
    latest = int(sandbox.clock.seconds() * 1000) - _LAG
    search = _filter(parameters, latest)
    size = _size(parameters)
    wanted = _one_of(parameters, "includedData", INCLUDED_DATA)
    book = sandbox.book(seller)
    positions = book.positions(search.family)

    def place(index: int) -> tuple[int, int]:
        return book.time(search.family, index), index

    page = _page_token(sandbox, seller, search, parameters.get("paginationToken"))
    if page is None:
        before = latest if search.before is None else search.before
        start = bisect_left(positions, (search.after, -1), key=place)
    else:
        before = page.before
        start = bisect_left(positions, (page.time, page.index + 1), key=place)
    found: list[int] = []
    for at in range(start, len(positions)):
        index = positions[at]
        if book.time(search.family, index) > before or len(found) > size:
            break
        if search.admits(book, index):
            found.append(index)
    body: Json = {"orders": [_include(book.order(index), wanted) for index in found[:size]]}
    if len(found) > size:
        time, index = place(found[size - 1])
        expires_at = sandbox.clock.seconds() + TOKEN_SECONDS
        token = PageToken(seller.seller_id, search.digest(), before, time, index, expires_at)
        body["pagination"] = {"nextToken": seal(sandbox.kept.key, "searchOrders", token)}
    body[_FAMILIES[search.family][1]] = iso(before)
    return body


def _filter(parameters: MultiDict[str], latest: int) -> Filter:
    """Exactly one *After; its *Before, when given, is not before it and two minutes old."""
    asked: list[Family] = [family for family, (after, _) in _FAMILIES.items() if after in parameters]
    if len(asked) != 1:
        raise invalid_input("createdAfter, lastUpdatedAfter", "exactly one of them must be provided.")
    family = asked[0]
    other_before = _FAMILIES["updated" if family == "created" else "created"][1]
    after_name, before_name = _FAMILIES[family]
    if other_before in parameters:
        raise invalid_input(other_before, f"cannot be combined with {after_name}.")
    after = _time(parameters, after_name)
    before = _time(parameters, before_name) if before_name in parameters else None
    if before is not None and before > latest:
        raise invalid_input(before_name, "must be at least two minutes before the time of the request.")
    if before is not None and before < after:
        raise invalid_input(before_name, f"must be equal to or after {after_name}.")
    if after > latest:
        raise invalid_input(after_name, "must be at least two minutes before the time of the request.")
    marketplace_ids = _values(parameters, "marketplaceIds")
    if len(marketplace_ids) > MAX_MARKETPLACES:
        raise invalid_input("marketplaceIds", f"at most {MAX_MARKETPLACES} are allowed.")
    return Filter(
        family,
        after,
        before,
        marketplace_ids,
        _one_of(parameters, "fulfillmentStatuses", FULFILLMENT_STATUSES),
        _one_of(parameters, "fulfilledBy", FULFILLED_BY),
    )


def _page_token(sandbox: Sandbox, seller: Seller, search: Filter, text: str | None) -> PageToken | None:
    if text is None:
        return None
    try:
        page = unseal(sandbox.kept.key, "searchOrders", text, PageToken)
    except SignatureError:
        raise invalid_input("paginationToken", "is not a token of this operation.") from None
    if page.seller_id != seller.seller_id:
        raise invalid_input("paginationToken", "belongs to another selling partner.")
    if page.expires_at <= sandbox.clock.seconds():
        raise invalid_input("paginationToken", "has expired.")
    if page.filter != search.digest():
        raise invalid_input("paginationToken", "the other parameters are not those of the first request.")
    return page


def _include(order: Mapping[str, object], wanted: tuple[str, ...]) -> Json:
    """The order with the sections that were asked for; the items are always there."""

    def kept(part: Mapping[str, object], sections: Mapping[str, str]) -> Json:
        return {name: value for name, value in part.items() if sections.get(name, "") in ("", *wanted)}

    items = cast("list[Json]", order["orderItems"])
    return {**kept(order, _SECTIONS), "orderItems": [kept(item, _ITEM_SECTIONS) for item in items]}


def _values(parameters: MultiDict[str], name: str) -> tuple[str, ...]:
    """Comma separated or repeated, in an order that does not matter."""
    parts = [part.strip() for value in parameters.getall(name, []) for part in value.split(",")]
    return tuple(sorted({part for part in parts if part}))


def _one_of(parameters: MultiDict[str], name: str, known: tuple[str, ...]) -> tuple[str, ...]:
    values = _values(parameters, name)
    unknown = [value for value in values if value not in known]
    if unknown:
        raise invalid_input(name, f"{unknown[0]!r} is none of {', '.join(known)}.")
    return values


def _time(parameters: MultiDict[str], name: str) -> int:
    try:
        moment = datetime.fromisoformat(parameters[name])
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0, int(moment.timestamp() * 1000))
    except (ValueError, OverflowError):
        raise invalid_input(name, "is no date and time in ISO 8601.") from None


def _size(parameters: MultiDict[str]) -> int:
    text = parameters.get("maxResultsPerPage", str(MAX_PAGE))
    if not re.fullmatch(r"[0-9]{1,3}", text) or not 1 <= int(text) <= MAX_PAGE:
        raise invalid_input("maxResultsPerPage", f"must be a number from 1 to {MAX_PAGE}.")
    return int(text)
