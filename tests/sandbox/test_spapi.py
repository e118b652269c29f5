"""What stands before every operation: the token, the quota, the headers, faults and counts."""

import time

import httpx
import pytest

from tests.sandbox.conftest import BY_ORDER_DATE, KEYBUZZ, REPORTS, Amazon, Tokens

OPERATIONS = [
    ("/orders/2026-01-01/orders?createdAfter=2020-01-01T00:00:00Z", "searchOrders", "0.0056", 20),
    ("/orders/2026-01-01/orders/{order_id}", "getOrder", "0.5", 30),
    ("/sellers/v1/marketplaceParticipations", "getMarketplaceParticipations", "0.016", 15),
    ("/messaging/v1/orders/{order_id}/messages", "getMessages", "1", 5),
    (f"{REPORTS}/reports?reportTypes={BY_ORDER_DATE}", "getReports", "0.0222", 10),
    ("/orders/v0/orders?MarketplaceIds=A13V1IB3VIYZZH&CreatedAfter=2020-01-01", "getOrders", "0.0167", 20),
    ("/orders/v0/orders/{order_id}", "getOrderV0", "0.5", 30),
    ("/orders/v0/orders/{order_id}/orderItems", "getOrderItems", "0.5", 30),
]
PARTICIPATIONS = OPERATIONS[2][0]


async def order_id(amazon: Amazon, seller: str) -> str:
    page = await amazon.control("GET", f"sellers/{seller}/orders?limit=1")
    return str(page["orders"][0]["orderId"])


@pytest.mark.parametrize(("path", "operation", "rate", "burst"), OPERATIONS)
async def test_a_burst_then_429_then_the_bucket_refills_by_the_sandboxs_clock(
    amazon: Amazon, path: str, operation: str, rate: str, burst: int
) -> None:
    seller = await amazon.seller()
    await amazon.control("POST", "clock", {"speed": 0})  # a standing clock refills nothing
    tokens = await amazon.connect(seller)
    path = path.format(order_id=await order_id(amazon, seller))
    for _ in range(burst):
        allowed = await amazon.get(path, tokens)
        assert allowed.status_code == 200
        assert allowed.headers["x-amzn-RateLimit-Limit"] == rate
        assert allowed.headers["x-amzn-RequestId"]
    refused = await amazon.get(path, tokens)
    assert refused.status_code == 429
    assert refused.headers["x-amzn-RequestId"]
    assert "x-amzn-RateLimit-Limit" not in refused.headers
    assert refused.json() == {
        "errors": [
            {
                "code": "QuotaExceeded",
                "message": "You exceeded your quota for the requested resource.",
                "details": "",
            }
        ]
    }
    await amazon.advance(0.9 / float(rate))
    assert (await amazon.get(path, tokens)).status_code == 429
    await amazon.advance(0.2 / float(rate))
    assert (await amazon.get(path, tokens)).status_code == 200
    assert (await amazon.get(path, tokens)).status_code == 429
    assert (await amazon.control("GET", "calls"))[operation][seller] == {"200": burst + 1, "429": 3}


async def test_a_fast_clock_refills_the_bucket_without_waiting_long(amazon: Amazon) -> None:
    tokens = await amazon.connect(await amazon.seller())
    while (await amazon.get(PARTICIPATIONS, tokens)).status_code == 200:
        pass
    await amazon.control("POST", "clock", {"speed": 2000})
    deadline = time.monotonic() + 5
    while (await amazon.get(PARTICIPATIONS, tokens)).status_code == 429:
        assert time.monotonic() < deadline


async def test_sellers_do_not_share_a_bucket(amazon: Amazon) -> None:
    busy = await amazon.connect(await amazon.seller())
    while (await amazon.get(PARTICIPATIONS, busy)).status_code == 200:
        pass
    other = await amazon.connect(await amazon.seller())
    assert (await amazon.get(PARTICIPATIONS, other)).status_code == 200


async def test_two_applications_of_a_seller_do_not_share_a_bucket(amazon: Amazon) -> None:
    seller = await amazon.seller()
    await amazon.control("POST", "clock", {"speed": 0})
    busy, other = await amazon.connect(seller), await amazon.connect(seller, KEYBUZZ)
    while (await amazon.get(PARTICIPATIONS, busy)).status_code == 200:
        pass
    assert (await amazon.get(PARTICIPATIONS, other)).status_code == 200


