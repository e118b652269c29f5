"""What several answers say of one order."""

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from functools import reduce
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orders.domain import Continues, DeliveryStatus, Detail, NewOrder, placeholder
from orders.merging import merge
from tests.orders.answers import ANSWERS, MINUTE, NOW, ORDER_ID, full, item, row


@given(ANSWERS, st.randoms())
def test_answers_come_to_the_same_in_every_order_however_often(answers: Sequence[NewOrder], random: Random) -> None:
    shuffled = [*answers, *answers]
    random.shuffle(shuffled)
    assert reduce(merge, shuffled) == reduce(merge, answers)


@given(ANSWERS, ANSWERS)
def test_what_was_merged_apart_merges_to_the_same(some: Sequence[NewOrder], others: Sequence[NewOrder]) -> None:
    told = {(each.detail, each.external_updated_at, each.order_date) for each in some}
    rest = [each for each in others if (each.detail, each.external_updated_at, each.order_date) not in told]
    if rest:
        assert merge(reduce(merge, some), reduce(merge, rest)) == reduce(merge, [*some, *rest])


@given(ANSWERS)
def test_the_latest_answer_tells_the_amounts_and_the_latest_full_one_the_customer(answers: Sequence[NewOrder]) -> None:
    merged = reduce(merge, answers)
    told = [each for each in answers if each.detail is not Detail.PLACEHOLDER]
    complete = [each for each in told if each.detail is Detail.FULL]
    if told:
        latest = max(told, key=lambda each: (each.external_updated_at, each.detail is Detail.FULL))
        assert (merged.detail, merged.total_amount, merged.external_status) == (
            *(latest.detail, latest.total_amount, latest.external_status),
        )
        assert [each.sku for each in merged.items] == [each.sku for each in latest.items]
    if complete:
        newest = max(complete, key=lambda each: each.external_updated_at)
        assert (merged.customer_name, merged.carrier, merged.detailed_at) == (
            *(newest.customer_name, newest.carrier, newest.external_updated_at),
        )


@pytest.mark.parametrize("answers", [(full(1), row(1)), (row(1), full(1))])
def test_of_one_version_the_full_answer_wins(answers: Sequence[NewOrder]) -> None:
    assert reduce(merge, answers) == full(1)


@pytest.mark.parametrize("known", [full(), row()])
def test_any_answer_takes_the_place_of_a_placeholder(known: NewOrder) -> None:
    named = placeholder(ORDER_ID, NOW + timedelta(days=1))
    assert merge(named, known) == merge(known, named) == known


def test_a_placeholder_has_the_date_of_the_first_message() -> None:
    first, second = placeholder(ORDER_ID, NOW), placeholder(ORDER_ID, NOW + MINUTE)
    assert merge(first, second) == merge(second, first) == first


def test_a_later_row_tells_what_it_knows_and_keeps_the_rest() -> None:
    before, after = full(1, packages=DeliveryStatus.IN_TRANSIT, skus="ab"), row(2, skus="ba")
    merged = merge(before, after)
    assert (merged.detail, merged.total_amount, merged.external_updated_at) == (
        *(Detail.REPORT, Decimal("2.75"), after.external_updated_at),
    )
    assert (merged.customer_name, merged.shipping_address, merged.carrier, merged.ship_by, merged.shipped_at) == (
        *(before.customer_name, before.shipping_address, before.carrier, before.ship_by, before.shipped_at),
    )
    assert merged.items == [item("b", "b1", quantity=3), item("a", "a0", quantity=3)]
    assert merged.detailed_at == before.external_updated_at


def test_an_item_that_could_be_either_of_two_has_no_id() -> None:
    assert [each.external_item_id for each in merge(full(1, skus="aab"), row(2, skus="aab")).items] == [
        None,
        None,
        "b2",
    ]
    assert [each.external_item_id for each in merge(full(1, skus="ab"), row(2, skus="aab")).items] == [None, None, "b1"]
    assert [each.external_item_id for each in merge(full(1, skus="aab"), row(2, skus="ab")).items] == [None, "b2"]


@pytest.mark.parametrize(
    ("packages", "status", "order_status", "delivery", "delivered_in"),
    [
        (DeliveryStatus.DELIVERED, "Shipped", "DELIVERED", "DELIVERED", 1),
        (DeliveryStatus.DELIVERED, "Shipped - Delivered to Buyer", "DELIVERED", "DELIVERED", 1),
        (DeliveryStatus.DELIVERED, "Shipped - Returned to Seller", "RETURNED", "DELIVERED", 1),
        (DeliveryStatus.IN_TRANSIT, "Shipped", "SHIPPED", "IN_TRANSIT", None),
        (DeliveryStatus.IN_TRANSIT, "Shipped - Delivered to Buyer", "DELIVERED", "DELIVERED", 2),
        (DeliveryStatus.IN_TRANSIT, "Shipped - Lost in Transit", "SHIPPED", "LOST", None),
        (DeliveryStatus.PREPARING, "Shipped", "SHIPPED", "SHIPPED", None),
        (DeliveryStatus.LOST, "Shipped", "SHIPPED", "LOST", None),
        (None, "Shipped", "SHIPPED", "SHIPPED", None),
        (None, "Cancelled", "CANCELLED", "PREPARING", None),
    ],
)
def test_a_later_rows_status_and_the_packages_that_are_known(
    packages: DeliveryStatus | None, status: str, order_status: str, delivery: str, delivered_in: int | None
) -> None:
    merged = merge(full(1, packages=packages), row(2, status=status))
    assert (merged.order_status, merged.delivery_status) == (order_status, delivery)
    assert merged.delivered_at == (None if delivered_in is None else NOW + delivered_in * MINUTE)


def part(version: int, items: int, skus: str) -> NewOrder:
    return replace(row(version, skus=skus), continues=Continues(row(version).external_updated_at, items))


def test_a_part_stands_behind_what_it_continues_once() -> None:
    whole = merge(row(1, skus="ab"), part(1, 2, "a"))
    assert [each.sku for each in whole.items] == ["a", "b", "a"]
    assert whole.total_amount == Decimal("3.50")
    assert merge(whole, part(1, 2, "a")) == whole
    assert merge(whole, row(1, skus="ab")) == whole


@pytest.mark.parametrize("held", [row(2, skus="ab"), row(1, skus="a"), full(1, skus="ab"), placeholder(ORDER_ID, NOW)])
def test_a_part_of_another_order_than_the_stored_one_is_left_out(held: NewOrder) -> None:
    assert merge(held, part(1, 2, "c")) == held


def test_a_part_finds_the_ids_that_an_older_answer_told() -> None:
    for answers in ([full(0, skus="ab"), row(1, skus="a")], [row(1, skus="a"), full(0, skus="ab")]):
        whole = merge(reduce(merge, answers), part(1, 1, "b"))
        assert [each.external_item_id for each in whole.items] == ["a0", "b1"]
