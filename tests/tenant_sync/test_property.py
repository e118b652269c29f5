"""Whatever happens in whatever order, at the end our copy, its addresses and the last word about each tenant are what
the product says.
"""

import asyncio
import contextlib
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.events import Event, TenantAddressVerified, TenantArchived, TenantCreated, TenantUpdated
from tenant_sync import product, sync
from tenant_sync.domain import ProductTenant, SyncRunningError, TenantNotVisibleYetError
from tests.builders import connected
from tests.tenant_sync.conftest import TABLES, Service

TENANTS = ["a", "B", "c-3"]
LIFE: list[type[Event]] = [TenantCreated, TenantUpdated, TenantArchived]
NEVER = datetime.min.replace(tzinfo=UTC)
GERMANY, SPAIN = "A1PA6795UKMFR9", "A1RKKUPIHCS9HS"

tenants = st.sampled_from(TENANTS)
kinds = st.sampled_from(LIFE)
products = st.one_of(
    st.tuples(st.just("put"), tenants, st.sampled_from(["pro", "free"]), st.sampled_from(["active", "trialing"])),
    st.tuples(st.just("archive"), tenants),
    st.tuples(st.just("come_back"), tenants),
    st.tuples(st.just("delete"), tenants),
)
ours = st.one_of(
    st.tuples(st.just("hear"), tenants, kinds),
    st.tuples(st.just("hear_again"), st.integers(0, 30)),
    st.tuples(st.just("look"), tenants),
    st.tuples(st.just("store"), tenants),
    st.tuples(st.just("connect"), tenants, st.sampled_from([GERMANY, SPAIN])),
    st.tuples(st.just("mail"), tenants),
    st.tuples(st.just("sync_all")),
    st.tuples(st.just("dry_run")),
)
told = st.tuples(st.just("told"), products, kinds)
step = st.one_of(told, told, products, ours)
# An event that is lost is one that no step delivers; one that comes late comes behind other changes.
steps = st.lists(
    st.one_of(step, step, st.tuples(st.just("together"), st.lists(step, min_size=2, max_size=3))),
    min_size=6,
    max_size=25,
)


