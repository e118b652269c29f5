import httpx
import pytest

from tests.sandbox.conftest import CALLBACK, KEYBUZZ, OTHER_CALLBACK, Amazon

SELLER = "A12BCIS2R7HD4D"
NO_REFRESH = (
    "The request has an invalid grant parameter : refresh_token. User may have revoked or didn't grant the permission."
)


async def test_a_code_becomes_an_access_token_and_a_refresh_token(amazon: Amazon) -> None:
    code = await amazon.code(SELLER)
    answer = await amazon.token("authorization_code", code=code, redirect_uri=CALLBACK)
    body = answer.json()
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert body.keys() == {"access_token", "refresh_token", "token_type", "expires_in"}
    assert body["access_token"].startswith("Atza|")
    assert body["refresh_token"].startswith("Atzr|")
    assert (body["token_type"], body["expires_in"]) == ("bearer", 3600)
    assert len(body["access_token"]) <= 2048


async def test_a_refresh_returns_the_same_refresh_token_and_another_access_token(amazon: Amazon) -> None:
    tokens = await amazon.connect(SELLER)
    body = (await amazon.token("refresh_token", refresh_token=tokens.refresh)).json()
    assert body["refresh_token"] == tokens.refresh
    assert body["access_token"] != tokens.access


async def test_a_code_works_once(amazon: Amazon) -> None:
    code = await amazon.code(SELLER)
    first = await amazon.token("authorization_code", code=code, redirect_uri=CALLBACK)
    second = await amazon.token("authorization_code", code=code, redirect_uri=CALLBACK)
    assert first.status_code == 200
    assert second.status_code == 400
    assert second.json() == {
        "error": "invalid_grant",
        "error_description": "The request has an invalid grant parameter : code",
    }


@pytest.mark.parametrize(("age", "status"), [(280, 200), (301, 400)])
async def test_a_code_lives_five_minutes(amazon: Amazon, age: int, status: int) -> None:
    code = await amazon.code(SELLER)
    await amazon.advance(age)
    answer = await amazon.token("authorization_code", code=code, redirect_uri=CALLBACK)
    assert answer.status_code == status
    if status == 400:
        assert answer.json()["error"] == "invalid_grant"
        assert answer.json()["error_description"].endswith(" : code")


async def test_the_redirect_uri_must_be_the_one_of_the_consent(amazon: Amazon) -> None:
    code = await amazon.code(SELLER)
    other = await amazon.token("authorization_code", code=code, redirect_uri=OTHER_CALLBACK)
    assert (other.status_code, other.json()["error"]) == (400, "invalid_grant")
    same = await amazon.token("authorization_code", code=code, redirect_uri=CALLBACK)
    assert same.status_code == 200


async def test_an_unknown_code_or_refresh_token_is_no_grant(amazon: Amazon) -> None:
    code = await amazon.token("authorization_code", code="made-up", redirect_uri=CALLBACK)
    assert (code.status_code, code.json()["error"]) == (400, "invalid_grant")
    refresh = await amazon.token("refresh_token", refresh_token="Atzr|made-up")
    assert refresh.status_code == 400
    assert refresh.json() == {"error": "invalid_grant", "error_description": NO_REFRESH}


async def test_a_revoked_seller_has_to_consent_again(amazon: Amazon) -> None:
    seller = await amazon.seller()
    before = await amazon.connect(seller)
    assert (await amazon.control("POST", f"sellers/{seller}/revoke")) == {"revoked": 1}
    refused = await amazon.token("refresh_token", refresh_token=before.refresh)
    assert refused.json() == {"error": "invalid_grant", "error_description": NO_REFRESH}
    after = await amazon.connect(seller)
    assert (await amazon.token("refresh_token", refresh_token=after.refresh)).status_code == 200


@pytest.mark.parametrize("changes", [{"client_secret": "wrong"}, {"client_id": "amzn1.application-oa2-client.other"}])
async def test_a_wrong_client_is_not_authenticated(amazon: Amazon, changes: dict[str, str]) -> None:
    answer = await amazon.token("refresh_token", refresh_token="Atzr|x", **changes)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


