"""The sandbox's answers against Amazon's official models.

The models are read from beside the repository; only these tests can be skipped, when they are not there.
"""

import gzip
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devstack.sandbox.marketplaces import MARKETPLACES
from devstack.sandbox.orders import INCLUDED_DATA
from devstack.sandbox.quota import PLANS
from devstack.sandbox.seed import SeededBook
from tests.models import FILES, model, needs_models, validator
from tests.sandbox.conftest import BY_LAST_UPDATE, BY_ORDER_DATE, MODELS, REPORTS, Amazon, Answer, Tokens

OFFICIAL = "A3OFFICIALMODEL"
EVERYTHING = ",".join(INCLUDED_DATA)
PATHS = {
    "searchOrders": ("orders", "/orders/2026-01-01/orders"),
    "getOrder": ("orders", "/orders/2026-01-01/orders/{orderId}"),
    "getMarketplaceParticipations": ("sellers", "/sellers/v1/marketplaceParticipations"),
    "getOrders": ("ordersV0", "/orders/v0/orders"),
    "getOrderV0": ("ordersV0", "/orders/v0/orders/{orderId}"),
    "getOrderItems": ("ordersV0", "/orders/v0/orders/{orderId}/orderItems"),
    "getOrderAddress": ("ordersV0", "/orders/v0/orders/{orderId}/address"),
    "getOrderBuyerInfo": ("ordersV0", "/orders/v0/orders/{orderId}/buyerInfo"),
    "createReport": ("reports", f"{REPORTS}/reports"),
    "getReport": ("reports", f"{REPORTS}/reports/{{reportId}}"),
    "getReports": ("reports", f"{REPORTS}/reports"),
    "cancelReport": ("reports", f"{REPORTS}/reports/{{reportId}}"),
    "getReportDocument": ("reports", f"{REPORTS}/documents/{{reportDocumentId}}"),
}
METHODS = {"createReport": "post", "cancelReport": "delete"}
pytestmark = needs_models


def assert_as_published(answer: httpx.Response, operation: str) -> None:
    """Status, body and headers are among those that the model has for the operation."""
    name, path = PATHS[operation]
    responses = model(name)["paths"][path][METHODS.get(operation, "get")]["responses"]
    response = responses[str(answer.status_code)]
    if "schema" in response:
        validator(name, response["schema"]).validate(answer.json())
    else:
        assert answer.content == b""
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-amzn-RequestId"]
    if answer.status_code in {200, 202, 400, 404}:
        assert answer.headers["x-amzn-RateLimit-Limit"]
        assert "x-amzn-RateLimit-Limit" in response["headers"]


def path_of(operation: str, number: str = "999-9999999-9999999") -> str:
    return PATHS[operation][1].format(orderId=number, reportId=number, reportDocumentId=number)


async def ask(amazon: Amazon, operation: str, tokens: Tokens | None, number: str = "1", **query: str) -> httpx.Response:
    headers = {"x-amz-access-token": tokens.access} if tokens is not None else {}
    method = METHODS.get(operation, "get").upper()
    return await amazon.http.request(method, path_of(operation, number), params=query, headers=headers)


def official_orders() -> Iterator[Answer]:
    """The examples, gathered here in another way than the sandbox does."""
    for _, path in (PATHS["searchOrders"], PATHS["getOrder"]):
        success = model("orders")["paths"][path]["get"]["responses"]["200"]
        bodies = [success["examples"]["application/json"]]
        bodies += [one["response"] for one in success["x-amzn-api-sandbox"]["static"]]
        for body in bodies:
            yield from body.get("orders", []) or [body["order"]]


