"""A seller who comes from Amazon's side, by our Login URI and the product's sign-in back to Amazon; and that none of it
leads a browser to a place that we do not know.
"""

import re
from collections.abc import AsyncIterator
from datetime import datetime
from html.parser import HTMLParser
from urllib.parse import parse_qs, parse_qsl, urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from devstack.sandbox.client import ConsentError
from shared.amazon.credentials import read_app
from shared.amazon.marketplaces import BY_COUNTRY, MARKETPLACES
from tests.builders import APP_PATH, agent, new_id, oauth_vault
from tests.conftest import Told
from tests.oauth.conftest import API, Oauth

LOGIN, START, CALLBACK = f"{API}/oauth/login", f"{API}/oauth/start", f"{API}/oauth/callback"
PRODUCT = "https://app.keybuzz.test/sign-in"
ORIGINS = "https://app.keybuzz.test,http://localhost:3000"
RETURN = "https://app.keybuzz.test/settings?tab=marketplaces&amazon=earlier#amazon"
CONFIRM = "/apps/authorize/confirm/amzn1.sp.solution.x"
HOSTS = sorted({marketplace.seller_central for marketplace in MARKETPLACES})

HOSTILE = [
    f"https://evil.test{CONFIRM}",
    f"https://sellercentral.amazon.com.evil.test{CONFIRM}",
    f"https://evil-sellercentral.amazon.com{CONFIRM}",
    f"https://evil.test.sellercentral.amazon.com{CONFIRM}",
    f"https://sellercentral.amazon.co{CONFIRM}",
    f"https://www.amazon.com{CONFIRM}",
    f"https://amazon.com{CONFIRM}",
    f"https://sellercentral.amazon.com@evil.test{CONFIRM}",
    f"https://sellercentral.amazon.com:443@evil.test{CONFIRM}",
    f"https://evil.test@sellercentral.amazon.com{CONFIRM}",
    f"https://user:password@sellercentral.amazon.com{CONFIRM}",
    f"http://sellercentral.amazon.com{CONFIRM}",
    f"ftp://sellercentral.amazon.com{CONFIRM}",
    f"https://sellercentral.amazon.com:8443{CONFIRM}",
    f"https://sellercentral.amazon.com:443{CONFIRM}",
    f"https://sellercentral.amazon.com:{CONFIRM}",
    f"https://sellercentral.amazon.com:port{CONFIRM}",
    f"https://sellercentral.amazon.com.{CONFIRM}",
    f"https://SELLERCENTRAL.AMAZON.COM{CONFIRM}",
    f"https://sellercentral%2eamazon.com{CONFIRM}",
    f"https://sellercentral.amazon.com%2f@evil.test{CONFIRM}",
    f"https://%65vil.test{CONFIRM}",
    f"https://sellercentral.amazon.com\\@evil.test{CONFIRM}",
    f"https://evil.test\\@sellercentral.amazon.com{CONFIRM}",
    f"https://evil.test\\.sellercentral.amazon.com{CONFIRM}",
    "https:\\\\evil.test\\x",
    "\\\\evil.test\\x",
    "/\\evil.test",
    f"https://evil.test#@sellercentral.amazon.com{CONFIRM}",
    f"https://evil.test?@sellercentral.amazon.com{CONFIRM}",
    f"https://sellercentral.amazon.com\t.evil.test{CONFIRM}",
    f"https://sellercentral.amazon.com\n.evil.test{CONFIRM}",
    f"https://sellercentral.amazon.com\r\nLocation:https://evil.test{CONFIRM}",
    f"https://sellercentral.\tamazon.com{CONFIRM}",
    f"ht\ntps://sellercentral.amazon.com{CONFIRM}",
    f"\x00https://sellercentral.amazon.com{CONFIRM}",
    f" https://sellercentral.amazon.com{CONFIRM}",
    f"https://sellercentral.amazon.com\u2028{CONFIRM}",
    f"https://sellercentral.am\u0430zon.com{CONFIRM}",
    f"https://\uff53ellercentral.amazon.com{CONFIRM}",
    f"https://sellercentral\u3002amazon.com{CONFIRM}",
    f"https://sellercentral.amazon.com\uff0f.evil.test{CONFIRM}",
    f"https://xn--sellercentral-amazon.com{CONFIRM}",
    f"https://[::1]{CONFIRM}",
    f"https://[sellercentral.amazon.com]{CONFIRM}",
    "https://[",
    f"//evil.test{CONFIRM}",
    f"//sellercentral.amazon.com{CONFIRM}",
    f"///sellercentral.amazon.com{CONFIRM}",
    f"https:sellercentral.amazon.com{CONFIRM}",
    f"https:/sellercentral.amazon.com{CONFIRM}",
    f"https:///sellercentral.amazon.com{CONFIRM}",
    f"sellercentral.amazon.com{CONFIRM}",
    CONFIRM,
    "javascript:alert(1)",
    "javascript://sellercentral.amazon.com/%0aalert(1)",
    "data:text/html,<script>alert(1)</script>",
    "data://sellercentral.amazon.com/,x",
    "file://sellercentral.amazon.com/etc/passwd",
    "https://",
    "://",
    "https",
    "",
    f"https://sellercentral.amazon.com/{'a' * 2_048}",
]
"""What is no address at Seller Central, though some read as if it were."""


