import re
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from tests.sandbox.conftest import Amazon, Answer

DEFAULT = "A12BCIS2R7HD4D"
ALL_DATA = "BUYER,RECIPIENT,PROCEEDS,EXPENSE,PROMOTION,CANCELLATION,FULFILLMENT,PACKAGES,TAX,PAYMENT"


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def when(order: Answer, field: str = "createdTime") -> datetime:
    return datetime.fromisoformat(order[field])


def assert_refused(answer: httpx.Response, parameter: str) -> None:
    assert answer.status_code == 400, answer.text
    error = answer.json()["errors"][0]
    assert error["code"] == "InvalidInput"
    assert parameter in error["details"]
    assert answer.headers["x-amzn-RateLimit-Limit"]


async def now(amazon: Amazon) -> datetime:
    return datetime.fromisoformat((await amazon.control("GET", "clock"))["now"])


async def test_the_default_seller_has_94_orders_in_90_days_of_which_6_are_cancelled(amazon: Amazon) -> None:
    tokens = await amazon.connect(DEFAULT)
    anchor = await amazon.anchor(DEFAULT)
    window = {"createdAfter": iso(anchor - 90 * 86_400), "includedData": "PROCEEDS,FULFILLMENT"}
    orders = await amazon.search_all(tokens, **window)
    assert len(orders) == 94
    cancelled = [one for one in orders if one["fulfillment"]["fulfillmentStatus"] == "CANCELLED"]
    empty = [one for one in orders if any(item["quantityOrdered"] == 0 for item in one["orderItems"])]
    assert len(cancelled) == 6
    assert cancelled == empty
    ages = [anchor - when(one).timestamp() for one in orders]
    assert 88 * 86_400 < max(ages) < 90 * 86_400
    assert min(ages) > 300
    totals = {one["proceeds"].get("grandTotal", {}).get("amount") for one in orders}
    assert {"391.84", "441.50", "71.46", "1229.91", "83.10"} <= totals
    assert "171-3125066-7920325" not in {one["orderId"] for one in orders}


async def test_the_known_order_is_shipped_from_france_with_its_tracking(amazon: Amazon) -> None:
    tokens = await amazon.connect(DEFAULT)
    path = "/orders/2026-01-01/orders/407-8949262-6149120"
    order = (await amazon.get(path, tokens, {"includedData": ALL_DATA})).json()["order"]
    assert order["proceeds"]["grandTotal"] == {"amount": "391.84", "currencyCode": "EUR"}
    assert order["salesChannel"]["marketplaceId"] == "A13V1IB3VIYZZH"
    assert order["fulfillment"]["fulfillmentStatus"] == "SHIPPED"
    assert order["packages"][0]["carrier"]
    assert order["packages"][0]["trackingNumber"]
    assert order["buyer"]["buyerEmail"].endswith("@marketplace.amazon.fr")


async def test_the_older_known_order_is_found_by_number_and_by_a_longer_window(amazon: Amazon) -> None:
    tokens = await amazon.connect(DEFAULT)
    number = "171-3125066-7920325"
    order = (await amazon.get(f"/orders/2026-01-01/orders/{number}", tokens)).json()["order"]
    anchor = await amazon.anchor(DEFAULT)
    assert 119 < (anchor - when(order).timestamp()) / 86_400 < 121
    orders = await amazon.search_all(tokens, createdAfter=iso(anchor - 730 * 86_400))
    assert len(orders) == 95
    assert orders[0]["orderId"] == number


async def test_a_new_seller_has_no_orders(amazon: Amazon) -> None:
    answer = await amazon.search(await amazon.connect("A2NEWSELLER0000"))
    assert answer.json()["orders"] == []
    assert "pagination" not in answer.json()


@pytest.mark.parametrize(("after", "field"), [("createdAfter", "createdTime"), ("lastUpdatedAfter", "lastUpdatedTime")])
async def test_pages_have_no_gap_and_no_double(amazon: Amazon, after: str, field: str) -> None:
    seller = await amazon.seller(250)
    tokens = await amazon.connect(seller)
    parameters = {after: "2020-01-01T00:00:00Z"}
    expected = sorted(one["orderId"] for one in await amazon.truth(seller))
    for size in (100, 37):
        orders = await amazon.search_all(tokens, maxResultsPerPage=size, **parameters)
        assert sorted(one["orderId"] for one in orders) == expected
        times = [when(one, field) for one in orders]
        assert times == sorted(times)


