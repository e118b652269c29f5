"""What nobody else is there to do: the state that must not be, what is due, what only Vault knows, and
another application.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from oauth import queries, reconcile
from oauth.domain import Status
from oauth.lifecycle import Parts
from shared.errors import UnavailableError
from shared.vault import VaultDownError
from tests.builders import new_id
from tests.conftest import OpenPool
from tests.oauth.conftest import Bao, Oauth
from tests.oauth.lives import NOBODY, Life, seeing

MIGRATION = Path(queries.__file__).parent / "migrations" / "20261121000002_lifecycle.sql"
PENDING, CONNECTED, ERROR = Status.PENDING, Status.CONNECTED, Status.ERROR
REVOKED, RECONNECT, DISCONNECTED = Status.REVOKED, Status.RECONNECT_REQUIRED, Status.DISCONNECTED


# Connected, with nothing to connect with


async def test_destroyed_credentials_end_the_connection_once_and_connect_it_when_they_are_back(life: Life) -> None:
    first = await life.connect()
    kept = await life.destroy()
    assert kept is not None
    for _ in range(2):
        await life.check(verify=False)
    status, code, error = await life.error()
    assert (status, code) == (ERROR, "no_credentials")
    assert f"No credentials found for tenant {life.tenant_id}" in error
    assert await life.ends() == ["connected", "CREDENTIALS_LOST"]
    await life.write(kept)
    for _ in range(2):
        await life.check()
    again = await life.known()
    assert (again.status, again.id, again.last_error, again.last_error_code) == (CONNECTED, first.id, None, None)
    assert again.authorized_at == first.authorized_at
    assert again.reauthorize_by == first.reauthorize_by  # Amazon's year began with the consent
    (_, connected), (_, lost), (_, back) = await life.told()
    assert connected["connectedAt"] < lost["at"] < back["connectedAt"]
    assert back["connectionId"] == connected["connectionId"] == lost["connectionId"] == str(first.id)


async def test_deleted_credentials_end_the_connection_and_undeleted_ones_connect_it(oauth: Oauth, bao: Bao) -> None:
    life = Life(oauth, oauth.parts(**bao.variables), await oauth.amazon.seller())
    await life.connect()
    await bao.ask("DELETE", f"secret/data/{life.path}")
    await life.check(verify=False)
    assert (await life.error())[:2] == (ERROR, "no_credentials")
    await bao.ask("POST", f"secret/undelete/{life.path}", {"versions": [1]})
    await life.check()
    assert await life.status() is CONNECTED
    await bao.ask("DELETE", f"secret/metadata/{life.path}")
    await life.check(verify=False)
    assert (await life.error())[:2] == (ERROR, "no_credentials")
    assert await life.ends() == ["connected", "CREDENTIALS_LOST", "connected", "CREDENTIALS_LOST"]


async def test_a_vault_that_has_never_heard_of_the_tenant_ends_the_connection(oauth: Oauth, life: Life) -> None:
    await life.connect()
    await oauth.pool.execute("UPDATE marketplace_connections SET tenant_id = 'kbz-moved'")
    moved = Life(oauth, life.parts, life.seller_id, "kbz-moved")
    await moved.check(verify=False)
    assert (await moved.error())[:2] == (ERROR, "no_credentials")


INCOMPLETE: list[dict[str, Any]] = [
    {"refresh_token": ""},
    {"refresh_token": None},
    {"region": "mars"},
    {"created_at": "yesterday"},
    {"created_at": "2026-01-01T00:00:00"},
]


@pytest.mark.parametrize("change", INCOMPLETE, ids=str)
async def test_a_secret_that_is_incomplete_is_as_good_as_none(life: Life, change: dict[str, Any]) -> None:
    await life.connect()
    kept = await life.secret()
    assert kept is not None
    await life.write(kept | change)
    await life.check()
    status, code, error = await life.error()
    assert (status, code) == (ERROR, "no_credentials")
    assert "are incomplete" in error
    assert next(iter(change)) in error or change == {"region": "mars"}
    assert await life.ends() == ["connected", "CREDENTIALS_LOST"]
    await life.write(kept)
    await life.check()
    assert await life.status() is CONNECTED


async def test_a_secret_without_its_refresh_token_is_as_good_as_none(life: Life) -> None:
    await life.connect()
    kept = await life.secret()
    assert kept is not None
    await life.write({name: value for name, value in kept.items() if name != "refresh_token"})
    await life.check()
    assert (await life.error())[:2] == (ERROR, "no_credentials")


async def test_vault_set_back_to_an_older_authorization_is_followed(life: Life) -> None:
    """The database follows Vault: to another seller's account too, that was connected before."""
    await life.connect()
    older = await life.secret()
    assert older is not None
    other_seller = await life.oauth.amazon.seller()
    second = await life.connect(other_seller)
    await life.write(older)
    await life.check()
    connection = await life.known()
    assert (connection.status, connection.seller_id) == (CONNECTED, life.seller_id)
    assert connection.id != second.id
    await life.check()
    assert await life.ends() == ["connected", "USER", "connected", "USER", "connected"]


