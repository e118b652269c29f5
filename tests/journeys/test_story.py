"""The story over all four services: the tests of this file go on from each other, in their order."""

from typing import Any
from uuid import uuid4

import asyncpg
import httpx

from devstack.outside import SELLER, Outside, eventually

KNOWN = ["ecomlg-001", "kbz-001", "kbz-002", "tenant_test_dev"]
TENANT = "ecomlg-001"


async def status_of(outside: Outside, tenant: str) -> dict[str, Any]:
    return dict((await outside.ask("tenant-sync", "GET", f"/api/v1/tenants/status/{tenant}")).json())


async def test_sync_all_finds_the_tenants_that_no_event_told(outside: Outside) -> None:
    for tenant in KNOWN:
        await outside.publish("tenant.created", {"tenantId": tenant})
    for tenant in KNOWN:

        async def probe(tenant: str = tenant) -> dict[str, Any]:
            return await status_of(outside, tenant)

        await eventually(f"{tenant} in step", probe, lambda status: status.get("inSync") is True)
    answer = await outside.ask("tenant-sync", "POST", "/api/v1/tenants/sync-all")
    assert answer.json() == {
        "success": True,
        "total": 6,
        "results": {"created": ["kbz-003", "kbz-004"], "updated": [], "skipped": KNOWN, "errors": []},
        "counts": {"created": 2, "updated": 0, "archived": 0, "skipped": 4, "errors": 0},
    }


async def test_a_tenant_created_by_event_has_its_inbound_address(outside: Outside) -> None:
    status = await status_of(outside, TENANT)
    assert status["product"] == {"exists": True, "name": "eComLG", "plan": "pro", "status": "active"}
    assert status["marketplace"] == {"exists": True, "name": "eComLG", "plan": "PRO", "status": "ACTIVE"}
    (address,) = status["inboundAddresses"]
    assert address["status"] == "PENDING"
    local, domain = address["email"].split("@")
    assert local.startswith("amazon.ecomlg-001.fr.")
    assert len(local.rsplit(".", 1)[1]) == 6
    assert domain == "inbound.keybuzz.io"


async def test_the_seller_connects_over_the_consent_page(outside: Outside) -> None:
    page = await outside.connect(TENANT)
    assert page.status_code == 200
    assert "Your Amazon account is connected" in page.text
    connection = await outside.connection(TENANT)
    assert connection["status"] == "CONNECTED"
    assert connection["displayName"] == f"Amazon Seller {SELLER}"


async def test_ninety_days_of_orders_are_complete_after_one_call(outside: Outside) -> None:
    completed = await eventually("the backfill", lambda: outside.last_event("backfill.completed"))
    assert completed is not None
    assert (completed["ordersStored"], completed["days"]) == (94, 90)
    assert await outside.calls("searchOrders") == 1
    truth = await outside.http.get(f"{outside.endpoints.amazon.url}/sandbox/sellers/{SELLER}/orders?limit=1000")
    expected = {order["orderId"]: order for order in truth.json()["orders"]}
    stored = {order["externalOrderId"]: order for order in await outside.orders(TENANT)}
    del expected["171-3125066-7920325"]  # it is older than 90 days
    assert len(expected) == 94
    assert expected.keys() <= stored.keys()
    cancelled = [id_ for id_, order in expected.items() if order["fulfillment"]["fulfillmentStatus"] == "CANCELLED"]
    assert len(cancelled) == 6
    for order in map(stored.__getitem__, cancelled):
        assert order["orderStatus"] == "CANCELLED"
        whole = (await outside.ask("orders", "GET", f"/api/v1/orders/{order['id']}", tenant=TENANT)).json()
        assert [item["quantity"] for item in whole["items"]] == [0] * len(whole["items"])
        assert whole["items"]
    jobs = await _rows(outside, "SELECT state, error FROM orders.backfill_jobs")
    assert jobs == [("COMPLETED", None)]


async def test_an_order_is_shown_as_support_people_say_it(outside: Outside) -> None:
    answer = await outside.ask("orders", "GET", "/api/v1/orders?externalOrderId=407-8949262-6149120", tenant=TENANT)
    (order,) = answer.json()["orders"]
    assert order["orderRef"] == "#149120"
    assert order["totalAmount"] == 391.84
    assert order["currency"] == "EUR"
    assert order["carrier"]
    assert order["trackingCode"]