@pytest.fixture
async def http(oauth: Oauth) -> AsyncIterator[httpx.AsyncClient]:
    """Oauth that knows where the product's sign-in is."""
    async with oauth.serving(PRODUCT_LOGIN_URL=PRODUCT, RETURN_ORIGINS=ORIGINS) as client:
        yield client


def local(location: str) -> str:
    """The part of an address at oauth that the test's client wants."""
    parts = urlsplit(location)
    return f"{parts.path}?{parts.query}"


async def signed_in(http: httpx.AsyncClient, location: str) -> dict[str, str]:
    """Open our Login URI as the seller's browser does: the parameters that the product's sign-in gets."""
    answer = await http.get(local(location), headers={"Authorization": ""})
    assert answer.status_code == 302, answer.text
    address, _, query = answer.headers["location"].partition("?")
    assert address == PRODUCT
    return dict(parse_qsl(query, strict_parsing=True))


async def led_back(oauth: Oauth, http: httpx.AsyncClient, location: str, **body: str) -> str:
    """From our Login URI on: where start leads the seller who has signed in."""
    passed = await signed_in(http, location)
    back = {"amazonCallbackUri": passed["amazon_callback_uri"], "amazonState": passed["amazon_state"]}
    return await oauth.start(http, **back, **body)


async def come_from_amazon(oauth: Oauth, http: httpx.AsyncClient, seller_id: str, **body: str) -> httpx.Response:
    """All of it: Manage Your Apps, our Login URI, the product's sign-in, Amazon, our callback."""
    auth_url = await led_back(oauth, http, await oauth.amazon.renew(seller_id), **body)
    return await oauth.come_back(http, local(await oauth.amazon.confirm(auth_url)))


