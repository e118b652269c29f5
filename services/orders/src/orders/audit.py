"""Whether a completed backfill has found everything: Amazon's reports again, over all of its days, stored like any
other. What is new in them was missing, and is told by order.stored.
"""

from collections import Counter as Counts
from datetime import timedelta
from uuid import UUID

from prometheus_client import Counter

from shared.amazon import reports
from shared.amazon.errors import CREDENTIALS_REFUSED
from shared.amazon.reports import ReportType
from shared.errors import PermanentError
from shared.events import StoreCause
from shared.telemetry import log

from . import audit_queries, job_queries, live, planning, queries, report, upkeep_queries
from .domain import Audit, LeaseLostError, Task, Turn
from .mapping import tell_unknown_statuses
from .planning import Span, Stage, Trouble, Window, WindowKind
from .upkeep import Duty
from .windows import LEASE, UNREADABLE, Parts

AT_ONCE = 2
"""Accounts in one process: there is no hurry."""
INTERVAL_SECONDS = 60
REST_SECONDS = 3600
"""Until the next look where there is nothing to audit: the end of a backfill wakes the task."""
TROUBLES_AT_MOST = 3
"""After so many a window is left unchecked."""
LOOK_WAIT_SECONDS = 1.0

MISSING = Counter("orders_audit_missing_total", "Orders that a backfill had not stored and a report names, now stored")
UNLISTED = Counter("orders_audit_unlisted_total", "Orders that are stored and that the report of their days lacks")
UNCHECKED = Counter("orders_audit_unchecked_total", "Windows of backfills whose reports did not work")


async def work(parts: Parts, turn: Turn) -> None:
    """The next step of the tenant's audit, a call and what follows from it."""
    audit = await audit_queries.get_audit(parts.pool, turn.tenant_id)
    due_in: timedelta | None = None
    if audit is not None:
        due_in = await _step(parts, turn, audit)
    async with parts.pool.acquire() as conn, conn.transaction():
        await upkeep_queries.hold(conn, turn, LEASE)
        await upkeep_queries.finish(conn, turn, REST_SECONDS, due_in)


DUTY = Duty(Task.AUDIT, INTERVAL_SECONDS, work)


async def _step(parts: Parts, turn: Turn, audit: Audit) -> timedelta:
    """After which time there is more to do."""
    if not audit.has_begun:
        async with parts.pool.acquire() as conn, conn.transaction():
            await upkeep_queries.hold(conn, turn, LEASE)
            spans = planning.report_spans(Span(audit.window_from, audit.window_to))
            await job_queries.insert_windows(conn, audit.job_id, WindowKind.AUDIT, spans)
        return timedelta()
    windows = await job_queries.list_windows(parts.pool, audit.job_id, audits=True)
    left = [window for window in windows if window.done_at is None]
    if not left:
        async with parts.pool.acquire() as conn, conn.transaction():
            await upkeep_queries.hold(conn, turn, LEASE)
            await audit_queries.end_audit(conn, audit.job_id)
        log.info("audit_completed", tenant_id=turn.tenant_id, job_id=str(audit.job_id))
        return timedelta()
    window = left[0]
    try:
        match window.stage:
            case Stage.ASK:
                return await _ask(parts, turn, window)
            case Stage.LOOK:
                return await _look(parts, turn, audit.job_id, window)
            case _:
                return await _compare(parts, turn, audit, window)
    except (*CREDENTIALS_REFUSED, LeaseLostError):
        raise
    except report.RefusedReportError as error:
        trouble = Trouble.REFUSED
        log.warning("audit_report_refused", tenant_id=turn.tenant_id, report_id=window.report_id, text=error.text)
    except (PermanentError, *UNREADABLE) as error:
        trouble = Trouble.BROKEN
        log.warning("audit_report_failed", tenant_id=turn.tenant_id, report_id=window.report_id, error=str(error))
    return await _help(parts, turn, audit.job_id, window, trouble)


async def _ask(parts: Parts, turn: Turn, window: Window) -> timedelta:
    account = await queries.get_connection(parts.pool, turn.tenant_id)
    if account is None:
        raise LeaseLostError("The account was disconnected.")
    span = planning.asked(window.span)
    report_id = await reports.create_report(
        *(parts.api, turn.tenant_id, ReportType.ORDERS_BY_ORDER_DATE, account.marketplace_ids),
        *(span.start, span.end),
    )
    async with parts.pool.acquire() as conn, conn.transaction():
        await upkeep_queries.hold(conn, turn, LEASE)
        await job_queries.note_report(conn, window.id, report_id, timedelta())
    return await _pause(parts, turn, timedelta())


