"""What we send to Amazon and what we read of its answers, beside its official models: each of their examples through
the real call.
"""

import importlib
import pkgutil
import re
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import msgspec
import pytest
from msgspec import Struct, inspect
from msgspec.structs import fields

from devstack.stack import Stack
from shared import amazon
from shared.amazon import orders, reports, sellers
from shared.amazon.credentials import TenantCredentials
from shared.amazon.errors import (
    AccessDeniedError,
    AmazonNotFoundError,
    AmazonUnavailableError,
    BadRequestError,
    QuotaExceededError,
)
from shared.amazon.gate import Operation
from shared.amazon.reports import ReportType
from shared.amazon.spapi import SpApi
from shared.vault import Vault
from tests.models import Json, model, needs_models, validator
from tests.shared.amazon.conftest import Amazon, Odd, settings_of
from tests.shared.amazon.test_spapi import connected

pytestmark = needs_models

START, END = datetime(2026, 1, 1, 12, 30, 15, 999_999, tzinfo=UTC), datetime(2026, 1, 31, tzinfo=UTC)


class Call(Struct, frozen=True):
    """One of our calls, the answer as it decodes it, and what of an answer the caller is given."""

    model: str
    plan: Operation
    make: Callable[[SpApi, str, TenantCredentials], Awaitable[Any]]
    answer: type
    given: Callable[[Json], Any] = lambda body: body


def _participating(body: Json) -> list[str]:
    return [each["marketplace"]["id"] for each in body["payload"] if each["participation"]["isParticipating"]]


CALLS = {
    "search_orders": Call(
        "orders",
        orders.SEARCH_ORDERS,
        lambda api, tenant_id, _: orders.search_orders(api, tenant_id, START, END),
        orders.SearchOrdersPage,
    ),
    "search_orders, a later page": Call(
        "orders",
        orders.SEARCH_ORDERS,
        lambda api, tenant_id, _: orders.search_orders(api, tenant_id, START, END, "9ZhB4RmVyc2lvbiAxLjAgb2YgdGhl+/="),
        orders.SearchOrdersPage,
    ),
    "search_changed_orders": Call(
        "orders",
        orders.SEARCH_ORDERS,
        lambda api, tenant_id, _: orders.search_changed_orders(api, tenant_id, START),
        orders.SearchOrdersPage,
    ),
    "search_changed_orders, to an end": Call(
        "orders",
        orders.SEARCH_ORDERS,
        lambda api, tenant_id, _: orders.search_changed_orders(api, tenant_id, START, END, included_data=""),
        orders.SearchOrdersPage,
    ),
    "get_order": Call(
        "orders",
        orders.GET_ORDER,
        lambda api, tenant_id, _: orders.get_order(api, tenant_id, "171-9876543-2109876"),
        orders._GetOrderAnswer,
        lambda body: body["order"],
    ),
    "create_report": Call(
        "reports",
        reports.CREATE_REPORT,
        lambda api, tenant_id, _: reports.create_report(
            *(api, tenant_id, ReportType.ORDERS_BY_ORDER_DATE, ["A1PA6795UKMFR9", "ATVPDKIKX0DER"], START, END)
        ),
        reports._Created,
        lambda body: body["reportId"],
    ),
    "get_report": Call(
        "reports",
        reports.GET_REPORT,
        lambda api, tenant_id, _: reports.get_report(api, tenant_id, "ID323"),
        reports.Report,
    ),
    "get_report_document": Call(
        "reports",
        reports.GET_REPORT_DOCUMENT,
        lambda api, tenant_id, _: reports.get_report_document(api, tenant_id, "0356cf79-b8b0-4226-b4b9-0ee058ea5760"),
        reports.Document,
    ),
    "marketplace_ids": Call(
        "sellers",
        sellers.GET_MARKETPLACE_PARTICIPATIONS,
        lambda api, _, tenant: sellers.marketplace_ids(api, tenant),
        sellers._Answer,
        _participating,
    ),
}
EXAMPLES = {"searchOrders": 4, "getOrder": 4, "getMarketplaceParticipations": 2} | dict.fromkeys(
    ("createReport", "getReport", "getReportDocument"), 1
)
"""How many of a success the model has: none at all would prove nothing."""
ERRORS = {
    400: BadRequestError,
    401: BadRequestError,
    403: AccessDeniedError,
    404: AmazonNotFoundError,
    413: BadRequestError,
    415: BadRequestError,
    429: QuotaExceededError,
    500: AmazonUnavailableError,
    503: AmazonUnavailableError,
}


