"""Whatever happens between the product and us, in whatever order, both sides are equal in the end."""

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.events import (
    ConnectionDisconnected,
    DisconnectReason,
    MessageReceived,
    MessageSource,
    TenantCreated,
    TenantSynced,
)
from shared.outbox import Outbox
from tenant_sync import handlers, product, queries, sync
from tenant_sync.domain import ProductTenant, TenantNotVisibleYetError
from tenant_sync.settings import TenantSyncSettings
from tests.builders import connected
from tests.tenant_sync.conftest import Databases

KNOWN = ("kbz-001", "Mixed_Case-2")
TENANTS = st.sampled_from(KNOWN)
STEPS = st.one_of(
    st.tuples(st.just("change"), TENANTS, st.sampled_from(["pro", "starter"]), st.sampled_from(["active", "trialing"])),
    st.tuples(st.just("archive"), TENANTS),
    st.tuples(st.just("delete"), TENANTS),
    st.tuples(st.just("event"), TENANTS, st.integers(0, 5)),  # few ids, so that some come twice
    st.tuples(st.just("read"), TENANTS),  # a handler reads the product …
    st.tuples(st.just("write"), TENANTS),  # … and writes what it read, however long ago
    st.tuples(st.just("pair"), TENANTS),
    st.tuples(st.just("bulk")),
    st.tuples(st.just("dry")),
    st.tuples(st.just("bulk and event"), TENANTS),
    st.tuples(st.just("connect"), TENANTS, st.sampled_from([["A13V1IB3VIYZZH"], ["A1PA6795UKMFR9", "APJ6JRA9NG5V4"]])),
    st.tuples(st.just("disconnect"), TENANTS),
    st.tuples(st.just("mail"), TENANTS),
)


