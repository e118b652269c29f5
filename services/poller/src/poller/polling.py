"""One poll of one tenant: ask the source, then store what is new, open tickets, announce and go to the next slot in
one transaction. The loop takes what is due; replicas share the work through the leases.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

from shared.amazon.errors import CREDENTIALS_REFUSED
from shared.db import Pool
from shared.errors import PermanentError, RetryLaterError
from shared.events import ConnectionRejected
from shared.outbox import Outbox
from shared.telemetry import log

from . import queries, tickets
from .domain import Found, Lease, NotScheduledError, Polled, PollRunningError

LEASE = timedelta(seconds=30)
AT_ONCE = 20
IDLE_SECONDS = 0.2

Source = Callable[[Lease], Awaitable[Found]]


async def nothing(_: Lease) -> Found:
    """The source where there is none to ask: mail comes by itself."""
    return Found([])


async def run(pool: Pool, outbox: Outbox, source: Source) -> None:
    """Poll what is due, for as long as the service runs."""
    while True:
        if not await poll_due(pool, outbox, source):
            await asyncio.sleep(IDLE_SECONDS)


async def poll_due(pool: Pool, outbox: Outbox, source: Source) -> int:
    """Poll a round of what is due now; how many that were. What nobody expected rises when the round is over."""
    leases = await queries.claim_due(pool, AT_ONCE, LEASE)
    polls = await asyncio.gather(
        *(_poll_or_note(pool, outbox, source, lease) for lease in leases), return_exceptions=True
    )
    for poll in polls:
        if isinstance(poll, BaseException) and not isinstance(poll, (PermanentError, RetryLaterError)):
            raise poll
    return len(leases)


async def poll_now(pool: Pool, outbox: Outbox, source: Source, tenant_id: str) -> Polled:
    """Poll one tenant at once. NotScheduledError, PollRunningError, or what the source raises."""
    lease = await queries.claim_schedule(pool, tenant_id, LEASE)
    if lease is not None:
        return await _poll_or_note(pool, outbox, source, lease)
    if await queries.is_archived(pool, tenant_id):
        raise NotScheduledError("The tenant is archived: it is polled again once the product activates it.")
    schedules = await queries.list_schedules(pool, tenant_id)
    if any(schedule.disconnected_at for schedule in schedules):
        raise NotScheduledError("The tenant is not polled: its Amazon account is disconnected. Connect it again.")
    if schedules:
        raise PollRunningError("The tenant is being polled at this moment.", delay_seconds=2)
    raise NotScheduledError("The tenant is not polled: its Amazon account has to be connected first.")


async def _poll_or_note(pool: Pool, outbox: Outbox, source: Source, lease: Lease) -> Polled:
    """An error that has a name is noted with the schedule, which is given back, and rises; oauth is told of
    credentials that were refused.
    """
    try:
        return await _poll(pool, outbox, source, lease)
    except (PermanentError, RetryLaterError) as error:
        log.warning("poll_failed", tenant_id=lease.tenant_id, code=error.code, error=str(error))
        async with pool.acquire() as conn, conn.transaction():
            failed = await queries.fail_poll(conn, lease, str(error))
            if failed is not None and isinstance(error, CREDENTIALS_REFUSED):
                connection_id, at = failed
                rejected = ConnectionRejected(
                    tenant_id=lease.tenant_id, connection_id=connection_id, error=error.code, at=at
                )
                await outbox.add(conn, rejected)
        raise


async def _poll(pool: Pool, outbox: Outbox, source: Source, lease: Lease) -> Polled:
    log.info("poll_starting", tenant_id=lease.tenant_id)
    found = await _fetch(pool, source, lease)
    messages = found.messages
    log.info("poll_fetched", tenant_id=lease.tenant_id, messages=len(messages))
    stored = 0
    async with pool.acquire() as conn, conn.transaction():
        # The schedule's row first: who has lost the lease must not write messages either.
        if not await queries.finish_poll(conn, lease):
            raise _overtaken()
        if found.cursor is not None:
            await queries.set_cursor(conn, lease, found.cursor)
        for message in sorted(messages, key=lambda message: (message.received_at, message.external_id)):
            stored += await tickets.take(conn, outbox, lease.tenant_id, lease.marketplace, message)
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


def _overtaken() -> PollRunningError:
    return PollRunningError("The poll was overtaken: it took too long, or the account changed meanwhile.")
