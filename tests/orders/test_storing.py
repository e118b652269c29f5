"""What is stored of an order, by whom and in whatever order it is told."""

import asyncio
from collections.abc import Sequence
from functools import reduce
from itertools import permutations
from random import Random

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from orders import order_queries, search_queries
from orders.domain import Continues, DeliveryStatus, Detail, NewOrder, Upserted, placeholder
from orders.merging import merge
from shared.db import Pool
from tests.builders import new_id
from tests.orders.answers import ANSWERS, MINUTE, NOW, ORDER_ID, full, item, row

TENANT = "kbz-001"


async def store(pool: Pool, *orders: NewOrder, tenant_id: str = TENANT) -> list[Upserted]:
    async with pool.acquire() as conn, conn.transaction():
        return await order_queries.upsert_orders(conn, tenant_id, orders)


async def held(pool: Pool, tenant_id: str = TENANT) -> list[NewOrder]:
    ids = [row["id"] for row in await pool.fetch("SELECT id FROM orders WHERE tenant_id = $1 ORDER BY 1", tenant_id)]
    async with pool.acquire() as conn:
        return sorted(
            (order for _, order in await order_queries._read(conn, tenant_id, ids)),
            key=lambda order: order.external_order_id,
        )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answers=ANSWERS, random=st.randoms(use_true_random=False))
async def test_whatever_comes_first_the_rows_are_what_all_answers_merge_to(
    pool: Pool, answers: Sequence[NewOrder], random: Random
) -> None:
    tenant_id = new_id()
    shuffled = [*answers, random.choice(answers)]
    random.shuffle(shuffled)
    for answer in shuffled:
        await store(pool, answer, tenant_id=tenant_id)
    assert await held(pool, tenant_id) == [reduce(merge, answers)]


async def test_every_order_of_arrival_comes_to_one_state(pool: Pool) -> None:
    answers = (
        placeholder(ORDER_ID, NOW),
        row(1, skus="ab"),
        full(0, packages=DeliveryStatus.IN_TRANSIT, skus="ba"),
        row(2, status="Shipped - Delivered to Buyer", skus="abb"),
        full(1, skus="a"),
    )
    for number, arrival in enumerate(permutations(answers)):
        for answer in arrival:
            await store(pool, answer, tenant_id=f"tenant-{number}")
        assert await held(pool, f"tenant-{number}") == [reduce(merge, answers)], [each.detail for each in arrival]


async def test_an_answer_that_tells_nothing_new_is_not_written(pool: Pool) -> None:
    await store(pool, full(2, skus="ab"))
    before = await pool.fetchrow("SELECT * FROM orders")
    for answer in (full(2), full(1), row(2), row(1), placeholder(ORDER_ID, NOW), row(1, skus="c")):
        assert await store(pool, answer) == []
    assert await pool.fetchrow("SELECT * FROM orders") == before
    assert await pool.fetchval("SELECT count(*) FROM order_items") == 2


async def test_who_stores_is_told_what_became_of_each_order(pool: Pool) -> None:
    other = "407-0000000-0000002"
    [named] = await store(pool, placeholder(ORDER_ID, NOW))
    assert (named.is_new, named.detail, named.order_status) == (True, Detail.PLACEHOLDER, "PENDING")
    stored = await store(pool, row(1), row(1, order_id=other))
    assert {(each.external_order_id, each.is_new, each.detail) for each in stored} == {
        (ORDER_ID, False, Detail.REPORT),
        (other, True, Detail.REPORT),
    }
    [filled] = await store(pool, full(1))
    assert (filled.id, filled.is_new, filled.detail) == (named.id, False, Detail.FULL)


async def test_a_part_without_the_order_that_it_continues_is_no_order(pool: Pool) -> None:
    part = replace(row(1), continues=Continues(NOW + MINUTE, 1))
    assert await store(pool, part) == []
    assert await held(pool) == []


