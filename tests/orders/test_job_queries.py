"""Backfills' jobs in the database: one at a time, one worker at a time, nothing written by who lost the lease."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from orders import job_queries
from orders.domain import Job, JobState, Lease, LeaseLostError, Waiting
from orders.planning import WindowKind
from shared.db import Pool

TENANT = "kbz-001"
NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
LEASE_IS_OVER = "UPDATE backfill_jobs SET leased_until = clock_timestamp() - interval '1 second'"


async def made(pool: Pool, tenant_id: str = TENANT, days: int = 90) -> UUID | None:
    async with pool.acquire() as conn, conn.transaction():
        return await job_queries.insert_job(conn, tenant_id, days)


async def the_job(pool: Pool, job_id: UUID | None) -> Job:
    assert job_id is not None
    job = await job_queries.get_job(pool, TENANT, job_id)
    assert job is not None
    return job


async def claimed(pool: Pool, lease: timedelta = MINUTE) -> Lease:
    found = await job_queries.claim_job(pool, lease)
    assert found is not None
    return found


async def finish(pool: Pool, lease: Lease, state: JobState = JobState.COMPLETED) -> None:
    async with pool.acquire() as conn, conn.transaction():
        await job_queries.hold_job(conn, lease, MINUTE, calls=1)
        await job_queries.finish_job(conn, lease.job_id, state)


async def give_back(pool: Pool, lease: Lease, waiting_for: Waiting | None) -> None:
    async with pool.acquire() as conn, conn.transaction():
        await job_queries.hold_job(conn, lease, MINUTE, calls=0)
        until = await conn.fetchval("SELECT clock_timestamp() + interval '1 minute'")
        await job_queries.give_back(conn, lease.job_id, until, waiting_for)


async def test_a_tenant_has_one_unfinished_backfill_at_a_time(pool: Pool) -> None:
    first = await made(pool)
    assert first is not None
    assert await made(pool, days=30) is None
    running = await job_queries.get_unfinished_job(pool, TENANT)
    assert running is not None
    assert (running.id, running.days) == (first, 90)
    assert await made(pool, "kbz-002") not in {None, first}


async def test_of_many_requests_at_once_one_makes_the_job(pool: Pool) -> None:
    assert sum(each is not None for each in await asyncio.gather(*(made(pool) for _ in range(8)))) == 1
    assert await pool.fetchval("SELECT count(*) FROM backfill_windows") == 1


@pytest.mark.parametrize("state", [JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED])
async def test_a_finished_backfill_makes_room_for_the_next(pool: Pool, state: JobState) -> None:
    first = await made(pool)
    await finish(pool, await claimed(pool), state)
    assert await job_queries.get_unfinished_job(pool, TENANT) is None
    assert await made(pool) not in {None, first}


async def test_a_backfill_begins_as_one_window_of_its_days_that_ends_where_amazon_lets_it(pool: Pool) -> None:
    job = await the_job(pool, await made(pool, days=30))
    assert timedelta(days=29, hours=22) < job.window_to - job.window_from < timedelta(days=30)
    now = await pool.fetchval("SELECT clock_timestamp()")
    assert now - job.window_to > timedelta(minutes=2, seconds=30), "Amazon refuses the last two minutes by its clock"
    [window] = await job_queries.list_windows(pool, job.id)
    assert (window.kind, window.span.start, window.span.end) == (WindowKind.PAGES, job.window_from, job.window_to)
    assert window.rest == window.span
    assert (job.state, job.windows_done, job.windows_total, job.eta_seconds) == (JobState.REQUESTED, 0, 1, None)


async def test_a_claimed_job_is_nobody_elses_until_its_lease_ends(pool: Pool) -> None:
    job_id = await made(pool)
    first = await claimed(pool)
    assert (await the_job(pool, job_id)).state is JobState.RUNNING
    assert await job_queries.claim_job(pool, MINUTE) is None
    await pool.execute(LEASE_IS_OVER)
    second = await claimed(pool)
    assert (second.job_id, second.token) == (first.job_id, first.token + 1)


async def test_two_who_claim_at_once_share_nothing(pool: Pool) -> None:
    for number in range(3):
        await made(pool, f"tenant-{number}")
    leases = await asyncio.gather(*(job_queries.claim_job(pool, MINUTE) for _ in range(8)))
    taken = [lease.job_id for lease in leases if lease is not None]
    assert len(taken) == len(set(taken)) == 3


async def test_who_lost_the_lease_holds_nothing_any_more(pool: Pool) -> None:
    await made(pool)
    lost = await claimed(pool)
    await pool.execute(LEASE_IS_OVER)
    held = await claimed(pool)
    with pytest.raises(LeaseLostError):
        await finish(pool, lost)
    await job_queries.renew_job(pool, lost, timedelta(days=1))
    assert await pool.fetchval("SELECT leased_until < clock_timestamp() + interval '1 hour' FROM backfill_jobs")
    await finish(pool, held)


@pytest.mark.parametrize("state", ["REQUESTED", "WAITING", "CANCELLED", "FAILED", "COMPLETED"])
async def test_a_job_that_runs_no_more_is_held_by_nobody(pool: Pool, state: str) -> None:
    await made(pool)
    lease = await claimed(pool)
    await pool.execute("UPDATE backfill_jobs SET state = $1", state)
    with pytest.raises(LeaseLostError):
        await finish(pool, lease)


async def test_an_archived_tenants_job_is_not_claimed(pool: Pool) -> None:
    for tenant_id in (TENANT, "kbz-002"):
        await made(pool, tenant_id)
    await pool.execute("INSERT INTO tenants VALUES ($1, true, $2), ('kbz-002', false, $2)", TENANT, NOW)
    assert (await claimed(pool)).tenant_id == "kbz-002"
    assert await job_queries.claim_job(pool, MINUTE) is None
    await pool.execute("UPDATE tenants SET archived = false")
    assert (await claimed(pool)).tenant_id == TENANT


async def test_a_renewed_lease_is_kept(pool: Pool) -> None:
    await made(pool)
    lease = await claimed(pool)
    await pool.execute(LEASE_IS_OVER)
    await job_queries.renew_job(pool, lease, MINUTE)
    assert await job_queries.claim_job(pool, MINUTE) is None


async def test_what_waits_for_the_quota_counts_how_long(pool: Pool) -> None:
    job_id = await made(pool)
    await give_back(pool, await claimed(pool), Waiting.QUOTA)
    assert await job_queries.claim_job(pool, MINUTE) is None
    await pool.execute("UPDATE backfill_jobs SET waiting_since = waiting_since - interval '100 s'")
    job = await the_job(pool, job_id)
    assert (job.state, job.waiting_for) == (JobState.WAITING, Waiting.QUOTA)
    assert 100 <= job.quota_waited_seconds < 110, "while it lasts, too"
    counts, seconds = await job_queries.count_jobs(pool)
    assert (counts, 100 <= seconds < 110) == ({"REQUESTED": 0, "RUNNING": 0, "WAITING": 1}, True)
    await pool.execute("UPDATE backfill_jobs SET next_attempt_at = clock_timestamp()")
    await claimed(pool)
    job = await the_job(pool, job_id)
    assert (job.state, job.waiting_for, 100 <= job.quota_waited_seconds < 110) == (JobState.RUNNING, None, True)
    assert (await job_queries.count_jobs(pool))[1] == 0


async def test_while_amazon_works_a_job_runs_and_is_nobodys(pool: Pool) -> None:
    job_id = await made(pool)
    await give_back(pool, await claimed(pool), None)
    assert await job_queries.claim_job(pool, MINUTE) is None
    job = await the_job(pool, job_id)
    assert (job.state, job.waiting_for) == (JobState.RUNNING, None)
    await pool.execute("UPDATE backfill_jobs SET next_attempt_at = clock_timestamp()")
    assert (await claimed(pool)).job_id == job_id


async def test_an_outage_is_not_counted_as_a_wait_for_the_quota(pool: Pool) -> None:
    job_id = await made(pool)
    lease = await claimed(pool)
    async with pool.acquire() as conn, conn.transaction():
        await job_queries.hold_job(conn, lease, MINUTE, calls=1)
        await job_queries.postpone_job(conn, lease.job_id, MINUTE, "amazon_unavailable", "Wait.")
    await pool.execute(
        "UPDATE backfill_jobs SET next_attempt_at = clock_timestamp(), waiting_since = waiting_since - interval '1 h'"
    )
    assert (await the_job(pool, job_id)).waiting_for is Waiting.OUTAGE
    assert (await claimed(pool)).attempts == 1
    assert (await the_job(pool, job_id)).quota_waited_seconds == 0


async def test_another_tenants_job_is_not_found(pool: Pool) -> None:
    job_id = await made(pool)
    assert job_id is not None
    assert await job_queries.get_job(pool, "kbz-002", job_id) is None
