"""Events in."""

from shared import inbox
from shared.events import ConnectionRejected, DisconnectReason, TenantSynced

from . import lifecycle, queries
from .domain import Status
from .lifecycle import Parts


async def check_connection(event: ConnectionRejected, event_id: str, *, parts: Parts) -> None:  # noqa: ARG001
    """The event says look, and Amazon says what is true: looking twice does no harm, so that nothing is claimed. What
    was refused before the account was connected anew says nothing about it.
    """
    known = await queries.get_connection(parts.pool, event.tenant_id)
    if known is None or known.id != event.connection_id or known.status is not Status.CONNECTED:
        return
    if known.connected_at is None or known.connected_at <= event.at:
        await lifecycle.settle(parts, event.tenant_id, verify=True)


async def follow_tenant(event: TenantSynced, event_id: str, *, parts: Parts) -> None:
    """An archived tenant's account is disconnected; one that comes back has to connect it again."""
    ended = None
    async with parts.pool.acquire() as conn, conn.transaction():
        if not await inbox.claim(conn, "follow_tenant", event_id):
            return
        await queries.lock_tenant(conn, event.tenant_id)
        if await queries.upsert_tenant(conn, event) and event.archived:
            ended = await lifecycle.end(conn, parts.outbox, event.tenant_id, DisconnectReason.TENANT_ARCHIVED)
    if ended is not None:
        await lifecycle.destroy_if_possible(parts, event.tenant_id)