async def test_an_older_authorization_is_connected_where_the_newer_one_is_lost(life: Life) -> None:
    await life.connect()
    older = await life.secret()
    assert older is not None
    await life.connect()
    await life.destroy()
    await life.check()
    await life.write(older)
    await life.check()
    assert await life.status() is CONNECTED


async def test_vault_set_back_to_an_authorization_that_was_revoked_ends_it(life: Life) -> None:
    await life.connect()
    older = await life.secret()
    assert older is not None
    await life.revoke()
    await life.connect()
    await life.write(older)
    await life.check()
    assert await life.status() is REVOKED
    assert await life.held() is None
    assert await life.ends() == ["connected", "connected", "REVOKED"]


@pytest.mark.parametrize("verify", [True, False])
async def test_while_vault_is_away_nothing_changes(life: Life, verify: bool) -> None:
    await life.connect()
    before = await life.oauth.all_rows()
    with pytest.raises(VaultDownError):
        await life.check(life.oauth.parts(VAULT_ADDR=NOBODY), verify=verify)
    assert await life.oauth.all_rows() == before


# What is due


async def test_a_connection_is_due_once_and_again_when_its_lease_ends(life: Life) -> None:
    await life.begin()
    await life.oauth.pool.execute("UPDATE marketplace_connections SET next_check_at = clock_timestamp()")
    assert [(due.tenant_id, due.verify) for due in await life.due()] == [(life.tenant_id, True)]
    assert await life.due() == []
    await life.oauth.pool.execute(
        "UPDATE marketplace_connections SET next_check_at = next_check_at - interval '1 minute'"
    )
    assert len(await life.due()) == 1


async def test_what_another_replica_is_about_to_take_is_passed_over(life: Life) -> None:
    other = Life(life.oauth, life.parts, life.seller_id, new_id())
    for each in (life, other):
        await each.begin()
    await life.oauth.pool.execute("UPDATE marketplace_connections SET next_check_at = clock_timestamp()")
    async with life.oauth.pool.acquire() as conn, conn.transaction(), asyncio.timeout(20):
        await conn.execute("SELECT FROM marketplace_connections WHERE tenant_id = $1 FOR UPDATE", other.tenant_id)
        assert [due.tenant_id for due in await life.due()] == [life.tenant_id]
    assert [due.tenant_id for due in await life.due()] == [other.tenant_id]


async def test_amazon_is_asked_again_after_a_day(life: Life) -> None:
    await life.connect()
    due = "UPDATE marketplace_connections SET next_check_at = clock_timestamp()"
    await life.oauth.pool.execute(due)
    assert [each.verify for each in await life.due()] == [False]
    await life.oauth.pool.execute(f"{due}, verified_at = verified_at - interval '1 day'")
    assert [each.verify for each in await life.due()] == [True]
    await life.check(verify=True)
    await life.oauth.pool.execute(due)
    assert [each.verify for each in await life.due()] == [False]


async def test_the_reconciler_looks_at_all_that_is_due_also_past_what_it_cannot_check(life: Life, parts: Parts) -> None:
    revoked = Life(life.oauth, parts, await life.oauth.amazon.seller(), new_id())
    lost = Life(life.oauth, parts, await life.oauth.amazon.seller(), new_id())
    for each in (life, revoked, lost):
        await each.connect()
    await revoked.revoke()
    await lost.destroy()
    await life.oauth.amazon.fail("token", 500, life.seller_id)
    await life.oauth.pool.execute(
        "UPDATE marketplace_connections SET next_check_at = clock_timestamp(), verified_at = NULL"
    )
    running = asyncio.create_task(reconcile.run(parts))
    async with asyncio.timeout(20):
        while [await each.status() for each in (life, revoked, lost)] != [CONNECTED, REVOKED, ERROR]:  # noqa: ASYNC110 - the reconciler is another task
            await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


# What only Vault knows


async def test_what_only_vault_knows_is_connected_once_amazon_says_that_it_stands(life: Life) -> None:
    await life.authorize()
    for _ in range(2):
        await reconcile.find_unknown(seeing(life.parts, life.tenant_id))
    connection = await life.known()
    assert (connection.status, connection.seller_id) == (CONNECTED, life.seller_id)
    assert await life.ends() == ["connected"]
    assert (await life.oauth.amazon.calls("token", life.seller_id))["200"] >= 2  # the exchange, and asking


