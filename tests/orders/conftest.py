"""orders as it runs: its database role, its own Vault role, and Amazon's sandbox behind it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import httpx
import pytest

from devstack.stack import Stack
from orders import handlers, planning, queries, worker
from orders.details import Looks
from orders.routes import ROUTES
from orders.settings import OrdersSettings
from orders.windows import Parts
from shared.amazon.gate import Gate
from shared.amazon.spapi import SpApi
from shared.db import Pool
from shared.outbox import Outbox
from shared.vault import Vault
from tests.builders import (
    Amazon,
    agent,
    connected,
    disconnected,
    new_id,
    oauth_vault,
    serving,
    settings_of,
    synced,
)
from tests.conftest import OpenPool, servers


@pytest.fixture
async def pool(pool_of: OpenPool) -> Pool:
    return await pool_of("orders")


@pytest.fixture
def settings(stack: Stack) -> OrdersSettings:
    return settings_of(OrdersSettings, stack, "orders")


@pytest.fixture
async def network() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        yield client


@pytest.fixture
def amazon(stack: Stack, network: httpx.AsyncClient) -> Amazon:
    return Amazon(stack, network)


@pytest.fixture
def api(settings: OrdersSettings, network: httpx.AsyncClient, pool: Pool) -> SpApi:
    return SpApi(settings, Vault(settings), network, Gate(pool, settings.amazon_spapi_app_source))


@pytest.fixture
def parts(pool: Pool, outbox: Outbox, api: SpApi, network: httpx.AsyncClient) -> Parts:
    return Parts(pool, outbox, api, network)


@pytest.fixture
def looks(parts: Parts) -> Looks:
    return Looks(parts)


@pytest.fixture(scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Of its own: where others have put the sandbox's clock forward, orders lie ahead of what is asked for."""
    async with servers(tmp_path_factory) as running:
        yield running


@pytest.fixture
def dependencies(parts: Parts, looks: Looks) -> dict[str, object]:
    """What the service's routes are given."""
    return {"pool": parts.pool, "outbox": parts.outbox, "looks": looks}


@pytest.fixture
async def http(
    stack: Stack, dependencies: dict[str, object], settings: OrdersSettings
) -> AsyncIterator[httpx.AsyncClient]:
    """The product app, where an agent of kbz-001 is signed in."""
    async with serving("orders", ROUTES, settings, dependencies) as client:
        client.headers.update(agent(stack, "kbz-001"))
        yield client


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits does so for a moment."""
    monkeypatch.setattr(worker, "IDLE_SECONDS", 0.02)
    monkeypatch.setattr(planning, "FIRST_LOOK", 0)


async def connect(pool: Pool, tenant_id: str, seller_id: str = "A12BCIS2R7HD4D") -> None:
    """What start_backfill keeps of an account that is connected now, without a backfill."""
    async with pool.acquire() as conn, conn.transaction():
        await queries.upsert_connection(conn, connected(tenant_id=tenant_id, seller_id=seller_id))


Disconnect = Callable[..., Awaitable[None]]


@pytest.fixture
def disconnect(pool: Pool, outbox: Outbox) -> Disconnect:
    """connection.disconnected arrives: of the default tenant, now, unless it is said."""
    stop_backfill = partial(handlers.stop_backfill, pool=pool, outbox=outbox)

    async def arrive(event_id: str = "", **changes: object) -> None:
        await stop_backfill(disconnected(**changes), event_id or new_id("event"))

    return arrive


Follow = Callable[..., Awaitable[None]]


@pytest.fixture
def follow(pool: Pool, outbox: Outbox) -> Follow:
    """tenant.synced arrives: of the default tenant, active, now, unless it is said."""
    follow_tenant = partial(handlers.follow_tenant, pool=pool, outbox=outbox)

    async def arrive(event_id: str = "", **changes: object) -> None:
        await follow_tenant(synced(**changes), event_id or new_id("event"))

    return arrive


class Seller:
    """A tenant with a connected account of this test alone."""

    def __init__(self, amazon: Amazon, api: SpApi) -> None:
        self.amazon, self.api = amazon, api
        self.tenant_id = new_id()
        self.seller_id = ""

    async def with_orders(self, orders: int, **spec: object) -> "Seller":
        return await self.who_is(await self.amazon.seller(orders, **spec))

    async def who_is(self, seller_id: str) -> "Seller":
        self.seller_id = seller_id
        await self.amazon.authorize(self.api, oauth_vault(self.amazon.stack), self.tenant_id, seller_id)
        return self


@pytest.fixture
def seller(amazon: Amazon, api: SpApi) -> Seller:
    return Seller(amazon, api)
