"""orders that kills itself in the middle of its work, as a process for test_kills.py: python dying.py POINT TIMES

Whoever reaches the point so many times says so and ends as by `kill -9`; the point "never" is none.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from orders import (
    app,
    audit_queries,
    backfill,
    delta,
    details,
    job_queries,
    live,
    order_queries,
    planning,
    upkeep,
    upkeep_queries,
    windows,
    worker,
)
from orders.domain import Task
from shared.amazon import reports
from shared.service import run


class Point(Struct, frozen=True):
    """Just before a function begins, or just after it has returned something; loses: an answer of Amazon's with it."""

    owner: Any
    function: str
    after: bool = True
    loses: bool = False


POINTS: Mapping[str, Point] = {
    "after_the_claim": Point(worker, "work", after=False),
    "after_a_page_has_come": Point(windows, "search_orders"),
    "before_the_orders_are_stored": Point(order_queries, "upsert_orders", after=False),
    "before_the_commit_of_orders": Point(job_queries, "advance_window"),
    "before_the_commit_of_the_switch_to_reports": Point(job_queries, "insert_windows"),
    "after_the_commit_of_a_page": Point(windows, "_page"),
    "after_a_report_was_asked_for": Point(reports, "create_report"),
    "after_the_commit_of_a_report": Point(windows, "_ask"),
    "after_a_look": Point(reports, "get_report"),
    "before_the_commit_of_a_document": Point(job_queries, "note_document"),
    "after_the_address_of_a_document": Point(reports, "get_report_document"),
    "before_a_document_is_done": Point(job_queries, "finish_window", after=False),
    "after_a_document_is_done": Point(windows, "_fetch"),
    "before_the_job_is_given_back": Point(job_queries, "give_back"),
    "before_the_commit_of_the_end": Point(backfill, "complete"),
}

UPKEEP_POINTS: Mapping[Task, Mapping[str, Point]] = {
    Task.DELTA: {
        "before_changes_are_told": Point(order_queries, "upsert_orders", loses=True),
        "after_a_page_of_changes_has_come": Point(delta, "search_changed_orders", loses=True),
        "before_the_next_page_of_changes": Point(delta, "search_changed_orders", after=False),
        "before_the_commit_of_changes": Point(upkeep_queries, "note_page", loses=True),
        "before_the_commit_of_the_cursor": Point(upkeep_queries, "move_cursor", loses=True),
        "after_the_commit_of_the_cursor": Point(delta, "_round"),
    },
    Task.DETAILS: {
        "before_an_order_is_told": Point(order_queries, "upsert_orders", loses=True),
        "after_an_order_has_come": Point(details, "get_order", loses=True),
        "before_the_commit_of_an_order": Point(live, "store", loses=True),
        "after_a_page_of_details_has_come": Point(details, "search_orders", loses=True),
        "before_the_commit_of_an_unknown_order": Point(order_queries, "note_unknown", loses=True),
        "before_the_end_of_the_turn": Point(upkeep_queries, "finish", after=False),
    },
    Task.AUDIT: {
        "before_the_commit_of_the_audits_windows": Point(job_queries, "insert_windows"),
        "after_the_audits_report_was_asked_for": Point(reports, "create_report", loses=True),
        "before_what_was_missing_is_counted": Point(audit_queries, "count_found", after=False, loses=True),
        "after_a_look_at_the_audits_report": Point(reports, "get_report"),
        "after_the_days_are_counted": Point(audit_queries, "count_checked", loses=True),
        "before_what_is_unlisted_is_counted": Point(audit_queries, "count_unlisted", after=False, loses=True),
        "before_the_commit_of_the_audits_end": Point(audit_queries, "end_audit"),
    },
}
"""In the order in which a task comes to them, so that one process after the other can die of the next one."""
TWICE = ("before_the_commit_of_an_order", "before_the_next_page_of_changes")
"""At the second time: the first time nothing is committed yet."""


def die_at(name: str, times: int) -> None:
    point = {each: found for points in (POINTS, *UPKEEP_POINTS.values()) for each, found in points.items()}[name]
    real = getattr(point.owner, point.function)
    reached = 0

    async def dying(*arguments: Any, **named: Any) -> Any:
        nonlocal reached
        result = await real(*arguments, **named) if point.after else None
        reached += 1
        if reached == times:
            os.write(sys.stdout.fileno(), f"reached {name}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)
            await asyncio.Event().wait()
        return result if point.after else await real(*arguments, **named)

    setattr(point.owner, point.function, dying)


if __name__ == "__main__":
    planning.FIRST_LOOK = 0
    worker.SHORT_SECONDS = 0.1
    worker.IDLE_SECONDS = upkeep.IDLE_SECONDS = 0.05
    if sys.argv[1] != "never":
        die_at(sys.argv[1], int(sys.argv[2]))
    run(app.main)
