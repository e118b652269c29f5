"""Changes at Amazon come into the copy, all of them, once, whatever happens meanwhile."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest

from devstack.stack import Stack
from orders import delta, handlers, live, upkeep, upkeep_queries
from orders.domain import Task
from orders.mapping import from_amazon
from orders.settings import OrdersSettings
from orders.upkeep import Duty
from orders.windows import LEASE, Parts
from shared.amazon.gate import Lane
from shared.amazon.orders import SEARCH_ORDERS, get_order, search_changed_orders
from shared.events import StoreCause
from tests.builders import connected
from tests.conftest import Told, servers
from tests.orders.backfills import after
from tests.orders.conftest import Disconnect, Follow, Seller
from tests.orders.upkeep import DELTA, account, advance, claim, copy, is_due, row, take, truth

SEARCH = "/orders/2026-01-01/orders"
MINUTE = 60
HOUR = 60 * MINUTE


@pytest.fixture(scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """One of this file alone: its Amazon goes on in time."""
    async with servers(tmp_path_factory) as running:
        yield running


@pytest.fixture
async def known(parts: Parts, seller: Seller) -> Seller:
    """A connected account with nothing to fetch yet."""
    await seller.with_orders(0, ordersPerDay=0)
    await account(parts, seller)
    return seller


async def orders_come(seller: Seller, number: int) -> None:
    """And are old enough for Amazon to tell of them."""
    seconds = HOUR / 6
    await seller.amazon.control("PUT", f"sellers/{seller.seller_id}/pace", {"ordersPerDay": number * 86_400 / seconds})
    await advance(seller, seconds)
    await seller.amazon.control("PUT", f"sellers/{seller.seller_id}/pace", {"ordersPerDay": 0})
    await advance(seller, 3 * MINUTE)


async def is_true(parts: Parts, seller: Seller) -> bool:
    """Whatever last changed before the cursor is stored as it is, and the cursor is Amazon's latest."""
    true, held = await truth(parts, seller), await copy(parts, seller)
    assert {number: held.get(number) for number in true} == true
    clock = datetime.fromisoformat((await seller.amazon.control("GET", "clock"))["now"])
    assert timedelta(minutes=2) <= clock - (await row(parts))["cursor_at"] < timedelta(minutes=2, seconds=20)
    return bool(true)


async def stored(told: Told, parts: Parts) -> list[dict[str, Any]]:
    return [body for subject, body in await told(parts.pool) if subject == "order.stored"]


async def test_what_is_new_and_what_changed_is_stored_and_told_once(parts: Parts, known: Seller, told: Told) -> None:
    await orders_come(known, 5)
    await take(parts)
    assert await is_true(parts, known)
    first = await stored(told, parts)
    assert len(first) == len(await copy(parts, known)) >= 4
    assert {(body["isNew"], body["cause"]) for body in first} == {(True, "DELTA")}
    await take(parts)
    assert await stored(told, parts) == first
    before = await copy(parts, known)
    order_id = next(iter(before))
    change = {"status": "SHIPPED", "carrier": "DPD", "trackingNumber": "XY1"}
    await known.amazon.control("POST", f"sellers/{known.seller_id}/orders/{order_id}", change)
    await advance(known, 3 * MINUTE)
    await take(parts)
    assert await is_true(parts, known)
    after_it = await copy(parts, known)
    changed = {body["externalOrderId"]: body for body in (await stored(told, parts))[len(first) :]}
    # Another one may have gone on by itself meanwhile.
    assert sorted(changed) == sorted(number for number, order in after_it.items() if order != before.get(number))
    assert (changed[order_id]["isNew"], changed[order_id]["orderStatus"]) == (False, "SHIPPED")
    assert len(await stored(told, parts)) == len(first) + len(changed)


async def test_a_connection_has_its_first_delta_begin_before_its_backfill_ends_and_come_a_minute_later(
    parts: Parts, settings: OrdersSettings
) -> None:
    await handlers.start_backfill(connected(), "event-1", pool=parts.pool, outbox=parts.outbox, settings=settings)
    first = await row(parts)
    assert first["cursor_at"] <= await parts.pool.fetchval("SELECT window_to FROM backfill_jobs") + timedelta(seconds=1)
    assert timedelta(seconds=50) < first["next_due"] - first["now"] <= timedelta(seconds=660)
    assert await upkeep_queries.claim(parts.pool, Task.DELTA, LEASE) is None
    assert await upkeep_queries.claim(parts.pool, Task.DETAILS, LEASE) is not None


