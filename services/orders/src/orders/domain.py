"""Orders as support people see them, and how Amazon's become them."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from msgspec import Struct

from shared.amazon import orders as amazon
from shared.errors import NotFoundError, PermanentError, RetryLaterError
from shared.events import AMAZON

AT_RISK = timedelta(hours=24)


class OrderNotFoundError(NotFoundError):
    """Not there, or another tenant's."""

    code = "order_not_found"


class BackfillNotFoundError(NotFoundError):
    """Not there, or another tenant's."""

    code = "backfill_not_found"


class TenantNotConnectedError(RetryLaterError):
    """The tenant has no account that may be asked; its connection.connected may be on its way."""

    code = "tenant_not_connected"
    status = 409


class TenantArchivedError(PermanentError):
    """An archived tenant's orders are not fetched."""

    code = "tenant_archived"
    status = 409


class AccountDisconnectedError(PermanentError):
    """A disconnected account is asked for nothing more."""

    code = "account_disconnected"
    status = 409


class OrderStatus(StrEnum):
    PENDING = "PENDING"
    CONFIRMED = "CONFIRMED"
    SHIPPED = "SHIPPED"
    DELIVERED = "DELIVERED"
    CANCELLED = "CANCELLED"
    RETURNED = "RETURNED"


class DeliveryStatus(StrEnum):
    PREPARING = "PREPARING"
    SHIPPED = "SHIPPED"
    IN_TRANSIT = "IN_TRANSIT"
    OUT_FOR_DELIVERY = "OUT_FOR_DELIVERY"
    DELIVERED = "DELIVERED"
    DELAYED = "DELAYED"
    LOST = "LOST"


class SlaStatus(StrEnum):
    OK = "OK"
    AT_RISK = "AT_RISK"
    BREACHED = "BREACHED"


class Item(Struct, frozen=True, rename="camel"):
    """A position of an order."""

    external_item_id: str
    sku: str | None
    asin: str | None
    title: str | None
    quantity: int
    unit_price: Decimal | None
    currency: str | None


class NewOrder(Struct, frozen=True):
    """An order as it is to be stored. A cancelled one with quantity 0 and no total is an order too."""

    external_order_id: str
    marketplace_id: str | None
    customer_name: str | None
    customer_email: str | None
    order_date: datetime
    currency: str | None
    total_amount: Decimal | None
    order_status: OrderStatus
    external_status: str
    delivery_status: DeliveryStatus
    carrier: str | None
    tracking_code: str | None
    shipping_address: dict[str, Any] | None
    ship_by: datetime | None
    deliver_by: datetime | None
    shipped_at: datetime | None
    delivered_at: datetime | None
    external_updated_at: datetime
    items: list[Item]
    marketplace: str = AMAZON

    @property
    def order_ref(self) -> str:
        return order_ref(self.external_order_id)


class StoredOrder(Struct, frozen=True, rename="camel"):
    """An order as it is answered."""

    id: UUID
    tenant_id: str
    external_order_id: str
    order_ref: str
    marketplace: str
    marketplace_id: str | None
    customer_name: str | None
    customer_email: str | None
    order_date: datetime
    currency: str | None
    total_amount: Decimal | None
    order_status: str
    delivery_status: str
    sav_status: str
    sla_status: SlaStatus
    carrier: str | None
    tracking_code: str | None
    shipping_address: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime
    shipped_at: datetime | None
    delivered_at: datetime | None


class Sort(StrEnum):
    """The order of a list; a minus is the latest first. Its second key is the id."""

    OLDEST = "orderDate"
    NEWEST = "-orderDate"
    FIRST_CHANGED = "updatedAt"
    LAST_CHANGED = "-updatedAt"

    @property
    def column(self) -> str:
        return "order_date" if self in {Sort.OLDEST, Sort.NEWEST} else "updated_at"

    @property
    def is_descending(self) -> bool:
        return self.startswith("-")