@pytest.mark.parametrize(
    ("grant_type", "missing"),
    [
        ("", "grant_type"),
        ("refresh_token", "refresh_token"),
        ("refresh_token", "client_id"),
        ("refresh_token", "client_secret"),
        ("authorization_code", "code"),
        ("authorization_code", "redirect_uri"),
        ("client_credentials", "scope"),
    ],
)
async def test_a_missing_parameter_is_named(amazon: Amazon, grant_type: str, missing: str) -> None:
    given = {"refresh_token": "r", "code": "c", "redirect_uri": CALLBACK, "scope": "s"}
    answer = await amazon.token(grant_type, **{**given, missing: ""})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
    assert answer.json()["error_description"].endswith(f" : {missing}")


async def test_an_unknown_grant_type_is_not_supported(amazon: Amazon) -> None:
    answer = await amazon.token("password")
    assert (answer.status_code, answer.json()["error"]) == (400, "unsupported_grant_type")


async def test_a_body_that_is_no_form_is_an_invalid_request(amazon: Amazon) -> None:
    answer = await amazon.http.post("/auth/o2/token", json={"grant_type": "refresh_token"})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_client_credentials_give_a_token_for_no_seller(amazon: Amazon) -> None:
    answer = await amazon.token("client_credentials", scope="sellingpartnerapi::notifications")
    body = answer.json()
    assert answer.status_code == 200
    assert body["scope"] == "sellingpartnerapi::notifications"
    assert "refresh_token" not in body
    refused = await amazon.http.get(
        "/sellers/v1/marketplaceParticipations", headers={"x-amz-access-token": body["access_token"]}
    )
    assert refused.status_code == 403


async def test_an_unknown_scope_is_invalid(amazon: Amazon) -> None:
    answer = await amazon.token("client_credentials", scope="sellingpartnerapi::everything")
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_scope")


async def test_a_code_is_good_for_its_application_only(amazon: Amazon) -> None:
    ours = await amazon.code(SELLER)
    foreign = await amazon.token("authorization_code", code=ours, redirect_uri=CALLBACK, **amazon.keybuzz())
    assert foreign.status_code == 400
    assert foreign.json() == {
        "error": "invalid_grant",
        "error_description": "The request has an invalid grant parameter : code",
    }
    assert (await amazon.token("authorization_code", code=ours, redirect_uri=CALLBACK)).status_code == 200
    theirs = await amazon.code(SELLER, application_id=KEYBUZZ)
    foreign = await amazon.token("authorization_code", code=theirs, redirect_uri=CALLBACK)
    assert (foreign.status_code, foreign.json()["error"]) == (400, "invalid_grant")
    own = await amazon.token("authorization_code", code=theirs, redirect_uri=CALLBACK, **amazon.keybuzz())
    assert own.status_code == 200


async def test_a_refresh_token_is_good_for_its_application_only(amazon: Amazon) -> None:
    seller = await amazon.seller()
    ours, theirs = await amazon.connect(seller), await amazon.connect(seller, KEYBUZZ)
    for refresh, own, foreign in ((ours.refresh, {}, amazon.keybuzz()), (theirs.refresh, amazon.keybuzz(), {})):
        refused = await amazon.token("refresh_token", refresh_token=refresh, **foreign)
        assert (refused.status_code, refused.json()["error"]) == (400, "unauthorized_client")
        assert (await amazon.token("refresh_token", refresh_token=refresh, **own)).status_code == 200
    assert (await amazon.control("POST", f"sellers/{seller}/revoke")) == {"revoked": 2}


async def test_the_secret_of_the_other_application_does_not_authenticate(amazon: Amazon) -> None:
    mixed = amazon.keybuzz(client_secret=amazon.server.secret)
    answer = await amazon.token("refresh_token", refresh_token="Atzr|x", **mixed)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


