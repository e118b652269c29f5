"""NATS in: for operators."""

from uuid import UUID

from shared.db import Pool
from shared.outbox import Outbox
from shared.requests import OfTenant, Operation

from . import backfill, upkeep_queries
from .domain import Job
from .routes import Days, FreshnessAnswer, queue_backfill


class Backfill(OfTenant, frozen=True):
    days: Days = 90


class OfJob(OfTenant, frozen=True):
    id: UUID


async def start_backfill(asked: Backfill, pool: Pool, outbox: Outbox) -> Job:
    """Fetch past orders; names the backfill that runs already."""
    return await queue_backfill(pool, outbox, asked.tenant_id, asked.days)


async def backfill_status(asked: OfJob, pool: Pool) -> Job:
    """How far a backfill is."""
    return await backfill.get(pool, asked.tenant_id, asked.id)


async def cancel_backfill(asked: OfJob, pool: Pool, outbox: Outbox) -> Job:
    """Call a backfill off; what it has stored stays."""
    async with pool.acquire() as conn, conn.transaction():
        return await backfill.cancel(conn, outbox, asked.tenant_id, asked.id)


async def freshness(asked: OfTenant, pool: Pool) -> FreshnessAnswer:
    """How true a tenant's orders are: until when changes are stored, and what hinders."""
    return FreshnessAnswer(await upkeep_queries.get_freshness(pool, asked.tenant_id))


OPERATIONS: dict[str, Operation] = {
    "backfill": start_backfill,
    "backfill.status": backfill_status,
    "backfill.cancel": cancel_backfill,
    "freshness": freshness,
}
