"""An event takes effect once per handler."""

import asyncio

import pytest

from shared import inbox
from shared.db import Pool
from tests.conftest import OpenPool
from tests.shared.conftest import until


@pytest.fixture
async def pool(pool_of: OpenPool) -> Pool:
    return await pool_of("orders")


async def claimed(pool: Pool, handler: str, event_id: str) -> bool:
    async with pool.acquire() as conn, conn.transaction():
        return await inbox.claim(conn, handler, event_id)


async def test_a_second_claim_is_refused(pool: Pool) -> None:
    assert await claimed(pool, "store_order", "event-1")
    assert not await claimed(pool, "store_order", "event-1")


async def test_each_handler_and_each_event_has_a_claim_of_its_own(pool: Pool) -> None:
    assert await claimed(pool, "store_order", "event-1")
    assert await claimed(pool, "start_backfill", "event-1")
    assert await claimed(pool, "store_order", "event-2")


async def test_a_claim_that_is_rolled_back_was_never_made(pool: Pool) -> None:
    async with pool.acquire() as conn:
        transaction = conn.transaction()
        await transaction.start()
        assert await inbox.claim(conn, "store_order", "event-1")
        await transaction.rollback()
    assert await claimed(pool, "store_order", "event-1")


@pytest.mark.parametrize(("commits", "second_is_first"), [(True, False), (False, True)], ids=["commit", "rollback"])
async def test_a_claim_at_the_same_time_waits_for_the_first_and_sees_its_outcome(
    pool: Pool, commits: bool, second_is_first: bool
) -> None:
    async def somebody_waits() -> bool:
        waiting: bool = await pool.fetchval(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%inbox%'"
            " AND datname = current_database())"
        )
        return waiting

    async with pool.acquire() as conn:
        transaction = conn.transaction()
        await transaction.start()
        assert await inbox.claim(conn, "store_order", "event-1")
        second = asyncio.create_task(claimed(pool, "store_order", "event-1"))
        await until(somebody_waits)
        assert not second.done()
        await (transaction.commit() if commits else transaction.rollback())
        assert await second is second_is_first


async def test_of_many_claims_at_once_one_is_granted(pool: Pool) -> None:
    granted = await asyncio.gather(*(claimed(pool, "store_order", "event-1") for _ in range(30)))
    assert granted.count(True) == 1