@pytest.mark.usefixtures("known")
async def test_a_delta_that_found_nothing_goes_to_its_next_slot(parts: Parts) -> None:
    before = (await row(parts)).get("cursor_at")
    await take(parts)
    after_it = await row(parts)
    assert (after_it["failures"], after_it["last_error"], after_it["leased_until"]) == (0, None, None)
    assert after_it["last_success_at"] is not None
    assert after_it["cursor_at"] > before
    assert timedelta() < after_it["next_due"] - after_it["now"] <= timedelta(seconds=600)


async def test_a_kill_between_pages_repeats_one_page_at_most(parts: Parts, known: Seller, told: Told) -> None:
    await orders_come(known, 250)
    reached, never = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        reached.set()
        await never.wait()

    turn = await claim(parts)
    async with after(parts, SEARCH, 2, hang) as hanging:
        task = asyncio.create_task(DELTA.work(hanging, turn))
        await reached.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert len(await copy(parts, known)) == 100
    in_hand = await row(parts)
    assert in_hand["next_token"] is not None
    assert in_hand["cursor_at"] == turn.cursor_at
    await take(parts)
    assert await is_true(parts, known)
    assert len(await stored(told, parts)) == len(await copy(parts, known)) > 200
    assert sum((await known.amazon.calls("searchOrders", known.seller_id)).values()) == 3 + 1


async def test_a_page_token_that_is_too_old_begins_the_round_again(parts: Parts, known: Seller) -> None:
    await orders_come(known, 150)
    turn = await claim(parts)
    await parts.pool.execute(
        "UPDATE upkeep SET next_token = 'old', next_token_at = clock_timestamp() - interval '23 h'"
    )
    turn = await claim(parts)
    assert turn.token_is_stale
    await DELTA.work(parts, turn)
    assert await is_true(parts, known)
    assert await known.amazon.calls("searchOrders", known.seller_id) == {"200": 2}


async def test_a_page_token_that_amazon_refuses_begins_the_round_again(parts: Parts, known: Seller) -> None:
    await orders_come(known, 150)
    await parts.pool.execute("UPDATE upkeep SET next_token = 'forged', next_token_at = clock_timestamp()")
    await take(parts)
    assert await is_true(parts, known)
    assert await known.amazon.calls("searchOrders", known.seller_id) == {"400": 1, "200": 2}


@pytest.mark.usefixtures("known")
async def test_an_account_that_was_away_catches_up_day_by_day(parts: Parts) -> None:
    await parts.pool.execute("UPDATE upkeep SET cursor_at = cursor_at - interval '60 hours'")
    begun = (await row(parts))["cursor_at"]
    await take(parts)
    one = await row(parts)
    assert one["cursor_at"] == begun + timedelta(days=1)
    assert one["next_due"] <= one["now"]
    await take(parts)
    await take(parts)
    last = await row(parts)
    assert last["cursor_at"] > begun + timedelta(hours=60)
    assert last["next_due"] > last["now"]


async def test_an_older_answer_that_comes_late_overwrites_nothing(parts: Parts, known: Seller) -> None:
    await orders_come(known, 3)
    order_id = (await known.amazon.all_orders_of(known.seller_id))[0]["orderId"]

    async def overtake() -> None:
        change = {"status": "SHIPPED", "carrier": "DPD", "trackingNumber": "NEWER"}
        await known.amazon.control("POST", f"sellers/{known.seller_id}/orders/{order_id}", change)
        newer = from_amazon(await get_order(parts.api, known.tenant_id, order_id))
        async with parts.pool.acquire() as conn, conn.transaction():
            await live.store(conn, parts.outbox, known.tenant_id, [newer], StoreCause.MESSAGE)

    turn = await claim(parts)
    async with after(parts, SEARCH, 1, overtake) as slow:
        await DELTA.work(slow, turn)
    held = await copy(parts, known)
    assert len(held) > 1
    assert held[order_id][2] == "NEWER"


