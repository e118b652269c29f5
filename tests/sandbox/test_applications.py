"""The applications that the sandbox knows: drafts, and client secrets that are rotated."""

import pytest

from tests.sandbox.conftest import APPLICATION, KEYBUZZ, Amazon

WEEK = 7 * 86_400


async def accepted(amazon: Amazon, secret: str, client_id: str | None = None) -> bool:
    client = {"client_secret": secret} | ({"client_id": client_id} if client_id is not None else {})
    answer = await amazon.token("client_credentials", scope="sellingpartnerapi::notifications", **client)
    if answer.status_code != 200:
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    return answer.status_code == 200


async def test_both_applications_are_listed_without_their_secrets(amazon: Amazon) -> None:
    listed = await amazon.control("GET", "applications")
    ids = amazon.server.environment
    assert listed["applications"] == [
        {
            "source": "external_test",
            "clientId": ids["SANDBOX_CLIENT_ID"],
            "applicationId": APPLICATION,
            "draft": False,
        },
        {
            "source": "keybuzz",
            "clientId": ids["SANDBOX_KEYBUZZ_CLIENT_ID"],
            "applicationId": KEYBUZZ,
            "draft": False,
        },
    ]


async def test_a_new_secret_is_valid_beside_the_old_one_for_a_week(own: Amazon) -> None:
    tokens = await own.connect("A12BCIS2R7HD4D")
    answer = await own.control("POST", "applications/external_test/secret")
    new = answer.pop("newClientSecret")
    assert answer == {"clientId": own.server.environment["SANDBOX_CLIENT_ID"]}
    assert await accepted(own, own.server.secret)
    assert await accepted(own, new)
    await own.advance(WEEK - 60)
    assert await accepted(own, own.server.secret)
    await own.advance(61)
    assert not await accepted(own, own.server.secret)
    assert await accepted(own, new)
    refreshed = await own.token("refresh_token", refresh_token=tokens.refresh, client_secret=new)
    assert refreshed.status_code == 200, "refresh tokens are not affected"


async def test_a_second_rotation_leaves_the_first_ones_end(own: Amazon) -> None:
    first = (await own.control("POST", "applications/external_test/secret"))["newClientSecret"]
    await own.advance(WEEK / 2)
    second = (await own.control("POST", "applications/external_test/secret", {}))["newClientSecret"]
    await own.advance(WEEK / 2 + 60)
    assert [await accepted(own, secret) for secret in (own.server.secret, first, second)] == [False, True, True]
    await own.advance(WEEK / 2)
    assert [await accepted(own, secret) for secret in (first, second)] == [False, True]


async def test_the_old_secrets_can_end_at_once(own: Amazon) -> None:
    first = (await own.control("POST", "applications/external_test/secret"))["newClientSecret"]
    body = {"expireOldNow": True}
    second = (await own.control("POST", "applications/external_test/secret", body))["newClientSecret"]
    assert [await accepted(own, secret) for secret in (own.server.secret, first, second)] == [False, False, True]


async def test_a_rotation_is_of_one_application(own: Amazon) -> None:
    body = {"expireOldNow": True}
    new = (await own.control("POST", "applications/keybuzz/secret", body))["newClientSecret"]
    keybuzz = own.keybuzz()
    assert await accepted(own, own.server.secret)
    assert not await accepted(own, new)
    assert await accepted(own, new, keybuzz["client_id"])
    assert not await accepted(own, keybuzz["client_secret"], keybuzz["client_id"])


async def test_an_unknown_application_is_not_found(amazon: Amazon) -> None:
    for source in ("nobodys", APPLICATION):
        assert (await amazon.http.post(f"/sandbox/applications/{source}/secret")).status_code == 404
        assert (await amazon.http.put(f"/sandbox/applications/{source}", json={"draft": True})).status_code == 404


@pytest.mark.parametrize("body", [{"expireOld": True}, {"expireOldNow": "yes"}, [], "now"])
async def test_a_wrong_rotation_is_refused_and_rotates_nothing(amazon: Amazon, body: object) -> None:
    assert (await amazon.http.post("/sandbox/applications/external_test/secret", json=body)).status_code == 400
    assert await accepted(amazon, amazon.server.secret)


@pytest.mark.parametrize("body", [{}, {"draft": "maybe"}, {"draft": True, "published": True}])
async def test_a_wrong_change_of_an_application_is_refused(amazon: Amazon, body: dict[str, object]) -> None:
    assert (await amazon.http.put("/sandbox/applications/keybuzz", json=body)).status_code == 400
    assert [one["draft"] for one in (await amazon.control("GET", "applications"))["applications"]] == [False, False]