class Links(HTMLParser):
    """The links of a page with all of their attributes, as a browser reads them; and that nothing in it runs."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in {"html", "head", "meta", "title", "style", "body", "main", "h1", "p", "a"}
        if tag == "a":
            self.found.append(dict(attrs))


def way_back(answer: httpx.Response) -> str | None:
    links = Links(answer.text).found
    assert len(links) < 2
    assert all(set(link) == {"class", "href"} for link in links)
    return links[0]["href"] if links else None


async def test_a_seller_from_the_appstore_signs_in_and_is_connected(
    oauth: Oauth, http: httpx.AsyncClient, told: Told
) -> None:
    seller_id = await oauth.amazon.seller()
    location = await oauth.amazon.renew(seller_id)
    given = {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}
    passed = await signed_in(http, location)
    assert passed == given
    assert set(passed) == {"amazon_callback_uri", "amazon_state", "selling_partner_id"}

    auth_url = await oauth.start(
        http, amazonCallbackUri=passed["amazon_callback_uri"], amazonState=passed["amazon_state"]
    )
    address, _, query = auth_url.partition("?")
    assert address == given["amazon_callback_uri"]
    sent = dict(parse_qsl(query, strict_parsing=True))
    app = await read_app(oauth_vault(oauth.stack), APP_PATH)
    assert len(sent.pop("state")) == 43
    assert sent == {"redirect_uri": app.redirect_uri, "amazon_state": given["amazon_state"]}

    answer = await oauth.come_back(http, local(await oauth.amazon.confirm(auth_url)))
    assert (answer.status_code, "Your Amazon account is connected" in answer.text) == (200, True)
    status = await oauth.status(http)
    assert (status["status"], status["sellerId"], status["credentialsPresent"]) == ("CONNECTED", seller_id, True)
    [(subject, event)] = await told(oauth.pool)
    assert (subject, event["tenantId"], event["sellerId"]) == ("connection.connected", oauth.tenant_id, seller_id)


async def test_a_renewal_keeps_the_connection_and_its_history_and_begins_another_year(
    oauth: Oauth, http: httpx.AsyncClient, told: Told
) -> None:
    seller_id = await oauth.amazon.seller()
    await oauth.connect(http, seller_id)
    first, kept = await oauth.status(http), await oauth.in_vault()
    assert (await come_from_amazon(oauth, http, seller_id)).status_code == 200
    second, renewed = await oauth.status(http), await oauth.in_vault()
    assert (second["status"], second["connectionId"]) == ("CONNECTED", first["connectionId"])
    year = [datetime.fromisoformat(each["reauthorizeBy"]) for each in (first, second)]
    assert year[0] < year[1]
    assert kept is not None
    assert renewed is not None
    assert kept["refresh_token"] != renewed["refresh_token"]
    connected = await told(oauth.pool)
    assert [subject for subject, _ in connected] == ["connection.connected"] * 2
    assert [datetime.fromisoformat(event["reauthorizeBy"]) for _, event in connected] == year
    history = (await http.get(f"{API}/history")).json()["items"]
    assert [(each["fromStatus"], each["toStatus"]) for each in history] == [
        ("CONNECTED", "CONNECTED"),
        ("PENDING", "CONNECTED"),
        (None, "PENDING"),
    ]
    assert {each["connectionId"] for each in history} == {first["connectionId"]}


async def test_a_disconnected_account_comes_back_from_amazons_side(oauth: Oauth, http: httpx.AsyncClient) -> None:
    seller_id = await oauth.amazon.seller()
    await oauth.connect(http, seller_id)
    first = await oauth.status(http)
    await http.post(f"{API}/disconnect")
    assert (await come_from_amazon(oauth, http, seller_id)).status_code == 200
    second = await oauth.status(http)
    assert (second["status"], second["connectionId"]) == ("CONNECTED", first["connectionId"])


async def test_a_drafts_seller_comes_back_with_version_beta(oauth: Oauth) -> None:
    seller_id = await oauth.amazon.seller()
    await oauth.amazon.set_draft(True, "keybuzz")
    try:
        async with oauth.serving(PRODUCT_LOGIN_URL=PRODUCT, AMAZON_SPAPI_APP_SOURCE="keybuzz") as http:
            location = await oauth.amazon.renew(seller_id, "keybuzz")
            assert parse_qs(urlsplit(location).query)["version"] == ["beta"]
            auth_url = await led_back(oauth, http, location)
            assert "version" not in parse_qs(urlsplit(auth_url).query)
            with pytest.raises(ConsentError, match="version=beta is missing"):
                await oauth.amazon.confirm(auth_url)
        async with oauth.serving(
            PRODUCT_LOGIN_URL=PRODUCT, AMAZON_SPAPI_APP_SOURCE="keybuzz", AMAZON_APP_DRAFT="true"
        ) as http:
            auth_url = await led_back(oauth, http, await oauth.amazon.renew(seller_id, "keybuzz"))
            assert parse_qs(urlsplit(auth_url).query)["version"] == ["beta"]
            answer = await oauth.come_back(http, local(await oauth.amazon.confirm(auth_url)))
            assert answer.status_code == 200
            assert (await oauth.status(http))["appSource"] == "keybuzz"
    finally:
        await oauth.amazon.set_draft(False, "keybuzz")


async def test_nobody_else_brings_the_sellers_way_to_its_end(oauth: Oauth, http: httpx.AsyncClient) -> None:
    auth_url = await led_back(oauth, http, await oauth.amazon.renew(await oauth.amazon.seller()))
    location = local(await oauth.amazon.confirm(auth_url))
    answer = await http.get(location, headers=agent(oauth.stack, new_id()))
    assert (answer.status_code, "begun by somebody else" in answer.text) == (403, True)
    assert (await oauth.come_back(http, location)).status_code == 200


async def test_without_the_products_sign_in_a_page_says_what_to_do(oauth: Oauth) -> None:
    location = await oauth.amazon.renew(await oauth.amazon.seller())
    async with oauth.serving(PRODUCT_LOGIN_URL="") as http:
        answer = await http.get(local(location), headers={"Authorization": ""})
        refused = await http.get(LOGIN, params={"amazon_callback_uri": HOSTILE[0], "amazon_state": "s"})
    assert (answer.status_code, "Sign in to KeyBuzz" in answer.text) == (200, True)
    assert "click Connect to start again" in answer.text
    assert refused.status_code == 400
    for page in (answer, refused):
        assert "location" not in page.headers
        assert way_back(page) is None


async def test_the_products_sign_in_keeps_its_own_parameters(oauth: Oauth) -> None:
    async with oauth.serving(PRODUCT_LOGIN_URL=f"{PRODUCT}?from=amazon&amazon_state=a") as http:
        query = {"amazon_callback_uri": f"https://{HOSTS[0]}{CONFIRM}", "amazon_state": "b&amazon_callback_uri=x"}
        answer = await http.get(LOGIN, params=query | {"version": "beta", "redirect": "https://evil.test"})
    assert answer.status_code == 302
    assert parse_qsl(urlsplit(answer.headers["location"]).query) == [("from", "amazon"), *query.items()]


async def test_amazons_host_of_every_marketplace_is_known(oauth: Oauth) -> None:
    assert len(MARKETPLACES) == 23
    async with oauth.serving(PRODUCT_LOGIN_URL=PRODUCT, AMAZON_SELLER_CENTRAL_URL="") as http:
        for marketplace in MARKETPLACES:
            address = f"https://{marketplace.seller_central}{CONFIRM}?kept=a%26b"
            answer = await http.get(LOGIN, params={"amazon_callback_uri": address, "amazon_state": "s"})
            passed = await signed_in(http, str(answer.request.url))
            assert passed == {"amazon_callback_uri": address, "amazon_state": "s"}
            back = {"amazonCallbackUri": address, "amazonState": "s"}
            for body in (back, back | {"country": marketplace.country}):
                auth_url = await oauth.start(http, **body)
                assert auth_url.startswith(f"{address}&state=")
            [asked, told] = await oauth.pool.fetch("SELECT country FROM oauth_states ORDER BY created_at DESC LIMIT 2")
            assert BY_COUNTRY[told["country"]].seller_central == marketplace.seller_central
            assert asked["country"] == marketplace.country


async def test_login_leads_nobody_on_who_does_not_come_from_amazon(oauth: Oauth, http: httpx.AsyncClient) -> None:
    for address in HOSTILE:
        answer = await http.get(LOGIN, params={"amazon_callback_uri": address, "amazon_state": "s"})
        assert answer.status_code == 400, address
        assert re.search("amazonCallbackUri|amazon_callback_uri", answer.text), address
        assert "location" not in answer.headers, address
        assert "evil.test" not in answer.text, address
    assert await oauth.pool.fetchval("SELECT count(*) FROM oauth_states") == 0


async def test_start_leads_nobody_to_what_is_not_amazon(oauth: Oauth, http: httpx.AsyncClient) -> None:
    for address in HOSTILE:
        answer = await http.post(START, json={"amazonCallbackUri": address, "amazonState": "s"})
        assert answer.status_code == 400, address
        assert [error["field"] for error in answer.json()["errors"]] == ["amazonCallbackUri"], address
        assert "evil.test" not in answer.text, address
    assert await oauth.pool.fetchval("SELECT count(*) FROM oauth_states") == 0


async def test_only_the_stand_ins_own_origin_is_taken_for_amazons(oauth: Oauth, http: httpx.AsyncClient) -> None:
    stand_in = oauth.amazon.url
    port = urlsplit(stand_in).port
    good = f"{stand_in}{CONFIRM}"
    hostile = [
        good.replace("http:", "https:"),
        good.replace(f":{port}", ""),
        good.replace(f":{port}", f":{port}0"),
        good.replace("127.0.0.1", "localhost"),
        good.replace("127.0.0.1", "127.0.0.1.evil.test"),
        good.replace(CONFIRM, f"@evil.test{CONFIRM}"),
    ]
    for address in hostile:
        answer = await http.get(LOGIN, params={"amazon_callback_uri": address, "amazon_state": "s"})
        assert answer.status_code == 400, address
        answer = await http.post(START, json={"amazonCallbackUri": address, "amazonState": "s"})
        assert answer.status_code == 400, address
    answer = await http.get(LOGIN, params={"amazon_callback_uri": good, "amazon_state": "s"})
    assert answer.status_code == 302
    async with oauth.serving(PRODUCT_LOGIN_URL=PRODUCT, AMAZON_SELLER_CENTRAL_URL="") as without:
        answer = await without.get(LOGIN, params={"amazon_callback_uri": good, "amazon_state": "s"})
        assert answer.status_code == 400


async def test_of_a_repeated_parameter_none_is_passed_on_that_was_not_looked_at(http: httpx.AsyncClient) -> None:
    good = f"https://{HOSTS[0]}{CONFIRM}"
    for addresses in ([good, HOSTILE[0]], [HOSTILE[0], good]):
        answer = await http.get(LOGIN, params={"amazon_callback_uri": addresses, "amazon_state": "s"})
        assert answer.status_code in {302, 400}
        assert "evil.test" not in answer.headers.get("location", "")
    twice = f'{{"amazonCallbackUri": "{good}", "amazonState": "s", "amazonCallbackUri": "{HOSTILE[0]}"}}'
    answer = await http.post(START, content=twice, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400


async def test_what_belongs_together_is_missed_where_it_is_missing(oauth: Oauth, http: httpx.AsyncClient) -> None:
    good = f"https://{HOSTS[0]}{CONFIRM}"
    for query in (
        {},
        {"amazon_callback_uri": good},
        {"amazon_state": "s"},
        {"amazon_callback_uri": good, "state": "s"},
    ):
        answer = await http.get(LOGIN, params=query)
        assert answer.status_code == 400
        assert "amazon_callback_uri or amazon_state is missing" in answer.text
    for body, field in (
        ({"amazonCallbackUri": good}, "amazonState"),
        ({"amazonState": "s"}, "amazonCallbackUri"),
        ({"amazonCallbackUri": 7, "amazonState": "s"}, "amazonCallbackUri"),
        ({"amazonCallbackUri": [good], "amazonState": "s"}, "amazonCallbackUri"),
        ({"amazonCallbackUri": good, "amazonState": "s" * 2_049}, "amazonState"),
        ({"amazon_callback_uri": good, "amazon_state": "s"}, "amazonCallbackUri"),
    ):
        answer = await http.post(START, json=body)
        assert answer.status_code == 400
        assert field in answer.text or "amazon_callback_uri" in answer.text
    assert await oauth.pool.fetchval("SELECT count(*) FROM oauth_states") == 0


HERE = "{stand-in}"
some_host = st.sampled_from([*HOSTS, *HOSTS, HERE, "evil.test", "evil.test:443", "[::1]", "localhost"])
noise = st.text(alphabet="\\/@:?#.%;&=\t\n\r \0\x7f\u00e9\u3002\uff0f\uff20evil", max_size=3)
nothing = st.just("")
around = st.one_of(nothing, nothing, noise, some_host)
put_together = st.tuples(
    st.one_of(nothing, nothing, noise),
    st.sampled_from(["https", "https", "https", "http", "HTTPS", "javascript", "data", ""]),
    st.sampled_from(["://", "://", "://", "//", ":/", ":", ":\\\\", ":///", ""]),
    around,
    some_host,
    around,
    st.sampled_from(["", "/", CONFIRM, f"{CONFIRM}?a=b", "#x"]),
    around,
).map("".join)
one_edit_away = st.tuples(st.sampled_from([*HOSTS, HERE]), st.integers(0, 80), st.one_of(noise, some_host)).map(
    lambda edit: f"https://{edit[0]}{CONFIRM}"[: edit[1]] + edit[2] + f"https://{edit[0]}{CONFIRM}"[edit[1] :]
)
some_address = st.one_of(put_together, one_edit_away, st.text(max_size=60))


@settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(address=some_address)
@example(address=f"https://{HOSTS[0]}{CONFIRM}")
@example(address=f"{HERE}{CONFIRM}")
async def test_whatever_comes_a_browser_is_led_to_the_product_and_to_amazon_only(
    oauth: Oauth, patient: httpx.AsyncClient, address: str
) -> None:
    stand_in = oauth.amazon.url
    address = address.replace(f"https://{HERE}", stand_in).replace(HERE, stand_in.removeprefix("http://"))
    answer = await patient.get(LOGIN, params={"amazon_callback_uri": address, "amazon_state": "s"})
    assert answer.status_code in {302, 400}
    location = answer.headers.get("location", "")
    assert answer.status_code == 400 or location.startswith(f"{PRODUCT}?")
    assert set(parse_qs(urlsplit(location).query)) <= {"amazon_callback_uri", "amazon_state"}

    begun = await patient.post(START, json={"amazonCallbackUri": address, "amazonState": "s"})
    assert begun.status_code == (200 if answer.status_code == 302 else 400)
    if begun.status_code == 200:
        origins = "|".join(re.escape(origin) for origin in [stand_in, *(f"https://{host}" for host in HOSTS)])
        # Followed by what ends a host for every reader, browsers among them, who take a backslash for a slash.
        assert re.match(rf"(?i:{origins})[/?#]", begun.json()["authUrl"])
        assert begun.json()["authUrl"].isprintable()


@pytest.fixture
async def patient(oauth: Oauth) -> AsyncIterator[httpx.AsyncClient]:
    async with oauth.serving(PRODUCT_LOGIN_URL=PRODUCT, REQUESTS_PER_MINUTE="100000") as client:
        yield client


async def test_no_answer_on_the_way_lets_its_address_out(oauth: Oauth, http: httpx.AsyncClient) -> None:
    seller_id = await oauth.amazon.seller()
    location = await oauth.amazon.renew(seller_id)
    callback = await oauth.consented(http, seller_id)
    async with oauth.serving(PRODUCT_LOGIN_URL="") as without:
        answers = [
            await without.get(local(location)),
            await http.get(local(location)),
            await http.get(LOGIN),
            await http.post(START),
            await oauth.come_back(http, CALLBACK),
            await oauth.come_back(http, callback),
            await oauth.come_back(http, callback),
        ]
    assert [answer.status_code for answer in answers] == [200, 302, 400, 200, 400, 200, 200]
    for answer in answers:
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"


async def test_a_seller_is_led_back_to_where_the_product_wants(oauth: Oauth, http: httpx.AsyncClient) -> None:
    seller_id = await oauth.amazon.seller()
    for answer in (
        await oauth.connect(http, seller_id, returnUrl=RETURN),
        await come_from_amazon(oauth, http, seller_id, returnUrl=RETURN),
    ):
        assert answer.status_code == 200
        assert way_back(answer) == "https://app.keybuzz.test/settings?tab=marketplaces&amazon=connected#amazon"
    answer = await oauth.connect(http, seller_id, returnUrl="http://localhost:3000")
    assert way_back(answer) == "http://localhost:3000?amazon=connected"


async def test_without_a_return_url_no_page_has_a_link(oauth: Oauth, http: httpx.AsyncClient) -> None:
    seller_id = await oauth.amazon.seller()
    location = await oauth.consented(http, seller_id)
    unknown = await oauth.come_back(http, f"{CALLBACK}?state=unknown&spapi_oauth_code=c&selling_partner_id=A1")
    cancelled = await oauth.come_back(http, location.partition("&spapi_oauth_code=")[0])
    for answer in (unknown, cancelled, await oauth.come_back(http, location), await http.get(location)):
        assert way_back(answer) is None


async def test_a_failure_leads_back_too_and_says_which_one_it_was(oauth: Oauth, http: httpx.AsyncClient) -> None:
    seller_id = await oauth.amazon.seller()

    async def begun() -> str:
        return await oauth.consented(http, seller_id, returnUrl=RETURN)

    state = parse_qs(urlsplit(await begun()).query)["state"][0]
    answers = {"consent_refused": await oauth.come_back(http, f"{CALLBACK}?state={state}")}
    rejected = (await begun()).replace("spapi_oauth_code=RH", "spapi_oauth_code=XX")
    answers["authorization_code_rejected"] = await oauth.come_back(http, rejected)
    answers["invalid_state"] = await http.get(rejected)
    location = await begun()
    await oauth.amazon.fail("token", "temporarily_unavailable", seller_id, times=3)
    answers["amazon_unavailable"] = await oauth.come_back(http, location)
    location = await begun()
    await oauth.amazon.fail("token", "invalid_client", seller_id)
    answers["app_credentials_rejected"] = await oauth.come_back(http, location)
    for reason, answer in answers.items():
        assert answer.status_code >= 400
        expected = f"https://app.keybuzz.test/settings?tab=marketplaces&amazon=failed&reason={reason}#amazon"
        assert way_back(answer) == expected


async def test_a_return_url_anywhere_else_is_refused_before_anything_is_kept(
    oauth: Oauth, http: httpx.AsyncClient
) -> None:
    hostile = [address.replace("sellercentral.amazon.com", "app.keybuzz.test") for address in HOSTILE]
    hostile += [
        "https://localhost:3000/",
        "http://localhost/",
        "http://localhost:30000/",
        "http://app.keybuzz.test/",
        "https://keybuzz.test/",
        "https://app.keybuzz.test,http://localhost:3000/",
        'https://app.keybuzz.test/"onmouseover="alert(1)',
        "https://app.keybuzz.test/<script>",
    ]
    for address in hostile:
        answer = await http.post(START, json={"returnUrl": address})
        assert answer.status_code == 400, address
        assert [error["field"] for error in answer.json()["errors"]] == ["returnUrl"], address
    async with oauth.serving(RETURN_ORIGINS="") as without_origins:
        answer = await without_origins.post(START, json={"returnUrl": RETURN})
        assert (answer.status_code, "RETURN_ORIGINS" in answer.json()["detail"]) == (400, True)
    assert await oauth.pool.fetchval("SELECT count(*) FROM oauth_states") == 0


async def test_a_return_url_gets_into_the_page_as_an_address_only(oauth: Oauth, http: httpx.AsyncClient) -> None:
    address = "https://app.keybuzz.test/x'onmouseover='alert(1)?a=%22%3E%3Cscript%3E&lt;b&c='#'&quot;"
    location = await oauth.consented(http, await oauth.amazon.seller(), returnUrl=address)
    answer = await oauth.come_back(http, location)
    back = way_back(answer)
    assert back is not None
    assert back.startswith("https://app.keybuzz.test/x'onmouseover='alert(1)?")
    assert back.endswith("#'&quot;")
    assert parse_qs(urlsplit(back).query)["amazon"] == ["connected"]
    assert "<script" not in answer.text
