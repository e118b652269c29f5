"""Is the account connected, and if not, why: what GET /status says, and what it finds out by itself."""

import asyncio
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from oauth import reconcile
from tests.builders import agent, internal, new_id
from tests.oauth.conftest import API, Oauth
from tests.oauth.lives import NOBODY, Life

STATUS = f"{API}/status"
FR = "A13V1IB3VIYZZH"
NOTHING: dict[str, object] = {
    "marketplace": "AMAZON",
    "displayName": None,
    "connectionId": None,
    "sellerId": None,
    "marketplaceIds": [],
    "region": None,
    "appSource": None,
    "connectedAt": None,
    "reauthorizeBy": None,
    "verifiedAt": None,
    "lastError": None,
    "lastErrorCode": None,
    "credentialsPresent": None,
    "credentialsError": None,
    "clientSecretRotateBy": None,
}


async def test_a_tenant_without_a_connection_reads_not_connected(oauth: Oauth, http: httpx.AsyncClient) -> None:
    assert await oauth.status(http) == NOTHING | {"tenantId": oauth.tenant_id, "status": "NOT_CONNECTED"}


async def test_a_begun_consent_reads_pending(life: Life, oauth: Oauth, http: httpx.AsyncClient) -> None:
    await life.begin()
    assert await oauth.status(http) == NOTHING | {
        "tenantId": oauth.tenant_id,
        "status": "PENDING",
        "connectionId": str((await life.known()).id),
        "region": "eu",
        "appSource": "external_test",
        "credentialsPresent": False,
    }


async def test_every_field_of_a_connection_is_told(life: Life, oauth: Oauth, http: httpx.AsyncClient) -> None:
    connection = await life.connect()
    await reconcile.remind(life.parts)
    status = await oauth.status(http)
    times = {
        name: datetime.fromisoformat(status.pop(name))
        for name in ("connectedAt", "reauthorizeBy", "verifiedAt", "clientSecretRotateBy")
    }
    app = await life.parts.api.app()
    assert app.client_secret_created_at is not None
    assert connection.authorized_at is not None
    assert times.pop("clientSecretRotateBy") - app.client_secret_created_at == timedelta(days=180)
    assert times == {
        "connectedAt": connection.connected_at,
        "reauthorizeBy": connection.authorized_at + timedelta(days=365),
        "verifiedAt": connection.verified_at,
    }
    assert status == {
        "tenantId": oauth.tenant_id,
        "marketplace": "AMAZON",
        "status": "CONNECTED",
        "displayName": f"Amazon Seller {life.seller_id}",
        "connectionId": str(connection.id),
        "sellerId": life.seller_id,
        "marketplaceIds": [FR],
        "region": "eu",
        "appSource": "external_test",
        "lastError": None,
        "lastErrorCode": None,
        "credentialsPresent": True,
        "credentialsError": None,
    }


async def test_connected_with_nothing_in_vault_is_never_told(life: Life, oauth: Oauth, http: httpx.AsyncClient) -> None:
    await life.connect()
    kept = await life.destroy()
    assert kept is not None
    statuses = await asyncio.gather(*(oauth.status(http) for _ in range(5)))
    assert {(each["status"], each["lastErrorCode"], each["credentialsPresent"]) for each in statuses} == {
        ("ERROR", "no_credentials", False)
    }
    assert "No credentials found" in statuses[0]["lastError"]
    assert await life.ends() == ["connected", "CREDENTIALS_LOST"]
    await life.write(kept)
    status = await oauth.status(http)
    assert (status["status"], status["credentialsPresent"]) == ("ERROR", True)  # Amazon is asked by the next check
    await life.check()
    assert (await oauth.status(http))["status"] == "CONNECTED"


