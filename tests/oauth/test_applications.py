"""Our two applications at Amazon, one of which is in use, and their client secrets, which have to be rotated. On a
stack of its own: what has expired at Amazon stays so.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from devstack.stack import Stack
from oauth import reconcile
from oauth.handlers import check_connection
from oauth.lifecycle import Parts
from shared.amazon import orders
from shared.amazon.credentials import tenant_path
from shared.amazon.errors import AppCredentialsError, NotConnectedError
from shared.events import ConnectionRejected
from tests.builders import oauth_vault, operator_vault
from tests.conftest import Told
from tests.oauth.conftest import API, Oauth

KEYBUZZ_PATH = "keybuzz/amazon_spapi/app_keybuzz"
WEEK_SECONDS = 7 * 86_400


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    folder: Path = tmp_path_factory.mktemp("applications") / "state"
    async with Stack(folder, services=()) as running:
        yield running


def keybuzz(oauth: Oauth, transport: httpx.AsyncBaseTransport | None = None) -> Parts:
    """Oauth after the switch to KeyBuzz's own application."""
    return oauth.parts(transport, AMAZON_SPAPI_APP_SOURCE="keybuzz")


async def check(parts: Parts, oauth: Oauth) -> None:
    await reconcile.check(parts, oauth.tenant_id, verify=True)


async def events(oauth: Oauth, told: Told) -> list[tuple[str, str]]:
    """What was told, and of which application or why."""
    return [(subject, event.get("appSource") or event["reason"]) for subject, event in await told(oauth.pool)]


