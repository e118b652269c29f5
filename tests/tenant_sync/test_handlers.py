"""What tenant-sync does with events."""

import asyncio
import re
from datetime import UTC, datetime, timedelta

import asyncpg
import msgspec
import pytest

from shared.events import (
    ConnectionConnected,
    ConnectionDisconnected,
    DisconnectReason,
    TenantAddressVerified,
    TenantArchived,
    TenantCreated,
    TenantUpdated,
)
from tenant_sync import queries
from tenant_sync.domain import Change, ProductTenant, TenantNotVisibleYetError
from tests.builders import connected
from tests.tenant_sync.conftest import Databases, Service

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TENANT = "ecomlg-001"
FRANCE, GERMANY, SPAIN = "A13V1IB3VIYZZH", "A1PA6795UKMFR9", "A1RKKUPIHCS9HS"
LIFE = [TenantCreated, TenantUpdated, TenantArchived]


def disconnected(connection: ConnectionConnected, at: datetime) -> ConnectionDisconnected:
    return ConnectionDisconnected(
        tenant_id=connection.tenant_id,
        marketplace=connection.marketplace,
        connection_id=connection.connection_id,
        reason=DisconnectReason.USER,
        at=at,
    )


def verified(address: str, *, tenant_id: str = TENANT) -> TenantAddressVerified:
    return TenantAddressVerified(tenant_id=tenant_id, marketplace="AMAZON", inbound_address=address, at=NOW)


async def test_a_new_tenant_is_copied_gets_an_address_and_is_announced(databases: Databases, service: Service) -> None:
    await service.created(TENANT)
    [tenant] = await databases.rows("tenants")
    assert [tenant[column] for column in ("id", "name", "plan", "status")] == [TENANT, "eComLG", "PRO", "ACTIVE"]
    [address] = await databases.rows("inbound_addresses")
    assert re.fullmatch(r"amazon\.ecomlg-001\.fr\.[a-z0-9]{6}@inbound\.keybuzz\.io", address["email"])
    [event] = await databases.announced()
    assert (event.tenant_id, event.name, event.plan, event.status) == (TENANT, "eComLG", "PRO", "ACTIVE")
    assert [(each.marketplace, each.country, each.email, each.status) for each in event.inbound_addresses] == [
        ("AMAZON", "FR", address["email"], "PENDING")
    ]


@pytest.mark.parametrize("kind", LIFE)
async def test_each_event_of_a_tenants_life_says_look_and_the_product_says_what(
    databases: Databases, service: Service, kind: type[TenantCreated]
) -> None:
    await service.hear(kind(tenant_id=TENANT))
    assert await databases.status(TENANT) == "ACTIVE"
    await databases.put(TENANT, status="archived")
    await service.hear(kind(tenant_id=TENANT))
    assert await databases.status(TENANT) == "ARCHIVED"
    assert [event.status for event in await databases.announced()] == ["ACTIVE", "ARCHIVED"]


@pytest.mark.parametrize("kind", LIFE)
@pytest.mark.parametrize("second_id", ["event-1", "event-2"])
async def test_a_tenant_told_again_changes_and_announces_nothing(
    databases: Databases, service: Service, kind: type[TenantCreated], second_id: str
) -> None:
    await service.hear(kind(tenant_id=TENANT), "event-1")
    before = await databases.dump("written")
    await service.hear(kind(tenant_id=TENANT), second_id)
    after = await databases.dump("written")
    assert len(after.pop("inbox")) == len({"event-1", second_id})
    del before["inbox"]
    assert after == before


@pytest.mark.parametrize("kind", LIFE)
async def test_an_event_delivered_twice_takes_effect_once_though_the_product_has_changed(
    databases: Databases, service: Service, kind: type[TenantCreated]
) -> None:
    await service.hear(kind(tenant_id=TENANT), "event-1")
    await databases.put(TENANT, plan="business")
    await service.hear(kind(tenant_id=TENANT), "event-1")
    assert [row["plan"] for row in await databases.rows("tenants")] == ["PRO"]
    assert len(await databases.announced()) == 1


