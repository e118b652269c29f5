"""Events in."""

from shared import inbox
from shared.amazon.marketplaces import BY_ID
from shared.db import Pool
from shared.events import (
    ConnectionConnected,
    ConnectionDisconnected,
    TenantAddressVerified,
    TenantArchived,
    TenantCreated,
    TenantUpdated,
)
from shared.outbox import Outbox

from . import product, queries, sync
from .domain import TenantNotVisibleYetError
from .settings import TenantSyncSettings


async def sync_tenant(
    event: TenantCreated | TenantUpdated | TenantArchived,
    event_id: str,
    *,
    handler: str = "sync_tenant",
    pool: Pool,
    product_pool: Pool,
    outbox: Outbox,
    settings: TenantSyncSettings,
) -> None:
    """The event says look; the product's database says what is true. handler is whose claim it is: the events of a
    tenant's life have a consumer each.
    """
    tenant = await product.get_tenant(product_pool, event.tenant_id)
    async with pool.acquire() as conn, conn.transaction():
        if not await inbox.claim(conn, handler, event_id):
            return
        if tenant is not None:
            await sync.sync_one(conn, outbox, tenant, settings, countries=settings.countries)
        elif await queries.get_tenant(conn, event.tenant_id) is not None:
            await sync.archive_one(conn, outbox, event.tenant_id)
        else:
            raise TenantNotVisibleYetError(f"The product database has no tenant {event.tenant_id}.")


async def note_connection(
    event: ConnectionConnected, event_id: str, *, pool: Pool, outbox: Outbox, settings: TenantSyncSettings
) -> None:
    """Keep what status answers about a tenant's accounts, and give the tenant addresses for their countries."""
    countries = sorted(BY_ID[id_].country for id_ in event.marketplace_ids if id_ in BY_ID)
    async with pool.acquire() as conn, conn.transaction():
        if not await inbox.claim(conn, "note_connection", event_id):
            return
        if not await queries.upsert_connection(conn, event, countries):
            return
        await queries.lock_tenants(conn, [event.tenant_id])
        if await sync.give_addresses(conn, settings, [event.tenant_id], settings.countries):
            await queries.announce(conn, [event.tenant_id])
            outbox.wake()


async def note_disconnection(event: ConnectionDisconnected, event_id: str, *, pool: Pool) -> None:
    """An account is connected no more; its addresses stay, as mail may still come."""
    async with pool.acquire() as conn, conn.transaction():
        if await inbox.claim(conn, "note_disconnection", event_id):
            await queries.disconnect(conn, event)


async def activate_address(event: TenantAddressVerified, event_id: str, *, pool: Pool, outbox: Outbox) -> None:
    """The first valid mail proves an address."""
    async with pool.acquire() as conn, conn.transaction():
        if not await inbox.claim(conn, "activate_address", event_id):
            return
        await queries.lock_tenants(conn, [event.tenant_id])
        if await queries.activate_address(conn, event.tenant_id, event.inbound_address):
            await queries.announce(conn, [event.tenant_id])
            outbox.wake()
