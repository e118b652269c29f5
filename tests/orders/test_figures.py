"""The figures that operators have of all backfills and accounts, as the service's loops keep them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from prometheus_client import REGISTRY

from devstack.outside import eventually
from orders import job_queries, upkeep, upkeep_queries, worker
from orders.domain import Task, Waiting
from orders.windows import LEASE
from shared.db import Pool
from tests.orders.conftest import Disconnect, Follow, connect

Figures = Callable[[], Awaitable[dict[str, float | None]]]


@asynccontextmanager
async def kept(loop: Awaitable[None]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(loop)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def backfills() -> dict[str, float | None]:
    return {
        state: REGISTRY.get_sample_value("backfills", {"state": state}) for state in ("REQUESTED", "RUNNING", "WAITING")
    }


async def overdue() -> dict[str, float | None]:
    return {task: REGISTRY.get_sample_value("upkeep_overdue", {"task": task}) for task in Task}


def seconds(name: str) -> float:
    return REGISTRY.get_sample_value(name) or 0.0


async def requested(pool: Pool, tenant_id: str) -> None:
    async with pool.acquire() as conn, conn.transaction():
        await job_queries.insert_job(conn, tenant_id, 90)


async def test_backfills_are_counted_by_state_with_the_longest_wait(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "COUNT_SECONDS", 0.01)
    for number in range(6):
        await requested(pool, f"kbz-{number}")
    for _ in range(3):
        assert await job_queries.claim_job(pool, LEASE) is not None
    waiting = await job_queries.claim_job(pool, LEASE)
    assert waiting is not None
    async with pool.acquire() as conn, conn.transaction():
        until = await conn.fetchval("SELECT clock_timestamp() + interval '1 h'")
        await job_queries.give_back(conn, waiting.job_id, until, Waiting.QUOTA)
    await pool.execute(
        "UPDATE backfill_jobs SET created_at = created_at - interval '1 day' * (state <> 'REQUESTED')::integer"
        " - interval '700 s', waiting_since = waiting_since - interval '500 s'"
    )
    async with kept(worker.count(pool)):
        await eventually("the count", backfills, {"REQUESTED": 2, "RUNNING": 3, "WAITING": 1}.__eq__)
        assert 700 <= seconds("backfill_oldest_wait_seconds") < 800, "who is at work, or waits only now, has not waited"
        await pool.execute("DELETE FROM backfill_jobs WHERE state = 'REQUESTED'")
        await eventually("the next count", backfills, {"REQUESTED": 0, "RUNNING": 3, "WAITING": 1}.__eq__)
        assert 500 <= seconds("backfill_oldest_wait_seconds") < 600
        await pool.execute("UPDATE backfill_jobs SET state = 'COMPLETED'")
        await eventually("the last count", backfills, {"REQUESTED": 0, "RUNNING": 0, "WAITING": 0}.__eq__)
        assert seconds("backfill_oldest_wait_seconds") == 0


async def test_accounts_in_use_are_counted_when_a_turn_is_overdue_with_the_oldest_cursor(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, disconnect: Disconnect, follow: Follow
) -> None:
    monkeypatch.setattr(upkeep, "MEASURE_SECONDS", 0.01)
    for number in range(5):
        await connect(pool, f"kbz-{number}", f"A{number}")
        async with pool.acquire() as conn, conn.transaction():
            await upkeep_queries.upsert_upkeep(conn, f"kbz-{number}", f"A{number}", 600)
    for number, (late, age) in enumerate(
        [(3_590, 100), (3_610, 4_000), (3_700, 3_000), (9_999, 9_999), (9_999, 9_999)]
    ):
        await pool.execute(
            "UPDATE upkeep SET next_due = clock_timestamp() - make_interval(secs => $2),"
            " cursor_at = clock_timestamp() - make_interval(secs => $3)"
            " WHERE tenant_id = $1 AND task IN ('DELTA', 'AUDIT')",
            *(f"kbz-{number}", late, age),
        )
    await pool.execute("UPDATE upkeep SET cursor_at = cursor_at - interval '1 day' WHERE task <> 'DELTA'")
    await disconnect(tenant_id="kbz-3")
    await follow(tenant_id="kbz-4", status="ARCHIVED")
    async with kept(upkeep.measure(pool)):
        await eventually("the figures", overdue, {"DELTA": 2, "DETAILS": 0, "AUDIT": 2}.__eq__)
        assert 4_000 <= seconds("orders_delta_oldest_seconds") < 4_100
        await disconnect(tenant_id="kbz-1")
        await eventually("the next figures", overdue, {"DELTA": 1, "DETAILS": 0, "AUDIT": 1}.__eq__)
        assert 3_000 <= seconds("orders_delta_oldest_seconds") < 3_100
        await pool.execute("DELETE FROM upkeep")
        await eventually("the last figures", overdue, {"DELTA": 0, "DETAILS": 0, "AUDIT": 0}.__eq__)
        assert seconds("orders_delta_oldest_seconds") == 0