async def test_a_page_has_100_orders_unless_told_otherwise(amazon: Amazon) -> None:
    tokens = await amazon.connect(await amazon.seller(101))
    assert len((await amazon.search(tokens)).json()["orders"]) == 100
    assert len((await amazon.search(tokens, maxResultsPerPage=1)).json()["orders"]) == 1


async def test_the_last_page_has_no_pagination_even_when_it_is_full(amazon: Amazon) -> None:
    tokens = await amazon.connect(await amazon.seller(4))
    first = (await amazon.search(tokens, maxResultsPerPage=2)).json()
    token = first["pagination"]["nextToken"]
    last = (await amazon.search(tokens, maxResultsPerPage=2, paginationToken=token)).json()
    assert len(last["orders"]) == 2
    assert "pagination" not in last
    assert last["createdBefore"] == first["createdBefore"]


@pytest.mark.parametrize(
    "changed",
    [
        {"createdAfter": "2020-01-02T00:00:00Z"},
        {"createdBefore": "2026-01-01T00:00:00Z"},
        {"marketplaceIds": "A13V1IB3VIYZZH"},
        {"fulfillmentStatuses": "SHIPPED"},
        {"fulfilledBy": "MERCHANT"},
        {"paginationToken": "made-up"},
        {"paginationToken": ""},
        {"paginationToken": "é"},
    ],
)
async def test_a_pagination_token_serves_its_own_search_only(amazon: Amazon, changed: dict[str, str]) -> None:
    tokens = await amazon.connect(await amazon.seller(5))
    first = {"createdAfter": "2020-01-01T00:00:00Z"}
    body = (await amazon.search(tokens, maxResultsPerPage=2, **first)).json()
    second = {**first, "paginationToken": body["pagination"]["nextToken"], **changed}
    assert_refused(await amazon.search(tokens, **second), "paginationToken")


async def test_page_size_and_included_data_may_change_between_pages(amazon: Amazon) -> None:
    tokens = await amazon.connect(await amazon.seller(5))
    body = (await amazon.search(tokens, maxResultsPerPage=2)).json()
    token = body["pagination"]["nextToken"]
    answer = await amazon.search(tokens, maxResultsPerPage=50, includedData="BUYER", paginationToken=token)
    assert len(answer.json()["orders"]) == 3
    assert "buyer" in answer.json()["orders"][0]


async def test_a_pagination_token_is_of_one_seller(amazon: Amazon) -> None:
    one, other = [await amazon.connect(await amazon.seller(5)) for _ in range(2)]
    token = (await amazon.search(one, maxResultsPerPage=2)).json()["pagination"]["nextToken"]
    assert_refused(await amazon.search(other, paginationToken=token), "paginationToken")


