"""Every answer other than success is problem details, and every route but the public ones asks who calls."""

import importlib
from collections.abc import AsyncIterator
from typing import Annotated, Any
from uuid import UUID

import httpx
import msgspec
import pytest
from litestar import Litestar, get, post
from litestar.di import NamedDependency
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery, JSONBody
from msgspec import Meta, Struct

from shared import asyncapi, web
from shared.auth import Keys
from shared.errors import NotFoundError, PermanentError, RetryLaterError, UnauthorizedError, UnavailableError
from shared.topology import SERVICES, published_by

KEYS = Keys("the-internal-key", "the-jwt-secret-of-32-or-more-bytes", dev_mode=False)
INSIDE = {"X-Internal-Key": "the-internal-key", "X-Tenant-Id": "kbz-001"}


class Thing(Struct, forbid_unknown_fields=True, rename="camel"):
    how_many: Annotated[int, Meta(ge=1)]
    name: str = ""


@post("/things")
async def make_thing(data: JSONBody[Thing]) -> Thing:
    return data


@get("/things")
async def list_things(limit: FromQuery[int] = 10) -> int:
    return limit


@get("/fails/{how:str}")
async def fail(how: FromPath[str]) -> None:
    errors: dict[str, Exception] = {
        "permanent": PermanentError("The thing is wrong.", field="thing"),
        "missing": NotFoundError("There is no such thing."),
        "unauthorized": UnauthorizedError("Who are you?"),
        "later": RetryLaterError("Come back.", delay_seconds=42.4),
        "unavailable": UnavailableError("The server is away."),
        "soon": RetryLaterError("Come back.", delay_seconds=0.001),
        "bug": ZeroDivisionError("the-secret-of-a-bug"),
    }
    raise errors[how]


@get("/tenant")
async def my_tenant(tenant_id: NamedDependency[str], given: NamedDependency[str]) -> dict[str, str]:
    return {"tenantId": tenant_id, "given": given}


class Checks:
    def __init__(self) -> None:
        self.missing: str | None = None
        self.broken = False

    async def __call__(self) -> str | None:
        if self.broken:
            raise ZeroDivisionError
        return self.missing


def app_of(keys: Keys, checks: Checks | None = None) -> Litestar:
    return web.create_app(
        "orders",
        [make_thing, list_things, fail, my_tenant],
        keys=keys,
        dependencies={"given": "a dependency"},
        checks={"database": checks} if checks else {},
        asyncapi=asyncapi.document("orders", published_by("orders"), []),
    )


def client_of(app: Litestar, headers: dict[str, str] | None = None) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type] # Litestar types its scopes more narrowly
    return httpx.AsyncClient(transport=transport, base_url="http://service", headers=headers)


@pytest.fixture
def checks() -> Checks:
    return Checks()


@pytest.fixture
async def http(checks: Checks) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app_of(KEYS, checks), INSIDE) as client:
        yield client


def problem_of(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The answer's problem details, which have to be complete."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    found: dict[str, Any] = answer.json()
    assert (found["status"], found["code"]) == (status, code)
    assert found["title"]
    assert found["detail"]
    return found


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"howMany": "three"}, "howMany"),
        ({"howMany": 0}, "howMany"),
        ({"howMany": None}, "howMany"),
        ({"howMany": 1, "name": 7}, "name"),
        ({}, "howMany"),
        ({"howMany": 1, "other": 1}, "other"),
        ([], "body"),
        (7, "body"),
    ],
)
async def test_a_body_that_is_not_as_it_should_be_names_the_field(
    http: httpx.AsyncClient, body: object, field: str
) -> None:
    found = problem_of(await http.post("/things", json=body), 400, "invalid_request")
    assert [each["field"] for each in found["errors"]] == [field]
    assert field in found["detail"]


