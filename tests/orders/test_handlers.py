"""What orders does with events."""

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import pytest

from orders import handlers
from orders.domain import TenantNotConnectedError
from orders.settings import OrdersSettings
from shared.amazon.errors import AmazonNotFoundError
from shared.amazon.spapi import SpApi
from shared.db import Pool
from shared.errors import PermanentError
from shared.events import MessageReceived, MessageSource
from shared.outbox import Outbox
from tests.builders import connected
from tests.conftest import Told
from tests.orders.conftest import Seller

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def start_backfill(pool: Pool, outbox: Outbox, settings: OrdersSettings) -> Any:
    return partial(handlers.start_backfill, pool=pool, outbox=outbox, settings=settings)


async def test_a_new_connection_requests_one_backfill_of_ninety_days(
    pool: Pool, start_backfill: Any, told: Told
) -> None:
    await start_backfill(connected(), "event-1")
    [(subject, body)] = await told(pool)
    assert (subject, body["tenantId"], body["days"], body["ordersStored"]) == ("backfill.requested", "kbz-001", 90, 0)


async def test_the_same_connection_told_again_with_another_id_requests_nothing(
    pool: Pool, start_backfill: Any, told: Told
) -> None:
    event = connected()
    await start_backfill(event, "event-1")
    await start_backfill(event, "event-1")
    await start_backfill(event, "event-2")
    assert len(await told(pool)) == 1


async def test_an_older_connection_told_late_changes_nothing(pool: Pool, start_backfill: Any, told: Told) -> None:
    newer, older = connected(seller_id="ANEW", connected_at=NOW), connected(connected_at=NOW - timedelta(days=1))
    await start_backfill(newer, "event-2")
    await start_backfill(older, "event-1")
    assert len(await told(pool)) == 1
    assert await pool.fetchval("SELECT seller_id FROM connections") == "ANEW"


async def test_a_connection_made_anew_requests_a_backfill_when_none_runs(
    pool: Pool, start_backfill: Any, told: Told
) -> None:
    await start_backfill(connected(connected_at=NOW), "event-1")
    await start_backfill(connected(connected_at=NOW + timedelta(days=1)), "event-2")
    assert len(await told(pool)) == 1, "the one that runs is enough"
    await pool.execute("UPDATE backfill_jobs SET state = 'FAILED'")
    await start_backfill(connected(connected_at=NOW + timedelta(days=2)), "event-3")
    assert [subject for subject, _ in await told(pool)] == ["backfill.requested"] * 2


def received(tenant_id: str, external_order_id: str | None) -> MessageReceived:
    return MessageReceived(
        tenant_id=tenant_id,
        marketplace="AMAZON",
        message_id=uuid4(),
        external_id="mock-001",
        ticket_id=uuid4(),
        external_order_id=external_order_id,
        source=MessageSource.MOCK,
        received_at=NOW,
    )


@pytest.fixture
async def known_seller(seller: Seller, start_backfill: Any) -> Seller:
    """Connected, with three orders at Amazon and none of them here."""
    await seller.with_orders(3)
    await start_backfill(connected(tenant_id=seller.tenant_id, seller_id=seller.seller_id), "event-connected")
    return seller


@pytest.fixture
def fetch_missing_order(pool: Pool, outbox: Outbox, api: SpApi) -> Any:
    return partial(handlers.fetch_missing_order, pool=pool, outbox=outbox, api=api)


async def order_id_of(seller: Seller) -> str:
    return str((await seller.amazon.orders_of(seller.seller_id))[0]["orderId"])


async def test_a_message_about_an_unknown_order_brings_it_in_and_tells(
    pool: Pool, known_seller: Seller, fetch_missing_order: Any, told: Told
) -> None:
    truth = (await known_seller.amazon.orders_of(known_seller.seller_id))[0]
    await fetch_missing_order(received(known_seller.tenant_id, truth["orderId"]), "event-1")
    [row] = await pool.fetch("SELECT id, tenant_id, external_order_id, order_status FROM orders")
    assert (row["tenant_id"], row["external_order_id"]) == (known_seller.tenant_id, truth["orderId"])
    assert await pool.fetchval("SELECT count(*) FROM order_items") == len(truth["orderItems"])
    assert (await told(pool))[1:] == [
        (
            "order.stored",
            {
                "tenantId": known_seller.tenant_id,
                "marketplace": "AMAZON",
                "orderId": str(row["id"]),
                "externalOrderId": truth["orderId"],
                "orderStatus": row["order_status"],
                "isNew": True,
                "cause": "MESSAGE",
            },
        )
    ]


@pytest.mark.parametrize("second_id", ["event-1", "event-2"])
async def test_a_message_told_again_asks_amazon_and_tells_nothing_more(
    pool: Pool, known_seller: Seller, fetch_missing_order: Any, told: Told, second_id: str
) -> None:
    event = received(known_seller.tenant_id, await order_id_of(known_seller))
    await fetch_missing_order(event, "event-1")
    await fetch_missing_order(event, second_id)
    assert await known_seller.amazon.calls("getOrder", known_seller.seller_id) == {"200": 1}
    assert [subject for subject, _ in await told(pool)].count("order.stored") == 1


async def test_a_message_about_no_order_asks_nobody(
    pool: Pool, known_seller: Seller, fetch_missing_order: Any, told: Told
) -> None:
    await fetch_missing_order(received(known_seller.tenant_id, None), "event-1")
    assert await known_seller.amazon.calls("getOrder", known_seller.seller_id) == {}
    assert await pool.fetchval("SELECT count(*) FROM orders") == 0
    assert len(await told(pool)) == 1


async def test_a_message_before_its_connection_is_tried_again_later(
    pool: Pool, seller: Seller, fetch_missing_order: Any, told: Told
) -> None:
    with pytest.raises(TenantNotConnectedError):
        await fetch_missing_order(received(seller.tenant_id, "407-8949262-6149120"), "event-1")
    assert await pool.fetchval("SELECT count(*) FROM inbox") == 0
    assert await told(pool) == []


async def test_an_order_that_amazon_does_not_have_is_not_tried_again(
    pool: Pool, known_seller: Seller, fetch_missing_order: Any
) -> None:
    with pytest.raises(AmazonNotFoundError) as refused:
        await fetch_missing_order(received(known_seller.tenant_id, "999-9999999-9999999"), "event-1")
    assert isinstance(refused.value, PermanentError)
    assert await pool.fetchval("SELECT count(*) FROM orders") == 0


async def test_a_message_that_fails_once_works_the_next_time(
    pool: Pool, known_seller: Seller, fetch_missing_order: Any, told: Told
) -> None:
    event = received(known_seller.tenant_id, await order_id_of(known_seller))
    await known_seller.amazon.fail("getOrder", 500, known_seller.seller_id)
    with pytest.raises(Exception, match="500"):
        await fetch_missing_order(event, "event-1")
    await fetch_missing_order(event, "event-1")
    assert [subject for subject, _ in await told(pool)][1:] == ["order.stored"]
