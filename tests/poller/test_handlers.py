"""What poller does with events: a connected account is on the schedule; a disconnected one, and an archived tenant's,
rest.
"""

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import hypothesis
import pytest

from poller import handlers, queries
from poller.domain import Schedule
from poller.settings import PollerSettings
from shared.db import Pool
from tests.builders import connected, disconnected, lives, new_id
from tests.poller.conftest import MINUTE, TENANT, follow, schedule

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


@pytest.fixture
def stop_polling(pool: Pool, settings: PollerSettings) -> Any:
    return partial(handlers.stop_polling, pool=pool, settings=settings)


async def status(pool: Pool) -> Schedule:
    [found] = await queries.list_schedules(pool, TENANT)
    return found


async def test_a_disconnected_account_is_not_polled_and_the_others_are(pool: Pool, stop_polling: Any) -> None:
    for tenant_id in (TENANT, "kbz-002"):
        await schedule(pool, tenant_id)
    event = disconnected()
    for event_id in ("event-1", "event-1", "event-2"):
        await stop_polling(event, event_id)
        assert await polled(pool) == ["kbz-002"]
        assert await queries.claim_schedule(pool, TENANT, MINUTE) is None
        assert (await status(pool)).disconnected_at == event.at


async def test_an_account_connected_again_is_due_at_once_though_a_poll_was_in_hand(
    pool: Pool, start_polling: Any, stop_polling: Any
) -> None:
    await start_polling(connected(connected_at=NOW), "event-1")
    assert len(await queries.claim_due(pool, 10, MINUTE)) == 1
    await pool.execute("UPDATE poll_schedules SET next_due = clock_timestamp() + interval '4 minutes', failures = 7")
    await stop_polling(disconnected(at=NOW + MINUTE), "event-2")
    await start_polling(connected(connected_at=NOW + 2 * MINUTE), "event-3")
    found = await status(pool)
    assert (found.disconnected_at, found.running, found.failures) == (None, False, 0)
    assert await polled(pool) == [TENANT]


async def test_an_older_end_told_late_changes_nothing(pool: Pool, start_polling: Any, stop_polling: Any) -> None:
    await start_polling(connected(connected_at=NOW), "event-2")
    [lease] = await queries.claim_due(pool, 10, MINUTE)
    before = await queries.list_schedules(pool, TENANT)
    await stop_polling(disconnected(at=NOW - timedelta(microseconds=1)), "event-1")
    assert await queries.list_schedules(pool, TENANT) == before
    async with pool.acquire() as conn, conn.transaction():
        assert await queries.finish_poll(conn, lease)


@pytest.mark.parametrize("known", [True, False])
async def test_an_older_connection_told_after_the_end_is_not_polled(
    pool: Pool, start_polling: Any, stop_polling: Any, known: bool
) -> None:
    if known:
        await start_polling(connected(connected_at=NOW - 2 * MINUTE), "event-1")
    await stop_polling(disconnected(at=NOW), "event-3")
    for late, event_id in ((NOW - MINUTE, "event-2"), (NOW, "event-4")):
        await start_polling(connected(connected_at=late), event_id)
        assert await polled(pool) == []
    await start_polling(connected(connected_at=NOW + timedelta(microseconds=1)), "event-5")
    assert await polled(pool) == [TENANT]


@pytest.mark.parametrize("first", ["ends", "archive"])
async def test_an_account_that_ended_stays_so_when_its_tenant_comes_back(
    pool: Pool, start_polling: Any, stop_polling: Any, first: str
) -> None:
    await start_polling(connected(connected_at=NOW), "event-1")
    if first == "ends":
        await stop_polling(disconnected(at=NOW + MINUTE), "event-2")
    await follow(pool, status="ARCHIVED")
    if first == "archive":
        await stop_polling(disconnected(at=NOW + MINUTE), "event-2")
    await follow(pool, status="ACTIVE")
    assert await polled(pool) == []
    await start_polling(connected(connected_at=NOW + 2 * MINUTE), "event-3")
    assert await polled(pool) == [TENANT]