async def test_three_mock_messages_make_three_tickets_and_polling_again_makes_none(outside: Outside) -> None:
    wanted = {"poller.external_messages": 3, "poller.tickets": 3, "poller.ticket_messages": 3}
    await eventually("three tickets", outside.count_rows, lambda rows: wanted.items() <= rows.items())
    answer = await outside.ask("poller", "POST", "/api/v1/poller/run", tenant=TENANT)
    assert answer.json() == {"fetched": 3, "stored": 0}
    assert wanted.items() <= (await outside.count_rows()).items()
    tickets = await outside.tickets(TENANT)
    orders = {ticket["externalOrderId"] for ticket in tickets}
    assert orders == {"407-8949262-6149120", "171-3125066-7920325", None}
    ticket = (await outside.ask("poller", "GET", f"/api/v1/tickets/{tickets[0]['id']}", tenant=TENANT)).json()
    assert len(ticket["messages"]) == 1


async def test_a_message_about_an_order_never_seen_makes_orders_fetch_it(outside: Outside) -> None:
    async def probe() -> list[dict[str, Any]]:
        path = "/api/v1/orders?externalOrderId=171-3125066-7920325"
        return list((await outside.ask("orders", "GET", path, tenant=TENANT)).json()["orders"])

    (order,) = await eventually("the order that a message names", probe)
    assert order["orderRef"] == "#920325"
    events = await outside.events_by_subject()
    assert events["message.received"] == 3
    assert not [subject for subject in events if subject.startswith("dlq.")]


async def test_the_tenants_status_shows_the_connected_account(outside: Outside) -> None:
    async def probe() -> list[dict[str, Any]]:
        return list((await status_of(outside, TENANT))["marketplaceConnections"])

    (connection,) = await eventually("the account in the tenant's status", probe)
    assert connection["marketplace"] == "AMAZON"
    assert connection["status"] == "CONNECTED"
    assert connection["sellerId"] == SELLER


async def test_events_told_again_with_the_same_or_another_id_change_nothing(outside: Outside) -> None:
    connected = await outside.last_event("connection.connected")
    received = await outside.last_event("message.received")
    before = await _state(outside)
    calls = await outside.calls("searchOrders"), await outside.calls("getOrder")
    for event_id in ("same-id", "same-id", str(uuid4()), str(uuid4())):
        # Another Nats-Msg-Id each time: the broker's own check for duplicates must not be what saves us.
        headers = {"ce-id": event_id, "Nats-Msg-Id": str(uuid4())}
        await outside.publish_as_operator("connection.connected", connected, headers)
        await outside.publish_as_operator("message.received", received, headers)
        await outside.publish("tenant.created", {"tenantId": TENANT}, headers)
    await _all_handled(outside)
    assert await _state(outside) == before
    assert (await outside.calls("searchOrders"), await outside.calls("getOrder")) == calls


async def _all_handled(outside: Outside) -> None:
    """Nothing is on its way to a handler, nor from an outbox to the broker."""
    await eventually("every event handled", outside.waiting, lambda waiting: waiting == 0)


async def _state(outside: Outside) -> dict[str, Any]:
    """Everything that the services keep and said, but for what the test itself published."""
    events = await outside.events_by_subject()
    kept = await _rows(
        outside,
        "SELECT 'addresses', count(*)::text FROM tenant_sync.inbound_addresses"
        " UNION ALL SELECT 'tenants', count(*)::text FROM tenant_sync.tenants"
        " UNION ALL SELECT 'jobs', count(*)::text FROM orders.backfill_jobs"
        " UNION ALL SELECT 'schedules', string_agg(s::text, ',') FROM poller.poll_schedules s"
        " UNION ALL SELECT 'orders', md5(string_agg(o::text, ',' ORDER BY id)) FROM orders.orders o",
    )
    said = {subject: events.get(subject, 0) for subject in ("tenant.synced", "order.stored", "backfill.requested")}
    return {"kept": dict(kept), "said": said, "rows": await outside.count_rows()}


async def _rows(outside: Outside, statement: str) -> list[tuple[Any, ...]]:
    conn = await asyncpg.connect(outside.endpoints.postgres.dsns["admin"].rsplit("/", 1)[0] + "/keybuzz_backend")
    try:
        return [tuple(row) for row in await conn.fetch(statement)]
    finally:
        await conn.close()


async def test_health_metrics_and_documentation_answer_on_every_service(outside: Outside) -> None:
    async def get(service: str, path: str) -> httpx.Response:
        return await outside.http.get(outside.endpoints.services[service] + path)

    for service in outside.endpoints.services:
        assert (await get(service, "/health")).json()["service"] == service
        assert (await get(service, "/livez")).status_code == 200
        assert (await get(service, "/readyz")).json() == {"status": "ok", "missing": {}}
        assert "events_handled_total" in (await get(service, "/metrics")).text
        assert (await get(service, "/asyncapi.json")).json()["asyncapi"] == "3.0.0"
        assert (await get(service, "/schema/openapi.json")).json()["info"]["title"] == f"KeyBuzz {service}"
