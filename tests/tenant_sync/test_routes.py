"""The routes of tenant-sync, with the shapes that the product app and its operators know."""

import re
from typing import Any

import httpx
import pytest

from devstack.stack import Stack
from shared.outbox import Outbox
from tenant_sync import queries, sync
from tenant_sync.routes import ROUTES
from tenant_sync.settings import TenantSyncSettings
from tests.builders import agent, connected, internal, serving, settings_of
from tests.conftest import Told
from tests.tenant_sync.conftest import Databases, Service

STORY = ["ecomlg-001", "kbz-001", "kbz-002", "kbz-003", "kbz-004", "tenant_test_dev"]
SYNC, SYNC_ALL, STATUS = "/api/v1/tenants/sync", "/api/v1/tenants/sync-all", "/api/v1/tenants/status"


@pytest.fixture
def product(http: httpx.AsyncClient, stack: Stack) -> httpx.AsyncClient:
    """The product's server, with the key."""
    http.headers.update(internal(stack))
    return http


async def count(databases: Databases) -> int:
    return int(
        await databases.pool.fetchval(
            "SELECT (SELECT count(*) FROM tenants) + (SELECT count(*) FROM inbound_addresses)"
            " + (SELECT count(*) FROM outbox)"
        )
    )


async def test_sync_answers_the_shape_in_use(product: httpx.AsyncClient) -> None:
    answer = await product.post(SYNC, json={"tenantId": "ecomlg-001", "createInboundAddress": True, "country": "FR"})
    assert answer.status_code == 200
    body = answer.json()
    address = body.pop("inboundAddress")
    assert body == {
        "success": True,
        "tenant": {"id": "ecomlg-001", "name": "eComLG", "plan": "PRO", "status": "ACTIVE"},
    }
    assert re.fullmatch(r"amazon\.ecomlg-001\.fr\.[a-z0-9]{6}@inbound\.keybuzz\.io", address)


async def test_sync_twice_gives_the_same_address_and_another_country_another_one(
    product: httpx.AsyncClient, databases: Databases, told: Told
) -> None:
    def wanted(country: str) -> dict[str, Any]:
        return {"tenantId": "kbz-001", "createInboundAddress": True, "country": country}

    first, again, german = [(await product.post(SYNC, json=wanted(country))).json() for country in ("FR", "FR", "DE")]
    assert first["inboundAddress"] == again["inboundAddress"]
    assert german["inboundAddress"].startswith("amazon.kbz-001.de.")
    assert [len(body["inboundAddresses"]) for _, body in await told(databases.pool)] == [1, 2]


async def test_sync_makes_no_address_unless_it_is_asked_to(product: httpx.AsyncClient, databases: Databases) -> None:
    answer = await product.post(SYNC, json={"tenantId": "kbz-001"})
    assert answer.json()["inboundAddress"] is None
    assert await databases.pool.fetchval("SELECT count(*) FROM inbound_addresses") == 0


async def test_sync_takes_the_default_country_when_none_is_named(product: httpx.AsyncClient) -> None:
    answer = await product.post(SYNC, json={"tenantId": "kbz-001", "createInboundAddress": True})
    assert answer.json()["inboundAddress"].startswith("amazon.kbz-001.fr.")


async def test_a_country_that_is_not_two_capital_letters_is_refused_and_named(
    product: httpx.AsyncClient, databases: Databases
) -> None:
    for country in ("fr", "FRA", "F", "", "F1", "FR\n"):
        wanted = {"tenantId": "kbz-001", "createInboundAddress": True, "country": country}
        answer = await product.post(SYNC, json=wanted)
        assert answer.status_code == 400, country
        assert [error["field"] for error in answer.json()["errors"]] == ["country"], country
    assert await count(databases) == 0


async def test_sync_of_an_unknown_tenant_is_404_and_stores_nothing(
    product: httpx.AsyncClient, databases: Databases
) -> None:
    answer = await product.post(SYNC, json={"tenantId": "nobody", "createInboundAddress": True, "country": "FR"})
    assert (answer.status_code, answer.json()["code"]) == (404, "tenant_not_found")
    assert answer.headers["content-type"] == "application/problem+json"
    assert await count(databases) == 0


