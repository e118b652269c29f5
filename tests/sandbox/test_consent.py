from html import unescape
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from devstack.sandbox.client import ConsentError, approve
from tests.sandbox.conftest import APPLICATION, CALLBACK, KEYBUZZ, OTHER_CALLBACK, Amazon


async def test_the_page_lets_a_person_choose_among_the_known_sellers(amazon: Amazon) -> None:
    page = await amazon.http.get(amazon.consent_url())
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["referrer-policy"] == "no-referrer"
    for shown in ("A12BCIS2R7HD4D", "A2NEWSELLER0000", "Approve", "Cancel"):
        assert shown in page.text


async def test_approving_sends_the_browser_back_with_state_seller_and_code(amazon: Amazon) -> None:
    url = amazon.consent_url(redirect_uri=CALLBACK, state="a b&c=ü")
    location = await approve(amazon.http, url, "A12BCIS2R7HD4D")
    query = parse_qs(urlsplit(location).query)
    assert location.startswith(CALLBACK + "?")
    assert query.keys() == {"state", "selling_partner_id", "spapi_oauth_code"}
    assert query["state"] == ["a b&c=ü"]
    assert query["selling_partner_id"] == ["A12BCIS2R7HD4D"]


async def test_without_a_redirect_uri_the_first_registered_one_is_used(amazon: Amazon) -> None:
    assert (await approve(amazon.http, amazon.consent_url(), "A12BCIS2R7HD4D")).startswith(CALLBACK + "?")


async def test_a_redirect_uri_keeps_its_own_query(amazon: Amazon) -> None:
    location = await approve(amazon.http, amazon.consent_url(redirect_uri=OTHER_CALLBACK), "A12BCIS2R7HD4D")
    assert location.startswith(OTHER_CALLBACK + "&state=a-state&")


async def test_cancelling_does_not_call_back(amazon: Amazon) -> None:
    url = httpx.URL(amazon.consent_url())
    answer = await amazon.http.post(url.path, data={**url.params, "decision": "cancel"})
    assert answer.status_code == 200
    assert "location" not in answer.headers
    assert "You left without authorizing" in answer.text


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("application_id", "amzn1.sp.solution.other", "MD1000"),
        ("application_id", "", "MD1000"),
        ("state", "", "MD1000"),
        ("redirect_uri", "http://127.0.0.1:9/elsewhere", "MD5101"),
        ("redirect_uri", CALLBACK + "/", "MD5101"),
    ],
)
async def test_what_is_wrong_with_the_request_is_said_and_nothing_else_happens(
    amazon: Amazon, field: str, value: str, code: str
) -> None:
    url = httpx.URL(amazon.consent_url(**{field: value}))
    page = await amazon.http.get(url)
    decision = await amazon.http.post(url.path, data={**url.params, "seller_id": "A12BCIS2R7HD4D"})
    for answer in (page, decision):
        assert answer.status_code == 400
        assert code in answer.text
        assert "<form" not in answer.text


async def test_each_application_has_its_consent(amazon: Amazon) -> None:
    page = await amazon.http.get(amazon.consent_url(application_id=KEYBUZZ))
    assert page.status_code == 200
    assert KEYBUZZ in page.text
    assert APPLICATION not in page.text


async def test_a_draft_wants_version_beta_and_only_that_one(amazon: Amazon) -> None:
    await amazon.control("PUT", "applications/keybuzz", {"draft": True})
    with pytest.raises(ConsentError, match="MD1000"):
        await approve(amazon.http, amazon.consent_url(application_id=KEYBUZZ, version=""), "A12BCIS2R7HD4D")
    url = httpx.URL(amazon.consent_url(application_id=KEYBUZZ, version="alpha"))
    decision = await amazon.http.post(url.path, data={**url.params, "seller_id": "A12BCIS2R7HD4D"})
    assert (decision.status_code, "MD1000" in decision.text) == (400, True)
    assert await approve(amazon.http, amazon.consent_url(application_id=KEYBUZZ), "A12BCIS2R7HD4D")
    assert await approve(amazon.http, amazon.consent_url(version=""), "A12BCIS2R7HD4D")


async def test_a_published_application_is_authorized_with_and_without_version_beta(amazon: Amazon) -> None:
    await amazon.control("PUT", "applications/keybuzz", {"draft": True})
    await amazon.control("PUT", "applications/keybuzz", {"draft": False})
    for version in ("", "beta"):
        url = amazon.consent_url(application_id=KEYBUZZ, version=version)
        assert await approve(amazon.http, url, "A12BCIS2R7HD4D")


async def test_an_unknown_seller_cannot_approve(amazon: Amazon) -> None:
    with pytest.raises(ConsentError, match="400"):
        await approve(amazon.http, amazon.consent_url(), "ANOBODY")


async def test_approve_says_what_the_page_refused(amazon: Amazon) -> None:
    with pytest.raises(ConsentError, match="MD5101"):
        await approve(amazon.http, amazon.consent_url(redirect_uri="http://evil.test"), "A12BCIS2R7HD4D")


@pytest.mark.parametrize("field", ["state", "version", "application_id", "redirect_uri"])
async def test_markup_in_a_parameter_stays_text(amazon: Amazon, field: str) -> None:
    attack = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>"
    page = await amazon.http.get(amazon.consent_url(**{field: attack}))
    assert "<script" not in page.text
    assert "<img" not in page.text
    if field in {"state", "version"}:
        assert f'value="{attack}"' in unescape(page.text)
