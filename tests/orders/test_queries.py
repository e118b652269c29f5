"""Storing and finding orders, and the leases of backfills, in PostgreSQL."""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import msgspec

from orders import order_queries, search_queries
from orders.domain import DeliveryStatus, Item, NewOrder, OrderStatus, Search, Upserted
from shared.db import Pool

TENANT = "kbz-001"
NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def item(number: int = 1, *, price: str = "9.90", quantity: int = 1) -> Item:
    return Item(str(number), f"SKU-{number}", f"B00{number}", f"Title {number}", quantity, Decimal(price), "EUR")


def order(external_order_id: str = "407-0000000-0000001", **changes: object) -> NewOrder:
    made = NewOrder(
        external_order_id=external_order_id,
        marketplace_id="A13V1IB3VIYZZH",
        customer_name="Ada",
        customer_email="ada@marketplace.amazon.fr",
        order_date=NOW,
        currency="EUR",
        total_amount=Decimal("441.50"),
        order_status=OrderStatus.CONFIRMED,
        external_status="UNSHIPPED",
        delivery_status=DeliveryStatus.PREPARING,
        carrier=None,
        tracking_code=None,
        shipping_address={"city": "Paris", "lines": ["1 rue X", None]},
        ship_by=None,
        deliver_by=None,
        shipped_at=None,
        delivered_at=None,
        external_updated_at=NOW,
        items=[item()],
    )
    return msgspec.structs.replace(made, **changes)


async def store(pool: Pool, *orders: NewOrder, tenant_id: str = TENANT) -> list[Upserted]:
    async with pool.acquire() as conn, conn.transaction():
        return await order_queries.upsert_orders(conn, tenant_id, orders)


async def test_a_new_order_is_stored_as_it_is(pool: Pool) -> None:
    [upserted] = await store(pool, order())
    assert (upserted.is_new, upserted.external_order_id, upserted.order_status) == (
        *(True, "407-0000000-0000001"),
        "CONFIRMED",
    )
    found = await search_queries.get_order(pool, TENANT, upserted.id)
    assert found is not None
    stored, items = found
    assert stored.order_ref == "#000001"
    assert (str(stored.total_amount), stored.shipping_address) == (
        "441.50",
        {"city": "Paris", "lines": ["1 rue X", None]},
    )
    assert (stored.sav_status, stored.sla_status, stored.order_date) == ("NONE", "OK", NOW)
    assert items == [item()]


async def test_a_newer_version_updates_the_order_and_replaces_its_items(pool: Pool) -> None:
    [first] = await store(pool, order(items=[item(1), item(2)]))
    newer = order(
        order_status=OrderStatus.SHIPPED,
        external_updated_at=NOW + MINUTE,
        total_amount=Decimal("1.10"),
        items=[item(2, price="3.30", quantity=5), item(3)],
    )
    [second] = await store(pool, newer)
    assert (second.id, second.is_new, second.order_status) == (first.id, False, "SHIPPED")
    found = await search_queries.get_order(pool, TENANT, first.id)
    assert found is not None
    assert (found[0].order_status, found[0].total_amount) == ("SHIPPED", Decimal("1.10"))
    assert found[0].updated_at > found[0].created_at
    assert found[1] == [item(2, price="3.30", quantity=5), item(3)]


async def test_the_same_and_older_versions_change_nothing(pool: Pool) -> None:
    [first] = await store(pool, order())
    before = await search_queries.get_order(pool, TENANT, first.id)
    for updated_at in (NOW, NOW - MINUTE):
        assert await store(pool, order(customer_name="Other", external_updated_at=updated_at, items=[])) == []
    after = await search_queries.get_order(pool, TENANT, first.id)
    assert before is not None
    assert after == before


async def test_of_one_order_twice_in_a_page_the_newest_stays(pool: Pool) -> None:
    older, newer = order(customer_name="Old"), order(customer_name="New", external_updated_at=NOW + MINUTE)
    for number, page in enumerate(([older, newer], [newer, older])):
        [upserted] = await store(pool, *page, tenant_id=f"tenant-{number}")
        found = await search_queries.get_order(pool, f"tenant-{number}", upserted.id)
        assert found is not None
        assert found[0].customer_name == "New"


async def test_nothing_to_store_is_no_error(pool: Pool) -> None:
    assert await store(pool) == []


async def test_an_order_without_items_or_amounts_is_stored(pool: Pool) -> None:
    bare = order(items=[], total_amount=None, currency=None, shipping_address=None, marketplace_id=None)
    [upserted] = await store(pool, bare)
    found = await search_queries.get_order(pool, TENANT, upserted.id)
    assert found is not None
    assert (found[0].total_amount, found[0].shipping_address, found[1]) == (None, None, [])


async def test_two_transactions_with_the_same_orders_in_opposite_order_wait_instead_of_deadlocking(pool: Pool) -> None:
    ids = [f"407-0000000-{number:07}" for number in range(200)]
    for round_ in range(3):
        updated_at = NOW + round_ * MINUTE
        up = [order(each, external_updated_at=updated_at) for each in ids]
        down = [order(each, external_updated_at=updated_at + MINUTE / 2) for each in reversed(ids)]
        await asyncio.gather(store(pool, *up), store(pool, *down))
    assert await pool.fetchval("SELECT count(*) FROM orders") == 200
    assert await pool.fetchval("SELECT count(*) FROM order_items") == 200
    latest = NOW + 2.5 * MINUTE
    assert await pool.fetchval("SELECT count(*) FROM orders WHERE external_updated_at = $1", latest) == 200


async def test_pages_of_orders_with_equal_dates_have_no_gap_and_no_double(pool: Pool) -> None:
    dates = [NOW - timedelta(days=number // 100) for number in range(250)]
    await store(pool, *(order(f"407-0000000-{number:07}", order_date=date) for number, date in enumerate(dates)))
    await store(pool, order("407-0000000-9999999"), tenant_id="kbz-002")
    seen: list[tuple[datetime, UUID]] = []
    after: tuple[datetime, UUID] | None = None
    while page := await search_queries.list_orders(pool, TENANT, Search(), limit=33, after=after):
        seen += [(each.order_date, each.id) for each in page]
        after = seen[-1]
        assert len(seen) <= 250
    assert len(set(seen)) == 250
    assert seen == sorted(seen, reverse=True)


async def test_another_tenant_sees_nothing(pool: Pool) -> None:
    [mine] = await store(pool, order())
    assert await search_queries.list_orders(pool, "kbz-002", Search(), limit=10) == []
    named = Search(external_order_id="407-0000000-0000001")
    assert await search_queries.list_orders(pool, "kbz-002", named, limit=10) == []
    assert await search_queries.get_order(pool, "kbz-002", mine.id) is None
    assert not await order_queries.is_fresh(pool, "kbz-002", "407-0000000-0000001", MINUTE)


async def test_two_tenants_can_hold_the_same_order(pool: Pool) -> None:
    [mine] = await store(pool, order())
    [other] = await store(pool, order(customer_name="Other"), tenant_id="kbz-002")
    assert other.is_new
    assert mine.id != other.id
