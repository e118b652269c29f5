"""A completed backfill is compared with Amazon's reports; what was missing is stored and counted."""

import itertools
from datetime import timedelta
from typing import Any

import pytest

from orders import audit, audit_queries, job_queries, live, upkeep
from orders.audit import DUTY
from orders.domain import Job, JobState, Task
from orders.planning import Window
from orders.windows import Parts
from shared.events import StoreCause
from tests.conftest import Told
from tests.orders.backfills import Backfill, request
from tests.orders.conftest import Seller
from tests.orders.test_queries import order
from tests.orders.upkeep import account, claim, row, take

pytestmark = pytest.mark.usefixtures("quick")


async def completed(parts: Parts, seller: Seller, orders: int = 60, days: int = 90) -> Backfill:
    await seller.with_orders(orders, days=80, reports={"seconds": 0, "secondsPerRow": 0})
    await account(parts, seller)
    asked = await request(parts, seller, days)
    await asked.run_until(JobState.COMPLETED)
    return asked


async def audited(parts: Parts, asked: Backfill) -> Job:
    """The audit to its end, turn by turn."""
    for _ in range(60):
        await take(parts, DUTY)
        noted = await row(parts, Task.AUDIT)
        assert noted["error_code"] is None, noted["last_error"]
        if (await asked.job()).audited_at is not None:
            break
    job = await asked.job()
    assert job.audited_at is not None
    return job


async def test_a_complete_backfill_is_found_complete(parts: Parts, seller: Seller, told: Told) -> None:
    asked = await completed(parts, seller)
    before = await told(parts.pool)
    job = await audited(parts, asked)
    assert (job.state, job.days_checked, job.missing, job.unlisted) == ("COMPLETED", 90, 0, 0)
    assert (job.windows_done, job.windows_total) == (1, 1), "an audit's windows are not the backfill's"
    assert await asked.is_complete()
    assert await told(parts.pool) == before
    assert await seller.amazon.calls("createReport", seller.seller_id) == {"202": 3}
    await take(parts, DUTY)
    assert await seller.amazon.calls("createReport", seller.seller_id) == {"202": 3}, "it is made once"


