"""Properties of made-up orders, whatever the seller."""

import itertools
import re
from datetime import datetime
from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from devstack.sandbox.marketplaces import MARKETPLACES
from devstack.sandbox.orderbook import FULFILLED_BY, FULFILLMENT_STATUSES, Family
from devstack.sandbox.seed import DAY, SeededBook

ANCHOR = 1_800_000_000.5


@st.composite
def books(draw: st.DrawFn, most: int = 150) -> SeededBook:
    region = draw(st.sampled_from(["NA", "EU", "FE"]))
    ids = [one.id for one in MARKETPLACES.values() if one.region == region]
    return SeededBook(
        seller_id=draw(st.from_regex(r"A[A-Z0-9]{3,12}", fullmatch=True)),
        marketplace_ids=draw(st.lists(st.sampled_from(ids), min_size=1, max_size=4, unique=True)),
        orders=draw(st.integers(1, most)),
        days=draw(st.integers(1, 730)),
        seed=draw(st.integers(-(2**70), 2**70)),
        cancelled_every=draw(st.none() | st.integers(1, 50)),
        anchor=ANCHOR,
    )


def story() -> SeededBook:
    return SeededBook(
        seller_id="A12BCIS2R7HD4D",
        marketplace_ids=["A13V1IB3VIYZZH", "A1PA6795UKMFR9"],
        orders=94,
        days=90,
        seed=1,
        cancelled_every=15,
        anchor=ANCHOR,
        story=True,
    )


def seconds(text: object) -> float:
    return datetime.fromisoformat(str(text)).timestamp()


@settings(max_examples=25, deadline=None)
@given(books() | st.builds(story))
def test_ids_are_unique_and_lead_back_to_their_orders(book: SeededBook) -> None:
    numbers = [str(book.order(index)["orderId"]) for index in range(len(book))]
    assert len(set(numbers)) == len(book)
    for index, number in enumerate(numbers):
        assert re.fullmatch(r"\d{3}-\d{7}-\d{7}", number)
        assert book.find(number) == index


@settings(max_examples=25, deadline=None)
@given(books(), st.from_regex(r"[0-9]{3}-[0-9]{7}-[0-9]{7}", fullmatch=True) | st.text())
def test_another_id_leads_nowhere(book: SeededBook, number: str) -> None:
    index = book.find(number)
    assert index is None or book.order(index)["orderId"] == number


@settings(max_examples=25, deadline=None)
@given(books(20_000))
def test_times_increase_and_lie_in_the_window(book: SeededBook) -> None:
    step = max(1, len(book) // 200)
    times = [book.time("created", index) for index in range(len(book))]
    assert all(earlier < later for earlier, later in itertools.pairwise(times))
    anchor = int(ANCHOR) * 1000
    assert times[0] > anchor - book.days * DAY
    assert times[-1] < anchor - 5 * 60_000
    for index in range(0, len(book), step):
        assert times[index] <= book.time("updated", index) < anchor - 5 * 60_000


@settings(max_examples=25, deadline=None)
@given(books())
def test_the_walk_is_in_the_order_of_its_times(book: SeededBook) -> None:
    families: tuple[Family, ...] = ("created", "updated")
    for family in families:
        places = [(book.time(family, index), index) for index in range(len(book))]
        assert list(book.walk(family, (0, -1))) == sorted(places)
        for start in (places[0], places[-1], (places[len(book) // 2][0] + 1, -1), (places[len(book) // 2][0], 0)):
            assert list(book.walk(family, start)) == sorted(place for place in places if place >= start)


@settings(max_examples=25, deadline=None)
@given(books(60) | st.builds(story))
def test_the_parts_of_an_order_agree(book: SeededBook) -> None:
    for index in range(len(book)):
        check(book.order(index), book, index)


def check(order: Any, book: SeededBook, index: int) -> None:
    traits = book.traits(index)
    status = order["fulfillment"]["fulfillmentStatus"]
    marketplace = MARKETPLACES[order["salesChannel"]["marketplaceId"]]
    items = order["orderItems"]
    assert status == traits.status
    assert status in FULFILLMENT_STATUSES
    assert order["fulfillment"]["fulfilledBy"] == traits.fulfilled_by
    assert traits.fulfilled_by in FULFILLED_BY
    assert traits.marketplace_id == marketplace.id
    assert 1 <= len(items) <= 3
    assert len({item["orderItemId"] for item in items}) == len(items)
    cents = Decimal(1).scaleb(-marketplace.decimals)
    total = Decimal(0)
    for item in items:
        price = Decimal(item["product"]["price"]["unitPrice"]["amount"])
        assert price.as_tuple().exponent == cents.as_tuple().exponent
        assert Decimal(item["proceeds"]["proceedsTotal"]["amount"]) == price * item["quantityOrdered"]
        done = item["fulfillment"]
        assert done["quantityFulfilled"] + done["quantityUnfulfilled"] == item["quantityOrdered"]
        total += price * item["quantityOrdered"]
    if status == "CANCELLED":
        assert {item["quantityOrdered"] for item in items} == {0}
        assert order["proceeds"].get("grandTotal", {"amount": "0"})["amount"] in {"0", "0.00"}
    else:
        assert Decimal(order["proceeds"]["grandTotal"]["amount"]) == total
        assert total > 0
    assert ("packages" in order) == (status in {"SHIPPED", "PARTIALLY_SHIPPED"})
    for package in order.get("packages", []):
        assert package["carrier"]
        assert package["trackingNumber"]
        assert package["packageItems"]
        assert seconds(order["createdTime"]) <= seconds(package["shipTime"]) <= seconds(order["lastUpdatedTime"])
    email = order["buyer"].get("buyerEmail")
    assert (email is not None) == (traits.fulfilled_by == "MERCHANT")
    assert email is None or email.endswith(f"@marketplace.amazon.{marketplace.domain}")
    assert order["recipient"]["deliveryAddress"]["countryCode"] == marketplace.country


def test_the_same_seed_gives_the_same_orders_and_another_gives_others() -> None:
    one, same = story(), story()
    assert [one.order(index) for index in range(95)] == [same.order(index) for index in range(95)]

    def numbers(seller_id: str, seed: int) -> set[object]:
        book = SeededBook(
            seller_id=seller_id,
            marketplace_ids=["A13V1IB3VIYZZH"],
            orders=50,
            days=30,
            seed=seed,
            cancelled_every=15,
            anchor=ANCHOR,
        )
        return {book.order(index)["orderId"] for index in range(50)}

    assert numbers("A1", 1) == numbers("A1", 1)
    assert not numbers("A1", 1) & numbers("A1", 2)
    assert not numbers("A1", 1) & numbers("A2", 1)


def test_every_status_occurs() -> None:
    book = SeededBook(
        seller_id="ALARGE",
        marketplace_ids=["A13V1IB3VIYZZH"],
        orders=3000,
        days=90,
        seed=1,
        cancelled_every=15,
        anchor=ANCHOR,
    )
    assert {book.traits(index).status for index in range(3000)} == set(FULFILLMENT_STATUSES)
