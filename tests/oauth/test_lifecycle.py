"""What becomes of a connection: every change that there is, by the code that makes it, and none besides."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from itertools import pairwise

import httpx
import msgspec
import pytest

from oauth import queries
from oauth.domain import TRANSITIONS, NoConnectionError, Status
from tests.oauth.lives import NOBODY, Life

Step = Callable[[Life], Awaitable[object]]


async def switch(life: Life) -> None:
    await life.check(life.other)


async def lose(life: Life) -> None:
    await life.destroy()
    await life.check()


async def half_done(life: Life) -> None:
    await life.die("after write")


async def restore_anew(life: Life) -> None:
    """The credentials go and come back, and nobody has looked since."""
    kept = await life.destroy()
    await life.check()
    assert kept is not None
    await life.write(kept)


NOT_CONNECTED, PENDING, CONNECTED = Status.NOT_CONNECTED, Status.PENDING, Status.CONNECTED
ERROR, REVOKED, DISCONNECTED = Status.ERROR, Status.REVOKED, Status.DISCONNECTED
RECONNECT = Status.RECONNECT_REQUIRED
begin, connect, fail, check = Life.begin, Life.connect, Life.fail, Life.check
disconnect, revoke, authorize = Life.disconnect, Life.revoke, Life.authorize

WAYS: dict[tuple[Status, Status], list[Step]] = {
    (NOT_CONNECTED, PENDING): [begin],
    (NOT_CONNECTED, CONNECTED): [authorize, check],
    (NOT_CONNECTED, RECONNECT): [Life.authorize_other, check],
    (PENDING, CONNECTED): [connect],
    (PENDING, ERROR): [fail],
    (PENDING, REVOKED): [half_done, revoke, check],
    (PENDING, RECONNECT): [half_done, switch],
    (PENDING, DISCONNECTED): [begin, disconnect],
    (CONNECTED, CONNECTED): [connect, connect],
    (CONNECTED, ERROR): [connect, lose],
    (CONNECTED, REVOKED): [connect, revoke, check],
    (CONNECTED, RECONNECT): [connect, switch],
    (CONNECTED, DISCONNECTED): [connect, disconnect],
    (ERROR, CONNECTED): [fail, connect],
    (ERROR, ERROR): [fail, fail],
    (ERROR, REVOKED): [connect, restore_anew, revoke, check],
    (ERROR, RECONNECT): [connect, restore_anew, switch],
    (ERROR, DISCONNECTED): [fail, disconnect],
    (REVOKED, CONNECTED): [connect, revoke, check, connect],
    (REVOKED, DISCONNECTED): [connect, revoke, check, disconnect],
    (RECONNECT, CONNECTED): [connect, switch, check],
    (RECONNECT, REVOKED): [connect, switch, revoke, check],
    (RECONNECT, DISCONNECTED): [connect, switch, disconnect],
    (DISCONNECTED, CONNECTED): [begin, disconnect, connect],
}


def test_there_is_a_way_to_each_transition_of_the_table() -> None:
    assert WAYS.keys() == {(before, after) for before, afters in TRANSITIONS.items() for after in afters}
    assert TRANSITIONS.keys() == set(Status)


@pytest.mark.parametrize(("before", "after"), WAYS, ids=str)
async def test_a_change_is_kept_and_told_in_order(
    life: Life, http: httpx.AsyncClient, before: Status, after: Status
) -> None:
    for step in WAYS[before, after]:
        await step(life)
    assert await life.status() == after
    changes = [(first, then) for first, then, _ in await life.changes()]
    assert changes[-1] == (None if before is NOT_CONNECTED else before, after)
    assert changes[0][0] is None
    for (_, then), (first, _) in pairwise(changes):
        assert first == then
    items = await life.history(http)
    assert [(item["fromStatus"], item["toStatus"]) for item in reversed(items)] == changes
    times = [datetime.fromisoformat(item["at"]) for item in items]
    assert times == sorted(times, reverse=True)
    connection = await life.known()
    assert (items[0]["connectionId"], items[0]["code"], items[0]["reason"]) == (
        str(connection.id),
        connection.last_error_code,
        connection.last_error,
    )


@pytest.mark.parametrize("before", Status)
async def test_no_other_change_is_made(life: Life, before: Status) -> None:
    await life.connect()
    connection = msgspec.structs.replace(await life.known(), status=before)
    kept = await life.oauth.all_rows()
    async with life.oauth.pool.acquire() as conn:
        for after in set(Status) - TRANSITIONS[before]:
            with pytest.raises(ValueError, match=f"{before} does not become {after}"):
                await queries.move_connection(conn, connection, after, "code", "reason")
        if CONNECTED not in TRANSITIONS[before]:
            with pytest.raises(ValueError, match="does not become CONNECTED"):
                await queries.connect(
                    conn,
                    connection,
                    life.tenant_id,
                    seller_id=life.seller_id,
                    marketplace_ids=[],
                    region="eu",
                    app_source="external_test",
                    vault_path="path",
                    authorized_at=datetime.now(UTC),
                )
    assert await life.oauth.all_rows() == kept


async def test_settling_what_is_settled_changes_and_tells_nothing(life: Life) -> None:
    await life.connect()
    before = await life.known()
    told = await life.told()
    for verify in (False, True):
        await life.check(verify=verify)
    after = await life.known()
    assert before.verified_at is not None
    assert after.verified_at is not None
    assert before.verified_at < after.verified_at
    assert msgspec.structs.replace(after, verified_at=before.verified_at) == before
    assert await life.told() == told


async def test_disconnecting_ends_the_connection_and_destroys_every_version(life: Life) -> None:
    connection = await life.connect()
    await life.connect()
    assert await life.disconnect()
    assert await life.status() is DISCONNECTED
    assert await life.held() is None
    for version in (1, 2):
        assert await life.version(version) is None
    *_, (subject, body) = await life.told()
    assert subject == "connection.disconnected"
    assert datetime.fromisoformat(body.pop("at")) > connection.connected_at  # type: ignore[operator] # it has one
    assert body == {
        "tenantId": life.tenant_id,
        "marketplace": "AMAZON",
        "connectionId": str(connection.id),
        "reason": "USER",
    }


async def test_disconnecting_again_tells_nothing_more(life: Life) -> None:
    await life.connect()
    for _ in range(2):
        assert await life.disconnect()
        assert await life.status() is DISCONNECTED
    assert await life.ends() == ["connected", "USER"]
    assert [then for _, then, _ in await life.changes()] == [PENDING, CONNECTED, DISCONNECTED]


async def test_there_is_nothing_to_disconnect_before_a_consent_was_begun(life: Life) -> None:
    with pytest.raises(NoConnectionError):
        await life.disconnect()


@pytest.mark.parametrize("step", [begin, fail])
async def test_the_end_of_what_was_never_connected_is_not_told(life: Life, step: Step) -> None:
    await step(life)
    await life.disconnect()
    assert await life.told() == []


async def test_a_disconnect_while_vault_is_away_is_told_at_once_and_destroys_with_the_next_check(life: Life) -> None:
    await life.connect()
    away = life.oauth.parts(VAULT_ADDR=NOBODY)
    assert not await Life(life.oauth, away, life.seller_id).disconnect()
    assert await life.status() is DISCONNECTED
    assert await life.ends() == ["connected", "USER"]
    assert await life.held() is not None
    assert [due.tenant_id for due in await life.due()] == [life.tenant_id]
    await life.check(verify=False)
    assert await life.version(1) is None
    assert await life.status() is DISCONNECTED
    assert await life.ends() == ["connected", "USER"]


async def test_a_disconnected_account_can_be_connected_again(life: Life) -> None:
    first = await life.connect()
    await life.disconnect()
    second = await life.connect()
    assert (second.status, second.id) == (CONNECTED, first.id)
    await life.check()
    assert await life.status() is CONNECTED
    assert await life.ends() == ["connected", "USER", "connected"]


async def test_what_ends_a_connection_destroys_nothing_that_was_given_after_it(life: Life) -> None:
    """Vault could not be reached when it ended, and a new consent came before it could."""
    await life.connect()
    await Life(life.oauth, life.oauth.parts(VAULT_ADDR=NOBODY), life.seller_id).disconnect()
    await life.connect()
    await life.check()
    assert await life.status() is CONNECTED
    assert await life.held() is not None


async def test_an_authorization_that_was_dated_ahead_of_our_clock_ends_with_its_connection(life: Life) -> None:
    """The database moved to a server whose clock is behind: what was given before is later than now."""
    await life.connect()
    kept = await life.secret()
    assert kept is not None
    await life.write(kept | {"created_at": "2030-01-01T00:00:00+00:00"})
    await life.check()
    renewed = await life.connect()
    assert renewed.authorized_at == (await life.known()).authorized_at
    await life.disconnect()
    assert await life.held() is None
    await life.check()
    assert await life.status() is DISCONNECTED
    await life.connect()
    assert await life.ends() == ["connected", "connected", "connected", "USER", "connected"]
