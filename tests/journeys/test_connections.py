"""An account's whole life over real processes: connected, ended in each way that there is, and connected again. A test
has a tenant of its own; the seller is everybody's, the one whom the mock messages know.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import parse_qs

import asyncpg
import pytest

from devstack.outside import SELLER, Outside, eventually
from devstack.sandbox.client import confirm, renew
from devstack.stack import Stack
from shared.amazon.credentials import look_tenant, tenant_path
from tests.builders import oauth_vault

AMAZON = "/api/v1/marketplaces/amazon"
PRODUCT = "http://localhost:3000/sign-in"


@pytest.fixture(autouse=True)
async def dead_letters(outside: Outside) -> AsyncIterator[list[str]]:
    """At the end every event is handled, and nothing is dead but what the test has put here."""
    before = len(await outside.dead_letters())
    expected: list[str] = []
    yield expected
    await eventually("every event handled", outside.waiting, lambda waiting: waiting == 0)
    assert [subject for subject, *_ in (await outside.dead_letters())[before:]] == expected


class Tenant:
    """A tenant as its agent sees it, at all four services."""

    def __init__(self, outside: Outside, running: Stack, tenant_id: str) -> None:
        self.outside, self.running, self.tenant_id = outside, running, tenant_id

    async def connect(self) -> dict[str, Any]:
        """Connect the account, and see everything go on from there."""
        backfills = await self.backfills()
        page = await self.outside.connect(self.tenant_id)
        assert page.status_code == 200, page.text
        return await self.goes_on(backfills + 1)

    async def goes_on(self, backfills: int) -> dict[str, Any]:
        """Its past orders are fetched, its messages are polled, and oauth and tenant-sync say that it is connected."""
        await eventually("the backfill", self.backfills, lambda count: count == backfills)
        await eventually("polling", self._disconnected_at, lambda at: at is None)
        await eventually("a poll", self._run, lambda status: status == 200)
        await eventually("tenant-sync knows", self._known, lambda known: known == "CONNECTED")
        await eventually("every event handled", self.outside.waiting, lambda waiting: waiting == 0)
        assert len(await self.outside.tickets(self.tenant_id)) == 3
        assert len(await self.outside.orders(self.tenant_id)) == 95
        connection = await self.status()
        assert (connection["status"], connection["credentialsPresent"]) == ("CONNECTED", True)
        assert (connection["lastError"], connection["lastErrorCode"]) == (None, None)
        return connection

    async def stops(self, status: str, reason: str, code: str) -> dict[str, Any]:
        """Nobody uses the account any more, and everybody says why; what was stored stays."""
        connection = await eventually(f"{status} at oauth", self.status, lambda found: found["status"] == status)
        assert connection["lastErrorCode"] == code
        await eventually("the poller stopping", self._disconnected_at)
        await eventually("orders stopping", self._backfill, lambda answer: answer == 409)
        assert await self._run() == 404
        await eventually("tenant-sync knows", self._known, lambda known: known == "DISCONNECTED")
        ended = await self.outside.last_event("connection.disconnected")
        assert ended is not None
        assert (ended["tenantId"], ended["reason"]) == (self.tenant_id, reason)
        assert ended["connectionId"] == connection["connectionId"]
        assert len(await self.outside.tickets(self.tenant_id)) == 3
        assert len(await self.outside.orders(self.tenant_id)) == 95
        return connection

    async def status(self) -> dict[str, Any]:
        return await self.outside.connection(self.tenant_id)

    async def in_vault(self) -> bool:
        return (await look_tenant(oauth_vault(self.running), self.tenant_id)).credentials is not None

    async def backfills(self) -> int:
        """How many that a connection began are complete."""
        rows = await self.outside._fetch(
            "SELECT FROM orders.backfill_jobs WHERE days = 90 AND state = 'COMPLETED'"
            f" AND tenant_id = '{self.tenant_id}'"
        )
        return len(rows)

    async def _disconnected_at(self) -> str | None:
        answer = await self.outside.ask("poller", "GET", "/api/v1/poller/status", tenant=self.tenant_id)
        at: str | None = answer.json()["schedules"][0]["disconnectedAt"]
        return at

    async def _run(self) -> int:
        return (await self.outside.ask("poller", "POST", "/api/v1/poller/run", tenant=self.tenant_id)).status_code

    async def _backfill(self) -> int:
        path = "/api/v1/orders/backfill"
        return (await self.outside.ask("orders", "POST", path, tenant=self.tenant_id, json={"days": 1})).status_code

    async def _known(self) -> str:
        answer = await self.outside.ask("tenant-sync", "GET", f"/api/v1/tenants/status/{self.tenant_id}")
        (connection,) = answer.json()["marketplaceConnections"]
        return str(connection["status"])


@pytest.fixture
async def tenant(outside: Outside, running: Stack) -> AsyncIterator[Callable[[str], Tenant]]:
    """What a test has connected is disconnected when it ends: it concerns no other."""
    made: list[Tenant] = []

    def make(tenant_id: str) -> Tenant:
        made.append(Tenant(outside, running, tenant_id))
        return made[-1]

    yield make
    for each in made:
        answer = await outside.ask("oauth", "POST", f"{AMAZON}/disconnect", tenant=each.tenant_id)
        assert answer.status_code == 200, answer.text


async def revoke(outside: Outside) -> None:
    """The seller withdraws every authorization at Seller Central."""
    answer = await outside.http.post(f"{outside.endpoints.amazon.url}/sandbox/sellers/{SELLER}/revoke")
    assert answer.json()["revoked"]


async def sync(outside: Outside, tenant_id: str, status: str, product: Any = None) -> None:
    """The product says what became of the tenant, and tenant-sync has heard it."""
    if product is not None:
        await product.execute("UPDATE tenants SET status = $2, updated_at = now() WHERE id = $1", tenant_id, status)
    await outside.publish("tenant.updated", {"tenantId": tenant_id})

    async def heard() -> bool:
        answer = await outside.ask("tenant-sync", "GET", f"/api/v1/tenants/status/{tenant_id}")
        return bool(answer.json().get("marketplace", {}).get("status") == status.upper())

    await eventually(f"the tenant {status}", heard)


async def test_an_account_revoked_at_amazon_is_found_out_by_the_next_backfill(
    outside: Outside, tenant: Callable[[str], Tenant]
) -> None:
    seller = tenant("kbz-001")
    await sync(outside, "kbz-001", "active")
    first = await seller.connect()
    await revoke(outside)
    assert await seller._backfill() == 202
    ended = await seller.stops("REVOKED", "REVOKED", "authorization_revoked")
    await eventually("Vault empty", seller.in_vault, lambda held: not held)
    failed = await outside.last_event("backfill.failed")
    assert failed is not None
    assert (failed["tenantId"], failed["error"]) == ("kbz-001", "authorization_revoked")
    again = await seller.connect()
    assert first["connectionId"] == ended["connectionId"] == again["connectionId"]


async def test_an_account_revoked_at_amazon_is_found_out_by_the_next_message_too(
    outside: Outside, tenant: Callable[[str], Tenant], dead_letters: list[str]
) -> None:
    seller = tenant("kbz-002")
    await sync(outside, "kbz-002", "active")
    await seller.connect()
    await revoke(outside)
    message = {
        "tenantId": "kbz-002",
        "marketplace": "AMAZON",
        "messageId": "0190f1c2-7b60-7000-8000-000000000001",
        "externalId": "m-1",
        "ticketId": "0190f1c2-7b60-7000-8000-000000000002",
        "externalOrderId": "404-0000000-0000001",
        "source": "mock",
        "receivedAt": "2026-01-02T03:04:05Z",
    }
    await outside.publish_as_operator("message.received", message)
    await seller.stops("REVOKED", "REVOKED", "authorization_revoked")
    await eventually("Vault empty", seller.in_vault, lambda held: not held)
    dead_letters.append("dlq.MESSAGE.orders-fetch_missing_order")  # the order that nobody can fetch now
    letters = await eventually("the dead letter", outside.dead_letters)
    assert letters[-1][1]["dlq-code"] == "authorization_revoked"
    await seller.connect()


async def test_an_account_is_disconnected_by_its_tenant(outside: Outside, tenant: Callable[[str], Tenant]) -> None:
    seller = tenant("kbz-003")
    await sync(outside, "kbz-003", "active")
    await seller.connect()
    assert await seller.in_vault()
    for _ in range(2):
        answer = await outside.ask("oauth", "POST", f"{AMAZON}/disconnect", tenant="kbz-003")
        assert (answer.status_code, answer.json()["status"]) == (200, "DISCONNECTED")
    await seller.stops("DISCONNECTED", "USER", "disconnected")
    await eventually("Vault empty", seller.in_vault, lambda held: not held)
    await seller.connect()


@pytest.fixture
async def product(running: Stack) -> AsyncIterator[Any]:
    conn = await asyncpg.connect(running.endpoints.postgres.dsns["product"])
    yield conn
    await conn.close()


async def test_an_archived_tenants_account_is_disconnected_and_waits_for_a_new_consent(
    outside: Outside, tenant: Callable[[str], Tenant], product: Any
) -> None:
    seller = tenant("kbz-004")
    await sync(outside, "kbz-004", "active", product)
    await seller.connect()
    await sync(outside, "kbz-004", "archived", product)
    await seller.stops("DISCONNECTED", "TENANT_ARCHIVED", "tenant_archived")
    await eventually("Vault empty", seller.in_vault, lambda held: not held)
    refused = await outside.ask("oauth", "POST", f"{AMAZON}/oauth/start", tenant="kbz-004", json={})
    assert (refused.status_code, refused.json()["code"]) == (409, "tenant_archived")

    await sync(outside, "kbz-004", "active", product)
    await eventually("every event handled", outside.waiting, lambda waiting: waiting == 0)
    await seller.stops("DISCONNECTED", "TENANT_ARCHIVED", "tenant_archived")
    await seller.connect()


async def test_credentials_that_are_gone_from_vault_are_found_out_by_who_asks(
    outside: Outside, running: Stack, tenant: Callable[[str], Tenant]
) -> None:
    seller = tenant("tenant_test_dev")
    await sync(outside, "tenant_test_dev", "active")
    await seller.connect()
    vault = oauth_vault(running)
    await vault.destroy(tenant_path("tenant_test_dev"), up_to=(await look_tenant(vault, "tenant_test_dev")).version)
    status = await seller.status()
    assert (status["status"], status["credentialsPresent"]) == ("ERROR", False)
    assert "has to be connected" in status["lastError"]
    await seller.stops("ERROR", "CREDENTIALS_LOST", "no_credentials")
    await seller.connect()


async def restart(running: Stack, service: str, **variables: str) -> None:
    await running.stop(service)
    await running.start(service, variables)


async def test_an_account_is_connected_and_renewed_from_amazons_side(
    outside: Outside, running: Stack, tenant: Callable[[str], Tenant]
) -> None:
    seller = tenant("ecomlg-001")
    await sync(outside, "ecomlg-001", "active")

    async def from_amazon() -> dict[str, Any]:
        """Manage Your Apps, our Login URI, the product's sign-in, Amazon, our callback, and the product again."""
        backfills = await seller.backfills()
        login = await outside.http.get(await renew(outside.http, running.endpoints.amazon.url, SELLER))
        address, _, query = login.headers["location"].partition("?")
        assert (login.status_code, address) == (302, PRODUCT)
        passed = parse_qs(query)
        body = {
            "amazonCallbackUri": passed["amazon_callback_uri"][0],
            "amazonState": passed["amazon_state"][0],
            "returnUrl": "http://localhost:3000/settings",
        }
        begun = await outside.ask("oauth", "POST", f"{AMAZON}/oauth/start", tenant="ecomlg-001", json=body)
        page = await outside.http.get(await confirm(outside.http, begun.json()["authUrl"]))
        assert (page.status_code, 'href="http://localhost:3000/settings?amazon=connected"' in page.text) == (200, True)
        return await seller.goes_on(backfills + 1)

    await restart(running, "oauth", PRODUCT_LOGIN_URL=PRODUCT, RETURN_ORIGINS="http://localhost:3000")
    first, renewed = await from_amazon(), await from_amazon()
    assert first["connectionId"] == renewed["connectionId"]
    assert first["reauthorizeBy"] < renewed["reauthorizeBy"]
    answer = await outside.ask("oauth", "GET", f"{AMAZON}/history", tenant="ecomlg-001")
    assert [each["toStatus"] for each in answer.json()["items"]] == ["CONNECTED", "CONNECTED", "PENDING"]


async def test_another_application_in_use_asks_every_account_to_be_connected_again(
    outside: Outside, running: Stack, tenant: Callable[[str], Tenant]
) -> None:
    seller = tenant("kbz-001")
    await sync(outside, "kbz-001", "active")
    first = await seller.connect()
    for service in ("oauth", "orders"):
        await restart(running, service, AMAZON_SPAPI_APP_SOURCE="keybuzz")
    await seller.stops("RECONNECT_REQUIRED", "APP_CHANGED", "app_changed")
    assert await seller.in_vault()
    cured = await seller.connect()
    assert (cured["appSource"], cured["connectionId"]) == ("keybuzz", first["connectionId"])
    for service in ("oauth", "orders"):
        await restart(running, service)
    await seller.stops("RECONNECT_REQUIRED", "APP_CHANGED", "app_changed")
