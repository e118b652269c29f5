"""How a backfill goes about its window: pure functions of what was seen so far.

Pages first: they tell everything of an order, and the first twenty cost no wait. A seller with more orders than that is
read by reports, in spans that are asked for together.
"""

import itertools
import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from statistics import median
from uuid import UUID

from msgspec import Struct

from shared.amazon.orders import PAGE_SIZE, SEARCH_ORDERS
from shared.amazon.reports import CREATE_REPORT

EDGE = timedelta(seconds=1)
"""Amazon's answers are cut to seconds, and whether an end belongs to a span is not documented: it is asked for so much
more on both sides.
"""
LONGEST_REPORT = timedelta(days=30) - 2 * EDGE
NARROWEST_REPORT = timedelta(days=7)
"""What is refused though it is no longer is paged."""
BENEFIT_OF_DOUBT = 0.7
"""How much of an estimate has to fit: a page of a hundred orders tells the rate to a tenth, and a week is not like the
next. Reports for what would have fit cost the wait for them, and the details that they lack.
"""
OVERSHOOT = 0.02
"""Of a report's age: the pause until it is looked after again, and so how much later than it is done it is found."""
FIRST_LOOK = 10
"""Of the usage plan's intervals, from the request on."""
REPORT_SECONDS = 120.0
"""Until a report is done, where none has been yet."""
SECONDS_A_PAGE = 1.0


class Span(Struct, frozen=True):
    """Order dates: the start belongs to it, the end does not."""

    start: datetime
    end: datetime

    @property
    def length(self) -> timedelta:
        return self.end - self.start


class WindowKind(StrEnum):
    PAGES = "PAGES"
    REPORT = "REPORT"
    AUDIT = "AUDIT"


class Stage(StrEnum):
    """What is to be done for a window next, the most urgent first: Amazon works while we do the rest."""

    ASK = "ASK"
    FETCH = "FETCH"
    LOOK = "LOOK"
    PAGE = "PAGE"


class Window(Struct, frozen=True):
    """A part of a backfill."""

    id: UUID
    kind: WindowKind
    span: Span
    rest: Span
    """Of PAGES: what no page has covered yet."""
    next_token: str | None
    token_is_stale: bool
    """Amazon does not take the token any more."""
    pages_only: bool
    """Reports did not work: its pages wait for the quota."""
    report_id: str | None
    asked_at: datetime | None
    document_id: str | None
    ready_at: datetime | None
    troubles: int
    """What went wrong with its reports so far."""
    orders: int
    items: int
    pages: int
    next_attempt_at: datetime
    done_at: datetime | None
    now: datetime
    """When it was read, by the database's clock."""

    @property
    def is_due(self) -> bool:
        return self.done_at is None and self.next_attempt_at <= self.now

    @property
    def stage(self) -> Stage:
        if self.kind is WindowKind.PAGES:
            return Stage.PAGE
        if self.report_id is None:
            return Stage.ASK
        return Stage.LOOK if self.document_id is None else Stage.FETCH


class Trouble(StrEnum):
    """What can go wrong with a report."""

    FATAL = "FATAL"
    CANCELLED = "CANCELLED"
    """Amazon's word for no data, and for a failure."""
    REFUSED = "REFUSED"
    """The document says why there is no report."""
    BROKEN = "BROKEN"
    """The document cannot be had whole, or cannot be read."""
    DENIED = "DENIED"
    """Amazon does not take the request as such."""


class Remedy(StrEnum):
    FETCH_AGAIN = "FETCH_AGAIN"
    ASK_AGAIN = "ASK_AGAIN"
    SPLIT = "SPLIT"
    PAGE = "PAGE"


BROKEN_DOCUMENT = (*[Remedy.FETCH_AGAIN] * 5, Remedy.ASK_AGAIN, *[Remedy.FETCH_AGAIN] * 3)
"""What is tried one after the other, with the pauses of again_after(): minutes at first, as where documents are stored
may be away.
"""


def again_after(troubles: int) -> timedelta:
    """The pause before a document is fetched again: 1, 4, 16, 64, 256 seconds."""
    return timedelta(seconds=4 ** min(troubles, 4))


def next_window(windows: Sequence[Window]) -> Window | None:
    """What to do now: of the most urgent stage the newest; None where all wait."""
    order = list(Stage)
    due = sorted((window for window in windows if window.is_due), key=lambda window: window.span.start, reverse=True)
    return min(due, key=lambda window: order.index(window.stage), default=None)


def rest_after(rest: Span, dates: Sequence[datetime]) -> Span:
    """What a page leaves to be read, by the dates of its orders, whose direction Amazon does not document; a page
    without one covers nothing. The rest of the second in which it ended is in what asked() makes of the rest.
    """
    if not dates or dates[0] == dates[-1]:
        return rest
    pairs = list(itertools.pairwise(dates))
    if all(before <= after for before, after in pairs):
        return Span(_between(rest, _second(dates[-1]) + EDGE), rest.end)
    if all(before >= after for before, after in pairs):
        return Span(rest.start, _between(rest, _second(dates[-1])))
    return rest


