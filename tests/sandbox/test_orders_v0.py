"""Orders v0 tells the same orders as v2026-01-01."""

import pytest

from tests.sandbox.conftest import Amazon, Answer, Tokens
from tests.sandbox.test_orders import assert_refused

PATH = "/orders/v0/orders"
FRANCE = "A13V1IB3VIYZZH"
STATUSES = {"CANCELLED": "Canceled", "PENDING": "Pending", "UNSHIPPED": "Unshipped", "SHIPPED": "Shipped"}


async def search(amazon: Amazon, tokens: Tokens, **parameters: str) -> list[Answer]:
    """All pages, each after the first by its token alone."""
    query: dict[str, str | int | list[str]] = {"MarketplaceIds": FRANCE, "CreatedAfter": "2020-01-01", **parameters}
    found: list[Answer] = []
    while True:
        answer = await amazon.get(PATH, tokens, query)
        assert answer.status_code == 200, answer.text
        payload = answer.json()["payload"]
        found += payload["Orders"]
        if "NextToken" not in payload:
            return found
        query = {"NextToken": payload["NextToken"]}


async def test_the_orders_are_those_of_the_newer_version(amazon: Amazon) -> None:
    seller = await amazon.seller(230, days=30, marketplaceIds=[FRANCE, "A1PA6795UKMFR9"])
    tokens = await amazon.connect(seller)
    truth = [one for one in await amazon.truth(seller) if one["salesChannel"]["marketplaceId"] == FRANCE]
    found = await search(amazon, tokens, MaxResultsPerPage="50")
    assert [one["AmazonOrderId"] for one in found] == [one["orderId"] for one in truth]
    for old, new in zip(found, truth, strict=True):
        status = new["fulfillment"]["fulfillmentStatus"]
        assert old["OrderStatus"].upper() == STATUSES.get(status, status.replace("_", "")).upper()
        assert old["FulfillmentChannel"] == {"MERCHANT": "MFN", "AMAZON": "AFN"}[new["fulfillment"]["fulfilledBy"]]
        assert (old["PurchaseDate"], old["LastUpdateDate"]) == (new["createdTime"], new["lastUpdatedTime"])
        total = new["proceeds"].get("grandTotal")
        assert old.get("OrderTotal") == (total and {"CurrencyCode": "EUR", "Amount": total["amount"]})
        assert "AddressLine1" not in old["ShippingAddress"]
        assert old["BuyerInfo"].get("BuyerEmail") == new["buyer"].get("buyerEmail")
    assert {"Canceled", "Shipped", "Unshipped"} <= {one["OrderStatus"] for one in found}


async def test_the_items_are_those_of_the_newer_version(amazon: Amazon) -> None:
    seller = await amazon.seller(20)
    tokens = await amazon.connect(seller)
    for order in await amazon.truth(seller):
        path = f"{PATH}/{order['orderId']}"
        payload = (await amazon.get(f"{path}/orderItems", tokens)).json()["payload"]
        assert payload["AmazonOrderId"] == order["orderId"]
        for old, new in zip(payload["OrderItems"], order["orderItems"], strict=True):
            assert (old["OrderItemId"], old["ASIN"]) == (new["orderItemId"], new["product"]["asin"])
            assert old["QuantityOrdered"] == new["quantityOrdered"]
            assert old["QuantityShipped"] == new["fulfillment"]["quantityFulfilled"]
            money = new["proceeds"]["proceedsTotal"]["amount"] if new["quantityOrdered"] else None
            assert old.get("ItemPrice", {}).get("Amount") == money
        single = (await amazon.get(path, tokens)).json()["payload"]
        assert single["AmazonOrderId"] == order["orderId"]
        address = (await amazon.get(f"{path}/address", tokens)).json()["payload"]
        assert address["ShippingAddress"]["City"] == order["recipient"]["deliveryAddress"]["city"]
        buyer = (await amazon.get(f"{path}/buyerInfo", tokens)).json()["payload"]
        assert buyer.get("BuyerEmail") == order["buyer"].get("buyerEmail")


async def test_filters_narrow_the_search(amazon: Amazon) -> None:
    seller = await amazon.seller(90, days=20)
    tokens = await amazon.connect(seller)
    cancelled = await search(amazon, tokens, OrderStatuses="Canceled,Pending")
    assert {one["OrderStatus"] for one in cancelled} >= {"Canceled"}
    assert {one["OrderStatus"] for one in cancelled} <= {"Canceled", "Pending"}
    amazons = await search(amazon, tokens, FulfillmentChannels="AFN")
    assert {one["FulfillmentChannel"] for one in amazons} == {"AFN"}
    ids = [one["AmazonOrderId"] for one in amazons[:3]]
    answer = await amazon.get(PATH, tokens, {"AmazonOrderIds": ",".join(ids), "MarketplaceIds": FRANCE})
    assert {one["AmazonOrderId"] for one in answer.json()["payload"]["Orders"]} == set(ids)


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"CreatedAfter": "2020-01-01"}, "MarketplaceIds"),
        ({"MarketplaceIds": FRANCE}, "CreatedAfter"),
        ({"MarketplaceIds": FRANCE, "CreatedAfter": "2020-01-01", "LastUpdatedAfter": "2020-01-01"}, "CreatedAfter"),
        ({"MarketplaceIds": FRANCE, "CreatedAfter": "2020-01-01", "CreatedBefore": "2099-01-01"}, "CreatedBefore"),
        ({"MarketplaceIds": FRANCE, "CreatedAfter": "2020-01-01", "OrderStatuses": "SHIPPED"}, "OrderStatuses"),
        ({"MarketplaceIds": FRANCE, "CreatedAfter": "2020-01-01", "MaxResultsPerPage": "101"}, "MaxResultsPerPage"),
        ({"NextToken": "made-up"}, "NextToken"),
    ],
)
async def test_a_wrong_parameter_is_named(amazon: Amazon, parameters: dict[str, str], named: str) -> None:
    tokens = await amazon.connect(await amazon.seller())
    assert_refused(await amazon.get(PATH, tokens, parameters), named)


async def test_a_token_is_good_for_a_day_and_for_its_seller(amazon: Amazon) -> None:
    mine, theirs = await amazon.connect(await amazon.seller(5)), await amazon.connect(await amazon.seller(5))
    query = {"MarketplaceIds": FRANCE, "CreatedAfter": "2020-01-01", "MaxResultsPerPage": "2"}
    token = {"NextToken": (await amazon.get(PATH, mine, query)).json()["payload"]["NextToken"]}
    assert_refused(await amazon.get(PATH, theirs, token), "NextToken")
    await amazon.advance(86_390)
    mine = Tokens((await amazon.token("refresh_token", refresh_token=mine.refresh)).json()["access_token"], "")
    assert (await amazon.get(PATH, mine, token)).status_code == 200
    await amazon.advance(11)
    assert_refused(await amazon.get(PATH, mine, token), "NextToken")
