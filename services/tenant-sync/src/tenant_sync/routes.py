"""HTTP in, with the shapes that the product app already uses."""

from typing import Any

from litestar import get, post
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.handlers import BaseRouteHandler
from litestar.params import FromPath, JSONBody
from msgspec import Struct

from shared.db import Pool
from shared.errors import UnauthorizedError
from shared.events import TenantId
from shared.outbox import Outbox

from . import product, queries, sync
from .domain import Address, Connection, Country, ProductTenant, Tenant, TenantNotInProductError, copied
from .settings import TenantSyncSettings


class SyncRequest(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    tenant_id: TenantId
    create_inbound_address: bool = False
    country: Country | None = None


class SyncAnswer(Struct, frozen=True, rename="camel"):
    success: bool
    tenant: Tenant
    inbound_address: str | None


class SyncAllAnswer(Struct, frozen=True):
    success: bool
    total: int
    results: sync.Results


class Side(Struct, frozen=True, omit_defaults=True):
    """A tenant as one of the two databases has it."""

    exists: bool
    name: str | None = None
    plan: str | None = None
    status: str | None = None


class StatusAnswer(Struct, frozen=True, rename="camel"):
    tenant_id: str
    product: Side
    marketplace: Side
    in_sync: bool
    inbound_addresses: list[Address]
    marketplace_connections: list[Connection]


def internal_only(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Everything here reaches over all tenants: a person's token opens nothing, even where JWT_SECRET is set."""
    if not connection.user.by_key:
        raise UnauthorizedError("A token does not open this service: send an X-Internal-Key.")


@post(
    "/api/v1/tenants/sync", guards=[internal_only], status_code=200, summary="Bring one tenant in line with the product"
)
async def sync_tenant(
    data: JSONBody[SyncRequest],
    pool: NamedDependency[Pool],
    product_pool: NamedDependency[Pool],
    outbox: NamedDependency[Outbox],
    settings: NamedDependency[TenantSyncSettings],
) -> SyncAnswer:
    tenant = await _of_product(product_pool, data.tenant_id)
    country = (data.country or settings.default_country) if data.create_inbound_address else None
    async with pool.acquire() as conn, conn.transaction():
        ours, address = await sync.sync_one(conn, outbox, tenant, country=country, domain=settings.inbound_domain)
    return SyncAnswer(success=True, tenant=ours, inbound_address=address)


@post(
    "/api/v1/tenants/sync-all",
    guards=[internal_only],
    status_code=200,
    summary="Bring every tenant in line with the product",
)
async def sync_all_tenants(
    pool: NamedDependency[Pool], product_pool: NamedDependency[Pool], outbox: NamedDependency[Outbox]
) -> SyncAllAnswer:
    results = await sync.sync_all(product_pool, pool, outbox)
    total = sum(map(len, (results.created, results.updated, results.skipped, results.errors)))
    return SyncAllAnswer(success=not results.errors, total=total, results=results)


@get("/api/v1/tenants/status/{asked_id:str}", guards=[internal_only], summary="A tenant in both databases")
async def tenant_status(
    asked_id: FromPath[str], pool: NamedDependency[Pool], product_pool: NamedDependency[Pool]
) -> StatusAnswer:
    tenant = await _of_product(product_pool, asked_id)
    ours = await queries.get_tenant(pool, tenant.id)
    return StatusAnswer(
        tenant_id=tenant.id,
        product=Side(exists=True, name=tenant.name, plan=tenant.plan, status=tenant.status),
        marketplace=Side(exists=True, name=ours.name, plan=ours.plan, status=ours.status) if ours else Side(False),
        in_sync=ours == copied(tenant),
        inbound_addresses=await queries.list_addresses(pool, tenant.id),
        marketplace_connections=await queries.list_connections(pool, tenant.id),
    )


async def _of_product(product_pool: Pool, tenant_id: str) -> ProductTenant:
    tenant = await product.get_tenant(product_pool, tenant_id)
    if tenant is None:
        raise TenantNotInProductError(f"The product has no tenant {tenant_id!r}: create it there first.")
    return tenant


ROUTES = [sync_tenant, sync_all_tenants, tenant_status]
