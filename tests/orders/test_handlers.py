"""What orders does with events."""

from datetime import UTC, datetime
from uuid import uuid4

from orders import handlers
from orders.settings import OrdersSettings
from shared.events import ConnectionConnected
from shared.outbox import Outbox
from shared.settings import load
from tests.conftest import OpenPool, Told

SETTINGS = load(
    OrdersSettings,
    {
        "DATABASE_URL": "unused",
        "NATS_URL": "unused",
        "JWT_SECRET": "unused",
        "KEYBUZZ_INTERNAL_KEY": "unused",
        "VAULT_ADDR": "unused",
        "VAULT_TOKEN": "unused",
    },
)


def connected(**changes: object) -> ConnectionConnected:
    now = datetime.now(UTC)
    fields: dict[str, object] = {
        "tenant_id": "kbz-001",
        "marketplace": "AMAZON",
        "connection_id": uuid4(),
        "seller_id": "A12BCIS2R7HD4D",
        "marketplace_ids": ["A13V1IB3VIYZZH"],
        "region": "eu",
        "app_source": "external_test",
        "connected_at": now,
        "reauthorize_by": now,
    }
    return ConnectionConnected(**(fields | changes))  # type: ignore[arg-type] # fields by name


async def test_a_new_connection_requests_one_backfill(pool_of: OpenPool, outbox: Outbox, told: Told) -> None:
    pool = await pool_of("orders")
    await handlers.start_backfill(connected(), "event-1", pool=pool, outbox=outbox, settings=SETTINGS)
    assert [subject for subject, _ in await told(pool)] == ["backfill.requested"]


async def test_the_same_connection_told_again_with_another_id_requests_nothing(
    pool_of: OpenPool, outbox: Outbox, told: Told
) -> None:
    pool = await pool_of("orders")
    event = connected()
    await handlers.start_backfill(event, "event-1", pool=pool, outbox=outbox, settings=SETTINGS)
    await handlers.start_backfill(event, "event-1", pool=pool, outbox=outbox, settings=SETTINGS)
    await handlers.start_backfill(event, "event-2", pool=pool, outbox=outbox, settings=SETTINGS)
    assert len(await told(pool)) == 1
