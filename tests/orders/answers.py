"""Answers about one order as merging sees them."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import strategies as st

from orders.domain import DeliveryStatus, Detail, Item, NewOrder, placeholder
from orders.mapping import statuses

ORDER_ID = "407-0000000-0000001"
NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def item(sku: str, item_id: str | None = None, *, quantity: int = 1, price: str = "9.90") -> Item:
    return Item(item_id, sku, f"ASIN-{sku}", f"Title {sku}", quantity, Decimal(price), "EUR")


def full(
    version: int = 0,
    *,
    status: str = "SHIPPED",
    packages: DeliveryStatus | None = None,
    skus: str = "a",
    order_id: str = ORDER_ID,
) -> NewOrder:
    """Of searchOrders, changed so many minutes after NOW; what it says tells which version it is."""
    updated_at = NOW + version * MINUTE
    order_status, delivery = statuses(status, packages)
    return NewOrder(
        external_order_id=order_id,
        marketplace_id="A13V1IB3VIYZZH",
        customer_name=f"Ada {version}",
        customer_email="ada@marketplace.amazon.fr",
        order_date=NOW,
        currency="EUR",
        total_amount=Decimal(f"{version}.50"),
        order_status=order_status,
        external_status=status,
        delivery_status=delivery,
        carrier=f"DPD {version}" if packages else None,
        tracking_code="42" if packages else None,
        shipping_address={"city": f"Paris {version}"},
        ship_by=NOW,
        deliver_by=NOW + MINUTE,
        shipped_at=updated_at if packages else None,
        delivered_at=updated_at if delivery is DeliveryStatus.DELIVERED else None,
        external_updated_at=updated_at,
        items=[item(sku, f"{sku}{place}") for place, sku in enumerate(skus)],
        package_status=packages,
    )


def row(version: int = 0, *, status: str = "Shipped", skus: str = "a", order_id: str = ORDER_ID) -> NewOrder:
    """Of a report."""
    updated_at = NOW + version * MINUTE
    order_status, delivery = statuses(status, None)
    return NewOrder(
        external_order_id=order_id,
        marketplace_id="A13V1IB3VIYZZH",
        customer_name=None,
        customer_email=None,
        order_date=NOW,
        currency="EUR",
        total_amount=Decimal(f"{version}.75"),
        order_status=order_status,
        external_status=status,
        delivery_status=delivery,
        carrier=None,
        tracking_code=None,
        shipping_address=None,
        ship_by=None,
        deliver_by=None,
        shipped_at=None,
        delivered_at=updated_at if delivery is DeliveryStatus.DELIVERED else None,
        external_updated_at=updated_at,
        items=[item(sku, quantity=version % 7 + 1) for sku in skus],
        detail=Detail.REPORT,
    )


VERSIONS = st.integers(0, 5)
SKUS = st.text("abc", max_size=4)
PACKAGES = st.none() | st.sampled_from(DeliveryStatus)
FULL = st.builds(
    full, VERSIONS, status=st.sampled_from(["UNSHIPPED", "PARTIALLY_SHIPPED", "SHIPPED"]), packages=PACKAGES, skus=SKUS
)
ROW = st.builds(
    row, VERSIONS, status=st.sampled_from(["Shipped", "Cancelled", "Shipped - Delivered to Buyer"]), skus=SKUS
)
PLACEHOLDER = st.builds(lambda minutes: placeholder(ORDER_ID, NOW + minutes * MINUTE), st.integers(-5, 5))


def _version(answer: NewOrder) -> object:
    return answer.detail, answer.order_date if answer.detail is Detail.PLACEHOLDER else answer.external_updated_at


ANSWERS = st.lists(FULL | ROW | PLACEHOLDER, min_size=1, max_size=6, unique_by=_version)
"""In any order; Amazon says one thing of one version."""
