"""The schedule in PostgreSQL: who is due, who has it in hand, and when it is due next."""

import asyncio
from collections import Counter
from datetime import datetime, timedelta

import pytest
from prometheus_client import REGISTRY

from poller import queries, silence
from poller.domain import Lease
from shared.db import Pool
from tests.poller.conftest import MINUTE, NOW, TENANT, claim, disconnect, follow, make_due, schedule

INTERVAL = timedelta(seconds=300)
LEEWAY = timedelta(seconds=30)
"""For a slow machine, between a wait's beginning and our look at it."""


async def next_due(pool: Pool) -> datetime:
    [found] = await queries.list_schedules(pool, TENANT)
    return found.next_due


async def leased_until(pool: Pool) -> datetime:
    until: datetime = await pool.fetchval("SELECT leased_until FROM poll_schedules")
    return until


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


@pytest.mark.parametrize("moved", ["-7 seconds", "-1000 seconds", "100 seconds", "1 hour"])
async def test_a_poll_goes_to_the_tenants_next_slot_whenever_it_was_due(pool: Pool, moved: str) -> None:
    """In time, after missed slots, before its time, and after failures."""
    await schedule(pool, interval_seconds=300)
    await finish(pool, await claim(pool))
    slot = await next_due(pool)
    await pool.execute("UPDATE poll_schedules SET next_due = clock_timestamp() + $1::text::interval", moved)
    lease = await queries.claim_schedule(pool, TENANT, MINUTE)
    assert lease is not None
    assert await finish(pool, lease)
    now = await queries.get_now(pool)
    assert now < await next_due(pool) <= now + INTERVAL
    assert (await next_due(pool) - slot) % INTERVAL == timedelta()
    assert await queries.claim_due(pool, 10, MINUTE) == []


