"""Amazon's orders as ours."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache

from msgspec import Struct
from prometheus_client import Counter

from shared.amazon import orders as amazon
from shared.telemetry import log

from .domain import DeliveryStatus, Item, NewOrder, OrderStatus

UNKNOWN_STATUSES = Counter("orders_unknown_statuses_total", "Orders stored whose status at Amazon we do not know")
_LOGGED_CHARACTERS = 64


class Meaning(Struct, frozen=True):
    """What a status of Amazon's says of an order, and of its delivery where it does."""

    order: OrderStatus
    delivery: DeliveryStatus | None = None
    known: bool = True


_MEANINGS = {
    # FulfillmentStatus of the model v2026-01-01, OrderStatus of v0, and both as reports write them
    "pendingavailability": Meaning(OrderStatus.PENDING),
    "pending": Meaning(OrderStatus.PENDING),
    "unshipped": Meaning(OrderStatus.CONFIRMED),
    "partiallyshipped": Meaning(OrderStatus.SHIPPED),
    "shipped": Meaning(OrderStatus.SHIPPED),
    "invoiceunconfirmed": Meaning(OrderStatus.SHIPPED),  # v0: "All items in the order have been shipped."
    "cancelled": Meaning(OrderStatus.CANCELLED),
    "canceled": Meaning(OrderStatus.CANCELLED),
    "unfulfillable": Meaning(OrderStatus.CANCELLED),
    # Of reports alone: where Amazon's own carriers bring the order
    "pendingwaitingforpickup": Meaning(OrderStatus.CONFIRMED),
    "shipping": Meaning(OrderStatus.CONFIRMED),
    "shippedpickedup": Meaning(OrderStatus.SHIPPED, DeliveryStatus.IN_TRANSIT),
    "shippedintransit": Meaning(OrderStatus.SHIPPED, DeliveryStatus.IN_TRANSIT),
    "shippedoutfordelivery": Meaning(OrderStatus.SHIPPED, DeliveryStatus.OUT_FOR_DELIVERY),
    "shippeddeliveredtobuyer": Meaning(OrderStatus.DELIVERED, DeliveryStatus.DELIVERED),
    "shippedlostintransit": Meaning(OrderStatus.SHIPPED, DeliveryStatus.LOST),
    "shippeddamaged": Meaning(OrderStatus.SHIPPED, DeliveryStatus.LOST),
    "shippedundeliverable": Meaning(OrderStatus.SHIPPED, DeliveryStatus.LOST),
    "shippedrejectedbybuyer": Meaning(OrderStatus.RETURNED),
    "shippedreturningtoseller": Meaning(OrderStatus.RETURNED),
    "shippedreturnedtoseller": Meaning(OrderStatus.RETURNED),
}
"""By the status in small letters and nothing else."""
_UNKNOWN = Meaning(OrderStatus.PENDING, known=False)
_ON_ITS_WAY = {OrderStatus.SHIPPED, OrderStatus.RETURNED}
_PARTIAL = "partiallyshipped"

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
    "DAMAGED": DeliveryStatus.LOST,
}
_RETURNING = {"REJECTED_BY_BUYER", "RETURNING_TO_SELLER", "RETURNED_TO_SELLER"}
_LEAST_ADVANCED_FIRST = (
    DeliveryStatus.LOST,
    DeliveryStatus.DELAYED,
    DeliveryStatus.PREPARING,
    DeliveryStatus.SHIPPED,
    DeliveryStatus.IN_TRANSIT,
    DeliveryStatus.OUT_FOR_DELIVERY,
    DeliveryStatus.DELIVERED,
)


@lru_cache(maxsize=1024)
def _plain(external_status: str) -> str:
    return "".join(character for character in external_status.lower() if character.isalnum())


def meaning(external_status: str) -> Meaning:
    """Of a status of either model or a report, however it is written; one that we do not know reads PENDING."""
    return _MEANINGS.get(_plain(external_status), _UNKNOWN)


def statuses(external_status: str, packages: DeliveryStatus | None) -> tuple[OrderStatus, DeliveryStatus]:
    """Of an order and its delivery, from its status at Amazon and from what its packages say, if they do."""
    said = meaning(external_status)
    if said.delivery is not None:
        return said.order, said.delivery
    if said.order not in _ON_ITS_WAY:
        return said.order, packages or DeliveryStatus.PREPARING
    delivery = packages or DeliveryStatus.SHIPPED
    all_shipped = said.order is OrderStatus.SHIPPED and _plain(external_status) != _PARTIAL
    delivered = all_shipped and delivery is DeliveryStatus.DELIVERED
    return OrderStatus.DELIVERED if delivered else said.order, delivery


def tell_unknown_statuses(tenant_id: str, orders: Iterable[NewOrder]) -> None:
    """Log and count what meaning() does not know: the order is kept with its status as it came, and reads PENDING."""
    for order in orders:
        if not meaning(order.external_status).known:
            UNKNOWN_STATUSES.inc()
            log.warning(
                "unknown_order_status",
                tenant_id=tenant_id,
                order_id=order.external_order_id,
                status=order.external_status[:_LOGGED_CHARACTERS],
            )


def from_amazon(order: amazon.Order) -> NewOrder:
    """An order of the model v2026-01-01 as ours."""
    fulfillment = order.fulfillment
    external_status = fulfillment.fulfillment_status if fulfillment else "UNKNOWN"
    packages = [package for package in order.packages if not _is_cancelled(package)]
    package_status = min(map(_status, packages), key=_LEAST_ADVANCED_FIRST.index, default=None)
    status, delivery = statuses(external_status, package_status)
    if packages and status is OrderStatus.SHIPPED and all(map(_is_returning, packages)):
        status = OrderStatus.RETURNED
    tracked = next((package for package in packages if package.tracking_number), packages[0] if packages else None)
    total = order.proceeds.grand_total if order.proceeds else None
    items = _items(order.order_items)
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
        package_status=package_status,
    )


def _items(items: Sequence[amazon.OrderItem]) -> list[Item]:
    """One for each id, should Amazon repeat itself."""
    by_id = {item.order_item_id: item for item in items}
    return [_item(item) for item in by_id.values()]


def _item(item: amazon.OrderItem) -> Item:
    product = item.product
    price = product.price.unit_price if product.price else None
    return Item(
        external_item_id=item.order_item_id,
        sku=product.seller_sku,
        asin=product.asin,
        title=product.title,
        quantity=item.quantity_ordered,
        unit_price=price.amount if price else None,
        currency=price.currency_code if price else None,
    )


def _is_cancelled(package: amazon.Package) -> bool:
    """A cancelled package says nothing about the delivery."""
    return package.package_status is not None and package.package_status.status == "CANCELLED"


def _is_returning(package: amazon.Package) -> bool:
    return package.package_status is not None and package.package_status.detailed_status in _RETURNING


def _status(package: amazon.Package) -> DeliveryStatus:
    status = package.package_status
    if status is None:
        return DeliveryStatus.SHIPPED if package.ship_time else DeliveryStatus.PREPARING
    return _DETAILED_STATUS.get(status.detailed_status or "") or _PACKAGE_STATUS.get(
        status.status, DeliveryStatus.PREPARING
    )


def _latest(window: amazon.DateTimeRange | None) -> datetime | None:
    return window.latest_date_time if window else None