async def test_one_id_on_two_subjects_is_two_events(databases: Databases, service: Service) -> None:
    await service.created(TENANT, "event-1")
    await databases.put(TENANT, plan="business")
    await service.updated(TENANT, "event-1")
    await databases.put(TENANT, status="archived")
    await service.archived(TENANT, "event-1")
    assert [(event.plan, event.status) for event in await databases.announced()] == [
        ("PRO", "ACTIVE"),
        ("BUSINESS", "ACTIVE"),
        ("PRO", "ARCHIVED"),
    ]


async def test_a_tenant_changed_in_the_product_is_updated_and_announced_with_the_same_address(
    databases: Databases, service: Service
) -> None:
    await service.created(TENANT)
    await databases.put(TENANT, name="eComLG SAS", plan="business", status="suspended")
    await service.updated(TENANT)
    first, second = await databases.announced()
    assert (second.name, second.plan, second.status) == ("eComLG SAS", "BUSINESS", "SUSPENDED")
    assert second.inbound_addresses == first.inbound_addresses


async def test_events_that_come_in_the_wrong_order_end_at_what_the_product_says(
    databases: Databases, service: Service
) -> None:
    await databases.put(TENANT, status="archived")
    await service.archived(TENANT)
    await service.updated(TENANT)
    await service.created(TENANT)
    assert await databases.status(TENANT) == "ARCHIVED"
    assert await databases.statuses(TENANT) == {}
    assert len(await databases.announced()) == 1


@pytest.mark.parametrize("kind", LIFE)
async def test_a_tenant_that_the_product_does_not_show_yet_is_tried_again_later(
    databases: Databases, service: Service, kind: type[TenantCreated]
) -> None:
    before = await databases.dump()
    with pytest.raises(TenantNotVisibleYetError):
        await service.hear(kind(tenant_id="not-there"), "event-1")
    assert await databases.dump() == before
    await databases.put("not-there")
    await service.hear(kind(tenant_id="not-there"), "event-1")
    assert [event.tenant_id for event in await databases.announced()] == ["not-there"]


async def test_a_mixed_case_tenant_keeps_its_id_and_gets_a_lower_case_address(
    databases: Databases, service: Service
) -> None:
    await databases.put("KBZ_Mixed-7")
    await service.created("KBZ_Mixed-7")
    [event] = await databases.announced()
    assert event.tenant_id == "KBZ_Mixed-7"
    assert event.inbound_addresses[0].email.startswith("amazon.kbz_mixed-7.fr.")


async def test_a_tenant_without_name_plan_and_status_is_kept_with_empty_ones(
    databases: Databases, service: Service
) -> None:
    await databases.product.execute(
        "ALTER TABLE tenants ALTER name DROP NOT NULL, ALTER plan DROP NOT NULL, ALTER status DROP NOT NULL"
    )
    await databases.product.execute("UPDATE tenants SET name = NULL, plan = NULL, status = NULL WHERE id = $1", TENANT)
    await service.created(TENANT)
    [event] = await databases.announced()
    assert (event.name, event.plan, event.status) == ("", "", "")


async def test_an_archived_tenants_addresses_are_disabled_and_are_what_they_were_when_it_comes_back(
    databases: Databases, service: Service
) -> None:
    both = service.with_countries("DE,FR")
    await both.created(TENANT)
    emails = {country: await databases.email(TENANT, country) for country in ("DE", "FR")}
    await service.hear(verified(emails["FR"]))
    await databases.put(TENANT, status="archived")
    await both.archived(TENANT)
    assert await databases.statuses(TENANT) == {"DE": "DISABLED", "FR": "DISABLED"}
    await databases.put(TENANT, status="active")
    await both.updated(TENANT)
    assert await databases.statuses(TENANT) == {"DE": "PENDING", "FR": "ACTIVE"}
    assert {country: await databases.email(TENANT, country) for country in ("DE", "FR")} == emails
    assert [
        [event.status, *(address.status for address in event.inbound_addresses)]
        for event in await databases.announced()
    ] == [
        ["ACTIVE", "PENDING", "PENDING"],
        ["ACTIVE", "PENDING", "ACTIVE"],
        ["ARCHIVED", "DISABLED", "DISABLED"],
        ["ACTIVE", "PENDING", "ACTIVE"],
    ]


