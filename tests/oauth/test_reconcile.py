"""What nobody else is there to do: the state that must not be, consents that were left half-done, what only Vault
knows, another application, and what runs out.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec
import pytest
from prometheus_client import REGISTRY

from oauth import queries, reconcile
from oauth.domain import Status
from oauth.lifecycle import Parts
from shared.errors import UnavailableError
from shared.events import ApplicationSecretExpiring, ConnectionExpiring
from shared.vault import VaultDownError
from tests.builders import new_id, operator_vault
from tests.oauth.conftest import Bao, Oauth
from tests.oauth.lives import NOBODY, Life, seeing

PENDING, CONNECTED, ERROR = Status.PENDING, Status.CONNECTED, Status.ERROR
REVOKED, RECONNECT, DISCONNECTED = Status.REVOKED, Status.RECONNECT_REQUIRED, Status.DISCONNECTED


async def error_of(life: Life) -> tuple[str, str | None, str]:
    connection = await life.known()
    return connection.status, connection.last_error_code, connection.last_error or ""


# Connected, with nothing to connect with


async def test_destroyed_credentials_end_the_connection_once_and_connect_it_when_they_are_back(life: Life) -> None:
    first = await life.connect()
    kept = await life.destroy()
    assert kept is not None
    for _ in range(2):
        await life.check(verify=False)
    status, code, error = await error_of(life)
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
    assert (await error_of(life))[:2] == (ERROR, "no_credentials")
    await bao.ask("POST", f"secret/undelete/{life.path}", {"versions": [1]})
    await life.check()
    assert await life.status() is CONNECTED
    await bao.ask("DELETE", f"secret/metadata/{life.path}")
    await life.check(verify=False)
    assert (await error_of(life))[:2] == (ERROR, "no_credentials")
    assert await life.ends() == ["connected", "CREDENTIALS_LOST", "connected", "CREDENTIALS_LOST"]


async def test_a_vault_that_has_never_heard_of_the_tenant_ends_the_connection(oauth: Oauth, life: Life) -> None:
    await life.connect()
    await oauth.pool.execute("UPDATE marketplace_connections SET tenant_id = 'kbz-moved'")
    moved = Life(oauth, life.parts, life.seller_id, "kbz-moved")
    await moved.check(verify=False)
    assert (await error_of(moved))[:2] == (ERROR, "no_credentials")


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
    status, code, error = await error_of(life)
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
    assert (await error_of(life))[:2] == (ERROR, "no_credentials")


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


# Consents that were left half-done

SPENT, EXCHANGED, STORED = "after look", "before write", "after write"


async def test_a_callback_that_died_before_vault_had_anything_is_ended_after_a_minute(life: Life) -> None:
    for point in (SPENT, EXCHANGED):
        lost = Life(life.oauth, life.parts, life.seller_id, new_id())
        await lost.die(point)
        await lost.age_states("59 seconds")
        await lost.check()
        assert (await lost.status(), await lost.outcomes()) == (PENDING, [None])
        await lost.age_states("1 second")
        for _ in range(2):
            await lost.check()
        assert await error_of(lost) == (
            ERROR,
            "consent_interrupted",
            "The connection was interrupted here before it was complete: start again.",
        )
        assert await lost.outcomes() == ["LOST"]
        assert len(await lost.changes()) == 2
        assert await lost.told() == []
        assert (await lost.connect()).status is CONNECTED


@pytest.mark.parametrize("verify", [True, False])
async def test_what_reached_vault_is_finished_once_by_whoever_looks(life: Life, verify: bool) -> None:
    await life.die(STORED)
    assert await life.status() is PENDING
    for _ in range(2):
        await life.check(verify=verify)
    connection = await life.known()
    assert (connection.status, connection.seller_id) == (CONNECTED, life.seller_id)
    assert await life.ends() == ["connected"]
    assert await life.outcomes() == ["CONNECTED"]
    await life.age_states("1 hour")
    await life.check()
    assert await life.status() is CONNECTED
    assert (await life.known()).last_error is None


async def test_a_half_done_consent_is_due_when_its_callback_must_be_dead(life: Life) -> None:
    await life.die(STORED)
    assert await life.due() == []
    [next_check_at] = await life.values("SELECT next_check_at FROM marketplace_connections")
    [used_at] = await life.values("SELECT used_at FROM oauth_states")
    assert next_check_at == used_at + timedelta(seconds=60)


async def test_a_renewal_that_died_leaves_the_connection_and_says_so(life: Life) -> None:
    await life.connect()
    await life.die(EXCHANGED)
    await life.age_states("60 seconds")
    await life.check()
    assert (await error_of(life))[:2] == (CONNECTED, "consent_interrupted")
    assert await life.outcomes() == ["CONNECTED", "LOST"]
    assert await life.ends() == ["connected"]
    await life.connect()
    assert (await life.known()).last_error is None


async def test_a_renewal_that_reached_vault_is_finished(life: Life) -> None:
    first = await life.connect()
    await life.die(STORED)
    await life.check()
    second = await life.known()
    assert (first.id, second.status) == (second.id, CONNECTED)
    held = await life.held()
    assert held is not None
    assert (second.authorized_at, second.last_error) == (held.created_at, None)
    assert await life.ends() == ["connected", "connected"]


async def test_a_half_done_consent_of_another_seller_takes_the_place_of_the_first(life: Life) -> None:
    first = await life.connect()
    other_seller = await life.oauth.amazon.seller()
    await life.die(STORED, other_seller)
    await life.check()
    second = await life.known()
    assert (second.status, second.seller_id) == (CONNECTED, other_seller)
    assert second.id != first.id
    (_, one), (ended, end), (_, two) = await life.told()
    assert (ended, end["connectionId"], end["reason"]) == ("connection.disconnected", one["connectionId"], "USER")
    assert one["connectedAt"] < end["at"] < two["connectedAt"]


async def test_a_consent_that_never_came_back_is_ended_after_fifteen_minutes(life: Life) -> None:
    await life.begin()
    await life.age_states("14 minutes 55 seconds")
    await life.check()
    assert await life.status() is PENDING
    await life.age_states("5 seconds")
    for _ in range(2):
        await life.check()
    assert await error_of(life) == (
        ERROR,
        "consent_not_finished",
        "The seller did not come back from Amazon within 15 minutes: start again.",
    )
    assert await life.outcomes() == ["EXPIRED"]
    assert len(await life.changes()) == 2
    assert await life.told() == []


async def test_a_consent_that_never_came_back_is_not_the_end_while_another_one_is_open(life: Life) -> None:
    await life.begin()
    await life.age_states("15 minutes")
    back = await life.consented()
    await life.check()
    assert (await life.status(), await life.outcomes()) == (PENDING, ["EXPIRED", None])
    await life.come_back(back)
    await life.check()
    assert await life.status() is CONNECTED
    assert (await life.known()).last_error is None


async def test_who_never_comes_back_from_a_renewal_stays_connected_without_a_word(life: Life) -> None:
    await life.connect()
    await life.begin()
    await life.age_states("15 minutes")
    await life.check()
    assert await error_of(life) == (CONNECTED, None, "")


async def test_a_pending_connection_ends_also_when_vault_was_away_for_days(life: Life) -> None:
    await life.begin()
    await life.age_states("2 days")
    await queries.delete_old_states(life.oauth.pool)
    await life.check()
    assert (await error_of(life))[:2] == (ERROR, "consent_not_finished")
    await queries.delete_old_states(life.oauth.pool)
    assert await life.outcomes() == []


async def test_the_next_check_comes_when_an_open_consent_ends_or_after_check_seconds(life: Life) -> None:
    await life.begin()
    await life.check()
    [expires_at] = await life.values("SELECT expires_at FROM oauth_states")
    assert await life.values("SELECT next_check_at FROM marketplace_connections") == [expires_at]
    await life.connect()
    await life.oauth.pool.execute("DELETE FROM oauth_states")
    parts = life.oauth.parts(CHECK_SECONDS="100000")
    before = datetime.now(UTC)
    await life.check(parts)
    [next_check_at] = await life.values("SELECT next_check_at FROM marketplace_connections")
    assert next_check_at - before > timedelta(seconds=90_000)


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
    status, code, error = await error_of(life)
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


# What runs out


async def reminded(life: Life, days: float, column: str = "reauthorize_by") -> list[int]:
    """The days left that are told when so many are left."""
    await life.oauth.pool.execute(
        f"UPDATE {'applications' if column == 'rotate_by' else 'marketplace_connections'}"  # noqa: S608 - our names
        f" SET {column} = clock_timestamp() + $1::float * interval '1 day'",
        days,
    )
    async with life.oauth.pool.acquire() as conn, conn.transaction():
        found: list[ConnectionExpiring | ApplicationSecretExpiring] = [
            *await queries.remind_of_renewals(conn),
            *await queries.remind_of_secret(conn, "external_test"),
        ]
    return [each.days_left for each in found]


TELLS = [
    (40, []), (30.5, []), (29.5, [30]), (29.4, []), (8, []), (6.5, [7]), (6, []), (1.5, []), (0.9, [1]), (0.1, []),
    (-1, []),
]  # fmt: skip


async def test_a_renewal_is_told_thirty_seven_and_one_days_ahead_once_each(life: Life) -> None:
    await life.connect()
    assert [(days, await reminded(life, days)) for days, _ in TELLS] == TELLS


@pytest.mark.parametrize(("days", "told"), [(6.5, 7), (0.5, 1), (-0.5, 0), (-40, 0)])
async def test_a_renewal_that_is_overdue_already_is_told_once(life: Life, days: float, told: int) -> None:
    await life.connect()
    assert [await reminded(life, days), await reminded(life, days)] == [[told], []]


async def test_a_renewal_is_told_anew_in_the_year_after_it(life: Life) -> None:
    await life.connect()
    assert await reminded(life, 6.5) == [7]
    await life.connect()
    assert await reminded(life, 40) == []
    assert await reminded(life, 29.5) == [30]


async def test_no_renewal_is_told_of_an_account_that_is_not_connected(life: Life) -> None:
    await life.connect()
    await life.disconnect()
    assert await reminded(life, 6.5) == []


async def test_reminders_become_events(life: Life) -> None:
    connection = await life.connect()
    await life.oauth.pool.execute(
        "UPDATE marketplace_connections SET reauthorize_by = clock_timestamp() + interval '6.5 days'"
    )
    for _ in range(2):
        await reconcile.remind(life.parts)
    _, (subject, body) = await life.told()
    assert (subject, body["daysLeft"], body["connectionId"]) == ("connection.expiring", 7, str(connection.id))
    assert datetime.fromisoformat(body["reauthorizeBy"]) == (await life.known()).reauthorize_by


@pytest.fixture
async def application(oauth: Oauth) -> dict[str, str]:
    """An application of this test alone: its secret, and where that is."""
    path = f"keybuzz/ai/{oauth.tenant_id}"
    secret = {"client_id": "c", "client_secret": "s", "redirect_uri": "https://app.test/back", "application_id": "a"}
    await operator_vault(oauth.stack).write(path, secret)
    return {"AMAZON_SPAPI_APP_PATH_EXTERNAL_TEST": path}


async def test_the_client_secret_is_told_as_its_own_date_says(oauth: Oauth, application: dict[str, str]) -> None:
    path = application["AMAZON_SPAPI_APP_PATH_EXTERNAL_TEST"]
    vault = operator_vault(oauth.stack)
    secret = await vault.read(path)
    assert secret is not None
    created_at = datetime.now(UTC) - timedelta(days=173, hours=12)
    await vault.write(path, secret | {"client_secret_created_at": created_at.isoformat()})
    for _ in range(2):
        await reconcile.remind(oauth.parts(**application))
    [row] = await oauth.pool.fetch("SELECT subject, key, payload FROM outbox")
    assert (row["subject"], row["key"]) == ("application.secret_expiring", "application external_test")
    body = msgspec.json.decode(row["payload"])
    assert body.pop("daysLeft") == 7
    assert datetime.fromisoformat(body.pop("rotateBy")) == created_at + timedelta(days=180)
    assert body == {"appSource": "external_test"}
    await vault.write(path, secret | {"client_secret_created_at": datetime.now(UTC).isoformat()})
    await reconcile.remind(oauth.parts(**application))
    assert await oauth.pool.fetchval("SELECT count(*) FROM outbox") == 1
    await vault.write(path, secret | {"client_secret_created_at": created_at.isoformat()})
    await reconcile.remind(oauth.parts(**application))
    assert await oauth.pool.fetchval("SELECT count(*) FROM outbox") == 2


async def test_the_client_secret_is_as_old_as_its_version_in_vault(oauth: Oauth, application: dict[str, str]) -> None:
    found = await oauth.parts().vault.look(application["AMAZON_SPAPI_APP_PATH_EXTERNAL_TEST"])
    assert found.created_at is not None
    await reconcile.remind(oauth.parts(**application))
    rotate_by = await queries.get_rotate_by(oauth.pool, "external_test")
    assert rotate_by is not None
    assert abs(rotate_by - found.created_at - timedelta(days=180)) < timedelta(milliseconds=1)
    assert await oauth.pool.fetchval("SELECT count(*) FROM outbox") == 0


async def test_the_client_secret_is_told_thirty_seven_and_one_days_ahead_once_each(life: Life) -> None:
    await reconcile.remind(life.parts)
    assert [(days, await reminded(life, days, "rotate_by")) for days, _ in TELLS] == TELLS


async def test_renewals_are_told_also_while_the_applications_secret_cannot_be_read(life: Life) -> None:
    await life.connect()
    await life.oauth.pool.execute("UPDATE marketplace_connections SET reauthorize_by = clock_timestamp()")
    await reconcile.remind(life.oauth.parts(VAULT_ADDR=NOBODY))
    assert [subject for subject, _ in await life.told()] == ["connection.connected", "connection.expiring"]


def gauge(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


async def test_the_metrics_count_connections_renewals_and_the_age_of_the_secret(
    life: Life, http: httpx.AsyncClient
) -> None:
    await life.connect()
    await Life(life.oauth, life.parts, life.seller_id, new_id()).begin()
    await reconcile.remind(life.parts)
    await reminded(life, 5)
    await reminded(life, 170, "rotate_by")
    await reconcile.measure(life.parts)
    assert {status: gauge("connections", status=status) for status in Status} == dict.fromkeys(Status, 0) | {
        CONNECTED: 1,
        PENDING: 1,
    }
    assert [gauge("connections_to_renew", days=days) for days in ("30", "7", "1")] == [1, 1, 0]
    age = gauge("application_secret_age_days", app_source="external_test")
    assert age is not None
    assert round(age, 2) == 10
    assert 'connections{status="CONNECTED"} 1.0' in (await http.get("/metrics")).text