def covered(span: Span, rest: Span) -> Span:
    """What of a span its pages have covered, where the rest is at one of its ends."""
    return Span(span.start, rest.start) if rest.end == span.end else Span(rest.end, span.end)


def fits(window: Window, rest: Span, calls_left: int) -> bool:
    """Whether what is left of a window after its latest page can be paged with the calls that are left, by the rate of
    the orders on that page: sellers grow and shrink.
    """
    covered_by_page = window.rest.length - rest.length
    if covered_by_page <= timedelta():
        return calls_left > 0
    return rest.length / covered_by_page * BENEFIT_OF_DOUBT <= calls_left


def report_spans(rest: Span) -> list[Span]:
    """As few as may be, of about one size, the newest first."""
    number = max(1, math.ceil(rest.length / LONGEST_REPORT))
    between = [_second(rest.start + rest.length * part / number) for part in range(1, number)]
    return [Span(*edges) for edges in itertools.pairwise([rest.start, *between, rest.end])][::-1]


def halves(span: Span) -> tuple[Span, Span]:
    """The newer one first."""
    middle = _second(span.start + span.length / 2)
    return Span(middle, span.end), Span(span.start, middle)


def asked(span: Span) -> Span:
    """What Amazon is asked for to have all of a span; the same for each page, as its token goes with it."""
    return Span(span.start - EDGE, span.end + EDGE)


def pause(age: timedelta, interval_seconds: float, reports: int) -> timedelta:
    """Until a report is looked after again: it grows with its age, and the reports of a job share a usage plan."""
    shared = timedelta(seconds=interval_seconds * reports)
    first = timedelta(seconds=interval_seconds * FIRST_LOOK)
    return max(age * OVERSHOOT, shared, first - age)


def remedy(trouble: Trouble, troubles: int, span: Span) -> Remedy:
    """What to do about a report in trouble; troubles: how often there was some with this window before."""
    if trouble is Trouble.REFUSED:
        return Remedy.SPLIT if span.length > NARROWEST_REPORT else Remedy.PAGE
    if trouble is Trouble.BROKEN:
        return BROKEN_DOCUMENT[troubles] if troubles < len(BROKEN_DOCUMENT) else Remedy.PAGE
    at_most = {Trouble.FATAL: 3, Trouble.CANCELLED: 1}.get(trouble, 0)
    return Remedy.ASK_AGAIN if troubles < at_most else Remedy.PAGE


def eta_seconds(windows: Sequence[Window], *, quota_wait_seconds: float | None) -> int | None:
    """Until all is stored; None where nothing is known of the seller yet. quota_wait_seconds: until the next page,
    where it waits for the usage plan.
    """
    unfinished = [window for window in windows if window.done_at is None]
    reports = [window for window in unfinished if window.kind is WindowKind.REPORT]
    paged = [window for window in unfinished if window.kind is WindowKind.PAGES]
    rate = _orders_a_second(windows)
    if not unfinished:
        return 0
    if paged and rate is None:
        return None
    pages = sum(
        max(1, math.ceil(round((rate or 0) * window.rest.length.total_seconds() / PAGE_SIZE, 6))) for window in paged
    )
    paging = pages * SECONDS_A_PAGE
    if quota_wait_seconds is not None:
        paging = quota_wait_seconds + max(0, pages - 1) / SEARCH_ORDERS.rate
    return math.ceil(round(max([paging, *_report_etas(windows, reports)]), 3))


def _report_etas(windows: Sequence[Window], reports: Sequence[Window]) -> list[float]:
    took = [
        (window.ready_at - window.asked_at).total_seconds()
        for window in windows
        if window.asked_at is not None and window.ready_at is not None
    ]
    usual = median(took) if took else REPORT_SECONDS
    etas = []
    to_ask = 0
    for window in reports:
        if window.asked_at is None or window.report_id is None:
            wait = (window.next_attempt_at - window.now).total_seconds()
            # Those that wait were told the same time, when one more can be asked for.
            etas.append(max(0.0, wait) + (to_ask / CREATE_REPORT.rate if wait > 0 else 0.0) + usual)
            to_ask += 1
        elif window.document_id is None:
            age = (window.now - window.asked_at).total_seconds()
            etas.append(max(usual - age, age * OVERSHOOT))
    return etas


def _orders_a_second(windows: Sequence[Window]) -> float | None:
    """Of what is read so far."""
    read = sum(
        (window.span.length - (window.rest.length if window.done_at is None else timedelta())).total_seconds()
        for window in windows
        if window.pages or window.done_at is not None
    )
    return sum(window.orders for window in windows) / read if read > 0 else None


def _between(span: Span, moment: datetime) -> datetime:
    return min(max(span.start, moment), span.end)


def _second(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)
