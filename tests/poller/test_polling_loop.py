"""The loop: so many polls at a time, a slow one in nobody's way, leases that are kept and given back."""

import asyncio
from collections.abc import AsyncIterator, Container, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, TypeVar

import pytest
from prometheus_client import REGISTRY

from poller import polling, queries
from poller.domain import Found, Lease, PollRunningError
from shared.db import Pool
from shared.errors import UnavailableError
from shared.outbox import Outbox
from tests.conftest import Told
from tests.poller.conftest import (
    MINUTE,
    TENANT,
    claim,
    equals,
    eventually,
    make_due,
    message,
    returns,
    schedule,
    source_of,
)

T = TypeVar("T")


class Slow:
    """A source that takes its time, until it is told to go on, for some of those who ask, by their number."""

    def __init__(self, slow: Container[int] = (1,)) -> None:
        self.entered, self.go_on = asyncio.Event(), asyncio.Event()
        self.asked = self.cancelled = self.in_hand = 0
        self._slow = slow

    async def __call__(self, _: Lease) -> Found:
        self.asked += 1
        self.in_hand += 1
        try:
            if self.asked in self._slow:
                self.entered.set()
                await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.in_hand -= 1
        return Found([message()])


@asynccontextmanager
async def in_hand(work: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """Polling goes on beside the test, and is over with it."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def polled(pool: Pool) -> int:
    """How many tenants were polled."""
    done: int = await pool.fetchval("SELECT count(last_success_at) FROM poll_schedules")
    return done


async def test_a_slow_poll_takes_one_place_and_holds_up_nobody(
    pool: Pool, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "AT_ONCE", 3)
    for number in range(10):
        await schedule(pool, f"kbz-{number}")
    source = Slow()
    async with in_hand(polling.poll_due(pool, outbox, source)) as polls:
        await eventually(lambda: equals(polled(pool), 9))
        await schedule(pool, "kbz-later")
        await eventually(lambda: equals(polled(pool), 10))
        assert source.in_hand == 1
        source.go_on.set()
        assert await polls == 11
    assert await polled(pool) == 11


async def test_a_loop_claims_no_more_than_it_has_places_for(
    pool: Pool, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "AT_ONCE", 3)
    for number in range(7):
        await schedule(pool, f"kbz-{number}")
    source = Slow(range(2, 8))
    async with in_hand(polling.poll_due(pool, outbox, source)) as polls:
        await eventually(lambda: returns(source.asked >= 4))
        assert source.in_hand == 3
        assert len(await queries.claim_due(pool, 10, MINUTE)) == 3
        source.go_on.set()
        assert await polls == 4


async def test_a_long_poll_keeps_its_lease(pool: Pool, outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "LEASE", timedelta(seconds=3))
    await schedule(pool)
    source = Slow()
    async with in_hand(polling.poll_now(pool, outbox, source, TENANT)) as poll:
        await source.entered.wait()
        first = await pool.fetchval("SELECT leased_until FROM poll_schedules")
        await eventually(lambda: pool.fetchval("SELECT clock_timestamp() > $1 FROM poll_schedules", first))
        assert await queries.claim_due(pool, 10, MINUTE) == []
        source.go_on.set()
        assert (await poll).stored == 1


async def test_a_long_poll_that_has_lost_its_lease_is_given_up(
    pool: Pool, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "LEASE", timedelta(seconds=0.3))
    await schedule(pool)
    source = Slow()
    async with in_hand(polling.poll_now(pool, outbox, source, TENANT)) as poll:
        await source.entered.wait()
        await make_due(pool)
        held = await claim(pool)
        async with asyncio.timeout(30):
            with pytest.raises(PollRunningError, match="overtaken"):
                await poll
    assert source.cancelled == 1
    async with pool.acquire() as conn:
        assert await queries.finish_poll(conn, held)


async def test_a_loop_that_stops_gives_its_leases_back_and_stores_nothing(
    pool: Pool, outbox: Outbox, told: Told
) -> None:
    for number in range(3):
        await schedule(pool, f"kbz-{number}")
    source = Slow(range(1, 4))
    async with in_hand(polling.run(pool, outbox, source)):
        await eventually(lambda: returns(source.in_hand == 3))
    assert source.cancelled == 3
    assert await told(pool) == []
    assert await polling.poll_due(pool, outbox, source_of(message())) == 3
    assert await pool.fetchval("SELECT sum(failures) FROM poll_schedules") == 0


async def test_a_loop_whose_database_is_away_rises_and_gives_up_what_is_in_hand(
    pool: Pool, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object, **__: object) -> None:
        raise ConnectionResetError

    for number in range(3):
        await schedule(pool, f"kbz-{number}")
    source = Slow(range(1, 4))
    monkeypatch.setattr(queries, "fail_poll", away)
    async with in_hand(polling.run(pool, outbox, source)) as loop:
        await eventually(lambda: returns(source.in_hand == 3))
        monkeypatch.setattr(queries, "finish_poll", away)
        await pool.execute(
            "INSERT INTO poll_schedules SELECT 'kbz-3', marketplace, connection_id, connected_at, 300"
            " FROM poll_schedules WHERE tenant_id = 'kbz-0'"
        )
        with pytest.raises(ConnectionResetError):
            await loop
    assert source.cancelled == 3


async def test_a_newly_connected_tenant_is_found_by_a_loop_that_is_idle(pool: Pool, outbox: Outbox) -> None:
    async with in_hand(polling.run(pool, outbox, source_of(message()))):
        for number in (1, 2):
            await schedule(pool, f"kbz-{number}")
            await eventually(lambda wanted=number: equals(polled(pool), wanted))  # type: ignore[misc] # bound now


async def test_the_metrics_say_how_late_polls_begin_and_which_fail(pool: Pool, outbox: Outbox) -> None:
    async def away(_: Lease) -> Found:
        raise UnavailableError("The mailbox is away.")

    def values() -> list[float]:
        late, begun = (REGISTRY.get_sample_value(f"poll_lateness_seconds_{part}") or 0 for part in ("sum", "count"))
        return [late, begun, REGISTRY.get_sample_value("polls_failed_total", {"code": "unavailable"}) or 0]

    before = values()
    await schedule(pool)
    await pool.execute("UPDATE poll_schedules SET next_due = clock_timestamp() - interval '1 hour'")
    await polling.poll_due(pool, outbox, away)
    late, begun, failed = (now - then for now, then in zip(values(), before, strict=True))
    assert 3600 <= late < 3660
    assert (begun, failed) == (1, 1)
