"""The product's database, which this service alone may read, and only read."""

from shared.db import Pool

from .domain import ProductTenant


async def get_tenant(product: Pool, tenant_id: str) -> ProductTenant | None:
    row = await product.fetchrow("SELECT id, name, plan, status, updated_at FROM tenants WHERE id = $1", tenant_id)
    return ProductTenant(**row) if row else None


async def list_tenants(product: Pool, after: str, limit: int) -> list[ProductTenant]:
    """A page in the order of the ids, beginning behind one of them."""
    rows = await product.fetch(
        "SELECT id, name, plan, status, updated_at FROM tenants WHERE id > $1 ORDER BY id LIMIT $2", after, limit
    )
    return [ProductTenant(**row) for row in rows]