async def test_who_lost_the_lease_stores_and_tells_nothing(parts: Parts, known: Seller, told: Told) -> None:
    await orders_come(known, 5)
    lost = await claim(parts)
    held = await claim(parts)
    await upkeep.take(parts, DELTA, lost)
    assert await copy(parts, known) == {}
    assert await stored(told, parts) == []
    assert (await row(parts))["lease_token"] == held.token
    await DELTA.work(parts, held)
    assert await is_true(parts, known)


async def test_a_disconnected_account_rests_and_a_turn_in_hand_stores_nothing(
    parts: Parts, known: Seller, disconnect: Disconnect
) -> None:
    await orders_come(known, 5)
    turn = await claim(parts)
    await disconnect(tenant_id=known.tenant_id)
    await upkeep.take(parts, DELTA, turn)
    await is_due(parts)
    assert await upkeep_queries.claim(parts.pool, Task.DELTA, LEASE) is None
    assert await copy(parts, known) == {}


async def test_an_archived_tenants_account_rests_until_it_comes_back(
    parts: Parts, known: Seller, follow: Follow
) -> None:
    turn = await claim(parts)
    await follow(tenant_id=known.tenant_id, status="ARCHIVED")
    await upkeep.take(parts, DELTA, turn)
    await is_due(parts)
    assert await upkeep_queries.claim(parts.pool, Task.DELTA, LEASE) is None
    await follow(tenant_id=known.tenant_id, status="ACTIVE")
    assert (await claim(parts)).tenant_id == known.tenant_id


async def test_the_same_seller_goes_on_where_it_was_and_another_begins_anew(parts: Parts, known: Seller) -> None:
    await parts.pool.execute("UPDATE upkeep SET cursor_at = cursor_at - interval '2 days'")
    await account(parts, known)
    assert (await row(parts))["now"] - (await row(parts))["cursor_at"] > timedelta(days=2)
    async with parts.pool.acquire() as conn, conn.transaction():
        await upkeep_queries.upsert_upkeep(conn, known.tenant_id, "ANOTHER", 600)
    assert (await row(parts))["now"] - (await row(parts))["cursor_at"] < timedelta(minutes=4)


async def test_an_outage_is_noted_and_comes_after_longer_and_longer(parts: Parts, known: Seller) -> None:
    pauses = []
    for _ in range(4):
        await known.amazon.fail("searchOrders", 503, known.seller_id)
        await take(parts)
        failed = await row(parts)
        pauses.append((failed["next_due"] - failed["now"]).total_seconds())
    assert (failed["failures"], failed["error_code"], failed["leased_until"]) == (4, "amazon_unavailable", None)
    assert "503" in failed["last_error"]
    for pause, longest in zip(pauses, (600, 1200, 2400, 3600), strict=True):
        assert longest - 600 < pause <= longest
    await orders_come(known, 3)
    await take(parts)
    assert await is_true(parts, known)
    assert (await row(parts))["failures"] == 0


async def test_credentials_that_are_refused_are_told_once_and_asked_for_hourly(
    parts: Parts, seller: Seller, told: Told
) -> None:
    seller.tenant_id += "-none"
    await account(parts, seller)
    for _ in range(3):
        await take(parts)
    failed = await row(parts)
    assert (failed["error_code"], failed["failures"]) == ("not_connected", 3)
    assert 3000 < (failed["next_due"] - failed["now"]).total_seconds() <= 3600
    assert [subject for subject, _ in await told(parts.pool)] == ["connection.rejected"]


