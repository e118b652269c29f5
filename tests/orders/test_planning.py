"""How a backfill decides, without Amazon or a database."""

import itertools
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orders import planning
from orders.planning import EDGE, Remedy, Span, Stage, Trouble, Window, WindowKind

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
NINETY = Span(NOW - 90 * DAY, NOW)

spans = st.integers(1, 730 * 86_400).map(lambda seconds: Span(NOW - timedelta(seconds=seconds), NOW))


def window(**changes: object) -> Window:
    fields: dict[str, object] = {
        "id": uuid4(),
        "kind": WindowKind.PAGES,
        "span": NINETY,
        "rest": NINETY,
        "next_token": None,
        "token_is_stale": False,
        "pages_only": False,
        "report_id": None,
        "asked_at": None,
        "document_id": None,
        "ready_at": None,
        "troubles": 0,
        "orders": 0,
        "items": 0,
        "pages": 0,
        "next_attempt_at": NOW,
        "done_at": None,
        "now": NOW,
    }
    return Window(**(fields | changes))  # type: ignore[arg-type] # fields by name


def report(stage: Stage, **changes: object) -> Window:
    known: dict[str, object] = {"kind": WindowKind.REPORT}
    if stage is not Stage.ASK:
        known |= {"report_id": "1", "asked_at": NOW - timedelta(seconds=60)}
    if stage is Stage.FETCH:
        known |= {"document_id": "1", "ready_at": NOW}
    return window(**(known | changes))