async def test_tenants_that_are_connected_in_one_burst_have_slots_all_over_the_interval(pool: Pool) -> None:
    for number in range(300):
        await schedule(pool, f"tenant-{number}", 300)
    leases = await queries.claim_due(pool, 300, MINUTE)
    assert len(leases) == 300, "the first poll is at once"
    for lease in leases:
        await finish(pool, lease)
    slots = [row["next_due"].timestamp() % 300 for row in await pool.fetch("SELECT next_due FROM poll_schedules")]
    tenths = Counter(int(slot // 30) for slot in slots)
    assert len(set(slots)) == 300
    assert len(tenths) == 10
    assert max(tenths.values()) < 45


async def test_a_slot_is_the_first_one_after_a_time_and_one_interval_from_the_one_before(pool: Pool) -> None:
    slots = [
        await pool.fetchval("SELECT next_slot($1, 300, $2)", TENANT, NOW + timedelta(seconds=after))
        for after in (0, 300, 600)
    ]
    assert [each - slots[0] for each in slots] == [timedelta(), INTERVAL, 2 * INTERVAL]
    assert NOW < slots[0] <= NOW + INTERVAL
    assert await pool.fetchval("SELECT next_slot($1, 300, $2)", TENANT, slots[0]) == slots[1]
    just_before = slots[0] - timedelta(microseconds=1)
    assert await pool.fetchval("SELECT next_slot($1, 300, $2)", TENANT, just_before) == slots[0]


async def test_a_finished_poll_gives_its_lease_back_and_forgets_the_failures(pool: Pool) -> None:
    await schedule(pool)
    await queries.fail_poll(pool, await claim(pool), "No.")
    await make_due(pool)
    await finish(pool, await claim(pool))
    [found] = await queries.list_schedules(pool, TENANT)
    assert (found.running, found.failures, found.last_error) == (False, 0, None)
    assert found.last_success_at is not None


async def failing(pool: Pool, times: int, *, rejected: bool = False) -> list[timedelta]:
    """How long each failure makes the schedule wait; where it is due in between, it is so in a slot."""
    waits = []
    for _ in range(times):
        await make_due(pool)
        await queries.fail_poll(pool, await claim(pool), "Amazon is away.", rejected=rejected)
        slot = await next_due(pool)
        assert await pool.fetchval("SELECT next_slot($1, 300, $2)", TENANT, slot - INTERVAL) == slot
        waits.append(slot - await queries.get_now(pool))
    return waits


async def test_failures_wait_longer_each_time_up_to_an_hour_until_a_slot(pool: Pool) -> None:
    await schedule(pool, interval_seconds=300)
    waits = await failing(pool, 6)
    for wait, seconds in zip(waits, [300, 600, 1200, 2400, 3600, 3600], strict=True):
        assert timedelta(seconds=seconds) - INTERVAL - LEEWAY < wait <= timedelta(seconds=seconds)
    [found] = await queries.list_schedules(pool, TENANT)
    assert (found.failures, found.last_error, found.running) == (6, "Amazon is away.", False)
    await make_due(pool)
    await finish(pool, await claim(pool))
    assert await next_due(pool) <= await queries.get_now(pool) + INTERVAL


async def test_an_interval_longer_than_the_longest_wait_is_kept(pool: Pool) -> None:
    await schedule(pool, interval_seconds=7200)
    await queries.fail_poll(pool, await claim(pool), "Amazon is away.")
    assert await queries.get_now(pool) < await next_due(pool)


async def test_refused_credentials_wait_an_hour_and_are_new_until_they_work(pool: Pool) -> None:
    await schedule(pool, interval_seconds=300)
    for wait in await failing(pool, 2, rejected=True) + await failing(pool, 1):
        assert timedelta(hours=1) - INTERVAL - LEEWAY < wait <= timedelta(hours=1)
    [found] = await queries.list_schedules(pool, TENANT)
    assert found.rejected_at is not None
    for newly in (False, True, False):
        await make_due(pool)
        failed = await queries.fail_poll(pool, await claim(pool), "Refused.", rejected=True)
        assert failed is not None
        assert failed.newly_rejected is newly
        if not newly:
            await make_due(pool)
            await finish(pool, await claim(pool))


async def test_a_lease_is_renewed_and_given_back_by_who_has_it(pool: Pool) -> None:
    await schedule(pool)
    held = await claim(pool)
    before = await leased_until(pool)
    assert await queries.renew_lease(pool, held, 2 * MINUTE)
    assert await leased_until(pool) > before + MINUTE
    await queries.release_lease(pool, held)
    again = await claim(pool)
    until = await leased_until(pool)
    assert not await queries.renew_lease(pool, held, 3 * MINUTE)
    await queries.release_lease(pool, held)
    assert await leased_until(pool) == until
    assert await finish(pool, again)


async def test_what_became_due_after_a_time_is_left(pool: Pool) -> None:
    before = await queries.get_now(pool)
    await schedule(pool)
    assert await queries.claim_due(pool, 10, MINUTE, before) == []
    [lease] = await queries.claim_due(pool, 10, MINUTE, await queries.get_now(pool))
    assert 0 <= lease.late_seconds < 60


async def test_who_polls_for_a_tenant_that_was_archived_meanwhile_changes_nothing(pool: Pool) -> None:
    await schedule(pool)
    held = await claim(pool)
    await follow(pool, status="ARCHIVED")
    assert not await queries.renew_lease(pool, held, MINUTE)
    assert not await finish(pool, held)
    assert await queries.fail_poll(pool, held, "late", rejected=True) is None
    await follow(pool, status="ACTIVE")
    assert not await finish(pool, held)
    assert (await claim(pool)).token > held.token


async def test_connected_accounts_whose_poll_is_overdue_are_counted(pool: Pool) -> None:
    for number, seconds in enumerate((299, 301, 301, 301)):
        await schedule(pool, f"kbz-{number}", 300)
        await pool.execute(
            "UPDATE poll_schedules SET next_due = clock_timestamp() - make_interval(secs => $2) WHERE tenant_id = $1",
            f"kbz-{number}",
            seconds,
        )
    await disconnect(pool, "kbz-2")
    await follow(pool, tenant_id="kbz-3", status="ARCHIVED")
    await silence.measure(pool, polls=False)
    await silence.measure(pool, polls=True)
    assert REGISTRY.get_sample_value("tenants_not_polled") == 1


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
