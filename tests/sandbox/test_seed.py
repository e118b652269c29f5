"""Properties of made-up orders, whatever the seller."""

import itertools
import re
from datetime import datetime
from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from devstack.sandbox.life import COURSES, DAY, Change, Pace
from devstack.sandbox.marketplaces import MARKETPLACES
from devstack.sandbox.orderbook import FULFILLED_BY, FULFILLMENT_STATUSES, Family
from devstack.sandbox.seed import SeededBook

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


@st.composite
def living_books(draw: st.DrawFn) -> SeededBook:
    """Sellers with new orders, at first as many as before, at any moment of three weeks."""
    anchor = int(ANCHOR) * 1000
    days, orders = draw(st.integers(1, 60)), draw(st.integers(0, 150))
    second = anchor + draw(st.integers(0, 5 * DAY)) // 1000 * 1000
    paces = [
        Pace(since=anchor, orders_per_day=draw(st.sampled_from([0, 3, 40.5]))),
        Pace(since=second, orders_per_day=9),
    ]
    book = SeededBook(
        seller_id="ALIVE",
        marketplace_ids=["A13V1IB3VIYZZH"],
        orders=orders,
        days=days,
        seed=draw(st.integers()),
        cancelled_every=draw(st.none() | st.integers(2, 9)),
        anchor=ANCHOR,
        paces=paces[: draw(st.integers(1, 2))],
        story=draw(st.booleans()) and orders > 90,
    )
    return book.at(anchor + draw(st.integers(0, 21 * DAY)))


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
@given(books() | living_books().filter(len))
def test_the_walk_is_in_the_order_of_its_times(book: SeededBook) -> None:
    families: tuple[Family, ...] = ("created", "updated")
    for family in families:
        places = [(book.time(family, index), index) for index in range(len(book))]
        assert list(book.walk(family, (0, -1))) == sorted(places)
        for start in (places[0], places[-1], (places[len(book) // 2][0] + 1, -1), (places[len(book) // 2][0], 0)):
            assert list(book.walk(family, start)) == sorted(place for place in places if place >= start)


@settings(max_examples=25, deadline=None)
@given(books(60) | st.builds(story) | living_books())
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


@settings(max_examples=25, deadline=None)
@given(living_books(), st.integers(0, 3 * DAY))
def test_an_order_that_was_served_is_the_same_until_it_is_updated(book: SeededBook, passed: int) -> None:
    later = book.at(book.now + passed)
    assert len(later) >= len(book)
    for index in range(len(book)):
        before, after = book.order(index), later.order(index)
        assert book.find(str(before["orderId"])) == later.find(str(before["orderId"])) == index
        if later.time("updated", index) == book.time("updated", index):
            assert after == before
        else:
            assert later.time("updated", index) > book.now
            assert frame(after) == frame(before)
    for index in range(len(book), len(later)):
        assert book.now < later.time("created", index) <= later.now
        assert book.find(str(later.order(index)["orderId"])) is None


def frame(order: Any) -> object:
    """What an update never changes."""
    items = [(item["orderItemId"], item["product"]) for item in order["orderItems"]]
    return order["orderId"], order["createdTime"], order["salesChannel"], order["buyer"], order["recipient"], items


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 149), max_size=5), st.integers(0, 10 * DAY))
def test_a_changed_order_leaves_its_course_and_is_found_where_it_was_changed(indexes: list[int], passed: int) -> None:
    anchor = int(ANCHOR) * 1000
    at = anchor + DAY
    indexes = [*indexes, *range(130, 150)]  # the young ones too, which would have been sent later

    def made(changes: dict[str, list[Change]]) -> SeededBook:
        return SeededBook(
            seller_id="ALIVE",
            marketplace_ids=["A13V1IB3VIYZZH"],
            orders=150,
            days=9,
            seed=1,
            cancelled_every=15,
            anchor=ANCHOR,
            paces=[Pace(since=anchor, orders_per_day=20)],
            changes=changes,
        )

    plain = made({})
    change = Change(at=at, status="SHIPPED", package="IN_TRANSIT", carrier="DHL", tracking="JD1")
    book = made({str(plain.order(index)["orderId"]): [change] for index in indexes}).at(at + passed)
    assert book.at(at - 1).order(0) == plain.at(at - 1).order(0)
    for index in indexes:
        order: Any = book.order(index)
        assert (book.traits(index).status, book.time("updated", index)) == ("SHIPPED", at)
        assert order["packages"][0]["trackingNumber"] == "JD1"
        assert seconds(order["packages"][0]["shipTime"]) * 1000 <= at
        assert book.at(at - 1).order(index) == plain.at(at - 1).order(index)
    walked = list(book.walk("updated", (0, -1)))
    assert walked == sorted((book.time("updated", index), index) for index in range(len(book)))
    assert {(at, index) for index in indexes} <= set(walked)


def test_new_orders_take_their_courses_from_when_they_come() -> None:
    anchor = int(ANCHOR) * 1000
    book = SeededBook(
        seller_id="ALIVE",
        marketplace_ids=["A13V1IB3VIYZZH"],
        orders=0,
        days=30,
        seed=1,
        cancelled_every=None,
        anchor=ANCHOR,
        paces=[Pace(since=anchor + DAY, orders_per_day=100)],
    ).at(anchor + 9 * DAY)
    assert len(book) == 800
    took = {book.time("updated", index) - book.time("created", index) for index in range(len(book))}
    assert took <= {step.after for course in COURSES for step in course}


def test_every_order_comes_to_an_end() -> None:
    anchor = int(ANCHOR) * 1000
    book = SeededBook(
        seller_id="ALIVE",
        marketplace_ids=["A13V1IB3VIYZZH"],
        orders=300,
        days=30,
        seed=1,
        cancelled_every=15,
        anchor=ANCHOR,
        paces=[Pace(since=anchor, orders_per_day=0)],
    ).at(anchor + 40 * DAY)
    states = [book.state(index) for index in range(300)]
    ends = {(state.status, state.package) for state in states}
    assert ends == {
        ("SHIPPED", "DELIVERED"),
        ("SHIPPED", "UNDELIVERABLE"),
        ("CANCELLED", None),
        ("UNFULFILLABLE", None),
    }
