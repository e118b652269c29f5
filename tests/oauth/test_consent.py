"""Consents that were left half-done, at each point of their way, and those that something else overtakes."""

from datetime import UTC, datetime, timedelta

import pytest

from oauth import queries
from oauth.domain import ConsentRefusedError, Status
from shared.vault import VaultDownError
from tests.builders import new_id
from tests.oauth.conftest import Oauth
from tests.oauth.lives import Life, watched

PENDING, CONNECTED, ERROR = Status.PENDING, Status.CONNECTED, Status.ERROR
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
        assert await lost.error() == (
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
    assert (await life.error())[:2] == (CONNECTED, "consent_interrupted")
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


async def test_of_two_open_consents_the_one_left_can_still_be_finished(life: Life) -> None:
    one, other = await life.consented(), await life.consented()
    await life.come_back(other)
    assert await life.outcomes() == [None, "CONNECTED"]
    assert (await life.come_back(one)).status is CONNECTED
    assert await life.outcomes() == ["CONNECTED", "CONNECTED"]


async def test_a_consent_that_never_came_back_is_ended_after_fifteen_minutes(life: Life) -> None:
    await life.begin()
    await life.age_states("14 minutes 55 seconds")
    await life.check()
    assert await life.status() is PENDING
    await life.age_states("5 seconds")
    for _ in range(2):
        await life.check()
    assert await life.error() == (
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
    assert await life.error() == (CONNECTED, None, "")


async def test_a_pending_connection_ends_also_when_vault_was_away_for_days(life: Life) -> None:
    await life.begin()
    await life.age_states("2 days")
    await queries.delete_old_states(life.oauth.pool)
    await life.check()
    assert (await life.error())[:2] == (ERROR, "consent_not_finished")
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


# Overtaken


@pytest.mark.parametrize("point", ["before look", "before write", "after write"])
async def test_a_callback_that_a_disconnect_overtakes_says_so(oauth: Oauth, life: Life, point: str) -> None:
    """Whether it had reached Vault or not; and Vault may have been away for the disconnect."""
    for vault_is_there in (True, False):
        once = [point]
        back = await life.consented()

        async def disconnected(where: str, once: list[str] = once, reaches_vault: bool = vault_is_there) -> None:
            async def away(_: str) -> None:
                raise VaultDownError("Vault cannot be reached.")

            if where in once:
                once.remove(where)
                await Life(oauth, life.parts if reaches_vault else watched(life.parts, away), "").disconnect()

        with pytest.raises(ConsentRefusedError, match="disconnected while it was being connected"):
            await life.come_back(back, watched(life.parts, disconnected))
        await life.check()
        assert (await life.status(), await life.held()) == (Status.DISCONNECTED, None)
    assert await life.told() == []


@pytest.mark.parametrize("event", ["disconnect", "archive", "destroy"])
async def test_a_callback_never_says_connected_of_what_is_not(life: Life, event: str) -> None:
    """The connection ends between the moment that settle() reads it and the moment that it looks into Vault."""
    back = await life.consented()
    looks = []

    async def end(where: str) -> None:
        if where == "before look":
            looks.append(where)
            if len(looks) == 2:  # the first is for storing
                await {"disconnect": life.disconnect, "destroy": life.destroy}.get(event, archive)()

    async def archive() -> None:
        await life.follow("ARCHIVED")

    with pytest.raises(ConsentRefusedError):
        await life.come_back(back, watched(life.parts, end))
    assert await life.status() is not Status.CONNECTED
    assert await life.held() is None
    assert await life.told() == []
