"""Storing and finding orders, and the leases of backfills, in PostgreSQL."""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import msgspec

from orders import order_queries, queries
from orders.domain import DeliveryStatus, Item, Job, JobState, Lease, NewOrder, OrderStatus, Search, Upserted
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
    found = await order_queries.get_order(pool, TENANT, upserted.id)
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
    found = await order_queries.get_order(pool, TENANT, first.id)
    assert found is not None
    assert (found[0].order_status, found[0].total_amount) == ("SHIPPED", Decimal("1.10"))
    assert found[0].updated_at > found[0].created_at
    assert found[1] == [item(2, price="3.30", quantity=5), item(3)]


async def test_the_same_and_older_versions_change_nothing(pool: Pool) -> None:
    [first] = await store(pool, order())
    before = await order_queries.get_order(pool, TENANT, first.id)
    for updated_at in (NOW, NOW - MINUTE):
        assert await store(pool, order(customer_name="Other", external_updated_at=updated_at, items=[])) == []
    after = await order_queries.get_order(pool, TENANT, first.id)
    assert before is not None
    assert after == before


async def test_of_one_order_twice_in_a_page_the_newest_stays(pool: Pool) -> None:
    older, newer = order(customer_name="Old"), order(customer_name="New", external_updated_at=NOW + MINUTE)
    for number, page in enumerate(([older, newer], [newer, older])):
        [upserted] = await store(pool, *page, tenant_id=f"tenant-{number}")
        found = await order_queries.get_order(pool, f"tenant-{number}", upserted.id)
        assert found is not None
        assert found[0].customer_name == "New"


async def test_nothing_to_store_is_no_error(pool: Pool) -> None:
    assert await store(pool) == []


async def test_an_order_without_items_or_amounts_is_stored(pool: Pool) -> None:
    bare = order(items=[], total_amount=None, currency=None, shipping_address=None, marketplace_id=None)
    [upserted] = await store(pool, bare)
    found = await order_queries.get_order(pool, TENANT, upserted.id)
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
    while page := await order_queries.list_orders(pool, TENANT, Search(), limit=33, after=after):
        seen += [(each.order_date, each.id) for each in page]
        after = seen[-1]
        assert len(seen) <= 250
    assert len(set(seen)) == 250
    assert seen == sorted(seen, reverse=True)


async def test_another_tenant_sees_nothing(pool: Pool) -> None:
    [mine] = await store(pool, order())
    assert await order_queries.list_orders(pool, "kbz-002", Search(), limit=10) == []
    named = Search(external_order_id="407-0000000-0000001")
    assert await order_queries.list_orders(pool, "kbz-002", named, limit=10) == []
    assert await order_queries.get_order(pool, "kbz-002", mine.id) is None
    assert not await order_queries.has_order(pool, "kbz-002", "407-0000000-0000001")


async def test_two_tenants_can_hold_the_same_order(pool: Pool) -> None:
    [mine] = await store(pool, order())
    [other] = await store(pool, order(customer_name="Other"), tenant_id="kbz-002")
    assert other.is_new
    assert mine.id != other.id


async def job_of(pool: Pool, tenant_id: str = TENANT, days: int = 90) -> tuple[Job, bool]:
    async with pool.acquire() as conn, conn.transaction():
        return await queries.insert_job(conn, tenant_id, days)


async def claimed(pool: Pool, lease: timedelta = MINUTE) -> Lease:
    found = await queries.claim_job(pool, lease)
    assert found is not None
    return found


async def advanced(pool: Pool, lease: Lease, next_token: str | None, orders: int = 1) -> Job | None:
    async with pool.acquire() as conn, conn.transaction():
        return await queries.advance_job(conn, lease, extend=MINUTE, next_token=next_token, orders=orders, items=orders)


async def test_a_tenant_has_one_unfinished_backfill_at_a_time(pool: Pool) -> None:
    first, is_new = await job_of(pool)
    again, is_new_again = await job_of(pool, days=30)
    assert (is_new, is_new_again, again.id, again.days) == (True, False, first.id, 90)
    other, other_is_new = await job_of(pool, "kbz-002")
    assert other_is_new
    assert other.id != first.id


async def test_of_many_requests_at_once_one_makes_the_job(pool: Pool) -> None:
    made = await asyncio.gather(*(job_of(pool) for _ in range(8)))
    assert [is_new for _, is_new in made].count(True) == 1
    assert len({job.id for job, _ in made}) == 1


async def test_a_finished_backfill_makes_room_for_the_next(pool: Pool) -> None:
    first, _ = await job_of(pool)
    done = await advanced(pool, await claimed(pool), None)
    assert done is not None
    assert done.state is JobState.COMPLETED
    second, is_new = await job_of(pool)
    assert is_new
    assert second.id != first.id