ERRORS = {
    "access_denied": 400,
    "invalid_client": 401,
    "invalid_grant": 400,
    "invalid_request": 400,
    "invalid_scope": 400,
    "server_error": 500,
    "temporarily_unavailable": 503,
    "unauthorized_client": 400,
    "unsupported_grant_type": 400,
}


@pytest.mark.parametrize("error", ERRORS)
async def test_every_error_comes_on_request_and_the_code_stays_good(amazon: Amazon, error: str) -> None:
    seller = await amazon.seller()
    code = await amazon.code(seller)
    await amazon.fail("token", error, seller)
    failed = await amazon.token("authorization_code", code=code, redirect_uri=CALLBACK)
    assert (failed.status_code, failed.json()["error"]) == (ERRORS[error], error)
    assert failed.json().keys() == {"error", "error_description"}
    assert (await amazon.token("authorization_code", code=code, redirect_uri=CALLBACK)).status_code == 200
    assert await amazon.calls("token", seller) == {str(ERRORS[error]): 1, "200": 1}


async def test_an_answer_can_be_no_json(amazon: Amazon) -> None:
    seller = await amazon.seller()
    code = await amazon.code(seller)
    await amazon.fail("token", "not_json", seller)
    odd = await amazon.token("authorization_code", code=code, redirect_uri=CALLBACK)
    assert odd.status_code == 200
    assert odd.headers["content-type"].startswith("text/html")
    assert odd.text.startswith("<!doctype html>")
    assert (await amazon.token("authorization_code", code=code, redirect_uri=CALLBACK)).status_code == 200


async def test_a_success_can_lack_the_refresh_token_and_the_code_is_spent(amazon: Amazon) -> None:
    seller = await amazon.seller()
    code = await amazon.code(seller)
    await amazon.fail("token", "no_refresh_token", seller)
    odd = await amazon.token("authorization_code", code=code, redirect_uri=CALLBACK)
    assert odd.status_code == 200
    assert odd.json().keys() == {"access_token", "token_type", "expires_in"}
    assert (await amazon.token("authorization_code", code=code, redirect_uri=CALLBACK)).status_code == 400


async def test_the_connection_can_be_cut_without_an_answer(amazon: Amazon) -> None:
    seller = await amazon.seller()
    code = await amazon.code(seller)
    await amazon.fail("token", "cut", seller)
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        await amazon.token("authorization_code", code=code, redirect_uri=CALLBACK)
    assert await amazon.calls("token", seller) == {"cut": 1}
    assert (await amazon.token("authorization_code", code=code, redirect_uri=CALLBACK)).status_code == 200
    assert "Traceback" not in amazon.server.log.read_text()


async def test_a_caller_who_leaves_a_slow_success_has_spent_the_code(amazon: Amazon) -> None:
    seller = await amazon.seller()
    code = await amazon.code(seller)
    await amazon.fail("token", 200, seller, delaySeconds=60)
    async with httpx.AsyncClient(
        base_url=amazon.server.url, trust_env=False, timeout=httpx.Timeout(30, read=1)
    ) as impatient:
        with pytest.raises(httpx.ReadTimeout):
            await Amazon(amazon.server, impatient).token("authorization_code", code=code, redirect_uri=CALLBACK)
    again = await amazon.token("authorization_code", code=code, redirect_uri=CALLBACK)
    assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")


async def test_a_slow_success_comes_in_the_end(amazon: Amazon) -> None:
    seller = await amazon.seller()
    tokens = await amazon.connect(seller)
    await amazon.fail("token", 200, seller, delaySeconds=0.05)
    answer = await amazon.token("refresh_token", refresh_token=tokens.refresh)
    assert (answer.status_code, answer.json()["refresh_token"]) == (200, tokens.refresh)


async def test_what_is_wrong_is_refused_slowly_too(amazon: Amazon) -> None:
    await amazon.fail("token", 200, delaySeconds=0.01)
    answer = await amazon.token("refresh_token", refresh_token="Atzr|made-up")
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
