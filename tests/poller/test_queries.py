"""The schedule in PostgreSQL: who is due, who has it in hand, and when it is due next."""

import asyncio
from datetime import datetime, timedelta

from poller import queries
from poller.domain import Lease
from shared.db import Pool
from tests.poller.conftest import MINUTE, TENANT, claim, make_due, schedule


async def next_due(pool: Pool) -> datetime:
    [found] = await queries.list_schedules(pool, TENANT)
    return found.next_due


async def finish(pool: Pool, lease: Lease) -> bool:
    async with pool.acquire() as conn, conn.transaction():
        return await queries.finish_poll(conn, lease)


async def test_only_what_is_due_is_claimed(pool: Pool) -> None:
    for tenant_id in ("due", "later"):
        await schedule(pool, tenant_id)
    await pool.execute(
        "UPDATE poll_schedules SET next_due = clock_timestamp() + interval '1 minute' WHERE tenant_id = 'later'"
    )
    assert [lease.tenant_id for lease in await queries.claim_due(pool, 10, MINUTE)] == ["due"]


async def test_the_longest_due_come_first(pool: Pool) -> None:
    for minutes, tenant_id in ((1, "b"), (3, "a"), (2, "c")):
        await schedule(pool, tenant_id)
        await pool.execute(
            "UPDATE poll_schedules SET next_due = clock_timestamp() - make_interval(mins => $2) WHERE tenant_id = $1",
            tenant_id,
            minutes,
        )
    assert {lease.tenant_id for lease in await queries.claim_due(pool, 2, MINUTE)} == {"a", "c"}


async def test_what_is_claimed_is_nobody_elses_until_the_lease_ends(pool: Pool) -> None:
    await schedule(pool)
    first = await claim(pool)
    assert await queries.claim_due(pool, 10, MINUTE) == []
    assert await queries.claim_schedule(pool, TENANT, MINUTE) is None
    await pool.execute("UPDATE poll_schedules SET leased_until = clock_timestamp() - interval '1 second'")
    assert (await claim(pool)).token == first.token + 1


async def test_two_who_claim_at_once_share_nothing(pool: Pool) -> None:
    tenants = {f"tenant-{number}" for number in range(40)}
    for tenant_id in tenants:
        await schedule(pool, tenant_id)
    claims = await asyncio.gather(*(queries.claim_due(pool, 15, MINUTE) for _ in range(4)))
    claimed = [lease.tenant_id for leases in claims for lease in leases]
    assert len(claimed) == len(set(claimed)) == 40
    assert set(claimed) == tenants


async def test_a_poll_in_time_goes_to_the_next_slot_of_the_grid(pool: Pool) -> None:
    await schedule(pool)
    await pool.execute("UPDATE poll_schedules SET next_due = clock_timestamp() - interval '7 seconds'")
    slot = await next_due(pool)
    assert await finish(pool, await claim(pool))
    assert await next_due(pool) == slot + timedelta(seconds=300)


async def test_missed_slots_are_made_up_for_by_one_poll_and_the_grid_is_kept(pool: Pool) -> None:
    await schedule(pool)
    await pool.execute("UPDATE poll_schedules SET next_due = clock_timestamp() - interval '1000 seconds'")
    slot = await next_due(pool)
    await finish(pool, await claim(pool))
    assert await next_due(pool) == slot + timedelta(seconds=1200)
    assert await queries.claim_due(pool, 10, MINUTE) == []


async def test_a_poll_before_its_time_leaves_the_next_slot_where_it_is(pool: Pool) -> None:
    await schedule(pool)
    await pool.execute("UPDATE poll_schedules SET next_due = clock_timestamp() + interval '100 seconds'")
    slot = await next_due(pool)
    lease = await queries.claim_schedule(pool, TENANT, MINUTE)
    assert lease is not None
    assert await finish(pool, lease)
    assert await next_due(pool) == slot


async def test_a_finished_poll_gives_its_lease_back_and_forgets_the_failures(pool: Pool) -> None:
    await schedule(pool)
    await queries.fail_poll(pool, await claim(pool), "No.")
    await make_due(pool)
    await finish(pool, await claim(pool))
    [found] = await queries.list_schedules(pool, TENANT)
    assert (found.running, found.failures, found.last_error) == (False, 0, None)
    assert found.last_success_at is not None


async def test_failures_wait_longer_each_time_up_to_an_hour(pool: Pool) -> None:
    await schedule(pool)
    waits = []
    for _ in range(6):
        await make_due(pool)
        await queries.fail_poll(pool, await claim(pool), "Amazon is away.")
        now = await pool.fetchval("SELECT clock_timestamp()")
        waits.append(round((await next_due(pool) - now).total_seconds(), -1))
    assert waits == [300, 600, 1200, 2400, 3600, 3600]
    [found] = await queries.list_schedules(pool, TENANT)
    assert (found.failures, found.last_error, found.running) == (6, "Amazon is away.", False)


async def test_who_lost_the_lease_changes_nothing_any_more(pool: Pool) -> None:
    await schedule(pool)
    lost = await claim(pool)
    await make_due(pool)
    held = await claim(pool)
    before = await queries.list_schedules(pool, TENANT)
    assert not await finish(pool, lost)
    await queries.fail_poll(pool, lost, "late")
    assert await queries.list_schedules(pool, TENANT) == before
    assert await finish(pool, held)


async def test_another_tenants_schedule_is_not_seen_or_taken(pool: Pool) -> None:
    await schedule(pool)
    assert await queries.list_schedules(pool, "kbz-002") == []
    assert await queries.claim_schedule(pool, "kbz-002", MINUTE) is None
