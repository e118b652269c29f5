"""Drift that no event told of is found by itself."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from prometheus_client import REGISTRY

from devstack.outside import eventually
from devstack.stack import Stack
from shared.db import open_pool
from shared.outbox import Outbox
from tenant_sync import queries, reconcile, sync
from tenant_sync.settings import TenantSyncSettings
from tests.builders import settings_of
from tests.tenant_sync.conftest import Databases


@pytest.fixture
def often(stack: Stack) -> TenantSyncSettings:
    return settings_of(TenantSyncSettings, stack, "tenant-sync", RECONCILE_SECONDS="1")


@contextlib.asynccontextmanager
async def reconciling(databases: Databases, outbox: Outbox, settings: TenantSyncSettings) -> AsyncIterator[None]:
    task = asyncio.create_task(reconcile.run(databases.product_pool, databases.pool, outbox, settings))
    try:
        yield
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def statuses(databases: Databases) -> dict[str, str]:
    rows = await databases.pool.fetch("SELECT id, status FROM tenants")
    return {row["id"]: row["status"] for row in rows}


def drift(kind: str) -> float | None:
    return REGISTRY.get_sample_value("tenants_drift", {"kind": kind})


async def test_drift_is_repaired_and_reported(
    databases: Databases, outbox: Outbox, settings: TenantSyncSettings, often: TenantSyncSettings
) -> None:
    await databases.product.execute("DELETE FROM tenants")
    for tenant_id in ("kept", "changed", "deleted"):
        await databases.put(tenant_id)
    await sync.sync_all(databases.product_pool, databases.pool, outbox, settings)
    await databases.put("changed", plan="starter")
    await databases.put("missing")
    await databases.product.execute("DELETE FROM tenants WHERE id = 'deleted'")
    async with reconciling(databases, outbox, often):
        wanted = {"kept": "ACTIVE", "changed": "ACTIVE", "missing": "ACTIVE", "deleted": "ARCHIVED"}
        await eventually("the drift repaired", lambda: statuses(databases), lambda found: found == wanted)

        async def reported() -> tuple[float | None, ...]:
            return drift("missing"), drift("different"), drift("deleted")

        await eventually("the drift reported", reported, lambda kinds: kinds == (1, 1, 1))
        await eventually("nothing more to report", reported, lambda kinds: kinds == (0, 0, 0))
    plan = await databases.pool.fetchval("SELECT plan FROM tenants WHERE id = 'changed'")
    assert plan == "STARTER"


async def test_the_first_time_is_one_interval_after_the_start(
    databases: Databases, outbox: Outbox, settings: TenantSyncSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever starts the service and asks for a sync is told what that sync did."""
    monkeypatch.setattr(reconcile, "LOOK_SECONDS", 0.02)
    async with reconciling(databases, outbox, settings):
        await asyncio.sleep(0.3)
    assert await queries.get_run(databases.pool) is None


async def test_the_interval_counts_from_the_last_sync_whoever_asked_for_it(
    databases: Databases, outbox: Outbox, settings: TenantSyncSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "LOOK_SECONDS", 0.02)
    await sync.sync_all(databases.product_pool, databases.pool, outbox, settings)
    asked = await queries.get_run(databases.pool)
    assert asked is not None
    async with reconciling(databases, outbox, settings):
        await asyncio.sleep(0.3)
        assert (latest := await queries.get_run(databases.pool)) is not None
        assert latest.id == asked.id
        await databases.pool.execute("UPDATE sync_runs SET finished_at = finished_at - interval '1 hour'")

        async def other() -> Any:
            run = await queries.get_run(databases.pool)
            return run is not None and run.id != asked.id

        await eventually("a run of its own", other)


async def test_a_sync_that_runs_already_is_left_alone(
    databases: Databases, outbox: Outbox, often: TenantSyncSettings
) -> None:
    async with databases.pool.acquire() as conn:
        assert await queries.try_lock_runs(conn)
        async with reconciling(databases, outbox, often):
            await asyncio.sleep(1.5)
        assert await queries.get_run(databases.pool) is None
        await queries.unlock_runs(conn)


async def test_a_product_database_that_is_away_is_an_error_of_the_loop_and_changes_nothing(
    databases: Databases, outbox: Outbox, often: TenantSyncSettings, settings: TenantSyncSettings, stack: Stack
) -> None:
    await sync.sync_all(databases.product_pool, databases.pool, outbox, settings)
    await databases.pool.execute("UPDATE sync_runs SET finished_at = finished_at - interval '1 hour'")
    before = await statuses(databases)
    away = await open_pool(stack.endpoints.postgres.dsns["product_reader"], "away", size=1)
    await away.close()
    with pytest.raises(asyncpg.InterfaceError):
        await reconcile.run(away, databases.pool, outbox, often)
    assert await statuses(databases) == before
    async with reconciling(databases, outbox, often):  # the guard begins the loop again

        async def done() -> bool:
            run = await queries.get_run(databases.pool)
            return run is not None and run.state == "COMPLETED" and run.skipped > 0

        await eventually("the run that was begun, finished", done)
