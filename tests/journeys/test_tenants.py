"""A tenant's whole life over real processes, told by events, by nobody, and through a kill."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from devstack.outside import Outside, eventually
from devstack.stack import Stack

TENANT = "kbz-002"
MANY = 60_000


@pytest.fixture(scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    folder: Path = tmp_path_factory.mktemp("running") / "state"
    async with Stack(folder, settings={"RECONCILE_SECONDS": "3"}, restart=False) as stack:
        yield stack


@pytest.fixture
async def product(running: Stack) -> AsyncIterator[Any]:
    conn = await asyncpg.connect(running.endpoints.postgres.dsns["product"])
    yield conn
    await conn.close()


async def seen(outside: Outside, **wanted: Any) -> dict[str, Any]:
    """The tenant as the marketplace side has it, once it is as wanted."""

    async def probe() -> dict[str, Any]:
        answer = await outside.ask("tenant-sync", "GET", f"/api/v1/tenants/status/{TENANT}")
        return dict(answer.json())

    def as_wanted(status: dict[str, Any]) -> bool:
        ours = status.get("marketplace", {})
        return all(ours.get(field) == value for field, value in wanted.items())

    return await eventually(f"the tenant with {wanted}", probe, as_wanted)


async def test_an_event_without_headers_copies_updates_archives_and_restores(outside: Outside, product: Any) -> None:
    await outside.publish("tenant.created", {"tenantId": TENANT})
    await seen(outside, exists=True, status="ACTIVE")
    await outside.connect(TENANT)
    await eventually("tickets", lambda: outside.tickets(TENANT), lambda tickets: len(tickets) == 3)

    await product.execute("UPDATE tenants SET plan = 'enterprise', updated_at = now() WHERE id = $1", TENANT)
    await outside.publish("tenant.updated", {"tenantId": TENANT})
    await seen(outside, plan="ENTERPRISE")

    await product.execute("UPDATE tenants SET status = 'archived', updated_at = now() WHERE id = $1", TENANT)
    await outside.publish("tenant.archived", {"tenantId": TENANT})
    status = await seen(outside, status="ARCHIVED")
    assert {address["status"] for address in status["inboundAddresses"]} == {"DISABLED"}
    assert len(status["inboundAddresses"]) == 4  # FR, and those of the seller's marketplaces DE, ES, IT

    async def refused() -> tuple[int, int]:
        run = await outside.ask("poller", "POST", "/api/v1/poller/run", tenant=TENANT)
        backfill = await outside.ask("orders", "POST", "/api/v1/orders/backfill", tenant=TENANT, json={"days": 1})
        return run.status_code, backfill.status_code

    await eventually("the others stopping", refused, lambda statuses: statuses == (404, 409))

    await product.execute("UPDATE tenants SET status = 'active', updated_at = now() WHERE id = $1", TENANT)
    await outside.publish("tenant.updated", {"tenantId": TENANT})
    status = await seen(outside, status="ACTIVE")
    assert {address["status"] for address in status["inboundAddresses"]} == {"PENDING"}
    assert (await outside.connection(TENANT))["status"] == "DISCONNECTED"  # the archive destroyed the credentials
    assert (await outside.connect(TENANT)).is_success

    async def polled() -> int:
        return (await outside.ask("poller", "POST", "/api/v1/poller/run", tenant=TENANT)).status_code

    await eventually("the poller going on", polled, lambda status: status == 200)


async def test_what_no_event_told_is_found_and_a_deleted_tenant_is_archived(outside: Outside, product: Any) -> None:
    await product.execute("UPDATE tenants SET name = 'Renamed', updated_at = now() WHERE id = $1", TENANT)
    await seen(outside, name="Renamed")
    await product.execute("DELETE FROM tenants WHERE id = $1", TENANT)

    async def archived() -> str | None:
        rows = await outside._fetch(f"SELECT status FROM tenant_sync.tenants WHERE id = '{TENANT}'")  # noqa: S608
        return str(rows[0]["status"]) if rows else None

    await eventually("the deleted tenant archived", archived, lambda status: status == "ARCHIVED")
    answer = await outside.ask("tenant-sync", "GET", f"/api/v1/tenants/status/{TENANT}")
    assert answer.status_code == 404


async def test_a_killed_sync_of_all_goes_on_where_it_was(running: Stack, outside: Outside, product: Any) -> None:
    await running.stop("tenant-sync")
    await product.execute(
        "INSERT INTO tenants (id, name, plan, status) SELECT 'many-' || n, 'Tenant ' || n, 'pro', 'active'"
        " FROM generate_series(1, $1::int) n",
        MANY,
    )
    total = await product.fetchval("SELECT count(*) FROM tenants")
    await running.start("tenant-sync", {"RECONCILE_SECONDS": "3600"})
    path = "/api/v1/tenants/sync-all"
    asking = asyncio.create_task(outside.ask("tenant-sync", "POST", path))

    async def progress() -> int:
        answer = await outside.ask("tenant-sync", "GET", path)
        run = answer.json()
        return int(run["created"]) if run.get("state") == "RUNNING" else 0

    stored = await eventually("a page of the sync", progress)
    await running.kill("tenant-sync")
    with pytest.raises(httpx.TransportError):
        await asking
    assert 0 < stored < MANY
    await running.start("tenant-sync", {"RECONCILE_SECONDS": "3600"})

    answer = await outside.ask("tenant-sync", "POST", path)
    assert answer.status_code == 200, answer.text
    counts = answer.json()["counts"]
    assert counts["created"] == MANY
    assert counts["created"] + counts["updated"] - counts["archived"] + counts["skipped"] == total
    assert counts["errors"] == 0
    again = (await outside.ask("tenant-sync", "POST", path)).json()["counts"]
    assert (again["created"], again["updated"], again["skipped"]) == (0, 0, total)
