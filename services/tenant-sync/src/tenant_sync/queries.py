"""All SQL on our own tables. conn: inside the caller's transaction; pool: a statement of its own."""

import io
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec import Struct

from shared.db import Conn, Pool
from shared.events import AMAZON, ConnectionConnected, ConnectionDisconnected, TenantSynced

from .domain import ARCHIVED, Address, Change, Connection, Counts, ProductTenant, Run, Tenant

_FIT = "({id} ~ '^[A-Za-z0-9][A-Za-z0-9_-]*$' AND length({id}) <= 64)"
"""As shared.events.TenantId: an id becomes part of a mail address and of a Vault path. PostgreSQL takes ten times as
long for the bound within the pattern.
"""

# Only what is new or changed is written, or locked: what is equal is read. A copy from before a change never
# overwrites a newer one; the time of a newer copy is kept even where it says the same, or a copy from between two
# changes would pass for the newest. A tenant that we hold for deleted is back when the product shows it again.
_MERGE = """
WITH changed AS (
    INSERT INTO tenants AS t (id, name, plan, status, product_updated_at)
    SELECT i.id, i.name, i.plan, i.status, i.updated_at
      FROM {source} LEFT JOIN {ours} o ON o.id = i.id
     WHERE (o.id IS NULL OR o.deleted_at IS NOT NULL OR o.product_updated_at < i.updated_at
            OR (o.product_updated_at = i.updated_at
                AND (o.name, o.plan, o.status) IS DISTINCT FROM (i.name, i.plan, i.status)))
     ORDER BY i.id
    ON CONFLICT (id) DO UPDATE
       SET name = excluded.name, plan = excluded.plan, status = excluded.status,
           product_updated_at = excluded.product_updated_at, deleted_at = NULL, updated_at = clock_timestamp()
     WHERE t.deleted_at IS NOT NULL OR t.product_updated_at < excluded.product_updated_at
        OR (t.product_updated_at = excluded.product_updated_at
            AND (t.name, t.plan, t.status) IS DISTINCT FROM (excluded.name, excluded.plan, excluded.status))
    RETURNING new.id, old.id IS NULL AS created, new.plan, new.status,
              (old.name, old.plan, old.status) IS DISTINCT FROM (new.name, new.plan, new.status) AS differs
)
SELECT id, created, plan, status FROM changed WHERE differs
"""
_MERGE_PAGE = _MERGE.format(
    source="incoming i",
    # What a page can meet lies between its ends: without them each page would read the whole table.
    ours="(SELECT * FROM tenants WHERE id BETWEEN $1 AND $2)",
)
_MERGE_ONE = _MERGE.format(
    source="(VALUES ($1::text, $2::text, $3::text, $4::text, $5::timestamptz))"
    " AS i (id, name, plan, status, updated_at)",
    ours="tenants",
)
_RUN = "id, state, after_id, created, updated, archived, skipped, errors, started_at, updated_at, finished_at"


class Staged(Struct, frozen=True):
    """A page that is held: how many tenants, the least and the greatest id as this database orders them."""

    tenants: int
    least: str
    greatest: str


async def upsert_tenant(conn: Conn, tenant: ProductTenant) -> Change:
    row = await conn.fetchrow(_MERGE_ONE, tenant.id, tenant.name, tenant.our_plan, tenant.our_status, tenant.updated_at)
    if row is None:
        return Change.SKIPPED
    return Change.CREATED if row["created"] else Change.UPDATED


async def make_stage(conn: Conn) -> None:
    """The table that holds a page until the transaction ends; it lives as long as the connection."""
    if await conn.fetchval("SELECT to_regclass('pg_temp.incoming')") is None:
        await conn.execute(
            "CREATE TEMPORARY TABLE incoming"
            " (id text, name text, plan text, status text, updated_at timestamptz) ON COMMIT DELETE ROWS"
        )


async def stage_page(conn: Conn, page: bytes) -> Staged:
    """Hold a page of the product's tenants until the transaction ends."""
    await conn.copy_to_table("incoming", source=io.BytesIO(page), format="binary")
    row = await conn.fetchrow("SELECT count(*) AS tenants, min(id) AS least, max(id) AS greatest FROM incoming")
    return Staged(row["tenants"], row["least"] or "", row["greatest"] or "")


