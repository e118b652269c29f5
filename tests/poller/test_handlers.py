"""What poller does with events: a connected account is on the schedule."""

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from poller import handlers, queries
from poller.settings import PollerSettings
from shared.db import Pool
from tests.builders import connected

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def start_polling(pool: Pool, settings: PollerSettings) -> Any:
    return partial(handlers.start_polling, pool=pool, settings=settings)


async def test_a_connected_account_is_due_at_once_and_every_five_minutes(pool: Pool, start_polling: Any) -> None:
    await start_polling(connected(), "event-1")
    [schedule] = await queries.list_schedules(pool, "kbz-001")
    assert (schedule.marketplace, schedule.interval_seconds, schedule.running, schedule.failures) == (
        *("AMAZON", 300),
        *(False, 0),
    )
    assert schedule.next_due <= await pool.fetchval("SELECT clock_timestamp()")


@pytest.mark.parametrize("second_id", ["event-1", "event-2"])
async def test_the_same_connection_told_again_keeps_its_schedule(
    pool: Pool, start_polling: Any, second_id: str
) -> None:
    event = connected(connected_at=NOW)
    await start_polling(event, "event-1")
    await pool.execute("UPDATE poll_schedules SET next_due = clock_timestamp() + interval '4 minutes'")
    before = await queries.list_schedules(pool, "kbz-001")
    await start_polling(event, second_id)
    assert await queries.list_schedules(pool, "kbz-001") == before


async def test_an_older_connection_told_late_changes_nothing(pool: Pool, start_polling: Any) -> None:
    newer = connected(connected_at=NOW)
    await start_polling(newer, "event-2")
    await start_polling(connected(connected_at=NOW - timedelta(days=1)), "event-1")
    assert await pool.fetchval("SELECT connection_id FROM poll_schedules") == newer.connection_id


async def test_a_connection_made_anew_is_due_at_once_and_forgets_the_failures(pool: Pool, start_polling: Any) -> None:
    await start_polling(connected(connected_at=NOW), "event-1")
    await pool.execute("UPDATE poll_schedules SET next_due = clock_timestamp() + interval '1 hour', failures = 7")
    newer = connected(connected_at=NOW + timedelta(days=1))
    await start_polling(newer, "event-2")
    row = await pool.fetchrow(
        "SELECT connection_id, failures, next_due <= clock_timestamp() AS due FROM poll_schedules"
    )
    assert row is not None
    assert tuple(row) == (newer.connection_id, 0, True)