class Nobody(httpx.AsyncBaseTransport):
    """Amazon, whom nobody is to call."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise AssertionError(f"{request.method} {request.url} was called")


async def test_a_switch_of_the_application_asks_for_a_new_consent_and_keeps_the_old_one(
    oauth: Oauth, http: httpx.AsyncClient, told: Told
) -> None:
    seller_id = await oauth.amazon.seller()
    await oauth.connect(http, seller_id)
    first, kept = await oauth.status(http), await oauth.in_vault()
    assert kept is not None
    assert (first["appSource"], kept["app_source"]) == ("external_test", "external_test")

    async with oauth.serving(AMAZON_SPAPI_APP_SOURCE="keybuzz") as switched:
        at_once = await oauth.status(switched)
        assert await events(oauth, told) == [("connection.connected", "external_test")]
        for _ in range(2):
            await check(keybuzz(oauth, Nobody()), oauth)
        checked = await oauth.status(switched)
        for status in (at_once, checked):
            assert (status["status"], status["lastErrorCode"]) == ("RECONNECT_REQUIRED", "app_changed")
            assert (status["appSource"], status["connectionId"]) == ("external_test", first["connectionId"])
            assert "connect it again" in status["lastError"]
        assert await oauth.in_vault() == kept
        assert (await events(oauth, told))[1:] == [("connection.disconnected", "APP_CHANGED")]

        assert (await oauth.connect(switched, seller_id)).status_code == 200
        cured, renewed = await oauth.status(switched), await oauth.in_vault()
    assert (cured["status"], cured["appSource"], cured["lastError"]) == ("CONNECTED", "keybuzz", None)
    assert cured["connectionId"] == first["connectionId"]
    assert renewed is not None
    assert renewed["app_source"] == "keybuzz"
    assert renewed["refresh_token"] != kept["refresh_token"]
    assert (await events(oauth, told))[2:] == [("connection.connected", "keybuzz")]
    await check(keybuzz(oauth), oauth)
    assert len(await told(oauth.pool)) == 3

    await check(oauth.parts(Nobody()), oauth)
    back = await oauth.status(http)
    assert (back["status"], back["lastErrorCode"]) == ("RECONNECT_REQUIRED", "app_changed")
    assert (await events(oauth, told))[3:] == [("connection.disconnected", "APP_CHANGED")]
    assert await oauth.in_vault() == renewed


async def test_what_was_authorized_before_counts_again_when_its_application_does(
    oauth: Oauth, http: httpx.AsyncClient, told: Told
) -> None:
    seller_id = await oauth.amazon.seller()
    await oauth.connect(http, seller_id)
    await check(keybuzz(oauth, Nobody()), oauth)
    await check(oauth.parts(), oauth)
    status = await oauth.status(http)
    assert (status["status"], status["appSource"], status["lastError"]) == ("CONNECTED", "external_test", None)
    assert [subject for subject, _ in await events(oauth, told)] == [
        "connection.connected",
        "connection.disconnected",
        "connection.connected",
    ]


async def test_what_was_revoked_while_the_other_application_was_in_use_is_found_out_after_it(
    oauth: Oauth, http: httpx.AsyncClient, told: Told
) -> None:
    seller_id = await oauth.amazon.seller()
    await oauth.connect(http, seller_id)
    await check(keybuzz(oauth, Nobody()), oauth)
    await oauth.amazon.revoke(seller_id)
    await check(oauth.parts(), oauth)
    assert (await oauth.status(http))["status"] == "REVOKED"
    assert await oauth.in_vault() is None
    assert len(await told(oauth.pool)) == 2


async def test_orders_are_not_asked_for_with_the_wrong_application(oauth: Oauth, http: httpx.AsyncClient) -> None:
    seller_id = await oauth.amazon.seller()
    await oauth.connect(http, seller_id)
    with pytest.raises(NotConnectedError) as refused:
        await orders.get_order(keybuzz(oauth, Nobody()).api, oauth.tenant_id, "407-8949262-6149120")
    assert str(refused.value) == (
        f"The seller of tenant {oauth.tenant_id} has authorized the application external_test, and keybuzz is in use:"
        " the account has to be connected again."
    )
    (order, *_) = await oauth.amazon.orders_of(seller_id)
    assert (await orders.get_order(oauth.parts().api, oauth.tenant_id, order["orderId"])).order_id == order["orderId"]


async def test_credentials_that_do_not_say_their_application_are_used_with_the_one_in_use(
    oauth: Oauth, http: httpx.AsyncClient, told: Told
) -> None:
    """As older installations have them; the connection in the database says then whose they are."""
    seller_id = await oauth.amazon.seller()
    await oauth.connect(http, seller_id)
    kept = await oauth.in_vault()
    assert kept is not None
    del kept["app_source"]
    await oauth_vault(oauth.stack).write(tenant_path(oauth.tenant_id), kept)
    (order, *_) = await oauth.amazon.orders_of(seller_id)
    assert await orders.get_order(oauth.parts().api, oauth.tenant_id, order["orderId"])
    with pytest.raises(AppCredentialsError, match="is for another application"):
        await orders.get_order(keybuzz(oauth).api, oauth.tenant_id, order["orderId"])
    await check(oauth.parts(), oauth)
    assert len(await told(oauth.pool)) == 1
    await check(keybuzz(oauth, Nobody()), oauth)
    assert (await oauth.status(http))["status"] == "RECONNECT_REQUIRED"


class Rotation:
    """A tenant connected with KeyBuzz's application, and an oauth that has read the client secret before."""

    def __init__(self, oauth: Oauth, seller_id: str, parts: Parts, http: httpx.AsyncClient) -> None:
        self.oauth, self.seller_id, self.parts, self.http = oauth, seller_id, parts, http
        self._before: dict[str, int] = {}

    async def put_into_vault(self, client_secret: str) -> None:
        """As an operator does."""
        vault = operator_vault(self.oauth.stack)
        app = await vault.read(KEYBUZZ_PATH)
        assert app is not None
        await vault.write(KEYBUZZ_PATH, app | {"client_secret": client_secret})

    async def calls(self) -> dict[str, int]:
        """How the token endpoint answered about the seller since the last time."""
        now = await self.oauth.amazon.calls("token", self.seller_id)
        since = {status: count - self._before.get(status, 0) for status, count in now.items()}
        self._before = now
        return {status: count for status, count in since.items() if count}

    async def verify(self) -> dict[str, int]:
        """One check of the authorization, and the calls that it took."""
        await self.calls()
        await check(self.parts, self.oauth)
        return await self.calls()

    async def status(self) -> dict[str, Any]:
        return await self.oauth.status(self.http)


@pytest.fixture
async def rotation(oauth: Oauth) -> AsyncIterator[Rotation]:
    seller_id = await oauth.amazon.seller()
    async with oauth.serving(AMAZON_SPAPI_APP_SOURCE="keybuzz") as http:
        assert (await oauth.connect(http, seller_id)).status_code == 200
        parts = keybuzz(oauth)
        rotation = Rotation(oauth, seller_id, parts, http)
        assert await rotation.verify() == {"200": 1}
        yield rotation
    await rotation.put_into_vault(await oauth.amazon.rotate_secret("keybuzz", expire_old_now=True))


async def test_a_rotation_is_noticed_by_no_seller(rotation: Rotation, told: Told) -> None:
    oauth, vault = rotation.oauth, rotation.put_into_vault
    new = await oauth.amazon.rotate_secret("keybuzz")
    assert await rotation.verify() == {"200": 1}
    assert (await oauth.connect(rotation.http, rotation.seller_id)).status_code == 200
    await vault(new)
    assert await rotation.verify() == {"200": 1}
    assert await Rotation(oauth, rotation.seller_id, keybuzz(oauth), rotation.http).verify() == {"200": 1}
    await oauth.amazon.control("POST", "clock", {"advanceSeconds": WEEK_SECONDS + 60})
    assert await rotation.verify() == {"401": 1, "200": 1}
    assert await rotation.verify() == {"200": 1}
    assert [subject for subject, _ in await events(oauth, told)] == ["connection.connected"] * 2
    assert (await rotation.status())["status"] == "CONNECTED"


