"""Beginning a consent: where the seller is sent, and what is kept of it."""

import base64
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import httpx

from oauth.domain import new_state, state_hash
from shared.amazon.credentials import read_app
from tests.builders import APP_PATH, agent, internal, new_id, oauth_vault, operator_vault
from tests.oauth.conftest import API, Oauth

START = f"{API}/oauth/start"


async def test_start_answers_where_to_go_until_when(oauth: Oauth, http: httpx.AsyncClient) -> None:
    before = datetime.now(UTC)
    answer = await http.post(START, json={})
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"authUrl", "expiresAt", "message"}
    assert body["message"].startswith("Redirect ")
    app = await read_app(oauth_vault(oauth.stack), APP_PATH)
    url = urlsplit(body["authUrl"])
    assert f"{url.scheme}://{url.netloc}{url.path}" == f"{oauth.amazon.url}/apps/authorize/consent"
    query = parse_qs(url.query)
    state = query.pop("state")[0]
    assert query == {"application_id": [app.application_id], "redirect_uri": [app.redirect_uri]}
    assert len(base64.urlsafe_b64decode(state + "=")) * 8 == 256
    expires_at = datetime.fromisoformat(body["expiresAt"])
    assert abs(expires_at - before - timedelta(minutes=15)) < timedelta(seconds=30)


async def test_only_the_hash_of_the_state_is_stored(oauth: Oauth, http: httpx.AsyncClient) -> None:
    state = parse_qs(urlsplit(await oauth.start(http)).query)["state"][0]
    [row] = await oauth.pool.fetch("SELECT state_hash, tenant_id, user_id, country, used_at FROM oauth_states")
    assert tuple(row) == (state_hash(state), oauth.tenant_id, "agent-1", "FR", None)
    assert state not in await oauth.all_rows()


def test_no_two_states_are_the_same() -> None:
    assert len({new_state() for _ in range(1_000)}) == 1_000


async def test_start_notes_a_pending_connection(oauth: Oauth, http: httpx.AsyncClient) -> None:
    await oauth.start(http)
    status = await oauth.status(http)
    assert (status["status"], status["region"], status["sellerId"]) == ("PENDING", "eu", None)


async def test_start_works_without_a_body(oauth: Oauth, http: httpx.AsyncClient) -> None:
    answer = await http.post(START)
    assert answer.status_code == 200, answer.text
    assert await oauth.pool.fetchval("SELECT country FROM oauth_states") == "FR"


async def test_start_takes_the_country_that_it_is_given(oauth: Oauth, http: httpx.AsyncClient) -> None:
    await oauth.start(http, country="US")
    assert await oauth.pool.fetchval("SELECT country FROM oauth_states") == "US"
    assert (await oauth.status(http))["region"] == "na"


async def test_an_unknown_country_is_refused_and_named(oauth: Oauth, http: httpx.AsyncClient) -> None:
    for country in ("XX", "fr", "France"):
        answer = await http.post(START, json={"country": country})
        assert answer.status_code == 400
        assert [error["field"] for error in answer.json()["errors"]] == ["country"]
    assert await oauth.pool.fetchval("SELECT count(*) FROM oauth_states") == 0


async def test_a_draft_application_asks_for_the_beta_consent_page(oauth: Oauth) -> None:
    async with oauth.serving(AMAZON_APP_DRAFT="true") as http:
        assert parse_qs(urlsplit(await oauth.start(http)).query)["version"] == ["beta"]


async def test_without_a_stand_in_the_marketplaces_own_host_is_asked(oauth: Oauth) -> None:
    async with oauth.serving(AMAZON_SELLER_CENTRAL_URL="") as http:
        urls = [await oauth.start(http, country=country) for country in ("FR", "US", "JP", "IE")]
    assert [url.partition("?")[0] for url in urls] == [
        "https://sellercentral-europe.amazon.com/apps/authorize/consent",
        "https://sellercentral.amazon.com/apps/authorize/consent",
        "https://sellercentral.amazon.co.jp/apps/authorize/consent",
        "https://sellercentral.amazon.ie/apps/authorize/consent",
    ]


async def test_start_without_credentials_of_the_application_says_so_and_keeps_nothing(oauth: Oauth) -> None:
    async with oauth.serving(AMAZON_SPAPI_APP_PATH_EXTERNAL_TEST=f"keybuzz/ai/{oauth.tenant_id}") as http:
        answer = await http.post(START, json={})
    assert (answer.status_code, answer.json()["code"]) == (503, "app_credentials_rejected")
    assert "No credentials found" in answer.json()["detail"]
    assert await oauth.pool.fetchval("SELECT count(*) FROM oauth_states") == 0


async def test_an_application_without_its_id_is_named_before_amazon_refuses_the_seller(oauth: Oauth) -> None:
    path = f"keybuzz/ai/{oauth.tenant_id}"
    older = {"client_id": "c", "client_secret": "s", "redirect_uri": "https://example.test/callback"}
    await operator_vault(oauth.stack).write(path, older)
    async with oauth.serving(AMAZON_SPAPI_APP_PATH_EXTERNAL_TEST=path) as http:
        answer = await http.post(START, json={})
    assert answer.status_code == 503
    assert "application_id" in answer.json()["detail"]


async def test_a_tenant_cannot_start_for_another_one(oauth: Oauth, http: httpx.AsyncClient) -> None:
    answer = await http.post(START, json={}, headers={"X-Tenant-Id": new_id()})
    assert answer.status_code == 404
    assert await oauth.pool.fetchval("SELECT count(*) FROM oauth_states") == 0


async def test_an_admin_and_the_products_server_start_for_the_tenant_they_name(
    oauth: Oauth, http: httpx.AsyncClient
) -> None:
    del http.headers["Authorization"]
    for headers in (
        agent(oauth.stack, "kbz-001", role="admin") | {"X-Tenant-Id": oauth.tenant_id},
        internal(oauth.stack, oauth.tenant_id),
    ):
        assert (await http.post(START, json={}, headers=headers)).status_code == 200
    tenants = await oauth.pool.fetch("SELECT tenant_id FROM oauth_states")
    assert [row["tenant_id"] for row in tenants] == [oauth.tenant_id] * 2


async def test_without_credentials_nobody_starts(http: httpx.AsyncClient) -> None:
    del http.headers["Authorization"]
    assert (await http.post(START, json={})).status_code == 401
    assert (await http.get(f"{API}/status")).status_code == 401
