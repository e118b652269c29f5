"""The product's database, which this service alone may read, and only read. The mapping of its plan and status to
ours stands here, once, for a single tenant and for pages alike.
"""

import io

from shared.db import Pool

from .domain import ProductTenant

_OURS = "upper(coalesce(plan::text, '')), upper(coalesce(status::text, ''))"


async def get_tenant(product: Pool, tenant_id: str) -> ProductTenant | None:
    row = await product.fetchrow(
        f"SELECT id::text, coalesce(name::text, ''), plan::text, status::text, {_OURS},"  # noqa: S608 - a constant
        " updated_at::timestamptz"
        " FROM tenants WHERE id = $1",
        tenant_id,
    )
    return ProductTenant(*row) if row else None


async def copy_page(product: Pool, after: str, limit: int) -> bytes:
    """A page in the order of the ids, beginning behind one of them, as COPY's binary form of id, name, our plan, our
    status, updated_at: it goes from one database to the other without becoming Python values on its way.
    """
    page = io.BytesIO()
    await product.copy_from_query(
        f"SELECT id::text, coalesce(name::text, ''), {_OURS}, updated_at::timestamptz"  # noqa: S608 - a constant
        " FROM tenants WHERE id > $1 ORDER BY id LIMIT $2",
        after,
        limit,
        output=page,
        format="binary",
    )
    return page.getvalue()


async def count(product: Pool) -> int:
    number: int = await product.fetchval("SELECT count(*) FROM tenants")
    return number


async def list_absent(product: Pool, tenant_ids: list[str]) -> list[str]:
    """Those of the ids that the product does not have."""
    rows = await product.fetch(
        "SELECT asked FROM unnest($1::text[]) AS asked WHERE NOT EXISTS (SELECT FROM tenants WHERE id = asked)",
        tenant_ids,
    )
    return [row["asked"] for row in rows]
