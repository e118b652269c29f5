"""The source `spapi` against the sandbox, which has the operation that Amazon's published model has not."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import httpx
import msgspec
import pytest

from devstack.stack import Stack
from poller import polling, queries, spapi, ticket_queries
from poller.domain import Cursor, Found, Lease
from poller.settings import PollerSettings
from shared.amazon import orders
from shared.amazon.errors import AmazonUnavailableError, AuthorizationRevokedError, QuotaWaitError
from shared.amazon.gate import Bucket, Gate, Lane
from shared.amazon.spapi import SpApi
from shared.db import Pool
from shared.outbox import Outbox
from shared.settings import SettingsError
from shared.vault import Vault
from tests.builders import Amazon, connected, new_id, oauth_vault, settings_of
from tests.conftest import Told
from tests.poller.conftest import claim, make_due, schedule

QUOTA_IS_BACK = "UPDATE amazon.request_buckets SET arrives_at = clock_timestamp()"


class Shop:
    """A connected tenant, its seller, and buyers who write."""

    def __init__(self, pool: Pool, outbox: Outbox, amazon: Amazon, api: SpApi) -> None:
        self.pool, self.outbox, self.amazon, self.api = pool, outbox, amazon, api
        self.tenant_id = new_id()
        self.seller_id = ""
        self.order_ids: list[str] = []
        self.source = partial(spapi.fetch, pool, api)

    async def open(self, orders: int) -> "Shop":
        """All of its orders have changed in the last two days."""
        self.seller_id = await self.amazon.seller(orders, days=1, seed=1)
        await self.amazon.authorize(self.api, oauth_vault(self.amazon.stack), self.tenant_id, self.seller_id)
        self.order_ids = [str(order["orderId"]) for order in await self.amazon.orders_of(self.seller_id)]
        await schedule(self.pool, self.tenant_id)
        return self

    async def write(self, order_id: str, body: str = "Hello") -> str:
        path = f"sellers/{self.seller_id}/orders/{order_id}/messages"
        return str((await self.amazon.control("POST", path, {"body": body}))["messageId"])

    async def change(self, order_id: str) -> None:
        """Some minutes ago: a message is a change of its order for a stand-in."""
        await self.amazon.control("POST", f"sellers/{self.seller_id}/orders/{order_id}", {})
        await self.amazon.control("POST", "clock", {"advanceSeconds": 180})

    async def poll(self) -> int:
        """How many messages were new."""
        return (await polling.poll_now(self.pool, self.outbox, self.source, self.tenant_id)).stored

    async def calls(self, operation: str) -> int:
        found = await self.amazon.calls(operation, self.seller_id)
        assert found.keys() <= {"200"}
        return found.get("200", 0)

    async def stored(self) -> list[str]:
        """Those that were written, by the ids that Amazon gave them."""
        rows = await self.pool.fetch("SELECT external_id FROM external_messages ORDER BY external_id")
        return [row["external_id"] for row in rows if "-W" in row["external_id"]]

    async def cursor(self) -> Cursor | None:
        cursor, _ = await queries.get_cursor(self.pool, Lease(self.tenant_id, "AMAZON", 0))
        return cursor


@pytest.fixture
async def shop(stack: Stack, settings: PollerSettings, pool: Pool, outbox: Outbox) -> AsyncIterator[Shop]:
    async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
        api = SpApi(settings, Vault(settings), http, Gate(pool, settings.amazon_spapi_app_source))
        amazon = Amazon(stack, http)
        await amazon.control("DELETE", "calls")
        yield Shop(pool, outbox, amazon, api)
        await amazon.control("DELETE", "faults")


async def test_a_message_about_a_changed_order_becomes_a_ticket_of_that_order_once(shop: Shop, told: Told) -> None:
    await shop.open(2)
    external_id = await shop.write(shop.order_ids[0], "Where is it?")
    await shop.poll()
    assert await shop.stored() == [external_id]
    ticket = next(
        each
        for each in await ticket_queries.list_tickets(shop.pool, shop.tenant_id, limit=10, before=None)
        if each.external_order_id == shop.order_ids[0]
    )
    assert (ticket.channel, ticket.status) == ("spapi", "OPEN")
    events = await told(shop.pool)
    assert [
        (body["source"], body["externalOrderId"], body["ticketId"])
        for subject, body in events
        if subject == "message.received" and body["externalId"] == external_id
    ] == [("spapi", shop.order_ids[0], str(ticket.id))]
    assert "Where is it?" not in str(events)

    assert await shop.poll() == 0
    second = await shop.write(shop.order_ids[0], "Are you there?")
    await shop.change(shop.order_ids[0])
    assert await shop.poll() == 1
    assert await shop.stored() == [external_id, second]
    found = await ticket_queries.get_ticket(shop.pool, shop.tenant_id, ticket.id)
    assert found is not None
    assert [message.body for message in found[1]][-2:] == ["Where is it?", "Are you there?"]


async def test_all_pages_of_orders_and_of_messages_are_read(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spapi, "PAGE_SIZE", 2)
    monkeypatch.setattr(orders, "PAGE_SIZE", 1)
    await shop.open(3)
    written = [await shop.write(order_id) for order_id in shop.order_ids]
    written += [await shop.write(shop.order_ids[1]) for _ in range(4)]
    await shop.poll()
    assert await shop.stored() == sorted(written)
    assert await shop.calls("searchOrders") == 3
    rows = await shop.pool.fetch("SELECT count(*) AS count FROM external_messages GROUP BY external_order_id")
    assert max(row["count"] for row in rows) > 4
    assert await shop.calls("getMessages") == sum(-(-row["count"] // 2) for row in rows)


async def test_more_orders_than_a_poll_can_ask_about_go_on_with_the_next_and_none_is_lost(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spapi, "POLL_SECONDS", 1.0)  # less than an interval: the burst of five, and no more
    await shop.open(8)
    written = [await shop.write(order_id) for order_id in shop.order_ids]
    await shop.poll()
    assert len(await shop.stored()) == 5
    cursor = await shop.cursor()
    assert cursor is not None
    assert len(cursor.orders) == 3
    await shop.pool.execute(QUOTA_IS_BACK)
    await shop.amazon.control("POST", "clock", {"advanceSeconds": 10})
    await shop.poll()
    assert await shop.stored() == sorted(written)
    assert (await shop.calls("searchOrders"), await shop.calls("getMessages")) == (1, 8)
    ended = await shop.cursor()
    assert ended is not None
    assert ended == Cursor(until=ended.until)
    assert ended.until > cursor.until


async def test_what_was_fetched_and_not_stored_is_fetched_again(shop: Shop) -> None:
    await shop.open(2)
    external_id = await shop.write(shop.order_ids[0])
    fetch = shop.source

    async def overtaken(lease: Lease) -> Found:
        found = await fetch(lease)
        await make_due(shop.pool)
        await claim(shop.pool)
        return found

    assert await polling.poll_due(shop.pool, shop.outbox, overtaken) == 1
    assert (await shop.stored(), await shop.cursor()) == ([], None)
    await make_due(shop.pool)
    await shop.poll()
    assert await shop.stored() == [external_id]
    assert await shop.cursor() is not None


async def test_an_error_on_the_way_keeps_what_was_found_and_rises_when_nothing_was(shop: Shop) -> None:
    await shop.open(3)
    written = [await shop.write(order_id) for order_id in shop.order_ids]
    await shop.amazon.fail("getMessages", 503, shop.seller_id, times=2)
    assert await shop.poll() == 0
    cursor = await shop.cursor()
    assert cursor is not None
    assert sorted(cursor.orders) == sorted(shop.order_ids)
    with pytest.raises(AmazonUnavailableError, match="getMessages"):
        await shop.poll()
    assert await shop.cursor() == cursor
    await shop.poll()
    assert await shop.stored() == sorted(written)
    assert (await shop.amazon.calls("searchOrders", shop.seller_id)) == {"200": 1}


@pytest.mark.parametrize("kept", [{"next_page": "too-old"}, {"orders": ("999-9999999-9999999",)}])
async def test_a_page_that_is_too_old_and_an_order_that_is_gone_hold_up_nothing(
    shop: Shop, kept: dict[str, Any]
) -> None:
    await shop.open(2)
    external_id = await shop.write(shop.order_ids[0])
    _, now = await queries.get_cursor(shop.pool, Lease(shop.tenant_id, "AMAZON", 0))
    until = now - spapi.FIRST_WINDOW
    lease = await queries.claim_schedule(shop.pool, shop.tenant_id, polling.LEASE)
    assert lease is not None
    async with shop.pool.acquire() as conn, conn.transaction():
        await queries.finish_poll(conn, lease)
        await queries.set_cursor(conn, lease, msgspec.structs.replace(Cursor(until, found_until=until), **kept))
    await shop.poll()
    if "orders" in kept:
        await shop.poll()
    assert await shop.stored() == [external_id]


async def test_another_account_begins_anew_and_the_same_one_goes_on(shop: Shop) -> None:
    await shop.open(2)
    await shop.poll()
    begun = await shop.cursor()
    row = await shop.pool.fetchrow("SELECT connection_id, connected_at FROM poll_schedules")
    for connection_id, expected in ((row["connection_id"], begun), (None, None)):
        changes = {"connection_id": connection_id} if connection_id else {}
        now = await shop.pool.fetchval("SELECT clock_timestamp()")
        async with shop.pool.acquire() as conn, conn.transaction():
            await queries.upsert_schedule(conn, connected(tenant_id=shop.tenant_id, connected_at=now, **changes), 300)
        assert await shop.cursor() == expected


async def test_refused_credentials_are_told_to_oauth(shop: Shop, told: Told) -> None:
    await shop.open(1)
    await shop.amazon.revoke(shop.seller_id)
    with pytest.raises(AuthorizationRevokedError):
        await shop.poll()
    [(subject, body)] = await told(shop.pool)
    assert (subject, body["error"], body["tenantId"]) == (
        "connection.rejected",
        "authorization_revoked",
        shop.tenant_id,
    )


async def test_a_plan_that_a_backfill_has_used_up_is_waited_for_within_the_polls_time(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.open(1)
    gate = shop.api._gate
    assert gate is not None
    bucket = Bucket(shop.seller_id, "eu", orders.SEARCH_ORDERS)
    for _ in range(orders.SEARCH_ORDERS.burst):
        await gate.take(bucket, Lane.BACKFILL)
    assert 1 / orders.SEARCH_ORDERS.rate + 1 < spapi.POLL_SECONDS
    monkeypatch.setattr(spapi, "POLL_SECONDS", 1.0)
    with pytest.raises(QuotaWaitError, match="searchOrders"):
        await shop.poll()
    monkeypatch.setattr(spapi, "POLL_SECONDS", 240.0)
    await shop.pool.execute(
        "UPDATE amazon.request_buckets SET arrives_at = arrives_at - make_interval(secs => $1)",
        1 / orders.SEARCH_ORDERS.rate - 1,
    )
    await shop.poll()
    assert await shop.calls("searchOrders") == 1
    with pytest.raises(QuotaWaitError):  # the place was booked
        await gate.take(bucket, Lane.BACKFILL)


def test_the_mock_and_amazon_are_not_asked_together(stack: Stack) -> None:
    with pytest.raises(SettingsError, match="AMAZON_READ_MESSAGES"):
        settings_of(PollerSettings, stack, "poller", AMAZON_READ_MESSAGES="true")
    chosen = settings_of(PollerSettings, stack, "poller", AMAZON_READ_MESSAGES="true", AMAZON_USE_MOCK="false")
    assert chosen.is_polling