async def merge_page(conn: Conn, staged: Staged) -> list[tuple[str, bool, str, str]]:
    """The tenants of the page that were written: id, whether new, plan, status."""
    rows = await conn.fetch(_MERGE_PAGE, staged.least, staged.greatest)
    return [(row["id"], row["created"], row["plan"], row["status"]) for row in rows]


async def list_page(conn: Conn, *, without: Sequence[str], limit: int) -> list[str]:
    """Ids of the page, but for some of them."""
    rows = await conn.fetch(
        "SELECT id FROM incoming i WHERE NOT EXISTS"
        " (SELECT FROM unnest($1::text[]) AS changed (id) WHERE changed.id = i.id) ORDER BY id LIMIT $2",
        without,
        limit,
    )
    return [row["id"] for row in rows]


async def drop_unfit(conn: Conn) -> list[str]:
    """Take the tenants out of the page whose id no mail address and no path can be made of; their ids."""
    rows = await conn.fetch(f"DELETE FROM incoming WHERE NOT {_FIT.format(id='id')} RETURNING id")  # noqa: S608
    return [row["id"] for row in rows]


async def list_live(pool: Pool, after: str, limit: int) -> list[str]:
    """Ids of our tenants that we do not hold for deleted."""
    rows = await pool.fetch(
        "SELECT id FROM tenants WHERE deleted_at IS NULL AND id > $1 ORDER BY id LIMIT $2", after, limit
    )
    return [row["id"] for row in rows]


async def count_live(pool: Conn | Pool) -> int:
    number: int = await pool.fetchval("SELECT count(*) FROM tenants WHERE deleted_at IS NULL")
    return number


async def archive_deleted(conn: Conn, tenant_ids: Sequence[str]) -> list[str]:
    """Archive tenants that the product does not have any more; those that it was news for."""
    rows = await conn.fetch(
        "UPDATE tenants SET status = $2, deleted_at = clock_timestamp(), updated_at = clock_timestamp()"
        " WHERE id IN (SELECT id FROM tenants WHERE id = ANY ($1::text[]) AND deleted_at IS NULL ORDER BY id"
        " FOR UPDATE) RETURNING id",
        tenant_ids,
        ARCHIVED,
    )
    return [row["id"] for row in rows]


async def get_tenant(conn: Conn | Pool, tenant_id: str) -> Tenant | None:
    row = await conn.fetchrow("SELECT id, name, plan, status FROM tenants WHERE id = $1", tenant_id)
    return Tenant(**row) if row else None


# Both the countries that every tenant has and those of a connection, without what is there.
_MISSING = """
SELECT t.id, wanted.country
  FROM {tenants} CROSS JOIN unnest($1::text[]) AS wanted (country)
 WHERE t.status <> $3 AND NOT EXISTS (SELECT FROM inbound_addresses a
        WHERE a.tenant_id = t.id AND a.marketplace = $2 AND a.country = wanted.country)
 UNION
SELECT t.id, wanted.country
  FROM {tenants} JOIN inbound_connections c ON c.tenant_id = t.id AND c.marketplace = $2
 CROSS JOIN unnest(c.countries) AS wanted (country)
 WHERE t.status <> $3 AND NOT EXISTS (SELECT FROM inbound_addresses a
        WHERE a.tenant_id = t.id AND a.marketplace = $2 AND a.country = wanted.country)
{ends}
"""
_MISSING_OF_SOME = _MISSING.format(
    tenants="unnest($4::text[]) AS asked (id) JOIN tenants t ON t.id = asked.id", ends=""
)
_MISSING_OF_ALL = _MISSING.format(tenants="tenants t", ends="LIMIT $4")


async def list_missing_addresses(
    conn: Conn, countries: Sequence[str], tenant_ids: Sequence[str]
) -> list[tuple[str, str]]:
    """Tenant and country of every address that these tenants should have and have not."""
    rows = await conn.fetch(_MISSING_OF_SOME, countries, AMAZON, ARCHIVED, tenant_ids)
    return [(row["id"], row["country"]) for row in rows]


async def list_without_address(conn: Conn, countries: Sequence[str], limit: int) -> list[str]:
    """Tenants that lack an address which they should have."""
    rows = await conn.fetch(_MISSING_OF_ALL, countries, AMAZON, ARCHIVED, limit)
    return sorted({row["id"] for row in rows})