class Search(Struct, frozen=True):
    """What a list of orders is asked for: of several values one has to fit, and of several filters all."""

    sort: Sort = Sort.NEWEST
    order_status: frozenset[OrderStatus] = frozenset()
    delivery_status: frozenset[DeliveryStatus] = frozenset()
    sla_status: frozenset[SlaStatus] = frozenset()
    marketplace_id: frozenset[str] = frozenset()
    ordered_from: datetime | None = None
    ordered_to: datetime | None = None
    """Exclusive."""
    external_order_id: str | None = None
    q: str | None = None


class Connection(Struct, frozen=True):
    """A seller's account that we may ask."""

    tenant_id: str
    marketplace: str
    connection_id: UUID


class Upserted(Struct, frozen=True):
    """What storing did to an order: it is new, or it was changed."""

    id: UUID
    external_order_id: str
    order_status: str
    is_new: bool


class JobState(StrEnum):
    REQUESTED = "REQUESTED"
    RUNNING = "RUNNING"
    WAITING = "WAITING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


class Job(Struct, frozen=True, rename="camel"):
    """A backfill as it is answered."""

    id: UUID
    tenant_id: str
    marketplace: str
    days: int
    window_from: datetime
    window_to: datetime
    state: JobState
    orders_stored: int
    items_stored: int
    pages: int
    error_code: str | None
    error: str | None
    next_attempt_at: datetime
    created_at: datetime
    finished_at: datetime | None


class Lease(Struct, frozen=True):
    """A job in our hands until the lease ends; the token proves that it still is."""

    job: Job
    token: int
    next_page: str | None
    attempts: int


def order_ref(external_order_id: str) -> str:
    """407-8949262-6149120 is #149120."""
    digits = "".join(character for character in external_order_id if character.isdigit())
    return f"#{digits[-6:]}"


_ORDER_STATUS = {
    "PENDING_AVAILABILITY": OrderStatus.PENDING,
    "PENDING": OrderStatus.PENDING,
    "INVOICE_UNCONFIRMED": OrderStatus.CONFIRMED,
    "UNSHIPPED": OrderStatus.CONFIRMED,
    "PARTIALLY_SHIPPED": OrderStatus.SHIPPED,
    "SHIPPED": OrderStatus.SHIPPED,
    "CANCELLED": OrderStatus.CANCELLED,
    "UNFULFILLABLE": OrderStatus.CANCELLED,
}
"""The model's FulfillmentStatus, and one more of Amazon's migration data. An unknown one reads PENDING."""

_PACKAGE_STATUS = {
    "PENDING": DeliveryStatus.PREPARING,
    "SHIPPED": DeliveryStatus.SHIPPED,
    "IN_TRANSIT": DeliveryStatus.IN_TRANSIT,
    "DELIVERED": DeliveryStatus.DELIVERED,
    "UNDELIVERABLE": DeliveryStatus.LOST,
}
_DETAILED_STATUS = {
    "OUT_FOR_DELIVERY": DeliveryStatus.OUT_FOR_DELIVERY,
    "DELAYED": DeliveryStatus.DELAYED,
    "LOST": DeliveryStatus.LOST,
}
_LEAST_ADVANCED_FIRST = (
    DeliveryStatus.LOST,
    DeliveryStatus.DELAYED,
    DeliveryStatus.PREPARING,
    DeliveryStatus.SHIPPED,
    DeliveryStatus.IN_TRANSIT,
    DeliveryStatus.OUT_FOR_DELIVERY,
    DeliveryStatus.DELIVERED,
)


def is_known_status(external_status: str) -> bool:
    return external_status in _ORDER_STATUS


