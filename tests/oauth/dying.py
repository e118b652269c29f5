"""oauth that kills itself in the middle of its work, as a process for test_kills.py:
python dying.py POINT HOW_MANY reconciling|requested

Whoever reaches the point stays there until so many have; the process says so and ends as by `kill -9`.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from msgspec import Struct

from oauth import app, lifecycle, queries, reconcile
from oauth.lifecycle import Parts
from shared.amazon import credentials, sellers
from shared.amazon.spapi import SpApi
from shared.outbox import Outbox
from shared.service import run
from shared.vault import Vault


class Point(Struct, frozen=True):
    """Just before a function begins, or just after it has returned."""

    owner: Any
    function: str
    after: bool = True


POINTS: Mapping[str, Point] = {
    # a callback, in the order of its work
    "before_the_state_is_spent": Point(queries, "spend_state", after=False),
    "after_the_state_is_spent": Point(queries, "spend_state"),
    "after_the_exchange": Point(SpApi, "exchange"),
    "before_the_vault_write": Point(Vault, "write", after=False),
    "after_the_vault_write": Point(Vault, "write"),
    "after_the_marketplaces": Point(sellers, "marketplace_ids"),
    "before_the_event": Point(Outbox, "add", after=False),
    "before_the_commit": Point(Outbox, "add"),
    "after_the_commit": Point(lifecycle, "_connect"),
    "before_the_page": Point(queries, "get_return_url"),
    # a disconnection
    "before_the_commit_of_the_end": Point(lifecycle, "end"),
    "after_the_commit_of_the_end": Point(lifecycle, "destroy_if_possible", after=False),
    "before_the_destroying": Point(credentials, "destroy_tenant", after=False),
    "after_the_destroying": Point(credentials, "destroy_tenant"),
    # the check of an authorization that was revoked
    "after_the_commit_of_the_revocation": Point(lifecycle, "_revoke"),
    # the reconciler, after the connection and before its states
    "before_the_lost_are_ended": Point(lifecycle, "end_lost_consents", after=False),
}


_reconciling = ContextVar("reconciling", default=False)


def die_at(name: str, how_many: int, *, reconciling: bool) -> None:
    """reconciling: it is the reconciler who dies; else a request, and the reconciler is only held up."""
    point = POINTS[name]
    real, real_run = getattr(point.owner, point.function), reconcile.run
    reached = 0

    async def die() -> None:
        nonlocal reached
        reached += _reconciling.get() is reconciling
        if reached == how_many:
            os.write(sys.stdout.fileno(), f"{reached} reached {name}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.Event().wait()

    async def dying(*arguments: Any, **named: Any) -> None:
        if point.after:
            await real(*arguments, **named)
        await die()

    async def run_reconciler(parts: Parts) -> None:
        _reconciling.set(True)  # for the tasks that it begins as well
        await real_run(parts)

    setattr(point.owner, point.function, dying)
    reconcile.run = run_reconciler


if __name__ == "__main__":
    die_at(sys.argv[1], int(sys.argv[2]), reconciling=sys.argv[3] == "reconciling")
    run(app.main)