def operation_of(call: Call) -> tuple[str, str, Json]:
    """The path, the method and what the model says of the operation."""
    for path, item in model(call.model)["paths"].items():
        for method, described in item.items():
            if method != "parameters" and described["operationId"] == call.plan.name:
                return path, method, described
    raise AssertionError(f"The model has no operation {call.plan.name}.")


def bodies(answer: Json) -> Iterator[Json]:
    """The examples and the answers of Amazon's own sandbox; in one model an example's type is left out."""
    if examples := answer.get("examples"):
        yield examples.get("application/json", examples)
    for one in answer.get("x-amzn-api-sandbox", {}).get("static", []):
        yield one["response"]


def successes(described: Json) -> Iterator[tuple[int, Json]]:
    for status, answer in described["responses"].items():
        if status.startswith("2"):
            yield from ((int(status), body) for body in bodies(answer))


class Exchange(Struct):
    """One call to a server that answers one thing."""

    tenant_id: str
    tenant: TenantCredentials
    sent: list[httpx.Request]


@pytest.fixture
async def exchange(amazon: Amazon) -> Exchange:
    tenant_id, seller_id = await connected(amazon, 0)
    return Exchange(tenant_id, await amazon.connect(seller_id), [])


async def make(call: Call, stack: Stack, exchange: Exchange, answering: Odd, status: int, body: Json) -> Any:
    """What the call makes of an answer; the token comes from the sandbox."""
    content = msgspec.json.encode(body)
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"

    async def note(request: httpx.Request) -> None:
        if request.url.path != "/auth/o2/token":
            exchange.sent.append(request)

    async with (
        answering(head.encode() + content) as url,
        httpx.AsyncClient(trust_env=False, event_hooks={"request": [note]}) as http,
    ):
        settings = settings_of(stack, AMAZON_SPAPI_URL=url)
        api = SpApi(settings, Vault(settings), http, gate=None)
        return await call.make(api, exchange.tenant_id, exchange.tenant)


def assert_same(ours: Any, theirs: Any) -> None:
    """Everything that we read is as the example has it, and nothing where it has nothing."""
    if isinstance(ours, Struct):
        for field in fields(ours):
            if field.encode_name in theirs:
                assert_same(getattr(ours, field.name), theirs[field.encode_name])
            else:
                assert not getattr(ours, field.name)
    elif isinstance(ours, list):
        for mine, other in zip(ours, theirs, strict=True):
            assert_same(mine, other)
    elif isinstance(ours, datetime):
        assert ours == datetime.fromisoformat(theirs)
    elif isinstance(ours, Decimal):
        assert ours == Decimal(theirs)
    else:
        assert ours == theirs


@pytest.mark.parametrize("name", CALLS)
async def test_every_example_of_the_model_is_read_as_it_stands(
    stack: Stack, exchange: Exchange, answering: Odd, name: str
) -> None:
    call, compared = CALLS[name], 0
    for status, body in successes(operation_of(call)[2]):
        assert_same(await make(call, stack, exchange, answering, status, body), call.given(body))
        compared += 1
    assert compared == EXAMPLES[call.plan.name]


@pytest.mark.parametrize("name", CALLS)
async def test_every_error_of_the_model_is_told_apart_and_in_amazons_words(
    stack: Stack, exchange: Exchange, answering: Odd, name: str
) -> None:
    call = CALLS[name]
    told = 0
    for status, answer in operation_of(call)[2]["responses"].items():
        if status.startswith("2"):
            continue
        made_up = {"errors": [{"code": "SomeCode", "message": "Some words.", "details": "d"}]}
        validator(call.model, answer["schema"]).validate(made_up)
        for body in (made_up, *bodies(answer)):
            [error] = body["errors"]
            with pytest.raises(ERRORS[int(status)], match=re.escape(f"{error['code']} {error['message']}")) as refused:
                await make(call, stack, exchange, answering, int(status), body)
            assert type(refused.value) is ERRORS[int(status)]
            assert call.plan.name in str(refused.value)
            told += 1
    assert told >= 8


