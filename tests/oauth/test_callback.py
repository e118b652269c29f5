"""The way back from Amazon's consent page, with everything that can go wrong on it."""

import asyncio
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest

from shared.amazon.credentials import read_app
from tests.builders import APP_PATH, oauth_vault, operator_vault
from tests.conftest import Told
from tests.oauth.conftest import API, Oauth

CALLBACK = f"{API}/oauth/callback"
FR, DE = "A13V1IB3VIYZZH", "A1PA6795UKMFR9"


def assert_page(answer: httpx.Response, status: int, *texts: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    for text in texts:
        assert text in answer.text


async def test_a_consent_ends_in_a_connection_that_everybody_hears_of(
    oauth: Oauth, http: httpx.AsyncClient, told: Told
) -> None:
    seller_id = await oauth.amazon.seller(marketplaceIds=[FR, DE])
    before = datetime.now(UTC)
    answer = await oauth.connect(http, seller_id)
    assert_page(answer, 200, "Your Amazon account is connected", f"Amazon Seller {seller_id}")

    status = await oauth.status(http)
    connected_at, reauthorize_by = (datetime.fromisoformat(status.pop(f)) for f in ("connectedAt", "reauthorizeBy"))
    connection_id = status.pop("connectionId")
    assert before <= datetime.fromisoformat(status.pop("verifiedAt")) <= datetime.now(UTC)
    assert status == {
        "tenantId": oauth.tenant_id,
        "marketplace": "AMAZON",
        "status": "CONNECTED",
        "displayName": f"Amazon Seller {seller_id}",
        "sellerId": seller_id,
        "marketplaceIds": [FR, DE],
        "region": "eu",
        "appSource": "external_test",
        "lastError": None,
        "lastErrorCode": None,
        "credentialsPresent": True,
        "credentialsError": None,
        "clientSecretRotateBy": None,
    }
    assert before <= connected_at <= datetime.now(UTC)
    assert reauthorize_by - connected_at >= timedelta(days=364, hours=23)

    [(subject, body)] = await told(oauth.pool)
    assert subject == "connection.connected"
    assert datetime.fromisoformat(body.pop("connectedAt")) == connected_at
    assert datetime.fromisoformat(body.pop("reauthorizeBy")) == reauthorize_by
    assert body == {
        "tenantId": oauth.tenant_id,
        "marketplace": "AMAZON",
        "connectionId": connection_id,
        "sellerId": seller_id,
        "marketplaceIds": [FR, DE],
        "region": "eu",
        "appSource": "external_test",
    }


async def test_the_refresh_token_is_in_vault_and_nowhere_else(oauth: Oauth, http: httpx.AsyncClient) -> None:
    seller_id = await oauth.amazon.seller()
    location = await oauth.consented(http, seller_id)
    answer = await oauth.come_back(http, location)
    kept = await oauth.in_vault()
    assert kept is not None
    assert set(kept) == {"refresh_token", "seller_id", "marketplace_id", "region", "created_at", "app_source"}
    assert (kept["seller_id"], kept["marketplace_id"], kept["region"]) == (seller_id, FR, "eu")
    assert kept["refresh_token"].startswith("Atzr|")
    assert abs(datetime.fromisoformat(kept["created_at"]) - datetime.now(UTC)) < timedelta(minutes=1)
    code = parse_qs(urlsplit(location).query)["spapi_oauth_code"][0]
    everything = await oauth.all_rows() + answer.text
    assert seller_id in everything
    for secret in (kept["refresh_token"], "Atzr|", "Atza|", code):
        assert secret not in everything


async def test_a_state_works_once(oauth: Oauth, http: httpx.AsyncClient, told: Told) -> None:
    location = await oauth.consented(http, await oauth.amazon.seller())
    assert_page(await oauth.come_back(http, location), 200)
    kept = await oauth.in_vault()
    calls = await oauth.amazon.all_calls()
    assert_page(await oauth.come_back(http, location), 200, "was connected with this link", "Nothing is left to do")
    signed_in = await http.get(location)
    assert_page(signed_in, 400, "Invalid state", "used before", "Connect")
    assert await oauth.amazon.all_calls() == calls
    assert await oauth.in_vault() == kept
    assert len(await told(oauth.pool)) == 1


async def test_a_state_that_nobody_began_is_refused_before_amazon_is_asked(
    oauth: Oauth, http: httpx.AsyncClient, told: Told
) -> None:
    await oauth.start(http)
    calls = await oauth.amazon.all_calls()
    for state in ("forged", "", "é\x00", None):
        query = {"spapi_oauth_code": "code", "selling_partner_id": "ASELLER"} | ({"state": state} if state else {})
        answer = await oauth.come_back(http, f"{CALLBACK}?{urlencode(query)}")
        assert_page(answer, 400, "Invalid state", "Go back to KeyBuzz", "Connect")
    assert await oauth.amazon.all_calls() == calls
    assert await oauth.in_vault() is None
    assert await told(oauth.pool) == []
    assert (await oauth.status(http))["status"] == "PENDING"


async def test_an_expired_state_is_refused_before_amazon_is_asked(
    oauth: Oauth, http: httpx.AsyncClient, told: Told
) -> None:
    location = await oauth.consented(http, await oauth.amazon.seller())
    await oauth.pool.execute("UPDATE oauth_states SET expires_at = clock_timestamp() - interval '1 second'")
    calls = await oauth.amazon.all_calls()
    assert_page(await oauth.come_back(http, location), 400, "Invalid state", "15 minutes", "Connect")
    assert await oauth.amazon.all_calls() == calls
    assert await oauth.in_vault() is None
    assert await told(oauth.pool) == []


async def test_of_two_callbacks_at_once_one_wins(oauth: Oauth, http: httpx.AsyncClient, told: Told) -> None:
    seller_id = await oauth.amazon.seller()
    location = await oauth.consented(http, seller_id)
    answers = await asyncio.gather(*(http.get(location) for _ in range(2)))
    assert sorted(answer.status_code for answer in answers) == [200, 400]
    assert await oauth.amazon.calls("token", seller_id) == {"200": 1}
    assert len(await told(oauth.pool)) == 1


async def test_a_cancelled_consent_stores_nothing(oauth: Oauth, http: httpx.AsyncClient, told: Told) -> None:
    state = parse_qs(urlsplit(await oauth.start(http)).query)["state"][0]
    answer = await oauth.come_back(http, f"{CALLBACK}?{urlencode({'state': state})}")
    assert_page(answer, 400, "Your account was not connected", "cancelled", "Connect")
    assert await oauth.in_vault() is None
    assert await told(oauth.pool) == []
    assert (await oauth.status(http))["status"] == "PENDING"


async def test_a_code_that_amazon_does_not_take_is_said_on_the_page_and_in_the_status(
    oauth: Oauth, http: httpx.AsyncClient, told: Told
) -> None:
    seller_id = await oauth.amazon.seller()
    location = await oauth.consented(http, seller_id)
    answer = await oauth.come_back(http, location.replace("spapi_oauth_code=RH", "spapi_oauth_code=XX"))
    assert_page(answer, 400, "Token exchange failed", "invalid_grant", "Connect")
    status = await oauth.status(http)
    assert status["status"] == "ERROR"
    assert "invalid_grant" in status["lastError"]
    assert await oauth.in_vault() is None
    assert await told(oauth.pool) == []


async def test_a_code_that_was_used_is_not_taken_again(oauth: Oauth, http: httpx.AsyncClient) -> None:
    seller_id = await oauth.amazon.seller()
    used = parse_qs(urlsplit(await oauth.consented(http, seller_id)).query)["spapi_oauth_code"][0]
    app = await read_app(oauth_vault(oauth.stack), APP_PATH)
    form = {"grant_type": "authorization_code", "code": used, "redirect_uri": app.redirect_uri}
    form |= {"client_id": app.client_id, "client_secret": app.client_secret}
    assert (await oauth.network.post(f"{oauth.amazon.url}/auth/o2/token", data=form)).is_success
    query = parse_qs(urlsplit(await oauth.start(http)).query)
    back = {"state": query["state"][0], "spapi_oauth_code": used, "selling_partner_id": seller_id}
    assert_page(await oauth.come_back(http, f"{CALLBACK}?{urlencode(back)}"), 400, "Token exchange failed")


async def test_a_code_older_than_five_minutes_is_not_taken(oauth: Oauth, http: httpx.AsyncClient) -> None:
    location = await oauth.consented(http, await oauth.amazon.seller())
    await oauth.amazon.control("POST", "clock", {"advanceSeconds": 301})
    assert_page(await oauth.come_back(http, location), 400, "Token exchange failed")
    assert (await oauth.status(http))["status"] == "ERROR"


async def test_a_wrong_secret_of_the_application_is_our_fault_and_said_so(oauth: Oauth, told: Told) -> None:
    app = await read_app(oauth_vault(oauth.stack), APP_PATH)
    path = f"keybuzz/ai/{oauth.tenant_id}"
    wrong = {"client_id": app.client_id, "client_secret": "wrong", "redirect_uri": app.redirect_uri}
    await operator_vault(oauth.stack).write(path, wrong | {"application_id": app.application_id})
    async with oauth.serving(AMAZON_SPAPI_APP_PATH_EXTERNAL_TEST=path) as http:
        answer = await oauth.connect(http, await oauth.amazon.seller())
        assert_page(answer, 502, "You have done nothing wrong", "Token exchange failed", "invalid_client")
        assert (await oauth.status(http))["status"] == "ERROR"
    assert await told(oauth.pool) == []


async def test_nothing_at_the_applications_path_is_said_in_the_words_of_the_runbook(
    oauth: Oauth, http: httpx.AsyncClient
) -> None:
    location = await oauth.consented(http, await oauth.amazon.seller())
    async with oauth.serving(AMAZON_SPAPI_APP_PATH_EXTERNAL_TEST=f"keybuzz/ai/{oauth.tenant_id}") as without:
        assert_page(await oauth.come_back(without, location), 502, "No credentials found")


async def test_amazon_failing_is_for_later(oauth: Oauth, http: httpx.AsyncClient, told: Told) -> None:
    seller_id = await oauth.amazon.seller()
    location = await oauth.consented(http, seller_id)
    await oauth.amazon.fail("token", 500, seller_id, times=3)
    assert_page(await oauth.come_back(http, location), 503, "Wait some minutes", "Connect")
    assert (await oauth.status(http))["status"] == "ERROR"
    assert await told(oauth.pool) == []
    assert_page(await oauth.connect(http, seller_id), 200)
    assert (await oauth.status(http))["lastError"] is None


async def test_vault_refusing_the_token_is_for_later_and_connects_nothing(oauth: Oauth, told: Told) -> None:
    reader = oauth.stack.endpoints.vault.roles["orders"]  # reads the application's credentials, writes nothing
    async with oauth.serving(VAULT_ROLE_ID=reader.role_id, VAULT_SECRET_ID=reader.secret_id) as http:
        answer = await oauth.connect(http, await oauth.amazon.seller())
        assert_page(answer, 503, "Wait some minutes", "Vault refused")
        assert (await oauth.status(http))["status"] == "ERROR"
    assert await oauth.in_vault() is None
    assert await told(oauth.pool) == []


@pytest.mark.parametrize("status", [429, 500])
async def test_the_consents_marketplace_stands_in_when_amazon_does_not_tell_them_all(
    oauth: Oauth, http: httpx.AsyncClient, status: int
) -> None:
    seller_id = await oauth.amazon.seller(marketplaceIds=[FR, DE])
    await oauth.amazon.fail("getMarketplaceParticipations", status, seller_id)
    assert_page(await oauth.connect(http, seller_id, country="DE"), 200, "connected")
    assert (await oauth.status(http))["marketplaceIds"] == [DE]


class WithoutSellersRole(httpx.AsyncHTTPTransport):
    """Amazon to an application that lacks the role for the Sellers API; all else is the sandbox's answer."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.startswith("/sellers/"):
            error = {"code": "Unauthorized", "message": "Access to requested resource is denied.", "details": ""}
            return httpx.Response(403, json={"errors": [error]}, request=request)
        return await super().handle_async_request(request)


async def test_an_application_without_the_role_for_sellers_connects_all_the_same(oauth: Oauth) -> None:
    async with WithoutSellersRole() as transport, oauth.serving(transport) as http:
        assert_page(await oauth.connect(http, await oauth.amazon.seller()), 200, "connected")
        status = await oauth.status(http)
    assert (status["status"], status["marketplaceIds"]) == ("CONNECTED", [FR])


async def test_a_reconnect_that_fails_leaves_the_connection_that_works(
    oauth: Oauth, http: httpx.AsyncClient, told: Told
) -> None:
    seller_id = await oauth.amazon.seller()
    await oauth.connect(http, seller_id)
    kept = await oauth.in_vault()
    location = await oauth.consented(http, seller_id)
    await oauth.amazon.fail("token", 500, seller_id, times=3)
    assert_page(await oauth.come_back(http, location), 503)
    status = await oauth.status(http)
    assert (status["status"], status["sellerId"]) == ("CONNECTED", seller_id)
    assert "500" in status["lastError"]
    assert await oauth.in_vault() == kept
    assert len(await told(oauth.pool)) == 1


async def test_the_same_seller_connected_anew_keeps_the_connection_and_is_told_again(
    oauth: Oauth, http: httpx.AsyncClient, told: Told
) -> None:
    seller_id = await oauth.amazon.seller()
    for _ in range(2):
        await oauth.connect(http, seller_id)
    (_, first), (_, second) = await told(oauth.pool)
    assert first["connectionId"] == second["connectionId"]
    assert first["connectedAt"] < second["connectedAt"]
    assert first["reauthorizeBy"] < second["reauthorizeBy"]


async def test_another_seller_is_another_connection_and_the_first_one_is_told_as_ended(
    oauth: Oauth, http: httpx.AsyncClient, told: Told
) -> None:
    first_seller, second_seller = await oauth.amazon.seller(), await oauth.amazon.seller(region="NA")
    await oauth.connect(http, first_seller)
    await oauth.connect(http, second_seller, country="US")
    (_, first), (ended, end), (_, second) = await told(oauth.pool)
    assert (ended, end["connectionId"], end["reason"]) == ("connection.disconnected", first["connectionId"], "USER")
    assert first["connectionId"] != second["connectionId"]
    assert first["connectedAt"] < end["at"] < second["connectedAt"]
    assert (second["sellerId"], second["region"]) == (second_seller, "na")
    kept = await oauth.in_vault()
    assert kept is not None
    assert (kept["seller_id"], kept["region"]) == (second_seller, "na")


async def test_a_tenant_that_never_began_is_not_connected(oauth: Oauth, http: httpx.AsyncClient) -> None:
    status = await oauth.status(http)
    assert (status["tenantId"], status["status"]) == (oauth.tenant_id, "NOT_CONNECTED")


async def test_nothing_that_comes_in_the_address_gets_into_the_page_as_markup(
    oauth: Oauth, http: httpx.AsyncClient
) -> None:
    attack = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    location = await oauth.consented(http, await oauth.amazon.seller())
    good = {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}
    answers = []
    for name in ("state", "spapi_oauth_code", "selling_partner_id", "mws_auth_token", "error"):
        state = parse_qs(urlsplit(await oauth.start(http)).query)["state"][0]
        query = good | {"state": state, "spapi_oauth_code": "wrong"} | {name: attack}
        answers.append(await oauth.come_back(http, f"{CALLBACK}?{urlencode(query)}"))
    # A good code with a seller id of the attacker's making is the one that gets furthest.
    answers.append(await oauth.come_back(http, f"{CALLBACK}?{urlencode(good | {'selling_partner_id': attack})}"))
    for answer in answers:
        assert "<script" not in answer.text
        assert "<img" not in answer.text


async def test_a_seller_id_that_was_tampered_with_is_refused_and_leaves_the_consent_open(
    oauth: Oauth, http: httpx.AsyncClient
) -> None:
    seller_id = await oauth.amazon.seller()
    location = await oauth.consented(http, seller_id)
    for tampered in ("A\x00B", "../app", "A" * 65, "A\n"):
        query = {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}
        answer = await oauth.come_back(http, f"{CALLBACK}?{urlencode(query | {'selling_partner_id': tampered})}")
        assert_page(answer, 400, "Your account was not connected")
    assert_page(await oauth.come_back(http, location), 200)


async def test_every_page_keeps_its_address_to_itself_and_runs_nothing(oauth: Oauth, http: httpx.AsyncClient) -> None:
    for answer in (
        await oauth.connect(http, await oauth.amazon.seller()),
        await oauth.come_back(http, CALLBACK),
    ):
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
