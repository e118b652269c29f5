"""A tenant's life over real processes: changed, archived, deleted unseen, and thirty thousand at once under kill -9."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from devstack.outside import Outside, eventually
from devstack.stack import Stack

MANY = 30_000
SYNC_ALL = "/api/v1/tenants/sync-all"


@pytest.fixture(scope="module")
async def alone(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """tenant-sync alone: what it is told, and what it finds by itself when its test says how soon."""
    folder: Path = tmp_path_factory.mktemp("alone") / "state"
    async with Stack(folder, services=("tenant-sync",), restart=False) as stack:
        yield stack


@pytest.fixture
async def tenants(alone: Stack) -> AsyncIterator[Outside]:
    async with Outside(alone.endpoints) as system:
        yield system


@pytest.fixture
async def product(alone: Stack) -> AsyncIterator[asyncpg.Connection]:
    """The product's own hand on its tenants."""
    conn = await asyncpg.connect(alone.endpoints.postgres.dsns["product"])
    yield conn
    await conn.close()


@pytest.fixture
async def ours(alone: Stack) -> AsyncIterator[asyncpg.Connection]:
    conn = await asyncpg.connect(alone.endpoints.postgres.dsns["tenant_sync"])
    yield conn
    await conn.close()


async def synced(tenants: Outside, wanted: dict[str, Any]) -> None:
    """The last tenant.synced says what is wanted."""

    async def last() -> dict[str, Any]:
        return await tenants.last_event("tenant.synced") or {}

    await eventually(f"tenant.synced with {wanted}", last, lambda event: wanted.items() <= event.items())


async def test_plain_bodies_tell_of_a_tenants_whole_life(tenants: Outside, product: asyncpg.Connection) -> None:
    await tenants.publish("tenant.created", b'{"tenantId":"kbz-003"}')
    await synced(tenants, {"tenantId": "kbz-003", "status": "ACTIVE"})
    (first,) = (await tenants.last_event("tenant.synced") or {})["inboundAddresses"]
    for subject, name, status, ours in (
        ("tenant.updated", "Renamed", "active", "PENDING"),
        ("tenant.archived", "Renamed", "archived", "DISABLED"),
        ("tenant.updated", "Renamed", "active", "PENDING"),
    ):
        await product.execute(
            "UPDATE tenants SET name = $1, status = $2, updated_at = clock_timestamp() WHERE id = 'kbz-003'",
            *(name, status),
        )
        await tenants.publish(subject, b'{"tenantId":"kbz-003"}')
        await synced(
            tenants,
            {
                "tenantId": "kbz-003",
                "name": name,
                "status": status.upper(),
                "inboundAddresses": [first | {"status": ours}],
            },
        )
    answer = (await tenants.ask("tenant-sync", "GET", "/api/v1/tenants/status/kbz-003")).json()
    assert answer["inSync"] is True
    assert answer["inboundAddresses"] == [first]


async def test_what_no_event_told_of_is_found_by_the_reconciler(
    alone: Stack, tenants: Outside, product: asyncpg.Connection
) -> None:
    await tenants.publish("tenant.created", {"tenantId": "kbz-004"})
    await synced(tenants, {"tenantId": "kbz-004"})
    await alone.stop("tenant-sync")
    await product.execute("DELETE FROM tenants WHERE id = 'kbz-004'")
    await alone.start("tenant-sync", {"RECONCILE_SECONDS": "1"})
    await synced(tenants, {"tenantId": "kbz-004", "status": "ARCHIVED"})
    event = await tenants.last_event("tenant.synced") or {}
    assert [address["status"] for address in event["inboundAddresses"]] == ["DISABLED"]
    metrics = (await tenants.http.get(f"{alone.endpoints.services['tenant-sync']}/metrics")).text
    assert 'tenants_drift{kind="deleted"}' in metrics
    await alone.stop("tenant-sync")
    await alone.start("tenant-sync")


async def test_a_sync_of_thirty_thousand_that_is_killed_is_finished_by_the_next_without_losing_or_doubling(
    alone: Stack, tenants: Outside, product: asyncpg.Connection, ours: asyncpg.Connection
) -> None:
    await ours.execute("DELETE FROM sync_runs")
    already = await ours.fetchval("SELECT count(*) FROM tenants WHERE deleted_at IS NULL")
    known = await product.fetchval("SELECT count(*) FROM tenants")
    await product.execute(
        "INSERT INTO tenants (id, name, plan, status)"
        " SELECT 'life-' || lpad(n::text, 5, '0'), 'Tenant ' || n, 'pro', 'active' FROM generate_series(1, $1::int) n",
        MANY,
    )

    async def run() -> dict[str, Any]:
        return dict((await tenants.ask("tenant-sync", "GET", SYNC_ALL)).json())

    held = ours.transaction()
    await held.start()
    # Another's hand on a tenant of the last page: the run stands there until it is killed.
    await ours.execute(
        "INSERT INTO tenants (id, name, plan, status, product_updated_at) VALUES ($1, '', '', '', now())",
        f"life-{MANY - 1}",
    )
    asking = asyncio.create_task(tenants.ask("tenant-sync", "POST", SYNC_ALL))
    halfway = await eventually("pages of the run", run, lambda run: run.get("created", 0) > MANY // 2)
    await alone.kill("tenant-sync")
    with pytest.raises(httpx.TransportError):
        await asking
    await held.rollback()
    assert (halfway["state"], halfway["finishedAt"]) == ("RUNNING", None)
    assert halfway["created"] < MANY
    assert await ours.fetchval("SELECT created FROM sync_runs") == halfway["created"]
    await alone.start("tenant-sync")

    async def free() -> httpx.Response:
        return await tenants.ask("tenant-sync", "POST", SYNC_ALL)

    # The server may need a moment to see that the session that held the lock is dead.
    answer = (await eventually("the lock", free, lambda answer: answer.status_code != 409)).json()
    assert answer["counts"] == {
        "created": MANY + known - already,
        "updated": 0,
        "archived": 0,
        "skipped": already,
        "errors": 0,
    }
    assert answer["total"] == MANY + known
    assert len(answer["results"]["created"]) == 1_000
    done = await run()
    assert (done["id"], done["state"], done["created"]) == (halfway["id"], "COMPLETED", MANY + known - already)
    assert await ours.fetchval("SELECT count(*) FROM inbound_addresses WHERE tenant_id LIKE 'life-%'") == MANY
    told = await ours.fetchval("SELECT count(*) FROM outbox WHERE key LIKE 'life-%'")
    assert told == await ours.fetchval("SELECT count(DISTINCT key) FROM outbox WHERE key LIKE 'life-%'") == MANY
    again = (await tenants.ask("tenant-sync", "POST", SYNC_ALL)).json()
    assert again["counts"]["skipped"] == MANY + known