async def insert_addresses(conn: Conn, addresses: Sequence[tuple[str, str, str]]) -> None:
    """Tenant, country and mail of each. The tenants are locked (lock_tenants) since before it was found that they lack
    them: no two can come for one country, and none for a tenant that is archived meanwhile.
    """
    await conn.execute(
        "INSERT INTO inbound_addresses (tenant_id, marketplace, country, email, status)"
        " SELECT a.tenant_id, $4, a.country, a.email, 'PENDING'"
        " FROM unnest($1::text[], $2::text[], $3::text[]) AS a (tenant_id, country, email)",
        [tenant_id for tenant_id, _, _ in addresses],
        [country for _, country, _ in addresses],
        [email for _, _, email in addresses],
        AMAZON,
    )


async def settle_addresses(conn: Conn, tenant_ids: Sequence[str]) -> None:
    """Addresses of an archived tenant are disabled, those of one that came back are what they were."""
    await conn.execute(
        """
        UPDATE inbound_addresses a SET status = settled.status
          FROM (SELECT a.tenant_id, a.marketplace, a.country,
                       CASE WHEN t.status = $2 THEN 'DISABLED'
                            WHEN a.activated_at IS NOT NULL THEN 'ACTIVE' ELSE 'PENDING' END AS status
                  FROM inbound_addresses a JOIN tenants t ON t.id = a.tenant_id
                  JOIN unnest($1::text[]) AS touched (id) ON touched.id = a.tenant_id) settled
         WHERE (a.tenant_id, a.marketplace, a.country) = (settled.tenant_id, settled.marketplace, settled.country)
           AND a.status <> settled.status
        """,
        tenant_ids,
        ARCHIVED,
    )


async def activate_address(conn: Conn, tenant_id: str, email: str) -> bool:
    """The first valid mail has come: True when that is news for an address that is not disabled."""
    return (
        await conn.fetchval(
            "UPDATE inbound_addresses SET activated_at = clock_timestamp(),"
            " status = CASE WHEN status = 'PENDING' THEN 'ACTIVE' ELSE status END"
            " WHERE tenant_id = $1 AND email = lower($2) AND activated_at IS NULL RETURNING status = 'ACTIVE'",
            tenant_id,
            email,
        )
        is True
    )


async def lock_tenants(conn: Conn, tenant_ids: Sequence[str]) -> list[str]:
    """Hold the rows of tenants, as everything does that announces them, so that the announcements keep their order;
    those that there are.
    """
    rows = await conn.fetch("SELECT id FROM tenants WHERE id = ANY ($1::text[]) ORDER BY id FOR UPDATE", tenant_ids)
    return [row["id"] for row in rows]


async def announce(conn: Conn, tenant_ids: Sequence[str]) -> None:
    """Add tenant.synced for each to the outbox, built where the rows are: the contract is TenantSynced's, and a test
    compares. The copy's time of change goes with it, so that readers can tell the later of two.
    """
    await conn.execute(
        """
        INSERT INTO outbox (subject, key, payload)
        SELECT $2, t.id, convert_to(json_build_object(
                   'tenantId', t.id, 'name', t.name, 'plan', t.plan, 'status', t.status,
                   'inboundAddresses', coalesce((
                       SELECT json_agg(json_build_object('marketplace', a.marketplace, 'country', a.country,
                                                         'email', a.email, 'status', a.status)
                                       ORDER BY a.marketplace, a.country)
                         FROM inbound_addresses a WHERE a.tenant_id = t.id), '[]'::json),
                   'syncedAt', (SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))
               )::text, 'UTF8')
          FROM unnest($1::text[]) AS told (id) JOIN tenants t ON t.id = told.id
        """,
        tenant_ids,
        TenantSynced.SUBJECT,
    )


async def list_addresses(conn: Conn | Pool, tenant_id: str) -> list[Address]:
    rows = await conn.fetch(
        "SELECT marketplace, country, email, status FROM inbound_addresses"
        " WHERE tenant_id = $1 ORDER BY marketplace, country",
        tenant_id,
    )
    return [Address(**row) for row in rows]