async def test_orders_that_were_missing_are_stored_and_counted(
    parts: Parts, seller: Seller, told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = await completed(parts, seller)
    lost = await parts.pool.fetch(
        "DELETE FROM orders WHERE id IN (SELECT id FROM orders ORDER BY order_date LIMIT 3)"
        " RETURNING external_order_id, order_date"
    )
    counted = audit.MISSING._value.get()
    job = await audited(parts, asked)
    assert (job.days_checked, job.missing, job.unlisted) == (90, 3, 0)
    assert audit.MISSING._value.get() - counted == 3
    assert await asked.is_complete()
    assert {
        (body["externalOrderId"], body["isNew"], body["cause"])
        for subject, body in await told(parts.pool)
        if subject == "order.stored"
    } == {(each["external_order_id"], True, "AUDIT") for each in lost}
    said = capsys.readouterr().out
    for each in lost:
        assert f"day={each['order_date'].date()}" in said


async def test_a_stored_order_that_no_report_names_is_counted_and_kept(parts: Parts, seller: Seller) -> None:
    asked = await completed(parts, seller)
    day = (await asked.job()).window_from + timedelta(days=40)
    async with parts.pool.acquire() as conn, conn.transaction():
        stray = order("999-0000000-0000001", order_date=day)
        await live.store(conn, parts.outbox, seller.tenant_id, [stray], StoreCause.REQUEST)
    job = await audited(parts, asked)
    assert (job.missing, job.unlisted) == (0, 1)
    assert await parts.pool.fetchval("SELECT count(*) FROM orders WHERE external_order_id = '999-0000000-0000001'") == 1


async def test_an_audit_waits_while_another_backfill_is_unfinished(parts: Parts, seller: Seller) -> None:
    asked = await completed(parts, seller)
    another = await request(parts, seller)
    for _ in range(3):
        await take(parts, DUTY)
    assert await seller.amazon.calls("createReport", seller.seller_id) == {}
    await another.run_until(JobState.COMPLETED)
    await audited(parts, another)
    await audited(parts, asked)


@pytest.mark.parametrize("outcome", ["FATAL", "CANCELLED"])
async def test_a_report_that_fails_is_asked_for_again_and_then_left(parts: Parts, seller: Seller, outcome: str) -> None:
    asked = await completed(parts, seller)
    await seller.amazon.fail("createReport", outcome, seller.seller_id, times=2)
    assert (await audited(parts, asked)).days_checked == 90
    again = await request(parts, seller)
    await again.run_until(JobState.COMPLETED)
    await seller.amazon.fail("createReport", outcome, seller.seller_id, times=3)
    job = await audited(parts, again)
    assert 60 <= job.days_checked < 90


async def audit_windows(parts: Parts, asked: Backfill) -> list[Window]:
    return await job_queries.list_windows(parts.pool, asked.job_id, audits=True)


@pytest.mark.parametrize(("refused", "reports"), [(1, 3 + 2), (2, 3 + 4), (3, 3 + 6)])
async def test_days_whose_report_is_refused_are_split_and_each_is_checked_once(
    parts: Parts, seller: Seller, refused: int, reports: int
) -> None:
    """Of 30 days, of the newer 15, of the newest seven and a half."""
    asked = await completed(parts, seller)
    await parts.pool.execute("DELETE FROM orders WHERE id IN (SELECT id FROM orders ORDER BY order_date DESC LIMIT 9)")
    await seller.amazon.fail("createReport", "error_text", seller.seller_id, times=refused)
    unchecked = audit.UNCHECKED._value.get()
    job = await audited(parts, asked)
    assert (job.days_checked, job.missing, job.unlisted) == (90, 9, 0)
    assert audit.UNCHECKED._value.get() == unchecked
    assert await seller.amazon.calls("createReport", seller.seller_id) == {"202": reports}
    windows = await audit_windows(parts, asked)
    assert (windows[0].span.end, windows[-1].span.start) == (job.window_to, job.window_from)
    for newer, older in itertools.pairwise(windows):
        assert older.span.end == newer.span.start
    assert len(windows) == reports - refused
    assert await asked.is_complete()


async def test_a_week_whose_report_is_refused_is_asked_for_again_and_then_left(parts: Parts, seller: Seller) -> None:
    asked = await completed(parts, seller, days=7)
    unchecked = audit.UNCHECKED._value.get()
    await seller.amazon.fail("createReport", "error_text", seller.seller_id, times=2)
    assert (await audited(parts, asked)).days_checked == 7
    assert len(await audit_windows(parts, asked)) == 1
    again = await request(parts, seller, 7)
    await again.run_until(JobState.COMPLETED)
    await seller.amazon.fail("createReport", "error_text", seller.seller_id, times=3)
    assert (await audited(parts, again)).days_checked == 0
    assert audit.UNCHECKED._value.get() == unchecked + 1


async def test_a_kill_in_the_middle_of_a_report_counts_each_missing_order_once(
    parts: Parts, seller: Seller, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = await completed(parts, seller)
    await parts.pool.execute("DELETE FROM orders WHERE id IN (SELECT id FROM orders ORDER BY order_date DESC LIMIT 3)")
    killed = 0

    async def die(*_: Any) -> int:
        nonlocal killed
        killed += 1
        raise ConnectionResetError

    with monkeypatch.context() as patch:
        patch.setattr(audit_queries, "count_unlisted", die)
        while not killed:
            await upkeep.take(parts, DUTY, await claim(parts, Task.AUDIT))
    job = await audited(parts, asked)
    assert (job.missing, job.days_checked) == (3, 90)
    assert await asked.is_complete()


async def test_who_lost_the_lease_counts_and_stores_nothing(parts: Parts, seller: Seller) -> None:
    asked = await completed(parts, seller)
    await parts.pool.execute("DELETE FROM orders")
    while not await parts.pool.fetchval("SELECT count(document_id) FROM backfill_windows WHERE kind = 'AUDIT'"):
        await take(parts, DUTY)
    turn = await claim(parts, Task.AUDIT)
    await claim(parts, Task.AUDIT)
    await upkeep.take(parts, DUTY, turn)
    assert await parts.pool.fetchval("SELECT count(*) FROM orders") == 0
    assert (await asked.job()).missing == 0
