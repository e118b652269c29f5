"""Who may do what over HTTP, how often, and where the seller is led back to."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from html import unescape
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import jwt
import pytest

from oauth.domain import Status
from tests.builders import agent, internal, new_id
from tests.oauth.conftest import API, Oauth
from tests.oauth.lives import Life

START, LOGIN, CALLBACK = f"{API}/oauth/start", f"{API}/oauth/login", f"{API}/oauth/callback"
DISCONNECT, HISTORY = f"{API}/disconnect", f"{API}/history"
NOBODY = {"Authorization": ""}
PRODUCT = "https://app.keybuzz.test"


def user(oauth: Oauth, name: str, tenant_id: str | None = None, role: str = "agent") -> dict[str, str]:
    claims = {
        "sub": name,
        "role": role,
        "tenantId": tenant_id or oauth.tenant_id,
        "exp": datetime.now(UTC) + timedelta(hours=1),
    }
    token = jwt.encode(claims, oauth.stack.endpoints.tokens.jwt_secret, algorithm="HS256")
    return {"Authorization": f"Bearer {token}"}


# Whose consent it is


async def test_a_consent_is_completed_by_nobody_else_who_is_signed_in(
    oauth: Oauth, life: Life, http: httpx.AsyncClient
) -> None:
    location = await oauth.consented(http, life.seller_id)
    for stranger in (user(oauth, "agent-1", new_id()), user(oauth, "agent-2"), user(oauth, "agent-2", new_id())):
        answer = await http.get(location, headers=stranger)
        assert answer.status_code == 403
        assert "begun by somebody else" in answer.text
    assert (await life.status(), await life.outcomes(), await life.held()) == (Status.PENDING, [None], None)
    answer = await http.get(location, headers=user(oauth, "agent-1"))
    assert answer.status_code == 200, answer.text
    assert await life.status() is Status.CONNECTED


async def test_who_is_not_the_owner_is_not_told_what_became_of_a_consent(
    oauth: Oauth, life: Life, http: httpx.AsyncClient
) -> None:
    location = await oauth.consented(http, life.seller_id)
    assert (await http.get(location)).status_code == 200
    answer = await http.get(location, headers=user(oauth, "agent-1", new_id()))
    assert answer.status_code == 403
    assert "used before" not in answer.text


@pytest.mark.parametrize("who", ["admin", "server", "browser"])
async def test_an_admin_the_products_server_and_a_browser_complete_anybodys_consent(
    oauth: Oauth, life: Life, http: httpx.AsyncClient, who: str
) -> None:
    headers = {
        "admin": user(oauth, "admin-1", new_id(), role="admin"),
        "server": NOBODY | internal(oauth.stack),
        "browser": NOBODY,
    }[who]
    location = await oauth.consented(http, life.seller_id)
    assert (await http.get(location, headers=headers)).status_code == 200
    assert await life.status() is Status.CONNECTED


async def test_a_consent_that_the_products_server_began_is_any_users_of_its_tenant(
    oauth: Oauth, life: Life, http: httpx.AsyncClient
) -> None:
    answer = await http.post(START, json={}, headers=NOBODY | internal(oauth.stack, oauth.tenant_id))
    back = urlsplit(await oauth.amazon.approve(answer.json()["authUrl"], life.seller_id))
    location = f"{back.path}?{back.query}"
    assert (await http.get(location, headers=user(oauth, "agent-2", new_id()))).status_code == 403
    assert (await http.get(location, headers=user(oauth, "agent-2"))).status_code == 200


async def test_credentials_that_are_wrong_are_refused_also_where_none_are_needed(
    oauth: Oauth, life: Life, http: httpx.AsyncClient
) -> None:
    location = await oauth.consented(http, life.seller_id)
    for wrong in ({"Authorization": "Bearer forged"}, NOBODY | {"X-Internal-Key": "forged"}):
        assert (await http.get(location, headers=wrong)).status_code == 401
    assert await life.outcomes() == [None]


# How often


@asynccontextmanager
async def at_address(http: httpx.AsyncClient, address: str) -> AsyncIterator[httpx.AsyncClient]:
    """The same service, asked from elsewhere."""
    transport = httpx.ASGITransport(http._transport.app, client=(address, 50_000))  # type: ignore[attr-defined]
    async with httpx.AsyncClient(transport=transport, base_url=http.base_url, headers=http.headers) as client:
        yield client


async def count(http: httpx.AsyncClient, address: str, path: str = LOGIN) -> list[int]:
    """What three requests from an address are answered."""
    async with at_address(http, address) as client:
        return [(await client.get(path)).status_code for _ in range(3)]


async def test_too_many_requests_from_one_address_are_refused_and_told_when_to_come_again(oauth: Oauth) -> None:
    async with oauth.serving(REQUESTS_PER_MINUTE="2") as http:
        assert [(await http.get(path, headers=NOBODY)).status_code for path in (LOGIN, CALLBACK)] == [400, 400]
        answer = await http.post(START, json={})
        assert (answer.status_code, answer.headers["content-type"]) == (429, "application/problem+json")
        problem = answer.json()
        assert (problem["status"], problem["code"]) == (429, "too_many_requests")
        assert problem["detail"]
        assert 0 < int(answer.headers["ratelimit-reset"]) <= 60
        for path in (f"{API}/status", HISTORY):
            assert (await http.get(path)).status_code == 200
    assert await oauth.pool.fetchval("SELECT count(*) FROM oauth_states") == 0


async def test_another_address_and_the_products_server_go_on(oauth: Oauth) -> None:
    async with oauth.serving(REQUESTS_PER_MINUTE="2") as http:
        assert await count(http, "192.0.2.1") == [400, 400, 429]
        assert await count(http, "192.0.2.2") == [400, 400, 429]
        server = NOBODY | internal(oauth.stack, oauth.tenant_id)
        async with at_address(http, "192.0.2.1") as client:
            answers = [await client.post(START, json={}, headers=server) for _ in range(5)]
    assert {answer.status_code for answer in answers} == {200}


async def test_an_admin_is_counted_as_everybody_who_is_signed_in(oauth: Oauth) -> None:
    async with oauth.serving(REQUESTS_PER_MINUTE="2") as http:
        admin = user(oauth, "admin-1", role="admin")
        assert [(await http.post(START, json={}, headers=admin)).status_code for _ in range(3)] == [200, 200, 429]


async def test_the_addresses_of_an_ipv6_network_count_as_one(oauth: Oauth) -> None:
    async with oauth.serving(REQUESTS_PER_MINUTE="2") as http:
        assert await count(http, "2001:db8:0:1::1") == [400, 400, 429]
        assert await count(http, "2001:db8:0:1:ffff::2") == [429, 429, 429]
        assert await count(http, "2001:db8:0:2::1") == [400, 400, 429]


async def test_an_ipv4_address_in_the_form_of_an_ipv6_one_counts_as_itself(oauth: Oauth) -> None:
    async with oauth.serving(REQUESTS_PER_MINUTE="2") as http:
        assert await count(http, "::ffff:192.0.2.1") == [400, 400, 429]
        assert await count(http, "192.0.2.1") == [429, 429, 429]
        assert await count(http, "::ffff:192.0.2.2") == [400, 400, 429]


@pytest.mark.parametrize("address", ["fe80::1%eth0", "a-name", ""])
async def test_an_address_of_any_kind_is_counted(oauth: Oauth, address: str) -> None:
    async with oauth.serving(REQUESTS_PER_MINUTE="2") as http:
        assert await count(http, address) == [400, 400, 429]


# The way back to the product


def way_back(answer: httpx.Response) -> str | None:
    """Where the page's button leads."""
    _, button, rest = answer.text.partition('<a class="back" href="')
    return unescape(rest.partition('"')[0]) if button else None


