"""Amazon's orders as ours: every status, every gap, every amount."""

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
import structlog.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from orders import mapping
from orders.domain import order_ref
from orders.mapping import UNKNOWN_STATUSES, from_amazon, meaning, statuses, tell_unknown_statuses
from shared.amazon import orders as amazon
from tests.models import model, needs_models


def of_amazon(**sections: Any) -> amazon.Order:
    """As it is read from the answer of the model; the sections are JSON."""
    order = {
        "orderId": "407-8949262-6149120",
        "createdTime": "2026-01-02T03:04:05Z",
        "lastUpdatedTime": "2026-01-03T03:04:05Z",
        "salesChannel": {"channelName": "AMAZON", "marketplaceId": "A13V1IB3VIYZZH"},
        "orderItems": [{"orderItemId": "1", "quantityOrdered": 1, "product": {}}],
    }
    return msgspec.convert(order | sections, amazon.Order, strict=False)


def package(status: str | None, detail: str | None = None, **fields: Any) -> dict[str, Any]:
    described = {"packageStatus": {"status": status} | ({"detailedStatus": detail} if detail else {})} if status else {}
    return {"packageReferenceId": "1"} | described | fields


def fulfilled(status: str) -> dict[str, Any]:
    return {"fulfillmentStatus": status}


@pytest.mark.parametrize(
    ("theirs", "ours", "delivery"),
    [
        ("PENDING_AVAILABILITY", "PENDING", "PREPARING"),
        ("PENDING", "PENDING", "PREPARING"),
        ("UNSHIPPED", "CONFIRMED", "PREPARING"),
        ("PARTIALLY_SHIPPED", "SHIPPED", "SHIPPED"),
        ("SHIPPED", "SHIPPED", "SHIPPED"),
        ("CANCELLED", "CANCELLED", "PREPARING"),
        ("UNFULFILLABLE", "CANCELLED", "PREPARING"),
        ("INVOICE_UNCONFIRMED", "SHIPPED", "SHIPPED"),
    ],
)
def test_every_status_of_the_model_has_one_of_ours(theirs: str, ours: str, delivery: str) -> None:
    order = from_amazon(of_amazon(fulfillment=fulfilled(theirs)))
    assert (order.order_status, order.delivery_status, order.external_status) == (ours, delivery, theirs)
    assert meaning(theirs).known


@pytest.mark.parametrize(
    ("theirs", "ours", "delivery"),
    [
        ("Pending", "PENDING", "PREPARING"),
        ("PendingAvailability", "PENDING", "PREPARING"),
        ("Pending - Waiting for Pick Up", "CONFIRMED", "PREPARING"),
        ("Unshipped", "CONFIRMED", "PREPARING"),
        ("Shipping", "CONFIRMED", "PREPARING"),
        ("PartiallyShipped", "SHIPPED", "SHIPPED"),
        ("Partially Shipped", "SHIPPED", "SHIPPED"),
        ("Shipped", "SHIPPED", "SHIPPED"),
        ("InvoiceUnconfirmed", "SHIPPED", "SHIPPED"),
        ("Shipped - Picked Up", "SHIPPED", "IN_TRANSIT"),
        ("Shipped - In Transit", "SHIPPED", "IN_TRANSIT"),
        ("Shipped - Out for Delivery", "SHIPPED", "OUT_FOR_DELIVERY"),
        ("Shipped - Delivered to Buyer", "DELIVERED", "DELIVERED"),
        ("Shipped - Lost in Transit", "SHIPPED", "LOST"),
        ("Shipped - Damaged", "SHIPPED", "LOST"),
        ("Shipped - Undeliverable", "SHIPPED", "LOST"),
        ("Shipped - Rejected by Buyer", "RETURNED", "SHIPPED"),
        ("Shipped - Returning to Seller", "RETURNED", "SHIPPED"),
        ("Shipped - Returned to Seller", "RETURNED", "SHIPPED"),
        ("Canceled", "CANCELLED", "PREPARING"),
        ("Cancelled", "CANCELLED", "PREPARING"),
        ("Unfulfillable", "CANCELLED", "PREPARING"),
    ],
)
def test_every_status_of_v0_and_of_reports_has_one_of_ours(theirs: str, ours: str, delivery: str) -> None:
    assert statuses(theirs, None) == (ours, delivery)
    assert meaning(theirs).known


