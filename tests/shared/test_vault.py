"""Secrets in a real OpenBao, by the roles that the services have, and how the client keeps its token."""

import asyncio
import gc
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import hvac.exceptions
import pytest

from devstack.stack import Stack
from shared import vault as module
from shared.vault import Found, Vault, VaultConflictError, VaultDeniedError
from tests.builders import new_id
from tests.shared.conftest import until
from tests.shared.vaults import (
    Bao,
    accessor_of,
    answering,
    asked_by,
    http_answer,
    logins,
    proxy_to,
    renewals,
    vault_at,
    vault_of,
)

READ = '{"data": {"data": {"a": 1}, "metadata": {"version": 1, "created_time": "2026-01-01T00:00:00Z"}}}'


@pytest.fixture
def path() -> str:
    """A tenant's of this test alone."""
    return f"keybuzz/tenants/{new_id()}/amazon_spapi"


@pytest.fixture
async def oauth(stack: Stack) -> Vault:
    vault = vault_of(stack, "oauth")
    assert await vault.not_ready() is None
    return vault


async def version_of(vault: Vault, path: str, version: int) -> object:
    """The data of one version, by its number."""
    read = vault._client.secrets.kv.v2.read_secret_version
    answer = await asyncio.to_thread(read, path, version=version, mount_point="secret", raise_on_deleted_version=True)
    return answer["data"]["data"]


async def test_what_oauth_writes_the_others_read_and_the_newest_version_counts(stack: Stack, path: str) -> None:
    oauth = vault_of(stack, "oauth")
    assert await oauth.write(path, {"refresh_token": "first"}) == 1
    assert await oauth.write(path, {"refresh_token": "second", "seller_id": "A1"}) == 2
    for role in ("oauth", "orders", "poller"):
        assert await vault_of(stack, role).read(path) == {"refresh_token": "second", "seller_id": "A1"}


async def test_orders_and_poller_may_not_write(stack: Stack, oauth: Vault, path: str) -> None:
    await oauth.write(path, {"refresh_token": "kept"})
    for role in ("orders", "poller"):
        with pytest.raises(VaultDeniedError):
            await vault_of(stack, role).write(path, {"refresh_token": "stolen"})
    assert await vault_of(stack, "orders").read(path) == {"refresh_token": "kept"}


async def test_a_path_outside_of_the_policy_is_denied(stack: Stack) -> None:
    with pytest.raises(VaultDeniedError):
        await vault_of(stack, "orders").read("somebody/elses")


async def test_looking_tells_the_version_and_since_when_it_is(oauth: Vault, path: str) -> None:
    assert await oauth.look(path) == Found(None, 0, None)
    await oauth.write(path, {"refresh_token": "first"})
    first = await oauth.look(path)
    await oauth.write(path, {"refresh_token": "second"})
    second = await oauth.look(path)
    assert (first.secret, first.version) == ({"refresh_token": "first"}, 1)
    assert (second.secret, second.version) == ({"refresh_token": "second"}, 2)
    assert first.created_at is not None
    assert second.created_at is not None
    assert first.created_at < second.created_at
    assert abs(datetime.now(UTC) - second.created_at) < timedelta(minutes=1)


async def test_a_deleted_version_keeps_its_number_and_has_no_data(bao: Bao, path: str) -> None:
    vault = vault_at(bao.addr)
    await vault.write(path, {"refresh_token": "x"})
    await vault.write(path, {"refresh_token": "y"})
    written = await vault.look(path)
    await bao.ask("DELETE", f"secret/data/{path}")
    assert await vault.look(path) == Found(None, 2, written.created_at)
    assert await vault.read(path) is None
    assert await vault.write(path, {"refresh_token": "z"}, replacing=2) == 3


async def test_a_destroyed_version_keeps_its_number_and_nobody_reads_it_again(oauth: Vault, path: str) -> None:
    for refresh_token in ("first", "second"):
        await oauth.write(path, {"refresh_token": refresh_token})
    written = await oauth.look(path)
    assert await version_of(oauth, path, 1) == {"refresh_token": "first"}
    await oauth.destroy(path, up_to=2)
    assert await oauth.look(path) == Found(None, 2, written.created_at)
    assert await oauth.read(path) is None
    for version in (1, 2):
        with pytest.raises(hvac.exceptions.InvalidPath):
            await version_of(oauth, path, version)
    assert await oauth.write(path, {"refresh_token": "third"}, replacing=2) == 3


async def test_destroying_leaves_what_is_newer(oauth: Vault, path: str) -> None:
    for refresh_token in ("first", "second", "third"):
        await oauth.write(path, {"refresh_token": refresh_token})
    await oauth.destroy(path, up_to=2)
    for version in (1, 2):
        with pytest.raises(hvac.exceptions.InvalidPath):
            await version_of(oauth, path, version)
    assert await oauth.read(path) == {"refresh_token": "third"}


