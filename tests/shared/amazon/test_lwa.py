"""Login with Amazon, against the sandbox: tokens kept, and its refusals told apart."""

import asyncio

import httpx
import msgspec
import pytest

from shared.amazon.errors import (
    AmazonUnavailableError,
    AppCredentialsError,
    AuthorizationRevokedError,
    CodeRejectedError,
)
from shared.amazon.lwa import Lwa
from tests.shared.amazon.conftest import Amazon, Odd

HTML = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\n<html"


async def test_a_code_becomes_a_refresh_token_and_that_an_access_token(amazon: Amazon) -> None:
    tokens = await amazon.lwa.exchange(amazon.app, await amazon.code(await amazon.seller()))
    assert tokens.refresh_token is not None
    assert tokens.refresh_token.startswith("Atzr|")
    assert (await amazon.lwa.access_token(amazon.app, tokens.refresh_token)).startswith("Atza|")
    assert "Atz" not in repr(tokens)


async def test_the_access_token_that_an_exchange_brings_is_used(amazon: Amazon) -> None:
    seller_id = await amazon.seller()
    tokens = await amazon.lwa.exchange(amazon.app, await amazon.code(seller_id))
    assert await amazon.lwa.access_token(amazon.app, str(tokens.refresh_token)) == tokens.access_token
    assert await amazon.calls("token", seller_id) == {"200": 1}
    assert await amazon.lwa.access_token(amazon.app, str(tokens.refresh_token), fresh=True) != tokens.access_token


async def test_an_access_token_is_asked_for_once_however_many_wait(amazon: Amazon) -> None:
    seller_id = await amazon.seller()
    tenant = await amazon.connect(seller_id)
    await amazon.control("DELETE", "calls")
    tokens = await asyncio.gather(*(amazon.lwa.access_token(amazon.app, tenant.refresh_token) for _ in range(20)))
    assert len(set(tokens)) == 1
    assert await amazon.lwa.access_token(amazon.app, tenant.refresh_token) == tokens[0]
    assert await amazon.calls("token", seller_id) == {"200": 1}


async def test_each_seller_has_a_token_of_its_own(amazon: Amazon) -> None:
    first, second = await amazon.connect(await amazon.seller()), await amazon.connect(await amazon.seller())
    tokens = [await amazon.lwa.access_token(amazon.app, each.refresh_token) for each in (first, second)]
    assert tokens[0] != tokens[1]


async def test_a_forgotten_token_is_asked_for_again(amazon: Amazon) -> None:
    tenant = await amazon.connect(await amazon.seller())
    token = await amazon.lwa.access_token(amazon.app, tenant.refresh_token)
    amazon.lwa.forget("another")
    assert await amazon.lwa.access_token(amazon.app, tenant.refresh_token) == token
    amazon.lwa.forget(token)
    assert await amazon.lwa.access_token(amazon.app, tenant.refresh_token) != token


async def test_a_refresh_token_that_was_revoked_asks_for_the_seller(amazon: Amazon) -> None:
    seller_id = await amazon.seller()
    tenant = await amazon.connect(seller_id)
    await amazon.control("POST", f"sellers/{seller_id}/revoke")
    with pytest.raises(
        AuthorizationRevokedError, match=r"request id [0-9a-f]{32}.*Connect the account again"
    ) as refused:
        await amazon.lwa.access_token(amazon.app, tenant.refresh_token)
    assert tenant.refresh_token not in str(refused.value)


async def test_a_wrong_client_secret_asks_for_an_operator(amazon: Amazon) -> None:
    tenant = await amazon.connect(await amazon.seller())
    wrong = msgspec.structs.replace(amazon.app, client_secret="secretpart")
    with pytest.raises(AppCredentialsError, match="client_secret") as refused:
        await amazon.lwa.access_token(wrong, tenant.refresh_token)
    assert refused.value.patient
    assert "secretpart" not in str(refused.value)
    with pytest.raises(AppCredentialsError):
        await amazon.lwa.exchange(wrong, await amazon.code(tenant.seller_id))


async def test_a_code_that_was_used_or_never_given_is_refused(amazon: Amazon) -> None:
    code = await amazon.code(await amazon.seller())
    await amazon.lwa.exchange(amazon.app, code)
    for used in (code, "never-given"):
        with pytest.raises(CodeRejectedError) as refused:
            await amazon.lwa.exchange(amazon.app, used)
        assert used not in str(refused.value)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_failure_of_amazon_is_to_be_tried_again_and_the_next_call_may_work(amazon: Amazon, status: int) -> None:
    seller_id = await amazon.seller()
    tenant = await amazon.connect(seller_id)
    await amazon.fail("token", status, seller_id)
    with pytest.raises(AmazonUnavailableError, match=str(status)):
        await amazon.lwa.access_token(amazon.app, tenant.refresh_token)
    assert await amazon.lwa.access_token(amazon.app, tenant.refresh_token)


async def test_an_answer_that_does_not_come_is_to_be_tried_again(amazon: Amazon) -> None:
    seller_id = await amazon.seller()
    tenant = await amazon.connect(seller_id)
    await amazon.fail("token", "timeout", seller_id)
    async with httpx.AsyncClient(trust_env=False, timeout=httpx.Timeout(30, read=1)) as impatient:
        with pytest.raises(AmazonUnavailableError, match="ReadTimeout"):
            await Lwa(impatient, amazon.settings.amazon_lwa_url).access_token(amazon.app, tenant.refresh_token)


async def test_nobody_there_is_to_be_tried_again(amazon: Amazon) -> None:
    with pytest.raises(AmazonUnavailableError, match="ConnectError"):
        await Lwa(amazon.http, "http://127.0.0.1:1").access_token(amazon.app, "Atzr|x")


@pytest.mark.parametrize(
    "answer",
    [
        HTML,
        HTML.replace(b"200 OK", b"502 Bad Gateway"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull",
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnone",
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nshort",
        b'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"\xff\xfe"',
        b"SSH-2.0-nonsense\r\n",
        b"",
    ],
)
async def test_an_answer_that_is_no_token_is_to_be_tried_again(amazon: Amazon, answering: Odd, answer: bytes) -> None:
    async with answering(answer) as url:
        with pytest.raises(AmazonUnavailableError):
            await Lwa(amazon.http, url).access_token(amazon.app, "Atzr|x")


async def test_an_exchange_without_a_refresh_token_is_no_success(amazon: Amazon, answering: Odd) -> None:
    body = b'{"access_token":"Atza|x","expires_in":3600}'
    async with answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)) as url:
        with pytest.raises(CodeRejectedError, match="without a refresh token"):
            await Lwa(amazon.http, url).exchange(amazon.app, "a-code")
