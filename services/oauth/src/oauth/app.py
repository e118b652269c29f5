"""oauth, wired."""

from functools import partial

import httpx
from litestar.stores.memory import MemoryStore

from shared.amazon import spapi
from shared.auth import Keys
from shared.service import Service, run
from shared.settings import load
from shared.vault import Vault

from . import handlers, reconcile
from .lifecycle import Parts
from .requests import OPERATIONS
from .routes import ROUTES, forget_addresses, limit_requests
from .settings import OauthSettings


async def main() -> None:
    settings = load(OauthSettings)
    vault = Vault(settings)
    addresses = MemoryStore()
    async with Service("oauth", settings) as service, httpx.AsyncClient(timeout=spapi.TIMEOUT) as http:
        parts = Parts(service.pool, service.outbox, spapi.SpApi(settings, vault, http, gate=None), vault, settings)
        service.checks["vault"] = vault.not_ready
        service.handle("check_connection", partial(handlers.check_connection, parts=parts))
        service.handle("follow_tenant", partial(handlers.follow_tenant, parts=parts))
        service.loop("reconcile", partial(reconcile.run, parts))
        service.loop("tidy", partial(reconcile.tidy, parts))
        service.loop("search", partial(reconcile.search, parts))
        service.loop("forget addresses", partial(forget_addresses, addresses))
        await service.serve(
            ROUTES,
            OPERATIONS,
            dependencies={"parts": parts, "keys": Keys.of(settings)},
            middleware=[limit_requests(settings.requests_per_minute)],
            stores={"rate_limit": addresses},
        )


if __name__ == "__main__":
    run(main)
