"""Events in: what somebody else was refused, and what becomes of tenants."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import httpx
import pytest

from oauth import handlers
from oauth.domain import StateRefusedError, Status, TenantArchivedError
from oauth.lifecycle import Parts
from shared.amazon.errors import AmazonUnavailableError, AppCredentialsError
from shared.events import ConnectionRejected
from shared.vault import VaultDownError
from tests.builders import APP_PATH, new_id, oauth_vault, operator_vault, synced
from tests.oauth.conftest import API
from tests.oauth.lives import NOBODY, Life, watched

CONNECTED, REVOKED, DISCONNECTED = Status.CONNECTED, Status.REVOKED, Status.DISCONNECTED
ARCHIVED, ACTIVE = "ARCHIVED", "ACTIVE"


async def rejected(life: Life, parts: Parts | None = None, **changes: object) -> None:
    """connection.rejected arrives: of the tenant's connection, now, unless it is said."""
    fields: dict[str, object] = {
        "tenant_id": life.tenant_id,
        "connection_id": (await life.known()).id,
        "error": "authorization_revoked",
        "at": datetime.now(UTC) + timedelta(seconds=1),
    }
    event = ConnectionRejected(**(fields | changes))  # type: ignore[arg-type] # fields by name
    await handlers.check_connection(event, new_id("event"), parts=parts or life.parts)


async def asked(life: Life) -> dict[str, int]:
    """How often Login with Amazon answered the seller's tokens with what."""
    return await life.oauth.amazon.calls("token", life.seller_id)


async def test_a_revoked_authorization_is_told_once_and_its_credentials_are_destroyed(life: Life) -> None:
    connection = await life.connect()
    await life.revoke()
    for _ in range(2):
        await rejected(life)
    revoked = await life.known()
    assert (revoked.status, revoked.last_error_code) == (REVOKED, "authorization_revoked")
    assert "withdrawn" in (revoked.last_error or "")
    assert await life.version(1) is None
    _, (subject, body) = await life.told()
    assert (subject, body["reason"], body["connectionId"]) == ("connection.disconnected", "REVOKED", str(connection.id))
    assert len(await life.told()) == 2


async def test_the_credentials_of_a_revoked_authorization_do_not_come_back(life: Life) -> None:
    """Amazon might take them again, as after an outage on its side: it has said no once."""
    await life.connect()
    kept = await life.secret()
    assert kept is not None
    await life.revoke()
    await rejected(life)
    await life.write(kept)
    await life.check()
    assert await life.status() is REVOKED
    assert await life.held() is None


async def test_where_the_authorization_stands_nothing_changes_but_when_it_was_looked_at(life: Life) -> None:
    before = await life.connect()
    await rejected(life)
    after = await life.known()
    assert after.status is CONNECTED
    assert before.verified_at is not None
    assert after.verified_at is not None
    assert after.verified_at > before.verified_at
    assert await life.ends() == ["connected"]


async def test_what_was_refused_before_the_account_was_connected_anew_asks_nobody(life: Life) -> None:
    await life.connect()
    second = await life.connect()
    assert second.connected_at is not None
    await life.revoke()
    calls = await asked(life)
    await rejected(life, at=second.connected_at - timedelta(microseconds=1))
    assert await asked(life) == calls
    assert await life.status() is CONNECTED
    await rejected(life, at=second.connected_at)
    assert await life.status() is REVOKED


async def test_a_connection_that_there_is_no_more_asks_nobody(life: Life) -> None:
    await life.connect()
    await life.revoke()
    calls = await asked(life)
    await rejected(life, connection_id=uuid4())
    await rejected(life, tenant_id=new_id())
    assert await asked(life) == calls
    assert await life.status() is CONNECTED


async def test_what_ended_before_asks_nobody(life: Life) -> None:
    await life.connect()
    await life.disconnect()
    calls = await asked(life)
    await rejected(life)
    assert await asked(life) == calls
    assert await life.ends() == ["connected", "USER"]


async def test_credentials_that_are_gone_are_told_as_lost(life: Life) -> None:
    await life.connect()
    await life.destroy()
    await rejected(life, error="not_connected")
    assert (await life.known()).last_error_code == "no_credentials"
    assert await life.ends() == ["connected", "CREDENTIALS_LOST"]


