"""Events in."""

import contextlib
from datetime import timedelta

from shared import inbox
from shared.amazon import orders as amazon
from shared.amazon.errors import CREDENTIALS_REFUSED, AmazonNotFoundError
from shared.amazon.spapi import SpApi
from shared.db import Pool
from shared.errors import RetryLaterError
from shared.events import (
    ConnectionConnected,
    ConnectionDisconnected,
    MessageReceived,
    StoreCause,
    TenantSynced,
)
from shared.outbox import Outbox

from . import backfill, live, order_queries, queries, upkeep_queries
from .domain import AccountDisconnectedError, Detail, Task, TenantArchivedError, TenantNotConnectedError, placeholder
from .mapping import from_amazon, tell_unknown_statuses
from .settings import OrdersSettings

QUOTA_WAIT_SECONDS = 10
"""What a message's order waits for its turn at once; beyond that its event comes again later."""
FRESH = timedelta(minutes=10)
"""An order that Amazon told of so lately is not asked for again for a message's sake."""


async def start_backfill(
    event: ConnectionConnected, event_id: str, *, pool: Pool, outbox: Outbox, settings: OrdersSettings
) -> None:
    """A new connection gets its past orders, one made anew the rest of them, and both what changes from now on; an
    archived tenant's is only kept.
    """
    async with pool.acquire() as conn, conn.transaction():
        if await inbox.claim(conn, "start_backfill", event_id) and await queries.upsert_connection(conn, event):
            await upkeep_queries.upsert_upkeep(conn, event.tenant_id, event.seller_id, settings.delta_interval_seconds)
            with contextlib.suppress(TenantArchivedError):
                await backfill.resume_or_request(conn, outbox, event.tenant_id, event.seller_id, settings.backfill_days)


async def stop_backfill(event: ConnectionDisconnected, event_id: str, *, pool: Pool, outbox: Outbox) -> None:
    """A disconnected account's backfill is called off; it goes on when the account is connected anew."""
    async with pool.acquire() as conn, conn.transaction():
        if await inbox.claim(conn, "stop_backfill", event_id) and await queries.disconnect(conn, event):
            ended = AccountDisconnectedError("The account was disconnected before its backfill was complete.")
            await backfill.end(conn, outbox, event.tenant_id, ended)


async def follow_tenant(event: TenantSynced, event_id: str, *, pool: Pool, outbox: Outbox) -> None:
    """An archived tenant's backfill is called off; one that comes back may ask for another."""
    async with pool.acquire() as conn, conn.transaction():
        if not await inbox.claim(conn, "follow_tenant", event_id):
            return
        if await queries.upsert_tenant(conn, event) and event.archived:
            ended = TenantArchivedError("The tenant was archived before its backfill was complete.")
            await backfill.end(conn, outbox, event.tenant_id, ended)


async def fetch_missing_order(event: MessageReceived, event_id: str, *, pool: Pool, outbox: Outbox, api: SpApi) -> None:
    """The order that a message is about must be there, as it is now, when an agent opens the ticket; by its id alone
    where Amazon cannot tell at once. TenantNotConnectedError, or what Amazon answers.
    """
    order_id = event.external_order_id
    if order_id is None:
        return
    account = await queries.get_connection(pool, event.tenant_id)
    if account is None:
        raise TenantNotConnectedError(f"The tenant {event.tenant_id} has no connected account to ask for the order.")
    if await order_queries.is_fresh(pool, event.tenant_id, order_id, FRESH):
        return
    try:
        order = from_amazon(
            await amazon.get_order(
                api,
                event.tenant_id,
                order_id,
                wait_seconds=QUOTA_WAIT_SECONDS,
                connected_at=account.connected_at,
            )
        )
    except CREDENTIALS_REFUSED as error:
        async with pool.acquire() as conn, conn.transaction():
            if await inbox.claim(conn, "reject_connection", event_id):
                await backfill.reject(conn, outbox, event.tenant_id, error)
        raise
    except AmazonNotFoundError:
        async with pool.acquire() as conn, conn.transaction():
            known = await order_queries.note_unknown(conn, event.tenant_id, order_id)
        if known in {None, Detail.PLACEHOLDER}:
            raise
        return
    except RetryLaterError:
        named = placeholder(order_id, event.received_at)
        async with pool.acquire() as conn, conn.transaction():
            await upkeep_queries.wake(conn, event.tenant_id, Task.DETAILS)  # before the orders, as its turns do
            await live.store(conn, outbox, event.tenant_id, [named], StoreCause.MESSAGE)
        raise
    tell_unknown_statuses(event.tenant_id, [order])
    async with pool.acquire() as conn, conn.transaction():
        if await inbox.claim(conn, "fetch_missing_order", event_id) and not await live.store(
            conn, outbox, event.tenant_id, [order], StoreCause.MESSAGE
        ):
            await order_queries.note_fetched(conn, event.tenant_id, order_id)