def test_unknown_statuses_are_counted_and_told_with_their_orders_id() -> None:
    before = UNKNOWN_STATUSES._value.get()
    known, unknown = (from_amazon(of_amazon(fulfillment=fulfilled(each))) for each in ("SHIPPED", "TELEPORTED" * 20))
    with structlog.testing.capture_logs() as logs:
        tell_unknown_statuses("kbz-001", [known, unknown, known])
    assert UNKNOWN_STATUSES._value.get() == before + 1
    [told] = logs
    assert (told["event"], told["order_id"], told["status"]) == (
        *("unknown_order_status", "407-8949262-6149120", ("TELEPORTED" * 20)[:64]),
    )


@needs_models
@pytest.mark.parametrize(("name", "definition"), [("orders", "FulfillmentStatus"), ("ordersV0", "Order")])
def test_every_status_of_the_official_models_is_known(name: str, definition: str) -> None:
    described = model(name)["definitions"][definition]
    values = described["enum"] if "enum" in described else described["properties"]["OrderStatus"]["enum"]
    assert len(values) >= 7
    assert [value for value in values if not meaning(value).known] == []


@needs_models
def test_every_package_status_of_the_official_model_is_known() -> None:
    described = model("orders")["definitions"]["PackageStatus"]["properties"]
    values = described["status"]["enum"]
    assert {*mapping._PACKAGE_STATUS, "CANCELLED"} == {*values}
    detailed = re.findall(r"`([A-Z_]+)`", described["detailedStatus"]["description"])
    assert {*mapping._DETAILED_STATUS, *mapping._RETURNING} - {"DELAYED"} <= {*detailed}


def test_an_item_that_amazon_repeats_is_one() -> None:
    repeated = of_amazon(orderItems=[{"orderItemId": each, "quantityOrdered": 1, "product": {}} for each in "121"])
    assert [each.external_item_id for each in from_amazon(repeated).items] == ["1", "2"]


def test_an_unknown_status_reads_pending_and_is_kept_as_it_came() -> None:
    order = from_amazon(of_amazon(fulfillment=fulfilled("TELEPORTED")))
    assert (order.order_status, order.external_status) == ("PENDING", "TELEPORTED")
    assert not meaning("TELEPORTED").known


def test_an_order_without_a_status_reads_pending() -> None:
    order = from_amazon(of_amazon())
    assert (order.order_status, order.external_status, order.delivery_status) == ("PENDING", "UNKNOWN", "PREPARING")


@pytest.mark.parametrize(
    ("packages", "order_status", "delivery"),
    [
        ([package("PENDING")], "SHIPPED", "PREPARING"),
        ([package("SHIPPED")], "SHIPPED", "SHIPPED"),
        ([package("IN_TRANSIT")], "SHIPPED", "IN_TRANSIT"),
        ([package("IN_TRANSIT", "OUT_FOR_DELIVERY")], "SHIPPED", "OUT_FOR_DELIVERY"),
        ([package("IN_TRANSIT", "LOST")], "SHIPPED", "LOST"),
        ([package("IN_TRANSIT", "PICKED_UP")], "SHIPPED", "IN_TRANSIT"),
        ([package("DELIVERED", "DELIVERED")], "DELIVERED", "DELIVERED"),
        ([package("UNDELIVERABLE")], "SHIPPED", "LOST"),
        ([package("SOMETHING_NEW")], "SHIPPED", "PREPARING"),
        ([package(None)], "SHIPPED", "PREPARING"),
        ([package(None, shipTime="2026-01-03T00:00:00Z")], "SHIPPED", "SHIPPED"),
        # Several: the order is as far as its least advanced package, and a cancelled one does not count.
        ([package("DELIVERED"), package("IN_TRANSIT")], "SHIPPED", "IN_TRANSIT"),
        ([package("DELIVERED"), package("DELIVERED")], "DELIVERED", "DELIVERED"),
        ([package("DELIVERED"), package("CANCELLED")], "DELIVERED", "DELIVERED"),
        ([package("DELIVERED"), package("UNDELIVERABLE")], "SHIPPED", "LOST"),
        ([package("CANCELLED")], "SHIPPED", "SHIPPED"),
        ([package("IN_TRANSIT", "DAMAGED")], "SHIPPED", "LOST"),
        ([package("UNDELIVERABLE", "RETURNED_TO_SELLER")], "RETURNED", "LOST"),
        ([package("IN_TRANSIT", "RETURNING_TO_SELLER"), package("CANCELLED")], "RETURNED", "IN_TRANSIT"),
        ([package("UNDELIVERABLE", "REJECTED_BY_BUYER"), package("IN_TRANSIT")], "SHIPPED", "LOST"),
    ],
)
def test_the_delivery_is_what_the_packages_say(
    packages: list[dict[str, Any]], order_status: str, delivery: str
) -> None:
    order = from_amazon(of_amazon(fulfillment=fulfilled("SHIPPED"), packages=packages))
    assert (order.order_status, order.delivery_status) == (order_status, delivery)
    assert (order.delivered_at is not None) == (delivery == "DELIVERED")


