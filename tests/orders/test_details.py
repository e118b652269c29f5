"""What orders lack is filled in, in the background and when somebody looks."""

from typing import Any
from uuid import uuid4

import msgspec
import pytest

from devstack.stack import Stack
from orders import details, order_queries, upkeep
from orders.details import DUTY, Looks
from orders.domain import Detail, NewOrder, Task, placeholder
from orders.mapping import from_amazon
from orders.routes import ROUTES
from orders.settings import OrdersSettings
from orders.windows import Parts
from shared.amazon.orders import GET_ORDER, SEARCH_ORDERS, Order
from shared.amazon.spapi import decode
from tests.builders import agent, serving
from tests.conftest import Told
from tests.orders.conftest import Disconnect, Seller
from tests.orders.upkeep import account, claim, copy, row, take


async def of_a_report(parts: Parts, seller: Seller, orders: int) -> list[NewOrder]:
    """The seller's orders, stored as a report tells of them; the oldest first."""
    await seller.with_orders(orders)
    await account(parts, seller)
    found = await seller.amazon.all_orders_of(seller.seller_id)
    full = [from_amazon(decode(msgspec.json.encode(order), Order)) for order in found]
    rows = [
        msgspec.structs.replace(
            order,
            detail=Detail.REPORT,
            customer_name=None,
            customer_email=None,
            shipping_address=None,
            items=[msgspec.structs.replace(item, external_item_id=None) for item in order.items],
        )
        for order in full
    ]
    async with parts.pool.acquire() as conn, conn.transaction():
        await order_queries.upsert_orders(conn, seller.tenant_id, rows)
    return full


async def used_up(parts: Parts, seller: Seller, operation: Any, left: int = 0) -> None:
    await parts.pool.execute(
        "INSERT INTO amazon.request_buckets (application, seller_id, region, operation, arrives_at)"
        " VALUES ('external_test', $1, 'eu', $2, clock_timestamp() + make_interval(secs => $3))",
        *(seller.seller_id, operation.name, (operation.burst - left) / operation.rate),
    )


async def lacking(parts: Parts) -> int:
    count: int = await parts.pool.fetchval("SELECT count(*) FROM orders WHERE detail <> 'FULL'")
    return count


async def test_reports_orders_are_filled_in_by_pages_and_nobody_is_told(
    parts: Parts, seller: Seller, told: Told
) -> None:
    full = await of_a_report(parts, seller, 150)
    await take(parts, DUTY)
    assert await lacking(parts) == 0
    held = await copy(parts, seller)
    assert {each.external_order_id: held[each.external_order_id][-1] for each in full} == {
        each.external_order_id: sorted(str(item.external_item_id) for item in each.items) for each in full
    }
    names = await parts.pool.fetch("SELECT customer_email FROM orders WHERE customer_email IS NOT NULL")
    assert len(names) == sum(order.customer_email is not None for order in full) > 0
    assert (await seller.amazon.calls("searchOrders", seller.seller_id))["200"] <= 3
    assert await told(parts.pool) == []
    finished = await row(parts, Task.DETAILS)
    assert (finished["failures"], finished["error_code"]) == (0, None)


async def test_without_pages_to_spare_single_calls_fill_in_the_newest_first(parts: Parts, seller: Seller) -> None:
    full = await of_a_report(parts, seller, 40)
    turn = await claim(parts, Task.DETAILS)
    await used_up(parts, seller, SEARCH_ORDERS, left=details.CALLS_KEPT)
    await used_up(parts, seller, GET_ORDER, left=12)
    await upkeep.take(parts, DUTY, turn)
    rows = await parts.pool.fetch("SELECT external_order_id FROM orders WHERE detail = 'FULL'")
    filled = {each["external_order_id"] for each in rows}
    assert len(filled) >= 12
    assert filled == {each.external_order_id for each in full[-len(filled) :]}
    assert await seller.amazon.calls("searchOrders", seller.seller_id) == {}
    waiting = await row(parts, Task.DETAILS)
    assert (waiting["error_code"], waiting["failures"], waiting["leased_until"]) == ("quota_wait", 0, None)


async def test_a_placeholder_comes_before_all_reports_orders_and_is_told(
    parts: Parts, seller: Seller, told: Told
) -> None:
    full = await of_a_report(parts, seller, 3)
    oldest = full[0]
    await parts.pool.execute("DELETE FROM orders WHERE external_order_id = $1", oldest.external_order_id)
    async with parts.pool.acquire() as conn, conn.transaction():
        named = placeholder(oldest.external_order_id, oldest.order_date)
        await order_queries.upsert_orders(conn, seller.tenant_id, [named])
    turn = await claim(parts, Task.DETAILS)
    await used_up(parts, seller, GET_ORDER, left=1)
    await upkeep.take(parts, DUTY, turn)
    [(subject, body)] = await told(parts.pool)
    assert (subject, body["externalOrderId"], body["isNew"], body["cause"]) == (
        *("order.stored", oldest.external_order_id),
        *(False, "MESSAGE"),
    )


