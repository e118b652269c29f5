"""All SQL. conn: inside the caller's transaction; pool: a statement of its own. Times are of the database's clock."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from shared.db import Conn, Pool
from shared.events import AMAZON, ApplicationSecretExpiring, ConnectionExpiring, TenantSynced

from .domain import (
    AUTHORIZATION_LIFE,
    CALLBACK_LOST,
    REMINDER_DAYS,
    Change,
    Connection,
    ConsentState,
    Due,
    SpentState,
    Status,
    check_transition,
)

_CONNECTION = (
    "id, tenant_id, marketplace, status, seller_id, marketplace_ids, region, app_source, authorized_at, connected_at,"
    " reauthorize_by, void_until, verified_at, last_error, last_error_code"
)
REMINDED_AT_ONCE = 500


class StateFate(StrEnum):
    """Why a state cannot be used."""

    UNKNOWN = "unknown"
    USED = "used"
    EXPIRED = "expired"
    FOREIGN = "foreign"


async def insert_state(conn: Conn, state_hash: bytes, state: ConsentState, life: timedelta) -> datetime:
    """When the state expires."""
    expires_at: datetime = await conn.fetchval(
        "INSERT INTO oauth_states (state_hash, tenant_id, user_id, country, return_url, expires_at)"
        " VALUES ($1, $2, $3, $4, $5, clock_timestamp() + $6) RETURNING expires_at",
        state_hash,
        state.tenant_id,
        state.user_id,
        state.country,
        state.return_url,
        life,
    )
    return expires_at


async def spend_state(
    pool: Pool, state_hash: bytes, *, tenant_id: str | None, user_id: str | None
) -> SpentState | StateFate:
    """The state, for one caller only; or why there is none. A tenant or user that is given has to be its owner. It is
    spent after all that was said of the tenant before, also where the clock was set back, or is another server's now.
    """
    row = await pool.fetchrow(
        """
        WITH spent AS (
            UPDATE oauth_states s
               SET used_at = greatest(clock_timestamp(), (
                       SELECT greatest(authorized_at, void_until) + interval '1 microsecond'
                         FROM marketplace_connections c WHERE c.tenant_id = s.tenant_id))
             WHERE state_hash = $1 AND used_at IS NULL AND outcome IS NULL AND expires_at > clock_timestamp()
               AND tenant_id = coalesce($2, tenant_id) AND coalesce(user_id = $3, true)
            RETURNING tenant_id, user_id, country, return_url, used_at
        ), checked AS (
            UPDATE marketplace_connections c SET next_check_at = least(next_check_at, used_at + $4) FROM spent
             WHERE c.tenant_id = spent.tenant_id
        )
        SELECT * FROM spent
        """,
        state_hash,
        tenant_id,
        user_id,
        CALLBACK_LOST,
    )
    if row is not None:
        return SpentState(
            ConsentState(row["tenant_id"], row["user_id"], row["country"], row["return_url"]), row["used_at"]
        )
    fate: str | None = await pool.fetchval(
        "SELECT CASE WHEN tenant_id <> coalesce($2, tenant_id) OR user_id <> $3 THEN 'foreign'"
        " WHEN used_at IS NOT NULL THEN 'used' ELSE 'expired' END FROM oauth_states WHERE state_hash = $1",
        state_hash,
        tenant_id,
        user_id,
    )
    return StateFate(fate) if fate else StateFate.UNKNOWN


async def get_return_url(pool: Pool, state_hash: bytes) -> tuple[str | None, bool]:
    """Where the seller of a consent is led back to, and whether the consent ended in a connection."""
    row = await pool.fetchrow(
        "SELECT return_url, coalesce(outcome = 'CONNECTED', false) AS connected FROM oauth_states"
        " WHERE state_hash = $1",
        state_hash,
    )
    return (row["return_url"], row["connected"]) if row else (None, False)


async def finish_state(conn: Conn, state_hash: bytes, outcome: str) -> None:
    await conn.execute(
        "UPDATE oauth_states SET outcome = $2 WHERE state_hash = $1 AND outcome IS NULL", state_hash, outcome
    )


async def finish_states(conn: Conn, tenant_id: str, outcome: str, *, until: datetime | None = None) -> None:
    """The tenant's open consents: all of them, or those whose callback came until then."""
    await conn.execute(
        "UPDATE oauth_states SET outcome = $2"
        " WHERE tenant_id = $1 AND outcome IS NULL AND ($3::timestamptz IS NULL OR used_at <= $3)",
        tenant_id,
        outcome,
        until,
    )


