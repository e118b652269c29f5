"""All SQL on our own tables. conn: inside the caller's transaction; pool: a statement of its own."""

from collections.abc import Sequence

import msgspec

from shared.db import Conn, Pool
from shared.events import AMAZON, ConnectionConnected

from .domain import Address, Change, Connection, ProductTenant, Tenant, copied


async def upsert_tenants(conn: Conn, tenants: Sequence[ProductTenant]) -> dict[str, Change]:
    """What happened to each; a copy that the product has changed since never overwrites a newer one. The time of a
    newer copy is kept even when it says the same, or a copy from between two changes would pass for the newest.
    """
    copies = [copied(tenant) for tenant in tenants]
    rows = await conn.fetch(
        """
        INSERT INTO tenants AS t (id, name, plan, status, product_updated_at)
        SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[])
        ON CONFLICT (id) DO UPDATE
           SET name = excluded.name, plan = excluded.plan, status = excluded.status,
               product_updated_at = excluded.product_updated_at, updated_at = clock_timestamp()
         WHERE t.product_updated_at < excluded.product_updated_at
            OR (t.product_updated_at = excluded.product_updated_at
                AND (t.name, t.plan, t.status) IS DISTINCT FROM (excluded.name, excluded.plan, excluded.status))
        RETURNING new.id, old.id IS NULL AS created,
                  (old.name, old.plan, old.status) IS DISTINCT FROM (new.name, new.plan, new.status) AS differs
        """,
        [tenant.id for tenant in copies],
        [tenant.name for tenant in copies],
        [tenant.plan for tenant in copies],
        [tenant.status for tenant in copies],
        [tenant.updated_at for tenant in tenants],
    )
    changed = {row["id"]: Change.CREATED if row["created"] else Change.UPDATED for row in rows if row["differs"]}
    return {tenant.id: changed.get(tenant.id, Change.SKIPPED) for tenant in tenants}


async def get_tenant(conn: Conn | Pool, tenant_id: str) -> Tenant | None:
    row = await conn.fetchrow("SELECT id, name, plan, status FROM tenants WHERE id = $1", tenant_id)
    return Tenant(**row) if row else None


async def list_tenants(conn: Conn, tenant_ids: Sequence[str]) -> list[tuple[Tenant, list[Address]]]:
    """Tenants with their addresses."""
    rows = await conn.fetch(
        """
        SELECT t.id, t.name, t.plan, t.status,
               coalesce(jsonb_agg(jsonb_build_object('marketplace', a.marketplace, 'country', a.country,
                                                     'email', a.email, 'status', a.status)
                                  ORDER BY a.marketplace, a.country)
                        FILTER (WHERE a.email IS NOT NULL), '[]') AS addresses
          FROM tenants t LEFT JOIN inbound_addresses a ON a.tenant_id = t.id
         WHERE t.id = ANY ($1::text[]) GROUP BY t.id ORDER BY t.id
        """,
        tenant_ids,
    )
    return [
        (Tenant(row["id"], row["name"], row["plan"], row["status"]), msgspec.convert(row["addresses"], list[Address]))
        for row in rows
    ]


async def insert_address(conn: Conn, tenant_id: str, country: str, email: str) -> bool:
    """False when the tenant has an address for the country already."""
    inserted = await conn.fetchval(
        "INSERT INTO inbound_addresses (tenant_id, marketplace, country, email, status)"
        " VALUES ($1, $2, $3, $4, 'PENDING') ON CONFLICT (tenant_id, marketplace, country) DO NOTHING RETURNING true",
        tenant_id,
        AMAZON,
        country,
        email,
    )
    return inserted is not None


async def list_addresses(conn: Conn | Pool, tenant_id: str) -> list[Address]:
    rows = await conn.fetch(
        "SELECT marketplace, country, email, status FROM inbound_addresses"
        " WHERE tenant_id = $1 ORDER BY marketplace, country",
        tenant_id,
    )
    return [Address(**row) for row in rows]


async def upsert_connection(conn: Conn, event: ConnectionConnected) -> None:
    """The newest connection of a tenant and marketplace wins, in whatever order they arrive."""
    await conn.execute(
        """
        INSERT INTO inbound_connections AS c (tenant_id, marketplace, connection_id, seller_id, status, connected_at)
        VALUES ($1, $2, $3, $4, 'CONNECTED', $5)
        ON CONFLICT (tenant_id, marketplace) DO UPDATE
           SET connection_id = excluded.connection_id, seller_id = excluded.seller_id, status = excluded.status,
               connected_at = excluded.connected_at
         WHERE c.connected_at < excluded.connected_at
        """,
        event.tenant_id,
        event.marketplace,
        event.connection_id,
        event.seller_id,
        event.connected_at,
    )


async def list_connections(pool: Pool, tenant_id: str) -> list[Connection]:
    rows = await pool.fetch(
        "SELECT marketplace, connection_id, seller_id, status FROM inbound_connections"
        " WHERE tenant_id = $1 ORDER BY marketplace",
        tenant_id,
    )
    return [Connection(**row) for row in rows]