@pytest.mark.parametrize("secret", [{}, {"refresh_token": "", "seller_id": "A"}], ids=["empty", "incomplete"])
async def test_connected_with_what_cannot_be_used_in_vault_is_never_told(
    life: Life, oauth: Oauth, http: httpx.AsyncClient, secret: dict[str, str]
) -> None:
    await life.connect()
    await life.write(secret)
    status = await oauth.status(http)
    assert (status["status"], status["lastErrorCode"], status["credentialsPresent"]) == (
        "ERROR",
        "no_credentials",
        False,
    )
    assert await life.ends() == ["connected", "CREDENTIALS_LOST"]


async def test_a_disconnected_account_has_no_credentials(life: Life, oauth: Oauth, http: httpx.AsyncClient) -> None:
    await life.connect()
    await life.disconnect()
    status = await oauth.status(http)
    assert (status["status"], status["lastErrorCode"], status["credentialsPresent"], status["sellerId"]) == (
        "DISCONNECTED",
        "disconnected",
        False,
        life.seller_id,
    )


async def test_while_vault_is_away_the_status_says_that_it_cannot_know(life: Life, oauth: Oauth) -> None:
    await life.connect()
    async with oauth.serving(VAULT_ADDR=NOBODY) as http:
        status = await oauth.status(http)
    assert (status["status"], status["credentialsPresent"]) == ("CONNECTED", None)
    assert status["credentialsError"].startswith("Vault cannot be reached")
    assert await life.ends() == ["connected"]


async def test_a_vault_that_does_not_answer_is_not_waited_for(life: Life, oauth: Oauth) -> None:
    await life.connect()
    held = asyncio.Event()

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await held.wait()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    address = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with oauth.serving(VAULT_ADDR=address) as http:
        status = await oauth.status(http)
    held.set()
    server.close()
    assert (status["status"], status["credentialsPresent"]) == ("CONNECTED", None)
    assert status["credentialsError"].startswith("Vault does not answer in time")


async def test_a_role_that_vault_refuses_is_told_in_words(life: Life, oauth: Oauth) -> None:
    await life.connect()
    async with oauth.serving(VAULT_SECRET_ID="wrong") as http:
        status = await oauth.status(http)
    assert (status["status"], status["credentialsPresent"]) == ("CONNECTED", None)
    assert status["credentialsError"].startswith("Vault refused this service")


async def test_a_connection_of_the_other_application_reads_reconnect_required_at_once(
    life: Life, oauth: Oauth, http: httpx.AsyncClient
) -> None:
    await life.connect()
    async with oauth.serving(AMAZON_SPAPI_APP_SOURCE="keybuzz") as switched:
        status = await oauth.status(switched)
    assert (status["status"], status["lastErrorCode"], status["appSource"], status["credentialsPresent"]) == (
        "RECONNECT_REQUIRED",
        "app_changed",
        "external_test",
        True,
    )
    assert "connect it again" in status["lastError"]
    assert (await oauth.status(http))["status"] == "CONNECTED"
    assert await life.ends() == ["connected"]  # the reconciler tells it


async def test_a_tenant_reads_its_own_status_alone(life: Life, oauth: Oauth, http: httpx.AsyncClient) -> None:
    await life.connect()
    stranger = agent(oauth.stack, new_id())
    assert (await http.get(STATUS, headers=stranger)).json()["status"] == "NOT_CONNECTED"
    assert (await http.get(STATUS, headers=stranger | {"X-Tenant-Id": oauth.tenant_id})).status_code == 404
    admin = agent(oauth.stack, new_id(), role="admin") | {"X-Tenant-Id": oauth.tenant_id}
    for headers in (admin, {"Authorization": ""} | internal(oauth.stack, oauth.tenant_id)):
        assert (await http.get(STATUS, headers=headers)).json()["status"] == "CONNECTED"


async def test_nothing_secret_is_in_the_status(life: Life, http: httpx.AsyncClient) -> None:
    await life.connect()
    kept = await life.secret()
    assert kept is not None
    answer = (await http.get(STATUS)).text
    for secret in (kept["refresh_token"], "Atzr", "Atza", "secret/", "keybuzz/tenants"):
        assert secret not in answer
    assert datetime.now(UTC).strftime("%Y") in answer
