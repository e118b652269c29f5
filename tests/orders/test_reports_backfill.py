"""Sellers with more orders than the burst of searchOrders holds, by reports, and whatever goes wrong with those."""

import asyncio
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from orders import order_queries
from orders.domain import JobState, Waiting
from orders.planning import Stage, WindowKind
from orders.windows import Parts
from shared.amazon.gate import REFUSED
from tests.conftest import Told
from tests.orders.backfills import ALL_IS_DUE, Backfill, after, forever, request, running
from tests.orders.conftest import Seller

pytestmark = pytest.mark.usefixtures("quick")
QUICK: dict[str, Any] = {"seconds": 0.4, "secondsPerRow": 0}
REPORTS = "/reports/2021-06-30/reports"
DENSE = 6_000
"""Sixty pages: the first one says that the burst of twenty is not enough."""
LEASE_IS_OVER = "UPDATE backfill_jobs SET leased_until = clock_timestamp()"


async def dense(parts: Parts, seller: Seller, *, days: int = 90, **habits: object) -> Backfill:
    await seller.with_orders(DENSE, days=days, reports=QUICK | habits)
    return await request(parts, seller, days)


async def made(seller: Seller) -> dict[str, int]:
    """The calls that were answered as asked for."""
    names = ("searchOrders", "createReport", "getReportDocument", "download")
    calls = {name: await seller.amazon.calls(name, seller.seller_id) for name in names}
    return {name: counts.get("202" if name == "createReport" else "200", 0) for name, counts in calls.items()}


async def test_a_dense_seller_is_read_by_reports_from_the_second_call_on(
    parts: Parts, seller: Seller, told: Told
) -> None:
    asked = await dense(parts, seller)
    job = await asked.run_until(JobState.COMPLETED)
    assert await made(seller) == {"searchOrders": 1, "createReport": 3, "getReportDocument": 3, "download": 3}
    looks = await seller.amazon.calls("getReport", seller.seller_id)
    assert job.calls == 1 + 3 + 3 + looks["200"]
    assert (job.pages, job.windows_done, job.windows_total, job.quota_waited_seconds) == (1, 4, 4, 0)
    *reports, pages = await asked.windows()
    assert {window.kind for window in reports} == {WindowKind.REPORT}
    assert [newer.span.start for newer in [*reports, pages]][:-1] == [older.span.end for older in [*reports, pages]][1:]
    assert (reports[0].span.end, pages.span.start) == (job.window_to, job.window_from)
    assert await asked.is_complete()
    details = await parts.pool.fetch("SELECT detail, count(*) AS orders FROM orders GROUP BY 1 ORDER BY 1")
    assert [tuple(row) for row in details] == [("FULL", 100), ("REPORT", job.orders_stored - 100)], (
        "what a page told is not lost"
    )
    subjects = [subject for subject, _ in await told(parts.pool)]
    assert (subjects[0], subjects[1], subjects[-1]) == (
        *("backfill.requested", "backfill.progressed"),
        "backfill.completed",
    )


async def test_reports_are_asked_for_together_and_stored_as_they_come_the_newest_first(
    parts: Parts, seller: Seller
) -> None:
    asked = await dense(parts, seller)
    all_asked = asyncio.Event()

    async def note() -> None:
        all_asked.set()
        await forever()

    async with after(parts, REPORTS, 3, note) as noting, running(noting):
        await all_asked.wait()
    windows = await asked.windows()
    assert [window.report_id for window in windows] == ["50000000001", "50000000002", None, None], "the newest first"
    await parts.pool.execute(LEASE_IS_OVER)
    job = await asked.run_until(JobState.COMPLETED)
    *reports, _ = await asked.windows()
    ends = [window.done_at for window in reports]
    assert ends == sorted(ends, key=str)
    assert await asked.is_complete()
    assert (await made(seller))["createReport"] == 4, "the one whose answer a crash lost, and no other"
    assert job.windows_total == 4


async def test_a_report_that_takes_longer_holds_up_no_other(parts: Parts, seller: Seller) -> None:
    asked = await dense(parts, seller, seconds=600.0)
    async with after(parts, REPORTS, 1, partial(habits, seller, QUICK)) as slowed, running(slowed):
        await asked.until(lambda job: job.windows_done == 3)
        await parts.pool.execute(
            "UPDATE backfill_windows SET asked_at = asked_at - interval '1 h' WHERE done_at IS NULL"
        )
        job = await asked.until(lambda job: job.next_attempt_at > job.created_at + timedelta(minutes=1))
    assert (job.state, job.waiting_for) == (JobState.RUNNING, None), "Amazon works"
    assert await parts.pool.fetchval("SELECT leased_until IS NULL FROM backfill_jobs"), "and nobody else"
    waiting, *rest = await asked.windows()
    assert waiting.stage is Stage.LOOK
    assert all(window.done_at is not None for window in rest)
    assert job.eta_seconds is not None
    assert 0 < job.eta_seconds <= 3_700 * 0.05, "it is later than the others were: any moment now"