async def test_an_order_that_amazon_does_not_know_is_asked_for_once(parts: Parts, seller: Seller) -> None:
    full = await of_a_report(parts, seller, 3)
    unknown = msgspec.structs.replace(full[-1], external_order_id="999-9999999-9999999", detail=Detail.REPORT)
    async with parts.pool.acquire() as conn, conn.transaction():
        await order_queries.upsert_orders(conn, seller.tenant_id, [unknown])
    await take(parts, DUTY)
    await take(parts, DUTY)
    assert await seller.amazon.calls("getOrder", seller.seller_id) == {"200": 3, "404": 1}
    assert await lacking(parts) == 1


async def test_an_outage_is_noted_and_the_next_turn_goes_on(parts: Parts, seller: Seller) -> None:
    await of_a_report(parts, seller, 3)
    await seller.amazon.fail("getOrder", 503, seller.seller_id)
    await take(parts, DUTY)
    assert (await row(parts, Task.DETAILS))["error_code"] == "amazon_unavailable"
    await take(parts, DUTY)
    assert await lacking(parts) == 0
    assert (await row(parts, Task.DETAILS))["failures"] == 0


async def test_who_lost_the_lease_fills_in_nothing(parts: Parts, seller: Seller) -> None:
    await of_a_report(parts, seller, 3)
    lost = await claim(parts, Task.DETAILS)
    await claim(parts, Task.DETAILS)
    await upkeep.take(parts, DUTY, lost)
    assert await lacking(parts) == 3


async def test_a_look_at_an_order_without_details_brings_them_in_the_background(
    parts: Parts,
    seller: Seller,
    stack: Stack,
    settings: OrdersSettings,
    dependencies: dict[str, object],
    looks: Looks,
    told: Told,
) -> None:
    full = await of_a_report(parts, seller, 3)
    order_id = await parts.pool.fetchval(
        "SELECT id FROM orders WHERE external_order_id = $1", full[0].external_order_id
    )
    async with serving("orders", ROUTES, settings, dependencies) as http:
        http.headers.update(agent(stack, seller.tenant_id))
        assert (await http.get(f"/api/v1/orders/{uuid4()}")).status_code == 404
        for _ in range(3):
            answer = await http.get(f"/api/v1/orders/{order_id}")
        assert answer.json()["items"][0]["externalItemId"] is None
        await looks.settled()
        answer = await http.get(f"/api/v1/orders/{order_id}")
        assert answer.json()["detail"] == "FULL"
        assert answer.json()["items"][0]["externalItemId"] is not None
        await looks.settled()
        freshness = (await http.get("/api/v1/orders/freshness")).json()
    assert await seller.amazon.calls("getOrder", seller.seller_id) == {"200": 1}
    [(subject, body)] = await told(parts.pool)
    assert (subject, body["cause"], body["isNew"]) == ("order.stored", "REQUEST", False)
    [of_account] = freshness["accounts"]
    assert (of_account["marketplace"], of_account["failures"], of_account["lastError"]) == ("AMAZON", 0, None)


async def test_a_look_asks_nobody_for_what_amazon_does_not_know_or_a_disconnected_account_has(
    parts: Parts, seller: Seller, looks: Looks, disconnect: Disconnect
) -> None:
    full = await of_a_report(parts, seller, 2)
    unknown = full[0].external_order_id
    await parts.pool.execute("UPDATE orders SET unknown_at = now() WHERE external_order_id = $1", unknown)
    looks.ask(seller.tenant_id, unknown)
    await looks.settled()
    await disconnect(tenant_id=seller.tenant_id)
    looks.ask(seller.tenant_id, full[1].external_order_id)
    await looks.settled()
    assert await seller.amazon.calls("getOrder", seller.seller_id) == {}


@pytest.mark.parametrize("status", [500, 429])
async def test_a_look_that_fails_hurts_nobody(
    parts: Parts, seller: Seller, looks: Looks, status: int, told: Told
) -> None:
    full = await of_a_report(parts, seller, 1)
    await seller.amazon.fail("getOrder", status, seller.seller_id)
    looks.ask(seller.tenant_id, full[0].external_order_id)
    await looks.settled()
    assert await lacking(parts) == 1
    assert await told(parts.pool) == []
