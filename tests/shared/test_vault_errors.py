"""Everything that can be wrong with Vault, on real servers where they can be had: told apart, tried again as often as
is said, and over without a restart.
"""

import asyncio
import logging
import ssl
import traceback
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Literal

import pytest

from devstack import certificates
from devstack.stack import Stack
from shared.errors import RetryLaterError, UnavailableError
from shared.vault import (
    VaultConflictError,
    VaultDeniedError,
    VaultDownError,
    VaultInvalidError,
    VaultSealedError,
    VaultSlowError,
    VaultUntrustedError,
)
from tests.builders import new_id
from tests.shared.conftest import PATIENCE_SECONDS
from tests.shared.vaults import Bao, answering, asked_by, http_answer, proxy_to, vault_at, vault_of

APP = "keybuzz/amazon_spapi/app"
SEALED = http_answer(503, '{"errors": ["Vault is sealed"]}')
OURS = {"refresh_token": "ours"}
OTHERS = {"refresh_token": "others"}


@pytest.fixture
def path() -> str:
    return f"keybuzz/tenants/{new_id()}/amazon_spapi"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server is slow sooner."""
    monkeypatch.setattr("shared.vault.TIMEOUT_SECONDS", 0.5)


def test_each_has_a_code_of_its_own() -> None:
    codes = {
        VaultDeniedError: "vault_denied",
        VaultInvalidError: "vault_invalid",
        VaultConflictError: "vault_conflict",
        VaultSealedError: "vault_sealed",
        VaultDownError: "vault_down",
        VaultSlowError: "vault_slow",
        VaultUntrustedError: "vault_untrusted",
    }
    assert {kind: kind.code for kind in codes} == codes
    assert {kind.patient for kind in codes} - {VaultConflictError.patient} == {True}


async def raised_by(call: Awaitable[Any]) -> RetryLaterError:
    with pytest.raises(RetryLaterError) as raised:
        await call
    return raised.value


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("answer", "kind", "attempts"),
    [
        pytest.param(SEALED, VaultSealedError, 3, id="sealed"),
        pytest.param(http_answer(503, "<html>no server", "text/html"), VaultDownError, 3, id="proxy without a server"),
        pytest.param(http_answer(500, '{"errors": ["internal error"]}'), VaultDownError, 3, id="internal"),
        pytest.param(http_answer(502, "<html>", "text/html"), VaultDownError, 3, id="bad gateway"),
        pytest.param(http_answer(429, '{"errors": ["too many"]}'), VaultDownError, 3, id="too many requests"),
        pytest.param(b"", VaultDownError, 3, id="broken off"),
        pytest.param(b"SSH-2.0-nonsense\r\n", VaultDownError, 3, id="not HTTP"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", VaultDownError, 3, id="half an answer"),
        pytest.param(None, VaultSlowError, 3, id="silent"),
        pytest.param(http_answer(403, '{"errors": ["permission denied"]}'), VaultDeniedError, 1, id="denied"),
        pytest.param(http_answer(403, "<html>", "text/html"), VaultInvalidError, 1, id="refused by a proxy"),
        pytest.param(http_answer(400, '{"errors": ["no, secretpart"]}'), VaultInvalidError, 1, id="bad request"),
        pytest.param(http_answer(404, "<html>", "text/html"), VaultInvalidError, 1, id="another server"),
        pytest.param(http_answer(404, '{"errors": ["no route"]}'), VaultInvalidError, 1, id="not mounted"),
        pytest.param(http_answer(200, "<html>", "text/html"), VaultInvalidError, 1, id="a page"),
        pytest.param(http_answer(200, '{"data": {"data": {}}}'), VaultInvalidError, 1, id="KV v1"),
        pytest.param(http_answer(200, "[]"), VaultInvalidError, 1, id="a list"),
    ],
)
async def test_each_failure_is_told_apart_and_only_what_may_pass_is_tried_again(
    answer: bytes | None, kind: type[RetryLaterError], attempts: int
) -> None:
    async with answering(answer) as (requests, addr):
        error = await raised_by(vault_at(addr).read("a"))
        assert (type(error), len(requests)) == (kind, attempts)
        assert isinstance(error, UnavailableError) == (attempts == 3)
        assert (error.delay_seconds is None) == (kind is VaultDeniedError)
        assert "secretpart" not in f"{error} {error!r}"
        requests.clear()
        assert await vault_at(addr).not_ready() is not None
        assert len(requests) == 1


@pytest.mark.parametrize("failure", [SEALED, b"", None], ids=["sealed", "down", "slow"])
@pytest.mark.usefixtures("impatient")
async def test_what_passes_within_three_attempts_is_no_failure(failure: bytes | None) -> None:
    read = '{"data": {"data": {"a": 1}, "metadata": {"version": 1, "created_time": "2026-01-01T00:00:00Z"}}}'
    async with answering(failure, failure, http_answer(200, read)) as (requests, addr):
        assert await vault_at(addr).read("a") == {"a": 1}
        assert len(requests) == 3


async def test_a_sealed_server_is_told_and_serves_again_when_it_is_unsealed(bao: Bao, path: str) -> None:
    approle = await bao.role("sealed", "1h", "1h")
    vault, fresh = vault_at(bao.addr, **approle), vault_at(bao.addr, **approle)
    await vault.write(path, OURS)
    asked = asked_by(vault)
    await bao.seal()
    try:
        error = await raised_by(vault.read(path))
        assert (type(error), error.code, error.delay_seconds) == (VaultSealedError, "vault_sealed", 30)
        assert asked == [f"GET /v1/secret/data/{path} 503"] * 3
        assert "sealed" in str(await vault.not_ready())
        assert isinstance(await raised_by(fresh.read(path)), VaultSealedError)
    finally:
        await bao.unseal()
    for each in (vault, fresh):
        assert await each.read(path) == OURS
        assert await each.not_ready() is None


async def test_a_server_that_was_killed_is_down_and_serves_again_when_it_is_back(mortal: Stack, path: str) -> None:
    vault = vault_of(mortal, "oauth")
    await vault.write(path, OURS)
    assert await vault.not_ready() is None
    await mortal.kill("openbao")
    try:
        error = await raised_by(vault.read(path))
        assert (type(error), error.code, error.delay_seconds) == (VaultDownError, "vault_down", 10)
        assert "VAULT_ADDR" in str(error)
        assert "VAULT_ADDR" in str(await vault.not_ready())
        fresh = vault_of(mortal, "oauth")
        assert isinstance(await raised_by(fresh.read(path)), VaultDownError)
    finally:
        await mortal.start("openbao")
    for each in (vault, fresh):
        assert await asyncio.gather(*(each.read(path) for _ in range(20))) == [OURS] * 20
        assert await each.not_ready() is None


async def test_a_server_that_is_killed_under_way_is_only_a_pause(mortal: Stack, path: str) -> None:
    """Its last answer is lost with it."""
    await vault_of(mortal, "oauth").write(path, OURS)

    async def restart() -> None:
        await mortal.kill("openbao")
        await mortal.start("openbao")

    async with proxy_to(mortal.endpoints.vault.addr) as (proxy, addr):
        vault = vault_of(mortal, "oauth", VAULT_ADDR=addr)
        assert await vault.read(path) == OURS
        proxy.lose, proxy.meanwhile = "answer", restart
        assert await vault.write(path, OTHERS, replacing=1) == 2
    assert await vault_of(mortal, "oauth").read(path) == OTHERS


async def test_a_revoked_token_and_a_lost_server_at_once_are_overcome(mortal: Stack, path: str) -> None:
    vault = vault_of(mortal, "oauth")
    await vault.write(path, OURS)
    await asyncio.to_thread(vault._client.auth.token.revoke_self)
    await mortal.kill("openbao")
    try:
        assert isinstance(await raised_by(vault.read(path)), VaultDownError)
    finally:
        await mortal.start("openbao")
    assert await vault.read(path) == OURS


@pytest.mark.parametrize(
    "address",
    ["nonsense", "127.0.0.1:8200", "https://", "ftp://127.0.0.1", "https://127.0.0.1:1", "https://nowhere.invalid"],
)
async def test_an_address_where_nobody_answers_is_named(stack: Stack, address: str) -> None:
    vault = vault_of(stack, "orders", VAULT_ADDR=address)
    error = await raised_by(vault.read(APP))
    assert (type(error), "VAULT_ADDR" in str(error)) == (VaultDownError, True)


@pytest.mark.parametrize("from_tls", [True, False])
async def test_no_redirect_leads_out_of_tls_or_into_it(stack: Stack, tmp_path: Path, from_tls: bool) -> None:
    ca, cert, key = (tmp_path / name for name in ("ca.pem", "cert.pem", "key.pem"))
    certificates.ensure(ca, cert, key)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(cert, key)
    async with answering(http_answer(200, "{}"), tls=None if from_tls else tls) as (there, target):
        moved = http_answer(307, "", Location=f"{target}/v1/secret/data/a")
        async with answering(moved, tls=tls if from_tls else None) as (here, addr):
            vault = vault_of(stack, "orders", VAULT_ADDR=addr, VAULT_CACERT=str(ca), VAULT_TOKEN="secretpart")
            assert isinstance(await raised_by(vault.read("a")), VaultDownError)
    assert (len(here), there) == (3, [])


async def test_http_where_https_is_asked_for_is_no_matter_of_trust(bao: Bao) -> None:
    vault = vault_at(bao.addr.replace("http://", "https://"))
    assert isinstance(await raised_by(vault.read(APP)), VaultDownError)


async def test_https_where_http_is_asked_for_is_no_denial(stack: Stack) -> None:
    vault = vault_of(stack, "orders", VAULT_ADDR=stack.endpoints.vault.addr.replace("https://", "http://"))
    assert isinstance(await raised_by(vault.read(APP)), VaultInvalidError)


async def test_a_handshake_that_breaks_off_is_tried_again(stack: Stack) -> None:
    async with proxy_to(stack.endpoints.vault.addr) as (proxy, addr):
        vault = vault_of(stack, "orders", VAULT_ADDR=addr)
        proxy.lose = "answer"
        assert await vault.read(APP)
        assert proxy.connections == 2


@pytest.mark.usefixtures("impatient")
async def test_a_silent_server_is_slow_and_serves_again(stack: Stack, path: str) -> None:
    async with proxy_to(stack.endpoints.vault.addr) as (proxy, addr):
        vault = vault_of(stack, "oauth", VAULT_ADDR=addr)
        await vault.write(path, OURS)
        proxy.lose, proxy.silent = "answer", True
        assert "in time" in str(await vault.not_ready())
        assert await vault.not_ready() is None
        assert await vault.read(path) == OURS


@pytest.mark.usefixtures("impatient")
async def test_a_server_that_answers_without_end_is_slow() -> None:
    async with (
        answering(b"HTTP/1.1 200 OK\r\n\r\n{", endless=True) as (requests, addr),
        asyncio.timeout(PATIENCE_SECONDS),
    ):
        assert isinstance(await raised_by(vault_at(addr).read("a")), VaultSlowError)
        assert len(requests) == 3


@pytest.mark.usefixtures("impatient")
async def test_twenty_at_a_silent_server_end_together(stack: Stack) -> None:
    """They wait for one login, not for one after the other."""
    role = stack.endpoints.vault.roles["orders"]
    approle = {"VAULT_TOKEN": "", "VAULT_ROLE_ID": role.role_id, "VAULT_SECRET_ID": role.secret_id}
    async with answering(None) as (requests, addr):
        vault = vault_at(addr, **approle)
        errors = await asyncio.gather(*(raised_by(vault.read("a")) for _ in range(20)))
        assert {type(error) for error in errors} == {VaultSlowError}
        assert len(requests) < 10


@pytest.mark.parametrize("content", ["another", None, "no certificate", "broken"])
async def test_what_cannot_be_trusted_is_named_asked_once_and_trusted_when_the_file_is_right(
    stack: Stack, tmp_path: Path, content: str | None
) -> None:
    ca, right = tmp_path / "ca.pem", Path(stack.endpoints.vault.cacert).read_bytes()  # noqa: ASYNC240 - a short file
    if content == "another":
        certificates.ensure(ca, tmp_path / "cert.pem", tmp_path / "key.pem")
    elif content == "broken":
        ca.write_text("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
    elif content is not None:
        ca.write_text(content)
    async with proxy_to(stack.endpoints.vault.addr) as (proxy, addr):
        vault = vault_of(stack, "orders", VAULT_ADDR=addr, VAULT_CACERT=str(ca))
        error = await raised_by(vault.read(APP))
        assert (type(error), error.code, error.delay_seconds) == (VaultUntrustedError, "vault_untrusted", 60)
        assert "VAULT_CACERT" in str(error)
        assert proxy.connections <= 1
        assert "VAULT_CACERT" in str(await vault.not_ready())
        ca.write_bytes(right)
        assert await vault.read(APP)


@pytest.mark.parametrize("value", ["", "0", "false", "False", "no", "off", "/dev/null", "/"])
async def test_there_is_no_way_around_verification(stack: Stack, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("VAULT_SKIP_VERIFY", "BAO_SKIP_VERIFY"):
        monkeypatch.setenv(variable, "1")
    for variable in ("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(variable, "")
    vault = vault_of(stack, "orders", VAULT_CACERT=value)
    assert isinstance(await raised_by(vault.read(APP)), VaultUntrustedError)


async def test_a_certificate_for_another_name_is_not_trusted(stack: Stack) -> None:
    addr = stack.endpoints.vault.addr.replace("127.0.0.1", "127.1")  # the same server by a name that it does not have
    assert isinstance(await raised_by(vault_of(stack, "orders", VAULT_ADDR=addr).read(APP)), VaultUntrustedError)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("silent", [True, False], ids=["slow", "down"])
async def test_our_own_write_whose_answer_was_lost_is_known_again(stack: Stack, path: str, silent: bool) -> None:
    async with proxy_to(stack.endpoints.vault.addr) as (proxy, addr):
        vault = vault_of(stack, "oauth", VAULT_ADDR=addr)
        for replacing in range(2):
            assert (await vault.look(path)).version == replacing
            proxy.lose, proxy.silent = "answer", silent
            asked = asked_by(vault)
            assert await vault.write(path, OURS, replacing=replacing) == replacing + 1
            assert proxy.lost == replacing + 1
            assert asked == [f"POST /v1/secret/data/{path} 400", f"GET /v1/secret/data/{path} 200"]
    assert (await vault_of(stack, "oauth").look(path)).version == 2


@pytest.mark.parametrize(
    ("lose", "written"),
    [("request", [OTHERS]), ("answer", [OTHERS]), ("answer", [OURS]), ("request", [OURS, OTHERS])],
    ids=["instead of ours", "after ours", "the same after ours", "twice"],
)
async def test_a_lost_message_and_somebody_elses_write_are_a_conflict(
    stack: Stack, path: str, lose: Literal["request", "answer"], written: list[dict[str, str]]
) -> None:
    other = vault_of(stack, "oauth")

    async def write() -> None:
        for secret in written:
            await other.write(path, secret)

    async with proxy_to(stack.endpoints.vault.addr) as (proxy, addr):
        vault = vault_of(stack, "oauth", VAULT_ADDR=addr)
        assert (await vault.look(path)).version == 0
        proxy.lose, proxy.meanwhile = lose, write
        error = await raised_by(vault.write(path, OURS, replacing=0))
        assert (type(error), error.code, error.delay_seconds) == (VaultConflictError, "vault_conflict", 1)
    assert await other.read(path) == written[-1]


async def test_a_conflict_at_the_first_attempt_is_not_looked_at(bao: Bao, path: str) -> None:
    """Who finds the same content has not written it: of two writers one loses."""
    vault = vault_at(bao.addr)
    await vault.write(path, OURS, replacing=0)
    asked = asked_by(vault)
    assert isinstance(await raised_by(vault.write(path, OURS, replacing=0)), VaultConflictError)
    assert asked == [f"POST /v1/secret/data/{path} 400"]


async def test_a_write_where_check_and_set_is_required_is_neither_conflict_nor_denial(bao: Bao, path: str) -> None:
    await bao.ask("POST", f"secret/metadata/{path}", {"cas_required": True})
    vault = vault_at(bao.addr)
    assert isinstance(await raised_by(vault.write(path, OURS)), VaultInvalidError)
    assert await vault.write(path, OURS, replacing=0) == 1


async def test_a_secret_is_in_no_message_no_traceback_and_no_log_line(
    stack: Stack, bao: Bao, path: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = {"refresh_token": "secretpart"}
    approle = await bao.role("quiet", "1h", "1h")
    with caplog.at_level(logging.DEBUG):
        vault = vault_at(bao.addr, **approle)
        await vault.write(path, secret)
        vault._renew_at = 0.0
        found = await vault.look(path)
        errors = [
            await raised_by(vault.write(path, secret, replacing=7)),
            await raised_by(vault_at(bao.addr, VAULT_TOKEN="secretpart").write(path, secret)),
            await raised_by(vault_at(bao.addr, **(approle | {"VAULT_SECRET_ID": "secretpart"})).write(path, secret)),
            await raised_by(vault_of(stack, "orders").write(path, secret)),
        ]
        async with proxy_to(bao.addr) as (proxy, addr):
            lost = vault_at(addr, **approle)
            proxy.lose = "answer"
            await lost.write(path, secret)
        errors.append(await raised_by(lost.write(path, secret)))
    printed = "".join("".join(traceback.format_exception(error)) + repr(error) for error in errors)
    logged = capsys.readouterr().out + caplog.text + "".join(str(vars(record)) for record in caplog.records)
    assert "vault_login" in logged
    assert "vault_renewal" in logged
    assert "vault_attempt_failed" in logged
    for text in (printed, logged, repr(found), repr(vault), repr(vars(vault))):
        assert "secretpart" not in text
        assert str(vault._client.token) not in text