async def test_what_is_destroyed_is_not_destroyed_again_and_nothing_is_no_error(oauth: Vault, path: str) -> None:
    asked = asked_by(oauth)
    await oauth.destroy(path, up_to=3)
    await oauth.write(path, {"refresh_token": "x"})
    await oauth.destroy(path, up_to=0)
    assert await oauth.read(path) == {"refresh_token": "x"}
    await oauth.destroy(path, up_to=1)
    await oauth.destroy(path, up_to=1)
    assert asked.count(f"POST /v1/secret/destroy/{path} 204") == 1


async def test_a_deleted_version_is_destroyed_too(bao: Bao, path: str) -> None:
    vault = vault_at(bao.addr)
    await vault.write(path, {"refresh_token": "x"})
    await bao.ask("DELETE", f"secret/data/{path}")
    await vault.destroy(path, up_to=1)
    await bao.ask("POST", f"secret/undelete/{path}", {"versions": [1]})
    assert await vault.read(path) is None


async def test_the_tenants_are_listed_by_name_also_those_without_data(oauth: Vault, path: str) -> None:
    tenant_id = path.split("/")[2]
    assert tenant_id not in await oauth.list_keys("keybuzz/tenants")
    await oauth.write(path, {"refresh_token": "x"})
    assert (await oauth.list_keys("keybuzz/tenants")).count(tenant_id) == 1
    await oauth.destroy(path, up_to=1)
    assert tenant_id in await oauth.list_keys("keybuzz/tenants/")


async def test_a_name_that_is_a_secret_and_a_folder_is_listed_once_and_nothing_is_no_error(bao: Bao, path: str) -> None:
    vault = vault_at(bao.addr)
    assert await vault.list_keys(path) == []
    for name in ("a", "a/b", "c"):
        await vault.write(f"{path}/{name}", {"x": "y"})
    assert await vault.list_keys(path) == ["a", "c"]


async def test_a_write_that_replaces_another_version_is_a_conflict_and_changes_nothing(oauth: Vault, path: str) -> None:
    with pytest.raises(VaultConflictError):
        await oauth.write(path, {"refresh_token": "x"}, replacing=1)
    assert await oauth.look(path) == Found(None, 0, None)
    assert await oauth.write(path, {"refresh_token": "first"}, replacing=0) == 1
    for other in (0, 2):
        with pytest.raises(VaultConflictError) as conflict:
            await oauth.write(path, {"refresh_token": "second"}, replacing=other)
        assert conflict.value.code == "vault_conflict"
    assert (await oauth.look(path)).version == 1
    assert await oauth.read(path) == {"refresh_token": "first"}
    assert await oauth.write(path, {"refresh_token": "second"}, replacing=1) == 2


@pytest.mark.parametrize("same", [False, True], ids=["different", "the same"])
async def test_of_two_writers_at_once_exactly_one_wins(stack: Stack, path: str, same: bool) -> None:
    writers = [vault_of(stack, "oauth"), vault_of(stack, "oauth")]
    await asyncio.gather(*(writer.not_ready() for writer in writers))
    for replacing in range(10):
        secrets = [{"of": "both" if same else str(number)} for number in range(2)]
        results = await asyncio.gather(
            *(writer.write(path, secret, replacing=replacing) for writer, secret in zip(writers, secrets, strict=True)),
            return_exceptions=True,
        )
        (winner,) = (number for number, result in enumerate(results) if result == replacing + 1)
        assert isinstance(results[1 - winner], VaultConflictError)
        assert await writers[0].read(path) == secrets[winner]


async def test_many_at_once_log_in_once(stack: Stack, oauth: Vault, path: str) -> None:
    await oauth.write(path, {"refresh_token": "x"})
    vault = vault_of(stack, "orders")
    asked = asked_by(vault)
    assert await asyncio.gather(*(vault.read(path) for _ in range(20))) == [{"refresh_token": "x"}] * 20
    assert logins(asked) == 1


async def test_many_at_once_find_the_token_revoked_and_log_in_once(stack: Stack, oauth: Vault, path: str) -> None:
    await oauth.write(path, {"refresh_token": "x"})
    vault = vault_of(stack, "orders")
    assert await vault.read(path)
    await asyncio.to_thread(vault._client.auth.token.revoke_self)
    asked = asked_by(vault)
    assert await asyncio.gather(*(vault.read(path) for _ in range(50))) == [{"refresh_token": "x"}] * 50
    assert (logins(asked), renewals(asked)) == (1, 0)
    assert asked.count(f"GET /v1/secret/data/{path} 403") > 1