async def end_lost_states(conn: Conn, tenant_id: str) -> list[str]:
    """End the tenant's consents that nobody will finish any more; what became of each, LOST or EXPIRED."""
    rows = await conn.fetch(
        """
        UPDATE oauth_states SET outcome = CASE WHEN used_at IS NULL THEN 'EXPIRED' ELSE 'LOST' END
         WHERE tenant_id = $1 AND outcome IS NULL
           AND (used_at <= clock_timestamp() - $2::interval OR (used_at IS NULL AND expires_at <= clock_timestamp()))
        RETURNING outcome
        """,
        tenant_id,
        CALLBACK_LOST,
    )
    return [row["outcome"] for row in rows]


async def has_open_state(conn: Conn, tenant_id: str) -> bool:
    found: bool = await conn.fetchval(
        "SELECT EXISTS (SELECT FROM oauth_states WHERE tenant_id = $1 AND outcome IS NULL)", tenant_id
    )
    return found


async def delete_old_states(pool: Pool) -> None:
    """Those that expired a day ago, until when a late seller is told what happened, and that came to an end."""
    await pool.execute(
        "DELETE FROM oauth_states WHERE expires_at < clock_timestamp() - interval '1 day' AND outcome IS NOT NULL"
    )


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


async def is_archived(pool: Pool, tenant_id: str) -> bool:
    return bool(await pool.fetchval("SELECT archived FROM tenants WHERE id = $1", tenant_id))


async def lock_tenant(conn: Conn, tenant_id: str) -> bool:
    """Whether the tenant is archived, which stays so until the transaction ends, as does all that is said of its
    connection. One that we have not heard of yet gets a row: what does not exist cannot be locked.
    """
    archived: bool = await conn.fetchval(
        "INSERT INTO tenants AS t (id, archived) VALUES ($1, false)"
        " ON CONFLICT (id) DO UPDATE SET archived = t.archived RETURNING archived",
        tenant_id,
    )
    return archived


async def get_now(conn: Conn | Pool) -> datetime:
    now: datetime = await conn.fetchval("SELECT clock_timestamp()")
    return now


async def get_connection(conn: Conn | Pool, tenant_id: str) -> Connection | None:
    row = await conn.fetchrow(
        f"SELECT {_CONNECTION} FROM marketplace_connections"  # noqa: S608 - a constant list of columns
        " WHERE tenant_id = $1 AND marketplace = $2",
        tenant_id,
        AMAZON,
    )
    return _connection(row) if row else None


async def insert_pending(
    conn: Conn, tenant_id: str, region: str, app_source: str, vault_path: str, expires_at: datetime
) -> None:
    """Note that a consent has begun, to be looked after when it has expired; a connection that there is already stays
    as it is.
    """
    await conn.execute(
        """
        WITH begun AS (
            INSERT INTO marketplace_connections AS c
                   (tenant_id, marketplace, status, region, app_source, vault_path, next_check_at)
            VALUES ($1, $2, 'PENDING', $3, $4, $5, $6)
            ON CONFLICT (tenant_id, marketplace) DO UPDATE
               SET next_check_at = least(c.next_check_at, excluded.next_check_at)
            RETURNING new.id, old.id IS NULL AS is_new
        )
        INSERT INTO connection_changes (tenant_id, connection_id, to_status)
        SELECT $1, id, 'PENDING' FROM begun WHERE is_new
        """,
        tenant_id,
        AMAZON,
        region,
        app_source,
        vault_path,
        expires_at,
    )


