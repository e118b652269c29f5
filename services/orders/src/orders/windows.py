"""The steps of a backfill's windows, each a call to Amazon and a transaction: a crash at any moment costs one call, and
stores nothing twice.
"""

from collections.abc import Awaitable, Sequence
from datetime import timedelta
from typing import TypeVar

import httpx
from msgspec import Struct

from shared.amazon import reports
from shared.amazon.errors import CREDENTIALS_REFUSED, AccessDeniedError, BadRequestError
from shared.amazon.gate import Lane
from shared.amazon.orders import SEARCH_ORDERS, search_orders
from shared.amazon.reports import AddressExpiredError, DownloadBrokenError, ReportType
from shared.amazon.spapi import SpApi
from shared.db import Conn, Pool
from shared.errors import PermanentError, RetryLaterError
from shared.outbox import Outbox
from shared.telemetry import log

from . import backfill, job_queries, order_queries, planning, queries, report
from .domain import Lease, LeaseLostError, NewOrder
from .mapping import from_amazon, tell_unknown_statuses
from .planning import Remedy, Span, Stage, Trouble, Window, WindowKind

LEASE = timedelta(seconds=10)
"""How long a job rests when its worker is killed; a living one renews it three times as often."""
TOLD_EVERY = timedelta(seconds=2)
LOOK_WAIT_SECONDS = 1.0
"""For its turn among the looks after reports, which come by twos a second; any other wait is the job's."""
UNREADABLE = (report.BrokenReportError, report.CutReportError, DownloadBrokenError, AddressExpiredError)

T = TypeVar("T")


class Parts(Struct, frozen=True):
    """What backfills are done with. http: for documents, which get no token."""

    pool: Pool
    outbox: Outbox
    api: SpApi
    http: httpx.AsyncClient


async def step(parts: Parts, lease: Lease, window: Window, windows: Sequence[Window]) -> None:
    """Do what is next for a window; windows: all of the job. LeaseLostError, or what Amazon answers."""
    match window.stage:
        case Stage.PAGE:
            await _page(parts, lease, window, windows)
        case Stage.ASK:
            await _ask(parts, lease, window, windows)
        case Stage.LOOK:
            await _look(parts, lease, window, windows)
        case Stage.FETCH:
            await _fetch(parts, lease, window, windows)


async def _page(parts: Parts, lease: Lease, window: Window, windows: Sequence[Window]) -> None:
    if window.token_is_stale:
        await _narrow(parts, lease, window, calls=0)
        return
    span = planning.asked(window.span)
    try:
        page = await search_orders(
            parts.api, lease.tenant_id, span.start, span.end, window.next_token, lane=Lane.BACKFILL
        )
    except BadRequestError as error:
        if window.next_token is None:
            raise
        log.warning("backfill_page_token_refused", job_id=str(lease.job_id), error=str(error))
        await _narrow(parts, lease, window, calls=1)
        return
    orders = [from_amazon(order) for order in page.orders]
    tell_unknown_statuses(lease.tenant_id, orders)
    rest = planning.rest_after(window.rest, [order.order_date for order in orders])
    left = await parts.api.left(lease.tenant_id, SEARCH_ORDERS)
    pages = page.next_token is None or window.pages_only or planning.fits(window, rest, left.calls)
    async with parts.pool.acquire() as conn, conn.transaction():
        await job_queries.hold_job(conn, lease, LEASE, calls=1)
        await _store(conn, lease, window, windows, orders, pages=1, rest=rest, next_token=page.next_token)
        if page.next_token is None:
            await job_queries.finish_window(conn, window.id)
        elif not pages:
            spans = planning.report_spans(rest)
            await job_queries.cut_window(conn, window.id, planning.covered(window.span, rest))
            await job_queries.insert_windows(conn, lease.job_id, WindowKind.REPORT, spans)
            log.info("backfill_goes_on_by_reports", job_id=str(lease.job_id), reports=len(spans), calls=left.calls)
        await _progress(conn, parts, lease)


async def _narrow(parts: Parts, lease: Lease, window: Window, *, calls: int) -> None:
    """Begin again with what no page has covered yet: the page token is good no more."""
    async with parts.pool.acquire() as conn, conn.transaction():
        await job_queries.hold_job(conn, lease, LEASE, calls=calls)
        if window.rest == window.span:
            await job_queries.delete_window(conn, window.id)
        else:
            await job_queries.cut_window(conn, window.id, planning.covered(window.span, window.rest))
        await job_queries.insert_windows(
            conn, lease.job_id, WindowKind.PAGES, [window.rest], pages_only=window.pages_only
        )