async def test_a_pagination_token_expires_after_24_hours(amazon: Amazon) -> None:
    seller = await amazon.seller(5)
    tokens = await amazon.connect(seller)
    token = (await amazon.search(tokens, maxResultsPerPage=2)).json()["pagination"]["nextToken"]
    await amazon.advance(23.9 * 3600)
    assert (await amazon.search(await amazon.connect(seller), paginationToken=token)).status_code == 200
    await amazon.advance(0.2 * 3600)
    expired = await amazon.search(await amazon.connect(seller), paginationToken=token)
    assert_refused(expired, "paginationToken")


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({}, "createdAfter"),
        (
            {"createdAfter": "2025-01-01T00:00:00Z", "lastUpdatedAfter": "2025-01-01T00:00:00Z"},
            "createdAfter",
        ),
        (
            {"createdAfter": "2025-01-01T00:00:00Z", "lastUpdatedBefore": "2025-02-01T00:00:00Z"},
            "lastUpdatedB",
        ),
        (
            {"lastUpdatedAfter": "2025-01-01T00:00:00Z", "createdBefore": "2025-02-01T00:00:00Z"},
            "createdBefore",
        ),
        ({"createdAfter": "2025-02-01T00:00:00Z", "createdBefore": "2025-01-01T00:00:00Z"}, "createdBefore"),
        ({"createdAfter": "2025-01-01T00:00:00Z", "createdBefore": "2099-01-01T00:00:00Z"}, "createdBefore"),
        ({"createdAfter": "2099-01-01T00:00:00Z"}, "createdAfter"),
        ({"createdAfter": "TEST_CASE_400"}, "createdAfter"),
        ({"createdAfter": ""}, "createdAfter"),
        ({"createdAfter": "2025-13-01T00:00:00Z"}, "createdAfter"),
        ({"createdAfter": "2025-01-01T00:00:00Z", "maxResultsPerPage": "0"}, "maxResultsPerPage"),
        ({"createdAfter": "2025-01-01T00:00:00Z", "maxResultsPerPage": "101"}, "maxResultsPerPage"),
        ({"createdAfter": "2025-01-01T00:00:00Z", "maxResultsPerPage": "ten"}, "maxResultsPerPage"),
        ({"createdAfter": "2025-01-01T00:00:00Z", "includedData": "BUYER,NOTHING"}, "includedData"),
        ({"createdAfter": "2025-01-01T00:00:00Z", "fulfillmentStatuses": "Shipped"}, "fulfillmentStatuses"),
        ({"createdAfter": "2025-01-01T00:00:00Z", "fulfilledBy": "AFN"}, "fulfilledBy"),
        (
            {
                "createdAfter": "2025-01-01T00:00:00Z",
                "marketplaceIds": ",".join(f"A{number}" for number in range(51)),
            },
            "marketplaceIds",
        ),
    ],
)
async def test_a_wrong_parameter_is_named(amazon: Amazon, parameters: dict[str, str], named: str) -> None:
    tokens = await amazon.connect(await amazon.seller())
    assert_refused(await amazon.get("/orders/2026-01-01/orders", tokens, parameters), named)


@pytest.mark.parametrize("family", ["created", "lastUpdated"])
async def test_a_before_must_be_two_minutes_old_and_is_answered_when_absent(amazon: Amazon, family: str) -> None:
    await amazon.control("POST", "clock", {"speed": 0})
    tokens = await amazon.connect(await amazon.seller())
    latest = await now(amazon) - timedelta(minutes=2)
    parameters = {f"{family}After": "2025-01-01T00:00:00Z"}
    body = (await amazon.search(tokens, **parameters)).json()
    assert abs(when(body, f"{family}Before") - latest) < timedelta(milliseconds=2)
    young = {**parameters, f"{family}Before": (latest + timedelta(seconds=1)).isoformat()}
    assert_refused(await amazon.search(tokens, **young), f"{family}Before")
    old = {**parameters, f"{family}Before": (latest - timedelta(seconds=1)).isoformat()}
    assert (await amazon.search(tokens, **old)).status_code == 200


async def test_both_ends_of_the_window_belong_to_it(amazon: Amazon) -> None:
    seller = await amazon.seller(5)
    tokens = await amazon.connect(seller)
    truth = await amazon.truth(seller)
    window = {"createdAfter": truth[1]["createdTime"], "createdBefore": truth[3]["createdTime"]}
    orders = (await amazon.search(tokens, **window)).json()["orders"]
    assert [one["orderId"] for one in orders] == [one["orderId"] for one in truth[1:4]]


async def test_any_date_there_is_can_be_asked_for(amazon: Amazon) -> None:
    seller = await amazon.seller()
    tokens = await amazon.connect(seller)
    first = "0001-01-01T00:00:00+23:59"
    nothing = await amazon.search(tokens, createdAfter=first, createdBefore=first)
    assert (nothing.status_code, nothing.json()["orders"]) == (200, [])
    assert len((await amazon.search(tokens, createdAfter="2020-01-01")).json()["orders"]) == 3


async def test_no_order_is_younger_than_two_minutes(amazon: Amazon) -> None:
    seller = await amazon.seller(2000, days=1)
    truth = await amazon.truth(seller)
    assert await now(amazon) - when(truth[-1]) > timedelta(minutes=2)


