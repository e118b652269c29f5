"""searchOrders and getOrder (Orders model v2026-01-01)."""

import re
from collections.abc import Mapping
from typing import cast

import msgspec
from litestar import get
from litestar.datastructures import MultiDict
from litestar.response import Response

from .http import HttpRequest
from .orderbook import FULFILLED_BY, FULFILLMENT_STATUSES, Json, iso
from .quota import GET_ORDER, SEARCH_ORDERS
from .search import LAG, TOKEN_SECONDS, Filter, Names, find_page, one_of, read_filter, read_size
from .signing import SignatureError, seal, unseal
from .spapi import answer, invalid_input, not_found
from .state import Sandbox, Seller

PATH = "/orders/2026-01-01/orders"
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
_NAMES = Names(
    {"created": ("createdAfter", "createdBefore"), "updated": ("lastUpdatedAfter", "lastUpdatedBefore")},
    "marketplaceIds",
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
        wanted = one_of(request.query_params, "includedData", INCLUDED_DATA)
        book = sandbox.book(seller)
        index = book.find(order_id)
        if index is None:
            raise not_found(f"There is no order {order_id}.")
        return {"order": _include(book.order(index), wanted)}

    return await answer(request, sandbox, GET_ORDER, operation)


def _search(sandbox: Sandbox, seller: Seller, parameters: MultiDict[str]) -> Json:
    latest = sandbox.now() - LAG
    statuses = one_of(parameters, "fulfillmentStatuses", FULFILLMENT_STATUSES)
    search = read_filter(parameters, _NAMES, latest, statuses, one_of(parameters, "fulfilledBy", FULFILLED_BY))
    size = read_size(parameters, "maxResultsPerPage")
    wanted = one_of(parameters, "includedData", INCLUDED_DATA)
    book = sandbox.book(seller)
    page = _page_token(sandbox, seller, search, parameters.get("paginationToken"))
    if page is None:
        before, start = latest if search.before is None else search.before, (search.after, -1)
    else:
        before, start = page.before, (page.time, page.index + 1)
    found, last = find_page(book, search, before, start, size)
    body: Json = {"orders": [_include(book.order(index), wanted) for index in found]}
    if last is not None:
        expires_at = sandbox.clock.seconds() + TOKEN_SECONDS
        token = PageToken(seller.seller_id, search.digest(), before, *last, expires_at)
        body["pagination"] = {"nextToken": seal(sandbox.kept.key, "searchOrders", token)}
    body[_NAMES.families[search.family][1]] = iso(before)
    return body


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
