"""The life of a backfill: asked for, called off, gone on with, and what is told of it. Who does its work: worker.py."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from prometheus_client import Counter

from shared.db import Conn, Pool
from shared.errors import PermanentError
from shared.events import (
    BackfillCompleted,
    BackfillFailed,
    BackfillProgressed,
    BackfillRequested,
    ConnectionRejected,
    Window,
)
from shared.outbox import Outbox

from . import job_queries, queries, upkeep_queries
from .domain import (
    BackfillCancelledError,
    BackfillNotFoundError,
    Job,
    JobState,
    Task,
    TenantArchivedError,
    TenantNotConnectedError,
)

ENDED = Counter("backfills_ended_total", "Backfills that ended, and how", ["state"])
RESUMED_WITHIN = timedelta(days=7)
"""An account that is connected again after longer gets a new backfill."""
_ACCOUNT_LOST = ("account_disconnected", "tenant_archived", "authorization_revoked", "not_connected")
"""Of these ends a new connection is the cure."""


async def request(conn: Conn, outbox: Outbox, tenant_id: str, days: int) -> tuple[Job, bool]:
    """Queue a backfill in the caller's transaction, or name the one that runs; whether it is new.
    TenantNotConnectedError or TenantArchivedError before anything is written.
    """
    await _lock(conn, tenant_id)
    return await _request(conn, outbox, tenant_id, days)


async def resume_or_request(conn: Conn, outbox: Outbox, tenant_id: str, seller_id: str, days: int) -> Job:
    """As request(), of an account that was connected just now: what its loss ended lately, and reaches as
    far, goes on with what it has.
    """
    await _lock(conn, tenant_id)
    resumed = await job_queries.resume_job(conn, tenant_id, seller_id, _ACCOUNT_LOST, within=RESUMED_WITHIN, days=days)
    if resumed is None:
        return (await _request(conn, outbox, tenant_id, days))[0]
    job = await get(conn, tenant_id, resumed)
    await outbox.add(conn, BackfillRequested(**_told(job)))
    return job


async def cancel(conn: Conn, outbox: Outbox, tenant_id: str, job_id: UUID) -> Job:
    """Call a backfill off in the caller's transaction; one that is over stays as it is. BackfillNotFoundError."""
    called_off = BackfillCancelledError("The backfill was cancelled on request.")
    await _cancel(conn, outbox, tenant_id, called_off, job_id)
    return await get(conn, tenant_id, job_id)


async def end(conn: Conn, outbox: Outbox, tenant_id: str, error: PermanentError) -> None:
    """Call the tenant's unfinished backfill off in the caller's transaction; its worker stops before it writes more."""
    await _cancel(conn, outbox, tenant_id, error, None)


async def get(conn: Conn | Pool, tenant_id: str, job_id: UUID) -> Job:
    """BackfillNotFoundError, too where it is another tenant's."""
    job = await job_queries.get_job(conn, tenant_id, job_id)
    if job is None:
        raise BackfillNotFoundError("There is no such backfill.")
    return job


async def fail(conn: Conn, outbox: Outbox, tenant_id: str, job_id: UUID, error: PermanentError) -> None:
    """End a job that the caller holds."""
    await job_queries.finish_job(conn, job_id, JobState.FAILED, error.code, str(error))
    await outbox.add(conn, BackfillFailed(**_told(await get(conn, tenant_id, job_id)), error=error.code))
    ENDED.labels(JobState.FAILED).inc()


async def complete(conn: Conn, outbox: Outbox, tenant_id: str, job_id: UUID) -> Job:
    """All windows of a job that the caller holds are done."""
    await job_queries.finish_job(conn, job_id, JobState.COMPLETED)
    for task in (Task.AUDIT, Task.DETAILS):
        await upkeep_queries.wake(conn, tenant_id, task)
    job = await get(conn, tenant_id, job_id)
    await outbox.add(conn, BackfillCompleted(**_told(job)))
    ENDED.labels(JobState.COMPLETED).inc()
    return job


async def tell_progress(conn: Conn, outbox: Outbox, tenant_id: str, job_id: UUID) -> None:
    await outbox.add(conn, BackfillProgressed(**_told(await get(conn, tenant_id, job_id))))


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


async def _lock(conn: Conn, tenant_id: str) -> None:
    # The account's row before the tenant's, as in start_backfill, which holds it already: no deadlock.
    if not await queries.lock_connection(conn, tenant_id):
        raise TenantNotConnectedError("The tenant has no connected Amazon account: connect it first.")
    if await queries.lock_tenant(conn, tenant_id):
        raise TenantArchivedError("The tenant is archived: its orders are fetched again once the product activates it.")


async def _request(conn: Conn, outbox: Outbox, tenant_id: str, days: int) -> tuple[Job, bool]:
    job_id = await job_queries.insert_job(conn, tenant_id, days)
    if job_id is None:
        running = await job_queries.get_unfinished_job(conn, tenant_id)
        # It ended between the two statements: there is room for the next.
        return (running, False) if running is not None else await _request(conn, outbox, tenant_id, days)
    job = await get(conn, tenant_id, job_id)
    await outbox.add(conn, BackfillRequested(**_told(job)))
    return job, True


async def _cancel(conn: Conn, outbox: Outbox, tenant_id: str, error: PermanentError, job_id: UUID | None) -> None:
    for job in await job_queries.cancel_jobs(conn, tenant_id, error.code, str(error), job_id):
        await outbox.add(conn, BackfillFailed(**_told(job), error=error.code))
        ENDED.labels(JobState.CANCELLED).inc()


def _told(job: Job) -> dict[str, Any]:
    """What every event of a backfill says of its job."""
    return {
        "tenant_id": job.tenant_id,
        "job_id": job.id,
        "days": job.days,
        "window": Window(from_=job.window_from, to=job.window_to),
        "orders_stored": job.orders_stored,
        "items_stored": job.items_stored,
        "eta_seconds": job.eta_seconds,
    }
