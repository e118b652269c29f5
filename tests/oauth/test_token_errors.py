"""Everything that Login with Amazon can answer: to the code of a consent, and to the check of an authorization."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import UUID

import httpx
import pytest

from oauth.handlers import check_connection
from shared.amazon.errors import AmazonUnavailableError, AppCredentialsError
from shared.errors import RetryLaterError
from shared.events import ConnectionRejected
from tests.conftest import Told
from tests.oauth.conftest import Oauth

START_AGAIN = (400, "authorization_code_rejected", "click Connect to start again")
OURS = (502, "app_credentials_rejected", "You have done nothing wrong")
LATER = (503, "amazon_unavailable", "Wait some minutes")

AT_THE_EXCHANGE: list[tuple[str | int, tuple[int, str, str], int]] = [
    ("invalid_grant", START_AGAIN, 1),
    ("invalid_request", START_AGAIN, 1),
    ("access_denied", START_AGAIN, 1),
    ("no_refresh_token", START_AGAIN, 1),
    ("invalid_client", OURS, 1),
    ("unauthorized_client", OURS, 1),
    ("invalid_scope", OURS, 1),
    ("unsupported_grant_type", OURS, 1),
    ("server_error", LATER, 3),
    ("temporarily_unavailable", LATER, 3),
    ("not_json", LATER, 3),
    ("cut", LATER, 3),
    ("timeout", LATER, 3),
    (429, LATER, 3),
    (500, LATER, 3),
    (503, LATER, 3),
]
"""What the page says, and how often Amazon is asked: again only where another answer may come."""

AT_THE_CHECK: list[tuple[str | int, type[RetryLaterError], str]] = [
    ("invalid_client", AppCredentialsError, "client_secret is wrong or has expired"),
    ("unauthorized_client", AppCredentialsError, "is for another application"),
    ("invalid_scope", AppCredentialsError, "check the application's credentials"),
    ("invalid_request", AppCredentialsError, "check the application's credentials"),
    ("access_denied", AppCredentialsError, "check the application's credentials"),
    ("unsupported_grant_type", AppCredentialsError, "check the application's credentials"),
    ("server_error", AmazonUnavailableError, "500 .*: server_error: try again later"),
    ("temporarily_unavailable", AmazonUnavailableError, "503 .*: temporarily_unavailable: try again later"),
    ("not_json", AmazonUnavailableError, "200 .request id .* with something that is no token"),
    ("cut", AmazonUnavailableError, "did not answer"),
    ("timeout", AmazonUnavailableError, "did not answer .ReadTimeout."),
    (429, AmazonUnavailableError, "429 .*: try again later"),
    (500, AmazonUnavailableError, "500 .*: try again later"),
    (503, AmazonUnavailableError, "503 .*: try again later"),
]
"""What says nothing of the seller: it changes nothing, and is asked again later."""


@asynccontextmanager
async def waiting(oauth: Oauth, fault: str | int) -> AsyncIterator[None]:
    """Oauth waits no longer than a second for an answer that does not come."""
    patient = oauth.network
    async with httpx.AsyncClient(trust_env=False, timeout=httpx.Timeout(10, read=1)) as impatient:
        oauth.network = impatient if fault == "timeout" else patient
        yield
        oauth.network = patient


async def rejected(oauth: Oauth, told: Told) -> ConnectionRejected:
    """As orders tells it of the connection that was told last."""
    subject, event = (await told(oauth.pool))[-1]
    assert subject == "connection.connected"
    return ConnectionRejected(
        tenant_id=oauth.tenant_id,
        connection_id=UUID(event["connectionId"]),
        error="authorization_revoked",
        at=datetime.now(UTC),
    )


async def asked(oauth: Oauth, seller_id: str) -> int:
    """How often the token endpoint was asked about the seller, whatever it answered."""
    return sum((await oauth.amazon.calls("token", seller_id)).values())


@pytest.mark.parametrize(("fault", "page", "calls"), AT_THE_EXCHANGE)
async def test_a_code_that_becomes_no_token_is_said_in_words_and_leaves_nothing(
    oauth: Oauth, told: Told, fault: str | int, page: tuple[int, str, str], calls: int
) -> None:
    status_code, code, text = page
    seller_id = await oauth.amazon.seller()
    async with waiting(oauth, fault), oauth.serving() as http:
        location = await oauth.consented(http, seller_id)
        await oauth.amazon.fail("token", fault, seller_id, times=3)
        try:
            answer = await oauth.come_back(http, location)
        finally:
            await oauth.amazon.control("DELETE", "faults")
        assert (answer.status_code, text in answer.text) == (status_code, True), answer.text
        status = await oauth.status(http)
    assert await asked(oauth, seller_id) == calls
    assert (status["status"], status["lastErrorCode"], status["credentialsPresent"]) == ("ERROR", code, False)
    assert status["lastError"].endswith(".")
    assert status["lastError"].replace("'", "&#x27;") in answer.text
    assert await oauth.in_vault() is None
    assert await told(oauth.pool) == []
    given = location.partition("spapi_oauth_code=")[2]
    assert given not in answer.text + await oauth.all_rows()


@pytest.mark.parametrize("fault", ["server_error", "not_json", "cut", 429])
async def test_amazon_failing_for_a_moment_costs_the_seller_nothing(
    oauth: Oauth, http: httpx.AsyncClient, told: Told, fault: str | int
) -> None:
    seller_id = await oauth.amazon.seller()
    location = await oauth.consented(http, seller_id)
    await oauth.amazon.fail("token", fault, seller_id, times=2)
    assert (await oauth.come_back(http, location)).status_code == 200
    status = await oauth.status(http)
    assert (status["status"], status["lastError"], status["lastErrorCode"]) == ("CONNECTED", None, None)
    assert [subject for subject, _ in await told(oauth.pool)] == ["connection.connected"]


@pytest.mark.parametrize(("fault", "error", "words"), AT_THE_CHECK)
async def test_what_says_nothing_of_the_seller_changes_nothing_and_is_asked_again_later(
    oauth: Oauth, http: httpx.AsyncClient, told: Told, fault: str | int, error: type[RetryLaterError], words: str
) -> None:
    seller_id = await oauth.amazon.seller()
    await oauth.connect(http, seller_id)
    event = await rejected(oauth, told)
    before = await oauth.status(http), await oauth.in_vault(), await told(oauth.pool), await oauth.all_rows()
    calls = await asked(oauth, seller_id)
    await oauth.amazon.fail("token", fault, seller_id)
    async with waiting(oauth, fault):
        with pytest.raises(error, match=words) as raised:
            await check_connection(event, "e1", parts=oauth.parts())
    assert raised.value.patient
    assert await asked(oauth, seller_id) == calls + 1
    after = await oauth.status(http), await oauth.in_vault(), await told(oauth.pool), await oauth.all_rows()
    assert after == before
    assert before[0]["status"] == "CONNECTED"

    await check_connection(event, "e1", parts=oauth.parts())
    verified = await oauth.status(http)
    assert verified["status"] == "CONNECTED"
    assert verified["verifiedAt"] > before[0]["verifiedAt"]
    assert await told(oauth.pool) == before[2]


async def test_a_refresh_does_not_need_a_refresh_token_in_its_answer(
    oauth: Oauth, http: httpx.AsyncClient, told: Told
) -> None:
    seller_id = await oauth.amazon.seller()
    await oauth.connect(http, seller_id)
    kept = await oauth.in_vault()
    await oauth.amazon.fail("token", "no_refresh_token", seller_id)
    await check_connection(await rejected(oauth, told), "e1", parts=oauth.parts())
    assert (await oauth.status(http))["status"] == "CONNECTED"
    assert await oauth.in_vault() == kept


async def test_only_an_authorization_that_is_gone_at_amazon_is_revoked(
    oauth: Oauth, http: httpx.AsyncClient, told: Told
) -> None:
    seller_id = await oauth.amazon.seller()
    await oauth.connect(http, seller_id)
    event = await rejected(oauth, told)
    await oauth.amazon.fail("token", "invalid_grant", seller_id)
    await check_connection(event, "e1", parts=oauth.parts())
    status = await oauth.status(http)
    assert (status["status"], status["lastErrorCode"]) == ("REVOKED", "authorization_revoked")
    assert "invalid_grant" in status["lastError"]
    assert "Connect the account again" in status["lastError"]
    assert await oauth.in_vault() is None
    [_, (subject, ended)] = await told(oauth.pool)
    assert (subject, ended["reason"]) == ("connection.disconnected", "REVOKED")
    await check_connection(event, "e2", parts=oauth.parts())
    assert len(await told(oauth.pool)) == 2
