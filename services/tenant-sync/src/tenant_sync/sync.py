"""Bringing our copy of a tenant in line with the product's, for an event and for a request alike."""

from collections.abc import Sequence

from msgspec import Struct

from shared.db import Conn, Pool
from shared.events import InboundAddress, TenantSynced
from shared.outbox import Outbox

from . import product, queries
from .domain import Address, Change, ProductTenant, Tenant, new_email

PAGE = 1_000


class Results(Struct):
    """The ids of a bulk sync by what happened to them."""

    created: list[str]
    updated: list[str]
    skipped: list[str]
    errors: list[str]


async def sync_one(
    conn: Conn, outbox: Outbox, tenant: ProductTenant, *, country: str | None, domain: str
) -> tuple[Tenant, str | None]:
    """Copy the tenant, give it its address for a country where one is named, and announce what is new.
    Returns our copy and that address.
    """
    changes = await queries.upsert_tenants(conn, [tenant])
    created_address = country is not None and await queries.insert_address(
        conn, tenant.id, country, new_email(tenant.id, country, domain)
    )
    if created_address or changes[tenant.id] is not Change.SKIPPED:
        await announce(conn, outbox, [tenant.id])
    ours = await queries.get_tenant(conn, tenant.id)
    if ours is None:
        raise RuntimeError(f"the tenant {tenant.id} is gone within its own transaction")
    addresses = await queries.list_addresses(conn, tenant.id)
    return ours, next((each.email for each in addresses if each.country == country), None)


async def announce(conn: Conn, outbox: Outbox, tenant_ids: Sequence[str]) -> None:
    """Tell the others what our copies now are."""
    await outbox.add(
        conn, *[_synced(tenant, addresses) for tenant, addresses in await queries.list_tenants(conn, tenant_ids)]
    )


def _synced(tenant: Tenant, addresses: Sequence[Address]) -> TenantSynced:
    return TenantSynced(
        tenant_id=tenant.id,
        name=tenant.name,
        plan=tenant.plan,
        status=tenant.status,
        inbound_addresses=[
            InboundAddress(marketplace=each.marketplace, country=each.country, email=each.email, status=each.status)
            for each in addresses
        ],
    )


async def sync_all(product_pool: Pool, pool: Pool, outbox: Outbox) -> Results:
    """Every tenant of the product, page by page, each page in a transaction of its own."""
    results = Results([], [], [], [])
    lists = {Change.CREATED: results.created, Change.UPDATED: results.updated, Change.SKIPPED: results.skipped}
    after = ""
    while page := await product.list_tenants(product_pool, after, PAGE):
        after = page[-1].id
        async with pool.acquire() as conn, conn.transaction():
            changes = await queries.upsert_tenants(conn, page)
            changed = [tenant_id for tenant_id, change in changes.items() if change is not Change.SKIPPED]
            await announce(conn, outbox, changed)
        for tenant_id, change in changes.items():
            lists[change].append(tenant_id)
    return results