async def connect(
    conn: Conn,
    known: Connection | None,
    tenant_id: str,
    *,
    seller_id: str,
    marketplace_ids: list[str],
    region: str,
    app_source: str,
    vault_path: str,
    authorized_at: datetime,
) -> Connection:
    """CONNECTED by an authorization. The same seller keeps the connection, another one gets a new id."""
    check_transition(known.status if known else Status.NOT_CONNECTED, Status.CONNECTED)
    row = await conn.fetchrow(
        f"""
        WITH connected AS (
            INSERT INTO marketplace_connections AS c
                   (tenant_id, marketplace, status, seller_id, marketplace_ids, region, app_source, vault_path,
                    authorized_at, reauthorize_by, connected_at, verified_at)
            VALUES ($1, $2, 'CONNECTED', $3, $4, $5, $6, $7, $8, $8::timestamptz + $9::interval,
                    clock_timestamp(), clock_timestamp())
            ON CONFLICT (tenant_id, marketplace) DO UPDATE
               SET id = CASE WHEN c.seller_id <> excluded.seller_id THEN excluded.id ELSE c.id END,
                   status = 'CONNECTED', seller_id = excluded.seller_id, marketplace_ids = excluded.marketplace_ids,
                   region = excluded.region, app_source = excluded.app_source, vault_path = excluded.vault_path,
                   authorized_at = excluded.authorized_at, connected_at = excluded.connected_at,
                   reauthorize_by = excluded.reauthorize_by, verified_at = excluded.verified_at,
                   last_error = NULL, last_error_code = NULL, reminded_days = NULL, updated_at = clock_timestamp()
            RETURNING new.*
        ), noted AS (
            INSERT INTO connection_changes (tenant_id, connection_id, from_status, to_status)
            SELECT tenant_id, id, $10, status FROM connected
        )
        SELECT {_CONNECTION} FROM connected
        """,  # noqa: S608 - a constant list of columns
        tenant_id,
        AMAZON,
        seller_id,
        marketplace_ids,
        region,
        app_source,
        vault_path,
        authorized_at,
        AUTHORIZATION_LIFE,
        known.status if known else None,
    )
    return _connection(row)


async def move_connection(
    conn: Conn, known: Connection, to: Status, code: str, reason: str, *, void_until: datetime | None = None
) -> Connection:
    """What a connection becomes other than CONNECTED, and why. ValueError when TRANSITIONS does not allow it."""
    check_transition(known.status, to)
    row = await conn.fetchrow(
        f"""
        WITH moved AS (
            UPDATE marketplace_connections
               SET status = $2, last_error_code = $3, last_error = $4, updated_at = clock_timestamp(),
                   void_until = greatest(void_until, $5), next_check_at = clock_timestamp()
             WHERE id = $1
            RETURNING *
        ), noted AS (
            INSERT INTO connection_changes (tenant_id, connection_id, from_status, to_status, code, reason)
            SELECT tenant_id, id, $6, status, $3, $4 FROM moved
        )
        SELECT {_CONNECTION} FROM moved
        """,  # noqa: S608 - a constant list of columns
        known.id,
        to,
        code,
        reason,
        void_until,
        known.status,
    )
    return _connection(row)


async def insert_other_source(
    conn: Conn,
    tenant_id: str,
    *,
    seller_id: str,
    region: str,
    app_source: str,
    vault_path: str,
    authorized_at: datetime,
    code: str,
    reason: str,
) -> Connection:
    """A connection that Vault knows and we do not, for the application that is not in use."""
    check_transition(Status.NOT_CONNECTED, Status.RECONNECT_REQUIRED)
    row = await conn.fetchrow(
        f"""
        WITH inserted AS (
            INSERT INTO marketplace_connections
                   (tenant_id, marketplace, status, seller_id, region, app_source, vault_path, authorized_at,
                    last_error_code, last_error)
            VALUES ($1, $2, 'RECONNECT_REQUIRED', $3, $4, $5, $6, $7, $8, $9) RETURNING *
        ), noted AS (
            INSERT INTO connection_changes (tenant_id, connection_id, to_status, code, reason)
            SELECT tenant_id, id, status, $8, $9 FROM inserted
        )
        SELECT {_CONNECTION} FROM inserted
        """,  # noqa: S608 - a constant list of columns
        tenant_id,
        AMAZON,
        seller_id,
        region,
        app_source,
        vault_path,
        authorized_at,
        code,
        reason,
    )
    return _connection(row)