@pytest.mark.parametrize("name", CALLS)
async def test_what_is_sent_is_as_the_model_asks(stack: Stack, exchange: Exchange, answering: Odd, name: str) -> None:
    call = CALLS[name]
    path, method, described = operation_of(call)
    status, body = next(successes(described))
    await make(call, stack, exchange, answering, status, body)
    [request] = exchange.sent
    assert (request.method, request.headers["x-amz-access-token"][:5]) == (method.upper(), "Atza|")
    assert re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", path), request.url.path)
    known = {parameter["name"]: parameter for parameter in described["parameters"]}
    required = {each for each, parameter in known.items() if parameter["in"] == "query" and parameter["required"]}
    query = request.url.params.multi_items()
    assert required <= {each for each, _ in query}
    assert len(dict(query)) == len(query)
    for each, value in query:
        assert known[each]["in"] == "query"
        assert_valid(call.model, known[each], value)
    for parameter in known.values():
        if parameter["in"] == "body":
            assert request.headers["content-type"] == "application/json"
            validator(call.model, parameter["schema"]).validate(msgspec.json.decode(request.content))
            break
    else:
        assert request.content == b""


def assert_valid(name: str, parameter: Json, value: str) -> None:
    """As Swagger 2 has parameters: a schema beside name and place, a list with commas."""
    parsed = {"array": value.split(","), "integer": int(value) if value.isdecimal() else value}
    schema: Json = {
        word: parameter[word] for word in ("type", "format", "items", "maxItems", "enum") if word in parameter
    }
    validator(name, schema).validate(parsed.get(schema["type"], value))


@pytest.mark.parametrize("name", CALLS)
def test_what_is_read_is_in_the_model_and_nothing_is_asked_for_that_may_be_left_out(name: str) -> None:
    call = CALLS[name]
    responses = operation_of(call)[2]["responses"]
    [schema] = [answer["schema"] for status, answer in responses.items() if status.startswith("2")]
    assert assert_readable(call.model, inspect.type_info(call.answer), schema) > 0


JSON_TYPES = {
    inspect.StrType: ("string", None),
    inspect.DateTimeType: ("string", "date-time"),
    inspect.DecimalType: ("string", None),
    inspect.IntType: ("integer", None),
    inspect.BoolType: ("boolean", None),
    inspect.DictType: ("object", None),
}


def assert_readable(name: str, ours: inspect.Type, theirs: Json) -> int:
    """How many fields were compared."""
    if "$ref" in theirs:
        theirs = model(name)["definitions"][theirs["$ref"].rpartition("/")[2]]
    if isinstance(ours, inspect.UnionType):
        [ours] = [each for each in ours.types if not isinstance(each, inspect.NoneType)]
    if isinstance(ours, inspect.StructType):
        for field in ours.fields:
            assert field.encode_name in theirs["properties"]
            if field.required:
                assert field.encode_name in theirs["required"]
        return sum(
            1 + assert_readable(name, field.type, theirs["properties"][field.encode_name]) for field in ours.fields
        )
    if isinstance(ours, inspect.ListType):
        assert theirs["type"] == "array"
        return assert_readable(name, ours.item_type, theirs["items"])
    type_, format_ = JSON_TYPES[type(ours)]
    assert theirs["type"] == type_
    assert format_ in (None, theirs.get("format"))
    return 0


@pytest.mark.parametrize("name", CALLS)
def test_the_usage_plans_are_the_published_ones(name: str) -> None:
    call = CALLS[name]
    row = re.search(r"\| ([0-9.]+) \| ([0-9]+) \|", operation_of(call)[2]["description"])
    assert row is not None
    assert (call.plan.rate, call.plan.burst) == (float(row[1]), int(row[2]))


def test_no_operation_is_left_out() -> None:
    modules = [importlib.import_module(f"shared.amazon.{each.name}") for each in pkgutil.iter_modules(amazon.__path__)]
    plans = {plan for module in modules for plan in vars(module).values() if isinstance(plan, Operation)}
    assert plans == {call.plan for call in CALLS.values()}
