"""Events in."""

from shared import inbox
from shared.db import Pool
from shared.events import ConnectionConnected

from . import queries
from .settings import PollerSettings


async def start_polling(event: ConnectionConnected, event_id: str, *, pool: Pool, settings: PollerSettings) -> None:
    """A connected account is polled from now on."""
    async with pool.acquire() as conn, conn.transaction():
        if await inbox.claim(conn, "start_polling", event_id):
            await queries.upsert_schedule(conn, event, settings.poll_interval_seconds)
