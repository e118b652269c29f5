"""Authorizing and renewing from Amazon's side, through the application's Login URI."""

import signal
from urllib.parse import urlencode

import pytest

from devstack.sandbox.client import ConsentError, approve, confirm, renew
from tests.sandbox.conftest import (
    APPLICATION,
    CALLBACK,
    KEYBUZZ,
    LOGIN,
    OTHER_CALLBACK,
    Amazon,
    query_of,
)

SELLER = "A12BCIS2R7HD4D"


async def sent(amazon: Amazon, application_id: str = APPLICATION) -> dict[str, str]:
    """The parameters that the Login URI gets."""
    return query_of(await renew(amazon.http, amazon.server.url, SELLER, application_id))


def back(sent: dict[str, str], **changes: str) -> str:
    """Where the application sends the browser when its user has signed in; an empty parameter is left out."""
    fields = {"redirect_uri": CALLBACK, "amazon_state": sent["amazon_state"], "state": "our-state", **changes}
    return f"{sent['amazon_callback_uri']}?{urlencode({name: value for name, value in fields.items() if value})}"


async def test_the_page_shows_the_applications_and_the_sellers(amazon: Amazon) -> None:
    page = await amazon.http.get("/apps/manage")
    assert page.status_code == 200
    assert page.headers["referrer-policy"] == "no-referrer"
    for shown in ("external_test", "keybuzz", APPLICATION, KEYBUZZ, "A12BCIS2R7HD4D", "A2NEWSELLER0000", "Renew"):
        assert shown in page.text


async def test_a_renewal_goes_through_the_login_uri_and_ends_as_a_consent_does(amazon: Amazon) -> None:
    location = await renew(amazon.http, amazon.server.url, SELLER)
    assert location.startswith(LOGIN + "&")
    login = query_of(location)
    assert login.keys() == {"kept", "amazon_callback_uri", "amazon_state", "selling_partner_id"}
    assert login["amazon_callback_uri"] == f"{amazon.server.url}/apps/authorize/confirm/{APPLICATION}"
    assert login["selling_partner_id"] == SELLER

    location = await confirm(amazon.http, back(login, state="a b&c=ü"))
    assert location.startswith(CALLBACK + "?")
    callback = query_of(location)
    assert callback.keys() == {"state", "selling_partner_id", "spapi_oauth_code"}
    assert (callback["state"], callback["selling_partner_id"]) == ("a b&c=ü", SELLER)

    code = callback["spapi_oauth_code"]
    answer = await amazon.token("authorization_code", code=code, redirect_uri=CALLBACK)
    assert answer.status_code == 200


async def test_a_renewal_is_of_the_chosen_application(amazon: Amazon) -> None:
    login = await sent(amazon, KEYBUZZ)
    assert login["amazon_callback_uri"].endswith(f"/apps/authorize/confirm/{KEYBUZZ}")
    code = query_of(await confirm(amazon.http, back(login)))["spapi_oauth_code"]
    foreign = await amazon.token("authorization_code", code=code, redirect_uri=CALLBACK)
    assert (foreign.status_code, foreign.json()["error"]) == (400, "invalid_grant")
    own = await amazon.token("authorization_code", code=code, redirect_uri=CALLBACK, **amazon.keybuzz())
    assert own.status_code == 200


async def test_a_redirect_uri_keeps_its_own_query_and_the_first_one_is_the_default(amazon: Amazon) -> None:
    location = await confirm(amazon.http, back(await sent(amazon), redirect_uri=OTHER_CALLBACK))
    assert location.startswith(OTHER_CALLBACK + "&state=our-state&")
    assert (await confirm(amazon.http, back(await sent(amazon), redirect_uri=""))).startswith(CALLBACK + "?")


async def test_an_amazon_state_works_once(amazon: Amazon) -> None:
    address = back(await sent(amazon))
    assert await confirm(amazon.http, address)
    with pytest.raises(ConsentError, match="MD1000"):
        await confirm(amazon.http, address)


