"""What changed at Amazon since the last time, page by page: a copy of orders stays as true as it was made."""

from datetime import datetime, timedelta

from shared.amazon.errors import BadRequestError
from shared.amazon.gate import Lane
from shared.amazon.orders import SEARCH_ORDERS, search_changed_orders
from shared.events import StoreCause
from shared.telemetry import log

from . import live, upkeep_queries
from .domain import Task, Turn
from .mapping import from_amazon, tell_unknown_statuses
from .upkeep import Duty
from .windows import LEASE, Parts

AT_ONCE = 20
"""Accounts in one process: most of their time they wait for Amazon."""
OVERLAP = timedelta(minutes=5)
"""What is read again of the round before: clocks differ, and a change may be found later than it was made."""
LONGEST_ROUND = timedelta(days=1)
"""An account that was away for longer catches up day by day, each well within the life of a page token."""
WAIT_SECONDS = 1.1 / SEARCH_ORDERS.rate
"""Books a place before it waits, so that a backfill's pages cannot keep it waiting for ever."""


def duty(interval_seconds: int) -> Duty:
    async def work(parts: Parts, turn: Turn) -> None:
        await _round(parts, turn, interval_seconds)

    return Duty(Task.DELTA, interval_seconds, work)


async def _round(parts: Parts, turn: Turn, interval_seconds: int) -> None:
    """Store every page of what changed since the cursor; each with the place where the next one begins."""
    token = None if turn.token_is_stale else turn.next_token
    # None is up to now, by Amazon's clock: no difference between ours and theirs can leave a gap or be refused.
    read_to = turn.read_to if token else _ends_at(turn)
    changed = pages = 0
    while True:
        try:
            page = await search_changed_orders(
                *(parts.api, turn.tenant_id, turn.cursor_at - OVERLAP, read_to, token),
                lane=Lane.LIVE,
                wait_seconds=WAIT_SECONDS,
            )
        except BadRequestError as error:
            if token is None:
                raise
            log.warning("delta_page_token_refused", tenant_id=turn.tenant_id, error=str(error))
            token, read_to = None, _ends_at(turn)
            continue
        orders = [from_amazon(order) for order in page.orders]
        tell_unknown_statuses(turn.tenant_id, orders)
        async with parts.pool.acquire() as conn, conn.transaction():
            await upkeep_queries.hold(conn, turn, LEASE)
            changed += len(await live.store(conn, parts.outbox, turn.tenant_id, orders, StoreCause.DELTA))
            pages += 1
            if page.next_token is None:
                await upkeep_queries.move_cursor(conn, turn, read_to or page.last_updated_before or turn.cursor_at)
                is_behind = read_to is not None or turn.next_token is not None
                await upkeep_queries.finish(conn, turn, interval_seconds, timedelta() if is_behind else None)
            else:
                await upkeep_queries.note_page(conn, turn, read_to, page.next_token)
        token = page.next_token
        if token is None:
            log.info("delta_stored", tenant_id=turn.tenant_id, changed=changed, pages=pages)
            return


def _ends_at(turn: Turn) -> datetime | None:
    return turn.cursor_at + LONGEST_ROUND if turn.now - turn.cursor_at > LONGEST_ROUND else None