async def test_the_seller_is_led_back_with_what_became_of_it(oauth: Oauth, life: Life) -> None:
    async with oauth.serving(RETURN_ORIGINS=f"https://other.test,{PRODUCT}") as http:
        location = await oauth.consented(
            http, life.seller_id, returnUrl=f"{PRODUCT}/settings?tab=amazon&amazon=old#top"
        )
        worked = f"{PRODUCT}/settings?tab=amazon&amazon=connected#top"
        assert way_back(await oauth.come_back(http, location)) == worked
        assert way_back(await oauth.come_back(http, location)) == worked  # the browser has opened it once more
        location = await oauth.consented(http, life.seller_id, returnUrl=f"{PRODUCT}/settings")
        answer = await oauth.come_back(http, location.replace("spapi_oauth_code=RH", "spapi_oauth_code=XX"))
        failed = f"{PRODUCT}/settings?amazon=failed&reason=authorization_code_rejected"
        assert (answer.status_code, way_back(answer)) == (400, failed)
        state = parse_qs(urlsplit(await oauth.start(http, returnUrl=PRODUCT)).query)["state"][0]
        cancelled = await oauth.come_back(http, f"{CALLBACK}?{urlencode({'state': state})}")
        assert way_back(cancelled) == f"{PRODUCT}?amazon=failed&reason=consent_refused"