@pytest.mark.parametrize(("age", "good"), [(1_790, True), (1_801, False)])
async def test_an_amazon_state_lasts_half_an_hour(amazon: Amazon, age: int, good: bool) -> None:
    address = back(await sent(amazon))
    await amazon.advance(age)
    answer = await amazon.http.get(address)
    assert answer.status_code == (302 if good else 400)
    assert good or "too old" in answer.text


async def test_an_amazon_state_is_of_one_application(amazon: Amazon) -> None:
    address = back(await sent(amazon))
    with pytest.raises(ConsentError, match="MD1000"):
        await confirm(amazon.http, address.replace(APPLICATION, KEYBUZZ))
    assert await confirm(amazon.http, address)


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("amazon_state", "made-up", "MD1000"),
        ("amazon_state", "", "MD1000"),
        ("state", "", "MD1000"),
        ("redirect_uri", "http://127.0.0.1:9/elsewhere", "MD5101"),
        ("redirect_uri", CALLBACK + "/", "MD5101"),
    ],
)
async def test_what_is_wrong_is_said_and_the_right_thing_still_works(
    amazon: Amazon, field: str, value: str, code: str
) -> None:
    login = await sent(amazon)
    refused = await amazon.http.get(back(login, **{field: value}))
    assert (refused.status_code, code in refused.text) == (400, True)
    assert "location" not in refused.headers
    assert await confirm(amazon.http, back(login))


async def test_an_unknown_application_or_seller_is_refused(amazon: Amazon) -> None:
    address = back(await sent(amazon))
    with pytest.raises(ConsentError, match="MD1000"):
        await confirm(amazon.http, address.replace(APPLICATION, "amzn1.sp.solution.other"))
    with pytest.raises(ConsentError, match="MD1000"):
        await renew(amazon.http, amazon.server.url, SELLER, "amzn1.sp.solution.other")
    with pytest.raises(ConsentError, match="SPDC8001"):
        await renew(amazon.http, amazon.server.url, "ANOBODY")


async def test_a_draft_is_renewed_with_version_beta(amazon: Amazon) -> None:
    published = await sent(amazon, KEYBUZZ)
    await amazon.control("PUT", "applications/keybuzz", {"draft": True})
    login = await sent(amazon, KEYBUZZ)
    assert (published.get("version"), login.get("version")) == (None, "beta")
    with pytest.raises(ConsentError, match="MD1000"):
        await confirm(amazon.http, back(login))
    assert await confirm(amazon.http, back(login, version="beta"))


async def test_markup_in_a_parameter_stays_text(amazon: Amazon) -> None:
    attack = "<script>alert(1)</script>"
    login = await sent(amazon)
    for field in ("amazon_state", "redirect_uri"):
        assert "<script" not in (await amazon.http.get(back(login, **{field: attack}))).text


async def test_without_a_login_uri_the_page_says_so(own: Amazon) -> None:
    own.server.end()
    del own.server.environment["SANDBOX_LOGIN_URI"]
    own.server.start()
    page = await own.http.get("/apps/manage")
    assert (page.status_code, "has no Login URI" in page.text, "<form" in page.text) == (200, True, False)
    button = await own.http.post("/apps/manage", data={"application_id": APPLICATION, "seller_id": SELLER})
    assert (button.status_code, "has no Login URI" in button.text) == (400, True)
    with pytest.raises(ConsentError, match="has no Login URI"):
        await renew(own.http, own.server.url, SELLER)
    url = own.consent_url(redirect_uri=CALLBACK)
    assert await approve(own.http, url, SELLER), "the consent from the application's side needs none"


async def test_a_renewal_under_way_survives_a_kill_and_leaves_no_trace_in_the_log(own: Amazon) -> None:
    login = await sent(own)
    own.server.end(signal.SIGKILL)
    own.server.start()
    code = query_of(await confirm(own.http, back(login)))["spapi_oauth_code"]
    log = own.server.log.read_text()
    assert SELLER in log
    for secret in (login["amazon_state"], "our-state", code):
        assert secret not in log
