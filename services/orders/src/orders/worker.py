"""Whoever does backfills: takes the jobs that are due, goes on with them for as long as there is something to do, and
gives back what has to wait, so that no job waits for another one's quota.
"""

import asyncio
from datetime import timedelta

import asyncpg
from prometheus_client import Gauge

from shared.amazon.errors import CREDENTIALS_REFUSED, QuotaExceededError, QuotaWaitError
from shared.db import Pool
from shared.errors import PermanentError, RetryLaterError
from shared.telemetry import log

from . import backfill, job_queries, planning
from .domain import Lease, LeaseLostError, Waiting
from .planning import Stage, Window
from .windows import LEASE, Parts, step

AT_ONCE = 8
"""Jobs in one process."""
IDLE_SECONDS = 0.25
SHORT_SECONDS = 1.0
"""A wait that is not worth to give the job back for."""
DELAY_CAP_SECONDS = 300
COUNT_SECONDS = 15

JOBS = Gauge("backfills", "Unfinished backfills by state", ["state"])
OLDEST = Gauge("backfill_oldest_wait_seconds", "How long the backfill has waited that has done so for longest")


async def run(parts: Parts, turn: asyncio.Lock) -> None:
    """Take one job after the other for as long as the service runs; turn: one of a process looks for the next."""
    while True:
        async with turn:
            while (lease := await job_queries.claim_job(parts.pool, LEASE)) is None:  # noqa: ASYNC110 - the database knows
                await asyncio.sleep(IDLE_SECONDS)
        await work(parts, lease)


async def count(pool: Pool) -> None:
    """Keep the figures for operators; every replica counts all jobs."""
    while True:
        jobs, seconds = await job_queries.count_jobs(pool)
        for state, number in jobs.items():
            JOBS.labels(state).set(number)
        OLDEST.set(seconds)
        await asyncio.sleep(COUNT_SECONDS)


async def work(parts: Parts, lease: Lease) -> None:
    """Go on with a job until it is over or has to wait."""
    about = {"tenant_id": lease.tenant_id, "job_id": str(lease.job_id)}
    renewing = asyncio.create_task(_renew(parts.pool, lease))
    try:
        while await _go_on(parts, lease):
            pass
    except LeaseLostError:
        log.warning("backfill_lease_lost", **about)
    except RetryLaterError as error:
        delay = error.delay_seconds or min(DELAY_CAP_SECONDS, 2**lease.attempts)
        log.warning("backfill_waits", **about, code=error.code, delay_seconds=delay)
        await _postpone(parts, lease, timedelta(seconds=delay), error)
    except PermanentError as error:
        log.error("backfill_failed", **about, code=error.code, error=str(error))
        await _fail(parts, lease, error)
    finally:
        renewing.cancel()


async def _go_on(parts: Parts, lease: Lease) -> bool:
    """One step; False when the job is over or given back."""
    windows = await job_queries.list_windows(parts.pool, lease.job_id)
    unfinished = [window for window in windows if window.done_at is None]
    if not unfinished:
        async with parts.pool.acquire() as conn, conn.transaction():
            await job_queries.hold_job(conn, lease, LEASE, calls=0)
            job = await backfill.complete(conn, parts.outbox, lease.tenant_id, lease.job_id)
        log.info("backfill_completed", tenant_id=lease.tenant_id, orders=job.orders_stored, calls=job.calls)
        return False
    window = planning.next_window(unfinished)
    if window is None:
        return await _rest(parts, lease, unfinished)
    try:
        await step(parts, lease, window, windows)
    except (QuotaWaitError, QuotaExceededError) as error:
        await _wait_for_quota(parts, lease, [each for each in unfinished if each.stage is window.stage], error)
    return True


async def _rest(parts: Parts, lease: Lease, unfinished: list[Window]) -> bool:
    """Nothing is due: sleep a moment, or let others take the job when something is."""
    first = min(unfinished, key=lambda window: window.next_attempt_at)
    seconds = (first.next_attempt_at - first.now).total_seconds()
    if seconds <= SHORT_SECONDS:
        await asyncio.sleep(max(0.0, seconds))
        return True
    waiting_for = Waiting.OUTAGE if first.stage is Stage.FETCH and first.troubles else Waiting.QUOTA
    amazon_works = any(window.stage is Stage.LOOK for window in unfinished)
    async with parts.pool.acquire() as conn, conn.transaction():
        await job_queries.hold_job(conn, lease, LEASE, calls=0)
        await job_queries.give_back(conn, lease.job_id, first.next_attempt_at, None if amazon_works else waiting_for)
    return False


async def _wait_for_quota(
    parts: Parts, lease: Lease, windows: list[Window], error: QuotaWaitError | QuotaExceededError
) -> None:
    """All that asks for the same thing waits with the one that was refused."""
    delay = timedelta(seconds=error.delay_seconds or 1)
    log.info("backfill_waits_for_quota", job_id=str(lease.job_id), seconds=delay.total_seconds(), code=error.code)
    async with parts.pool.acquire() as conn, conn.transaction():
        await job_queries.hold_job(conn, lease, LEASE, calls=int(isinstance(error, QuotaExceededError)))
        await job_queries.postpone_windows(conn, [window.id for window in windows], delay)
        await job_queries.set_error(conn, lease.job_id, error.code, str(error))


async def _postpone(parts: Parts, lease: Lease, delay: timedelta, error: RetryLaterError) -> None:
    try:
        async with parts.pool.acquire() as conn, conn.transaction():
            await job_queries.hold_job(conn, lease, LEASE, calls=1)
            await job_queries.postpone_job(conn, lease.job_id, delay, error.code, str(error))
    except LeaseLostError:
        log.warning("backfill_lease_lost", job_id=str(lease.job_id))


async def _fail(parts: Parts, lease: Lease, error: PermanentError) -> None:
    try:
        async with parts.pool.acquire() as conn, conn.transaction():
            await job_queries.hold_job(conn, lease, LEASE, calls=1)
            await backfill.fail(conn, parts.outbox, lease.tenant_id, lease.job_id, error)
            if isinstance(error, CREDENTIALS_REFUSED):
                await backfill.reject(conn, parts.outbox, lease.tenant_id, error)
    except LeaseLostError:
        log.warning("backfill_lease_lost", job_id=str(lease.job_id))


async def _renew(pool: Pool, lease: Lease) -> None:
    while True:
        await asyncio.sleep(LEASE.total_seconds() / 3)
        try:
            await job_queries.renew_job(pool, lease, LEASE)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            log.warning("backfill_lease_not_renewed", job_id=str(lease.job_id), error=repr(error))
