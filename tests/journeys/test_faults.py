"""What comes wrong, or at the wrong moment, over all four services."""

import asyncio
import random
from typing import Any

import httpx
import pytest

from devstack.outside import Outside, eventually
from devstack.stack import Stack
from shared.topology import SERVICES


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{not json", "malformed"),
        (b'{"tenantId": 7}', "Expected `str`"),
        (b'{"tenantId": "../secret"}', "matching regex"),
        (b"{}", "tenantId"),
        (b'{"tenantId": "\xff"}', "UnicodeDecodeError"),
        (b'{"tenantId": "nobody-knows-it"}', "no tenant nobody-knows-it"),
    ],
)
async def test_what_cannot_be_handled_ends_in_the_dead_letters_while_others_flow(
    outside: Outside, body: bytes, reason: str
) -> None:
    before = len(await outside.dead_letters())
    await outside.publish("tenant.created", body)
    await outside.publish("tenant.created", {"tenantId": "kbz-001"})

    async def others_flow() -> bool:
        answer = await outside.ask("tenant-sync", "GET", "/api/v1/tenants/status/kbz-001")
        return bool(answer.json().get("inboundAddresses"))

    await eventually("another tenant in step", others_flow)
    letters = await eventually("a dead letter", outside.dead_letters, lambda letters: len(letters) > before)
    subject, headers, dead = letters[-1]
    assert subject == "dlq.TENANT.tenant-sync-sync_tenant"
    assert dead == body
    assert headers["dlq-subject"] == "tenant.created"
    assert reason in headers["dlq-reason"]


async def test_a_message_for_a_tenant_that_nobody_connected_is_dead_with_its_reason(outside: Outside) -> None:
    await outside.publish_as_operator(
        "message.received",
        {
            "tenantId": "kbz-004",
            "marketplace": "AMAZON",
            "messageId": "0190f1c2-7b60-7000-8000-000000000001",
            "externalId": "m-1",
            "ticketId": "0190f1c2-7b60-7000-8000-000000000002",
            "externalOrderId": "404-0000000-0000001",
            "source": "mock",
            "receivedAt": "2026-01-02T03:04:05Z",
        },
    )

    async def reasons() -> list[str]:
        return [headers["dlq-reason"] for subject, headers, _ in await outside.dead_letters() if "orders" in subject]

    (reason,) = await eventually("the dead letter", reasons)
    assert "kbz-004 has no connected account" in reason


@pytest.mark.parametrize(
    ("service", "tenant"), list(zip(SERVICES, ["kbz-001", "kbz-002", "kbz-003", "tenant_test_dev"], strict=True))
)
async def test_a_service_killed_again_and_again_during_the_journey_ends_right(
    running: Stack, outside: Outside, service: str, tenant: str
) -> None:
    seller = f"A5KILL{service.replace('-', '').upper()}"
    created = await outside.http.put(
        f"{running.endpoints.amazon.url}/sandbox/sellers/{seller}",
        json={"orders": 230, "days": 89, "seed": 5, "region": "EU", "marketplaceIds": ["A13V1IB3VIYZZH"]},
    )
    assert created.is_success, created.text
    before = await outside.count_rows()
    killing = asyncio.create_task(_kill_again_and_again(running, service))
    try:
        await outside.publish("tenant.created", {"tenantId": tenant})
        await _user_connects(outside, tenant, seller)
    finally:
        await killing

    async def orders() -> int:
        return len(await outside.orders(tenant))

    async def in_step() -> dict[str, Any]:
        return dict((await outside.ask("tenant-sync", "GET", f"/api/v1/tenants/status/{tenant}")).json())

    await eventually("every order stored", orders, lambda count: count >= 230)
    status = await eventually("the tenant in step", in_step, lambda status: bool(status["marketplaceConnections"]))
    assert status["inSync"]
    assert len(status["inboundAddresses"]) == 1
    await eventually("tickets", lambda: outside.tickets(tenant), lambda tickets: len(tickets) == 3)
    await eventually("every event handled", outside.waiting, lambda waiting: waiting == 0)
    rows = {table: count - before[table] for table, count in (await outside.count_rows()).items()}
    assert rows["poller.external_messages"] == rows["poller.tickets"] == rows["poller.ticket_messages"] == 3
    assert rows["orders.orders"] == 230
    truth = await outside.http.get(f"{running.endpoints.amazon.url}/sandbox/sellers/{seller}/orders?limit=1000")
    assert rows["orders.order_items"] == sum(len(order["orderItems"]) for order in truth.json()["orders"])


async def _kill_again_and_again(running: Stack, service: str) -> None:
    chance = random.Random(service)  # noqa: S311 - the same moments in each run
    for _ in range(3):
        await asyncio.sleep(chance.uniform(0.02, 0.25))
        await running.kill(service)
        await running.start(service)


async def _user_connects(outside: Outside, tenant: str, seller: str) -> None:
    """As a person does: where it did not work, click Connect again."""

    async def connected() -> bool:
        try:
            await outside.connect(tenant, seller)
        except httpx.HTTPError:
            return False
        return bool((await outside.connection(tenant))["status"] == "CONNECTED")

    await eventually("a connected account", connected)


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_that_is_told_to_end_does_so_in_under_ten_seconds(running: Stack, service: str) -> None:
    seconds = await running.stop(service)
    await running.start(service)
    assert seconds < 10
