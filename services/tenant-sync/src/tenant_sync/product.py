"""The product's database, which this service alone may read, and only read. The mapping of its plan and status to
ours stands here, once, for a single tenant and for pages alike.
"""

import asyncio
import io
from collections.abc import AsyncIterator

from msgspec import Struct

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


class Page(Struct, frozen=True):
    """Tenants as COPY's binary form of id, name, our plan, our status, updated_at: they go from one database to the
    other without becoming Python values on their way. last is the last id of them as the product sorts ids, which our
    database may do otherwise.
    """

    content: bytes
    last: str


async def pages(product: Pool, after: str, limit: int) -> AsyncIterator[Page]:
    """All tenants behind an id, in the order of their ids. The next page is fetched while one is worked on."""
    fetching = asyncio.create_task(_copy_page(product, after, limit))
    try:
        while page := await fetching:
            fetching = asyncio.create_task(_copy_page(product, page.last, limit))
            yield page
    finally:
        fetching.cancel()
        await asyncio.gather(fetching, return_exceptions=True)


async def _copy_page(product: Pool, after: str, limit: int) -> Page | None:
    """None when there is no tenant behind that id."""
    last: str | None = await product.fetchval(
        "SELECT max(id)::text FROM (SELECT id FROM tenants WHERE id > $1 ORDER BY id LIMIT $2) page", after, limit
    )
    if last is None:
        return None
    content = io.BytesIO()
    await product.copy_from_query(
        f"SELECT id::text, coalesce(name::text, ''), {_OURS}, updated_at::timestamptz"  # noqa: S608 - constants
        " FROM tenants WHERE id > $1 AND id <= $2",
        after,
        last,
        output=content,
        format="binary",
    )
    return Page(content.getvalue(), last)


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
