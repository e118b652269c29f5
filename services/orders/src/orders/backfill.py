"""A backfill, page by page: each page and the job's checkpoint are one transaction, so that a crash at any moment
costs one page fetched again, and stores nothing twice.
"""

import asyncio
from datetime import timedelta
from typing import Any

import asyncpg

from shared.amazon.errors import CREDENTIALS_REFUSED
from shared.amazon.gate import Lane
from shared.amazon.orders import SearchOrdersPage, search_orders
from shared.amazon.spapi import SpApi
from shared.db import Conn, Pool
from shared.errors import PermanentError, RetryLaterError
from shared.events import (
    BackfillCompleted,
    BackfillFailed,
    BackfillProgressed,
    BackfillRequested,
    ConnectionRejected,
    Window,
)
from shared.outbox import Outbox
from shared.telemetry import log

from . import order_queries, queries
from .domain import (
    Job,
    JobState,
    Lease,
    TenantArchivedError,
    TenantNotConnectedError,
)
from .mapping import from_amazon, tell_unknown_statuses

LEASE = timedelta(seconds=10)
"""How long a job rests when its worker is killed; a living one renews it three times as often."""
IDLE_SECONDS = 0.25
DELAY_CAP_SECONDS = 300


async def request(conn: Conn, outbox: Outbox, tenant_id: str, days: int) -> tuple[Job, bool]:
    """Queue a backfill in the caller's transaction, or name the one that runs; whether it is new.
    TenantNotConnectedError or TenantArchivedError before anything is written.
    """
    # The account's row before the tenant's, as in start_backfill, which holds it already: no deadlock.
    if not await queries.lock_connection(conn, tenant_id):
        raise TenantNotConnectedError("The tenant has no connected Amazon account: connect it first.")
    if await queries.lock_tenant(conn, tenant_id):
        raise TenantArchivedError("The tenant is archived: its orders are fetched again once the product activates it.")
    job, is_new = await queries.insert_job(conn, tenant_id, days)
    if is_new:
        await outbox.add(conn, BackfillRequested(**_told(job)))
    return job, is_new


async def end(conn: Conn, outbox: Outbox, tenant_id: str, error: PermanentError) -> None:
    """End the tenant's unfinished backfill in the caller's transaction; its worker stops at its next page."""
    for job in await queries.fail_jobs(conn, tenant_id, error.code, str(error)):
        await outbox.add(conn, BackfillFailed(**_told(job), error=error.code))


async def reject(conn: Conn, outbox: Outbox, tenant_id: str, error: PermanentError) -> None:
    """Tell oauth in the caller's transaction that Amazon refused the account's credentials, or that there are none;
    of an account that is disconnected it knows.
    """
    connection = await queries.get_connection(conn, tenant_id)
    if connection is not None:
        at = await queries.now(conn)
        await outbox.add(
            conn,
            ConnectionRejected(tenant_id=tenant_id, connection_id=connection.connection_id, error=error.code, at=at),
        )


async def run(pool: Pool, outbox: Outbox, api: SpApi) -> None:
    """Take the jobs that are due, one after the other, for as long as the service runs."""
    while True:
        lease = await queries.claim_job(pool, LEASE)
        if lease is None:
            await asyncio.sleep(IDLE_SECONDS)
            continue
        await _work(pool, outbox, api, lease)


async def _work(pool: Pool, outbox: Outbox, api: SpApi, lease: Lease) -> None:
    job = lease.job
    token = lease.next_page
    renewing = asyncio.create_task(_renew(pool, lease))
    log.info("backfill_running", tenant_id=job.tenant_id, job_id=str(job.id), pages_done=job.pages)
    try:
        while True:
            page = await search_orders(api, job.tenant_id, job.window_from, job.window_to, token, lane=Lane.BACKFILL)
            stored = await _store(pool, outbox, lease, page)
            if stored is None:
                log.warning("backfill_lease_lost", tenant_id=job.tenant_id, job_id=str(job.id))
                return
            if stored.state is JobState.COMPLETED:
                log.info("backfill_completed", tenant_id=job.tenant_id, orders=stored.orders_stored)
                return
            token = page.next_token
    except RetryLaterError as error:
        delay = error.delay_seconds or min(DELAY_CAP_SECONDS, 2**lease.attempts)
        log.warning("backfill_waits", tenant_id=job.tenant_id, code=error.code, delay_seconds=delay)
        await queries.postpone_job(pool, lease, timedelta(seconds=delay), error.code, str(error))
    except PermanentError as error:
        log.error("backfill_failed", tenant_id=job.tenant_id, code=error.code, error=str(error))
        async with pool.acquire() as conn, conn.transaction():
            failed = await queries.fail_job(conn, lease, error.code, str(error))
            if failed is not None:
                await outbox.add(conn, BackfillFailed(**_told(failed), error=error.code))
                if isinstance(error, CREDENTIALS_REFUSED):
                    await reject(conn, outbox, job.tenant_id, error)
    finally:
        renewing.cancel()


async def _renew(pool: Pool, lease: Lease) -> None:
    while True:
        await asyncio.sleep(LEASE.total_seconds() / 3)
        try:
            await queries.renew_job(pool, lease, LEASE)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            log.warning("backfill_lease_not_renewed", job_id=str(lease.job.id), error=repr(error))


async def _store(pool: Pool, outbox: Outbox, lease: Lease, page: SearchOrdersPage) -> Job | None:
    orders = [from_amazon(order) for order in page.orders]
    tell_unknown_statuses(lease.job.tenant_id, orders)
    async with pool.acquire() as conn, conn.transaction():
        # The job's row first: who has lost the lease must not write orders either.
        job = await queries.advance_job(
            conn,
            lease,
            extend=LEASE,
            next_token=page.next_token,
            orders=len(orders),
            items=sum(len(order.items) for order in orders),
        )
        if job is None:
            return None
        await order_queries.upsert_orders(conn, lease.job.tenant_id, orders)
        done = job.state is JobState.COMPLETED
        await outbox.add(conn, (BackfillCompleted if done else BackfillProgressed)(**_told(job)))
    return job


def _told(job: Job) -> dict[str, Any]:
    """What every event of a backfill says of its job."""
    return {
        "tenant_id": job.tenant_id,
        "job_id": job.id,
        "days": job.days,
        "window": Window(from_=job.window_from, to=job.window_to),
        "orders_stored": job.orders_stored,
        "items_stored": job.items_stored,
    }
