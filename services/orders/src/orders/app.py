"""orders, wired."""

from functools import partial

import httpx

from shared.amazon import spapi
from shared.amazon.gate import Gate
from shared.service import Service, run
from shared.settings import load
from shared.vault import Vault

from . import backfill, handlers
from .requests import OPERATIONS
from .routes import ROUTES
from .settings import OrdersSettings

BACKFILLS_AT_ONCE = 4


async def main() -> None:
    settings = load(OrdersSettings)
    vault = Vault(settings)
    async with Service("orders", settings) as service, httpx.AsyncClient(timeout=spapi.TIMEOUT) as http:
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
        for number in range(BACKFILLS_AT_ONCE):
            service.loop(f"backfill {number}", partial(backfill.run, service.pool, service.outbox, api))
        await service.serve(ROUTES, OPERATIONS)


if __name__ == "__main__":
    run(main)