async def habits(seller: Seller, wanted: dict[str, Any]) -> None:
    await seller.amazon.control("PUT", f"sellers/{seller.seller_id}/reports", wanted)


async def test_two_years_are_as_few_reports_as_may_be_and_wait_for_the_quota_while_others_are_made(
    parts: Parts, seller: Seller
) -> None:
    refused = REFUSED.labels("createReport", "backfill")
    before = refused._value.get()
    asked = await dense(parts, seller, days=730)
    async with running(parts):
        job = await asked.until(lambda job: job.waiting_for is Waiting.QUOTA)
    assert job.windows_total == 1 + 24
    assert (await made(seller))["createReport"] == 15
    assert await seller.amazon.calls("createReport", seller.seller_id) == {"202": 15}, "and none refused"
    assert refused._value.get() == before + 1, "the gate was asked once for all of them"
    assert job.windows_done == 1 + 15, "those are stored"
    windows = await asked.windows()
    assert [window.done_at is None for window in windows] == [False] * 15 + [True] * 9 + [False]
    now = await parts.pool.fetchval("SELECT clock_timestamp()")
    wait = (job.next_attempt_at - now).total_seconds()
    assert 0 < wait < 61, "one report more fits each minute"
    assert job.eta_seconds is not None
    assert wait + 8 * 60 - 10 < job.eta_seconds < wait + 8 * 60 + 30


@pytest.mark.parametrize(
    ("outcome", "times", "created"),
    [("FATAL", 9, 3 * 4), ("CANCELLED", 3, 3 * 2)],
)
async def test_a_report_that_amazon_gives_up_is_asked_for_again(
    parts: Parts, seller: Seller, outcome: str, times: int, created: int
) -> None:
    asked = await dense(parts, seller)
    await seller.amazon.fail("createReport", outcome, seller.seller_id, times)
    job = await asked.run_until(JobState.COMPLETED)
    assert (await made(seller))["createReport"] == created
    assert job.notice is None
    assert await asked.is_complete()


@pytest.mark.parametrize(("outcome", "created"), [("FATAL", 3 * 4), ("CANCELLED", 3 * 2)])
async def test_a_report_that_amazon_gives_up_again_and_again_is_paged_as_the_quota_lets_it(
    parts: Parts, seller: Seller, outcome: str, created: int
) -> None:
    asked = await dense(parts, seller)
    await seller.amazon.fail("createReport", outcome, seller.seller_id, 1_000)
    async with running(parts):
        job = await asked.until(lambda job: job.waiting_for is Waiting.QUOTA)
    assert (await made(seller))["createReport"] == created
    assert (job.pages, job.error_code) == (20, "quota_wait")
    assert str(job.notice).startswith("Amazon's reports of ")
    assert f"({outcome})" in str(job.notice)
    *paged, first = await asked.windows()
    assert [(window.kind, window.pages_only) for window in paged] == [(WindowKind.PAGES, True)] * 3
    assert first.done_at is not None
    assert sum(window.orders for window in paged) == 1_900
    assert job.eta_seconds is not None
    assert 38 * 170 < job.eta_seconds < 44 * 180, "forty pages are left, one in three minutes"


async def test_a_document_that_says_why_there_is_no_report_splits_the_window(parts: Parts, seller: Seller) -> None:
    asked = await dense(parts, seller)
    await seller.amazon.fail("createReport", "error_text", seller.seller_id)
    job = await asked.run_until(JobState.COMPLETED)
    newest, second, *_ = await asked.windows()
    assert newest.span.start == second.span.end
    assert abs(newest.span.length - second.span.length) < timedelta(seconds=2)
    assert (job.windows_total, (await made(seller))["createReport"]) == (5, 5)
    assert await asked.is_complete()


async def test_a_window_that_is_refused_though_it_is_narrow_is_paged(parts: Parts, seller: Seller) -> None:
    asked = await dense(parts, seller, days=6)
    await seller.amazon.fail("createReport", "error_text", seller.seller_id)
    async with running(parts):
        job = await asked.until(lambda job: job.waiting_for is Waiting.QUOTA)
    assert "(REFUSED)" in str(job.notice)
    assert (await made(seller))["createReport"] == 1


