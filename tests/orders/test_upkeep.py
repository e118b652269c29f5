"""When it is the turn of what is done for accounts again and again."""

from datetime import timedelta

import pytest

from orders import audit, details, handlers, upkeep, upkeep_queries
from orders.domain import JobState, Task
from orders.upkeep import Duty
from orders.windows import Parts
from shared.errors import RetryLaterError
from tests.builders import received
from tests.orders.backfills import request
from tests.orders.conftest import Seller
from tests.orders.upkeep import account, claim, row, take

SOON = timedelta(seconds=1)
HOUR = timedelta(hours=1)


async def due_in(parts: Parts, task: Task) -> timedelta:
    found = await row(parts, task)
    wait: timedelta = found["next_due"] - found["now"]
    return wait


async def wake(parts: Parts, seller: Seller, task: Task) -> None:
    async with parts.pool.acquire() as conn, conn.transaction():
        await upkeep_queries.wake(conn, seller.tenant_id, task)


async def rest(parts: Parts) -> None:
    """There is nothing to do for a while."""
    for duty in (details.DUTY, audit.DUTY):
        await take(parts, duty)
    await parts.pool.execute("UPDATE upkeep SET next_due = clock_timestamp() + interval '1 hour'")


@pytest.fixture
async def known(parts: Parts, seller: Seller) -> Seller:
    await seller.with_orders(3)
    await account(parts, seller)
    return seller


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("duty", [details.DUTY, audit.DUTY], ids=["details", "audit"])
async def test_where_there_is_nothing_to_do_nobody_looks_for_up_to_an_hour(parts: Parts, duty: Duty) -> None:
    await take(parts, duty)
    assert timedelta() < await due_in(parts, duty.task) <= HOUR
    async with parts.pool.acquire() as conn:
        slot = "SELECT next_slot(tenant_id, 3600, clock_timestamp()) FROM upkeep LIMIT 1"
        assert (await row(parts, duty.task))["next_due"] == await conn.fetchval(slot)


@pytest.mark.usefixtures("quick")
async def test_the_end_of_a_backfill_is_audited_at_once_and_what_its_reports_lack_filled_in(
    parts: Parts, seller: Seller
) -> None:
    await seller.with_orders(6_000, reports={"seconds": 0, "secondsPerRow": 0})
    await account(parts, seller)
    asked = await request(parts, seller)
    await rest(parts)
    await asked.run_until(JobState.COMPLETED)
    assert await due_in(parts, Task.DETAILS) <= timedelta()
    assert await due_in(parts, Task.AUDIT) <= timedelta()
    assert await due_in(parts, Task.DELTA) > timedelta(minutes=50)


async def test_what_a_message_names_and_amazon_cannot_tell_now_is_filled_in_soon(parts: Parts, known: Seller) -> None:
    await rest(parts)
    await known.amazon.fail("getOrder", 503, known.seller_id)
    (order, *_) = await known.amazon.orders_of(known.seller_id)
    with pytest.raises(RetryLaterError):
        await handlers.fetch_missing_order(
            received(known.tenant_id, order["orderId"]), "event-1", pool=parts.pool, outbox=parts.outbox, api=parts.api
        )
    assert await due_in(parts, Task.DETAILS) <= timedelta()
    assert await due_in(parts, Task.AUDIT) > timedelta(minutes=50)


async def test_what_comes_while_a_turn_is_in_hand_is_not_forgotten(parts: Parts, known: Seller) -> None:
    turn = await claim(parts, Task.DETAILS)
    await wake(parts, known, Task.DETAILS)
    await upkeep.take(parts, details.DUTY, turn)
    assert await due_in(parts, Task.DETAILS) <= timedelta()
    again = await upkeep_queries.claim(parts.pool, Task.DETAILS, SOON)
    assert again is not None
    await upkeep.take(parts, details.DUTY, again)
    assert await due_in(parts, Task.DETAILS) > timedelta()


async def test_what_fails_is_not_tried_sooner_for_it(parts: Parts, known: Seller) -> None:
    turn = await claim(parts, Task.DETAILS)
    async with parts.pool.acquire() as conn, conn.transaction():
        await upkeep_queries.fail(conn, turn, 60, "unavailable", "It did not answer.", rejected=False)
    before = await due_in(parts, Task.DETAILS)
    await wake(parts, known, Task.DETAILS)
    assert before - SOON < await due_in(parts, Task.DETAILS) <= before