async def test_without_a_return_url_or_a_consent_there_is_no_way_back(
    oauth: Oauth, life: Life, http: httpx.AsyncClient
) -> None:
    assert way_back(await oauth.come_back(http, await oauth.consented(http, life.seller_id))) is None
    assert way_back(await oauth.come_back(http, f"{CALLBACK}?state=unknown&spapi_oauth_code=c")) is None


@pytest.mark.parametrize("origins", [PRODUCT, ""])
async def test_a_return_url_that_is_not_allowed_is_refused_before_anything_is_kept(oauth: Oauth, origins: str) -> None:
    bad = ["https://evil.test/", "javascript:alert(1)", "//evil.test", f"{PRODUCT}.evil.test/", "/settings", ""]
    async with oauth.serving(RETURN_ORIGINS=origins) as http:
        for address in [*bad, f"{PRODUCT}@evil.test/", f"{PRODUCT}\\@evil.test", *([] if origins else [PRODUCT])]:
            answer = await http.post(START, json={"returnUrl": address})
            assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "returnUrl"), address
    assert await oauth.pool.fetchval("SELECT count(*) FROM oauth_states") == 0


# From Amazon


async def test_a_seller_who_comes_from_amazon_is_led_to_the_products_sign_in(oauth: Oauth) -> None:
    callback = f"{oauth.amazon.url}/apps/authorize/confirm/x"
    query = {"amazon_callback_uri": callback, "amazon_state": "s&t", "selling_partner_id": "A1", "version": "beta"}
    async with oauth.serving(PRODUCT_LOGIN_URL=f"{PRODUCT}/login?from=amazon") as http:
        answer = await http.get(f"{LOGIN}?{urlencode(query)}", headers=NOBODY)
    assert answer.status_code == 302
    assert answer.headers["referrer-policy"] == "no-referrer"
    where = urlsplit(answer.headers["location"])
    assert f"{where.scheme}://{where.netloc}{where.path}" == f"{PRODUCT}/login"
    del query["version"]
    assert parse_qs(where.query) == {"from": ["amazon"]} | {name: [value] for name, value in query.items()}


async def test_start_sends_such_a_seller_back_to_amazon(oauth: Oauth, http: httpx.AsyncClient) -> None:
    callback = f"{oauth.amazon.url}/apps/authorize/confirm/x?kept=1"
    answer = await http.post(START, json={"amazonCallbackUri": callback, "amazonState": "s&t"})
    where = urlsplit(answer.json()["authUrl"])
    assert f"{where.scheme}://{where.netloc}{where.path}" == f"{oauth.amazon.url}/apps/authorize/confirm/x"
    query = parse_qs(where.query)
    assert set(query) == {"kept", "state", "amazon_state", "redirect_uri"}
    assert (query["kept"], query["amazon_state"]) == (["1"], ["s&t"])