def test_a_partly_shipped_order_is_not_delivered_when_its_first_package_is() -> None:
    order = from_amazon(of_amazon(fulfillment=fulfilled("PARTIALLY_SHIPPED"), packages=[package("DELIVERED")]))
    assert order.order_status == "SHIPPED"


def test_carrier_and_tracking_number_come_from_one_package_that_is_on_its_way() -> None:
    order = from_amazon(
        of_amazon(
            fulfillment=fulfilled("SHIPPED"),
            packages=[
                package("CANCELLED", carrier="Gone", trackingNumber="0", shipTime="2026-01-01T00:00:00Z"),
                package("PENDING", carrier="UPS"),
                package("SHIPPED", carrier="DPD", trackingNumber="42", shipTime="2026-01-04T00:00:00Z"),
                package("SHIPPED", carrier="DHL", trackingNumber="43", shipTime="2026-01-03T00:00:00Z"),
            ],
        )
    )
    assert (order.carrier, order.tracking_code) == ("DPD", "42")
    assert order.shipped_at == datetime(2026, 1, 3, tzinfo=UTC)


def test_an_order_with_nothing_but_what_the_model_requires_is_an_order() -> None:
    order = from_amazon(of_amazon())
    absent = ["customer_name", "customer_email", "currency", "total_amount", "carrier", "tracking_code"]
    absent += ["shipping_address", "ship_by", "deliver_by", "shipped_at", "delivered_at"]
    assert {name: getattr(order, name) for name in absent} == dict.fromkeys(absent)
    [item] = order.items
    assert (item.sku, item.asin, item.title, item.unit_price, item.currency) == (None,) * 5


def test_sections_without_their_fields_are_as_good_as_absent() -> None:
    order = from_amazon(of_amazon(buyer={}, recipient={}, proceeds={}, packages=[]))
    assert (order.customer_name, order.shipping_address, order.total_amount) == (None, None, None)


def test_a_cancelled_order_with_quantity_zero_is_an_order() -> None:
    item = {"orderItemId": "1", "quantityOrdered": 0, "product": {"sellerSku": "SKU"}}
    order = from_amazon(of_amazon(fulfillment=fulfilled("CANCELLED"), orderItems=[item]))
    assert order.order_status == "CANCELLED"
    assert [(each.sku, each.quantity, each.unit_price) for each in order.items] == [("SKU", 0, None)]


def test_yen_have_no_decimals_and_get_none() -> None:
    order = from_amazon(of_amazon(proceeds={"grandTotal": {"amount": "19940", "currencyCode": "JPY"}}))
    assert (str(order.total_amount), order.currency) == ("19940", "JPY")


def test_without_a_total_the_currency_is_that_of_the_items() -> None:
    price = {"price": {"unitPrice": {"amount": "5.00", "currencyCode": "EUR"}}}
    order = from_amazon(of_amazon(orderItems=[{"orderItemId": "1", "quantityOrdered": 1, "product": price}]))
    assert (order.currency, order.total_amount) == ("EUR", None)


def test_the_deadlines_are_the_ends_of_amazons_windows() -> None:
    ship, deliver = "2026-01-05T22:59:59Z", "2026-01-09T22:59:59Z"
    windows = {"shipByWindow": {"latestDateTime": ship}, "deliverByWindow": {"latestDateTime": deliver}}
    order = from_amazon(of_amazon(fulfillment=fulfilled("UNSHIPPED") | windows))
    assert (order.ship_by, order.deliver_by) == (datetime.fromisoformat(ship), datetime.fromisoformat(deliver))


