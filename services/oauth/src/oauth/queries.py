"""All SQL. conn: inside the caller's transaction; pool: a statement of its own."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from shared.db import Conn, Pool
from shared.events import AMAZON

from .domain import AUTHORIZATION_LIFE, Connection, ConsentState, Status

_CONNECTION = (
    "id, tenant_id, marketplace, status, seller_id, marketplace_ids, region, app_source, connected_at, reauthorize_by,"
    " last_error"
)


class StateFate(StrEnum):
    """Why a state cannot be used."""

    UNKNOWN = "unknown"
    USED = "used"
    EXPIRED = "expired"


async def insert_state(conn: Conn, state_hash: bytes, state: ConsentState, life: timedelta) -> datetime:
    """When the state expires. Those that did a day ago are swept on the way."""
    await conn.execute("DELETE FROM oauth_states WHERE expires_at < clock_timestamp() - interval '1 day'")
    expires_at: datetime = await conn.fetchval(
        "INSERT INTO oauth_states (state_hash, tenant_id, user_id, country, expires_at)"
        " VALUES ($1, $2, $3, $4, clock_timestamp() + $5) RETURNING expires_at",
        state_hash,
        state.tenant_id,
        state.user_id,
        state.country,
        life,
    )
    return expires_at


async def spend_state(pool: Pool, state_hash: bytes) -> ConsentState | StateFate:
    """The state's owner, for one caller only; or why there is none."""
    row = await pool.fetchrow(
        "UPDATE oauth_states SET used_at = clock_timestamp()"
        " WHERE state_hash = $1 AND used_at IS NULL AND expires_at > clock_timestamp()"
        " RETURNING tenant_id, user_id, country",
        state_hash,
    )
    if row is not None:
        return ConsentState(**row)
    used = await pool.fetchval("SELECT used_at IS NOT NULL FROM oauth_states WHERE state_hash = $1", state_hash)
    if used is None:
        return StateFate.UNKNOWN
    return StateFate.USED if used else StateFate.EXPIRED


async def insert_pending(conn: Conn, tenant_id: str, region: str, app_source: str, vault_path: str) -> None:
    """Note that a consent has begun; a connection that there is already stays as it is."""
    await conn.execute(
        "INSERT INTO marketplace_connections (tenant_id, marketplace, status, region, app_source, vault_path)"
        " VALUES ($1, $2, 'PENDING', $3, $4, $5) ON CONFLICT (tenant_id, marketplace) DO NOTHING",
        tenant_id,
        AMAZON,
        region,
        app_source,
        vault_path,
    )


async def upsert_connected(
    conn: Conn,
    tenant_id: str,
    *,
    seller_id: str,
    marketplace_ids: list[str],
    region: str,
    app_source: str,
    vault_path: str,
) -> Connection:
    row = await conn.fetchrow(
        f"""
        INSERT INTO marketplace_connections AS c
               (tenant_id, marketplace, status, seller_id, marketplace_ids, region, app_source, vault_path,
                connected_at, reauthorize_by)
        VALUES ($1, $2, 'CONNECTED', $3, $4, $5, $6, $7, clock_timestamp(), clock_timestamp() + $8)
        ON CONFLICT (tenant_id, marketplace) DO UPDATE
           SET status = 'CONNECTED', seller_id = excluded.seller_id, marketplace_ids = excluded.marketplace_ids,
               region = excluded.region, app_source = excluded.app_source, vault_path = excluded.vault_path,
               connected_at = excluded.connected_at, reauthorize_by = excluded.reauthorize_by, last_error = NULL,
               updated_at = clock_timestamp()
        RETURNING {_CONNECTION}
        """,  # noqa: S608 - a constant list of columns
        tenant_id,
        AMAZON,
        seller_id,
        marketplace_ids,
        region,
        app_source,
        vault_path,
        AUTHORIZATION_LIFE,
    )
    return _connection(row)


async def note_error(pool: Pool, tenant_id: str, error: str) -> None:
    """Say why a consent did not end in a connection; one that worked before still does."""
    await pool.execute(
        "UPDATE marketplace_connections SET last_error = $3, updated_at = clock_timestamp(),"
        " status = CASE WHEN status = 'CONNECTED' THEN status ELSE 'ERROR' END"
        " WHERE tenant_id = $1 AND marketplace = $2",
        tenant_id,
        AMAZON,
        error,
    )


async def get_connection(pool: Pool, tenant_id: str) -> Connection | None:
    row = await pool.fetchrow(
        f"SELECT {_CONNECTION} FROM marketplace_connections"  # noqa: S608 - as above
        " WHERE tenant_id = $1 AND marketplace = $2",
        tenant_id,
        AMAZON,
    )
    return _connection(row) if row else None


def _connection(row: Any) -> Connection:
    return Connection(**dict(row) | {"status": Status(row["status"])})
