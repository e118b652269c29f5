"""One poll of one tenant: ask the source, then store what is new, open tickets, announce and go to the next slot in
one transaction. The loop takes what is due; replicas share the work through the leases.
"""

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from prometheus_client import Counter, Histogram

from shared.amazon.errors import CREDENTIALS_REFUSED
from shared.db import Pool
from shared.errors import PermanentError, RetryLaterError
from shared.events import ConnectionRejected
from shared.outbox import Outbox
from shared.telemetry import log

from . import queries, ticket_queries, tickets
from .domain import Found, Incoming, Lease, NotScheduledError, Polled, PollRunningError

LEASE = timedelta(seconds=10)
"""How long a tenant rests when its poller is killed; a living one renews it three times as often."""
AT_ONCE = 50
"""Polls in hand: most of their time they wait for a source."""
IDLE_SECONDS = 0.2
LATENESS = Histogram(
    "poll_lateness_seconds",
    "From the time a tenant was due to the beginning of its poll",
    buckets=(0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300),
)
FAILED = Counter("polls_failed_total", "Polls that failed, by the error's code", ["code"])

Source = Callable[[Lease], Awaitable[Found]]


async def nothing(_: Lease) -> Found:
    """The source where there is none to ask: mail comes by itself."""
    return Found([])


async def run(pool: Pool, outbox: Outbox, source: Source) -> None:
    """Poll what is due, for as long as the service runs."""
    while True:
        await poll_due(pool, outbox, source)
        await asyncio.sleep(IDLE_SECONDS)


async def poll_due(pool: Pool, outbox: Outbox, source: Source, due_by: datetime | None = None) -> int:
    """Poll until nothing is due (by that time) and nothing is in hand; how many polls that were. A slow one takes one
    place and holds up nobody. An error that could not even be noted rises, and the other polls are given up.
    """
    polls: set[asyncio.Task[Polled | Exception]] = set()
    begun = 0
    try:
        while True:
            leases = await queries.claim_due(pool, AT_ONCE - len(polls), LEASE, due_by)
            begun += len(leases)
            for lease in leases:
                LATENESS.observe(lease.late_seconds)
                polls.add(asyncio.create_task(_poll_or_note(pool, outbox, source, lease)))
            if not polls:
                return begun
            if len(polls) < AT_ONCE:
                done, polls = await asyncio.wait(polls, timeout=IDLE_SECONDS)
            else:
                done, polls = await asyncio.wait(polls, return_when=asyncio.FIRST_COMPLETED)
            for poll in done:
                poll.result()
    finally:
        for poll in polls:
            poll.cancel()
        await asyncio.gather(*polls, return_exceptions=True)


async def poll_now(pool: Pool, outbox: Outbox, source: Source, tenant_id: str) -> Polled:
    """Poll one tenant at once. NotScheduledError, PollRunningError, or what the source raises."""
    lease = await queries.claim_schedule(pool, tenant_id, LEASE)
    if lease is not None:
        polled = await _poll_or_note(pool, outbox, source, lease)
        if isinstance(polled, Exception):
            raise polled
        return polled
    if await queries.is_archived(pool, tenant_id):
        raise NotScheduledError("The tenant is archived: it is polled again once the product activates it.")
    schedules = await queries.list_schedules(pool, tenant_id)
    if any(schedule.disconnected_at for schedule in schedules):
        raise NotScheduledError("The tenant is not polled: its Amazon account is disconnected. Connect it again.")
    if schedules:
        raise PollRunningError("The tenant is being polled at this moment.", delay_seconds=2)
    raise NotScheduledError("The tenant is not polled: its Amazon account has to be connected first.")


async def _poll_or_note(pool: Pool, outbox: Outbox, source: Source, lease: Lease) -> Polled | Exception:
    """What the poll brought, or its error, which is noted with the schedule then. The lease is given back, also by a
    poll that is cancelled.
    """
    try:
        return await _poll(pool, outbox, source, lease)
    except asyncio.CancelledError:
        await queries.release_lease(pool, lease)
        raise
    except Exception as error:  # noqa: BLE001 - the guard of every poll: one tenant's must not stop the others'
        await _note(pool, outbox, lease, error)
        return error


async def _note(pool: Pool, outbox: Outbox, lease: Lease, error: Exception) -> None:
    """Credentials that are refused are told, once until they work again: what follows is oauth's to say."""
    if isinstance(error, (PermanentError, RetryLaterError)):
        code, said = error.code, str(error)
        log.warning("poll_failed", tenant_id=lease.tenant_id, code=code, error=said)
    else:  # what it says may be a buyer's words
        code, said = "unexpected", f"The poll failed as nobody expected ({type(error).__name__}): the log says where."
        where = traceback.format_tb(error.__traceback__)
        log.error("poll_failed", tenant_id=lease.tenant_id, code=code, error=type(error).__name__, where=where)
    FAILED.labels(code).inc()
    async with pool.acquire() as conn, conn.transaction():
        failed = await queries.fail_poll(conn, lease, said, rejected=isinstance(error, CREDENTIALS_REFUSED))
        if failed is not None and failed.newly_rejected:
            rejected = ConnectionRejected(
                tenant_id=lease.tenant_id, connection_id=failed.connection_id, error=code, at=failed.at
            )
            await outbox.add(conn, rejected)


async def _poll(pool: Pool, outbox: Outbox, source: Source, lease: Lease) -> Polled:
    log.info("poll_starting", tenant_id=lease.tenant_id)
    found = await _fetch(pool, source, lease)
    messages = found.messages
    log.info("poll_fetched", tenant_id=lease.tenant_id, messages=len(messages))
    external_ids = [message.external_id for message in messages]
    known = await ticket_queries.list_known(pool, lease.tenant_id, lease.marketplace, external_ids) if messages else ()
    new = [each for each in messages if each.external_id not in known]
    stored = await _store(pool, outbox, lease, Found(new, found.cursor))
    log.info("poll_completed", tenant_id=lease.tenant_id, stored=stored)
    return Polled(len(messages), stored)


async def _fetch(pool: Pool, source: Source, lease: Lease) -> Found:
    """What the source has; the lease is renewed for as long as that takes."""
    fetching = asyncio.ensure_future(source(lease))
    try:
        while not (await asyncio.wait([fetching], timeout=LEASE.total_seconds() / 3))[0]:
            if not await queries.renew_lease(pool, lease, LEASE):
                raise _overtaken()
        return fetching.result()
    finally:
        fetching.cancel()


async def _store(pool: Pool, outbox: Outbox, lease: Lease, found: Found) -> int:
    if not found.messages and found.cursor is None:  # mostly so: a statement by itself is a transaction
        if not await queries.finish_poll(pool, lease):
            raise _overtaken()
        return 0
    async with pool.acquire() as conn, conn.transaction():
        # The schedule's row first: who has lost the lease must not write messages either.
        if not await queries.finish_poll(conn, lease):
            raise _overtaken()
        if found.cursor is not None:
            await queries.set_cursor(conn, lease, found.cursor)
        messages = sorted(found.messages, key=lambda message: (message.received_at, message.external_id))
        incoming = [Incoming(lease.tenant_id, lease.marketplace, message) for message in messages]
        return sum(await tickets.take_all(conn, outbox, incoming))


def _overtaken() -> PollRunningError:
    return PollRunningError(
        "The poll was overtaken: it took too long, or the account changed or was archived meanwhile."
    )
