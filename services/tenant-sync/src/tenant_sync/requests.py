"""NATS in: for operators."""

from shared.db import Pool
from shared.outbox import Outbox
from shared.requests import Asked, OfTenant, Operation

from . import routes
from .domain import Run
from .routes import StatusAnswer, SyncAllAnswer, SyncAnswer, SyncRequest
from .settings import TenantSyncSettings


class Sync(SyncRequest, frozen=True):
    dry_run: bool = False


class SyncAll(Asked, frozen=True):
    dry_run: bool = False


async def sync(asked: Sync, pool: Pool, product_pool: Pool, outbox: Outbox, settings: TenantSyncSettings) -> SyncAnswer:
    """Bring one tenant in line with the product; dryRun says what would change."""
    return await routes.sync_one(asked, pool, product_pool, outbox, settings, dry_run=asked.dry_run)


async def sync_all(
    asked: SyncAll, pool: Pool, product_pool: Pool, outbox: Outbox, settings: TenantSyncSettings
) -> SyncAllAnswer:
    """Bring every tenant in line with the product; dryRun says what would change."""
    return await routes.sync_all(pool, product_pool, outbox, settings, dry_run=asked.dry_run)


async def sync_all_status(_: Asked, pool: Pool) -> Run:
    """How far the latest sync of all tenants is."""
    return await routes.latest_run(pool)


async def status(asked: OfTenant, pool: Pool, product_pool: Pool) -> StatusAnswer:
    """A tenant in both databases."""
    return await routes.status_of(asked.tenant_id, pool, product_pool)


OPERATIONS: dict[str, Operation] = {
    "sync": sync,
    "sync-all": sync_all,
    "sync-all.status": sync_all_status,
    "status": status,
}
