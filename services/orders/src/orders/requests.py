"""NATS in: for operators."""

from uuid import UUID

from shared.db import Pool
from shared.outbox import Outbox
from shared.requests import OfTenant, Operation

from . import backfill
from .domain import Job
from .routes import Days, queue_backfill


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


OPERATIONS: dict[str, Operation] = {"backfill": start_backfill, "backfill.status": backfill_status}
