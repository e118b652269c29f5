"""The loop that finds what no event told of."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import asyncpg
import msgspec
import pytest

import shared.service
from devstack.outside import eventually
from devstack.stack import Stack
from shared.db import Pool
from shared.service import _forever
from shared.telemetry import LOOP_ERRORS
from tenant_sync import queries, reconcile, sync
from tests.tenant_sync.conftest import Databases, Service


def seconds(service: Service, reconcile_seconds: int) -> Service:
    settings = msgspec.structs.replace(service.settings, reconcile_seconds=reconcile_seconds)
    return Service(service.databases, service.outbox, settings)


@asynccontextmanager
async def looping(service: Service) -> AsyncIterator[None]:
    """The loop as the service runs it, guard and all."""
    databases = service.databases

    async def body() -> None:
        await reconcile.run(databases.product_pool, databases.pool, service.outbox, service.settings)

    task = asyncio.create_task(_forever("reconcile", body))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def drift() -> dict[str, float]:
    return {kind: sync.DRIFT.labels(kind)._value.get() for kind in ("missing", "different", "deleted")}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many bulk syncs the loop began."""
    working, begun = sync.sync_all, 0

    async def sync_all(*args: Any, **options: Any) -> Any:
        nonlocal begun
        begun += 1
        return await working(*args, **options)

    monkeypatch.setattr(sync, "sync_all", sync_all)
    return lambda: begun


async def test_drift_of_every_kind_is_repaired_and_counted(databases: Databases, service: Service) -> None:
    await service.sync_all()
    await databases.put("kbz-001", plan="free")
    await databases.put("kbz-002", name="Renamed")
    await databases.put("kbz-900")
    await databases.remove("kbz-003")

    async def repaired() -> bool:
        return drift() == {"missing": 1, "different": 2, "deleted": 1}

    async with looping(seconds(service, 1)):
        await eventually("the drift in the metric", repaired)
        ours = {row["id"]: (row["name"], row["plan"], row["status"]) for row in await databases.rows("tenants")}
        assert ours["kbz-001"][1] == "FREE"
        assert ours["kbz-002"][0] == "Renamed"
        assert ours["kbz-900"] == ("eComLG", "PRO", "ACTIVE")
        assert ours["kbz-003"][2] == "ARCHIVED"

        async def settled() -> bool:
            return drift() == {"missing": 0, "different": 0, "deleted": 0}

        await eventually("no drift in the round behind it", settled)


async def test_a_dry_run_leaves_the_metric_alone(databases: Databases, service: Service) -> None:
    await service.sync_all()
    before = drift()
    await databases.put("kbz-900")
    await service.sync_all(dry=True)
    assert drift() == before


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often the loop asked whether it is time; it asks often here."""
    working, asked = queries.last_finished_at, 0

    async def last_finished_at(pool: Pool) -> datetime | None:
        nonlocal asked
        asked += 1
        return await working(pool)

    monkeypatch.setattr(reconcile, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(queries, "last_finished_at", last_finished_at)
    return lambda: asked


async def five_looks_later(looks: Callable[[], int]) -> None:
    wanted = looks() + 5

    async def looked() -> int:
        return looks()

    await eventually("five looks", looked, lambda asked: asked >= wanted)


async def has_begun(runs: Callable[[], int], wanted: int) -> None:
    async def begun() -> int:
        return runs()

    await eventually(f"run {wanted}", begun, lambda number: number >= wanted)


@pytest.mark.usefixtures("databases")
async def test_the_first_interval_is_waited_for(
    service: Service, looks: Callable[[], int], runs: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with looping(seconds(service, 3600)):
        await five_looks_later(looks)
        assert runs() == 0
    monkeypatch.setattr(reconcile, "time", SimpleNamespace(time=lambda: time.time() - 3601))  # it began an hour ago
    async with looping(seconds(service, 3600)):
        await has_begun(runs, 1)


async def test_the_interval_counts_from_the_end_of_the_last_run_whoever_asked_for_it(
    databases: Databases, service: Service, looks: Callable[[], int], runs: Callable[[], int]
) -> None:
    await service.sync_all()
    before = runs()
    async with looping(seconds(service, 3600)):
        await databases.pool.execute("UPDATE sync_runs SET started_at = now() - interval '2 hours'")
        await five_looks_later(looks)
        assert runs() == before
        await databases.pool.execute("UPDATE sync_runs SET finished_at = now() - interval '3601 seconds'")
        await has_begun(runs, before + 1)
        await five_looks_later(looks)
        assert runs() == before + 1


async def test_another_run_is_left_alone_and_looked_for_again(
    databases: Databases, service: Service, looks: Callable[[], int], runs: Callable[[], int]
) -> None:
    async with databases.pool.acquire() as conn:
        assert await queries.try_lock_runs(conn)
        await databases.pool.execute("INSERT INTO sync_runs (finished_at) VALUES (now() - interval '2 hours')")
        async with looping(seconds(service, 3600)):
            await has_begun(runs, 2)
            assert await databases.rows("tenants") == []
            assert await queries.unlock_runs(conn)

            async def synced() -> int:
                return len(await databases.rows("tenants"))

            await eventually("a run of its own", synced, lambda count: count == 6)
    assert looks()


async def test_it_goes_on_when_the_products_database_is_back(
    stack: Stack,
    databases: Databases,
    service: Service,
    looks: Callable[[], int],
    runs: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shared.service, "LOOP_PAUSE_AFTER_ERROR_SECONDS", 0.05)
    await service.sync_all()
    await databases.put("kbz-001", name="Renamed")
    name = await databases.product.fetchval("SELECT current_database()")
    admin = await asyncpg.connect(stack.endpoints.postgres.dsns["admin"])
    begun = runs()
    failures = LOOP_ERRORS.labels("reconcile")._value.get()
    try:
        await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        await databases.pool.execute("UPDATE sync_runs SET finished_at = now() - interval '2 hours'")
        async with looping(seconds(service, 3600)):
            await has_begun(runs, begun + 3)
            assert LOOP_ERRORS.labels("reconcile")._value.get() >= failures + 2
            await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')

            async def repaired() -> bool:
                return [row["name"] for row in await databases.rows("tenants") if row["id"] == "kbz-001"] == ["Renamed"]

            await eventually("the change in our copy", repaired)
    finally:
        await admin.close()
    assert looks()