async def test_what_only_vault_knows_and_amazon_does_not_any_more_is_destroyed_without_a_word(life: Life) -> None:
    """Nobody has heard of this connection, so that nothing has ended: the tenant reads NOT_CONNECTED."""
    await life.authorize()
    await life.revoke()
    await reconcile.find_unknown(seeing(life.parts, life.tenant_id))
    assert await life.status() is Status.NOT_CONNECTED
    assert await life.version(1) is None
    assert (await life.told(), await life.changes()) == ([], [])


async def test_an_archived_tenants_credentials_that_only_vault_knows_are_destroyed(life: Life) -> None:
    await life.follow("ARCHIVED")
    await life.authorize()
    await reconcile.find_unknown(seeing(life.parts, life.tenant_id))
    assert await life.status() is Status.NOT_CONNECTED
    assert await life.version(1) is None
    assert await life.told() == []


async def test_a_name_in_vault_that_is_no_tenants_is_left_alone(life: Life) -> None:
    odd = Life(life.oauth, life.parts, life.seller_id, f"{new_id()}.old")
    await odd.authorize()
    await life.authorize()
    await reconcile.find_unknown(seeing(life.parts, odd.tenant_id, life.tenant_id))
    assert await odd.status() is Status.NOT_CONNECTED
    assert await odd.held() is not None
    assert await life.status() is CONNECTED


async def test_a_tenant_that_cannot_be_judged_does_not_keep_the_others_from_being_found(life: Life) -> None:
    first = Life(life.oauth, life.parts, await life.oauth.amazon.seller(), "0" + new_id())
    for each in (first, life):
        await each.authorize()
    await life.oauth.amazon.fail("token", 500, first.seller_id)
    with pytest.raises(UnavailableError):
        await reconcile.find_unknown(seeing(life.parts, first.tenant_id, life.tenant_id))
    assert (await first.status(), await life.status()) == (Status.NOT_CONNECTED, CONNECTED)


async def test_what_an_older_installation_left_is_taken_over_once_and_without_complaint(
    life: Life, pool_of: OpenPool
) -> None:
    """Its used states had no outcome, and the database did not say since when an account was authorized."""
    await life.connect()
    kept = await life.secret()
    assert kept is not None
    await life.write(kept | {"created_at": (datetime.now(UTC) - timedelta(hours=2)).isoformat()})
    await life.fail()
    down, up = MIGRATION.read_text().split("-- migrate:down")[::-1]
    owner = await pool_of("oauth_owner")
    await owner.execute(down)
    await owner.execute("UPDATE oauth_states SET used_at = used_at - interval '1 hour'")
    await owner.execute(up)
    for _ in range(2):
        await life.check()
    connection = await life.known()
    held = await life.held()
    assert held is not None
    assert (connection.status, connection.last_error, connection.authorized_at) == (CONNECTED, None, held.created_at)
    assert connection.verified_at is not None
    assert await life.ends() == ["connected", "connected"]


# Another application


async def test_a_switch_of_the_application_ends_connections_once_and_switching_back_connects_them(life: Life) -> None:
    pool = life.oauth.pool
    first = await life.connect()
    kept = await life.secret()
    assert await life.due() == []
    await queries.make_switched_due(pool, "keybuzz")
    assert [due.tenant_id for due in await life.due()] == [life.tenant_id]
    for _ in range(2):
        await life.check(life.other)
    status, code, error = await life.error()
    assert (status, code) == (RECONNECT, "app_changed")
    assert "connect it again" in error
    assert await life.secret() == kept
    assert await life.ends() == ["connected", "APP_CHANGED"]
    await queries.make_switched_due(pool, "keybuzz")
    assert await life.due() == []
    await queries.make_switched_due(pool, "external_test")
    assert [due.tenant_id for due in await life.due()] == [life.tenant_id]
    for _ in range(2):
        await life.check()
    back = await life.known()
    assert (back.status, back.id, back.last_error) == (CONNECTED, first.id, None)
    (_, connected), (_, ended), (_, again) = await life.told()
    assert ended["reason"] == "APP_CHANGED"
    assert connected["connectedAt"] < ended["at"] < again["connectedAt"]


async def test_credentials_from_before_there_were_two_applications_are_those_of_their_connection(life: Life) -> None:
    await life.connect()
    kept = await life.secret()
    assert kept is not None
    await life.write(kept | {"app_source": ""})
    await life.check()
    assert await life.status() is CONNECTED
    await life.check(life.other)
    assert await life.status() is RECONNECT
    await life.check()
    assert await life.status() is CONNECTED


async def test_nothing_of_an_archived_tenant_is_found_for_another_application(life: Life) -> None:
    await life.connect()
    kept = await life.secret()
    assert kept is not None
    archiving = Life(life.oauth, life.oauth.parts(VAULT_ADDR=NOBODY), life.seller_id)
    await archiving.follow("ARCHIVED")
    await life.check(life.other)
    assert await life.status() is DISCONNECTED
    assert await life.held() is None