async def _ask(parts: Parts, lease: Lease, window: Window, windows: Sequence[Window]) -> None:
    account = await queries.get_connection(parts.pool, lease.tenant_id)
    if account is None:
        raise LeaseLostError("The account was disconnected.")
    span = planning.asked(window.span)
    asking = reports.create_report(
        parts.api,
        lease.tenant_id,
        ReportType.ORDERS_BY_ORDER_DATE,
        account.marketplace_ids,
        span.start,
        span.end,
    )
    report_id = await _unless_denied(parts, lease, window, windows, Trouble.DENIED, asking)
    if report_id is None:
        return
    look_after = await _pause(parts, lease, timedelta(), windows)
    async with parts.pool.acquire() as conn, conn.transaction():
        await job_queries.hold_job(conn, lease, LEASE, calls=1)
        await job_queries.note_report(conn, window.id, report_id, look_after)


async def _look(parts: Parts, lease: Lease, window: Window, windows: Sequence[Window]) -> None:
    looking = reports.get_report(parts.api, lease.tenant_id, window.report_id or "", wait_seconds=LOOK_WAIT_SECONDS)
    found = await _unless_denied(parts, lease, window, windows, Trouble.FATAL, looking)
    if found is None:
        return
    if found.processing_status in {Trouble.FATAL, Trouble.CANCELLED}:
        await _help(parts, lease, window, Trouble(found.processing_status), calls=1)
        return
    document_id = found.report_document_id if found.processing_status == "DONE" else None
    look_after = await _pause(parts, lease, window.now - (window.asked_at or window.now), windows)
    async with parts.pool.acquire() as conn, conn.transaction():
        await job_queries.hold_job(conn, lease, LEASE, calls=1)
        if document_id is not None:
            await job_queries.note_document(conn, window.id, document_id)
        else:
            await job_queries.postpone_windows(conn, [window.id], look_after)


async def _fetch(parts: Parts, lease: Lease, window: Window, windows: Sequence[Window]) -> None:
    """Store a report's document batch by batch; after a crash from the beginning, which changes nothing twice."""
    finding = reports.get_report_document(parts.api, lease.tenant_id, window.document_id or "")
    document = await _unless_denied(parts, lease, window, windows, Trouble.FATAL, finding)
    if document is None:
        return
    account = await queries.get_connection(parts.pool, lease.tenant_id)
    async with parts.pool.acquire() as conn, conn.transaction():
        await job_queries.hold_job(conn, lease, LEASE, calls=1)
        await job_queries.begin_document(conn, window.id)
    try:
        async with reports.download(parts.http, document) as content:
            batches = report.read_orders(
                content.parts, content.content_type, account.marketplace_ids if account else ()
            )
            async for orders in batches:
                tell_unknown_statuses(lease.tenant_id, orders)
                async with parts.pool.acquire() as conn, conn.transaction():
                    await job_queries.hold_job(conn, lease, LEASE, calls=0)
                    await _store(conn, lease, window, windows, orders)
                    await _progress(conn, parts, lease)
    except report.RefusedReportError as error:
        log.warning("backfill_report_refused", job_id=str(lease.job_id), report_id=window.report_id, text=error.text)
        await _help(parts, lease, window, Trouble.REFUSED, calls=0)
        return
    except UNREADABLE as error:
        log.warning(
            "backfill_report_unreadable", job_id=str(lease.job_id), report_id=window.report_id, error=str(error)
        )
        await _help(parts, lease, window, Trouble.BROKEN, calls=0, why=error)
        return
    async with parts.pool.acquire() as conn, conn.transaction():
        await job_queries.hold_job(conn, lease, LEASE, calls=0)
        await job_queries.finish_window(conn, window.id)
        await _progress(conn, parts, lease)


