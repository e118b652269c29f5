"""Events in."""

from shared import inbox
from shared.db import Pool
from shared.events import ConnectionConnected, ConnectionDisconnected, TenantSynced

from . import queries
from .settings import PollerSettings


async def start_polling(event: ConnectionConnected, event_id: str, *, pool: Pool, settings: PollerSettings) -> None:
    """A connected account is polled from now on."""
    async with pool.acquire() as conn, conn.transaction():
        if await inbox.claim(conn, "start_polling", event_id):
            await queries.upsert_schedule(conn, event, settings.poll_interval_seconds)


async def stop_polling(event: ConnectionDisconnected, event_id: str, *, pool: Pool, settings: PollerSettings) -> None:
    """A disconnected account is polled no more, and a poll in hand stores nothing."""
    async with pool.acquire() as conn, conn.transaction():
        if await inbox.claim(conn, "stop_polling", event_id):
            await queries.disconnect(conn, event, settings.poll_interval_seconds)


async def follow_tenant(event: TenantSynced, event_id: str, *, pool: Pool) -> None:
    """An archived tenant is polled no more, but for a poll in hand; one that comes back is due at once. Mail goes where
    its addresses say.
    """
    async with pool.acquire() as conn, conn.transaction():
        if not await inbox.claim(conn, "follow_tenant", event_id):
            return
        changed = await queries.upsert_tenant(conn, event)
        if changed is None:
            return
        await queries.replace_addresses(conn, event)
        if changed:
            await queries.make_due(conn, event.tenant_id)
