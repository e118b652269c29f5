"""Secrets in a real OpenBao, by the roles that the services have."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from devstack import certificates
from devstack.stack import Stack
from shared.errors import UnavailableError
from shared.settings import AmazonSettings, load
from shared.vault import Vault, VaultDeniedError

PATH = "keybuzz/tenants/kbz-vault/amazon_spapi"


def vault_of(stack: Stack, role: str, **changes: str) -> Vault:
    given = stack.endpoints.vault.roles[role]
    environ = {
        "DATABASE_URL": "unused",
        "NATS_URL": "unused",
        "KEYBUZZ_INTERNAL_KEY": "unused",
        "JWT_SECRET": "unused",
        "VAULT_ADDR": stack.endpoints.vault.addr,
        "VAULT_CACERT": stack.endpoints.vault.cacert,
        "VAULT_ROLE_ID": given.role_id,
        "VAULT_SECRET_ID": given.secret_id,
    }
    return Vault(load(AmazonSettings, environ | changes))


def logins_of(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """One entry for each login from now on."""
    login, logins = vault._client.auth.approle.login, []

    def counted(**given: Any) -> Any:
        logins.append(1.0)
        return login(**given)

    monkeypatch.setattr(vault._client.auth.approle, "login", counted)
    return logins


async def test_what_oauth_writes_the_others_read_and_the_newest_version_counts(stack: Stack) -> None:
    oauth = vault_of(stack, "oauth")
    await oauth.write(PATH, {"refresh_token": "first"})
    await oauth.write(PATH, {"refresh_token": "second", "seller_id": "A1"})
    for role in ("oauth", "orders", "poller"):
        assert await vault_of(stack, role).read(PATH) == {"refresh_token": "second", "seller_id": "A1"}


async def test_orders_and_poller_may_not_write(stack: Stack) -> None:
    await vault_of(stack, "oauth").write(PATH, {"refresh_token": "kept"})
    for role in ("orders", "poller"):
        with pytest.raises(VaultDeniedError):
            await vault_of(stack, role).write(PATH, {"refresh_token": "stolen"})
    assert await vault_of(stack, "orders").read(PATH) == {"refresh_token": "kept"}


async def test_a_path_outside_of_the_policy_is_denied(stack: Stack) -> None:
    with pytest.raises(VaultDeniedError):
        await vault_of(stack, "orders").read("somebody/elses")


async def test_a_secret_that_is_not_there_or_was_deleted_is_none(stack: Stack) -> None:
    vault = vault_of(stack, "oauth")
    assert await vault.read("keybuzz/tenants/nobody/amazon_spapi") is None
    await vault.write("keybuzz/tenants/gone/amazon_spapi", {"refresh_token": "x"})
    delete = vault._client.secrets.kv.v2.delete_latest_version_of_secret
    await asyncio.to_thread(delete, path="keybuzz/tenants/gone/amazon_spapi", mount_point="secret")
    assert await vault.read("keybuzz/tenants/gone/amazon_spapi") is None


async def test_many_at_once_log_in_once(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    await vault_of(stack, "oauth").write(PATH, {"refresh_token": "x"})
    vault = vault_of(stack, "orders")
    logins = logins_of(vault, monkeypatch)
    found = await asyncio.gather(*(vault.read(PATH) for _ in range(20)))
    assert found == [{"refresh_token": "x"}] * 20
    assert len(logins) == 1


async def test_a_token_that_was_revoked_before_its_time_is_replaced(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    await vault_of(stack, "oauth").write(PATH, {"refresh_token": "x"})
    vault = vault_of(stack, "orders")
    assert await vault.read(PATH)
    await asyncio.to_thread(vault._client.auth.token.revoke_self)
    logins = logins_of(vault, monkeypatch)
    assert await vault.read(PATH) == {"refresh_token": "x"}
    assert len(logins) == 1


async def test_a_token_near_its_end_is_replaced_before_it_ends(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = vault_of(stack, "orders")
    await vault.read(PATH)
    logins = logins_of(vault, monkeypatch)
    await vault.read(PATH)
    assert logins == []
    vault._token_until = 0.0
    await vault.read(PATH)
    assert len(logins) == 1


@pytest.mark.parametrize("variable", ["VAULT_ROLE_ID", "VAULT_SECRET_ID"])
async def test_a_wrong_approle_is_denied_and_named_and_not_shown(stack: Stack, variable: str) -> None:
    vault = vault_of(stack, "orders", **{variable: "secretpart"})
    with pytest.raises(VaultDeniedError, match=variable) as refused:
        await vault.read(PATH)
    assert "secretpart" not in str(refused.value)
    assert variable in str(await vault.not_ready())


async def test_a_developers_token_serves_in_place_of_the_approle(stack: Stack) -> None:
    await vault_of(stack, "oauth").write(PATH, {"refresh_token": "x"})
    logged_in = vault_of(stack, "orders")
    await logged_in._authenticate()
    token = str(logged_in._client.token)
    by_token = vault_of(stack, "orders", VAULT_ROLE_ID="", VAULT_SECRET_ID="", VAULT_TOKEN=token)
    assert await by_token.read(PATH) == {"refresh_token": "x"}
    wrong = vault_of(stack, "orders", VAULT_ROLE_ID="", VAULT_SECRET_ID="", VAULT_TOKEN="secretpart")
    with pytest.raises(VaultDeniedError) as refused:
        await wrong.read(PATH)
    assert "secretpart" not in str(refused.value)


async def test_a_certificate_of_another_authority_is_not_trusted(stack: Stack, tmp_path: Path) -> None:
    certificates.ensure(tmp_path / "ca.pem", tmp_path / "cert.pem", tmp_path / "key.pem")
    vault = vault_of(stack, "orders", VAULT_CACERT=str(tmp_path / "ca.pem"))
    with pytest.raises(UnavailableError, match="VAULT_CACERT"):
        await vault.read(PATH)
    assert "VAULT_CACERT" in str(await vault.not_ready())


@pytest.mark.parametrize("content", [None, "no certificate"], ids=["missing", "nonsense"])
async def test_a_file_that_holds_no_authority_is_named(stack: Stack, tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_text(content)
    vault = vault_of(stack, "orders", VAULT_CACERT=str(tmp_path / "ca.pem"))
    with pytest.raises(UnavailableError, match="VAULT_CACERT"):
        await vault.read(PATH)


async def test_there_is_no_way_around_verification(stack: Stack) -> None:
    vault = vault_of(stack, "orders", VAULT_CACERT="")
    with pytest.raises(UnavailableError, match="VAULT_CACERT"):
        await vault.read(PATH)


async def test_a_server_that_is_away_is_unavailable_and_serves_again_when_it_is_back(mortal: Stack) -> None:
    vault = vault_of(mortal, "oauth")
    await vault.write(PATH, {"refresh_token": "x"})
    assert await vault.not_ready() is None
    await mortal.stop("openbao")
    try:
        with pytest.raises(UnavailableError, match="VAULT_ADDR"):
            await vault.read(PATH)
        assert "VAULT_ADDR" in str(await vault.not_ready())
    finally:
        await mortal.start("openbao")
    assert await vault.read(PATH) == {"refresh_token": "x"}
    assert await vault.not_ready() is None


@pytest.mark.parametrize("address", ["", "127.0.0.1:8200", "https://", "ftp://127.0.0.1"])
async def test_an_address_that_is_none_is_named(stack: Stack, address: str) -> None:
    vault = vault_of(stack, "orders", VAULT_ADDR=address or "nonsense")
    with pytest.raises(UnavailableError, match="VAULT_ADDR"):
        await vault.read(PATH)
