"""tenant.synced, which SQL builds: the same as the struct would be written, whatever a name holds."""

import asyncio
import itertools
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from shared.events import InboundAddress, TenantSynced
from tests.builders import connected
from tests.tenant_sync.conftest import Databases, Service

NAMES = [
    "",
    " ",
    'Say "Hello"',
    "it's",
    "back\\slash \\n \\u0041 \\",
    "two\nlines\r\nand\ttabs",
    "\x01\x08\x0b\x0c\x1b\x1f\x7f\x80\x9f",
    "\u2028\u2029\ufeff\u200b",
    "🛒 Épicerie 👩‍👩‍👧 日本",
    "متجر \u202eabc\u202c עברית",
    "</script><!--",
    "%s {0} $1 :name",
    "x" * 10_000,
    '{"tenantId": "other"}',
    "\ud7ff\ue000\uffff\U0010ffff",
]


@pytest.mark.parametrize("by", ["event", "bulk"])
async def test_what_sql_writes_is_what_the_struct_would_be(databases: Databases, service: Service, by: str) -> None:
    countries = service.with_countries("DE,FR")
    names = {f"name-{number:02}": name for number, name in enumerate(NAMES)}
    for tenant_id, name in names.items():
        await databases.put(tenant_id, name=name, plan='p"\\\n', status="é")
    before = datetime.now(UTC)
    if by == "bulk":
        await countries.sync_all()
    else:
        for tenant_id in names:
            await countries.created(tenant_id)
    for tenant_id, name in names.items():
        [row] = await databases.pool.fetch("SELECT subject, key, payload FROM outbox WHERE key = $1", tenant_id)
        event = msgspec.json.decode(row["payload"], type=TenantSynced, strict=True)
        assert event.synced_at is not None
        assert before - timedelta(seconds=1) < event.synced_at < datetime.now(UTC) + timedelta(seconds=1)
        expected = TenantSynced(
            tenant_id=tenant_id,
            name=name,
            plan='P"\\\n',
            status=await databases.status(tenant_id) or "",
            inbound_addresses=[
                InboundAddress(
                    marketplace="AMAZON",
                    country=country,
                    email=await databases.email(tenant_id, country),
                    status="PENDING",
                )
                for country in ("DE", "FR")
            ],
            synced_at=event.synced_at,
        )
        assert row["subject"] == TenantSynced.SUBJECT
        assert event == expected
        assert msgspec.json.decode(row["payload"]) == msgspec.json.decode(msgspec.json.encode(expected))


async def test_a_tenant_without_addresses_says_so(databases: Databases, service: Service) -> None:
    await databases.put("kbz-001", status="archived")
    await service.created("kbz-001")
    [event] = await databases.announced()
    assert event.inbound_addresses == []


async def test_the_later_announcement_of_a_tenant_has_the_later_time(databases: Databases, service: Service) -> None:
    for number in range(10):
        await databases.put("kbz-001", name=f"Name {number}")
        countries = ["A1RKKUPIHCS9HS", "A1PA6795UKMFR9"][: number // 4]
        await asyncio.gather(
            service.updated("kbz-001"),
            service.created("kbz-001"),
            service.hear(connected(tenant_id="kbz-001", marketplace_ids=countries)),
            service.sync_all(),
        )
    times = [event.synced_at for event in await databases.announced("kbz-001")]
    assert len(times) >= 10
    assert all(earlier < later for earlier, later in itertools.pairwise(filter(None, times)))
    assert None not in times
    last = (await databases.announced("kbz-001"))[-1]
    [tenant] = [row for row in await databases.rows("tenants") if row["id"] == "kbz-001"]
    assert last.name == tenant["name"]
    assert {each.country for each in last.inbound_addresses} == set(await databases.statuses("kbz-001"))
