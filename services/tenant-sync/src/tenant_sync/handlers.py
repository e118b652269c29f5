"""Events in."""

from shared import inbox
from shared.db import Pool
from shared.events import ConnectionConnected, TenantCreated
from shared.outbox import Outbox

from . import product, queries, sync
from .domain import TenantNotVisibleYetError
from .settings import TenantSyncSettings


async def sync_tenant(
    event: TenantCreated,
    event_id: str,
    *,
    pool: Pool,
    product_pool: Pool,
    outbox: Outbox,
    settings: TenantSyncSettings,
) -> None:
    """The event says look; the product's database says what is true."""
    tenant = await product.get_tenant(product_pool, event.tenant_id)
    if tenant is None:
        raise TenantNotVisibleYetError(f"The product database has no tenant {event.tenant_id}.")
    async with pool.acquire() as conn, conn.transaction():
        if await inbox.claim(conn, "sync_tenant", event_id):
            await sync.sync_one(conn, outbox, tenant, country=settings.default_country, domain=settings.inbound_domain)


async def note_connection(event: ConnectionConnected, event_id: str, *, pool: Pool) -> None:
    """Keep what status answers about a tenant's marketplace accounts."""
    async with pool.acquire() as conn, conn.transaction():
        if await inbox.claim(conn, "note_connection", event_id):
            await queries.upsert_connection(conn, event)
