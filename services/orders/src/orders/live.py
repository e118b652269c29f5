"""Orders that are stored outside of a backfill, which others are told of."""

from collections.abc import Sequence

from prometheus_client import Counter

from shared.db import Conn
from shared.events import AMAZON, OrderStored, StoreCause
from shared.outbox import Outbox

from . import order_queries
from .domain import NewOrder, Upserted

STORED = Counter("orders_changed_total", "Orders stored or changed outside of backfills", ["cause"])


async def store(
    conn: Conn, outbox: Outbox, tenant_id: str, orders: Sequence[NewOrder], cause: StoreCause
) -> list[Upserted]:
    """Store them in the caller's transaction, and tell of those that changed, which are returned."""
    changed = await order_queries.upsert_orders(conn, tenant_id, orders)
    STORED.labels(cause).inc(len(changed))
    if changed:
        await outbox.add(
            conn,
            *(
                OrderStored(
                    tenant_id=tenant_id,
                    marketplace=AMAZON,
                    order_id=each.id,
                    external_order_id=each.external_order_id,
                    order_status=each.order_status,
                    is_new=each.is_new,
                    cause=cause,
                )
                for each in changed
            ),
        )
    return changed