@pytest.mark.parametrize("kind", LIFE)
async def test_a_tenant_that_the_product_has_deleted_is_archived_once_and_comes_back_with_it(
    databases: Databases, service: Service, kind: type[TenantCreated]
) -> None:
    await service.created(TENANT)
    email = await databases.email(TENANT)
    row = await databases.product.fetchrow("DELETE FROM tenants WHERE id = $1 RETURNING *", TENANT)
    await service.hear(kind(tenant_id=TENANT))
    await service.hear(kind(tenant_id=TENANT))
    assert await databases.status(TENANT) == "ARCHIVED"
    assert await databases.statuses(TENANT) == {"FR": "DISABLED"}
    # From a backup, with a time of change before the one that we know.
    restored = "INSERT INTO tenants VALUES ($1, $2, $3, $4, $5, $6::timestamptz - interval '1 day')"
    await databases.product.execute(restored, *row.values())
    await service.hear(kind(tenant_id=TENANT))
    assert await databases.status(TENANT) == "ACTIVE"
    assert await databases.statuses(TENANT) == {"FR": "PENDING"}
    assert await databases.email(TENANT) == email
    assert [event.status for event in await databases.announced()] == ["ACTIVE", "ARCHIVED", "ACTIVE"]


async def test_a_tenant_that_was_never_but_archived_gets_its_address_when_it_comes_back(
    databases: Databases, service: Service
) -> None:
    await databases.put(TENANT, status="archived")
    await service.archived(TENANT)
    assert await databases.statuses(TENANT) == {}
    await databases.put(TENANT)
    await service.updated(TENANT)
    assert await databases.statuses(TENANT) == {"FR": "PENDING"}


def of_product(plan: str, updated_at: datetime) -> ProductTenant:
    return ProductTenant("kbz-001", "Atelier Lumen", plan, "active", plan.upper(), "ACTIVE", updated_at)


async def upserted(databases: Databases, tenant: ProductTenant) -> Change:
    async with databases.pool.acquire() as conn, conn.transaction():
        return await queries.upsert_tenant(conn, tenant)


async def test_an_older_product_copy_does_not_overwrite_a_newer_one(databases: Databases) -> None:
    assert await upserted(databases, of_product("pro", NOW)) is Change.CREATED
    assert await upserted(databases, of_product("starter", NOW - timedelta(seconds=1))) is Change.SKIPPED
    assert [row["plan"] for row in await databases.rows("tenants")] == ["PRO"]


async def test_a_change_without_a_new_time_is_taken(databases: Databases) -> None:
    await upserted(databases, of_product("pro", NOW))
    assert await upserted(databases, of_product("starter", NOW)) is Change.UPDATED
    assert [row["plan"] for row in await databases.rows("tenants")] == ["STARTER"]


async def test_a_copy_read_between_two_changes_does_not_overwrite_the_one_that_changed_back(
    databases: Databases,
) -> None:
    await upserted(databases, of_product("pro", NOW))
    changed, changed_back = NOW + timedelta(seconds=1), NOW + timedelta(seconds=2)
    assert await upserted(databases, of_product("pro", changed_back)) is Change.SKIPPED
    assert await upserted(databases, of_product("starter", changed)) is Change.SKIPPED
    assert [row["plan"] for row in await databases.rows("tenants")] == ["PRO"]