def test_the_comparison_finds_a_typo_a_wrong_type_and_a_missing_field() -> None:
    right: Answer = {"errors": [{"code": "a", "message": "b"}]}
    errors = validator("orders", {"$ref": "#/definitions/ErrorList"})
    assert errors.is_valid(right)
    for wrong in (
        {"errors": [{"code": "a", "message": "b", "detials": "c"}]},
        {"errors": [{"code": 1, "message": "b"}]},
        {"errors": [{"code": "a"}]},
    ):
        assert not errors.is_valid(wrong)
    ranges = validator("orders", {"$ref": "#/definitions/DateTimeRange"})
    assert ranges.is_valid({"earliestDateTime": "2026-01-01T00:00:00Z"})
    assert not ranges.is_valid({"earliestDateTime": "yesterday"})
    assert not ranges.is_valid({"earliestDateTime": "2026-01-01T00:00:00"})


def test_the_usage_plans_are_the_published_ones() -> None:
    published = {}
    for operation, (name, path) in PATHS.items():
        description = model(name)["paths"][path][METHODS.get(operation, "get")]["description"]
        row = re.search(r"\| ([0-9.]+) \| ([0-9]+) \|", description)
        assert row is not None
        published[operation] = (float(row[1]), int(row[2]))
    ours = {plan.operation: (plan.rate, plan.burst) for plan in PLANS if plan.operation in PATHS}
    assert ours == published


def test_buyer_messages_are_not_in_the_published_model() -> None:
    reads = [path for path, item in model("messaging")["paths"].items() if "get" in item]
    assert not [path for path in reads if path.endswith("/messages")]


def test_the_data_sets_are_the_published_ones() -> None:
    parameters = model("orders")["paths"][path_of("searchOrders")]["get"]["parameters"]
    published = next(one for one in parameters if one["name"] == "includedData")["items"]["enum"]
    assert set(INCLUDED_DATA) == set(published)


@pytest.mark.parametrize("family", ["createdAfter", "lastUpdatedAfter"])
@pytest.mark.parametrize("data", ["", EVERYTHING])
async def test_found_orders_are_as_published(amazon: Amazon, family: str, data: str) -> None:
    tokens = await amazon.connect(await amazon.seller(150))
    parameters = {family: "2020-01-01T00:00:00Z", "includedData": data}
    first = await amazon.search(tokens, **parameters)
    assert_as_published(first, "searchOrders")
    token = first.json()["pagination"]["nextToken"]
    assert_as_published(await amazon.search(tokens, paginationToken=token, **parameters), "searchOrders")


@pytest.mark.parametrize("data", ["", EVERYTHING])
async def test_one_order_is_as_published(amazon: Amazon, data: str) -> None:
    tokens = await amazon.connect("A12BCIS2R7HD4D")
    path = path_of("getOrder", "407-8949262-6149120")
    answer = await amazon.get(path, tokens, {"includedData": data})
    assert answer.status_code == 200
    assert_as_published(answer, "getOrder")


@pytest.mark.parametrize("family", ["CreatedAfter", "LastUpdatedAfter"])
async def test_orders_of_the_older_version_are_as_published(amazon: Amazon, family: str) -> None:
    seller = await amazon.seller(150, unknownEvery=40)
    tokens = await amazon.connect(seller)
    query = {family: "2020-01-01T00:00:00Z", "MarketplaceIds": "A13V1IB3VIYZZH"}
    first = await ask(amazon, "getOrders", tokens, **query)
    assert first.status_code == 200
    assert_as_published(first, "getOrders")
    second = await ask(amazon, "getOrders", tokens, NextToken=first.json()["payload"]["NextToken"])
    assert second.status_code == 200
    assert_as_published(second, "getOrders")
    for order in [*first.json()["payload"]["Orders"][:7], *second.json()["payload"]["Orders"][:7]]:
        for operation in ("getOrderV0", "getOrderItems", "getOrderAddress", "getOrderBuyerInfo"):
            answer = await ask(amazon, operation, tokens, order["AmazonOrderId"])
            assert answer.status_code == 200
            assert_as_published(answer, operation)