class World:
    """The two databases and the events that were delivered, some of which come again."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.databases = service.databases
        self.heard: list[tuple[Event, str]] = []
        self.seen: dict[str, ProductTenant | None] = {}

    async def step(self, name: str, *values: Any) -> None:
        with contextlib.suppress(TenantNotVisibleYetError, SyncRunningError):
            await getattr(self, name)(*values)

    async def together(self, each: list[tuple[Any, ...]]) -> None:
        doing: list[Awaitable[None]] = [self.step(*step) for step in each]
        await asyncio.gather(*doing)

    async def put(self, tenant_id: str, plan: str, status: str) -> None:
        await self.databases.put(tenant_id, plan=plan, status=status)

    async def archive(self, tenant_id: str) -> None:
        await self._change("UPDATE tenants SET status = 'archived', updated_at = clock_timestamp()", tenant_id)

    async def come_back(self, tenant_id: str) -> None:
        await self._change("UPDATE tenants SET status = 'active', updated_at = clock_timestamp()", tenant_id)

    async def delete(self, tenant_id: str) -> None:
        await self._change("DELETE FROM tenants", tenant_id)

    async def _change(self, statement: str, tenant_id: str) -> None:
        await self.databases.product.execute(f"{statement} WHERE id = $1", tenant_id)

    async def hear(self, tenant_id: str, kind: type[Event]) -> None:
        await self._deliver(kind(tenant_id=tenant_id), str(uuid4()))

    async def told(self, change: tuple[Any, ...], kind: type[Event]) -> None:
        """As the product does: change, then tell."""
        await self.step(*change)
        await self.hear(change[1], kind)

    async def hear_again(self, which: int) -> None:
        if self.heard:
            await self._deliver(*self.heard[which % len(self.heard)])

    async def look(self, tenant_id: str) -> None:
        """A handler reads the product …"""
        self.seen[tenant_id] = await product.get_tenant(self.databases.product_pool, tenant_id)

    async def store(self, tenant_id: str) -> None:
        """… and writes what it has read, however long ago that was."""
        if (tenant := self.seen.get(tenant_id)) is not None:
            countries = self.service.settings.countries
            async with self.databases.pool.acquire() as conn, conn.transaction():
                await sync.sync_one(conn, self.service.outbox, tenant, self.service.settings, countries=countries)

    async def connect(self, tenant_id: str, marketplace_id: str) -> None:
        await self._deliver(connected(tenant_id=tenant_id, marketplace_ids=[marketplace_id]), str(uuid4()))

    async def mail(self, tenant_id: str) -> None:
        email = await self.databases.email(tenant_id)
        verified = TenantAddressVerified(
            tenant_id=tenant_id, marketplace="AMAZON", inbound_address=email, at=connected().connected_at
        )
        await self._deliver(verified, str(uuid4()))

    async def _deliver(self, event: Event, event_id: str) -> None:
        self.heard.append((event, event_id))
        await self.service.hear(event, event_id)

    async def sync_all(self) -> None:
        await self.service.sync_all()

    async def dry_run(self) -> None:
        await self.service.sync_all(dry=True)

    async def ends_equal(self) -> None:
        theirs = {
            row["id"]: (row["name"], row["plan"].upper(), row["status"].upper())
            for row in await self.databases.product.fetch("SELECT * FROM tenants")
        }
        ours = {row["id"]: row for row in await self.databases.rows("tenants")}
        all_addresses = await self.databases.rows("inbound_addresses")
        connections = {row["tenant_id"]: row["countries"] for row in await self.databases.rows("inbound_connections")}
        announced = await self.databases.announced()
        last = {event.tenant_id: event for event in sorted(announced, key=lambda event: event.synced_at or NEVER)}
        emails = {
            (event.tenant_id, each.country, each.email) for event in announced for each in event.inbound_addresses
        }
        assert len(emails) == len({(tenant_id, country) for tenant_id, country, _ in emails})
        assert theirs.keys() <= ours.keys()
        assert last.keys() == ours.keys()
        for tenant_id, row in ours.items():
            if tenant_id in theirs:
                assert (row["name"], row["plan"], row["status"]) == theirs[tenant_id]
            else:
                assert row["status"] == "ARCHIVED"
            addresses = [each for each in all_addresses if each["tenant_id"] == tenant_id]
            for address in addresses:
                alive = "PENDING" if address["activated_at"] is None else "ACTIVE"
                assert address["status"] == ("DISABLED" if row["status"] == "ARCHIVED" else alive)
            if row["status"] != "ARCHIVED":
                wanted = {"FR", *connections.get(tenant_id, [])}
                assert wanted <= {address["country"] for address in addresses}
            told = last[tenant_id]
            assert (told.name, told.plan, told.status) == (row["name"], row["plan"], row["status"])
            assert [(each.country, each.email, each.status) for each in told.inbound_addresses] == [
                (address["country"], address["email"], address["status"]) for address in addresses
            ]

    async def empty(self) -> None:
        self.heard.clear()
        self.seen.clear()
        await self.databases.product.execute("DELETE FROM tenants")
        for table in ("inbound_addresses", *(table for table in TABLES if table != "inbound_addresses")):
            await self.databases.pool.execute(f"DELETE FROM {table}")  # noqa: S608 - our own names


@pytest.fixture
def world(service: Service, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(sync, "PAGE", 2)
    return World(service)


@settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(history=steps)
async def test_whatever_happened_one_last_reconcile_ends_it_right(world: World, history: list[tuple[Any, ...]]) -> None:
    await world.empty()
    for tenant_id in TENANTS[:2]:
        await world.put(tenant_id, "pro", "active")
    for step in history:
        await world.step(*step)
    await world.sync_all()
    await world.ends_equal()
    before = await world.databases.dump("touched")
    await world.sync_all()
    after = await world.databases.dump("touched")
    del before["sync_runs"], after["sync_runs"]
    assert after == before
