"""Finding drift that no event told of, on a schedule that counts from the last bulk sync, whoever asked for it."""

import asyncio
import time
from datetime import UTC, datetime

from shared.db import Pool
from shared.outbox import Outbox
from shared.telemetry import log

from . import queries, sync
from .domain import SyncRunningError
from .settings import TenantSyncSettings

LOOK_SECONDS = 5.0


async def run(product_pool: Pool, pool: Pool, outbox: Outbox, settings: TenantSyncSettings) -> None:
    """Sync all tenants whenever the last time was long enough ago, for as long as the service runs."""
    started = time.time()
    while True:
        await asyncio.sleep(min(LOOK_SECONDS, settings.reconcile_seconds / 4))
        last = await queries.last_finished_at(pool)
        since = datetime.now(UTC).timestamp() - (last.timestamp() if last else started)
        if since >= settings.reconcile_seconds:
            try:
                await sync.sync_all(product_pool, pool, outbox, settings)
            except SyncRunningError:
                log.info("reconcile_left_to_the_running_sync")