async def test_the_official_examples_are_told_by_the_older_version_too(amazon: Amazon) -> None:
    tokens = await amazon.connect(OFFICIAL)
    for example in official_orders():
        for operation in ("getOrderV0", "getOrderItems", "getOrderAddress", "getOrderBuyerInfo"):
            answer = await ask(amazon, operation, tokens, example["orderId"])
            assert answer.status_code == 200, answer.text
            assert_as_published(answer, operation)


async def test_the_official_examples_stand_in_a_report(amazon: Amazon) -> None:
    tokens = await amazon.connect(OFFICIAL)
    examples = {one["orderId"]: one for one in official_orders()}
    one = examples["123-4567890-1234567"]
    ends = {"dataStartTime": one["createdTime"], "dataEndTime": one["createdTime"]}
    asked = await amazon.report(tokens, marketplaceIds=["ATVPDKIKX0DER"], **ends)
    _, answer = await amazon.document(tokens, asked.json()["reportId"])
    told = gzip.decompress(answer.content).decode().split("\r\n")[1:-1]
    titles = [item["product"]["title"] for item in one["orderItems"]]
    assert [line.split("\t")[9] for line in told] == titles
    assert [line.split("\t")[15] for line in told] == ["99.98", "49.99"]
    assert {line.split("\t")[0] for line in told} == {one["orderId"]}


@pytest.mark.parametrize("report_type", [BY_ORDER_DATE, BY_LAST_UPDATE])
async def test_reports_are_as_published(amazon: Amazon, report_type: str) -> None:
    seller = await amazon.seller(20)
    tokens = await amazon.connect(seller)
    created = await amazon.report(tokens, reportType=report_type, reportOptions={"any": "thing"})
    assert created.status_code == 202
    assert_as_published(created, "createReport")
    number = created.json()["reportId"]
    assert_as_published(await ask(amazon, "getReport", tokens, number), "getReport")
    told = await amazon.done(tokens, number)
    assert_as_published(await ask(amazon, "getReport", tokens, number), "getReport")
    for outcome in ("FATAL", "CANCELLED"):
        await amazon.fail("createReport", outcome, seller)
        await amazon.report(tokens, reportType=report_type)
    failed = await amazon.report(tokens, reportType=report_type)
    assert_as_published(await ask(amazon, "cancelReport", tokens, failed.json()["reportId"]), "cancelReport")
    assert_as_published(await ask(amazon, "cancelReport", tokens, number), "cancelReport")
    listed = await ask(amazon, "getReports", tokens, reportTypes=report_type, pageSize="3")
    assert listed.json()["nextToken"]
    assert_as_published(listed, "getReports")
    document = await ask(amazon, "getReportDocument", tokens, told["reportDocumentId"])
    assert document.status_code == 200
    assert_as_published(document, "getReportDocument")


@pytest.mark.parametrize("region", ["NA", "EU", "FE"])
async def test_participations_are_as_published(amazon: Amazon, region: str) -> None:
    ids = [one.id for one in MARKETPLACES.values() if one.region == region]
    tokens = await amazon.connect(await amazon.seller(0, region=region, marketplaceIds=ids))
    answer = await amazon.get(path_of("getMarketplaceParticipations"), tokens)
    assert answer.status_code == 200
    assert_as_published(answer, "getMarketplaceParticipations")


async def test_refused_parameters_and_unknown_orders_are_as_published(amazon: Amazon) -> None:
    tokens = await amazon.connect(await amazon.seller())
    for operation in ("searchOrders", "getOrders", "createReport", "getReports"):
        wrong = await ask(amazon, operation, tokens, createdAfter="TEST_CASE_400")
        assert wrong.status_code == 400
        assert_as_published(wrong, operation)
    for operation in ("getOrder", "getOrderV0", "getOrderItems", "getOrderAddress", "getOrderBuyerInfo"):
        for number, status in (("TEST_CASE_400", 400), ("999-9999999-9999999", 404)):
            answer = await ask(amazon, operation, tokens, number)
            assert answer.status_code == status
            assert_as_published(answer, operation)
    for operation in ("getReport", "cancelReport", "getReportDocument"):
        answer = await ask(amazon, operation, tokens)
        assert answer.status_code == 404
        assert_as_published(answer, operation)


