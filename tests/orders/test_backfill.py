"""Backfills by pages against Amazon's sandbox: quota, crashes, page tokens, what ends them and makes them go on."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from orders import backfill, handlers, job_queries, worker
from orders.domain import JobState, Waiting
from orders.settings import OrdersSettings
from orders.windows import LEASE, Parts
from shared.amazon.orders import SEARCH_ORDERS
from shared.db import Pool
from tests.builders import Amazon, connected, new_id
from tests.conftest import Told
from tests.orders.backfills import (
    ALL_IS_DUE,
    QUOTA_IS_BACK,
    after,
    forever,
    request,
    running,
    with_network,
)
from tests.orders.conftest import Disconnect, Follow, Seller

pytestmark = pytest.mark.usefixtures("quick")
PAGES = "/orders"
SINCE = {"createdAfter": "2026-01-01"}


async def stored_ids(pool: Pool) -> list[str]:
    return [row["external_order_id"] for row in await pool.fetch("SELECT external_order_id FROM orders ORDER BY 1")]


async def test_ninety_four_orders_with_their_items_are_one_call(parts: Parts, seller: Seller, told: Told) -> None:
    await seller.with_orders(94)
    asked = await request(parts, seller)
    job = await asked.run_until(JobState.COMPLETED)
    assert await seller.amazon.calls("searchOrders", seller.seller_id) == {"200": 1}
    assert await seller.amazon.calls("getOrder", seller.seller_id) == {}
    truth = await seller.amazon.orders_of(seller.seller_id)
    assert sum(order["fulfillment"]["fulfillmentStatus"] == "CANCELLED" for order in truth) >= 6
    assert await asked.is_complete()
    assert (job.pages, job.calls, job.windows_done, job.windows_total) == (1, 1, 1, 1)
    assert (job.eta_seconds, job.quota_waited_seconds, job.notice) == (None, 0, None)
    assert job.finished_at is not None
    requested, progressed, completed = await told(parts.pool)
    subjects = requested[0], progressed[0], completed[0]
    assert subjects == ("backfill.requested", "backfill.progressed", "backfill.completed")
    assert completed[1] | {"window": None} == {
        "tenantId": seller.tenant_id,
        "jobId": str(asked.job_id),
        "days": 90,
        "window": None,
        "ordersStored": 94,
        "itemsStored": sum(len(order["orderItems"]) for order in truth),
        "etaSeconds": None,
    }
    window = {edge: datetime.fromisoformat(at) for edge, at in completed[1]["window"].items()}
    assert window == {"from": job.window_from, "to": job.window_to}


async def test_two_thousand_orders_are_twenty_calls_without_a_wait(parts: Parts, seller: Seller, told: Told) -> None:
    await seller.with_orders(2_000)
    asked = await request(parts, seller)
    job = await asked.run_until(JobState.COMPLETED)
    assert await seller.amazon.calls("searchOrders", seller.seller_id) == {"200": 20}
    assert await seller.amazon.calls("createReport", seller.seller_id) == {}
    assert (job.pages, job.calls, job.windows_total, job.quota_waited_seconds) == (20, 20, 1, 0)
    assert await asked.is_complete()
    progressed = [body for subject, body in await told(parts.pool) if subject == "backfill.progressed"]
    assert 1 <= len(progressed) < 20, "not every page is told"
    assert progressed[0]["ordersStored"] == 100
    assert 10 < progressed[0]["etaSeconds"] < 60


async def test_a_seller_without_orders_is_done_at_once(parts: Parts, seller: Seller, told: Told) -> None:
    await seller.with_orders(0)
    job = await (await request(parts, seller)).run_until(JobState.COMPLETED)
    assert (job.orders_stored, job.items_stored) == (0, 0)
    [*_, (subject, _)] = await told(parts.pool)
    assert subject == "backfill.completed"


async def test_a_used_up_quota_makes_the_job_wait_and_go_on_where_it_was(parts: Parts, seller: Seller) -> None:
    await seller.with_orders(250)
    asked = await request(parts, seller)
    fail = partial(seller.amazon.fail, "searchOrders", 429, seller.seller_id)
    async with after(parts, PAGES, 1, fail) as limited:
        job = await asked.run_until(JobState.WAITING, limited)
    assert (job.error_code, job.waiting_for, job.pages) == ("quota_exceeded", Waiting.QUOTA, 1)
    assert (job.orders_stored, job.calls) == (100, 2)
    now = await parts.pool.fetchval("SELECT clock_timestamp()")
    wait = (job.next_attempt_at - now).total_seconds()
    assert 170 < wait < 180, "one call more fits every 178.6 seconds"
    assert job.eta_seconds is not None
    assert wait + 100 < job.eta_seconds < wait + 2 * 180, "two pages are left, and another wait between them"
    await parts.pool.execute("UPDATE backfill_jobs SET waiting_since = waiting_since - interval '100 s'")
    await parts.pool.execute(ALL_IS_DUE)
    await parts.pool.execute(QUOTA_IS_BACK)
    job = await asked.run_until(JobState.COMPLETED)
    assert (job.pages, job.calls, job.error_code, job.waiting_for) == (3, 4, None, None)
    assert 100 <= job.quota_waited_seconds < 130
    assert await seller.amazon.calls("searchOrders", seller.seller_id) == {"200": 3, "429": 1}
    assert await asked.is_complete()


async def test_what_the_gate_holds_back_is_not_asked(parts: Parts, seller: Seller) -> None:
    await seller.with_orders(3)
    asked = await request(parts, seller)
    for _ in range(20):
        await parts.api.get(seller.tenant_id, SEARCH_ORDERS, "/orders/2026-01-01/orders", SINCE, dict)
    job = await asked.run_until(JobState.WAITING)
    assert (job.error_code, job.waiting_for, job.calls) == ("quota_wait", Waiting.QUOTA, 0)
    assert job.eta_seconds is None, "nothing is known of the seller yet"
    assert await seller.amazon.calls("searchOrders", seller.seller_id) == {"200": 20}


async def test_a_job_that_waits_keeps_nobody_else_from_the_worker(parts: Parts, seller: Seller, amazon: Amazon) -> None:
    await seller.with_orders(3)
    await seller.amazon.fail("searchOrders", 429, seller.seller_id)
    waiting = await request(parts, seller)
    other = await Seller(amazon, parts.api).with_orders(3)
    async with running(parts):
        await waiting.until(lambda job: job.state is JobState.WAITING)
        asked = await request(parts, other)
        await asked.until(lambda job: job.state is JobState.COMPLETED)
    assert (await waiting.job()).state is JobState.WAITING


async def test_an_amazon_that_is_away_is_waited_for_longer_each_time(parts: Parts, seller: Seller) -> None:
    await seller.with_orders(3)
    await seller.amazon.fail("searchOrders", 503, seller.seller_id, times=2)
    asked = await request(parts, seller)
    waits = []
    for _ in range(2):
        job = await asked.run_until(JobState.WAITING)
        assert (job.error_code, job.waiting_for) == ("amazon_unavailable", Waiting.OUTAGE)
        waits.append(job.next_attempt_at - await parts.pool.fetchval("SELECT clock_timestamp()"))
        await parts.pool.execute("UPDATE backfill_jobs SET next_attempt_at = clock_timestamp(), state = 'REQUESTED'")
    assert waits[0].total_seconds() <= 1 < waits[1].total_seconds() <= 2
    job = await asked.run_until(JobState.COMPLETED)
    assert (job.calls, job.quota_waited_seconds) == (3, 0)


async def rejected(pool: Pool, seller: Seller, body: dict[str, Any]) -> bool:
    """Whether this is what connection.rejected has to say, but for the error."""
    at = datetime.fromisoformat(body["at"])
    assert (await pool.fetchval("SELECT clock_timestamp()") - at).total_seconds() >= 0
    assert at >= await pool.fetchval("SELECT max(finished_at) FROM backfill_jobs")
    connection_id = str(await pool.fetchval("SELECT connection_id FROM connections"))
    return body | {"at": 0, "error": 0} == {
        "tenantId": seller.tenant_id,
        "connectionId": connection_id,
        "error": 0,
        "at": 0,
    }


async def test_a_revoked_authorization_ends_the_job_and_is_told(parts: Parts, seller: Seller, told: Told) -> None:
    await seller.with_orders(3)
    await seller.amazon.revoke(seller.seller_id)
    asked = await request(parts, seller)
    job = await asked.run_until(JobState.FAILED)
    assert job.error_code == "authorization_revoked"
    assert job.finished_at is not None
    _, (subject, body), (then, rejection) = await told(parts.pool)
    assert (subject, body["jobId"], body["error"]) == ("backfill.failed", str(asked.job_id), "authorization_revoked")
    assert (then, rejection["error"]) == ("connection.rejected", "authorization_revoked")
    assert await rejected(parts.pool, seller, rejection)
    assert await stored_ids(parts.pool) == []


async def test_a_tenant_without_credentials_ends_the_job_and_says_to_connect(
    parts: Parts, seller: Seller, told: Told
) -> None:
    asked = await request(parts, seller)  # Vault has nothing
    job = await asked.run_until(JobState.FAILED)
    assert job.error_code == "not_connected"
    assert "has to be connected first" in str(job.error)
    [*_, (subject, rejection)] = await told(parts.pool)
    assert (subject, rejection["error"]) == ("connection.rejected", "not_connected")
    assert await rejected(parts.pool, seller, rejection)


async def test_what_else_amazon_refuses_ends_the_job_and_says_nothing_of_the_credentials(
    parts: Parts, seller: Seller, told: Told
) -> None:
    await seller.with_orders(3)
    asked = await request(parts, seller)
    await parts.pool.execute("UPDATE backfill_windows SET to_at = from_at - interval '1 day'")
    job = await asked.run_until(JobState.FAILED)
    assert job.error_code == "amazon_bad_request"
    assert [subject for subject, _ in await told(parts.pool)] == ["backfill.requested", "backfill.failed"]


async def test_a_crash_between_pages_costs_one_page_at_most(parts: Parts, seller: Seller) -> None:
    await seller.with_orders(250)
    asked = await request(parts, seller)
    fetched = asyncio.Event()

    async def hold_the_second_page() -> None:
        fetched.set()
        await forever()

    async with after(parts, PAGES, 2, hold_the_second_page) as held, running(held):
        await fetched.wait()
    crashed = await asked.job()
    assert (crashed.state, crashed.pages, crashed.orders_stored) == (JobState.RUNNING, 1, 100)
    await parts.pool.execute("UPDATE backfill_jobs SET leased_until = clock_timestamp()")
    job = await asked.run_until(JobState.COMPLETED)
    assert job.pages == 3
    assert await seller.amazon.calls("searchOrders", seller.seller_id) == {"200": 4}
    assert await asked.is_complete()


async def test_a_page_token_that_is_too_old_narrows_the_window_to_what_no_page_covered(
    parts: Parts, seller: Seller
) -> None:
    await seller.with_orders(250)
    asked = await request(parts, seller)
    fail = partial(seller.amazon.fail, "searchOrders", 429, seller.seller_id)
    async with after(parts, PAGES, 2, fail) as limited:
        await asked.run_until(JobState.WAITING, limited)
    await parts.pool.execute("UPDATE backfill_windows SET next_token_at = next_token_at - interval '23 h'")
    await parts.pool.execute(ALL_IS_DUE)
    await parts.pool.execute(QUOTA_IS_BACK)
    job = await asked.run_until(JobState.COMPLETED)
    assert await seller.amazon.calls("searchOrders", seller.seller_id) == {"200": 2 + 1, "429": 1}
    newer, older = await asked.windows()
    assert (older.orders, newer.orders, newer.span.start, newer.span.end) == (200, 50, older.span.end, job.window_to)
    assert await asked.is_complete()


async def test_a_page_token_that_amazon_refuses_narrows_the_window_too(parts: Parts, seller: Seller) -> None:
    await seller.with_orders(250)
    asked = await request(parts, seller)
    await seller.amazon.fail("searchOrders", "pagination_token_expired", seller.seller_id)
    job = await asked.run_until(JobState.COMPLETED)
    assert await seller.amazon.calls("searchOrders", seller.seller_id) == {"200": 1 + 2, "pagination_token_expired": 1}
    newer, older = await asked.windows()
    assert (older.orders, newer.orders, job.calls) == (100, 150, 4)
    assert await asked.is_complete()


async def test_who_loses_the_lease_on_the_way_stores_nothing(parts: Parts, seller: Seller, told: Told) -> None:
    await seller.with_orders(3)
    await request(parts, seller)
    lease = await job_queries.claim_job(parts.pool, LEASE)
    assert lease is not None
    await parts.pool.execute("UPDATE backfill_jobs SET lease_token = lease_token + 1")
    await worker.work(parts, lease)
    assert await stored_ids(parts.pool) == []
    assert [subject for subject, _ in await told(parts.pool)] == ["backfill.requested"]


Stop = Callable[[], Awaitable[None]]


@pytest.fixture(params=["tenant_archived", "account_disconnected"])
def code(request: pytest.FixtureRequest) -> str:
    """What ends a backfill from outside."""
    return str(request.param)


@pytest.fixture
def stop(code: str, seller: Seller, follow: Follow, disconnect: Disconnect) -> Stop:
    async def arrive() -> None:
        if code == "tenant_archived":
            await follow(tenant_id=seller.tenant_id, status="ARCHIVED")
        else:
            await disconnect(tenant_id=seller.tenant_id)

    return arrive


Start = Callable[..., Awaitable[None]]


@pytest.fixture
def start(parts: Parts, settings: OrdersSettings, seller: Seller) -> Start:
    """connection.connected arrives."""

    async def arrive(**changes: object) -> None:
        event = connected(**{"tenant_id": seller.tenant_id, "seller_id": seller.seller_id} | changes)
        await handlers.start_backfill(event, new_id("event"), pool=parts.pool, outbox=parts.outbox, settings=settings)

    return arrive


async def test_what_ends_a_backfill_on_the_way_stops_the_worker_before_its_next_store_and_a_connection_resumes_it(
    parts: Parts, seller: Seller, follow: Follow, told: Told, stop: Stop, code: str, start: Start
) -> None:
    await seller.with_orders(250)
    asked = await request(parts, seller)
    lease = await job_queries.claim_job(parts.pool, LEASE)
    assert lease is not None
    async with after(parts, PAGES, 2, stop) as stopping:
        await worker.work(stopping, lease)
    job = await asked.job()
    assert (job.state, job.error_code, job.pages, job.orders_stored) == (JobState.CANCELLED, code, 1, 100)
    assert len(await stored_ids(parts.pool)) == 100
    assert await seller.amazon.calls("searchOrders", seller.seller_id) == {"200": 2}
    assert [subject for subject, _ in await told(parts.pool)] == [
        *("backfill.requested", "backfill.progressed"),
        "backfill.failed",
    ]
    await follow(tenant_id=seller.tenant_id, status="ACTIVE")
    await asyncio.sleep(1)  # windows end at whole seconds
    async with running(parts):
        await start()
        resumed = await asked.until(lambda job: job.state is JobState.COMPLETED)
    assert resumed.window_to >= job.window_to, "with what is newer"
    assert (resumed.window_from, resumed.error_code, resumed.windows_total) == (job.window_from, None, 2)
    assert await seller.amazon.calls("searchOrders", seller.seller_id) == {"200": 2 + 2 + 1}, "not from the beginning"
    assert await asked.is_complete()
    assert await parts.pool.fetchval("SELECT count(*) FROM backfill_jobs") == 1
    requested = [body["jobId"] for subject, body in await told(parts.pool) if subject == "backfill.requested"]
    assert requested == [str(asked.job_id)] * 2


@pytest.mark.parametrize(
    "why", ["another seller", "long ago", "shorter", "called off", "failed otherwise", "completed"]
)
async def test_any_other_backfill_is_not_resumed(
    parts: Parts, seller: Seller, disconnect: Disconnect, start: Start, why: str
) -> None:
    await seller.with_orders(3)
    asked = await request(parts, seller)
    changes: dict[str, object] = {}
    if why == "called off":
        async with parts.pool.acquire() as conn, conn.transaction():
            await backfill.cancel(conn, parts.outbox, seller.tenant_id, asked.job_id)
    elif why == "completed":
        await asked.run_until(JobState.COMPLETED)
    else:
        await disconnect(tenant_id=seller.tenant_id)
    if why == "another seller":
        changes["seller_id"] = "AOTHER"
    elif why == "long ago":
        await parts.pool.execute("UPDATE backfill_jobs SET finished_at = finished_at - interval '8 days'")
    elif why == "shorter":
        await parts.pool.execute("UPDATE backfill_jobs SET days = 89")
    elif why == "failed otherwise":
        await parts.pool.execute("UPDATE backfill_jobs SET state = 'FAILED', error_code = 'amazon_bad_request'")
    before = await asked.job()
    await start(**changes)
    assert await asked.job() == before
    assert await parts.pool.fetchval("SELECT count(*) FROM backfill_jobs WHERE state = 'REQUESTED'") == 1


async def test_an_authorization_given_anew_resumes_what_the_loss_of_the_old_one_ended(
    parts: Parts, seller: Seller, start: Start
) -> None:
    await seller.with_orders(250)
    asked = await request(parts, seller)
    async with after(parts, PAGES, 1, partial(seller.amazon.revoke, seller.seller_id)) as revoking:
        await asked.run_until(JobState.FAILED, revoking)
    await seller.who_is(seller.seller_id)
    async with running(parts):
        await start()
        job = await asked.until(lambda job: job.state is JobState.COMPLETED)
    assert job.calls == 1 + 1 + 2 + 1
    assert await asked.is_complete()


async def test_a_backfill_that_is_called_off_on_the_way_stops_and_stays_so(
    parts: Parts, seller: Seller, told: Told
) -> None:
    await seller.with_orders(250)
    asked = await request(parts, seller)
    lease = await job_queries.claim_job(parts.pool, LEASE)
    assert lease is not None

    async def call_off() -> None:
        async with parts.pool.acquire() as conn, conn.transaction():
            await backfill.cancel(conn, parts.outbox, seller.tenant_id, asked.job_id)

    async with after(parts, PAGES, 2, call_off) as stopping:
        await worker.work(stopping, lease)
    job = await asked.job()
    assert (job.state, job.error_code, job.orders_stored) == (JobState.CANCELLED, "backfill_cancelled", 100)
    await call_off()
    assert await asked.job() == job
    assert [subject for subject, _ in await told(parts.pool)].count("backfill.failed") == 1
    assert await job_queries.claim_job(parts.pool, LEASE) is None


@pytest.mark.parametrize("status", [429, 400], ids=["quota", "revoked"])
async def test_what_amazon_refuses_of_a_backfill_that_has_ended_does_not_overwrite_why(
    parts: Parts, seller: Seller, told: Told, status: int, stop: Stop, code: str
) -> None:
    await seller.with_orders(3)
    if status == 429:
        await seller.amazon.fail("searchOrders", status, seller.seller_id)
    else:
        await seller.amazon.revoke(seller.seller_id)
    asked = await request(parts, seller)
    lease = await job_queries.claim_job(parts.pool, LEASE)
    assert lease is not None

    async def end(answer: httpx.Response) -> None:
        if answer.status_code == status:
            await stop()

    async with httpx.AsyncClient(trust_env=False, event_hooks={"response": [end]}) as network:
        await worker.work(replace(parts, api=with_network(parts.api, network)), lease)
    job = await asked.job()
    assert (job.state, job.error_code) == (JobState.CANCELLED, code)
    assert [subject for subject, _ in await told(parts.pool)] == ["backfill.requested", "backfill.failed"]


async def test_four_workers_share_the_jobs_and_do_none_twice(parts: Parts, amazon: Amazon, told: Told) -> None:
    sellers = [await Seller(amazon, parts.api).with_orders(20) for _ in range(4)]
    asked = [await request(parts, seller) for seller in sellers]
    async with contextlib.AsyncExitStack() as workers:
        for _ in range(4):
            await workers.enter_async_context(running(parts))
        for each in asked:
            await each.until(lambda job: job.state is JobState.COMPLETED)
    for seller in sellers:
        assert await amazon.calls("searchOrders", seller.seller_id) == {"200": 1}
    assert [subject for subject, _ in await told(parts.pool)].count("backfill.completed") == 4
    assert await parts.pool.fetchval("SELECT count(*) FROM orders") == 80


async def test_a_growing_seller_is_read_by_reports_when_it_has_outgrown_the_burst(parts: Parts, seller: Seller) -> None:
    """A sandbox's seller is even: the year before its twenty days is empty."""
    await seller.with_orders(4_000, days=20, reports={"seconds": 0.4, "secondsPerRow": 0})
    asked = await request(parts, seller, days=365)
    job = await asked.run_until(JobState.COMPLETED)
    assert (job.pages, job.windows_total) == (2, 2)
    assert await seller.amazon.calls("searchOrders", seller.seller_id) == {"200": job.pages}
    assert await asked.is_complete()