async def void_authorizations(conn: Conn, tenant_id: str) -> None:
    """Whatever was authorized until now is over, also what is just on its way, or dated ahead of our clock."""
    await conn.execute(
        "UPDATE marketplace_connections SET void_until = greatest(clock_timestamp(), authorized_at),"
        " next_check_at = clock_timestamp() WHERE tenant_id = $1 AND marketplace = $2",
        tenant_id,
        AMAZON,
    )


async def note_error(conn: Conn, tenant_id: str, code: str, error: str) -> None:
    """Say what did not work, of a connection that stays what it is."""
    await conn.execute(
        "UPDATE marketplace_connections SET last_error_code = $3, last_error = $4, updated_at = clock_timestamp()"
        " WHERE tenant_id = $1 AND marketplace = $2",
        tenant_id,
        AMAZON,
        code,
        error,
    )


async def note_verified(pool: Pool, connection: Connection) -> None:
    await pool.execute(
        "UPDATE marketplace_connections SET verified_at = clock_timestamp() WHERE id = $1 AND authorized_at = $2",
        connection.id,
        connection.authorized_at,
    )


async def make_switched_due(pool: Pool, app_source: str) -> None:
    """Look at once at the connections that a change of the application in use turns over."""
    await pool.execute(
        "UPDATE marketplace_connections SET next_check_at = clock_timestamp()"
        " WHERE (app_source <> $1 AND status IN ('PENDING', 'CONNECTED', 'ERROR'))"
        " OR (app_source = $1 AND status = 'RECONNECT_REQUIRED')",
        app_source,
    )


async def claim_due(pool: Pool, limit: int, lease: timedelta, verify_every: timedelta) -> list[Due]:
    """The connections to be looked at, for the time of the lease; whoever dies with one, another takes it then."""
    rows = await pool.fetch(
        """
        UPDATE marketplace_connections c SET next_check_at = clock_timestamp() + $2
          FROM (SELECT id FROM marketplace_connections WHERE next_check_at <= clock_timestamp()
                 ORDER BY next_check_at LIMIT $1 FOR UPDATE SKIP LOCKED) due
         WHERE c.id = due.id
        RETURNING c.tenant_id,
                  status <> 'CONNECTED' OR coalesce(verified_at < clock_timestamp() - $3::interval, true) AS verify
        """,
        limit,
        lease,
        verify_every,
    )
    return [Due(**row) for row in rows]


async def schedule_check(pool: Pool, tenant_id: str, every: timedelta) -> None:
    """Look again after a while, or when a consent has come to its end. One that has an outcome counts as well while its
    callback may live: told of a disconnection too late, it leaves credentials in Vault.
    """
    await pool.execute(
        """
        UPDATE marketplace_connections c
           SET next_check_at = least(clock_timestamp() + $2, (
                   SELECT min(coalesce(used_at + $3, expires_at)) FROM oauth_states s
                    WHERE s.tenant_id = c.tenant_id
                      AND (outcome IS NULL OR used_at > clock_timestamp() - $3::interval)))
         WHERE tenant_id = $1
        """,
        tenant_id,
        every,
        CALLBACK_LOST,
    )


async def list_unknown(pool: Pool, tenant_ids: Sequence[str]) -> list[str]:
    """Those of the tenants that have no connection here."""
    rows = await pool.fetch(
        "SELECT found FROM unnest($1::text[]) found"
        " WHERE NOT EXISTS (SELECT FROM marketplace_connections WHERE tenant_id = found) ORDER BY found",
        list(tenant_ids),
    )
    return [row["found"] for row in rows]