async def test_nobody_is_sent_where_amazon_is_not(oauth: Oauth, http: httpx.AsyncClient) -> None:
    for address in (
        "https://evil.test/",
        f"{oauth.amazon.url}.evil.test/",
        "https://sellercentral.amazon.com@evil.test",
    ):
        query = urlencode({"amazon_callback_uri": address, "amazon_state": "s"})
        answer = await http.get(f"{LOGIN}?{query}", headers=NOBODY)
        assert (answer.status_code, "This link is not from Amazon" in answer.text) == (400, True)
        answer = await http.post(START, json={"amazonCallbackUri": address, "amazonState": "s"})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "amazonCallbackUri")
    for half, missing in (("amazonState", "amazonCallbackUri"), ("amazonCallbackUri", "amazonState")):
        answer = await http.post(START, json={half: "x"})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, missing)
    assert await oauth.pool.fetchval("SELECT count(*) FROM oauth_states") == 0


# The end


@pytest.mark.parametrize("who", ["agent", "admin", "server"])
async def test_the_tenant_an_admin_and_the_products_server_disconnect(
    oauth: Oauth, life: Life, http: httpx.AsyncClient, who: str
) -> None:
    headers = {
        "agent": user(oauth, "agent-2"),
        "admin": user(oauth, "admin-1", new_id(), role="admin") | {"X-Tenant-Id": oauth.tenant_id},
        "server": NOBODY | internal(oauth.stack, oauth.tenant_id),
    }[who]
    await life.connect()
    for _ in range(2):
        answer = await http.post(DISCONNECT, headers=headers)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert (body["tenantId"], body["status"]) == (oauth.tenant_id, "DISCONNECTED")
        assert "Manage your apps" in body["message"]
    assert await life.version(1) is None
    assert await life.ends() == ["connected", "USER"]


async def test_nobody_disconnects_another_tenants_account(oauth: Oauth, life: Life, http: httpx.AsyncClient) -> None:
    await life.connect()
    stranger = agent(oauth.stack, new_id())
    answer = await http.post(DISCONNECT, headers=stranger | {"X-Tenant-Id": oauth.tenant_id})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    answer = await http.post(DISCONNECT, headers=stranger)
    assert (answer.status_code, answer.json()["code"]) == (404, "no_connection")
    assert (await http.post(DISCONNECT, headers=NOBODY)).status_code == 401
    assert await life.status() is Status.CONNECTED
    assert await life.held() is not None


async def test_an_open_consent_is_void_after_a_disconnect(oauth: Oauth, life: Life, http: httpx.AsyncClient) -> None:
    location = await oauth.consented(http, life.seller_id)
    assert (await http.post(DISCONNECT)).status_code == 200
    calls = await oauth.amazon.all_calls()
    answer = await oauth.come_back(http, location)
    assert (answer.status_code, "or it was given up" in answer.text) == (400, True)
    assert await oauth.amazon.all_calls() == calls
    assert (await life.status(), await life.held()) == (Status.DISCONNECTED, None)
    assert await life.outcomes() == ["DISCONNECTED"]
    assert await life.told() == []


# What happened


async def test_the_history_tells_the_latest_first_and_no_more_than_asked_for(
    oauth: Oauth, life: Life, http: httpx.AsyncClient
) -> None:
    await life.connect()
    await life.disconnect()
    await life.connect()
    items = (await http.get(HISTORY)).json()["items"]
    assert [(each["fromStatus"], each["toStatus"], each["code"]) for each in items] == [
        ("DISCONNECTED", "CONNECTED", None),
        ("CONNECTED", "DISCONNECTED", "disconnected"),
        ("PENDING", "CONNECTED", None),
        (None, "PENDING", None),
    ]
    assert set(items[0]) == {"at", "connectionId", "fromStatus", "toStatus", "code", "reason"}
    assert items[1]["reason"] == "The account was disconnected here."
    assert (await http.get(HISTORY, params={"limit": 2})).json()["items"] == items[:2]
    for limit in ("0", "201", "many"):
        answer = await http.get(HISTORY, params={"limit": limit})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "limit")
    stranger = agent(oauth.stack, new_id())
    assert (await http.get(HISTORY, headers=stranger)).json()["items"] == []
    assert (await http.get(HISTORY, headers=stranger | {"X-Tenant-Id": oauth.tenant_id})).status_code == 404
