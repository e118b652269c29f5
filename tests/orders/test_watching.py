"""A backfill's progress as server-sent events, over real HTTP."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from functools import partial
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pytest
import uvicorn

from devstack.stack import Stack
from orders import backfill, watching
from orders.domain import JobState
from orders.routes import ROUTES
from orders.settings import OrdersSettings
from orders.windows import Parts
from shared.auth import Keys
from shared.web import create_app
from tests.builders import agent
from tests.orders.backfills import Backfill, request, running
from tests.orders.conftest import Seller

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "PAUSE_SECONDS", 0.02)


@pytest.fixture
async def http(dependencies: dict[str, object], settings: OrdersSettings) -> AsyncIterator[httpx.AsyncClient]:
    """Orders' HTTP on a socket: a stream is none without one."""
    app = create_app(
        "orders",
        ROUTES,
        keys=Keys.of(settings),
        dependencies=dependencies,
        checks={},
        asyncapi={"asyncapi": "3.0.0"},
    )
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
        yield client
    server.should_exit = True
    await serving


@contextlib.asynccontextmanager
async def watched(http: httpx.AsyncClient, stack: Stack, asked: Backfill) -> AsyncIterator[AsyncIterator[str]]:
    path = f"/api/v1/orders/backfills/{asked.job_id}/events"
    async with http.stream("GET", path, headers=agent(stack, asked.seller.tenant_id)) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield answer.aiter_lines()


async def events(lines: AsyncIterator[str]) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """As a browser's EventSource has them: comments are nothing."""
    name = ""
    async for line in lines:
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, msgspec.json.decode(value)


async def test_progress_is_told_until_the_backfill_is_over(
    parts: Parts, seller: Seller, http: httpx.AsyncClient, stack: Stack
) -> None:
    await seller.with_orders(250)
    asked = await request(parts, seller)
    async with watched(http, stack, asked) as lines, asyncio.timeout(30):
        following = events(lines)
        name, job = await anext(following)
        assert (name, job["state"], job["ordersStored"], job["etaSeconds"]) == ("progress", "REQUESTED", 0, None)
        async with running(parts):
            told = [event async for event in following]
    assert {name for name, _ in told[:-1]} <= {"progress"}
    counts = [job["ordersStored"] for _, job in told]
    assert counts == sorted(counts)
    name, job = told[-1]
    assert (name, job["state"], job["ordersStored"], job["calls"]) == ("over", "COMPLETED", 250, 3)
    path = f"/api/v1/orders/backfills/{asked.job_id}"
    assert (await http.get(path, headers=agent(stack, seller.tenant_id))).json() == job


async def test_what_is_over_is_told_once(parts: Parts, seller: Seller, http: httpx.AsyncClient, stack: Stack) -> None:
    await seller.with_orders(3)
    asked = await request(parts, seller)
    await asked.run_until(JobState.COMPLETED)
    async with watched(http, stack, asked) as lines:
        assert [(name, job["state"]) async for name, job in events(lines)] == [("over", "COMPLETED")]


async def test_a_stream_without_news_says_that_it_is_alive(
    parts: Parts, seller: Seller, http: httpx.AsyncClient, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "HEARTBEAT_SECONDS", 0.05)
    asked = await request(parts, seller)
    async with watched(http, stack, asked) as lines, asyncio.timeout(60):
        async for line in lines:
            if line == ": still here":
                break


async def test_a_stream_ends_after_a_while_in_any_case(
    parts: Parts, seller: Seller, http: httpx.AsyncClient, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "LONGEST_SECONDS", 0.2)
    asked = await request(parts, seller)
    async with watched(http, stack, asked) as lines, asyncio.timeout(60):
        assert [name async for name, _ in events(lines)] == ["progress"]


async def test_so_many_may_watch_and_who_leaves_makes_room(
    parts: Parts, seller: Seller, http: httpx.AsyncClient, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_places", asyncio.Semaphore(1))
    asked = await request(parts, seller)
    headers = agent(stack, seller.tenant_id)
    path = f"/api/v1/orders/backfills/{asked.job_id}/events"
    async with watched(http, stack, asked) as lines:
        await anext(events(lines))
        answer = await http.get(path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (503, "too_many_watchers")
        assert answer.headers["Retry-After"]
    async with asyncio.timeout(60):
        while watching._places.locked():  # noqa: ASYNC110 - the server notices by itself
            await asyncio.sleep(0.01)
    async with watched(http, stack, asked) as lines:
        await anext(events(lines))


async def test_another_tenants_backfill_is_not_there_to_be_watched_or_cancelled(
    parts: Parts, seller: Seller, http: httpx.AsyncClient, stack: Stack
) -> None:
    asked = await request(parts, seller)
    stranger = agent(stack, "kbz-002")
    for job_id in (asked.job_id, uuid4()):
        path = f"/api/v1/orders/backfills/{job_id}"
        for answer in (
            await http.get(f"{path}/events", headers=stranger),
            await http.post(f"{path}/cancel", headers=stranger),
        ):
            assert (answer.status_code, answer.json()["code"]) == (404, "backfill_not_found")
    assert (await asked.job()).state is JobState.REQUESTED


async def test_a_backfill_can_be_called_off_and_whoever_watches_hears_of_it(
    parts: Parts, seller: Seller, http: httpx.AsyncClient, stack: Stack
) -> None:
    asked = await request(parts, seller)
    cancel = partial(
        http.post, f"/api/v1/orders/backfills/{asked.job_id}/cancel", headers=agent(stack, seller.tenant_id)
    )
    async with watched(http, stack, asked) as lines, asyncio.timeout(60):
        following = events(lines)
        await anext(following)
        answer = await cancel()
        assert (answer.status_code, answer.json()["state"]) == (200, "CANCELLED")
        [(name, job)] = [event async for event in following]
    assert (name, job["state"], job["errorCode"]) == ("over", "CANCELLED", "backfill_cancelled")
    assert (await cancel()).json() == job, "once more changes nothing"
    async with parts.pool.acquire() as conn, conn.transaction():
        again, is_new = await backfill.request(conn, parts.outbox, seller.tenant_id, 90)
    assert is_new
    assert again.id != asked.job_id