class Silent(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("No answer.", request=request)


@pytest.mark.parametrize("trouble", [500, 503, 429, "timeout"])
async def test_while_amazon_fails_nothing_changes_and_the_event_comes_again(life: Life, trouble: int | str) -> None:
    await life.connect()
    before = await life.oauth.all_rows()
    parts = life.parts
    if isinstance(trouble, int):
        await life.oauth.amazon.fail("token", trouble, life.seller_id)
    else:
        parts = life.oauth.parts(Silent())
    with pytest.raises(AmazonUnavailableError):
        await rejected(life, parts)
    assert await life.oauth.all_rows() == before
    assert await life.held() is not None


async def test_while_vault_is_away_nothing_changes_and_the_event_comes_again(life: Life) -> None:
    await life.connect()
    before = await life.oauth.all_rows()
    with pytest.raises(VaultDownError):
        await rejected(life, life.oauth.parts(VAULT_ADDR=NOBODY))
    assert await life.oauth.all_rows() == before


async def test_our_own_credentials_being_refused_is_no_tenants_fault(life: Life) -> None:
    await life.connect()
    path = f"keybuzz/ai/{life.tenant_id}"
    app = await oauth_vault(life.oauth.stack).read(APP_PATH)
    assert app is not None
    await operator_vault(life.oauth.stack).write(path, app | {"client_secret": "expired"})
    before = await life.oauth.all_rows()
    with pytest.raises(AppCredentialsError, match="invalid_client"):
        await rejected(life, life.oauth.parts(AMAZON_SPAPI_APP_PATH_EXTERNAL_TEST=path))
    assert await life.oauth.all_rows() == before
    assert await life.held() is not None


async def test_a_revocation_that_is_noted_while_vault_goes_away_destroys_later(life: Life) -> None:
    await life.connect()
    await life.revoke()

    async def away(where: str) -> None:
        if where == "before destroy":
            raise VaultDownError("Vault cannot be reached.")

    with pytest.raises(VaultDownError):
        await rejected(life, watched(life.parts, away))
    assert await life.status() is REVOKED
    assert await life.held() is not None
    assert [due.tenant_id for due in await life.due()] == [life.tenant_id]
    await life.check(verify=False)
    assert await life.version(1) is None
    assert await life.ends() == ["connected", "REVOKED"]


async def test_a_consent_that_comes_while_the_old_authorization_is_judged_stands(life: Life) -> None:
    """The seller withdrew the authorization and gives it anew at the moment that we hear of the first."""
    await life.connect()
    await life.revoke()
    back = await life.consented()

    async def anew(where: str) -> None:
        if where == "after look" and await life.ends() == ["connected"]:
            await life.come_back(back)

    await rejected(life, watched(life.parts, anew))
    assert await life.status() is CONNECTED
    held = await life.held()
    assert held is not None
    assert held.created_at == (await life.known()).authorized_at
    await life.check()
    assert await life.ends() == ["connected", "connected"]


# Tenants


async def test_an_archived_tenants_account_is_disconnected_and_its_credentials_are_destroyed(life: Life) -> None:
    connection = await life.connect()
    await life.follow(ARCHIVED)
    ended = await life.known()
    assert (ended.status, ended.last_error_code) == (DISCONNECTED, "tenant_archived")
    assert await life.version(1) is None
    _, (subject, body) = await life.told()
    assert (subject, body["reason"]) == ("connection.disconnected", "TENANT_ARCHIVED")
    assert body["connectionId"] == str(connection.id)


async def test_the_same_event_twice_takes_effect_once(life: Life) -> None:
    await life.connect()
    event = synced(tenant_id=life.tenant_id, status=ARCHIVED)
    await handlers.follow_tenant(event, "event-1", parts=life.parts)
    await life.oauth.pool.execute("UPDATE marketplace_connections SET last_error = 'untouched'")
    await handlers.follow_tenant(event, "event-1", parts=life.parts)
    assert (await life.known()).last_error == "untouched"
    assert await life.ends() == ["connected", "TENANT_ARCHIVED"]


async def test_an_event_that_says_the_same_again_changes_nothing_more(life: Life) -> None:
    await life.connect()
    for _ in range(2):
        await life.follow(ARCHIVED)
    assert await life.ends() == ["connected", "TENANT_ARCHIVED"]


async def test_an_older_event_changes_nothing(life: Life) -> None:
    now = datetime.now(UTC)
    await life.connect()
    await life.follow(ACTIVE, now)
    await life.follow(ARCHIVED, now - timedelta(seconds=1))
    await life.follow(ARCHIVED, now)
    assert await life.status() is CONNECTED
    await life.follow(ARCHIVED, now + timedelta(seconds=1))
    await life.follow(ACTIVE, now)
    assert await life.status() is DISCONNECTED
    with pytest.raises(TenantArchivedError):
        await life.begin()


async def test_an_event_that_says_no_time_is_older_than_any_that_does(life: Life) -> None:
    await life.connect()
    await handlers.follow_tenant(
        synced(tenant_id=life.tenant_id, status=ARCHIVED, synced_at=None), "old", parts=life.parts
    )
    assert await life.status() is DISCONNECTED  # nothing else was said yet
    await life.follow(ACTIVE)
    await life.connect()
    await handlers.follow_tenant(
        synced(tenant_id=life.tenant_id, status=ARCHIVED, synced_at=None), "old again", parts=life.parts
    )
    assert await life.status() is CONNECTED


async def test_an_archived_tenant_starts_nothing_until_it_is_back(life: Life, http: httpx.AsyncClient) -> None:
    await life.follow(ARCHIVED)
    answer = await http.post(f"{API}/oauth/start", json={})
    assert (answer.status_code, answer.json()["code"]) == (409, "tenant_archived")
    assert await life.status() is Status.NOT_CONNECTED
    assert await life.outcomes() == []
    await life.follow(ACTIVE)
    assert (await life.connect()).status is CONNECTED


async def test_a_consent_that_was_begun_before_the_tenant_was_archived_is_void(life: Life) -> None:
    back = await life.consented()
    await life.follow(ARCHIVED)
    await life.follow(ACTIVE)
    with pytest.raises(StateRefusedError):
        await life.come_back(back)
    assert await life.status() is DISCONNECTED


async def test_an_archived_tenants_half_done_consent_is_destroyed_by_the_next_check(life: Life) -> None:
    await life.die("after write")
    away = Life(life.oauth, life.oauth.parts(VAULT_ADDR=NOBODY), life.seller_id)
    await away.follow(ARCHIVED)
    assert await life.held() is not None
    await life.check()
    assert (await life.status(), await life.held()) == (DISCONNECTED, None)
    await life.follow(ACTIVE)
    await life.check()
    assert await life.status() is DISCONNECTED
    assert await life.told() == []


async def test_archiving_a_tenant_without_an_account_asks_vault_nothing(life: Life) -> None:
    looked: list[str] = []

    async def note(where: str) -> None:
        looked.append(where)

    parts = watched(life.parts, note)
    await Life(life.oauth, parts, life.seller_id).follow(ARCHIVED)
    assert looked == []