@pytest.mark.parametrize(("path", "operation", "rate", "burst"), OPERATIONS)
async def test_every_operation_can_succeed_late(
    amazon: Amazon, path: str, operation: str, rate: str, burst: int
) -> None:
    del rate, burst
    seller = await amazon.seller()
    tokens = await amazon.connect(seller)
    path = path.format(order_id=await order_id(amazon, seller))
    await amazon.fail(operation, 200, seller, delaySeconds=60)
    with pytest.raises(httpx.ReadTimeout):
        await amazon.http.get(path, headers={"x-amz-access-token": tokens.access}, timeout=httpx.Timeout(30, read=1))
    await amazon.fail(operation, 200, seller, delaySeconds=0.01)
    assert (await amazon.get(path, tokens)).status_code == 200
    assert await amazon.calls(operation, seller) == {"200": 2}


@pytest.mark.parametrize(("path", "operation", "rate", "burst"), OPERATIONS)
async def test_without_a_token_no_operation_answers(
    amazon: Amazon, path: str, operation: str, rate: str, burst: int
) -> None:
    del operation, rate, burst
    answer = await amazon.get(path.format(order_id="407-8949262-6149120"), None)
    assert answer.status_code == 403
    assert answer.headers["x-amzn-RequestId"]
    assert "x-amzn-RateLimit-Limit" not in answer.headers
    error = answer.json()["errors"][0]
    assert error["code"] == "Unauthorized"
    assert error.keys() == {"code", "message", "details"}


async def test_an_access_token_expires_after_an_hour(amazon: Amazon) -> None:
    tokens = await amazon.connect(await amazon.seller())
    await amazon.advance(3590)
    assert (await amazon.get(PARTICIPATIONS, tokens)).status_code == 200
    await amazon.advance(11)
    expired = await amazon.get(PARTICIPATIONS, tokens)
    assert expired.status_code == 403
    assert expired.json()["errors"][0]["code"] == "Unauthorized"
    assert expired.json()["errors"][0]["details"] == "The access token you provided has expired."
    refreshed = (await amazon.token("refresh_token", refresh_token=tokens.refresh)).json()
    tokens = Tokens(refreshed["access_token"], tokens.refresh)
    assert (await amazon.get(PARTICIPATIONS, tokens)).status_code == 200


@pytest.mark.parametrize("how", ["revoked", "made up", "changed", "of another kind"])
async def test_a_token_that_is_not_valid_is_told_apart_from_an_expired_one(amazon: Amazon, how: str) -> None:
    seller = await amazon.seller()
    tokens = await amazon.connect(seller)
    if how == "revoked":
        await amazon.control("POST", f"sellers/{seller}/revoke")
    access = {
        "revoked": tokens.access,
        "made up": "Atza|made-up",
        "changed": tokens.access[:-8] + "AAAAAAAA",
        "of another kind": tokens.refresh,
    }[how]
    answer = await amazon.get(PARTICIPATIONS, Tokens(access, ""))
    assert answer.status_code == 403
    details = answer.json()["errors"][0]["details"]
    assert details == "The access token you provided is revoked, malformed or invalid."


