"""Orders v0, which v2026-01-01 replaces: the same orders, for callers that still speak it.

Without a restricted data token, which the sandbox does not give, Amazon tells of a buyer the anonymised email, and of
an address the place.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from litestar import get
from litestar.datastructures import MultiDict
from litestar.response import Response

from .http import HttpRequest
from .orderbook import V0_STATUSES, Json, OrderBook, iso
from .quota import (
    GET_ORDER_ADDRESS,
    GET_ORDER_BUYER_INFO,
    GET_ORDER_ITEMS,
    GET_ORDER_V0,
    GET_ORDERS_V0,
    Plan,
)
from .search import LAG, TOKEN_SECONDS, Filter, Names, find_page, one_of, read_filter, read_size, values
from .signing import SignatureError, seal, unseal
from .spapi import answer, invalid_input, not_found
from .state import Sandbox, Seller

PATH = "/orders/v0/orders"
_NAMES = Names(
    {"created": ("CreatedAfter", "CreatedBefore"), "updated": ("LastUpdatedAfter", "LastUpdatedBefore")},
    "MarketplaceIds",
)
_CHANNELS = {"MFN": "MERCHANT", "AFN": "AMAZON"}
_STATUSES = {name: status for status, name in V0_STATUSES.items()}
_MOST_IDS = 50
_ORDER_ID = re.compile(r"\d{3}-\d{7}-\d{7}")
_ADDRESS = {
    "city": "City",
    "stateOrRegion": "StateOrRegion",
    "postalCode": "PostalCode",
    "countryCode": "CountryCode",
}

Order = Mapping[str, Any]


class PageToken(msgspec.Struct, frozen=True):
    """The rest of a search, which is told by nothing else."""

    seller_id: str
    search: Filter
    size: int
    before: int
    time: int
    index: int
    expires_at: float


@get(PATH)
async def get_orders(request: HttpRequest, sandbox: Sandbox) -> Response[bytes]:
    return await answer(request, sandbox, GET_ORDERS_V0, lambda seller: _search(sandbox, seller, request.query_params))


@get(f"{PATH}/{{order_id:str}}")
async def get_order(request: HttpRequest, sandbox: Sandbox, order_id: str) -> Response[bytes]:
    return await _of_order(request, sandbox, GET_ORDER_V0, order_id, _order)


@get(f"{PATH}/{{order_id:str}}/orderItems")
async def get_order_items(request: HttpRequest, sandbox: Sandbox, order_id: str) -> Response[bytes]:
    return await _of_order(request, sandbox, GET_ORDER_ITEMS, order_id, _items)


@get(f"{PATH}/{{order_id:str}}/address")
async def get_order_address(request: HttpRequest, sandbox: Sandbox, order_id: str) -> Response[bytes]:
    return await _of_order(request, sandbox, GET_ORDER_ADDRESS, order_id, _address)


@get(f"{PATH}/{{order_id:str}}/buyerInfo")
async def get_order_buyer_info(request: HttpRequest, sandbox: Sandbox, order_id: str) -> Response[bytes]:
    return await _of_order(request, sandbox, GET_ORDER_BUYER_INFO, order_id, _buyer)


async def _of_order(
    request: HttpRequest, sandbox: Sandbox, plan: Plan, order_id: str, tell: Callable[[Order], Json]
) -> Response[bytes]:
    def operation(seller: Seller) -> Json:
        if not _ORDER_ID.fullmatch(order_id):
            raise invalid_input("orderId", "must be of the form 123-1234567-1234567.")
        book = sandbox.book(seller)
        index = book.find(order_id)
        if index is None:
            raise not_found(f"There is no order {order_id}.")
        return {"payload": tell(book.order(index))}

    return await answer(request, sandbox, plan, operation)


def _search(sandbox: Sandbox, seller: Seller, parameters: MultiDict[str]) -> Json:
    book = sandbox.book(seller)
    if "AmazonOrderIds" in parameters:
        return {"payload": {"Orders": _named(book, values(parameters, "AmazonOrderIds"))}}
    page = _page_token(sandbox, seller, parameters.get("NextToken"))
    if page is None:
        latest = sandbox.now() - LAG
        if not values(parameters, "MarketplaceIds"):
            raise invalid_input("MarketplaceIds", "must be provided.")
        statuses = tuple(_STATUSES[name] for name in one_of(parameters, "OrderStatuses", tuple(_STATUSES)))
        channels = tuple(_CHANNELS[name] for name in one_of(parameters, "FulfillmentChannels", tuple(_CHANNELS)))
        search = read_filter(parameters, _NAMES, latest, statuses, channels)
        size = read_size(parameters, "MaxResultsPerPage")
        before, start = latest if search.before is None else search.before, (search.after, -1)
    else:
        search, size, before, start = page.search, page.size, page.before, (page.time, page.index + 1)
    found, last = find_page(book, search, before, start, size)
    payload: Json = {"Orders": [_order(book.order(index)) for index in found]}
    if last is not None:
        expires_at = sandbox.clock.seconds() + TOKEN_SECONDS
        token = PageToken(seller.seller_id, search, size, before, *last, expires_at)
        payload["NextToken"] = seal(sandbox.kept.key, "getOrders", token)
    payload[_NAMES.families[search.family][1]] = iso(before)
    return {"payload": payload}


def _named(book: OrderBook, order_ids: tuple[str, ...]) -> list[Json]:
    if len(order_ids) > _MOST_IDS:
        raise invalid_input("AmazonOrderIds", f"at most {_MOST_IDS} are allowed.")
    indexes = [book.find(order_id) for order_id in order_ids]
    return [_order(book.order(index)) for index in indexes if index is not None]


def _page_token(sandbox: Sandbox, seller: Seller, text: str | None) -> PageToken | None:
    if text is None:
        return None
    try:
        page = unseal(sandbox.kept.key, "getOrders", text, PageToken)
    except SignatureError:
        raise invalid_input("NextToken", "is not a token of this operation.") from None
    if page.seller_id != seller.seller_id:
        raise invalid_input("NextToken", "belongs to another selling partner.")
    if page.expires_at <= sandbox.clock.seconds():
        raise invalid_input("NextToken", "has expired.")
    return page


def _order(order: Order) -> Json:
    fulfillment, channel = order["fulfillment"], order["salesChannel"]
    items = order["orderItems"]
    told: Json = {
        "AmazonOrderId": order["orderId"],
        "PurchaseDate": order["createdTime"],
        "LastUpdateDate": order["lastUpdatedTime"],
        "OrderStatus": V0_STATUSES[fulfillment["fulfillmentStatus"]],
        "FulfillmentChannel": "MFN" if fulfillment["fulfilledBy"] == "MERCHANT" else "AFN",
        "SalesChannel": channel["marketplaceName"],
        "MarketplaceId": channel["marketplaceId"],
        "OrderType": "StandardOrder",
        "IsPrime": "PRIME" in order.get("programs", ()),
        "IsBusinessOrder": "AMAZON_BUSINESS" in order.get("programs", ()),
        "NumberOfItemsShipped": sum(item["fulfillment"]["quantityFulfilled"] for item in items),
        "NumberOfItemsUnshipped": sum(item["fulfillment"]["quantityUnfulfilled"] for item in items),
        "BuyerInfo": _email(order),
        "ShippingAddress": _place(order),
    }
    total = order.get("proceeds", {}).get("grandTotal")
    if total is not None:
        told["OrderTotal"] = _money(total)
    for window, name in (("shipByWindow", "ShipDate"), ("deliverByWindow", "DeliveryDate")):
        told[f"Earliest{name}"] = fulfillment.get(window, {}).get("earliestDateTime")
        told[f"Latest{name}"] = fulfillment.get(window, {}).get("latestDateTime")
    return {name: value for name, value in told.items() if value is not None}


def _items(order: Order) -> Json:
    return {"AmazonOrderId": order["orderId"], "OrderItems": [_item(item) for item in order["orderItems"]]}


def _item(item: Order) -> Json:
    product = item["product"]
    told: Json = {
        "ASIN": product.get("asin", ""),
        "OrderItemId": item["orderItemId"],
        "SellerSKU": product.get("sellerSku"),
        "Title": product.get("title"),
        "QuantityOrdered": item["quantityOrdered"],
        "QuantityShipped": item["fulfillment"]["quantityFulfilled"],
    }
    for breakdown in item.get("proceeds", {}).get("breakdowns", ()):
        if breakdown["type"] == "ITEM" and item["quantityOrdered"]:
            told["ItemPrice"] = _money(breakdown["subtotal"])
    promotions = [one["promotionId"] for one in item.get("promotion", {}).get("breakdowns", ())]
    if promotions:
        told["PromotionIds"] = promotions
    return {name: value for name, value in told.items() if value is not None}


def _address(order: Order) -> Json:
    return {"AmazonOrderId": order["orderId"], "ShippingAddress": _place(order)}


def _buyer(order: Order) -> Json:
    return {"AmazonOrderId": order["orderId"], **_email(order)}


def _email(order: Order) -> Json:
    email = order.get("buyer", {}).get("buyerEmail")
    return {} if email is None else {"BuyerEmail": email}


def _place(order: Order) -> Json:
    address = order.get("recipient", {}).get("deliveryAddress", {})
    return {told: address[name] for name, told in _ADDRESS.items() if address.get(name)}


def _money(amount: Order) -> Json:
    return {"CurrencyCode": amount["currencyCode"], "Amount": amount["amount"]}