async def test_a_refusal_of_the_old_token_that_comes_late_does_not_cost_another_login(
    stack: Stack, oauth: Vault, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await oauth.write(path, {"refresh_token": "x"})
    vault = vault_of(stack, "orders")
    assert await vault.read(path)
    await asyncio.to_thread(vault._client.auth.token.revoke_self)
    asked, in_thread = asked_by(vault), vault._in_thread
    refused, other_is_done = asyncio.Event(), asyncio.Event()

    async def first_refusal_late(call: Callable[[], Any]) -> Any:
        try:
            return await in_thread(call)
        except VaultDeniedError:
            if not refused.is_set():
                refused.set()
                await other_is_done.wait()
            raise

    monkeypatch.setattr(vault, "_in_thread", first_refusal_late)
    first = asyncio.create_task(vault.read(path))
    await refused.wait()
    assert await vault.read(path) == {"refresh_token": "x"}
    other_is_done.set()
    assert await first == {"refresh_token": "x"}
    assert logins(asked) == 1


async def test_who_gives_up_does_not_end_the_login_of_the_others(
    stack: Stack, oauth: Vault, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await oauth.write(path, {"refresh_token": "x"})
    vault = vault_of(stack, "orders")
    asked, in_thread = asked_by(vault), vault._in_thread
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def held(call: Callable[[], Any]) -> Any:
        begun.set()
        await go_on.wait()
        return await in_thread(call)

    monkeypatch.setattr(vault, "_in_thread", held)
    first, second = (asyncio.create_task(vault.read(path)) for _ in range(2))
    await begun.wait()
    first.cancel()
    await asyncio.wait({first})
    go_on.set()
    assert await second == {"refresh_token": "x"}
    assert first.cancelled()
    assert logins(asked) == 1


async def test_a_login_that_fails_when_nobody_waits_for_it_any_more_is_no_noise(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = vault_of(stack, "orders")
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def fails(_: Callable[[], Any]) -> Any:
        begun.set()
        await go_on.wait()
        raise VaultDeniedError("No.")

    monkeypatch.setattr(vault, "_in_thread", fails)
    noise: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: noise.append(context))
    try:
        alone = asyncio.create_task(vault.not_ready())
        await begun.wait()
        alone.cancel()
        await asyncio.wait({alone})
        assert vault._entry is not None
        go_on.set()
        await asyncio.wait({vault._entry})
        vault._entry = None
        gc.collect()
        await asyncio.sleep(0)
    finally:
        loop.set_exception_handler(None)
    assert noise == []


async def test_at_two_thirds_of_its_lease_the_token_is_renewed_once_and_stays_the_same(
    stack: Stack, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = vault_of(stack, "oauth")
    clock = {"now": 1000.0}
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock["now"]))
    await vault.write(path, {"refresh_token": "x"})
    accessor = await accessor_of(vault)
    asked = asked_by(vault)
    for leases, renewed in ((0.66, 0), (0.67, 1), (1.33, 1), (1.34, 2)):
        clock["now"] = 1000 + 3600 * leases
        await asyncio.gather(*(vault.read(path) for _ in range(20)))
        assert (logins(asked), renewals(asked)) == (0, renewed)
    assert await accessor_of(vault) == accessor


async def test_a_token_that_was_revoked_before_it_is_renewed_is_replaced(stack: Stack, path: str) -> None:
    vault = vault_of(stack, "oauth")
    await vault.write(path, {"refresh_token": "x"})
    await asyncio.to_thread(vault._client.auth.token.revoke_self)
    vault._renew_at = 0.0
    asked = asked_by(vault)
    assert await vault.read(path) == {"refresh_token": "x"}
    assert asked == [
        "POST /v1/auth/token/renew-self 403",
        "POST /v1/auth/approle/login 200",
        f"GET /v1/secret/data/{path} 200",
    ]


async def test_through_a_tokens_whole_life_no_request_is_refused(bao: Bao, path: str) -> None:
    """Renewed while Vault lengthens it, replaced when that gets near token_max_ttl."""
    vault = vault_at(bao.addr, **await bao.role("short", "3s", "8s"))
    await vault.write(path, {"refresh_token": "x"})
    asked = asked_by(vault)
    first = await accessor_of(vault)

    async def is_replaced() -> bool:
        assert await vault.read(path) == {"refresh_token": "x"}
        return logins(asked) > 0

    await until(is_replaced)
    assert renewals(asked) > 1
    assert await accessor_of(vault) != first
    assert [each for each in asked if not each.endswith(" 200")] == []


async def test_a_token_that_cannot_be_renewed_is_replaced(bao: Bao, path: str) -> None:
    approle = await bao.role("batch", "1h", "1h")
    await bao.ask("POST", "auth/approle/role/batch", {"token_type": "batch"})
    vault = vault_at(bao.addr, **approle)
    await vault.write(path, {"refresh_token": "x"})
    vault._renew_at = 0.0
    asked = asked_by(vault)
    assert await vault.read(path) == {"refresh_token": "x"}
    assert asked[:2] == ["POST /v1/auth/token/renew-self 400", "POST /v1/auth/approle/login 200"]


async def test_when_renewing_gets_no_answer_the_next_attempt_logs_in(bao: Bao, path: str) -> None:
    async with proxy_to(bao.addr) as (proxy, addr):
        vault = vault_at(addr, **await bao.role("lost", "1h", "1h"))
        await vault.write(path, {"refresh_token": "x"})
        vault._renew_at = 0.0
        proxy.lose = "answer"
        asked = asked_by(vault)
        assert await vault.read(path) == {"refresh_token": "x"}
    assert (logins(asked), renewals(asked)) == (1, 0)


@pytest.mark.parametrize("variable", ["VAULT_ROLE_ID", "VAULT_SECRET_ID"])
async def test_a_wrong_approle_is_denied_and_named_and_not_shown(stack: Stack, variable: str) -> None:
    vault = vault_of(stack, "orders", **{variable: "secretpart"})
    with pytest.raises(VaultDeniedError, match=variable) as refused:
        await vault.read("keybuzz/amazon_spapi/app")
    assert "secretpart" not in str(refused.value)
    assert variable in str(await vault.not_ready())


async def test_a_developers_token_serves_and_is_neither_renewed_nor_replaced(
    stack: Stack, oauth: Vault, path: str
) -> None:
    await oauth.write(path, {"refresh_token": "x"})
    roles = stack.endpoints.vault.roles["orders"]
    for approle in ({"VAULT_ROLE_ID": "", "VAULT_SECRET_ID": ""}, {"VAULT_ROLE_ID": roles.role_id}):
        by_token = vault_of(stack, "orders", VAULT_TOKEN=str(oauth._client.token), **approle)
        asked = asked_by(by_token)
        assert await by_token.read(path) == {"refresh_token": "x"}
        assert asked == [f"GET /v1/secret/data/{path} 200"]
        wrong = vault_of(stack, "orders", VAULT_TOKEN="secretpart", **approle)
        asked = asked_by(wrong)
        with pytest.raises(VaultDeniedError, match="VAULT_TOKEN") as refused:
            await wrong.read(path)
        assert "secretpart" not in str(refused.value)
        assert asked == [f"GET /v1/secret/data/{path} 403"]


async def test_no_token_but_that_of_the_settings_is_used(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """By itself hvac takes VAULT_TOKEN or ~/.vault-token and sends it with the login."""
    monkeypatch.setenv("VAULT_TOKEN", "somebody-elses")
    assert vault_of(stack, "orders")._client.token == ""
    assert await vault_of(stack, "orders").read(path) is None


async def test_fifty_reads_at_once_share_connections_and_none_is_thrown_away(
    stack: Stack, oauth: Vault, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    await oauth.write(path, {"refresh_token": "x"})
    async with proxy_to(stack.endpoints.vault.addr) as (proxy, addr):
        vault = vault_of(stack, "orders", VAULT_ADDR=addr)
        with caplog.at_level(logging.WARNING):
            for _ in range(4):
                assert await asyncio.gather(*(vault.read(path) for _ in range(50))) == [{"refresh_token": "x"}] * 50
    assert caplog.messages == []
    assert proxy.connections <= module.THREADS


async def test_a_slow_vault_does_not_keep_others_from_their_threads() -> None:
    async with answering(None) as (requests, addr):
        vault = vault_at(addr)
        reads = [asyncio.create_task(vault.read("a")) for _ in range(40)]

        async def all_threads_wait() -> bool:
            return len(requests) == module.THREADS

        await until(all_threads_wait)
        assert await asyncio.to_thread(lambda: "free") == "free"
        assert len(requests) == module.THREADS
        for task in reads:
            task.cancel()
        await asyncio.wait(reads)


async def test_no_cookie_is_kept_in_what_all_threads_share() -> None:
    async with answering(http_answer(200, READ, Set_Cookie="node=1")) as (requests, addr):
        vault = vault_at(addr)
        for _ in range(2):
            assert await vault.read("a") == {"a": 1}
    assert [each for each in requests if "cookie" in each.lower()] == []


def test_what_was_found_does_not_print_the_secret() -> None:
    found = Found({"refresh_token": "secretpart"}, 3, datetime(2026, 1, 1, tzinfo=UTC))
    assert "secretpart" not in f"{found} {found!r} {[found]}"
    assert "3" in repr(found)
