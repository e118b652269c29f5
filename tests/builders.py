"""What the tests of several services share: settings on the stack, a service's HTTP with real pools, the seller and
the operator at Amazon's sandbox, and events.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlencode, urlsplit
from uuid import uuid4

import httpx
import jwt
import msgspec
import nats
from hypothesis import strategies as st
from litestar.middleware import DefineMiddleware
from litestar.types import ControllerRouterHandler
from nats.aio.client import Client

from devstack.sandbox.client import approve, confirm, renew
from devstack.services import environment
from devstack.stack import Stack
from shared.amazon.credentials import TenantCredentials, read_app, store_tenant
from shared.amazon.spapi import SpApi
from shared.auth import Keys
from shared.events import (
    ConnectionConnected,
    ConnectionDisconnected,
    DisconnectReason,
    MessageReceived,
    MessageSource,
    TenantSynced,
)
from shared.requests import Operation, Requests
from shared.settings import AmazonSettings, Settings, load
from shared.vault import Vault
from shared.web import create_app

S = TypeVar("S", bound=Settings)
APP_PATH = "keybuzz/amazon_spapi/app"


draws = Random()  # noqa: S311 - no secret hangs on it
"""What a test's ids, and with them its orders at the sandbox, are drawn from: anew for each test, see conftest."""


def new_id(prefix: str = "kbz") -> str:
    """A tenant or seller of one test alone, for what tests share: Vault and the sandbox."""
    return f"{prefix}-{draws.getrandbits(48):012x}"


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
        "reauthorize_by": now + timedelta(days=365),
    }
    return ConnectionConnected(**(fields | changes))  # type: ignore[arg-type] # fields by name


def disconnected(**changes: object) -> ConnectionDisconnected:
    fields: dict[str, object] = {
        "tenant_id": "kbz-001",
        "marketplace": "AMAZON",
        "connection_id": uuid4(),
        "reason": DisconnectReason.USER,
        "at": datetime.now(UTC),
    }
    return ConnectionDisconnected(**(fields | changes))  # type: ignore[arg-type] # fields by name


lives = st.lists(st.booleans(), min_size=1, max_size=5).flatmap(lambda life: st.permutations([*enumerate(life)] * 2))
"""What is told of an account: at which minute, and whether it was connected (or disconnected) then. Everything is told
twice, in any order.
"""


def received(tenant_id: str, external_order_id: str | None) -> MessageReceived:
    return MessageReceived(
        tenant_id=tenant_id,
        marketplace="AMAZON",
        message_id=uuid4(),
        external_id="mock-001",
        ticket_id=uuid4(),
        external_order_id=external_order_id,
        source=MessageSource.MOCK,
        received_at=datetime.now(UTC),
    )


def synced(**changes: object) -> TenantSynced:
    fields: dict[str, object] = {
        "tenant_id": "kbz-001",
        "name": "Maison Durand",
        "plan": "PRO",
        "status": "ACTIVE",
        "inbound_addresses": [],
        "synced_at": datetime.now(UTC),
    }
    return TenantSynced(**(fields | changes))  # type: ignore[arg-type] # fields by name


def settings_of(cls: type[S], stack: Stack, service: str, **changes: str) -> S:
    """What the service reads when the stack runs it, but for some variables; an empty one is not set."""
    return load(cls, environment(service, stack.endpoints, stack._ports) | changes)


def internal(stack: Stack, tenant_id: str | None = None) -> dict[str, str]:
    """The headers of the product's server."""
    return {"X-Internal-Key": stack.endpoints.tokens.internal_key} | ({"X-Tenant-Id": tenant_id} if tenant_id else {})


def agent(stack: Stack, tenant_id: str, role: str = "agent") -> dict[str, str]:
    """The headers of a person of the tenant, signed in at the product."""
    claims = {"sub": "agent-1", "role": role, "tenantId": tenant_id, "exp": datetime.now(UTC) + timedelta(hours=1)}
    return {"Authorization": f"Bearer {jwt.encode(claims, stack.endpoints.tokens.jwt_secret, algorithm='HS256')}"}


@asynccontextmanager
async def serving(
    service: str,
    routes: Sequence[ControllerRouterHandler],
    settings: Settings,
    dependencies: Mapping[str, Any],
    middleware: Sequence[DefineMiddleware] = (),
) -> AsyncIterator[httpx.AsyncClient]:
    """The service's HTTP as it is served, without a socket."""
    app = create_app(
        service,
        routes,
        keys=Keys.of(settings),
        dependencies=dependencies,
        checks={},
        asyncapi={"asyncapi": "3.0.0"},
        middleware=middleware,
    )
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type] # the same protocol, typed more closely
    async with httpx.AsyncClient(transport=transport, base_url=f"http://{service}") as client:
        yield client


class Operator:
    """A person at the NATS command line."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def ask(self, subject: str, **body: object) -> Any:
        """What comes back; of an error its problem, whose status the headers have too."""
        answer = await self.client.request(subject, msgspec.json.encode(body) if body else b"", timeout=10)
        said = msgspec.json.decode(answer.data)
        assert (answer.headers or {}).get("Nats-Service-Error-Code") == (
            str(said["status"]) if "code" in said else None
        )
        return said

    async def code(self, subject: str, **body: object) -> str:
        """The code of the error that comes back."""
        return str((await self.ask(subject, **body))["code"])


@asynccontextmanager
async def answering(
    stack: Stack, service: str, operations: Mapping[str, Operation], dependencies: Mapping[str, Any]
) -> AsyncIterator[Operator]:
    """The service's answers over NATS, on a connection as it has it, and somebody who asks."""
    users = stack.endpoints.nats.users
    client = await nats.connect(users[service].url, inbox_prefix=f"_INBOX_{service}".encode())
    operator = await nats.connect(users["operator"].url)
    try:
        await Requests(service).start(client, operations, dependencies)
        yield Operator(operator)
    finally:
        await client.drain()
        await operator.close()