class World:
    """The product, us, and what is between them."""

    def __init__(self, databases: Databases, outbox: Outbox, settings: TenantSyncSettings) -> None:
        self.databases = databases
        self.ours = {"pool": databases.pool, "outbox": outbox, "settings": settings}
        self.outbox = outbox
        self.settings = settings
        self.read: dict[str, ProductTenant | None] = {}
        self.number = 0

    async def empty(self) -> None:
        for table in ("inbound_addresses", "inbound_connections", "tenants", "sync_runs", "outbox", "inbox"):
            await self.databases.pool.execute(f"DELETE FROM {table}")  # noqa: S608 - our own names
        await self.databases.product.execute("DELETE FROM tenants")

    async def event(self, tenant: str, event_id: str | None = None) -> None:
        self.number += 1
        with contextlib.suppress(TenantNotVisibleYetError):
            await handlers.sync_tenant(
                TenantCreated(tenant_id=tenant),
                event_id or f"event-{self.number}",
                product_pool=self.databases.product_pool,
                **self.ours,
            )

    async def bulk(self, *, dry: bool = False) -> sync.Outcome:
        return await sync.sync_all(
            self.databases.product_pool, self.databases.pool, self.outbox, self.settings, dry=dry
        )

    async def step(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("event", tenant, number):
                await self.event(tenant, f"{tenant}-{number}")
            case ("read", tenant):
                self.read[tenant] = await product.get_tenant(self.databases.product_pool, tenant)
            case ("write", tenant):
                if (copy := self.read.get(tenant)) is not None:
                    async with self.databases.pool.acquire() as conn, conn.transaction():
                        await sync.sync_one(conn, self.outbox, copy, self.settings, countries=self.settings.countries)
            case ("pair", tenant):
                await asyncio.gather(self.event(tenant), self.event(tenant))
            case ("bulk",):
                await self.bulk()
            case ("dry",):
                before = await self.everything()
                await self.bulk(dry=True)
                assert await self.everything() == before
            case ("bulk and event", tenant):
                await asyncio.gather(self.bulk(), self.event(tenant))
            case _:
                await self.in_the_product(step)
                await self.at_the_marketplace(step)

    async def in_the_product(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("change", tenant, plan, status):
                await self.databases.put(tenant, plan=plan, status=status)
            case ("archive", tenant):
                await self.databases.product.execute(
                    "UPDATE tenants SET status = 'archived', updated_at = clock_timestamp() WHERE id = $1", tenant
                )
            case ("delete", tenant):
                await self.databases.product.execute("DELETE FROM tenants WHERE id = $1", tenant)

    async def at_the_marketplace(self, step: tuple[Any, ...]) -> None:
        self.number += 1
        event_id = f"other-{self.number}"
        match step:
            case ("connect", tenant, marketplaces):
                event = connected(tenant_id=tenant, marketplace_ids=marketplaces)
                await handlers.note_connection(event, event_id, **self.ours)
            case ("disconnect", tenant):
                gone = ConnectionDisconnected(
                    tenant_id=tenant,
                    marketplace="AMAZON",
                    connection_id=UUID(int=1),
                    reason=DisconnectReason.USER,
                    at=datetime.now(UTC),
                )
                await handlers.note_disconnection(gone, event_id, pool=self.databases.pool)
            case ("mail", tenant):
                for address in await queries.list_addresses(self.databases.pool, tenant):
                    mail = MessageReceived(
                        tenant_id=tenant,
                        marketplace="AMAZON",
                        message_id=UUID(int=1),
                        external_id="mail",
                        ticket_id=UUID(int=2),
                        source=MessageSource.EMAIL,
                        inbound_address=address.email,
                        received_at=datetime.now(UTC),
                    )
                    await handlers.activate_address(
                        mail, f"{event_id} {address.email}", pool=self.databases.pool, outbox=self.outbox
                    )

    async def everything(self) -> list[Any]:
        tables = ("tenants", "inbound_addresses", "inbound_connections", "sync_runs", "outbox", "inbox")
        return [
            await self.databases.pool.fetch(f"SELECT t::text FROM {table} t ORDER BY 1")  # noqa: S608 - as above
            for table in tables
        ]


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(STEPS, min_size=6, max_size=25))
async def test_any_order_of_changes_events_and_syncs_ends_equal(
    databases: Databases, outbox: Outbox, settings: TenantSyncSettings, steps: list[tuple[Any, ...]]
) -> None:
    world = World(databases, outbox, settings)
    await world.empty()
    for tenant_id in KNOWN:
        await databases.put(tenant_id)
    await world.event(KNOWN[0])
    for step in steps:
        await world.step(step)
    await world.bulk()

    theirs = {row["id"]: row for row in await databases.product.fetch("SELECT * FROM tenants")}
    ours = {row["id"]: row for row in await databases.pool.fetch("SELECT * FROM tenants")}
    assert theirs.keys() <= ours.keys()
    for tenant_id, row in ours.items():
        if tenant_id in theirs:
            their = theirs[tenant_id]
            expected = (their["name"], their["plan"].upper(), their["status"].upper())
            assert (row["name"], row["plan"], row["status"]) == expected
        else:
            assert row["status"] == "ARCHIVED"
        addresses = await queries.list_addresses(databases.pool, tenant_id)
        activated = await databases.pool.fetch(
            "SELECT email FROM inbound_addresses WHERE tenant_id = $1 AND activated_at IS NOT NULL", tenant_id
        )
        proven = {row["email"] for row in activated}
        for address in addresses:
            live = "ACTIVE" if address.email in proven else "PENDING"
            assert address.status == ("DISABLED" if row["status"] == "ARCHIVED" else live)
        if row["status"] != "ARCHIVED":
            assert "FR" in {address.country for address in addresses}
        told = [
            msgspec.json.decode(each["payload"], type=TenantSynced)
            for each in await databases.pool.fetch("SELECT payload FROM outbox WHERE key = $1 ORDER BY seq", tenant_id)
        ]
        times = [event.synced_at for event in told if event.synced_at is not None]
        assert len(times) == len(told)
        assert times == sorted(times)
        last = told[-1]
        assert (last.name, last.plan, last.status) == (row["name"], row["plan"], row["status"])
        assert {(each.country, each.email, each.status) for each in last.inbound_addresses} == {
            (each.country, each.email, each.status) for each in addresses
        }
