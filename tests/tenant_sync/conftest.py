"""The two databases as tenant-sync sees them, and the product's own hand."""

from collections.abc import AsyncIterator

import httpx
import pytest
from msgspec import Struct

from devstack.stack import Stack
from shared.db import Pool
from shared.outbox import Outbox
from tenant_sync.routes import ROUTES
from tenant_sync.settings import TenantSyncSettings
from tests.builders import serving, settings_of
from tests.conftest import OpenPool


class Databases(Struct):
    """pool and product_pool are the service's; product writes what the product app would."""

    pool: Pool
    product_pool: Pool
    product: Pool

    async def put(self, tenant_id: str, *, name: str = "eComLG", plan: str = "pro", status: str = "active") -> None:
        await self.product.execute(
            "INSERT INTO tenants AS t (id, name, plan, status, updated_at) VALUES ($1, $2, $3, $4, clock_timestamp())"
            " ON CONFLICT (id) DO UPDATE SET name = excluded.name, plan = excluded.plan, status = excluded.status,"
            " updated_at = excluded.updated_at",
            tenant_id,
            name,
            plan,
            status,
        )


@pytest.fixture
async def databases(pool_of: OpenPool) -> Databases:
    return Databases(await pool_of("tenant_sync"), await pool_of("product_reader"), await pool_of("product"))


@pytest.fixture
def settings(stack: Stack) -> TenantSyncSettings:
    return settings_of(TenantSyncSettings, stack, "tenant-sync")


@pytest.fixture
async def http(databases: Databases, outbox: Outbox, settings: TenantSyncSettings) -> AsyncIterator[httpx.AsyncClient]:
    dependencies = {
        "pool": databases.pool,
        "product_pool": databases.product_pool,
        "outbox": outbox,
        "settings": settings,
    }
    async with serving("tenant-sync", ROUTES, settings, dependencies) as client:
        yield client