async def list_changes(pool: Pool, tenant_id: str, limit: int) -> list[Change]:
    """The latest first."""
    rows = await pool.fetch(
        "SELECT at, connection_id, from_status, to_status, code, reason FROM connection_changes"
        " WHERE tenant_id = $1 ORDER BY id DESC LIMIT $2",
        tenant_id,
        limit,
    )
    return [Change(**row) for row in rows]


async def count_connections(pool: Pool) -> dict[str, int]:
    """By status."""
    rows = await pool.fetch("SELECT status, count(*) FROM marketplace_connections GROUP BY status")
    return {row["status"]: row["count"] for row in rows}


async def count_renewals(pool: Pool) -> dict[int, int]:
    """How many connections have to be authorized anew within 30, 7 and 1 days."""
    rows = await pool.fetch(
        "SELECT days, (SELECT count(*) FROM marketplace_connections WHERE status = 'CONNECTED'"
        "  AND reauthorize_by < clock_timestamp() + make_interval(days => days)) FROM unnest($1::integer[]) days",
        REMINDER_DAYS,
    )
    return {row["days"]: row["count"] for row in rows}


async def remind_of_renewals(conn: Conn) -> list[ConnectionExpiring]:
    """The connections that a reminder is due for, noted as told."""
    rows = await conn.fetch(
        """
        UPDATE marketplace_connections c SET reminded_days = due.threshold
          FROM (SELECT id, days_left, threshold
                  FROM marketplace_connections,
                       ceil(extract(epoch FROM reauthorize_by - clock_timestamp()) / 86400) AS days_left,
                       LATERAL (SELECT min(days) AS threshold FROM unnest($1::integer[]) days WHERE days >= days_left) t
                 WHERE status = 'CONNECTED' AND threshold < coalesce(reminded_days, 366)
                 ORDER BY id LIMIT $2 FOR UPDATE OF marketplace_connections SKIP LOCKED) due
         WHERE c.id = due.id
        RETURNING c.tenant_id, marketplace, c.id AS connection_id, reauthorize_by,
                  greatest(days_left, 0)::integer AS days_left
        """,
        REMINDER_DAYS,
        REMINDED_AT_ONCE,
    )
    return [ConnectionExpiring(**row) for row in rows]


async def upsert_application(conn: Conn, app_source: str, rotate_by: datetime) -> None:
    """Another secret begins its reminders anew."""
    await conn.execute(
        """
        INSERT INTO applications AS a (app_source, rotate_by) VALUES ($1, $2)
        ON CONFLICT (app_source) DO UPDATE SET rotate_by = excluded.rotate_by, reminded_days = NULL
         WHERE a.rotate_by <> excluded.rotate_by
        """,
        app_source,
        rotate_by,
    )


async def remind_of_secret(conn: Conn, app_source: str) -> list[ApplicationSecretExpiring]:
    """Is a reminder of the client secret due? Noted as told."""
    rows = await conn.fetch(
        """
        UPDATE applications a SET reminded_days = due.threshold
          FROM (SELECT app_source, days_left, threshold
                  FROM applications,
                       ceil(extract(epoch FROM rotate_by - clock_timestamp()) / 86400) AS days_left,
                       LATERAL (SELECT min(days) AS threshold FROM unnest($2::integer[]) days WHERE days >= days_left) t
                 WHERE app_source = $1 AND threshold < coalesce(reminded_days, 366)
                   FOR UPDATE OF applications) due
         WHERE a.app_source = due.app_source
        RETURNING a.app_source, rotate_by, greatest(days_left, 0)::integer AS days_left
        """,
        app_source,
        REMINDER_DAYS,
    )
    return [ApplicationSecretExpiring(**row) for row in rows]


async def get_rotate_by(pool: Pool, app_source: str) -> datetime | None:
    """When the application's client secret has to be changed at the latest; None before it was ever read."""
    rotate_by: datetime | None = await pool.fetchval(
        "SELECT rotate_by FROM applications WHERE app_source = $1", app_source
    )
    return rotate_by


def _connection(row: Any) -> Connection:
    return Connection(**dict(row) | {"status": Status(row["status"])})