async def test_an_end_that_fails_leaves_the_schedule_and_works_the_next_time(
    pool: Pool, stop_polling: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(*_: object) -> None:
        raise ConnectionResetError

    await schedule(pool)
    with monkeypatch.context() as broken:
        broken.setattr(queries, "disconnect", crash)
        with pytest.raises(ConnectionResetError):
            await stop_polling(disconnected(), "event-1")
    assert await polled(pool) == [TENANT]
    await stop_polling(disconnected(), "event-1")
    assert await polled(pool) == []


@hypothesis.settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(life=lives)
async def test_in_whatever_order_it_is_told_the_latest_that_was_heard_is_true(
    pool: Pool, start_polling: Any, stop_polling: Any, life: list[tuple[int, bool]]
) -> None:
    tenant_id, latest = new_id(), (-1, False)
    for minute, is_connected in life:
        at = NOW + minute * MINUTE
        if is_connected:
            await start_polling(connected(tenant_id=tenant_id, connected_at=at), new_id("event"))
        else:
            await stop_polling(disconnected(tenant_id=tenant_id, at=at), new_id("event"))
        latest = max(latest, (minute, is_connected))
        taken = await queries.claim_schedule(pool, tenant_id, timedelta())
        due = [lease.tenant_id for lease in await queries.claim_due(pool, 100, timedelta())]
        assert ((taken is not None), tenant_id in due) == (latest[1], latest[1])


async def polled(pool: Pool) -> list[str]:
    """Whom a round takes: what it took is due again."""
    leases = await queries.claim_due(pool, 10, MINUTE)
    await pool.execute("UPDATE poll_schedules SET leased_until = NULL")
    return [lease.tenant_id for lease in leases]


async def test_an_archived_tenant_is_not_polled_and_the_others_are(pool: Pool) -> None:
    for tenant_id in (TENANT, "kbz-002"):
        await schedule(pool, tenant_id)
    await follow(pool, status="ARCHIVED")
    assert await polled(pool) == ["kbz-002"]
    assert await queries.claim_schedule(pool, TENANT, MINUTE) is None
    assert await queries.claim_schedule(pool, "kbz-002", MINUTE) is not None


@pytest.mark.parametrize("status", ["ACTIVE", "TRIAL", "SUSPENDED", "archived"])
async def test_any_other_status_is_polled(pool: Pool, status: str) -> None:
    await schedule(pool)
    await follow(pool, status=status)
    assert await polled(pool) == [TENANT]


async def test_an_account_connected_after_the_archive_is_not_polled_until_the_tenant_comes_back(
    pool: Pool, start_polling: Any
) -> None:
    await follow(pool, status="ARCHIVED")
    await start_polling(connected(), "event-1")
    assert await polled(pool) == []
    await follow(pool, status="ACTIVE")
    assert await polled(pool) == [TENANT]


async def test_a_tenant_that_comes_back_is_due_at_once_and_forgets_the_failures(pool: Pool) -> None:
    await schedule(pool)
    await schedule(pool, "kbz-002")
    await pool.execute("UPDATE poll_schedules SET next_due = clock_timestamp() + interval '1 hour', failures = 7")
    await follow(pool, status="ARCHIVED")
    await follow(pool, status="ACTIVE")
    assert await polled(pool) == [TENANT]
    assert await pool.fetchval("SELECT failures FROM poll_schedules WHERE tenant_id = $1", TENANT) == 0


async def test_a_tenant_that_was_active_all_along_stays_on_its_grid(pool: Pool) -> None:
    await schedule(pool)
    await pool.execute("UPDATE poll_schedules SET next_due = clock_timestamp() + interval '4 minutes'")
    before = await queries.list_schedules(pool, TENANT)
    for _ in range(2):
        await follow(pool, status="ACTIVE")
    assert await queries.list_schedules(pool, TENANT) == before


async def test_the_same_archive_told_again_changes_nothing(pool: Pool) -> None:
    for event_id in ("event-1", "event-1", "event-2"):
        await follow(pool, event_id, status="ARCHIVED", synced_at=NOW)
    assert [tuple(row) for row in await pool.fetch("SELECT * FROM tenants")] == [(TENANT, True, NOW)]


@pytest.mark.parametrize("older", [NOW - timedelta(seconds=1), None])
@pytest.mark.parametrize(("first", "late"), [("ARCHIVED", "ACTIVE"), ("ACTIVE", "ARCHIVED")])
async def test_an_older_change_told_late_does_not_overwrite_a_newer_one(
    pool: Pool, first: str, late: str, older: datetime | None
) -> None:
    await follow(pool, status=first, synced_at=NOW)
    await follow(pool, status=late, synced_at=older)
    assert await queries.is_archived(pool, TENANT) == (first == "ARCHIVED")
    assert await pool.fetchval("SELECT synced_at FROM tenants") == NOW


async def test_among_changes_that_do_not_say_when_the_last_to_arrive_is_true(pool: Pool) -> None:
    for status in ("ACTIVE", "ARCHIVED", "ACTIVE"):
        await follow(pool, status=status, synced_at=None)
        assert await queries.is_archived(pool, TENANT) == (status == "ARCHIVED")
    await follow(pool, status="ARCHIVED", synced_at=NOW - timedelta(days=365))
    assert await queries.is_archived(pool, TENANT)


async def test_a_return_that_fails_leaves_the_tenant_archived_and_works_the_next_time(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(_conn: object, _tenant_id: str) -> None:
        raise ConnectionResetError

    await schedule(pool)
    await follow(pool, status="ARCHIVED")
    with monkeypatch.context() as broken:
        broken.setattr(queries, "make_due", crash)
        with pytest.raises(ConnectionResetError):
            await follow(pool, "event-1")
    assert await queries.is_archived(pool, TENANT)
    await follow(pool, "event-1")
    assert await polled(pool) == [TENANT]