@pytest.mark.usefixtures("known")
async def test_what_nobody_expected_is_noted_without_its_words(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    async def break_down(*_: object) -> None:
        raise ZeroDivisionError("a buyer's words")

    monkeypatch.setattr(live, "store", break_down)
    await take(parts)
    failed = await row(parts)
    assert failed["error_code"] == "unexpected"
    assert "words" not in failed["last_error"]


async def test_a_used_up_plan_is_waited_for_within_its_bound_and_then_given_back(
    parts: Parts, known: Seller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delta, "WAIT_SECONDS", 1.0)
    turn = await claim(parts)
    await parts.pool.execute(
        "INSERT INTO amazon.request_buckets (application, seller_id, region, operation, arrives_at)"
        " VALUES ('external_test', $1, 'eu', 'searchOrders', clock_timestamp() + make_interval(secs => $2))",
        known.seller_id,
        SEARCH_ORDERS.burst / SEARCH_ORDERS.rate,
    )
    await upkeep.take(parts, DELTA, turn)
    waiting = await row(parts)
    assert (waiting["error_code"], waiting["failures"], waiting["leased_until"]) == ("quota_wait", 0, None)
    assert 100 < (waiting["next_due"] - waiting["now"]).total_seconds() < 200
    assert await known.amazon.calls("searchOrders", known.seller_id) == {}


@pytest.mark.usefixtures("known")
async def test_a_delta_goes_by_the_live_lane(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    lanes = []
    real = search_changed_orders

    async def note(*arguments: Any, **named: Any) -> Any:
        lanes.append(named["lane"])
        return await real(*arguments, **named)

    monkeypatch.setattr(delta, "search_changed_orders", note)
    await take(parts)
    assert lanes == [Lane.LIVE]


async def test_two_replicas_share_the_accounts_and_ask_once(parts: Parts, amazon: Any, api: Any) -> None:
    sellers = [await Seller(amazon, api).with_orders(0, ordersPerDay=0) for _ in range(4)]
    for seller in sellers:
        await account(parts, seller)
    await is_due(parts)
    replicas = [
        asyncio.create_task(upkeep.run(parts, Duty(Task.DELTA, 600, DELTA.work), asyncio.Lock())) for _ in range(4)
    ]
    async with asyncio.timeout(30):
        while await parts.pool.fetchval(  # noqa: ASYNC110 - the database knows
            "SELECT count(*) FROM upkeep WHERE task = 'DELTA' AND last_success_at IS NULL"
        ):
            await asyncio.sleep(0.05)
    for replica in replicas:
        replica.cancel()
    await asyncio.gather(*replicas, return_exceptions=True)
    for seller in sellers:
        assert await amazon.calls("searchOrders", seller.seller_id) == {"200": 1}


@pytest.mark.parametrize("seed", range(4))
async def test_after_any_changes_and_deltas_the_copy_is_the_truth(parts: Parts, seller: Seller, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - a test that can be repeated
    await seller.with_orders(0, ordersPerDay=0)
    await account(parts, seller)
    path = f"sellers/{seller.seller_id}"
    await seller.amazon.control("PUT", f"{path}/pace", {"ordersPerDay": 2_000})
    await advance(seller, HOUR)

    async def change() -> None:
        order_id = chance.choice(await seller.amazon.all_orders_of(seller.seller_id))["orderId"]
        status = chance.choice(["SHIPPED", "UNSHIPPED", "CANCELLED", "PARTIALLY_SHIPPED"])
        tracked = {"trackingNumber": f"T{chance.random()}"} if "SHIPPED" in status and status != "UNSHIPPED" else {}
        await seller.amazon.control("POST", f"{path}/orders/{order_id}", {"status": status, **tracked})

    async def fail() -> None:
        await seller.amazon.fail("searchOrders", chance.choice([500, 503, 429]), seller.seller_id)

    async def kill() -> None:
        turn, reached = await claim(parts), asyncio.Event()

        async def hang() -> None:
            reached.set()
            await asyncio.Event().wait()

        async with after(parts, SEARCH, chance.choice([1, 2]), hang) as hanging:
            task = asyncio.create_task(DELTA.work(hanging, turn))
            waiting = asyncio.create_task(reached.wait())
            await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
            for each in (task, waiting):
                each.cancel()
            await asyncio.gather(task, waiting, return_exceptions=True)

    steps: list[Callable[[], Awaitable[None]]] = [
        change,
        change,
        fail,
        kill,
        partial(advance, seller, 20 * MINUTE),
        partial(take, parts),
    ]
    for _ in range(25):
        await chance.choice(steps)()
    await seller.amazon.control("PUT", f"{path}/pace", {"ordersPerDay": 0})
    await advance(seller, 3 * MINUTE)
    await take(parts)
    while (last := await row(parts))["error_code"] or last["next_due"] <= last["now"]:
        await take(parts)
    assert await is_true(parts, seller)
