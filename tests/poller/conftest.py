"""poller as it runs, and the schedules and sources that its tests begin with."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from devstack.stack import Stack
from poller import handlers, queries
from poller.domain import Found, IncomingMessage, Lease
from poller.polling import Source
from poller.settings import PollerSettings
from shared.db import Pool
from shared.events import MessageSource
from tests.builders import connected, disconnected, new_id, settings_of, synced
from tests.conftest import OpenPool

TENANT = "kbz-001"
NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
async def pool(pool_of: OpenPool) -> Pool:
    return await pool_of("poller")


@pytest.fixture
def settings(stack: Stack) -> PollerSettings:
    return settings_of(PollerSettings, stack, "poller")


async def schedule(pool: Pool, tenant_id: str = TENANT, interval_seconds: int = 86_400) -> None:
    """The tenant is connected, and due at once; it is hardly so again while a test lasts."""
    async with pool.acquire() as conn, conn.transaction():
        await queries.upsert_schedule(conn, connected(tenant_id=tenant_id), interval_seconds)


async def disconnect(pool: Pool, tenant_id: str = TENANT) -> None:
    """The tenant's account is disconnected now."""
    async with pool.acquire() as conn, conn.transaction():
        await queries.disconnect(conn, disconnected(tenant_id=tenant_id), 300)


async def follow(pool: Pool, event_id: str = "", **changes: object) -> None:
    """tenant.synced arrives: of the default tenant, active, now, unless it is said."""
    await handlers.follow_tenant(synced(**changes), event_id or new_id("event"), pool=pool)


async def claim(pool: Pool) -> Lease:
    [lease] = await queries.claim_due(pool, 10, MINUTE)
    return lease


async def make_due(pool: Pool) -> None:
    """Nobody's any more, and due now: as if a lease had run out."""
    await pool.execute("UPDATE poll_schedules SET next_due = clock_timestamp(), leased_until = NULL")


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await holds():  # noqa: ASYNC110 - the database knows
            await asyncio.sleep(0.02)


async def returns(value: bool) -> bool:
    """For eventually(), what is known at once."""
    return value


async def equals(found: Awaitable[int], wanted: int) -> bool:
    return await found == wanted


def message(external_id: str = "m-1", **changes: object) -> IncomingMessage:
    made = IncomingMessage(
        external_id=external_id,
        external_order_id="407-8949262-6149120",
        buyer="buyer-1@marketplace.amazon.fr",
        subject="Where is it?",
        body="Hello, where is my order?",
        received_at=NOW,
        source=MessageSource.MOCK,
    )
    return msgspec.structs.replace(made, **changes)


def source_of(*messages: IncomingMessage) -> Source:
    async def fetch(_: Lease) -> Found:
        return Found(list(messages))

    return fetch
