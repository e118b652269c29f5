"""tenant.synced is built by PostgreSQL: it has to be what msgspec would have written of the same values."""

from datetime import datetime

import msgspec
import pytest

from shared.events import InboundAddress, TenantSynced
from shared.outbox import Outbox
from tenant_sync import product, queries, sync
from tenant_sync.settings import TenantSyncSettings
from tests.tenant_sync.conftest import Databases

STRICT = msgspec.json.Decoder(TenantSynced)


async def synced(databases: Databases, outbox: Outbox, settings: TenantSyncSettings, tenant_id: str) -> None:
    tenant = await product.get_tenant(databases.product_pool, tenant_id)
    assert tenant is not None
    async with databases.pool.acquire() as conn, conn.transaction():
        await sync.sync_one(conn, outbox, tenant, settings, countries=["FR", "DE"])


@pytest.mark.parametrize(
    "name",
    [
        "Maison Durand",
        'quotes " and \' and \\ backslashes \\" \\n',
        "lines\nand\ttabs\rand a bell \x07 and a delete \x7f",
        "emoji 🛍️ and 家 and é as e\u0301",
        "עברית and العربية \u202e turned",
        "",
        "</script><b>",
        "x" * 5_000,
    ],
)
async def test_every_name_arrives_as_it_is(
    databases: Databases, outbox: Outbox, settings: TenantSyncSettings, name: str
) -> None:
    await databases.put("kbz-001", name=name, plan='pro"', status="act\\ive")
    await synced(databases, outbox, settings, "kbz-001")
    payload = await databases.pool.fetchval("SELECT payload FROM outbox")
    event = STRICT.decode(payload)
    addresses = await queries.list_addresses(databases.pool, "kbz-001")
    assert [address.country for address in addresses] == ["DE", "FR"]
    expected = TenantSynced(
        tenant_id="kbz-001",
        name=name,
        plan='PRO"',
        status="ACT\\IVE",
        inbound_addresses=[
            InboundAddress(marketplace=each.marketplace, country=each.country, email=each.email, status=each.status)
            for each in addresses
        ],
        synced_at=event.synced_at,
    )
    assert event == expected
    assert msgspec.json.decode(payload) == msgspec.json.decode(msgspec.json.encode(expected))


async def test_a_later_word_about_a_tenant_has_a_later_time(
    databases: Databases, outbox: Outbox, settings: TenantSyncSettings
) -> None:
    for number in range(5):
        await databases.put("kbz-001", name=f"name {number}")
        await synced(databases, outbox, settings, "kbz-001")
    rows = await databases.pool.fetch("SELECT payload, created_at FROM outbox ORDER BY seq")
    events = [STRICT.decode(row["payload"]) for row in rows]
    times = [event.synced_at for event in events if isinstance(event.synced_at, datetime)]
    assert [event.name for event in events] == [f"name {number}" for number in range(5)]
    assert times == sorted(set(times))
    assert len(times) == 5
    assert all(abs((at - row["created_at"]).total_seconds()) < 1 for at, row in zip(times, rows, strict=True))