async def test_what_fails_leaves_nothing_and_works_when_it_comes_again(databases: Databases, service: Service) -> None:
    before = await databases.dump()
    async with databases.pool.acquire() as conn, conn.transaction():
        await conn.execute("LOCK TABLE inbound_addresses IN ACCESS EXCLUSIVE MODE")
        hearing = asyncio.create_task(service.created(TENANT, "event-1"))
        pid = await databases.blocked()
        await conn.execute("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await hearing
    assert await databases.dump() == before
    await service.created(TENANT, "event-1")
    assert len(await databases.announced()) == 1


async def test_a_tenant_archived_while_it_was_to_get_an_address_gets_none(
    databases: Databases, service: Service
) -> None:
    await service.created(TENANT)
    async with databases.pool.acquire() as conn, conn.transaction():
        await conn.execute("UPDATE tenants SET status = 'ARCHIVED' WHERE id = $1", TENANT)
        noting = asyncio.create_task(service.hear(connected(tenant_id=TENANT, marketplace_ids=[GERMANY])))
        await databases.blocked()
    await noting
    assert await databases.statuses(TENANT) == {"FR": "PENDING"}


async def test_a_connection_gives_its_countries_addresses_and_announces_them(
    databases: Databases, service: Service
) -> None:
    await service.created(TENANT)
    await service.hear(connected(tenant_id=TENANT, marketplace_ids=[FRANCE, GERMANY, SPAIN, "ANOTHER"]))
    assert set(await databases.statuses(TENANT)) == {"DE", "ES", "FR"}
    events = await databases.announced()
    assert [[each.country for each in event.inbound_addresses] for event in events] == [["FR"], ["DE", "ES", "FR"]]


async def test_a_connection_that_comes_before_its_tenant_is_kept_for_it(databases: Databases, service: Service) -> None:
    await service.hear(connected(tenant_id=TENANT, marketplace_ids=[GERMANY]))
    assert (await databases.announced(), await databases.statuses(TENANT)) == ([], {})
    await service.created(TENANT)
    assert set(await databases.statuses(TENANT)) == {"DE", "FR"}
    [event] = await databases.announced()
    assert [each.country for each in event.inbound_addresses] == ["DE", "FR"]


@pytest.mark.parametrize("second_id", ["event-1", "event-2"])
async def test_a_connection_told_again_changes_and_announces_nothing(
    databases: Databases, service: Service, second_id: str
) -> None:
    await service.created(TENANT)
    event = connected(tenant_id=TENANT, marketplace_ids=[GERMANY])
    await service.hear(event, "event-1")
    before = await databases.dump("written")
    await service.hear(event, second_id)
    after = await databases.dump("written")
    del before["inbox"], after["inbox"]
    assert after == before


async def test_a_connection_of_an_archived_tenant_gives_no_address_until_the_tenant_comes_back(
    databases: Databases, service: Service
) -> None:
    await databases.put(TENANT, status="archived")
    await service.created(TENANT)
    await service.hear(connected(tenant_id=TENANT, marketplace_ids=[GERMANY]))
    assert await databases.statuses(TENANT) == {}
    await databases.put(TENANT)
    await service.updated(TENANT)
    assert await databases.statuses(TENANT) == {"DE": "PENDING", "FR": "PENDING"}


async def test_of_two_connections_the_newer_wins_in_any_order(databases: Databases, service: Service) -> None:
    older = connected(seller_id="AOLD", connected_at=NOW)
    newer = connected(seller_id="ANEW", connected_at=NOW + timedelta(hours=1))
    for tenant_id, events in (("kbz-001", (older, newer)), ("kbz-002", (newer, older))):
        for event in events:
            await service.hear(msgspec.structs.replace(event, tenant_id=tenant_id))
        [noted] = await queries.list_connections(databases.pool, tenant_id)
        assert (noted.seller_id, noted.connection_id, noted.status) == ("ANEW", newer.connection_id, "CONNECTED")


@pytest.mark.parametrize(
    ("order", "status", "seller"),
    [
        ("connect disconnect", "DISCONNECTED", "AFIRST"),
        ("disconnect connect", "DISCONNECTED", ""),
        ("connect disconnect connect-again", "CONNECTED", "ASECOND"),
        ("connect connect-again disconnect", "CONNECTED", "ASECOND"),
        ("connect-again disconnect connect", "CONNECTED", "ASECOND"),
        ("disconnect connect-again connect", "CONNECTED", "ASECOND"),
        ("connect disconnect disconnect", "DISCONNECTED", "AFIRST"),
    ],
)
async def test_the_latest_word_of_a_connection_counts_in_whatever_order_it_comes(
    databases: Databases, service: Service, order: str, status: str, seller: str
) -> None:
    first = connected(tenant_id=TENANT, seller_id="AFIRST", connected_at=NOW)
    again = connected(tenant_id=TENANT, seller_id="ASECOND", connected_at=NOW + timedelta(hours=2))
    events = {"connect": first, "disconnect": disconnected(first, NOW + timedelta(hours=1)), "connect-again": again}
    for name in order.split():
        await service.hear(events[name])
    [noted] = await queries.list_connections(databases.pool, TENANT)
    assert (noted.status, noted.seller_id) == (status, seller)
    assert noted.connection_id == (again if status == "CONNECTED" else first).connection_id


async def test_addresses_stay_when_their_connection_ends(databases: Databases, service: Service) -> None:
    await service.created(TENANT)
    event = connected(tenant_id=TENANT, marketplace_ids=[GERMANY], connected_at=NOW)
    await service.hear(event)
    before = await databases.rows("inbound_addresses")
    await service.hear(disconnected(event, NOW + timedelta(hours=1)), "event-1")
    await service.hear(disconnected(event, NOW + timedelta(hours=1)), "event-1")
    assert await databases.rows("inbound_addresses") == before
    assert len(await databases.announced()) == 2


async def test_the_first_mail_proves_an_address_once(databases: Databases, service: Service) -> None:
    await service.created(TENANT)
    event = verified((await databases.email(TENANT)).upper())
    await service.hear(event, "event-1")
    assert await databases.statuses(TENANT) == {"FR": "ACTIVE"}
    before = await databases.dump("written")
    for event_id in ("event-1", "event-2"):
        await service.hear(event, event_id)
    after = await databases.dump("written")
    del before["inbox"], after["inbox"]
    assert after == before
    assert [event.inbound_addresses[0].status for event in await databases.announced()] == ["PENDING", "ACTIVE"]


async def test_a_mail_that_comes_during_a_change_is_announced_behind_it(databases: Databases, service: Service) -> None:
    await service.created(TENANT)
    message = verified(await databases.email(TENANT))
    async with databases.pool.acquire() as conn, conn.transaction():
        await conn.execute("UPDATE tenants SET name = 'Renamed' WHERE id = $1", TENANT)
        mailing = asyncio.create_task(service.hear(message))
        async with asyncio.timeout(20):
            await databases.blocked()
        await queries.announce(conn, [TENANT])
    await mailing
    assert [(event.name, event.inbound_addresses[0].status) for event in await databases.announced()] == [
        ("eComLG", "PENDING"),
        ("Renamed", "PENDING"),
        ("Renamed", "ACTIVE"),
    ]


async def test_only_a_mail_to_an_address_of_that_tenant_activates_it(databases: Databases, service: Service) -> None:
    await service.created(TENANT)
    await service.created("kbz-001")
    email = await databases.email(TENANT)
    for event in (
        verified("amazon.ecomlg-001.fr.nobody@inbound.keybuzz.io"),
        verified("amazon.ecomlg-001.fr.%@inbound.keybuzz.io"),
        verified(email, tenant_id="kbz-001"),
        verified(email, tenant_id="nobody"),
    ):
        await service.hear(event)
    assert [row["status"] for row in await databases.rows("inbound_addresses")] == ["PENDING", "PENDING"]
    assert len(await databases.announced()) == 2


async def test_a_mail_that_comes_while_the_tenant_is_archived_shows_when_it_is_back(
    databases: Databases, service: Service
) -> None:
    await service.created(TENANT)
    await databases.put(TENANT, status="archived")
    await service.archived(TENANT)
    await service.hear(verified(await databases.email(TENANT)))
    assert await databases.statuses(TENANT) == {"FR": "DISABLED"}
    assert len(await databases.announced()) == 2
    await databases.put(TENANT)
    await service.updated(TENANT)
    assert await databases.statuses(TENANT) == {"FR": "ACTIVE"}
