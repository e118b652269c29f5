"""tenant-sync, wired."""

from functools import partial

from shared.service import Service, run
from shared.settings import load

from . import handlers, reconcile
from .requests import OPERATIONS
from .routes import ROUTES
from .settings import TenantSyncSettings


async def main() -> None:
    settings = load(TenantSyncSettings)
    async with Service("tenant-sync", settings) as service:
        product_pool = await service.open_pool("PRODUCT_DATABASE_URL", settings.product_database_url, size=4)
        pool, outbox = service.pool, service.outbox
        for name in ("sync_tenant", "sync_updated_tenant", "sync_archived_tenant"):
            sync_tenant = partial(
                handlers.sync_tenant,
                handler=name,
                pool=pool,
                product_pool=product_pool,
                outbox=outbox,
                settings=settings,
            )
            service.handle(name, sync_tenant)
        service.handle(
            "note_connection", partial(handlers.note_connection, pool=pool, outbox=outbox, settings=settings)
        )
        service.handle("note_disconnection", partial(handlers.note_disconnection, pool=pool))
        service.handle("activate_address", partial(handlers.activate_address, pool=pool, outbox=outbox))
        service.loop("reconcile", partial(reconcile.run, product_pool, pool, outbox, settings))
        await service.serve(ROUTES, OPERATIONS, dependencies={"product_pool": product_pool, "settings": settings})


if __name__ == "__main__":
    run(main)
