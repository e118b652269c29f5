"""The two databases as tenant-sync sees them, the product's own hand, and the service's handlers on them."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Literal

import httpx
import msgspec
import pytest
from msgspec import Struct

from devstack.stack import Stack
from shared.db import Pool
from shared.events import (
    ConnectionConnected,
    ConnectionDisconnected,
    Event,
    TenantAddressVerified,
    TenantArchived,
    TenantCreated,
    TenantSynced,
    TenantUpdated,
)
from shared.outbox import Outbox
from tenant_sync import handlers, sync
from tenant_sync.routes import ROUTES
from tenant_sync.settings import TenantSyncSettings
from tests.builders import new_id, serving, settings_of
from tests.conftest import OpenPool

TABLES = {
    "tenants": "id",
    "inbound_addresses": "tenant_id, marketplace, country",
    "inbound_connections": "tenant_id, marketplace",
    "outbox": "seq",
    "inbox": "handler, event_id",
    "sync_runs": "started_at",
}
OF_SUBJECT: dict[type[Event], str] = {
    TenantCreated: "sync_tenant",
    TenantUpdated: "sync_updated_tenant",
    TenantArchived: "sync_archived_tenant",
}


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

    async def put_many(self, count: int, prefix: str = "many-") -> list[str]:
        rows = await self.product.fetch(
            "INSERT INTO tenants (id, name, plan, status) SELECT $2 || n, 'Tenant ' || n, 'pro', 'active'"
            " FROM generate_series(1, $1::int) n RETURNING id",
            count,
            prefix,
        )
        return sorted(row["id"] for row in rows)

    async def remove(self, *tenant_ids: str) -> None:
        await self.product.execute("DELETE FROM tenants WHERE id = ANY ($1::text[])", tenant_ids)

    async def rows(self, table: str) -> list[dict[str, Any]]:
        found = await self.pool.fetch(f"SELECT * FROM {table} ORDER BY {TABLES[table]}")  # noqa: S608 - our own names
        return [dict(row) for row in found]

    async def dump(self, of: Literal["rows", "written", "touched"] = "rows") -> dict[str, list[tuple[Any, ...]]]:
        """Every row of every table; with their places, writers and lockers too, which any touch changes."""
        system = {"rows": "", "written": "ctid::text, xmin::text, ", "touched": "ctid::text, xmin::text, xmax::text, "}[
            of
        ]
        return {
            table: [
                tuple(row)
                for row in await self.pool.fetch(f"SELECT {system}* FROM {table} ORDER BY {order}")  # noqa: S608
            ]
            for table, order in TABLES.items()
        }

    async def statuses(self, tenant_id: str) -> dict[str, str]:
        """Of the tenant's addresses, by country."""
        rows = await self.pool.fetch("SELECT country, status FROM inbound_addresses WHERE tenant_id = $1", tenant_id)
        return {row["country"]: row["status"] for row in rows}

    async def email(self, tenant_id: str, country: str = "FR") -> str:
        found: str = await self.pool.fetchval(
            "SELECT email FROM inbound_addresses WHERE tenant_id = $1 AND country = $2", tenant_id, country
        )
        return found

    async def status(self, tenant_id: str) -> str | None:
        found: str | None = await self.pool.fetchval("SELECT status FROM tenants WHERE id = $1", tenant_id)
        return found

    async def blocked(self) -> int:
        """The session that waits for a lock, as soon as there is one."""
        waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        while (pid := await self.pool.fetchval(waiting)) is None:  # noqa: ASYNC110 - the database knows
            await asyncio.sleep(0.01)
        return int(pid)

    async def announced(self, tenant_id: str | None = None) -> list[TenantSynced]:
        """In the order of the outbox; all tenants', or one's."""
        rows = await self.pool.fetch(
            "SELECT payload FROM outbox WHERE subject = 'tenant.synced' AND ($1::text IS NULL OR key = $1)"
            " ORDER BY seq",
            tenant_id,
        )
        return [msgspec.json.decode(row["payload"], type=TenantSynced) for row in rows]


class Service(Struct):
    """The service's doings with everything bound; an event without an id gets a new one."""

    databases: Databases
    outbox: Outbox
    settings: TenantSyncSettings

    async def hear(self, event: Event, event_id: str | None = None) -> None:
        databases = self.databases
        bound: dict[str, Any] = {"pool": databases.pool, "outbox": self.outbox, "settings": self.settings}
        handler: Any
        match event:
            case ConnectionConnected():
                handler = handlers.note_connection
            case ConnectionDisconnected():
                handler = handlers.note_disconnection
                del bound["outbox"], bound["settings"]
            case TenantAddressVerified():
                handler = handlers.activate_address
                del bound["settings"]
            case _:
                handler = partial(handlers.sync_tenant, handler=OF_SUBJECT[type(event)])
                bound["product_pool"] = databases.product_pool
        await handler(event, event_id or new_id("event"), **bound)

    async def created(self, tenant_id: str, event_id: str | None = None) -> None:
        await self.hear(TenantCreated(tenant_id=tenant_id), event_id)

    async def updated(self, tenant_id: str, event_id: str | None = None) -> None:
        await self.hear(TenantUpdated(tenant_id=tenant_id), event_id)

    async def archived(self, tenant_id: str, event_id: str | None = None) -> None:
        await self.hear(TenantArchived(tenant_id=tenant_id), event_id)

    async def sync_all(self, *, dry: bool = False) -> sync.Outcome:
        return await sync.sync_all(
            self.databases.product_pool, self.databases.pool, self.outbox, self.settings, dry=dry
        )

    def with_countries(self, countries: str) -> "Service":
        changed = msgspec.structs.replace(self.settings, active_countries=countries)
        return Service(self.databases, self.outbox, changed)


@pytest.fixture
async def databases(pool_of: OpenPool) -> Databases:
    return Databases(await pool_of("tenant_sync"), await pool_of("product_reader"), await pool_of("product"))


@pytest.fixture
def settings(stack: Stack) -> TenantSyncSettings:
    return settings_of(TenantSyncSettings, stack, "tenant-sync")


@pytest.fixture
def service(databases: Databases, outbox: Outbox, settings: TenantSyncSettings) -> Service:
    return Service(databases, outbox, settings)


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
