"""Backfills as the tests follow them: asked for, worked on by the service's own loop, compared with the truth."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from uuid import UUID

import httpx
from msgspec.structs import replace

from orders import backfill, job_queries, worker
from orders.domain import Job, JobState
from orders.planning import Window
from orders.windows import Parts
from shared.amazon.spapi import SpApi
from tests.orders.conftest import Seller, connect

QUOTA_IS_BACK = "UPDATE amazon.request_buckets SET arrives_at = clock_timestamp()"
ALL_IS_DUE = (
    "WITH due AS (UPDATE backfill_windows SET next_attempt_at = clock_timestamp())"
    " UPDATE backfill_jobs SET next_attempt_at = clock_timestamp()"
)


class Backfill:
    """One seller's."""

    def __init__(self, parts: Parts, seller: Seller, job_id: UUID) -> None:
        self.parts, self.seller, self.job_id = parts, seller, job_id

    async def job(self) -> Job:
        job = await job_queries.get_job(self.parts.pool, self.seller.tenant_id, self.job_id)
        assert job is not None
        return job

    async def windows(self) -> list[Window]:
        """The newest first."""
        return await job_queries.list_windows(self.parts.pool, self.job_id)

    async def until(self, holds: Callable[[Job], bool]) -> Job:
        async with asyncio.timeout(40):
            while not holds(job := await self.job()):  # noqa: ASYNC110 - the database knows
                await asyncio.sleep(0.02)
        return job

    async def run_until(self, state: JobState, parts: Parts | None = None) -> Job:
        async with running(parts or self.parts):
            return await self.until(lambda job: job.state is state)

    async def is_complete(self) -> bool:
        """Every order and item of the seller is stored, once, and counted; but for those that are newer than the
        window, as the sandbox's clock may be ahead of ours.
        """
        job = await self.job()
        truth = [
            order
            for order in await self.seller.amazon.all_orders_of(self.seller.seller_id)
            if datetime.fromisoformat(order["createdTime"]) < job.window_to
        ]
        stored = await self.parts.pool.fetch(
            "SELECT external_order_id, (SELECT count(*) FROM order_items WHERE order_id = id) AS items"
            "  FROM orders WHERE tenant_id = $1 ORDER BY 1",
            self.seller.tenant_id,
        )
        true = sorted((order["orderId"], len(order["orderItems"])) for order in truth)
        assert [tuple(row) for row in stored] == true
        assert (job.orders_stored, job.items_stored) == (len(true), sum(items for _, items in true))
        return True


async def request(parts: Parts, seller: Seller, days: int = 90) -> Backfill:
    await connect(parts.pool, seller.tenant_id, seller.seller_id)
    async with parts.pool.acquire() as conn, conn.transaction():
        job, is_new = await backfill.request(conn, parts.outbox, seller.tenant_id, days)
    assert is_new
    return Backfill(parts, seller, job.id)


@asynccontextmanager
async def running(parts: Parts) -> AsyncIterator[None]:
    """A loop of the service; cancelled at the end, as a crash would."""
    task = asyncio.create_task(worker.run(parts, asyncio.Lock()))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def after(parts: Parts, path: str, answers: int, then: Callable[[], Awaitable[None]]) -> AsyncIterator[Parts]:
    """The same Amazon, and something that happens once it has given so many answers at a path, still unheard."""
    given = 0

    async def count(answer: httpx.Response) -> None:
        nonlocal given
        if answer.request.url.path.endswith(path) and answer.is_success:
            given += 1
            if given == answers:
                await then()

    async with httpx.AsyncClient(trust_env=False, timeout=10, event_hooks={"response": [count]}) as network:
        yield replace(parts, api=with_network(parts.api, network))


def with_network(api: SpApi, network: httpx.AsyncClient) -> SpApi:
    return SpApi(api._settings, api._vault, network, api._gate)


async def forever() -> None:
    await asyncio.Event().wait()
