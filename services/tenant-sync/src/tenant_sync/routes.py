"""HTTP in, with the shapes that the product app already uses."""

from typing import Annotated, Any

from litestar import get, post
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.handlers import BaseRouteHandler
from litestar.params import FromPath, JSONBody, QueryParameter
from msgspec import Struct

from shared.db import Pool
from shared.errors import NotFoundError, UnauthorizedError
from shared.events import TenantId
from shared.outbox import Outbox

from . import product, queries, sync
from .domain import Address, Connection, Country, Counts, ProductTenant, Run, Tenant, TenantNotInProductError
from .settings import TenantSyncSettings

DryRun = Annotated[bool, QueryParameter(name="dryRun", description="Say what would change, and change nothing")]


class SyncRequest(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    tenant_id: TenantId
    create_inbound_address: bool = False
    country: Country | None = None


class SyncAnswer(Struct, frozen=True, rename="camel", omit_defaults=True):
    success: bool
    tenant: Tenant
    inbound_address: str | None
    dry_run: bool = False


class SyncAllAnswer(Struct, frozen=True, rename="camel", omit_defaults=True):
    """The lists name up to a bound of ids each; counts are whole, and those of the whole run where it went on from
    one that had been killed.
    """

    success: bool
    total: int
    results: sync.Results
    counts: Counts
    dry_run: bool = False


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
    dry_run: DryRun = False,
) -> SyncAnswer:
    return await sync_one(data, pool, product_pool, outbox, settings, dry_run=dry_run)


async def sync_one(
    data: SyncRequest, pool: Pool, product_pool: Pool, outbox: Outbox, settings: TenantSyncSettings, *, dry_run: bool
) -> SyncAnswer:
    tenant = await _of_product(product_pool, data.tenant_id)
    country = data.country or settings.countries[0]
    async with pool.acquire() as conn, sync.transaction(conn, dry=dry_run):
        countries = [*settings.countries, country] if data.create_inbound_address else []
        ours = await sync.sync_one(conn, outbox, tenant, settings, countries=countries)
    # Read when it is over: the address that a dry run would make is drawn by lot, and would never be the one.
    addresses = await queries.list_addresses(pool, tenant.id) if data.create_inbound_address else []
    address = next((each.email for each in addresses if each.country == country), None)
    return SyncAnswer(success=True, tenant=ours, inbound_address=address, dry_run=dry_run)


@post(
    "/api/v1/tenants/sync-all",
    guards=[internal_only],
    status_code=200,
    summary="Bring every tenant in line with the product",
)
async def sync_all_tenants(
    pool: NamedDependency[Pool],
    product_pool: NamedDependency[Pool],
    outbox: NamedDependency[Outbox],
    settings: NamedDependency[TenantSyncSettings],
    dry_run: DryRun = False,
) -> SyncAllAnswer:
    return await sync_all(pool, product_pool, outbox, settings, dry_run=dry_run)


async def sync_all(
    pool: Pool, product_pool: Pool, outbox: Outbox, settings: TenantSyncSettings, *, dry_run: bool
) -> SyncAllAnswer:
    outcome = await sync.sync_all(product_pool, pool, outbox, settings, dry=dry_run)
    return SyncAllAnswer(
        success=not outcome.counts.errors,
        total=outcome.counts.total,
        results=outcome.results,
        counts=outcome.counts,
        dry_run=dry_run,
    )


@get("/api/v1/tenants/sync-all", guards=[internal_only], summary="How far the latest sync of all tenants is")
async def sync_all_progress(pool: NamedDependency[Pool]) -> Run:
    return await latest_run(pool)


async def latest_run(pool: Pool) -> Run:
    run = await queries.get_run(pool)
    if run is None:
        raise NotFoundError("No sync of all tenants has been run yet.")
    return run


@get("/api/v1/tenants/status/{asked_id:str}", guards=[internal_only], summary="A tenant in both databases")
async def tenant_status(
    asked_id: FromPath[str], pool: NamedDependency[Pool], product_pool: NamedDependency[Pool]
) -> StatusAnswer:
    return await status_of(asked_id, pool, product_pool)


async def status_of(asked_id: str, pool: Pool, product_pool: Pool) -> StatusAnswer:
    tenant = await _of_product(product_pool, asked_id)
    ours = await queries.get_tenant(pool, tenant.id)
    return StatusAnswer(
        tenant_id=tenant.id,
        product=Side(exists=True, name=tenant.name, plan=tenant.plan, status=tenant.status),
        marketplace=Side(exists=True, name=ours.name, plan=ours.plan, status=ours.status) if ours else Side(False),
        in_sync=ours == tenant.as_ours(),
        inbound_addresses=await queries.list_addresses(pool, tenant.id),
        marketplace_connections=await queries.list_connections(pool, tenant.id),
    )


async def _of_product(product_pool: Pool, tenant_id: str) -> ProductTenant:
    tenant = await product.get_tenant(product_pool, tenant_id)
    if tenant is None:
        raise TenantNotInProductError(f"The product has no tenant {tenant_id!r}: create it there first.")
    return tenant


ROUTES = [sync_tenant, sync_all_tenants, sync_all_progress, tenant_status]