@pytest.mark.parametrize("operation", PATHS)
async def test_refused_tokens_are_as_published(amazon: Amazon, operation: str) -> None:
    for tokens in (None, Tokens("Atza|made-up", "")):
        answer = await ask(amazon, operation, tokens)
        assert answer.status_code == 403
        assert_as_published(answer, operation)


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("operation", PATHS)
async def test_failures_are_as_published(amazon: Amazon, operation: str, status: int) -> None:
    seller = await amazon.seller()
    tokens = await amazon.connect(seller)
    await amazon.control("POST", "faults", {"operation": operation, "status": status, "sellerId": seller})
    answer = await ask(amazon, operation, tokens)
    assert answer.status_code == status
    assert_as_published(answer, operation)


@pytest.mark.parametrize("operation", PATHS)
async def test_a_used_up_quota_is_as_published(amazon: Amazon, operation: str) -> None:
    tokens = await amazon.connect(await amazon.seller())
    while (answer := await ask(amazon, operation, tokens)).status_code != 429:
        pass
    assert_as_published(answer, operation)


async def test_the_official_examples_are_served_as_they_stand(amazon: Amazon) -> None:
    tokens = await amazon.connect(OFFICIAL)
    examples = {one["orderId"]: one for one in official_orders()}
    assert len(examples) == 8
    for number, example in examples.items():
        answer = await amazon.get(path_of("getOrder", number), tokens, {"includedData": EVERYTHING})
        assert answer.json() == {"order": example}
        assert_as_published(answer, "getOrder")
    bare = (await amazon.get(path_of("getOrder", "123-4567890-1234567"), tokens)).json()["order"]
    assert "buyer" not in bare
    assert "proceeds" not in bare["orderItems"][0]


async def test_a_search_finds_the_official_examples_in_its_window(amazon: Amazon) -> None:
    tokens = await amazon.connect(OFFICIAL)
    examples = {one["orderId"]: datetime.fromisoformat(one["createdTime"]) for one in official_orders()}
    now = datetime.fromisoformat((await amazon.control("GET", "clock"))["now"])
    for after in (now - timedelta(days=731), datetime.fromisoformat("2025-01-01T00:00:00Z")):
        found = await amazon.search_all(tokens, createdAfter=after.isoformat(), maxResultsPerPage=3)
        numbers = [one["orderId"] for one in found]
        assert set(numbers) == {number for number, created in examples.items() if created >= after}
        assert [examples[number] for number in numbers] == sorted(examples[number] for number in numbers)
    turkey = await amazon.search_all(tokens, marketplaceIds="A33AVAJ2PDY3EV")
    assert [one["orderId"] for one in turkey] == ["028-1234567-8901234"]
    shipped = await amazon.search_all(tokens, fulfillmentStatuses="UNSHIPPED", includedData="FULFILLMENT")
    assert {one["fulfillment"]["fulfillmentStatus"] for one in shipped} == {"UNSHIPPED"}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_made_up_order_is_as_published(data: st.DataObject) -> None:
    orders = validator("orders", {"$ref": "#/definitions/Order"})
    marketplace = data.draw(st.sampled_from(sorted(MARKETPLACES)))
    book = SeededBook(
        seller_id="ASCHEMA",
        marketplace_ids=[marketplace],
        orders=40,
        days=data.draw(st.integers(1, 400)),
        seed=data.draw(st.integers()),
        cancelled_every=data.draw(st.none() | st.integers(1, 9)),
        anchor=1_800_000_000,
    )
    for index in range(40):
        body: Any = msgspec.json.decode(msgspec.json.encode(book.order(index)))
        orders.validate(body)


def test_the_models_are_where_the_tests_look() -> None:
    assert {path.name for path in Path(MODELS).iterdir()} >= set(FILES.values())
