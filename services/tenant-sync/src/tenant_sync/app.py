"""tenant-sync, wired."""

from functools import partial

from shared.service import Service, run
from shared.settings import load

from . import handlers
from .routes import ROUTES
from .settings import TenantSyncSettings


async def main() -> None:
    settings = load(TenantSyncSettings)
    async with Service("tenant-sync", settings) as service:
        product_pool = await service.open_pool("PRODUCT_DATABASE_URL", settings.product_database_url, size=4)
        service.handle(
            "sync_tenant",
            partial(
                handlers.sync_tenant,
                pool=service.pool,
                product_pool=product_pool,
                outbox=service.outbox,
                settings=settings,
            ),
        )
        service.handle("note_connection", partial(handlers.note_connection, pool=service.pool))
        await service.serve(ROUTES, dependencies={"product_pool": product_pool, "settings": settings})


if __name__ == "__main__":
    run(main)