def from_amazon(order: amazon.Order) -> NewOrder:
    """An order of the model v2026-01-01 as ours."""
    fulfillment = order.fulfillment
    external_status = fulfillment.fulfillment_status if fulfillment else "UNKNOWN"
    packages = [package for package in order.packages if _status(package) is not None]
    shipped = fulfillment is not None and external_status in {"SHIPPED", "PARTIALLY_SHIPPED"}
    delivery = _delivery_status(packages, DeliveryStatus.SHIPPED if shipped else DeliveryStatus.PREPARING)
    status = _ORDER_STATUS.get(external_status, OrderStatus.PENDING)
    if status is OrderStatus.SHIPPED and external_status == "SHIPPED" and delivery is DeliveryStatus.DELIVERED:
        status = OrderStatus.DELIVERED
    tracked = next((package for package in packages if package.tracking_number), packages[0] if packages else None)
    total = order.proceeds.grand_total if order.proceeds else None
    items = [_item(item) for item in order.order_items]
    return NewOrder(
        external_order_id=order.order_id,
        marketplace_id=order.sales_channel.marketplace_id,
        customer_name=order.buyer.buyer_name if order.buyer else None,
        customer_email=order.buyer.buyer_email if order.buyer else None,
        order_date=order.created_time,
        currency=total.currency_code if total else next((item.currency for item in items if item.currency), None),
        total_amount=total.amount if total else None,
        order_status=status,
        external_status=external_status,
        delivery_status=delivery,
        carrier=tracked.carrier if tracked else None,
        tracking_code=tracked.tracking_number if tracked else None,
        shipping_address=order.recipient.delivery_address if order.recipient else None,
        ship_by=_latest(fulfillment.ship_by_window if fulfillment else None),
        deliver_by=_latest(fulfillment.deliver_by_window if fulfillment else None),
        shipped_at=min((package.ship_time for package in packages if package.ship_time), default=None),
        # The model has no time of delivery; the order's last change is the nearest that Amazon tells.
        delivered_at=order.last_updated_time if delivery is DeliveryStatus.DELIVERED else None,
        external_updated_at=order.last_updated_time,
        items=items,
    )


def _item(item: amazon.OrderItem) -> Item:
    price = item.product.price.unit_price if item.product.price else None
    return Item(
        external_item_id=item.order_item_id,
        sku=item.product.seller_sku,
        asin=item.product.asin,
        title=item.product.title,
        quantity=item.quantity_ordered,
        unit_price=price.amount if price else None,
        currency=price.currency_code if price else None,
    )


def _status(package: amazon.Package) -> DeliveryStatus | None:
    """None for a cancelled package, which says nothing about the delivery."""
    status = package.package_status
    if status is None:
        return DeliveryStatus.SHIPPED if package.ship_time else DeliveryStatus.PREPARING
    if status.status == "CANCELLED":
        return None
    return _DETAILED_STATUS.get(status.detailed_status or "") or _PACKAGE_STATUS.get(
        status.status, DeliveryStatus.PREPARING
    )


def _delivery_status(packages: Sequence[amazon.Package], without_packages: DeliveryStatus) -> DeliveryStatus:
    """The order is as far as its least advanced package."""
    statuses = {status for package in packages if (status := _status(package)) is not None}
    return min(statuses, key=_LEAST_ADVANCED_FIRST.index, default=without_packages)


def _latest(window: amazon.DateTimeRange | None) -> datetime | None:
    return window.latest_date_time if window else None


def sla_status(
    order_status: str,
    ship_by: datetime | None,
    deliver_by: datetime | None,
    shipped_at: datetime | None,
    now: datetime,
) -> SlaStatus:
    """BREACHED once a deadline has passed or was missed, AT_RISK on its last day, else OK.
    A cancelled or returned order has no deadlines any more. The column sla_due says the same for lists to be filtered.
    """
    if order_status in {OrderStatus.CANCELLED, OrderStatus.RETURNED}:
        return SlaStatus.OK
    has_shipped = order_status in {OrderStatus.SHIPPED, OrderStatus.DELIVERED}
    # Amazon does not tell when a package arrived, and nothing at all of one that it was not told of: neither is held
    # against the deadline.
    has_arrived = order_status == OrderStatus.DELIVERED or (has_shipped and shipped_at is None)
    met = [_deadline(ship_by, shipped_at, has_shipped, now), _deadline(deliver_by, None, has_arrived, now)]
    for worst in (SlaStatus.BREACHED, SlaStatus.AT_RISK):
        if worst in met:
            return worst
    return SlaStatus.OK


def _deadline(deadline: datetime | None, done_at: datetime | None, done: bool, now: datetime) -> SlaStatus:
    if deadline is None:
        return SlaStatus.OK
    if done:
        return SlaStatus.BREACHED if done_at is not None and done_at > deadline else SlaStatus.OK
    if now > deadline:
        return SlaStatus.BREACHED
    return SlaStatus.AT_RISK if deadline - now < AT_RISK else SlaStatus.OK