async def test_a_consent_that_meets_the_end_of_the_old_secret_is_connected(rotation: Rotation) -> None:
    oauth, seller_id = rotation.oauth, await rotation.oauth.amazon.seller()
    location = await oauth.consented(rotation.http, seller_id)
    await rotation.put_into_vault(await oauth.amazon.rotate_secret("keybuzz", expire_old_now=True))
    assert (await oauth.come_back(rotation.http, location)).status_code == 200
    assert await oauth.amazon.calls("token", seller_id) == {"401": 1, "200": 1}
    assert (await rotation.status())["sellerId"] == seller_id


async def test_many_at_once_meet_the_end_of_the_old_secret(rotation: Rotation) -> None:
    await rotation.put_into_vault(await rotation.oauth.amazon.rotate_secret("keybuzz", expire_old_now=True))
    await rotation.calls()
    await asyncio.gather(*(check(rotation.parts, rotation.oauth) for _ in range(10)))
    calls = await rotation.calls()
    assert calls["200"] == 10
    assert calls["401"] <= 10


async def test_an_old_secret_in_vault_is_the_operators_to_change_and_no_tenants_fault(
    rotation: Rotation, told: Told
) -> None:
    oauth = rotation.oauth
    new = await oauth.amazon.rotate_secret("keybuzz", expire_old_now=True)
    kept = await oauth.in_vault()
    [(_, event)] = await told(oauth.pool)
    rejected = ConnectionRejected(
        tenant_id=oauth.tenant_id,
        connection_id=UUID(event["connectionId"]),
        error="authorization_revoked",
        at=datetime.now(UTC),
    )
    await rotation.calls()
    with pytest.raises(AppCredentialsError, match="client_secret is wrong or has expired") as refused:
        await check_connection(rejected, "e1", parts=rotation.parts)
    assert refused.value.patient
    assert await rotation.calls() == {"401": 1}, "nothing in Vault has changed: why ask again"
    with pytest.raises(AppCredentialsError):
        await orders.get_order(keybuzz(oauth).api, oauth.tenant_id, "407-8949262-6149120")
    location = await oauth.consented(rotation.http, rotation.seller_id)
    answer = await oauth.come_back(rotation.http, location)
    assert (answer.status_code, "You have done nothing wrong" in answer.text) == (502, True)
    status = await rotation.status()
    assert (status["status"], status["lastErrorCode"]) == ("CONNECTED", "app_credentials_rejected")
    assert status["credentialsPresent"]
    assert await oauth.in_vault() == kept
    assert len(await told(oauth.pool)) == 1

    await rotation.put_into_vault(new)
    await rotation.calls()
    await check_connection(rejected, "e1", parts=rotation.parts)
    assert await rotation.calls() == {"401": 1, "200": 1}
    assert (await oauth.connect(rotation.http, rotation.seller_id)).status_code == 200
    status = await rotation.status()
    assert (status["status"], status["lastError"]) == ("CONNECTED", None)


class Restless(httpx.AsyncHTTPTransport):
    """An operator who changes the secret in Vault whenever Amazon has answered, and never gets it right."""

    def __init__(self, rotation: Rotation) -> None:
        super().__init__()
        self.rotation, self.changes = rotation, 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await super().handle_async_request(request)
        self.changes += 1
        await self.rotation.put_into_vault(f"mistyped {self.changes}")
        return answer


async def test_amazon_is_asked_no_more_than_once_again_however_often_the_secret_changes(rotation: Rotation) -> None:
    await rotation.put_into_vault("mistyped")
    async with Restless(rotation) as transport:
        with pytest.raises(AppCredentialsError):
            await check(keybuzz(rotation.oauth, transport), rotation.oauth)
        assert transport.changes == 2


async def test_a_wrong_secret_put_into_vault_is_tried_once(rotation: Rotation) -> None:
    new = await rotation.oauth.amazon.rotate_secret("keybuzz", expire_old_now=True)
    await rotation.put_into_vault("mistyped")
    await rotation.calls()
    for calls in (2, 1):
        with pytest.raises(AppCredentialsError):
            await check(rotation.parts, rotation.oauth)
        assert await rotation.calls() == {"401": calls}
    await rotation.put_into_vault(new)
    assert await rotation.verify() == {"401": 1, "200": 1}
    assert (await rotation.status())["status"] == "CONNECTED"
    history = (await rotation.http.get(f"{API}/history")).json()["items"]
    assert {each["toStatus"] for each in history} == {"PENDING", "CONNECTED"}