@pytest.mark.parametrize(("order_id", "ref"), [("407-8949262-6149120", "#149120"), ("171-3125066-7920325", "#920325")])
def test_the_reference_is_the_last_six_digits(order_id: str, ref: str) -> None:
    assert order_ref(order_id) == ref
    assert from_amazon(of_amazon(orderId=order_id)).order_ref == ref


TEXT = st.text(max_size=20)
AMOUNTS = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=None)
MONEY = st.fixed_dictionaries({"amount": AMOUNTS.map(str), "currencyCode": st.sampled_from(["EUR", "JPY", "BHD"])})
TIMES = st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1)).map(  # noqa: DTZ001 - UTC by its Z
    lambda moment: moment.isoformat() + "Z"
)
WINDOW = st.fixed_dictionaries({}, optional={"earliestDateTime": TIMES, "latestDateTime": TIMES})
STATUSES = st.sampled_from(["PENDING", "UNSHIPPED", "PARTIALLY_SHIPPED", "SHIPPED", "CANCELLED", "NEW_ONE"]) | TEXT
PACKAGES = st.fixed_dictionaries(
    {"packageReferenceId": TEXT},
    optional={
        "packageStatus": st.fixed_dictionaries(
            {"status": st.sampled_from(["PENDING", "IN_TRANSIT", "SHIPPED", "DELIVERED", "CANCELLED", "?"])},
            optional={"detailedStatus": st.sampled_from(["OUT_FOR_DELIVERY", "LOST", "DELAYED", "DAMAGED"])},
        ),
        "carrier": TEXT,
        "trackingNumber": TEXT,
        "shipTime": TIMES,
    },
)
ITEMS = st.fixed_dictionaries(
    {
        "orderItemId": TEXT,
        "quantityOrdered": st.integers(0, 10_000),
        "product": st.fixed_dictionaries(
            {},
            optional={
                "asin": TEXT,
                "title": TEXT,
                "sellerSku": TEXT,
                "price": st.fixed_dictionaries({}, optional={"unitPrice": MONEY}),
            },
        ),
    }
)

UNIQUE_ITEMS: st.SearchStrategy[Any] = st.lists(ITEMS, max_size=4, unique_by=lambda item: str(item["orderItemId"]))
ORDERS = st.fixed_dictionaries(
    {
        "orderId": TEXT,
        "createdTime": TIMES,
        "lastUpdatedTime": TIMES,
        "salesChannel": st.fixed_dictionaries({"channelName": TEXT}, optional={"marketplaceId": TEXT}),
        "orderItems": UNIQUE_ITEMS,
    },
    optional={
        "buyer": st.fixed_dictionaries({}, optional={"buyerName": TEXT, "buyerEmail": TEXT}),
        "recipient": st.fixed_dictionaries({}, optional={"deliveryAddress": st.dictionaries(TEXT, TEXT, max_size=3)}),
        "proceeds": st.fixed_dictionaries({}, optional={"grandTotal": MONEY}),
        "fulfillment": st.fixed_dictionaries(
            {"fulfillmentStatus": STATUSES}, optional={"shipByWindow": WINDOW, "deliverByWindow": WINDOW}
        ),
        "packages": st.lists(PACKAGES, max_size=4),
    },
)


@settings(max_examples=150, deadline=None)
@given(ORDERS)
def test_every_order_of_the_models_shape_is_mapped_with_its_amounts_to_the_last_digit(theirs: dict[str, Any]) -> None:
    order = from_amazon(msgspec.json.decode(msgspec.json.encode(theirs), type=amazon.Order))
    total = theirs.get("proceeds", {}).get("grandTotal")
    assert order.total_amount == (None if total is None else Decimal(total["amount"]))
    assert len(order.items) == len(theirs["orderItems"])
    for item, their_item in zip(order.items, theirs["orderItems"], strict=True):
        price = their_item["product"].get("price", {}).get("unitPrice")
        assert item.unit_price == (None if price is None else Decimal(price["amount"]))
        assert item.currency == (None if price is None else price["currencyCode"])
        assert item.quantity == their_item["quantityOrdered"]