class Amazon:
    """The stack's sandbox, as the seller in the browser and as the one who controls it."""

    def __init__(self, stack: Stack, http: httpx.AsyncClient) -> None:
        self.stack = stack
        self.http = http
        self.url = stack.endpoints.amazon.url

    async def control(self, method: str, path: str, body: object = None) -> Any:
        answer = await self.http.request(method, f"{self.url}/sandbox/{path}", json=body)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    async def seller(self, orders: int = 3, **spec: object) -> str:
        seller_id = new_id("ATEST")
        await self.control("PUT", f"sellers/{seller_id}", {"orders": orders, **spec})
        return seller_id

    async def orders_of(self, seller_id: str) -> list[dict[str, Any]]:
        """What the seller has in truth, oldest first."""
        found: list[dict[str, Any]] = (await self.control("GET", f"sellers/{seller_id}/orders?limit=1000"))["orders"]
        return found

    async def all_orders_of(self, seller_id: str) -> list[dict[str, Any]]:
        """The same, however many there are."""
        found: list[dict[str, Any]] = []
        while True:
            page = await self.control("GET", f"sellers/{seller_id}/orders?limit=1000&offset={len(found)}")
            found += page["orders"]
            if len(found) == page["total"]:
                return found

    async def fail(
        self,
        operation: str,
        status: int | str,
        seller_id: str | None,
        times: int = 1,
        *,
        delay_seconds: float | None = None,
    ) -> None:
        """The kinds are those of devstack.sandbox.faults; 200 with a delay is a success that comes late."""
        fault = {"operation": operation, "status": status, "sellerId": seller_id, "times": times}
        await self.control("POST", "faults", fault | {"delaySeconds": delay_seconds})

    async def revoke(self, seller_id: str) -> None:
        """As the seller does at Seller Central, and as 365 days do."""
        await self.control("POST", f"sellers/{seller_id}/revoke")

    async def set_draft(self, draft: bool, source: str = "external_test") -> None:
        await self.control("PUT", f"applications/{source}", {"draft": draft})

    async def rotate_secret(self, source: str = "external_test", *, expire_old_now: bool = False) -> str:
        """The new client secret; the old one is valid for a week more. Nobody puts it into Vault, and no one brings
        the old one back: in the stack that tests share, use the application that they do not.
        """
        rotated = await self.control("POST", f"applications/{source}/secret", {"expireOldNow": expire_old_now})
        return str(rotated["newClientSecret"])

    async def calls(self, operation: str, seller_id: str) -> dict[str, int]:
        """How many calls were answered with which status."""
        counted: dict[str, int] = (await self.control("GET", "calls")).get(operation, {}).get(seller_id, {})
        return counted

    async def all_calls(self) -> Any:
        return await self.control("GET", "calls")

    async def approve(self, auth_url: str, seller_id: str) -> str:
        """What the seller's browser is sent to after the consent."""
        return await approve(self.http, auth_url, seller_id)

    async def renew(self, seller_id: str, source: str = "external_test") -> str:
        """Where the seller's browser is sent to from Manage Your Apps: our Login URI."""
        application_id = self.stack.endpoints.amazon.applications[source].application_id
        return await renew(self.http, self.url, seller_id, application_id)

    async def confirm(self, callback_url: str) -> str:
        """What Amazon makes of the address that our Login URI sends the browser to."""
        return await confirm(self.http, callback_url)

    async def authorize(self, api: SpApi, vault: Vault, tenant_id: str, seller_id: str) -> None:
        """Leave a tenant with what oauth leaves it with: the seller's refresh token in Vault. The vault has to be
        one that may write.
        """
        app = await read_app(vault, APP_PATH)
        query = {"application_id": app.application_id, "state": "s", "redirect_uri": app.redirect_uri}
        location = await self.approve(f"{self.url}/apps/authorize/consent?{urlencode(query)}", seller_id)
        tokens = await api.exchange(parse_qs(urlsplit(location).query)["spapi_oauth_code"][0])
        await store_tenant(
            vault,
            tenant_id,
            TenantCredentials(
                refresh_token=str(tokens.refresh_token),
                seller_id=seller_id,
                marketplace_id="A13V1IB3VIYZZH",
                region="eu",
                created_at=datetime.now(UTC),
            ),
        )


def oauth_vault(stack: Stack) -> Vault:
    """The one role that writes tenants' credentials."""
    return Vault(settings_of(AmazonSettings, stack, "oauth"))


def operator_vault(stack: Stack) -> Vault:
    """The role that brings in the application's credentials."""
    role = stack.endpoints.vault.roles["operator"]
    settings = settings_of(AmazonSettings, stack, "oauth", VAULT_ROLE_ID=role.role_id, VAULT_SECRET_ID=role.secret_id)
    return Vault(settings)