async def _unless_denied(
    parts: Parts, lease: Lease, window: Window, windows: Sequence[Window], trouble: Trouble, call: Awaitable[T]
) -> T | None:
    """What a call about a report gives; None where Amazon refuses it for good, and the trouble is seen to: the orders
    can still be paged.
    """
    try:
        return await call
    except CREDENTIALS_REFUSED:
        raise
    except AccessDeniedError as error:
        log.warning("backfill_reports_denied", job_id=str(lease.job_id), error=str(error))
        left = [each for each in windows if each.kind is WindowKind.REPORT and each.done_at is None]
        async with parts.pool.acquire() as conn, conn.transaction():
            await job_queries.hold_job(conn, lease, LEASE, calls=1)
            for each in left:
                await _page_instead(conn, lease, each)
            await job_queries.set_notice(
                conn, lease.job_id, f"{error} The rest is read by pages, one in three minutes, until it has that role."
            )
    except PermanentError as error:
        log.warning("backfill_report_refused", job_id=str(lease.job_id), report_id=window.report_id, error=str(error))
        await _help(parts, lease, window, trouble, calls=1)
    return None


async def _help(
    parts: Parts,
    lease: Lease,
    window: Window,
    trouble: Trouble,
    *,
    calls: int,
    why: PermanentError | RetryLaterError | None = None,
) -> None:
    remedy = planning.remedy(trouble, window.troubles, window.span)
    log.warning(
        "backfill_report_in_trouble",
        job_id=str(lease.job_id),
        report_id=window.report_id,
        trouble=trouble.value,
        remedy=remedy.value,
    )
    async with parts.pool.acquire() as conn, conn.transaction():
        await job_queries.hold_job(conn, lease, LEASE, calls=calls)
        await job_queries.note_trouble(conn, window.id)
        match remedy:
            case Remedy.ASK_AGAIN:
                await job_queries.note_report(conn, window.id, None, timedelta())
            case Remedy.SPLIT:
                await job_queries.delete_window(conn, window.id)
                await job_queries.insert_windows(conn, lease.job_id, WindowKind.REPORT, planning.halves(window.span))
            case Remedy.PAGE:
                await _page_instead(conn, lease, window)
                await job_queries.set_notice(
                    conn,
                    lease.job_id,
                    f"Amazon's reports of {window.span.start:%Y-%m-%d} to {window.span.end:%Y-%m-%d} did not work"
                    f" ({trouble.value}): these days are read by pages, one in three minutes.",
                )
            case Remedy.FETCH_AGAIN:
                await job_queries.postpone_windows(conn, [window.id], planning.again_after(window.troubles))
                if why is not None:
                    await job_queries.set_error(conn, lease.job_id, why.code, str(why))


async def _page_instead(conn: Conn, lease: Lease, window: Window) -> None:
    await job_queries.delete_window(conn, window.id)
    await job_queries.insert_windows(conn, lease.job_id, WindowKind.PAGES, [window.span], pages_only=True)


async def _store(
    conn: Conn,
    lease: Lease,
    window: Window,
    windows: Sequence[Window],
    orders: Sequence[NewOrder],
    *,
    pages: int = 0,
    rest: Span | None = None,
    next_token: str | None = None,
) -> None:
    """Orders and the note of them. Each is counted once, in the window of its date: what is asked for goes a second
    beyond it on both sides. Below it, what the window before has not seen is counted too.
    """
    new = {
        each.external_order_id
        for each in await order_queries.upsert_orders(conn, lease.tenant_id, orders)
        if each.is_new
    }
    before = [each.done_at is not None for each in windows if each.span.end <= window.span.start]
    before_is_read = bool(before) and all(before)
    counted = [
        order
        for order in orders
        if window.span.start <= order.order_date < window.span.end
        or (before_is_read and order.order_date < window.span.start and order.external_order_id in new)
    ]
    await job_queries.advance_window(
        conn,
        window.id,
        orders=sum(order.continues is None for order in counted),
        items=sum(len(order.items) for order in counted),
        pages=pages,
        rest=rest,
        next_token=next_token,
    )


async def _progress(conn: Conn, parts: Parts, lease: Lease) -> None:
    if await job_queries.note_progress(conn, lease.job_id, TOLD_EVERY):
        await backfill.tell_progress(conn, parts.outbox, lease.tenant_id, lease.job_id)


async def _pause(parts: Parts, lease: Lease, age: timedelta, windows: Sequence[Window]) -> timedelta:
    left = await parts.api.left(lease.tenant_id, reports.GET_REPORT)
    looked_after = sum(window.kind is WindowKind.REPORT and window.document_id is None for window in windows)
    return planning.pause(age, left.interval_seconds, looked_after)
