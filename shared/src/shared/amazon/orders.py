"""Orders v2026-01-01 (model orders_2026-01-01.json): what we read of it. Amounts are Decimal, unknown fields are
left out, unknown values of an enum are kept as they come.
"""

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from msgspec import Struct

from .errors import AmazonNotFoundError
from .gate import Lane, Operation
from .spapi import SpApi

SEARCH_ORDERS = Operation("searchOrders", 0.0056, 20)
GET_ORDER = Operation("getOrder", 0.5, 30)
INCLUDED_DATA = "BUYER,RECIPIENT,PROCEEDS,FULFILLMENT,PACKAGES"
PAGE_SIZE = 100
_ORDERS = "/orders/2026-01-01/orders"
_ORDER_ID = re.compile(r"[A-Za-z0-9-]+")


class Money(Struct, frozen=True, rename="camel"):
    amount: Decimal
    currency_code: str


class SalesChannel(Struct, frozen=True, rename="camel"):
    channel_name: str
    marketplace_id: str | None = None


class Buyer(Struct, frozen=True, rename="camel"):
    buyer_name: str | None = None
    buyer_email: str | None = None


class Recipient(Struct, frozen=True, rename="camel"):
    delivery_address: dict[str, Any] | None = None


class OrderProceeds(Struct, frozen=True, rename="camel"):
    grand_total: Money | None = None


class DateTimeRange(Struct, frozen=True, rename="camel"):
    earliest_date_time: datetime | None = None
    latest_date_time: datetime | None = None


class Fulfillment(Struct, frozen=True, rename="camel"):
    fulfillment_status: str
    fulfilled_by: str | None = None
    ship_by_window: DateTimeRange | None = None
    deliver_by_window: DateTimeRange | None = None


class ItemPrice(Struct, frozen=True, rename="camel"):
    unit_price: Money | None = None


class Product(Struct, frozen=True, rename="camel"):
    asin: str | None = None
    title: str | None = None
    seller_sku: str | None = None
    price: ItemPrice | None = None


class OrderItem(Struct, frozen=True, rename="camel"):
    order_item_id: str
    quantity_ordered: int
    product: Product


class PackageStatus(Struct, frozen=True, rename="camel"):
    status: str
    detailed_status: str | None = None


class Package(Struct, frozen=True, rename="camel"):
    package_reference_id: str
    package_status: PackageStatus | None = None
    carrier: str | None = None
    ship_time: datetime | None = None
    tracking_number: str | None = None


class Order(Struct, frozen=True, rename="camel"):
    order_id: str
    created_time: datetime
    last_updated_time: datetime
    sales_channel: SalesChannel
    order_items: list[OrderItem]
    buyer: Buyer | None = None
    recipient: Recipient | None = None
    proceeds: OrderProceeds | None = None
    fulfillment: Fulfillment | None = None
    packages: list[Package] = []


class Pagination(Struct, frozen=True, rename="camel"):
    next_token: str | None = None


class SearchOrdersPage(Struct, frozen=True, rename="camel"):
    """last_updated_before: until when there is every change, where changes were asked for."""

    orders: list[Order]
    pagination: Pagination | None = None
    last_updated_before: datetime | None = None
    """Up to when a search by change has looked, by Amazon's clock: two minutes ago, unless it was asked for less."""

    @property
    def next_token(self) -> str | None:
        return self.pagination.next_token if self.pagination else None


class _GetOrderAnswer(Struct, frozen=True):
    order: Order


async def search_orders(
    api: SpApi,
    tenant_id: str,
    created_after: datetime,
    created_before: datetime,
    token: str | None = None,
    *,
    lane: Lane = Lane.LIVE,
    wait_seconds: float = 0,
) -> SearchOrdersPage:
    """A page of a seller's orders with items, buyer, recipient, fulfilment and packages inline.
    created_before is at least two minutes ago. A token is good for 24 hours and for the same dates only.
    Errors as SpApi.get().
    """
    asked = {"createdAfter": iso(created_after), "createdBefore": iso(created_before), "includedData": INCLUDED_DATA}
    return await _search(api, tenant_id, asked, token, lane, wait_seconds)


async def search_changed_orders(
    api: SpApi,
    tenant_id: str,
    updated_after: datetime,
    updated_before: datetime | None = None,
    token: str | None = None,
    *,
    included_data: str = INCLUDED_DATA,
    lane: Lane = Lane.LIVE,
    wait_seconds: float = 0,
) -> SearchOrdersPage:
    """As search_orders(), by the time of the last change; without updated_before up to two minutes ago, by Amazon's
    clock, as the page's last_updated_before says.
    """
    asked = {"lastUpdatedAfter": iso(updated_after)}
    if updated_before is not None:
        asked["lastUpdatedBefore"] = iso(updated_before)
    if included_data:
        asked["includedData"] = included_data
    return await _search(api, tenant_id, asked, token, lane, wait_seconds)


async def _search(
    api: SpApi, tenant_id: str, asked: dict[str, str], token: str | None, lane: Lane, wait_seconds: float
) -> SearchOrdersPage:
    params = asked | {"maxResultsPerPage": str(PAGE_SIZE)}
    if token is not None:
        params["paginationToken"] = token
    return await api.get(
        tenant_id, SEARCH_ORDERS, _ORDERS, params, SearchOrdersPage, lane=lane, wait_seconds=wait_seconds
    )


async def get_order(
    api: SpApi,
    tenant_id: str,
    order_id: str,
    *,
    lane: Lane = Lane.LIVE,
    wait_seconds: float = 0,
    connected_at: datetime | None = None,
) -> Order:
    """One order, as search_orders() gives it; AmazonNotFoundError when the seller has no such order. connected_at as
    SpApi.get() has it.
    """
    if not _ORDER_ID.fullmatch(order_id):  # quoting is not enough: ".." would lead to another operation
        raise AmazonNotFoundError(f"{order_id!r} is no order id of Amazon's.")
    path = f"{_ORDERS}/{order_id}"
    params = {"includedData": INCLUDED_DATA}
    answer = await api.get(
        tenant_id,
        GET_ORDER,
        path,
        params,
        _GetOrderAnswer,
        lane=lane,
        wait_seconds=wait_seconds,
        connected_at=connected_at,
    )
    return answer.order


def iso(moment: datetime) -> str:
    """As Amazon's parameters are written; to the second, downwards."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
