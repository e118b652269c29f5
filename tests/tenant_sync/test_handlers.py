"""What tenant-sync does with events."""

import re
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from shared.events import TenantCreated
from shared.outbox import Outbox
from tenant_sync import handlers, queries
from tenant_sync.domain import Change, ProductTenant, TenantNotVisibleYetError
from tenant_sync.settings import TenantSyncSettings
from tests.builders import connected
from tests.conftest import Told
from tests.tenant_sync.conftest import Databases

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def sync_tenant(databases: Databases, outbox: Outbox, settings: TenantSyncSettings) -> Any:
    return partial(
        handlers.sync_tenant,
        pool=databases.pool,
        product_pool=databases.product_pool,
        outbox=outbox,
        settings=settings,
    )


async def rows(databases: Databases, table: str) -> list[dict[str, Any]]:
    return [dict(row) for row in await databases.pool.fetch(f"SELECT * FROM {table}")]  # noqa: S608 - our own names


async def test_a_new_tenant_is_copied_gets_an_address_and_is_announced(
    databases: Databases, sync_tenant: Any, told: Told
) -> None:
    await sync_tenant(TenantCreated(tenant_id="ecomlg-001"), "event-1")
    [tenant] = await rows(databases, "tenants")
    assert (tenant["id"], tenant["name"], tenant["plan"], tenant["status"]) == (
        *("ecomlg-001", "eComLG"),
        *("PRO", "ACTIVE"),
    )
    [address] = await rows(databases, "inbound_addresses")
    assert re.fullmatch(r"amazon\.ecomlg-001\.fr\.[a-z0-9]{6}@inbound\.keybuzz\.io", address["email"])
    assert await told(databases.pool) == [
        (
            "tenant.synced",
            {
                "tenantId": "ecomlg-001",
                "name": "eComLG",
                "plan": "PRO",
                "status": "ACTIVE",
                "inboundAddresses": [
                    {"marketplace": "AMAZON", "country": "FR", "email": address["email"], "status": "PENDING"}
                ],
            },
        )
    ]


@pytest.mark.parametrize("second_id", ["event-1", "event-2"])
async def test_a_tenant_told_again_changes_and_announces_nothing(
    databases: Databases, sync_tenant: Any, told: Told, second_id: str
) -> None:
    await sync_tenant(TenantCreated(tenant_id="ecomlg-001"), "event-1")
    before = await rows(databases, "tenants"), await rows(databases, "inbound_addresses")
    await sync_tenant(TenantCreated(tenant_id="ecomlg-001"), second_id)
    assert (await rows(databases, "tenants"), await rows(databases, "inbound_addresses")) == before
    assert len(await told(databases.pool)) == 1


async def test_the_same_delivery_again_does_nothing_even_when_the_product_has_changed(
    databases: Databases, sync_tenant: Any, told: Told
) -> None:
    await sync_tenant(TenantCreated(tenant_id="ecomlg-001"), "event-1")
    await databases.put("ecomlg-001", plan="business")
    await sync_tenant(TenantCreated(tenant_id="ecomlg-001"), "event-1")
    assert [row["plan"] for row in await rows(databases, "tenants")] == ["PRO"]
    assert len(await told(databases.pool)) == 1


async def test_a_tenant_changed_in_the_product_is_updated_and_announced_with_the_same_address(
    databases: Databases, sync_tenant: Any, told: Told
) -> None:
    await sync_tenant(TenantCreated(tenant_id="ecomlg-001"), "event-1")
    await databases.put("ecomlg-001", name="eComLG SAS", plan="business", status="suspended")
    await sync_tenant(TenantCreated(tenant_id="ecomlg-001"), "event-2")
    first, second = [body for _, body in await told(databases.pool)]
    assert (second["name"], second["plan"], second["status"]) == ("eComLG SAS", "BUSINESS", "SUSPENDED")
    assert second["inboundAddresses"] == first["inboundAddresses"]


async def test_a_tenant_that_the_product_does_not_show_yet_is_tried_again_later(
    databases: Databases, sync_tenant: Any, told: Told
) -> None:
    event = TenantCreated(tenant_id="not-there")
    with pytest.raises(TenantNotVisibleYetError):
        await sync_tenant(event, "event-1")
    assert [await rows(databases, table) for table in ("tenants", "inbound_addresses", "inbox")] == [[], [], []]
    assert await told(databases.pool) == []
    await databases.put("not-there")
    await sync_tenant(event, "event-1")
    assert len(await told(databases.pool)) == 1


async def test_a_mixed_case_tenant_keeps_its_id_and_gets_a_lower_case_address(
    databases: Databases, sync_tenant: Any, told: Told
) -> None:
    await databases.put("KBZ_Mixed-7")
    await sync_tenant(TenantCreated(tenant_id="KBZ_Mixed-7"), "event-1")
    [(_, body)] = await told(databases.pool)
    assert body["tenantId"] == "KBZ_Mixed-7"
    assert body["inboundAddresses"][0]["email"].startswith("amazon.kbz_mixed-7.fr.")


def of_product(plan: str, updated_at: datetime) -> ProductTenant:
    return ProductTenant("kbz-001", "Atelier Lumen", plan, "active", updated_at)


async def upserted(databases: Databases, tenant: ProductTenant) -> Change:
    async with databases.pool.acquire() as conn, conn.transaction():
        return (await queries.upsert_tenants(conn, [tenant]))["kbz-001"]


async def test_an_older_product_copy_does_not_overwrite_a_newer_one(databases: Databases) -> None:
    assert await upserted(databases, of_product("pro", NOW)) is Change.CREATED
    assert await upserted(databases, of_product("starter", NOW - timedelta(seconds=1))) is Change.SKIPPED
    assert [row["plan"] for row in await rows(databases, "tenants")] == ["PRO"]


async def test_a_copy_read_between_two_changes_does_not_overwrite_the_one_that_changed_back(
    databases: Databases,
) -> None:
    await upserted(databases, of_product("pro", NOW))
    changed, changed_back = NOW + timedelta(seconds=1), NOW + timedelta(seconds=2)
    assert await upserted(databases, of_product("pro", changed_back)) is Change.SKIPPED
    assert await upserted(databases, of_product("starter", changed)) is Change.SKIPPED
    assert [row["plan"] for row in await rows(databases, "tenants")] == ["PRO"]


async def test_a_connection_is_noted_once_and_the_newest_wins_in_any_order(databases: Databases) -> None:
    older = connected(seller_id="AOLD", connected_at=NOW)
    newer = connected(seller_id="ANEW", connected_at=NOW + timedelta(hours=1))
    await handlers.note_connection(newer, "event-2", pool=databases.pool)
    await handlers.note_connection(newer, "event-2", pool=databases.pool)
    await handlers.note_connection(older, "event-1", pool=databases.pool)
    [noted] = await queries.list_connections(databases.pool, "kbz-001")
    assert (noted.seller_id, noted.connection_id, noted.status) == ("ANEW", newer.connection_id, "CONNECTED")


async def test_a_connection_made_anew_replaces_the_one_before(databases: Databases) -> None:
    older = connected(seller_id="AOLD", connected_at=NOW)
    newer = connected(seller_id="ANEW", connected_at=NOW + timedelta(hours=1))
    await handlers.note_connection(older, "event-1", pool=databases.pool)
    await handlers.note_connection(newer, "event-2", pool=databases.pool)
    assert [each.seller_id for each in await queries.list_connections(databases.pool, "kbz-001")] == ["ANEW"]