async def upsert_connection(conn: Conn, event: ConnectionConnected, countries: Sequence[str]) -> bool:
    """False when something newer is known of the tenant and marketplace."""
    changed = await conn.fetchval(
        """
        INSERT INTO inbound_connections AS c
               (tenant_id, marketplace, connection_id, seller_id, status, connected_at, changed_at, countries)
        VALUES ($1, $2, $3, $4, 'CONNECTED', $5, $5, $6)
        ON CONFLICT (tenant_id, marketplace) DO UPDATE
           SET connection_id = excluded.connection_id, seller_id = excluded.seller_id, status = excluded.status,
               connected_at = excluded.connected_at, changed_at = excluded.changed_at, countries = excluded.countries
         WHERE c.changed_at < excluded.changed_at
        RETURNING true
        """,
        event.tenant_id,
        event.marketplace,
        event.connection_id,
        event.seller_id,
        event.connected_at,
        countries,
    )
    return changed is not None


async def disconnect(conn: Conn, event: ConnectionDisconnected) -> None:
    """Note the end of a connection, in whatever order its events arrive."""
    await conn.execute(
        """
        INSERT INTO inbound_connections AS c
               (tenant_id, marketplace, connection_id, seller_id, status, connected_at, changed_at)
        VALUES ($1, $2, $3, '', 'DISCONNECTED', $4, $4)
        ON CONFLICT (tenant_id, marketplace) DO UPDATE
           SET connection_id = excluded.connection_id, status = excluded.status, changed_at = excluded.changed_at
         WHERE c.changed_at < excluded.changed_at
        """,
        event.tenant_id,
        event.marketplace,
        event.connection_id,
        event.at,
    )


async def list_connections(pool: Pool, tenant_id: str) -> list[Connection]:
    rows = await pool.fetch(
        "SELECT marketplace, connection_id, seller_id, status FROM inbound_connections"
        " WHERE tenant_id = $1 ORDER BY marketplace",
        tenant_id,
    )
    return [Connection(**row) for row in rows]


async def get_run(conn: Conn | Pool) -> Run | None:
    """The latest bulk sync, which may still run."""
    row = await conn.fetchrow(f"SELECT {_RUN} FROM sync_runs ORDER BY started_at DESC LIMIT 1")  # noqa: S608 - constant
    return Run(**row) if row else None


async def insert_run(conn: Conn, countries: Sequence[str]) -> Run:
    await conn.execute("DELETE FROM sync_runs WHERE started_at < clock_timestamp() - interval '30 days'")
    row = await conn.fetchrow(
        f"INSERT INTO sync_runs (countries) VALUES ($1) RETURNING {_RUN}",  # noqa: S608 - a constant
        countries,
    )
    return Run(**row)


async def has_completed_with(conn: Conn, countries: Sequence[str]) -> bool:
    """Whether the last completed run gave addresses for these countries, so that nobody lacks one of them."""
    last: list[str] | None = await conn.fetchval(
        "SELECT countries FROM sync_runs WHERE state = 'COMPLETED' ORDER BY finished_at DESC LIMIT 1"
    )
    return last == list(countries)


async def advance_run(conn: Conn, run_id: UUID, after_id: str, counts: Counts, *, finished: bool) -> None:
    """Note how far a run is, within the transaction of what it did."""
    await conn.execute(
        "UPDATE sync_runs SET after_id = $2, created = $3, updated = $4, archived = $5, skipped = $6, errors = $7,"
        " updated_at = clock_timestamp(), state = CASE WHEN $8 THEN 'COMPLETED' ELSE state END,"
        " finished_at = CASE WHEN $8 THEN clock_timestamp() END WHERE id = $1",
        run_id,
        after_id,
        counts.created,
        counts.updated,
        counts.archived,
        counts.skipped,
        counts.errors,
        finished,
    )


async def last_finished_at(pool: Pool) -> datetime | None:
    at: datetime | None = await pool.fetchval("SELECT max(finished_at) FROM sync_runs")
    return at


async def try_lock_runs(conn: Conn) -> bool:
    """The lock is the session's: it goes with the connection when the process dies."""
    locked: Any = await conn.fetchval("SELECT pg_try_advisory_lock(hashtextextended('tenant-sync run', 0))")
    return bool(locked)


async def unlock_runs(conn: Conn) -> bool:
    unlocked: Any = await conn.fetchval("SELECT pg_advisory_unlock(hashtextextended('tenant-sync run', 0))")
    return bool(unlocked)