async def test_a_backfills_window_is_its_days_and_ends_where_amazon_lets_it(pool: Pool) -> None:
    job, _ = await job_of(pool, days=30)
    assert timedelta(days=29, hours=22) < job.window_to - job.window_from < timedelta(days=30)
    now = await pool.fetchval("SELECT clock_timestamp()")
    assert now - job.window_to > timedelta(minutes=2, seconds=30), "Amazon refuses the last two minutes by its clock"


async def test_a_claimed_job_is_nobody_elses_until_its_lease_ends(pool: Pool) -> None:
    await job_of(pool)
    first = await claimed(pool)
    assert first.job.state is JobState.RUNNING
    assert await queries.claim_job(pool, MINUTE) is None
    await pool.execute("UPDATE backfill_jobs SET leased_until = clock_timestamp() - interval '1 second'")
    second = await claimed(pool)
    assert (second.job.id, second.token) == (first.job.id, first.token + 1)


async def test_two_who_claim_at_once_share_nothing(pool: Pool) -> None:
    for number in range(3):
        await job_of(pool, f"tenant-{number}")
    leases = await asyncio.gather(*(queries.claim_job(pool, MINUTE) for _ in range(8)))
    taken = [lease.job.id for lease in leases if lease is not None]
    assert len(taken) == len(set(taken)) == 3


async def test_who_lost_the_lease_changes_nothing_any_more(pool: Pool) -> None:
    await job_of(pool)
    lost = await claimed(pool)
    await pool.execute("UPDATE backfill_jobs SET leased_until = clock_timestamp() - interval '1 second'")
    held = await claimed(pool)
    assert await advanced(pool, lost, "page-2") is None
    await queries.postpone_job(pool, lost, MINUTE, "late", "late")
    await queries.renew_job(pool, lost, timedelta(days=1))
    async with pool.acquire() as conn, conn.transaction():
        assert await queries.fail_job(conn, lost, "late", "late") is None
    job = await queries.get_job(pool, TENANT, lost.job.id)
    assert job is not None
    assert (job.state, job.pages, job.orders_stored, job.error) == (JobState.RUNNING, 0, 0, None)
    assert await pool.fetchval("SELECT leased_until < clock_timestamp() + interval '1 hour' FROM backfill_jobs")
    assert await advanced(pool, held, "page-2") is not None


async def test_an_archived_tenants_job_is_not_claimed(pool: Pool) -> None:
    for tenant_id in (TENANT, "kbz-002"):
        await job_of(pool, tenant_id)
    await pool.execute("INSERT INTO tenants VALUES ($1, true, $2), ('kbz-002', false, $2)", TENANT, NOW)
    assert (await claimed(pool)).job.tenant_id == "kbz-002"
    assert await queries.claim_job(pool, MINUTE) is None
    await pool.execute("UPDATE tenants SET archived = false")
    assert (await claimed(pool)).job.tenant_id == TENANT


async def test_a_renewed_lease_is_kept(pool: Pool) -> None:
    await job_of(pool)
    lease = await claimed(pool)
    await pool.execute("UPDATE backfill_jobs SET leased_until = clock_timestamp() - interval '1 second'")
    await queries.renew_job(pool, lease, MINUTE)
    assert await queries.claim_job(pool, MINUTE) is None


async def test_a_postponed_job_waits_and_goes_on_where_it_was(pool: Pool) -> None:
    await job_of(pool)
    lease = await claimed(pool)
    await advanced(pool, lease, "page-2")
    await queries.postpone_job(pool, lease, MINUTE, "quota_exceeded", "Wait.")
    assert await queries.claim_job(pool, MINUTE) is None
    await pool.execute("UPDATE backfill_jobs SET next_attempt_at = clock_timestamp()")
    again = await claimed(pool)
    assert (again.next_page, again.attempts, again.job.pages) == ("page-2", 1, 1)


async def test_a_token_too_old_for_amazon_begins_the_window_and_its_count_again(pool: Pool) -> None:
    await job_of(pool)
    await advanced(pool, await claimed(pool), "page-2", orders=100)
    await pool.execute("UPDATE backfill_jobs SET leased_until = NULL, next_token_at = next_token_at - interval '22 h'")
    young = await claimed(pool)
    assert (young.next_page, young.job.orders_stored, young.job.pages) == ("page-2", 100, 1)
    await pool.execute("UPDATE backfill_jobs SET leased_until = NULL, next_token_at = next_token_at - interval '2 h'")
    old = await claimed(pool)
    assert old.next_page is None
    assert (old.job.orders_stored, old.job.items_stored, old.job.pages) == (0, 0, 0)


async def test_another_tenants_job_is_not_found(pool: Pool) -> None:
    job, _ = await job_of(pool)
    assert await queries.get_job(pool, "kbz-002", job.id) is None
