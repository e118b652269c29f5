"""Each event takes effect once per handler, however often it is delivered."""

from .db import Conn


async def claim(conn: Conn, handler: str, event_id: str) -> bool:
    """The first statement of a handler's transaction: False when the event took effect before.
    A second delivery at the same time waits for the first to commit or roll back.
    """
    return (
        await conn.fetchval(
            "INSERT INTO inbox (handler, event_id) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING true",
            handler,
            event_id,
        )
        is not None
    )