async def _look(parts: Parts, turn: Turn, job_id: UUID, window: Window) -> timedelta:
    found = await reports.get_report(parts.api, turn.tenant_id, window.report_id or "", wait_seconds=LOOK_WAIT_SECONDS)
    if found.processing_status in {Trouble.FATAL, Trouble.CANCELLED}:
        return await _help(parts, turn, job_id, window, Trouble(found.processing_status))
    document_id = found.report_document_id if found.processing_status == "DONE" else None
    if document_id is None:
        return await _pause(parts, turn, window.now - (window.asked_at or window.now))
    async with parts.pool.acquire() as conn, conn.transaction():
        await upkeep_queries.hold(conn, turn, LEASE)
        await job_queries.note_document(conn, window.id, document_id)
    return timedelta()


async def _compare(parts: Parts, turn: Turn, audit: Audit, window: Window) -> timedelta:
    """Store the report's orders, and count those that were missing as they come: after a crash they are so no more."""
    document = await reports.get_report_document(parts.api, turn.tenant_id, window.document_id or "")
    account = await queries.get_connection(parts.pool, turn.tenant_id)
    listed: set[str] = set()
    async with reports.download(parts.http, document) as content:
        batches = report.read_orders(content.parts, content.content_type, account.marketplace_ids if account else ())
        async for orders in batches:
            tell_unknown_statuses(turn.tenant_id, orders)
            listed.update(order.external_order_id for order in orders)
            async with parts.pool.acquire() as conn, conn.transaction():
                await upkeep_queries.hold(conn, turn, LEASE)
                stored = await live.store(conn, parts.outbox, turn.tenant_id, orders, StoreCause.AUDIT)
                new = {each.external_order_id for each in stored if each.is_new}
                missing = [
                    order
                    for order in orders
                    if order.external_order_id in new and window.span.start <= order.order_date < window.span.end
                ]
                await audit_queries.count_found(conn, audit.job_id, window.id, len(missing))
            MISSING.inc(len(missing))
            for day, number in sorted(Counts(order.order_date.date() for order in missing).items()):
                log.error(
                    "orders_were_missing",
                    tenant_id=turn.tenant_id,
                    job_id=str(audit.job_id),
                    day=str(day),
                    orders=number,
                )
    unlisted = await audit_queries.count_unlisted(
        parts.pool, turn.tenant_id, window.span.start, window.span.end, list(listed)
    )
    if unlisted:
        UNLISTED.inc(unlisted)
        log.warning("orders_not_in_report", tenant_id=turn.tenant_id, report_id=window.report_id, orders=unlisted)
    async with parts.pool.acquire() as conn, conn.transaction():
        await upkeep_queries.hold(conn, turn, LEASE)
        await audit_queries.count_checked(conn, audit.job_id, _days(audit, window.span), unlisted)
        await job_queries.finish_window(conn, window.id)
        await upkeep_queries.wake(conn, turn.tenant_id, Task.DETAILS)
    return timedelta()


def _days(audit: Audit, span: Span) -> int:
    """Whole ones, which together are the backfill's, however its windows were cut."""
    after, before = audit.window_to - span.start, audit.window_to - span.end
    return round(after / timedelta(days=1)) - round(before / timedelta(days=1))


async def _help(parts: Parts, turn: Turn, job_id: UUID, window: Window, trouble: Trouble) -> timedelta:
    """Another report, or two of half the days, or none: an audit that cannot be made hinders nobody."""
    async with parts.pool.acquire() as conn, conn.transaction():
        await upkeep_queries.hold(conn, turn, LEASE)
        await job_queries.note_trouble(conn, window.id)
        if trouble is Trouble.REFUSED and window.span.length > planning.NARROWEST_REPORT:
            await job_queries.delete_window(conn, window.id)
            await job_queries.insert_windows(conn, job_id, WindowKind.AUDIT, planning.halves(window.span))
        elif window.troubles + 1 < TROUBLES_AT_MOST:
            await job_queries.note_report(conn, window.id, None, timedelta())
        else:
            await job_queries.finish_window(conn, window.id)
            UNCHECKED.inc()
            log.error(
                "audit_window_unchecked",
                tenant_id=turn.tenant_id,
                job_id=str(job_id),
                start=str(window.span.start.date()),
                end=str(window.span.end.date()),
            )
    return planning.again_after(window.troubles)


async def _pause(parts: Parts, turn: Turn, age: timedelta) -> timedelta:
    left = await parts.api.left(turn.tenant_id, reports.GET_REPORT)
    return planning.pause(age, left.interval_seconds, 1)
