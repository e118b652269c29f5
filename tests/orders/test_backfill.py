"""Backfills against Amazon's sandbox: pages, quota, crashes, revocation."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

import httpx
import pytest

from orders import backfill, queries
from orders.domain import Job, JobState
from shared.amazon.spapi import SpApi
from shared.db import Pool
from shared.outbox import Outbox
from tests.builders import Amazon
from tests.conftest import Told
from tests.orders.conftest import Disconnect, Follow, Seller, connect


async def request(pool: Pool, outbox: Outbox, seller: Seller, days: int = 90) -> UUID:
    await connect(pool, seller.tenant_id)
    async with pool.acquire() as conn, conn.transaction():
        job, is_new = await backfill.request(conn, outbox, seller.tenant_id, days)
    assert is_new
    return job.id


async def job_of(pool: Pool, seller: Seller, job_id: UUID) -> Job:
    job = await queries.get_job(pool, seller.tenant_id, job_id)
    assert job is not None
    return job


@asynccontextmanager
async def running(pool: Pool, outbox: Outbox, api: SpApi) -> AsyncIterator[None]:
    """The loop of the service; cancelled at the end, as a crash would."""
    task = asyncio.create_task(backfill.run(pool, outbox, api))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(pool: Pool, seller: Seller, job_id: UUID, holds: Callable[[Job], bool]) -> Job:
    async with asyncio.timeout(20):
        while not holds(job := await job_of(pool, seller, job_id)):  # noqa: ASYNC110 - the database knows
            await asyncio.sleep(0.02)
    return job


async def run_until(state: JobState, pool: Pool, outbox: Outbox, api: SpApi, seller: Seller, job_id: UUID) -> Job:
    async with running(pool, outbox, api):
        return await until(pool, seller, job_id, lambda job: job.state is state)


async def stored_ids(pool: Pool) -> list[str]:
    return [row["external_order_id"] for row in await pool.fetch("SELECT external_order_id FROM orders ORDER BY 1")]


async def true_ids(seller: Seller) -> list[str]:
    return sorted(order["orderId"] for order in await seller.amazon.orders_of(seller.seller_id))


async def test_ninety_four_orders_with_their_items_are_one_call(
    pool: Pool, outbox: Outbox, api: SpApi, seller: Seller, told: Told
) -> None:
    await seller.with_orders(94)
    job_id = await request(pool, outbox, seller)
    job = await run_until(JobState.COMPLETED, pool, outbox, api, seller, job_id)
    assert await seller.amazon.calls("searchOrders", seller.seller_id) == {"200": 1}
    assert await seller.amazon.calls("getOrder", seller.seller_id) == {}
    truth = await seller.amazon.orders_of(seller.seller_id)
    items = sum(len(order["orderItems"]) for order in truth)
    assert sum(order["fulfillment"]["fulfillmentStatus"] == "CANCELLED" for order in truth) >= 6
    assert await stored_ids(pool) == await true_ids(seller)
    assert await pool.fetchval("SELECT count(*) FROM order_items") == items
    assert (job.orders_stored, job.items_stored, job.pages) == (94, items, 1)
    assert job.finished_at is not None
    requested, completed = await told(pool)
    assert (requested[0], completed[0]) == ("backfill.requested", "backfill.completed")
    assert completed[1] | {"window": None} == {
        "tenantId": seller.tenant_id,
        "jobId": str(job_id),
        "days": 90,
        "window": None,
        "ordersStored": 94,
        "itemsStored": items,
        "etaSeconds": None,
    }
    window = {edge: datetime.fromisoformat(at) for edge, at in completed[1]["window"].items()}
    assert window == {"from": job.window_from, "to": job.window_to}


async def test_two_hundred_and_fifty_orders_are_three_pages_with_progress_between(
    pool: Pool, outbox: Outbox, api: SpApi, seller: Seller, told: Told
) -> None:
    await seller.with_orders(250)
    job_id = await request(pool, outbox, seller)
    job = await run_until(JobState.COMPLETED, pool, outbox, api, seller, job_id)
    assert (job.orders_stored, job.pages) == (250, 3)
    assert await seller.amazon.calls("searchOrders", seller.seller_id) == {"200": 3}
    assert await stored_ids(pool) == await true_ids(seller)
    events = await told(pool)
    assert [subject for subject, _ in events] == [
        "backfill.requested",
        "backfill.progressed",
        "backfill.progressed",
        "backfill.completed",
    ]
    assert [body["ordersStored"] for _, body in events] == [0, 100, 200, 250]


async def test_a_seller_without_orders_is_done_at_once(
    pool: Pool, outbox: Outbox, api: SpApi, seller: Seller, told: Told
) -> None:
    await seller.with_orders(0)
    job = await run_until(JobState.COMPLETED, pool, outbox, api, seller, await request(pool, outbox, seller))
    assert (job.orders_stored, job.items_stored) == (0, 0)
    assert [subject for subject, _ in await told(pool)] == ["backfill.requested", "backfill.completed"]


QUOTA_IS_BACK = "UPDATE amazon.request_buckets SET arrives_at = clock_timestamp()"


async def test_a_used_up_quota_makes_the_job_wait_and_go_on_where_it_was(
    pool: Pool, outbox: Outbox, api: SpApi, seller: Seller, told: Told
) -> None:
    await seller.with_orders(250)
    job_id = await request(pool, outbox, seller)
    async with after_pages(api, 1, lambda: seller.amazon.fail("searchOrders", 429, seller.seller_id)) as limited:
        job = await run_until(JobState.WAITING, pool, outbox, limited, seller, job_id)
    assert (job.error_code, job.pages, job.orders_stored) == ("quota_exceeded", 1, 100)
    now = await pool.fetchval("SELECT clock_timestamp()")
    assert 170 < (job.next_attempt_at - now).total_seconds() < 180  # one call more fits every 178.6 seconds
    await pool.execute("UPDATE backfill_jobs SET next_attempt_at = clock_timestamp()")
    await pool.execute(QUOTA_IS_BACK)
    job = await run_until(JobState.COMPLETED, pool, outbox, api, seller, job_id)
    assert (job.orders_stored, job.pages, job.error_code) == (250, 3, None)
    assert await seller.amazon.calls("searchOrders", seller.seller_id) == {"200": 3, "429": 1}
    assert await stored_ids(pool) == await true_ids(seller)
    assert [subject for subject, _ in await told(pool)].count("backfill.progressed") == 2


async def test_an_amazon_that_is_away_is_waited_for_longer_each_time(
    pool: Pool, outbox: Outbox, api: SpApi, seller: Seller
) -> None:
    await seller.with_orders(3)
    await seller.amazon.fail("searchOrders", 503, seller.seller_id, times=2)
    job_id = await request(pool, outbox, seller)
    waits = []
    for _ in range(2):
        job = await run_until(JobState.WAITING, pool, outbox, api, seller, job_id)
        assert job.error_code == "amazon_unavailable"
        waits.append(job.next_attempt_at - await pool.fetchval("SELECT clock_timestamp()"))
        await pool.execute("UPDATE backfill_jobs SET next_attempt_at = clock_timestamp(), state = 'REQUESTED'")
    assert waits[0].total_seconds() <= 1 < waits[1].total_seconds() <= 2
    await run_until(JobState.COMPLETED, pool, outbox, api, seller, job_id)


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


async def test_a_revoked_authorization_ends_the_job_and_is_told(
    pool: Pool, outbox: Outbox, api: SpApi, seller: Seller, told: Told
) -> None:
    await seller.with_orders(3)
    await seller.amazon.control("POST", f"sellers/{seller.seller_id}/revoke")
    job_id = await request(pool, outbox, seller)
    job = await run_until(JobState.FAILED, pool, outbox, api, seller, job_id)
    assert job.error_code == "authorization_revoked"
    assert job.finished_at is not None
    _, (subject, body), (then, rejection) = await told(pool)
    assert (subject, body["jobId"], body["error"]) == ("backfill.failed", str(job_id), "authorization_revoked")
    assert (then, rejection["error"]) == ("connection.rejected", "authorization_revoked")
    assert await rejected(pool, seller, rejection)
    assert await stored_ids(pool) == []


async def test_a_tenant_without_credentials_ends_the_job_and_says_to_connect(
    pool: Pool, outbox: Outbox, api: SpApi, seller: Seller, told: Told
) -> None:
    job_id = await request(pool, outbox, seller)  # Vault has nothing
    job = await run_until(JobState.FAILED, pool, outbox, api, seller, job_id)
    assert job.error_code == "not_connected"
    assert "has to be connected first" in str(job.error)
    [*_, (subject, rejection)] = await told(pool)
    assert (subject, rejection["error"]) == ("connection.rejected", "not_connected")
    assert await rejected(pool, seller, rejection)


async def test_what_else_amazon_refuses_ends_the_job_and_says_nothing_of_the_credentials(
    pool: Pool, outbox: Outbox, api: SpApi, seller: Seller, told: Told
) -> None:
    await seller.with_orders(3)
    job_id = await request(pool, outbox, seller)
    await pool.execute("UPDATE backfill_jobs SET window_to = window_from - interval '1 day'")
    job = await run_until(JobState.FAILED, pool, outbox, api, seller, job_id)
    assert job.error_code == "amazon_bad_request"
    assert [subject for subject, _ in await told(pool)] == ["backfill.requested", "backfill.failed"]


async def test_a_crash_between_pages_costs_one_page_at_most(
    pool: Pool, outbox: Outbox, api: SpApi, seller: Seller, told: Told
) -> None:
    await seller.with_orders(250)
    job_id = await request(pool, outbox, seller)
    fetched = asyncio.Event()

    async def hold_the_second_page() -> None:
        fetched.set()
        await asyncio.Event().wait()

    async with after_pages(api, 2, hold_the_second_page) as held, running(pool, outbox, held):
        await fetched.wait()
    crashed = await job_of(pool, seller, job_id)
    assert (crashed.state, crashed.pages, crashed.orders_stored) == (JobState.RUNNING, 1, 100)
    await pool.execute("UPDATE backfill_jobs SET leased_until = clock_timestamp()")
    job = await run_until(JobState.COMPLETED, pool, outbox, api, seller, job_id)
    assert (job.orders_stored, job.pages) == (250, 3)
    assert await seller.amazon.calls("searchOrders", seller.seller_id) == {"200": 4}
    assert await stored_ids(pool) == await true_ids(seller)
    assert [body["ordersStored"] for _, body in await told(pool)] == [0, 100, 200, 250]


async def test_a_page_token_that_is_too_old_begins_the_window_again(
    pool: Pool, outbox: Outbox, api: SpApi, seller: Seller
) -> None:
    await seller.with_orders(250)
    job_id = await request(pool, outbox, seller)
    async with after_pages(api, 2, lambda: seller.amazon.fail("searchOrders", 429, seller.seller_id)) as limited:
        await run_until(JobState.WAITING, pool, outbox, limited, seller, job_id)
    await pool.execute(
        "UPDATE backfill_jobs SET next_attempt_at = clock_timestamp(), next_token_at = next_token_at - interval '23 h'"
    )
    await pool.execute(QUOTA_IS_BACK)
    job = await run_until(JobState.COMPLETED, pool, outbox, api, seller, job_id)
    assert (job.orders_stored, job.pages) == (250, 3)
    assert await seller.amazon.calls("searchOrders", seller.seller_id) == {"200": 2 + 3, "429": 1}
    assert await stored_ids(pool) == await true_ids(seller)


async def test_who_loses_the_lease_on_the_way_stores_nothing(
    pool: Pool, outbox: Outbox, api: SpApi, seller: Seller, told: Told
) -> None:
    await seller.with_orders(3)
    await request(pool, outbox, seller)

    async def another_one_takes_over() -> None:
        await pool.execute("UPDATE backfill_jobs SET lease_token = lease_token + 1")

    lease = await queries.claim_job(pool, backfill.LEASE)
    assert lease is not None
    await another_one_takes_over()
    await backfill._work(pool, outbox, api, lease)
    assert await stored_ids(pool) == []
    assert [subject for subject, _ in await told(pool)] == ["backfill.requested"]


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


async def test_what_ends_a_backfill_on_the_way_stops_the_worker_before_its_next_store(
    pool: Pool, outbox: Outbox, api: SpApi, seller: Seller, follow: Follow, told: Told, stop: Stop, code: str
) -> None:
    await seller.with_orders(250)
    job_id = await request(pool, outbox, seller)
    lease = await queries.claim_job(pool, backfill.LEASE)
    assert lease is not None
    async with after_pages(api, 2, stop) as stopping:
        await backfill._work(pool, outbox, stopping, lease)
    job = await job_of(pool, seller, job_id)
    assert (job.state, job.error_code, job.pages, job.orders_stored) == (JobState.FAILED, code, 1, 100)
    assert len(await stored_ids(pool)) == 100
    assert await seller.amazon.calls("searchOrders", seller.seller_id) == {"200": 2}
    assert [subject for subject, _ in await told(pool)] == [
        *("backfill.requested", "backfill.progressed"),
        "backfill.failed",
    ]
    await follow(tenant_id=seller.tenant_id, status="ACTIVE")
    job = await run_until(JobState.COMPLETED, pool, outbox, api, seller, await request(pool, outbox, seller))
    assert job.orders_stored == 250
    assert await stored_ids(pool) == await true_ids(seller)


@pytest.mark.parametrize("status", [429, 400], ids=["quota", "revoked"])
async def test_what_amazon_refuses_of_a_backfill_that_has_ended_does_not_overwrite_why(
    pool: Pool, outbox: Outbox, api: SpApi, seller: Seller, told: Told, status: int, stop: Stop, code: str
) -> None:
    await seller.with_orders(3)
    if status == 429:
        await seller.amazon.fail("searchOrders", status, seller.seller_id)
    else:
        await seller.amazon.control("POST", f"sellers/{seller.seller_id}/revoke")
    job_id = await request(pool, outbox, seller)
    lease = await queries.claim_job(pool, backfill.LEASE)
    assert lease is not None

    async def end(answer: httpx.Response) -> None:
        if answer.status_code == status:
            await stop()

    async with httpx.AsyncClient(trust_env=False, event_hooks={"response": [end]}) as network:
        await backfill._work(pool, outbox, SpApi(api._settings, api._vault, network, api._gate), lease)
    job = await job_of(pool, seller, job_id)
    assert (job.state, job.error_code) == (JobState.FAILED, code)
    assert [subject for subject, _ in await told(pool)] == ["backfill.requested", "backfill.failed"]


async def test_four_workers_share_the_jobs_and_do_none_twice(
    pool: Pool, outbox: Outbox, api: SpApi, amazon: Amazon, told: Told
) -> None:
    sellers = [await Seller(amazon, api).with_orders(20) for _ in range(4)]
    jobs = [(seller, await request(pool, outbox, seller)) for seller in sellers]
    async with contextlib.AsyncExitStack() as workers:
        for _ in range(4):
            await workers.enter_async_context(running(pool, outbox, api))
        for seller, job_id in jobs:
            await until(pool, seller, job_id, lambda job: job.state is JobState.COMPLETED)
    for seller in sellers:
        assert await amazon.calls("searchOrders", seller.seller_id) == {"200": 1}
    assert [subject for subject, _ in await told(pool)].count("backfill.completed") == 4
    assert await pool.fetchval("SELECT count(*) FROM orders") == 80


@asynccontextmanager
async def after_pages(api: SpApi, pages: int, then: Callable[[], Awaitable[None]]) -> AsyncIterator[SpApi]:
    """The same Amazon, and something that happens once it has given so many pages."""
    given = 0

    async def count(answer: httpx.Response) -> None:
        nonlocal given
        if answer.request.url.path.endswith("/orders") and answer.is_success:
            given += 1
            if given == pages:
                await then()

    async with httpx.AsyncClient(trust_env=False, event_hooks={"response": [count]}) as network:
        yield SpApi(api._settings, api._vault, network, api._gate)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfill, "IDLE_SECONDS", 0.02)