async def test_a_part_is_stored_once_however_often_the_report_is_read(pool: Pool) -> None:
    part = replace(row(1, skus="b"), continues=Continues(NOW + MINUTE, 2))
    for _ in range(2):
        await store(pool, row(1, skus="ab"))
        await store(pool, part)
    [order] = await held(pool)
    assert [each.sku for each in order.items] == ["a", "b", "b"]
    assert await pool.fetchval("SELECT total_amount FROM orders") == 2 * (row(1).total_amount or 0)


async def test_items_are_answered_in_amazons_order(pool: Pool) -> None:
    [stored] = await store(pool, row(1, skus="ca"))
    found = await search_queries.get_order(pool, TENANT, stored.id)
    assert found is not None
    assert (found[0].detail, found[1]) == ("REPORT", [item("c", quantity=2), item("a", quantity=2)])


async def test_an_order_is_not_half_stored(pool: Pool) -> None:
    """Its items are refused: neither it nor the other order of the batch is there, nor an older version gone."""
    await store(pool, full(1, skus="ab"))
    before = await held(pool)
    broken = replace(full(2), items=[item("a", "1"), item("b", "1")])
    with pytest.raises(asyncpg.UniqueViolationError):
        await store(pool, full(1, order_id="407-0000000-0000002"), broken)
    assert await held(pool) == before


async def test_many_writers_of_the_same_orders_neither_deadlock_nor_lose(pool: Pool) -> None:
    ids = [f"407-0000000-{number:07}" for number in range(60)]
    answers = [
        make(version, order_id=order_id, skus="ab") for order_id in ids for version in range(3) for make in (row, full)
    ]
    random = Random(5)  # noqa: S311 - one shuffle of many

    async def write(seed: int) -> None:
        mine = answers[seed::6] + answers[seed + 1 :: 7]
        random.shuffle(mine)
        for start in range(0, len(mine), 25):
            await store(pool, *mine[start : start + 25])

    await asyncio.gather(*(write(seed) for seed in range(6)))
    assert await held(pool) == [full(2, order_id=order_id, skus="ab") for order_id in ids]


async def test_a_tenants_writer_waits_for_the_one_before_and_sees_what_it_wrote(pool: Pool) -> None:
    async with pool.acquire() as conn:
        async with conn.transaction():
            await order_queries.upsert_orders(conn, TENANT, [full(2)])
            waiting = asyncio.create_task(store(pool, full(1)))
            other = await store(pool, full(1), tenant_id="kbz-002")
            assert [each.is_new for each in other] == [True], "another tenant's writer does not wait"
            while not await pool.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"):
                assert not waiting.done()
                await asyncio.sleep(0.01)
        assert await waiting == []
    assert await held(pool) == [full(2)]


async def test_the_newest_that_lack_detail_come_first_page_by_page(pool: Pool) -> None:
    days = {f"407-0000000-000000{day}": NOW.replace(day=day) for day in range(1, 8)}
    rows = [replace(row(1, order_id=order_id), order_date=date) for order_id, date in days.items()]
    await store(pool, *rows, full(1, order_id="407-0000000-0000009"), placeholder("407-0000000-0000008", NOW))
    await store(pool, row(1), tenant_id="kbz-002")
    await store(pool, full(1, order_id="407-0000000-0000003"))
    first = await order_queries.list_lacking_detail(pool, TENANT, Detail.REPORT, limit=4)
    rest = await order_queries.list_lacking_detail(
        pool, TENANT, Detail.REPORT, limit=4, before=(first[-1].order_date, first[-1].id)
    )
    assert [each.order_date.day for each in (*first, *rest)] == [7, 6, 5, 4, 2, 1]
    [named] = await order_queries.list_lacking_detail(pool, TENANT, Detail.PLACEHOLDER, limit=4)
    assert (named.external_order_id, named.order_date) == ("407-0000000-0000008", NOW)
