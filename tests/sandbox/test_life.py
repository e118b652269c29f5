"""Orders that change and come as the clock goes on, and what a search for updates then finds."""

from datetime import datetime, timedelta

import pytest

from tests.sandbox.conftest import Amazon, Answer, Tokens
from tests.sandbox.test_orders import now

EVERYTHING = "BUYER,RECIPIENT,PROCEEDS,PROMOTION,CANCELLATION,FULFILLMENT,PACKAGES"
DAY = 86_400


async def fresh(amazon: Amazon, tokens: Tokens) -> Tokens:
    refreshed = await amazon.token("refresh_token", refresh_token=tokens.refresh)
    return Tokens(refreshed.json()["access_token"], tokens.refresh)


async def copy_until_now(amazon: Amazon, tokens: Tokens, copy: dict[str, Answer], after: str) -> str:
    """What a connector does: a search by update since the last one, which returns where the next one begins."""
    parameters = {"lastUpdatedAfter": after, "includedData": EVERYTHING, "maxResultsPerPage": "100"}
    body = (await amazon.search(tokens, **parameters)).json()
    before = str(body["lastUpdatedBefore"])
    found = await amazon.search_all(tokens, **{**parameters, "lastUpdatedBefore": before})
    copy.update({one["orderId"]: one for one in found})
    return before


async def test_a_copy_kept_by_updates_becomes_the_truth(amazon: Amazon) -> None:
    seller = await amazon.seller(200, days=10, ordersPerDay=30)
    tokens = await amazon.connect(seller)
    await amazon.control("POST", "clock", {"speed": 0})
    copy: dict[str, Answer] = {}
    after = await copy_until_now(amazon, tokens, copy, "2020-01-01T00:00:00Z")
    assert len(copy) == 200
    first = dict(copy)
    for _ in range(6):
        await amazon.advance(DAY)
        tokens = await fresh(amazon, tokens)
        after = await copy_until_now(amazon, tokens, copy, after)
    latest = await now(amazon) - timedelta(minutes=2)
    truth = await amazon.truth(seller)
    settled = {one["orderId"]: one for one in truth if datetime.fromisoformat(one["lastUpdatedTime"]) <= latest}
    assert {number: copy[number] for number in settled} == settled
    assert len(truth) - 200 == pytest.approx(180, abs=2)
    changed = [number for number in first if copy[number] != first[number]]
    assert 30 < len(changed) < 200
    assert all(copy[number]["lastUpdatedTime"] > first[number]["lastUpdatedTime"] for number in changed)
    cancelled = [copy[number] for number in copy if number not in first and "cancellation" in str(copy[number])]
    assert cancelled
    assert {item["quantityOrdered"] for one in cancelled for item in one["orderItems"]} == {0}


async def test_without_a_pace_nothing_becomes_of_orders(amazon: Amazon) -> None:
    seller = await amazon.seller(50, days=5)
    before = await amazon.truth(seller)
    await amazon.advance(3 * DAY)
    assert await amazon.truth(seller) == before


async def test_a_pace_set_later_goes_on_from_where_the_orders_stand(amazon: Amazon) -> None:
    seller = await amazon.seller(50, days=5)
    before = await amazon.truth(seller)
    await amazon.advance(30 * DAY)
    started = await now(amazon)
    await amazon.control("PUT", f"sellers/{seller}/pace", {"ordersPerDay": 0})
    await amazon.advance(60)
    assert [one["orderId"] for one in await amazon.truth(seller)] == [one["orderId"] for one in before]
    await amazon.advance(2 * DAY)
    after = await amazon.truth(seller)
    changed = [new for old, new in zip(before, after, strict=True) if new != old]
    assert changed
    assert all(datetime.fromisoformat(one["lastUpdatedTime"]) > started for one in changed)
    await amazon.control("PUT", f"sellers/{seller}/pace", {"ordersPerDay": 24})
    await amazon.advance(DAY)
    assert len(await amazon.truth(seller)) - 50 == pytest.approx(24, abs=1)
    await amazon.control("PUT", f"sellers/{seller}/pace", {"ordersPerDay": 0})
    stopped = len(await amazon.truth(seller))
    await amazon.advance(DAY)
    assert len(await amazon.truth(seller)) == stopped


async def test_one_order_can_be_changed_now(amazon: Amazon) -> None:
    seller = await amazon.seller(30, days=20)
    tokens = await amazon.connect(seller)
    order = (await amazon.truth(seller))[3]
    path, since = f"sellers/{seller}/orders/{order['orderId']}", await now(amazon)
    tracked = {"status": "SHIPPED", "carrier": "Chronopost", "trackingNumber": "XY1", "packageStatus": "DELIVERED"}
    changed = await amazon.control("POST", path, tracked)
    package = changed["packages"][0]
    assert (package["carrier"], package["trackingNumber"]) == ("Chronopost", "XY1")
    assert package["packageStatus"] == {"status": "DELIVERED"}
    kept = await amazon.control("POST", path, {"packageStatus": "UNDELIVERABLE"})
    assert kept["packages"][0]["trackingNumber"] == "XY1"
    await amazon.control("POST", path, {"status": "CANCELLED"})
    await amazon.advance(180)
    found = await amazon.search_all(tokens, lastUpdatedAfter=since.isoformat(), includedData=EVERYTHING)
    assert [one["orderId"] for one in found] == [order["orderId"]]
    assert {item["quantityOrdered"] for item in found[0]["orderItems"]} == {0}
    assert found == [(await amazon.truth(seller))[3]]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"status": "TELEPORTED"}, 400),
        ({"status": "PENDING", "trackingNumber": "XY1"}, 400),
        ({"state": "SHIPPED"}, 400),
        ({"packageStatus": "LOST"}, 400),
    ],
)
async def test_a_wrong_change_is_refused(amazon: Amazon, change: dict[str, str], status: int) -> None:
    seller = await amazon.seller()
    number = (await amazon.truth(seller))[0]["orderId"]
    answer = await amazon.http.post(f"/sandbox/sellers/{seller}/orders/{number}", json=change)
    assert answer.status_code == status
    missing = await amazon.http.post(f"/sandbox/sellers/{seller}/orders/000-0000000-0000000", json={})
    assert missing.status_code == 404


async def test_a_status_that_the_model_has_not_comes_as_often_as_told(amazon: Amazon) -> None:
    seller = await amazon.seller(40, unknownEvery=10)
    tokens = await amazon.connect(seller)
    orders = await amazon.search_all(tokens, includedData="FULFILLMENT")
    statuses = [one["fulfillment"]["fulfillmentStatus"] for one in orders]
    assert statuses.count("INVOICE_UNCONFIRMED") == 4
    old = await amazon.get(
        "/orders/v0/orders", tokens, {"MarketplaceIds": "A13V1IB3VIYZZH", "CreatedAfter": "2020-01-01"}
    )
    assert [one["OrderStatus"] for one in old.json()["payload"]["Orders"]].count("InvoiceUnconfirmed") == 4


async def test_changes_and_paces_survive_a_kill(own: Amazon) -> None:
    seller = await own.seller(30, days=20, ordersPerDay=50)
    number = (await own.truth(seller))[3]["orderId"]
    await own.control("POST", f"sellers/{seller}/orders/{number}", {"status": "UNFULFILLABLE"})
    await own.control("POST", "clock", {"speed": 0, "advanceSeconds": DAY})
    before = await own.truth(seller)
    own.server.end()
    own.server.start()
    assert len(before) > 70
    assert await own.truth(seller) == before