@pytest.mark.parametrize(
    ("status", "code"), [(429, "QuotaExceeded"), (500, "InternalFailure"), (503, "ServiceUnavailable")]
)
async def test_a_fault_answers_for_one_seller_as_often_as_told(amazon: Amazon, status: int, code: str) -> None:
    seller = await amazon.seller()
    tokens, others = await amazon.connect(seller), await amazon.connect(await amazon.seller())
    fault = {"operation": "getMarketplaceParticipations", "sellerId": seller, "status": status, "times": 2}
    await amazon.control("POST", "faults", fault)
    assert (await amazon.get(PARTICIPATIONS, others)).status_code == 200
    answers = [await amazon.get(PARTICIPATIONS, tokens) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [status, status, 200]
    assert answers[0].json()["errors"][0]["code"] == code
    calls = await amazon.control("GET", "calls")
    assert calls["getMarketplaceParticipations"][seller] == {str(status): 2, "200": 1}


async def test_a_fault_can_keep_a_caller_waiting(amazon: Amazon) -> None:
    seller = await amazon.seller()
    tokens = await amazon.connect(seller)
    fault = {"operation": "getMarketplaceParticipations", "status": "timeout", "times": 1}
    await amazon.control("POST", "faults", fault)
    with pytest.raises(httpx.ReadTimeout):
        await amazon.http.get(
            PARTICIPATIONS, headers={"x-amz-access-token": tokens.access}, timeout=httpx.Timeout(30, read=1)
        )
    calls = await amazon.control("GET", "calls")
    assert calls["getMarketplaceParticipations"][seller] == {"timeout": 1}
    assert (await amazon.get(PARTICIPATIONS, tokens)).status_code == 200


async def test_a_fault_can_be_slow_and_can_be_called_off(amazon: Amazon) -> None:
    tokens = await amazon.connect(await amazon.seller())
    fault = {"operation": "getMarketplaceParticipations", "status": 503, "times": 9, "delaySeconds": 0.1}
    await amazon.control("POST", "faults", fault)
    assert (await amazon.get(PARTICIPATIONS, tokens)).status_code == 503
    await amazon.control("DELETE", "faults")
    assert (await amazon.get(PARTICIPATIONS, tokens)).status_code == 200


@pytest.mark.parametrize(("status", "error"), [(500, "server_error"), (503, "temporarily_unavailable")])
async def test_login_with_amazon_can_fail_too(amazon: Amazon, status: int, error: str) -> None:
    seller = await amazon.seller()
    tokens = await amazon.connect(seller)
    await amazon.control("POST", "faults", {"operation": "token", "sellerId": seller, "status": status})
    failed = await amazon.token("refresh_token", refresh_token=tokens.refresh)
    assert (failed.status_code, failed.json()["error"]) == (status, error)
    assert (await amazon.token("refresh_token", refresh_token=tokens.refresh)).status_code == 200


async def test_calls_are_counted_until_they_are_cleared(amazon: Amazon) -> None:
    seller = await amazon.seller()
    tokens = await amazon.connect(seller)
    await amazon.get(PARTICIPATIONS, tokens)
    await amazon.get("/orders/2026-01-01/orders/000-0000000-0000000", tokens)
    calls = await amazon.control("GET", "calls")
    assert calls["token"][seller] == {"200": 1}
    assert calls["getMarketplaceParticipations"][seller] == {"200": 1}
    assert calls["getOrder"][seller] == {"404": 1}
    await amazon.control("DELETE", "calls")
    assert await amazon.control("GET", "calls") == {}


@pytest.mark.parametrize(("speed", "limit"), [(1, "0.016"), (60, "0.96"), (0.5, "0.008"), (0, "0.016")])
async def test_the_rate_is_told_in_calls_per_real_second(amazon: Amazon, speed: float, limit: str) -> None:
    tokens = await amazon.connect(await amazon.seller())
    await amazon.control("POST", "clock", {"speed": speed})
    assert (await amazon.get(PARTICIPATIONS, tokens)).headers["x-amzn-RateLimit-Limit"] == limit


@pytest.mark.parametrize(
    ("status", "details"),
    [
        ("access_token_expired", "The access token you provided has expired."),
        ("access_token_revoked", "The access token you provided is revoked, malformed or invalid."),
        ("role_missing", ""),
    ],
)
async def test_an_access_can_be_refused_on_request(amazon: Amazon, status: str, details: str) -> None:
    seller = await amazon.seller()
    tokens = await amazon.connect(seller)
    await amazon.fail("getMarketplaceParticipations", status, seller)
    refused = await amazon.get(PARTICIPATIONS, tokens)
    assert (refused.status_code, refused.json()["errors"][0]["details"]) == (403, details)
    assert (await amazon.get(PARTICIPATIONS, tokens)).status_code == 200


async def test_a_pagination_token_can_expire_on_request(amazon: Amazon) -> None:
    seller = await amazon.seller(9)
    tokens = await amazon.connect(seller)
    await amazon.fail("searchOrders", "pagination_token_expired", seller)
    first = await amazon.search(tokens, maxResultsPerPage="5")
    token = first.json()["pagination"]["nextToken"]
    expired = await amazon.search(tokens, maxResultsPerPage="5", paginationToken=token)
    assert (expired.status_code, "expired" in expired.json()["errors"][0]["details"]) == (400, True)
    assert (await amazon.search(tokens, maxResultsPerPage="5", paginationToken=token)).status_code == 200


async def test_a_fault_can_be_for_a_share_of_the_calls(amazon: Amazon) -> None:
    seller = await amazon.seller()
    tokens = await amazon.connect(seller)
    order = await order_id(amazon, seller)
    await amazon.fail("getOrder", 503, seller, share=0.5)
    await amazon.control("POST", "clock", {"speed": 100})
    path = f"/orders/2026-01-01/orders/{order}"
    statuses = [(await amazon.get(path, tokens)).status_code for _ in range(60)]
    assert set(statuses) == {200, 503}
    await amazon.control("DELETE", "faults")
    await amazon.fail("getOrder", 503, seller, share=1)
    assert {(await amazon.get(path, tokens)).status_code for _ in range(5)} == {503}