@given(span=spans)
def test_reports_cover_the_span_without_gap_or_overlap_the_newest_first(span: Span) -> None:
    found = planning.report_spans(span)
    assert (found[0].end, found[-1].start) == (span.end, span.start)
    assert all(newer.start == older.end for newer, older in itertools.pairwise(found))
    assert all(EDGE <= part.length <= planning.LONGEST_REPORT + EDGE for part in found)
    assert all(planning.asked(part).end - planning.asked(part).start <= timedelta(days=30) + EDGE for part in found)
    assert len(found) <= -(-span.length // planning.LONGEST_REPORT)


@pytest.mark.parametrize(("days", "reports"), [(1, 1), (29, 1), (31, 2), (89, 3), (730, 25)])
def test_reports_are_as_few_as_may_be(days: int, reports: int) -> None:
    assert len(planning.report_spans(Span(NOW - days * DAY, NOW))) == reports


@given(span=spans.filter(lambda span: span.length >= 2 * EDGE))
def test_halves_are_the_whole(span: Span) -> None:
    newer, older = planning.halves(span)
    assert (older.start, older.end, newer.end) == (span.start, newer.start, span.end)
    assert abs(newer.length - older.length) <= 2 * EDGE


@given(
    offsets=st.lists(st.floats(0, 90 * 86_400 - 1), min_size=1, max_size=100),
    direction=st.sampled_from(["up", "down", "mixed"]),
)
def test_nothing_that_a_page_did_not_reach_is_left_out_of_the_rest(offsets: list[float], direction: str) -> None:
    dates = [NINETY.start + timedelta(seconds=offset) for offset in offsets]
    if direction != "mixed":
        dates.sort(reverse=direction == "down")
    rest = planning.rest_after(NINETY, dates)
    asked = planning.asked(rest)
    assert NINETY.start <= rest.start <= rest.end <= NINETY.end
    ordered, backwards = dates == sorted(dates), dates == sorted(dates, reverse=True)
    if ordered and not backwards:
        assert rest.end == NINETY.end
        assert asked.start <= dates[-1] < rest.start, "the second in which the page ended is asked for again"
        assert planning.covered(NINETY, rest) == Span(NINETY.start, rest.start)
    elif backwards and not ordered:
        assert rest.start == NINETY.start
        assert rest.end <= dates[-1] <= asked.end
        assert planning.covered(NINETY, rest) == Span(rest.end, NINETY.end)
    else:
        assert rest == NINETY


def test_a_page_without_orders_covers_nothing() -> None:
    assert planning.rest_after(NINETY, []) == NINETY


@pytest.mark.parametrize(
    ("orders_a_day", "left", "fits"),
    [
        (2_000 / 90, 19, True),
        (2_500 / 90, 19, True),  # within what a page can tell
        (3_000 / 90, 19, False),
        (100_000 / 90, 19, False),
        (2_000 / 90, 10, False),
        (500 / 90, 4, True),
        (500 / 90, 0, False),
    ],
)
def test_a_seller_is_paged_while_the_rest_fits_the_calls_that_are_left(
    orders_a_day: float, left: int, fits: bool
) -> None:
    rest = Span(NINETY.start + 100 / orders_a_day * DAY, NOW)
    assert planning.fits(window(), rest, left) is fits


@given(left=st.integers(0, 20), days=st.floats(0.01, 80))
def test_one_call_more_never_makes_a_seller_fit_less(left: int, days: float) -> None:
    rest = Span(NINETY.start + days * DAY, NOW)
    assert planning.fits(window(), rest, left) <= planning.fits(window(), rest, left + 1)


def test_a_seller_that_has_grown_is_judged_by_its_latest_page() -> None:
    quiet = window(rest=Span(NOW - 30 * DAY, NOW), pages=3)
    assert not planning.fits(quiet, Span(NOW - 29 * DAY, NOW), 17)
    assert planning.fits(quiet, Span(NOW - 27 * DAY, NOW), 17)


def test_pages_in_no_order_tell_no_rate_and_go_on_while_calls_are_left() -> None:
    assert planning.fits(window(), NINETY, 1)
    assert not planning.fits(window(), NINETY, 0)


@given(age=st.timedeltas(timedelta(), DAY), reports=st.integers(1, 30))
def test_the_pause_grows_with_the_age_and_keeps_all_reports_within_the_plan(age: timedelta, reports: int) -> None:
    pause, shared = planning.pause(age, 0.5, reports), timedelta(seconds=0.5 * reports)
    assert pause >= shared
    assert age + pause >= timedelta(seconds=5), "Amazon needs some seconds at least"
    assert pause <= max(0.02 * age, shared, timedelta(seconds=5))


@pytest.mark.parametrize("trouble", list(Trouble))
def test_every_trouble_ends_in_pages(trouble: Trouble) -> None:
    remedies = [planning.remedy(trouble, number, Span(NOW - DAY, NOW)) for number in range(20)]
    assert remedies[-1] is Remedy.PAGE
    first = remedies.index(Remedy.PAGE)
    assert set(remedies[first:]) == {Remedy.PAGE}
    assert remedies[:first].count(Remedy.ASK_AGAIN) == {"FATAL": 3, "CANCELLED": 1, "BROKEN": 1}.get(trouble, 0)


def test_a_refused_report_is_split_until_it_is_narrow() -> None:
    span, splits = Span(NOW - 30 * DAY, NOW), 0
    while planning.remedy(Trouble.REFUSED, 0, span) is Remedy.SPLIT:
        span, splits = planning.halves(span)[0], splits + 1
    assert (planning.remedy(Trouble.REFUSED, 0, span), splits) == (Remedy.PAGE, 3)


def test_a_document_is_fetched_again_over_minutes() -> None:
    assert sum((planning.again_after(number) for number in range(5)), timedelta()) > timedelta(minutes=5)
    assert planning.again_after(8) == planning.again_after(4)


def test_amazon_is_set_to_work_first_and_the_newest_comes_first() -> None:
    older = Span(NOW - 180 * DAY, NOW - 90 * DAY)
    page, look, fetch = window(), report(Stage.LOOK), report(Stage.FETCH)
    ask, ask_older = report(Stage.ASK), report(Stage.ASK, span=older)
    waiting = {"next_attempt_at": NOW + EDGE}
    everything = [ask_older, page, look, fetch, ask]
    expected = [ask, ask_older, fetch, look, page]
    for wanted in expected:
        assert planning.next_window(everything) is wanted
        everything[everything.index(wanted)] = replace(wanted, **waiting)
    assert planning.next_window(everything) is None
    assert planning.next_window([replace(page, done_at=NOW)]) is None


def test_the_eta_of_pages_follows_from_what_is_read() -> None:
    assert planning.eta_seconds([window()], quota_wait_seconds=None) is None
    half = window(rest=Span(NOW - 45 * DAY, NOW), orders=1_000, pages=10)
    assert planning.eta_seconds([half], quota_wait_seconds=None) == 10
    assert planning.eta_seconds([half], quota_wait_seconds=100) == 100 + 9 / 0.0056 // 1 + 1
    assert planning.eta_seconds([replace(half, done_at=NOW)], quota_wait_seconds=None) == 0


def test_the_eta_of_reports_follows_from_those_that_are_done() -> None:
    look, fetch = report(Stage.LOOK), report(Stage.FETCH, asked_at=NOW - timedelta(seconds=300))
    assert planning.eta_seconds([look], quota_wait_seconds=None) == 60, "120 s where none is done"
    assert planning.eta_seconds([look, fetch], quota_wait_seconds=None) == 300 - 60
    late = replace(look, asked_at=NOW - timedelta(seconds=1_000))
    assert planning.eta_seconds([late, fetch], quota_wait_seconds=None) == 20, "any moment now"
    waiting = [report(Stage.ASK, next_attempt_at=NOW + timedelta(seconds=30)) for _ in range(3)]
    eta = planning.eta_seconds([fetch, *waiting], quota_wait_seconds=30)
    assert eta == pytest.approx(30 + 2 * 60 + 300, abs=1)
