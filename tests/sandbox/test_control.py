from datetime import datetime

import pytest

from tests.sandbox.conftest import Amazon


async def test_a_seller_is_created_and_replaced_and_stays_connected(amazon: Amazon) -> None:
    seller = await amazon.seller(10, days=30, region="NA", marketplaceIds=["A2EUQ1WTGCTBG2"])
    tokens = await amazon.connect(seller)
    orders = await amazon.truth(seller)
    assert len(orders) == 10
    assert {order["salesChannel"]["marketplaceName"] for order in orders} == {"Amazon.ca"}
    assert {order["proceeds"]["grandTotal"]["currencyCode"] for order in orders} == {"CAD"}
    await amazon.control("PUT", f"sellers/{seller}", {"orders": 20, "region": "FE"})
    replaced = await amazon.search_all(tokens, includedData="PROCEEDS")
    assert len(replaced) == 20
    amounts = {order["proceeds"].get("grandTotal", {"amount": "0"})["amount"] for order in replaced}
    assert not any("." in amount for amount in amounts), "yen have no decimals"


async def test_cancelled_orders_come_as_often_as_told(amazon: Amazon) -> None:
    for every, number in ((15, 2), (2, 15), (None, 0)):
        seller = await amazon.seller(30, cancelledEvery=every)
        statuses = [one["fulfillment"]["fulfillmentStatus"] for one in await amazon.truth(seller)]
        assert statuses.count("CANCELLED") == number


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"orders": -1},
        {"orders": 1, "days": 0},
        {"orders": 1, "marketplaceIds": ["ANOWHERE"]},
        {"orders": 1, "region": "EU", "marketplaceIds": ["ATVPDKIKX0DER"]},
        {"orders": 1, "cancelledEvery": 0},
        {"orders": 1, "ordres": 2},
        {"orders": 1, "ordersPerDay": -1},
        {"orders": 1, "unknownEvery": 0},
        {"orders": 1, "reports": {"charset": "EBCDIC"}},
        {"orders": 1, "reports": {"headers": {"order-item-id": "?"}}},
    ],
)
async def test_a_wrong_seller_is_refused(amazon: Amazon, spec: dict[str, object]) -> None:
    answer = await amazon.http.put("/sandbox/sellers/AWRONG", json=spec)
    assert answer.status_code == 400
    sellers = (await amazon.control("GET", "sellers"))["sellers"]
    assert "AWRONG" not in {one["sellerId"] for one in sellers}


async def test_an_unknown_seller_is_not_found(amazon: Amazon) -> None:
    assert (await amazon.http.get("/sandbox/sellers/ANOBODY/orders")).status_code == 404
    assert (await amazon.http.post("/sandbox/sellers/ANOBODY/revoke")).status_code == 404
    assert (await amazon.http.get("/nowhere")).status_code == 404


async def test_the_clock_advances_and_changes_its_speed(amazon: Amazon) -> None:
    frozen = await amazon.control("POST", "clock", {"speed": 0})
    assert (await amazon.control("GET", "clock")) == frozen
    later = await amazon.control("POST", "clock", {"advanceSeconds": 90})
    passed = datetime.fromisoformat(later["now"]) - datetime.fromisoformat(frozen["now"])
    assert passed.total_seconds() == pytest.approx(90, abs=0.001)
    fast = await amazon.control("POST", "clock", {"speed": 1000})
    assert fast["speed"] == 1000
    assert (await amazon.control("GET", "clock"))["now"] > later["now"]


@pytest.mark.parametrize("change", [{"advanceSeconds": -1}, {"speed": -1}, {"speed": 1e9}, {"seconds": 1}])
async def test_the_clock_never_goes_back(amazon: Amazon, change: dict[str, float]) -> None:
    assert (await amazon.http.post("/sandbox/clock", json=change)).status_code == 400


@pytest.mark.parametrize(
    "fault",
    [
        {"operation": "getEverything", "status": 500},
        {"operation": "getOrder", "status": 418},
        {"operation": "getOrder", "status": 500, "times": 0},
        {"operation": "getOrder"},
        {"operation": "getOrder", "status": 200},
        {"operation": "token", "status": 200, "delaySeconds": 0},
        {"operation": "token", "status": "some_error"},
        {"operation": "getOrder", "status": "invalid_grant"},
        {"operation": "getOrder", "status": "cut"},
        {"operation": "getOrder", "status": "not_json"},
        {"operation": "getOrder", "status": "FATAL"},
        {"operation": "createReport", "status": "cut"},
        {"operation": "createReport", "status": "FATAL", "delaySeconds": 1},
        {"operation": "getReportDocument", "status": "CANCELLED"},
        {"operation": "download", "status": "role_missing"},
        {"operation": "token", "status": "role_missing"},
        {"operation": "getOrder", "status": 500, "share": 0},
        {"operation": "getOrder", "status": 500, "share": 1.1},
    ],
)
async def test_a_wrong_fault_is_refused(amazon: Amazon, fault: dict[str, object]) -> None:
    assert (await amazon.http.post("/sandbox/faults", json=fault)).status_code == 400
    assert (await amazon.control("POST", "faults", {"operation": "token", "status": 500}))["faults"] == [
        {"operation": "token", "status": 500, "sellerId": None, "times": 1, "share": None, "delaySeconds": None}
    ]
