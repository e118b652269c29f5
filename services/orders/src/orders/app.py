"""orders, wired."""

import asyncio
from functools import partial

import httpx

from shared.amazon import reports, spapi
from shared.amazon.gate import Gate
from shared.service import Service, run
from shared.settings import load
from shared.vault import Vault

from . import audit, delta, details, handlers, upkeep, worker
from .requests import OPERATIONS
from .routes import ROUTES
from .settings import OrdersSettings
from .windows import Parts


async def main() -> None:
    settings = load(OrdersSettings)
    vault = Vault(settings)
    async with (
        Service("orders", settings) as service,
        httpx.AsyncClient(timeout=spapi.TIMEOUT) as http,
        httpx.AsyncClient(timeout=reports.DOWNLOAD_TIMEOUT) as documents,
    ):
        api = spapi.SpApi(settings, vault, http, Gate(service.pool, settings.amazon_spapi_app_source))
        service.checks["vault"] = vault.not_ready
        service.handle("follow_tenant", partial(handlers.follow_tenant, pool=service.pool, outbox=service.outbox))
        service.handle(
            "start_backfill",
            partial(handlers.start_backfill, pool=service.pool, outbox=service.outbox, settings=settings),
        )
        service.handle("stop_backfill", partial(handlers.stop_backfill, pool=service.pool, outbox=service.outbox))
        service.handle(
            "fetch_missing_order",
            partial(handlers.fetch_missing_order, pool=service.pool, outbox=service.outbox, api=api),
        )
        parts, turn = Parts(service.pool, service.outbox, api, documents), asyncio.Lock()
        for number in range(worker.AT_ONCE):
            service.loop(f"backfill {number}", partial(worker.run, parts, turn))
        service.loop("count of backfills", partial(worker.count, service.pool))
        duties = (
            (delta.duty(settings.delta_interval_seconds), delta.AT_ONCE),
            (details.DUTY, details.AT_ONCE),
            (audit.DUTY, audit.AT_ONCE),
        )
        for duty, at_once in duties:
            lock = asyncio.Lock()
            for number in range(at_once):
                service.loop(f"{duty.task.lower()} {number}", partial(upkeep.run, parts, duty, lock))
        service.loop("measure of upkeep", partial(upkeep.measure, service.pool))
        await service.serve(ROUTES, OPERATIONS, dependencies={"looks": details.Looks(parts)})


if __name__ == "__main__":
    run(main)