@pytest.mark.parametrize("body", [b"{", b"", b"\xff\xfe", b'{"howMany": 1', b"nonsense", b"\x00"])
async def test_a_body_that_is_no_json_is_refused_as_such(http: httpx.AsyncClient, body: bytes) -> None:
    answer = await http.post("/things", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    found = problem_of(answer, 400, answer.json()["code"])
    assert found["code"] in {"invalid_json", "invalid_request"}
    assert [each["field"] for each in found["errors"]] == ["body"]


async def test_a_query_parameter_of_the_wrong_type_is_named(http: httpx.AsyncClient) -> None:
    found = problem_of(await http.get("/things?limit=many"), 400, "invalid_request")
    assert [each["field"] for each in found["errors"]] == ["limit"]


async def test_an_unknown_path_and_a_wrong_method_are_problems_too(http: httpx.AsyncClient) -> None:
    problem_of(await http.get("/nothing/here"), 404, "not_found")
    refused = await http.delete("/things")
    problem_of(refused, 405, "method_not_allowed")
    assert "GET" in refused.headers["allow"]


async def test_a_body_larger_than_the_limit_is_refused(http: httpx.AsyncClient) -> None:
    answer = await http.post("/things", json={"howMany": 1, "name": "x" * (1 << 20)})
    assert answer.status_code == 413
    problem_of(answer, 413, answer.json()["code"])
    assert (await http.post("/things", json={"howMany": 1, "name": "x" * 1_000_000})).status_code == 201


async def test_a_permanent_error_tells_its_code_its_sentence_and_its_field(http: httpx.AsyncClient) -> None:
    found = problem_of(await http.get("/fails/permanent"), 400, "invalid")
    assert found["detail"] == "The thing is wrong."
    assert found["errors"] == [{"field": "thing", "message": "The thing is wrong."}]
    assert "errors" not in problem_of(await http.get("/fails/missing"), 404, "not_found")


async def test_an_unauthorized_answer_says_how_to_authenticate(http: httpx.AsyncClient) -> None:
    answer = await http.get("/fails/unauthorized")
    problem_of(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("how", "code", "after"),
    [("later", "try_again_later", "43"), ("soon", "try_again_later", "1"), ("unavailable", "unavailable", "5")],
)
async def test_an_error_that_time_may_cure_says_when_to_come_back(
    http: httpx.AsyncClient, how: str, code: str, after: str
) -> None:
    answer = await http.get(f"/fails/{how}")
    problem_of(answer, 503, code)
    assert answer.headers["retry-after"] == after


async def test_a_bug_is_a_500_without_its_text(http: httpx.AsyncClient) -> None:
    answer = await http.get("/fails/bug")
    problem_of(answer, 500, "internal_error")
    assert "the-secret-of-a-bug" not in answer.text
    assert "ZeroDivision" not in answer.text
    assert "Traceback" not in answer.text


async def test_a_dependency_reaches_a_route_by_its_name(http: httpx.AsyncClient) -> None:
    assert (await http.get("/tenant")).json() == {"tenantId": "kbz-001", "given": "a dependency"}


async def test_readiness_says_what_is_missing_and_when_nothing_is(http: httpx.AsyncClient, checks: Checks) -> None:
    assert (await http.get("/readyz")).json() == {"status": "ok", "missing": {}}
    checks.missing = "PostgreSQL does not answer."
    answer = await http.get("/readyz")
    assert answer.status_code == 503
    assert answer.json() == {"status": "unavailable", "missing": {"database": "PostgreSQL does not answer."}}


async def test_a_check_that_fails_itself_leaves_the_service_unready_and_alive(
    http: httpx.AsyncClient, checks: Checks
) -> None:
    checks.broken = True
    problem_of(await http.get("/readyz"), 500, "internal_error")
    assert (await http.get("/livez")).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz", "/metrics", "/asyncapi.json", "/schema/openapi.json"])
async def test_what_operators_look_at_needs_no_credentials(path: str) -> None:
    async with client_of(app_of(KEYS)) as client:
        assert (await client.get(path)).status_code == 200


async def test_the_metrics_are_in_the_form_that_prometheus_reads(http: httpx.AsyncClient) -> None:
    answer = await http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert "# TYPE events_published_total counter" in answer.text


async def test_the_events_are_told_as_asyncapi(http: httpx.AsyncClient) -> None:
    answer = await http.get("/asyncapi.json")
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.json()["operations"]["send_order_stored"]


def routes_of(service: str) -> list[Any]:
    found: list[Any] = importlib.import_module(f"{service.replace('-', '_')}.routes").ROUTES
    return found


NIL = UUID(int=0)
PUBLIC = {"/health", "/livez", "/readyz", "/metrics", "/asyncapi.json"}
PUBLIC_OF_OAUTH = {
    "/api/v1/marketplaces/amazon/oauth/callback",
    "/api/v1/marketplaces/amazon/oauth/login",
}


@pytest.mark.parametrize("service", SERVICES)
async def test_every_route_of_a_service_that_is_not_public_needs_credentials(service: str) -> None:
    app = web.create_app(
        service,
        routes_of(service),
        keys=KEYS,
        dependencies=dict.fromkeys(("pool", "outbox", "settings", "source", "product_pool", "parts", "keys", "looks")),
        checks={},
        asyncapi={},
    )
    asked = 0
    async with client_of(app) as client:
        for route in app.routes:
            for handler in getattr(route, "route_handlers", []):
                path = msgspec.convert(route.path, str)
                if not isinstance(handler, HTTPRouteHandler) or path.startswith("/schema"):
                    continue
                if handler.opt.get("public"):
                    assert path in PUBLIC | (PUBLIC_OF_OAUTH if service == "oauth" else set()), path
                    continue
                for method in handler.http_methods - {"OPTIONS", "HEAD"}:
                    concrete = "/".join(str(NIL) if part.startswith("{") else part for part in path.split("/"))
                    answer = await client.request(method, concrete)
                    problem_of(answer, 401, "unauthorized")
                    asked += 1
    assert asked