@pytest.mark.parametrize("oddity", ["url_expired", "cut", "wrong_gzip"])
async def test_a_document_that_does_not_come_whole_is_fetched_again(parts: Parts, seller: Seller, oddity: str) -> None:
    asked = await dense(parts, seller)
    await seller.amazon.fail("getReportDocument", oddity, seller.seller_id, times=2)
    job = await asked.run_until(JobState.COMPLETED)
    assert job.notice is None
    assert await made(seller) | {"download": 0} == {
        "searchOrders": 1,
        "createReport": 3,
        "getReportDocument": 3 + 2,
        "download": 0,
    }
    assert await asked.is_complete()


async def test_a_document_that_stays_broken_is_made_anew_and_then_its_days_are_paged(
    parts: Parts, seller: Seller
) -> None:
    asked = await dense(parts, seller)
    await seller.amazon.fail("download", 503, seller.seller_id, 1_000)
    async with running(parts):
        job = await asked.until(lambda job: job.waiting_for is Waiting.OUTAGE)
        assert job.error_code == "report_download_broken"
        assert (await made(seller))["getReportDocument"] == 3 * 2, "it is not fetched again at once"
        await parts.pool.execute("UPDATE backfill_windows SET troubles = 5 WHERE kind = 'REPORT'")
        await parts.pool.execute(ALL_IS_DUE)
        await asked.until(lambda job: job.waiting_for is None)
        await asked.until(lambda job: job.waiting_for is Waiting.OUTAGE)
        assert (await made(seller))["createReport"] == 2 * 3
        await parts.pool.execute("UPDATE backfill_windows SET troubles = 9 WHERE kind = 'REPORT'")
        await parts.pool.execute(ALL_IS_DUE)
        job = await asked.until(lambda job: job.notice is not None)
    assert "(BROKEN)" in str(job.notice)


async def test_without_the_role_for_reports_everything_is_paged_and_the_job_says_so(
    parts: Parts, seller: Seller
) -> None:
    asked = await dense(parts, seller)
    await seller.amazon.fail("createReport", "role_missing", seller.seller_id)
    async with running(parts):
        job = await asked.until(lambda job: job.waiting_for is Waiting.QUOTA)
    assert "the application lacks a role for it" in str(job.notice)
    assert "is read by pages" in str(job.notice)
    assert (job.pages, job.windows_total) == (20, 4)
    windows = await asked.windows()
    assert [window.kind for window in windows] == [WindowKind.PAGES] * 4
    assert sum(window.orders for window in windows) == 2_000
    assert await seller.amazon.calls("createReport", seller.seller_id) == {"role_missing": 1}
    assert job.eta_seconds is not None
    assert 40 * 170 < job.eta_seconds < 45 * 180, "forty pages at one in three minutes"


async def test_an_authorization_that_is_revoked_while_amazon_works_ends_the_job(
    parts: Parts, seller: Seller, told: Told
) -> None:
    asked = await dense(parts, seller)
    async with after(parts, REPORTS, 2, partial(seller.amazon.revoke, seller.seller_id)) as revoking:
        job = await asked.run_until(JobState.FAILED, revoking)
    assert job.error_code == "authorization_revoked"
    assert [subject for subject, _ in await told(parts.pool)][-2:] == ["backfill.failed", "connection.rejected"]


async def test_an_outage_between_reports_is_waited_for_and_no_report_is_asked_for_twice(
    parts: Parts, seller: Seller
) -> None:
    asked = await dense(parts, seller)
    async with after(parts, REPORTS, 3, partial(seller.amazon.fail, "getReport", 503, seller.seller_id)) as failing:
        job = await asked.run_until(JobState.WAITING, failing)
    assert (job.waiting_for, job.error_code) == (Waiting.OUTAGE, "amazon_unavailable")
    await parts.pool.execute(ALL_IS_DUE)
    await asked.run_until(JobState.COMPLETED)
    assert (await made(seller))["createReport"] == 3
    assert await asked.is_complete()


async def test_a_crash_in_the_middle_of_a_document_reads_it_again_and_asks_for_no_other_report(
    parts: Parts, seller: Seller, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = await dense(parts, seller)
    real, stored = order_queries.upsert_orders, asyncio.Event()
    batches = 0

    async def hold_the_third(*arguments: Any) -> Any:
        nonlocal batches
        batches += 1
        if batches == 1 + 3:
            stored.set()
            await forever()
        return await real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(order_queries, "upsert_orders", hold_the_third)
        async with running(parts):
            await stored.wait()
    assert (await asked.job()).orders_stored == 100 + 2 * 500
    await parts.pool.execute(LEASE_IS_OVER)
    await asked.run_until(JobState.COMPLETED)
    assert await made(seller) == {"searchOrders": 1, "createReport": 3, "getReportDocument": 4, "download": 4}
    assert await asked.is_complete()