async def test_filters_narrow_the_search(amazon: Amazon) -> None:
    marketplace_ids = ["A13V1IB3VIYZZH", "A1PA6795UKMFR9", "APJ6JRA9NG5V4"]
    seller = await amazon.seller(200, marketplaceIds=marketplace_ids)
    tokens = await amazon.connect(seller)
    truth = await amazon.truth(seller)

    async def check(expected: list[Answer], **parameters: str | list[str]) -> None:
        found = await amazon.search_all(tokens, **parameters)
        assert 0 < len(found) < 200
        assert [one["orderId"] for one in found] == [one["orderId"] for one in expected]

    two = [one for one in truth if one["salesChannel"]["marketplaceId"] in marketplace_ids[:2]]
    await check(two, marketplaceIds=",".join(marketplace_ids[:2]))
    await check(two, marketplaceIds=marketplace_ids[:2])  # repeated instead of separated by commas
    statuses = {"CANCELLED", "UNSHIPPED"}
    few = [one for one in truth if one["fulfillment"]["fulfillmentStatus"] in statuses]
    await check(few, fulfillmentStatuses=",".join(statuses), maxResultsPerPage="7")
    amazons = [one for one in truth if one["fulfillment"]["fulfilledBy"] == "AMAZON"]
    await check(amazons, fulfilledBy="AMAZON")
    await check([one for one in few if one in amazons], fulfilledBy="AMAZON", fulfillmentStatuses=list(statuses))


@pytest.mark.parametrize(
    ("data", "sections", "item_sections"),
    [
        ("", set(), set()),
        ("BUYER", {"buyer"}, set()),
        ("RECIPIENT", {"recipient"}, set()),
        ("PROCEEDS", {"proceeds"}, {"proceeds"}),
        ("FULFILLMENT", {"fulfillment"}, {"fulfillment"}),
        ("PACKAGES", {"packages"}, set()),
        ("CANCELLATION", set(), {"cancellation"}),
        ("PROMOTION", set(), {"promotion"}),
        ("BUYER,PACKAGES", {"buyer", "packages"}, set()),
    ],
)
async def test_sections_appear_only_when_asked_for(
    amazon: Amazon, data: str, sections: set[str], item_sections: set[str]
) -> None:
    seller = await amazon.seller(100)
    tokens = await amazon.connect(seller)
    always = {"orderId", "createdTime", "lastUpdatedTime", "programs", "salesChannel", "orderItems"}
    orders = (await amazon.search(tokens, includedData=data)).json()["orders"]
    assert {name for order in orders for name in order} == always | sections
    items = [item for order in orders for item in order["orderItems"]]
    assert all(order["orderItems"] for order in orders)
    assert {name for item in items for name in item} == {
        "orderItemId",
        "quantityOrdered",
        "product",
        *item_sections,
    }
    path = f"/orders/2026-01-01/orders/{orders[7]['orderId']}"
    single = await amazon.get(path, tokens, {"includedData": data})
    assert single.json() == {"order": orders[7]}


async def test_an_order_is_found_by_its_number_by_its_seller_only(amazon: Amazon) -> None:
    seller, other = await amazon.seller(50), await amazon.seller(50)
    mine, theirs = await amazon.connect(seller), await amazon.connect(other)
    for order in (await amazon.truth(seller))[::10]:
        path = f"/orders/2026-01-01/orders/{order['orderId']}"
        assert (await amazon.get(path, mine)).status_code == 200
        assert (await amazon.get(path, theirs)).status_code == 404


@pytest.mark.parametrize(
    ("number", "status", "code"),
    [("999-9999999-9999999", 404, "NotFound"), ("TEST_CASE_400", 400, "InvalidInput")],
)
async def test_an_order_that_is_not_there(amazon: Amazon, number: str, status: int, code: str) -> None:
    tokens = await amazon.connect(await amazon.seller())
    answer = await amazon.get(f"/orders/2026-01-01/orders/{number}", tokens)
    assert answer.status_code == status
    assert answer.json()["errors"][0]["code"] == code
    assert answer.headers["x-amzn-RateLimit-Limit"] == "0.5"


async def test_100000_orders_are_served_as_quickly_as_a_few(amazon: Amazon) -> None:
    seller = await amazon.seller(100_000, days=365)
    tokens = await amazon.connect(seller)
    anchor = await amazon.anchor(seller)
    body = (await amazon.search(tokens, lastUpdatedAfter=iso(anchor - 86_400))).json()
    assert len(body["orders"]) == 100
    middle = (await amazon.control("GET", f"sellers/{seller}/orders?offset=50000&limit=1"))["orders"][0]
    answer = await amazon.get(f"/orders/2026-01-01/orders/{middle['orderId']}", tokens)
    assert answer.json()["order"]["createdTime"] == middle["createdTime"]
    assert re.fullmatch(r"\d{3}-\d{7}-\d{7}", middle["orderId"])