async def test_a_request_that_is_not_as_it_should_be_names_the_field(product: httpx.AsyncClient) -> None:
    cases: list[tuple[dict[str, object], str]] = [
        ({}, "tenantId"),
        ({"tenantId": "../app"}, "tenantId"),
        ({"tenantId": "kbz-001", "createInboundAddress": "yes"}, "createInboundAddress"),
        ({"tenantId": "kbz-001", "contry": "FR"}, "contry"),
    ]
    for body, field in cases:
        answer = await product.post(SYNC, json=body)
        assert answer.status_code == 400, body
        assert [error["field"] for error in answer.json()["errors"]] == [field], body


async def test_sync_all_creates_updates_and_skips_and_says_which(
    product: httpx.AsyncClient, databases: Databases, told: Told
) -> None:
    for tenant_id in ("kbz-001", "kbz-002", "ecomlg-001", "tenant_test_dev"):
        await product.post(SYNC, json={"tenantId": tenant_id})
    await databases.put("kbz-002", name="Nordic Garden", plan="pro")
    before = len(await told(databases.pool))
    answer = await product.post(SYNC_ALL)
    assert answer.status_code == 200
    assert answer.json() == {
        "success": True,
        "total": 6,
        "results": {
            "created": ["kbz-003", "kbz-004"],
            "updated": ["kbz-002"],
            "skipped": ["ecomlg-001", "kbz-001", "tenant_test_dev"],
            "errors": [],
        },
        "counts": {"created": 2, "updated": 1, "archived": 0, "skipped": 3, "errors": 0},
    }
    after = [body for _, body in (await told(databases.pool))[before:]]
    # Those that were synced without an address have one now.
    assert sorted(body["tenantId"] for body in after) == STORY
    assert {len(body["inboundAddresses"]) for body in after} == {1}


async def test_sync_all_again_skips_all_and_announces_nothing(
    product: httpx.AsyncClient, databases: Databases, told: Told
) -> None:
    await product.post(SYNC_ALL)
    assert len(await told(databases.pool)) == 6
    answer = await product.post(SYNC_ALL)
    assert answer.json()["results"] == {"created": [], "updated": [], "skipped": STORY, "errors": []}
    assert len(await told(databases.pool)) == 6


