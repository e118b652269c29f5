"""What reports and messages do not tell of an order (customer, address, item ids, packages): asked for in the
background, the newest first, and at once where somebody looks at one.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from shared.amazon.errors import AmazonNotFoundError, BadRequestError
from shared.amazon.gate import Lane
from shared.amazon.orders import PAGE_SIZE, SEARCH_ORDERS, get_order, search_orders
from shared.errors import PermanentError, RetryLaterError
from shared.events import StoreCause
from shared.telemetry import log

from . import live, order_queries, queries, upkeep_queries
from .domain import Detail, Lacking, NewOrder, Task, Turn
from .mapping import from_amazon, tell_unknown_statuses
from .planning import EDGE
from .upkeep import Duty
from .windows import LEASE, Parts

AT_ONCE = 8
"""Accounts in one process."""
INTERVAL_SECONDS = 60
REST_SECONDS = 3600
"""Until the next look where nothing is lacking: what comes meanwhile wakes the task."""
STEPS_A_TURN = 30
CALLS_KEPT = 5
"""Of searchOrders' burst, for deltas and the next backfill."""
WORTH_A_PAGE = 10
"""Orders that lack details, below which single calls are as good as a page."""
YOUNGEST = timedelta(minutes=3)
"""Amazon's pages show nothing of the last two minutes."""
ASKED_AT_ONCE = 20
"""Orders that are looked at: one beyond that waits for the next look, or its turn."""
WAIT_SECONDS = 10.0


async def work(parts: Parts, turn: Turn) -> None:
    """Fill in what is lacking until nothing is, or the usage plans are used up."""
    paging = True
    for _ in range(STEPS_A_TURN):
        lacking = await _lacking(parts, turn.tenant_id)
        if not lacking:
            await upkeep_queries.finish(parts.pool, turn, REST_SECONDS)
            return
        if paging and len(lacking) >= WORTH_A_PAGE:
            left = await parts.api.left(turn.tenant_id, SEARCH_ORDERS)
            # A page that brought nothing of what is lacking brings nothing the next time.
            paging = left.calls > CALLS_KEPT and await _page(parts, turn, lacking)
        else:
            await _one(parts, turn, lacking[0])
    await upkeep_queries.finish(parts.pool, turn, REST_SECONDS, timedelta())


DUTY = Duty(Task.DETAILS, INTERVAL_SECONDS, work)


async def _lacking(parts: Parts, tenant_id: str) -> list[Lacking]:
    """What messages named before what reports told, each the newest first."""
    named = await order_queries.list_lacking_detail(parts.pool, tenant_id, Detail.PLACEHOLDER, limit=1)
    return named or await order_queries.list_lacking_detail(parts.pool, tenant_id, Detail.REPORT, limit=PAGE_SIZE)


async def _page(parts: Parts, turn: Turn, lacking: Sequence[Lacking]) -> bool:
    """A page of the orders of these days; whether it brought some of those that were lacking."""
    newest, oldest = lacking[0].order_date + EDGE, lacking[-1].order_date - EDGE
    before = min(newest, turn.now - YOUNGEST)
    if oldest >= before:
        return False
    page = await search_orders(parts.api, turn.tenant_id, oldest, before, lane=Lane.BACKFILL)
    orders = [from_amazon(order) for order in page.orders]
    await _store(parts, turn, orders)
    return not {order.external_order_id for order in orders}.isdisjoint(each.external_order_id for each in lacking)


async def _one(parts: Parts, turn: Turn, lacking: Lacking) -> None:
    order_id = lacking.external_order_id
    try:
        order = from_amazon(await get_order(parts.api, turn.tenant_id, order_id, lane=Lane.BACKFILL))
    except (AmazonNotFoundError, BadRequestError) as error:
        log.warning("order_unknown_to_amazon", tenant_id=turn.tenant_id, order_id=order_id, error=str(error))
        async with parts.pool.acquire() as conn, conn.transaction():
            await upkeep_queries.hold(conn, turn, LEASE)
            await order_queries.note_unknown(conn, turn.tenant_id, order_id)
        return
    await _store(parts, turn, [order])


async def _store(parts: Parts, turn: Turn, orders: Sequence[NewOrder]) -> None:
    """What a backfill had stored before is nothing new to anybody; what a message named is."""
    tell_unknown_statuses(turn.tenant_id, orders)
    async with parts.pool.acquire() as conn, conn.transaction():
        await upkeep_queries.hold(conn, turn, LEASE)
        named = await order_queries.list_placeholders(conn, turn.tenant_id, [each.external_order_id for each in orders])
        await live.store(
            conn,
            parts.outbox,
            turn.tenant_id,
            [each for each in orders if each.external_order_id in named],
            StoreCause.MESSAGE,
        )
        await order_queries.upsert_orders(
            conn, turn.tenant_id, [each for each in orders if each.external_order_id not in named]
        )


class Looks:
    """Orders that somebody looks at and that lack details: asked for while the answer is on its way already. What is
    lost with the process is asked for with the next look, or in its turn.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._asking: dict[tuple[str, str], asyncio.Task[None]] = {}

    def ask(self, tenant_id: str, external_order_id: str) -> None:
        key = (tenant_id, external_order_id)
        if key not in self._asking and len(self._asking) < ASKED_AT_ONCE:
            self._asking[key] = asyncio.create_task(self._fetch(*key))
            self._asking[key].add_done_callback(lambda _: self._asking.pop(key))

    async def settled(self) -> None:
        """Return when all that was asked for has come, or failed."""
        await asyncio.gather(*self._asking.values())

    async def _fetch(self, tenant_id: str, external_order_id: str) -> None:
        parts = self._parts
        try:
            connected = await queries.get_connection(parts.pool, tenant_id) is not None
            if not (connected and await order_queries.is_lacking_detail(parts.pool, tenant_id, external_order_id)):
                return
            order = from_amazon(
                await get_order(parts.api, tenant_id, external_order_id, lane=Lane.LIVE, wait_seconds=WAIT_SECONDS)
            )
            tell_unknown_statuses(tenant_id, [order])
            async with parts.pool.acquire() as conn, conn.transaction():
                if await queries.lock_connection(conn, tenant_id):
                    await live.store(conn, parts.outbox, tenant_id, [order], StoreCause.REQUEST)
        except AmazonNotFoundError:
            async with parts.pool.acquire() as conn, conn.transaction():
                await order_queries.note_unknown(conn, tenant_id, external_order_id)
        except (PermanentError, RetryLaterError) as error:
            log.warning("order_details_not_fetched", tenant_id=tenant_id, code=error.code, error=str(error))
        except Exception as error:  # noqa: BLE001 - nobody waits for it, and it is asked for again
            log.error("order_details_not_fetched", tenant_id=tenant_id, code="unexpected", error=type(error).__name__)
