"""The SQL of tenants and their accounts. conn: inside the caller's transaction; pool: a statement of its own. The
tenant is in every WHERE.
"""

from datetime import datetime

from shared.db import Conn, Pool
from shared.events import AMAZON, ConnectionConnected, ConnectionDisconnected, TenantSynced

from .domain import Connection


async def upsert_tenant(conn: Conn, event: TenantSynced) -> bool:
    """False when the event is older than what we know."""
    changed = await conn.fetchval(
        """
        INSERT INTO tenants AS t (id, archived, synced_at) VALUES ($1, $2, $3)
        ON CONFLICT (id) DO UPDATE SET archived = excluded.archived, synced_at = excluded.synced_at
         WHERE t.synced_at IS NULL OR t.synced_at < excluded.synced_at
        RETURNING true
        """,
        event.tenant_id,
        event.archived,
        event.synced_at,
    )
    return changed is not None


async def lock_tenant(conn: Conn, tenant_id: str) -> bool:
    """Whether the tenant is archived, which stays so until the transaction ends. One that we have not heard of yet
    gets a row: what does not exist cannot be locked.
    """
    archived: bool = await conn.fetchval(
        "INSERT INTO tenants AS t (id, archived) VALUES ($1, false)"
        " ON CONFLICT (id) DO UPDATE SET archived = t.archived RETURNING archived",
        tenant_id,
    )
    return archived


async def upsert_connection(conn: Conn, event: ConnectionConnected) -> bool:
    """False when we know this connection, a newer one, or a later end already."""
    changed = await conn.fetchval(
        """
        INSERT INTO connections AS c
               (tenant_id, marketplace, connection_id, seller_id, region, marketplace_ids, connected_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
        ON CONFLICT (tenant_id, marketplace) DO UPDATE
           SET connection_id = excluded.connection_id, seller_id = excluded.seller_id, region = excluded.region,
               marketplace_ids = excluded.marketplace_ids, connected_at = excluded.connected_at,
               disconnected_at = NULL
         WHERE greatest(c.connected_at, c.disconnected_at) < excluded.connected_at
        RETURNING true
        """,
        event.tenant_id,
        event.marketplace,
        event.connection_id,
        event.seller_id,
        event.region,
        event.marketplace_ids,
        event.connected_at,
    )
    return changed is not None


async def disconnect(conn: Conn, event: ConnectionDisconnected) -> bool:
    """False when the account was connected after that. One that we have not heard of yet gets a row, so that an older
    connection that is told late is not taken for usable.
    """
    changed = await conn.fetchval(
        """
        INSERT INTO connections AS c
               (tenant_id, marketplace, connection_id, seller_id, region, marketplace_ids, connected_at,
                disconnected_at)
        VALUES ($1, $2, $3, '', '', '{}', $4, $4)
        ON CONFLICT (tenant_id, marketplace) DO UPDATE SET disconnected_at = excluded.disconnected_at
         WHERE greatest(c.connected_at, c.disconnected_at) <= excluded.disconnected_at
        RETURNING true
        """,
        event.tenant_id,
        event.marketplace,
        event.connection_id,
        event.at,
    )
    return changed is not None


async def get_connection(conn: Conn | Pool, tenant_id: str) -> Connection | None:
    """The account that we may ask; None when there is none, or it is disconnected."""
    row = await conn.fetchrow(
        "SELECT tenant_id, marketplace, connection_id, seller_id, marketplace_ids, connected_at FROM connections"
        " WHERE tenant_id = $1 AND marketplace = $2 AND disconnected_at IS NULL",
        tenant_id,
        AMAZON,
    )
    return Connection(**row) if row else None


async def lock_connection(conn: Conn, tenant_id: str) -> bool:
    """Whether the tenant's account is connected, which stays so until the transaction ends."""
    connected = await conn.fetchval(
        "SELECT true FROM connections WHERE tenant_id = $1 AND marketplace = $2 AND disconnected_at IS NULL FOR SHARE",
        tenant_id,
        AMAZON,
    )
    return connected is not None


async def now(conn: Conn) -> datetime:
    """The database's clock, which all that is told and compared goes by."""
    at: datetime = await conn.fetchval("SELECT clock_timestamp()")
    return at