async def test_sync_all_goes_through_every_page(
    product: httpx.AsyncClient, databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    await databases.product.execute(
        "INSERT INTO tenants (id, name, plan, status)"
        " SELECT 'Many-' || n, 'Tenant ' || n, 'pro', 'active' FROM generate_series(1, 250) n"
    )
    monkeypatch.setattr(sync, "PAGE", 100)
    body = (await product.post(SYNC_ALL)).json()
    assert body["total"] == 256
    assert sorted(body["results"]["created"]) == sorted(STORY + [f"Many-{number}" for number in range(1, 251)])
    assert await databases.pool.fetchval("SELECT count(*) FROM tenants") == 256
    assert await databases.pool.fetchval("SELECT count(*) FROM outbox") == 256
    assert len((await product.post(SYNC_ALL)).json()["results"]["skipped"]) == 256


async def test_a_dry_run_of_one_tenant_says_what_would_be_and_stores_nothing(
    product: httpx.AsyncClient, databases: Databases
) -> None:
    wanted = {"tenantId": "kbz-001", "createInboundAddress": True, "country": "DE"}
    before = await databases.dump()
    dry = (await product.post(SYNC, params={"dryRun": "true"}, json=wanted)).json()
    assert await databases.dump() == before
    assert dry.pop("dryRun") is True
    assert dry.pop("inboundAddress") is None  # it is drawn by lot when it is made
    real = (await product.post(SYNC, params={"dryRun": "false"}, json=wanted)).json()
    address = real.pop("inboundAddress")
    assert dry == real
    await databases.put("kbz-001", name="Another", status="archived")
    before = await databases.dump()
    dry = (await product.post(SYNC, params={"dryRun": "true"}, json=wanted)).json()
    assert (dry["tenant"]["name"], dry["tenant"]["status"]) == ("Another", "ARCHIVED")
    assert dry["inboundAddress"] == address
    assert await databases.dump() == before


async def test_a_dry_run_of_all_tenants_says_so_and_stores_nothing(
    product: httpx.AsyncClient, databases: Databases
) -> None:
    before = await databases.dump()
    dry = (await product.post(SYNC_ALL, params={"dryRun": "true"})).json()
    assert await databases.dump() == before
    assert dry.pop("dryRun") is True
    assert dry == (await product.post(SYNC_ALL)).json()
    assert dry["results"]["created"] == STORY


async def test_a_dry_run_that_is_neither_yes_nor_no_is_refused(
    product: httpx.AsyncClient, databases: Databases
) -> None:
    for path, body in ((SYNC_ALL, None), (SYNC, {"tenantId": "kbz-001"})):
        answer = await product.post(path, params={"dryRun": "perhaps"}, json=body)
        assert answer.status_code == 400
        assert [error["field"] for error in answer.json()["errors"]] == ["dryRun"]
    assert await count(databases) == 0


async def test_the_progress_of_a_sync_of_all_tells_what_it_has_done(
    product: httpx.AsyncClient, databases: Databases
) -> None:
    assert (await product.get(SYNC_ALL)).status_code == 404
    await product.post(SYNC_ALL, params={"dryRun": "true"})
    assert (await product.get(SYNC_ALL)).status_code == 404
    await product.post(SYNC_ALL)
    await databases.put("kbz-001", plan="another")
    await databases.remove("kbz-002")
    await product.post(SYNC_ALL)
    run = (await product.get(SYNC_ALL)).json()
    counts = {name: run[name] for name in ("created", "updated", "archived", "skipped", "errors")}
    assert counts == {"created": 0, "updated": 2, "archived": 1, "skipped": 4, "errors": 0}
    assert (run["state"], run["afterId"]) == ("COMPLETED", "tenant_test_dev")
    assert run["startedAt"] < run["finishedAt"]


async def test_a_second_sync_of_all_at_the_same_time_is_409_and_says_where_to_look(
    product: httpx.AsyncClient, databases: Databases
) -> None:
    async with databases.pool.acquire() as conn:
        assert await queries.try_lock_runs(conn)
        for dry in ("false", "true"):
            answer = await product.post(SYNC_ALL, params={"dryRun": dry})
            assert (answer.status_code, answer.json()["code"]) == (409, "sync_running")
            assert "GET /api/v1/tenants/sync-all" in answer.json()["detail"]
        assert await queries.unlock_runs(conn)
    assert (await product.post(SYNC_ALL)).status_code == 200


async def test_an_id_that_is_not_fit_makes_the_answer_no_success(
    product: httpx.AsyncClient, databases: Databases
) -> None:
    await databases.put("no/id")
    body = (await product.post(SYNC_ALL)).json()
    assert (body["success"], body["total"], body["results"]["errors"]) == (False, 7, ["no/id"])
    assert body["results"]["created"] == STORY


async def test_a_tenant_that_the_product_has_deleted_is_404_and_stays_as_it_is(
    product: httpx.AsyncClient, databases: Databases
) -> None:
    await product.post(SYNC_ALL)
    await databases.remove("kbz-001")
    before = await databases.dump()
    assert (await product.post(SYNC, json={"tenantId": "kbz-001"})).status_code == 404
    assert (await product.get(f"{STATUS}/kbz-001")).status_code == 404
    assert await databases.dump() == before


async def test_status_shows_what_the_product_leaves_empty(product: httpx.AsyncClient, databases: Databases) -> None:
    await databases.product.execute("ALTER TABLE tenants ALTER plan DROP NOT NULL, ALTER status DROP NOT NULL")
    await databases.product.execute("UPDATE tenants SET plan = NULL, status = NULL WHERE id = 'kbz-001'")
    answer = await product.post(SYNC, json={"tenantId": "kbz-001"})
    assert answer.json()["tenant"] == {"id": "kbz-001", "name": "Atelier Lumen", "plan": "", "status": ""}
    status = (await product.get(f"{STATUS}/kbz-001")).json()
    assert status["inSync"] is True
    assert status["product"] == {"exists": True, "name": "Atelier Lumen"}


async def test_status_answers_the_shape_in_use(product: httpx.AsyncClient, service: Service) -> None:
    wanted = {"tenantId": "ecomlg-001", "createInboundAddress": True, "country": "FR"}
    address = (await product.post(SYNC, json=wanted)).json()["inboundAddress"]
    answer = await product.get(f"{STATUS}/ecomlg-001")
    expected = {
        "tenantId": "ecomlg-001",
        "product": {"exists": True, "name": "eComLG", "plan": "pro", "status": "active"},
        "marketplace": {"exists": True, "name": "eComLG", "plan": "PRO", "status": "ACTIVE"},
        "inSync": True,
        "inboundAddresses": [{"marketplace": "AMAZON", "country": "FR", "email": address, "status": "PENDING"}],
        "marketplaceConnections": [],
    }
    assert (answer.status_code, answer.json()) == (200, expected)
    event = connected(tenant_id="ecomlg-001", seller_id="ASELLER")
    await service.hear(event)
    assert (await product.get(f"{STATUS}/ecomlg-001")).json()["marketplaceConnections"] == [
        {
            "marketplace": "AMAZON",
            "connectionId": str(event.connection_id),
            "sellerId": "ASELLER",
            "status": "CONNECTED",
        }
    ]


async def test_status_says_when_the_two_databases_differ(product: httpx.AsyncClient, databases: Databases) -> None:
    absent = (await product.get(f"{STATUS}/kbz-001")).json()
    assert (absent["marketplace"], absent["inSync"]) == ({"exists": False}, False)
    await product.post(SYNC, json={"tenantId": "kbz-001"})
    assert (await product.get(f"{STATUS}/kbz-001")).json()["inSync"] is True
    await databases.put("kbz-001", name="Atelier Lumen", plan="pro")
    changed = (await product.get(f"{STATUS}/kbz-001")).json()
    assert (changed["product"]["plan"], changed["marketplace"]["plan"], changed["inSync"]) == ("pro", "STARTER", False)


async def test_status_of_an_unknown_tenant_is_404(product: httpx.AsyncClient) -> None:
    assert (await product.get(f"{STATUS}/nobody")).status_code == 404


async def test_without_the_key_nothing_is_answered(http: httpx.AsyncClient, databases: Databases) -> None:
    wrong: list[dict[str, str]] = [
        {},
        {"X-Internal-Key": "wrong"},
        {"X-Internal-Key": ""},
        {"X-Internal-Key": "wrong", "X-Tenant-Id": "kbz-001"},
    ]
    for headers in wrong:
        answers = [
            await http.post(SYNC, json={"tenantId": "kbz-001"}, headers=headers),
            await http.post(SYNC_ALL, headers=headers),
            await http.get(SYNC_ALL, headers=headers),
            await http.get(f"{STATUS}/kbz-001", headers=headers),
        ]
        assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(401, "unauthorized")] * 4
    assert await count(databases) == 0


@pytest.mark.parametrize("knows_jwt_secret", [False, True])
async def test_a_token_of_the_product_is_not_enough_even_where_the_service_knows_its_secret(
    databases: Databases, outbox: Outbox, stack: Stack, knows_jwt_secret: bool
) -> None:
    secret = stack.endpoints.tokens.jwt_secret if knows_jwt_secret else ""
    settings = settings_of(TenantSyncSettings, stack, "tenant-sync", JWT_SECRET=secret)
    dependencies = {
        "pool": databases.pool,
        "product_pool": databases.product_pool,
        "outbox": outbox,
        "settings": settings,
    }
    async with serving("tenant-sync", ROUTES, settings, dependencies) as http:
        for role in ("agent", "admin"):
            token = agent(stack, "kbz-001", role)
            answers = [
                await http.post(SYNC, json={"tenantId": "kbz-001"}, headers=token),
                await http.post(SYNC_ALL, headers=token),
                await http.get(f"{STATUS}/kbz-001", headers=token),
            ]
            assert [answer.status_code for answer in answers] == [401, 401, 401], role
    assert await count(databases) == 0
