"""Bad input over HTTP: a clear answer that names the field, and nothing stored."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import jwt
import pytest

from devstack.outside import Outside, eventually

TENANT = "kbz-002"
EVERY_TABLE = (
    "SELECT schemaname || '.' || relname AS name, n_tup_ins + n_tup_upd + n_tup_del AS writes"
    " FROM pg_stat_user_tables WHERE schemaname IN ('oauth', 'poller', 'orders', 'tenant_sync')"
)


@pytest.fixture
async def nothing_is_stored(outside: Outside) -> AsyncIterator[None]:
    """Counts the rows of every table before and after the test."""
    conn = await asyncpg.connect(outside.endpoints.postgres.dsns["admin"].rsplit("/", 1)[0] + "/keybuzz_backend")
    tables = [row["name"] for row in await conn.fetch(EVERY_TABLE)]

    async def count() -> dict[str, Any]:
        return {
            table: await conn.fetchval(f"SELECT count(*) FROM {table}")  # noqa: S608 - names from the catalogue
            for table in tables
            if not table.endswith(("inbox", "outbox"))
        }

    before = await count()
    yield
    assert await count() == before
    await conn.close()


@pytest.mark.usefixtures("nothing_is_stored")
@pytest.mark.parametrize(
    ("service", "method", "path", "body", "field"),
    [
        ("tenant-sync", "POST", "/api/v1/tenants/sync", {}, "tenantId"),
        ("tenant-sync", "POST", "/api/v1/tenants/sync", {"tenantId": 5}, "tenantId"),
        ("tenant-sync", "POST", "/api/v1/tenants/sync", {"tenantId": "a/b"}, "tenantId"),
        ("tenant-sync", "POST", "/api/v1/tenants/sync", {"tenantId": "kbz-001", "country": "fr"}, "country"),
        ("tenant-sync", "POST", "/api/v1/tenants/sync", {"tenantId": "kbz-001", "contry": "FR"}, "contry"),
        ("orders", "POST", "/api/v1/orders/backfill", {"days": 0}, "days"),
        ("orders", "POST", "/api/v1/orders/backfill", {"days": "many"}, "days"),
        ("orders", "GET", "/api/v1/orders?limit=0", None, "limit"),
        ("orders", "GET", "/api/v1/orders?cursor=nonsense", None, "cursor"),
        ("poller", "GET", "/api/v1/tickets?status=LOST", None, "status"),
        ("poller", "GET", "/api/v1/tickets?limit=201", None, "limit"),
        ("oauth", "POST", "/api/v1/marketplaces/amazon/oauth/start", {"country": "XX"}, "country"),
    ],
)
async def test_a_wrong_field_is_named(
    outside: Outside, service: str, method: str, path: str, body: Any, field: str
) -> None:
    tenant = None if service == "tenant-sync" else TENANT
    answer = await outside.ask(service, method, path, tenant=tenant, json=body)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == 400
    assert field in [error["field"] for error in problem["errors"]]


@pytest.mark.usefixtures("nothing_is_stored")
async def test_a_tenant_that_the_product_does_not_have_is_not_found(outside: Outside) -> None:
    for method, path, body in (
        ("POST", "/api/v1/tenants/sync", {"tenantId": "nobody", "createInboundAddress": True}),
        ("GET", "/api/v1/tenants/status/nobody", None),
    ):
        answer = await outside.ask("tenant-sync", method, path, json=body)
        assert answer.status_code == 404
        assert answer.json()["code"] == "tenant_not_found"


@pytest.mark.usefixtures("nothing_is_stored")
@pytest.mark.parametrize("state", ["", "unknown-state", "x" * 2_000, "<script>alert(1)</script>"])
async def test_an_unknown_state_gives_a_page_that_says_what_to_do(outside: Outside, state: str) -> None:
    answer = await outside.http.get(
        f"{outside.endpoints.services['oauth']}/api/v1/marketplaces/amazon/oauth/callback",
        params={"state": state, "spapi_oauth_code": "code", "selling_partner_id": "A1"},
    )
    assert answer.status_code == 400
    assert answer.headers["content-type"].startswith("text/html")
    assert "click Connect to start again" in answer.text
    assert "<script>" not in answer.text


PROTECTED = [
    ("oauth", "POST", "/api/v1/marketplaces/amazon/oauth/start"),
    ("oauth", "GET", "/api/v1/marketplaces/amazon/status"),
    ("poller", "GET", "/api/v1/tickets"),
    ("poller", "POST", "/api/v1/poller/run"),
    ("orders", "GET", "/api/v1/orders"),
    ("orders", "POST", "/api/v1/orders/backfill"),
    ("tenant-sync", "POST", "/api/v1/tenants/sync-all"),
    ("tenant-sync", "GET", "/api/v1/tenants/status/kbz-001"),
]


@pytest.mark.usefixtures("nothing_is_stored")
@pytest.mark.parametrize(("service", "method", "path"), PROTECTED)
async def test_without_valid_credentials_nothing_is_answered(
    outside: Outside, service: str, method: str, path: str
) -> None:
    forged = jwt.encode(
        {"sub": "x", "role": "admin", "exp": 4_000_000_000}, "another secret that is long enough", "HS256"
    )
    for headers in (
        {},
        {"Authorization": f"Bearer {forged}"},
        {"X-Internal-Key": "wrong"},
        {"Authorization": "Basic x"},
    ):
        answer = await outside.http.request(method, outside.endpoints.services[service] + path, headers=headers)
        assert answer.status_code == 401
        assert answer.json()["code"] == "unauthorized"


async def test_another_tenants_data_is_not_found(outside: Outside) -> None:
    """Whatever is asked for by its id, or by naming the other tenant."""
    await outside.connect("ecomlg-001")
    services = outside.endpoints.services
    (order, *_) = await eventually("an order", lambda: outside.orders("ecomlg-001"))
    (ticket, *_) = await eventually("a ticket", lambda: outside.tickets("ecomlg-001"))
    headers = {"Authorization": f"Bearer {outside.endpoints.tokens.tenants[TENANT]}"}
    asked: list[httpx.Response] = [
        await outside.http.get(f"{services['orders']}/api/v1/orders/{order['id']}", headers=headers),
        await outside.http.get(f"{services['poller']}/api/v1/tickets/{ticket['id']}", headers=headers),
    ]
    headers |= {"X-Tenant-Id": "ecomlg-001"}
    asked += [
        await outside.http.request(method, services[service] + path, headers=headers)
        for service, method, path in PROTECTED
        if service != "tenant-sync"
    ]
    # The body of a POST backfill is checked first and would tell nothing of the tenant.
    statuses = {f"{answer.request.method} {answer.request.url.path}": answer.status_code for answer in asked}
    backfill = statuses.pop("POST /api/v1/orders/backfill")
    assert backfill in {400, 404}
    assert set(statuses.values()) == {404}
