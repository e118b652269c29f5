"""Two things at once: one comes to Vault so often, then the other one happens as a whole, then the rest of the first;
at each of the moments that there are. And many things at once, with Vault slow at random.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from oauth import handlers, lifecycle, queries
from oauth.domain import Status, TenantArchivedError
from oauth.lifecycle import Parts
from shared.errors import PermanentError
from tests.builders import new_id, synced
from tests.oauth.conftest import Oauth
from tests.oauth.lives import Life, watched

CONNECTED, DISCONNECTED = Status.CONNECTED, Status.DISCONNECTED
MOMENTS_OF_A_CONSENT = 6
"""Before and after it asks whether Vault is there, looks, writes, and settles."""
Deed = Callable[[Life], Awaitable[object]]


async def consent(life: Life, seller_id: str | None = None) -> Deed:
    """Given at Amazon already: what is left is the callback."""
    back = await life.consented(seller_id)

    async def come_back(life: Life) -> None:
        with suppress(PermanentError):
            await life.come_back(back)

    return come_back


async def consent_of_another_seller(life: Life) -> Deed:
    return await consent(life, await life.oauth.amazon.seller())


def plain(deed: Deed) -> Callable[[Life], Awaitable[Deed]]:
    async def prepared(_: Life) -> Deed:
        return deed

    return prepared


async def archive(life: Life) -> None:
    await life.follow("ARCHIVED")


async def archive_and_back(life: Life) -> None:
    await life.follow("ARCHIVED")
    await life.follow("ACTIVE")


async def revoke(life: Life) -> None:
    await life.revoke()
    await life.check()


async def settle_all(life: Life) -> None:
    await asyncio.gather(*(lifecycle.settle(life.parts, life.tenant_id) for _ in range(3)))


DEEDS: dict[str, Callable[[Life], Awaitable[Deed]]] = {
    "consent": consent,
    "another seller's consent": consent_of_another_seller,
    "disconnect": plain(Life.disconnect),
    "archive": plain(archive),
    "archive and back": plain(archive_and_back),
    "revoke": plain(revoke),
    "settle": plain(settle_all),
}
ENDS_IT = {"disconnect", "archive", "archive and back"}
PAIRS = [
    *(("consent", second) for second in DEEDS),
    *((first, "another seller's consent") for first in ("disconnect", "archive", "settle", "revoke")),
    *((first, "disconnect") for first in ("settle", "revoke")),
    *((first, "settle") for first in ("disconnect", "archive", "revoke")),
]


async def interleaved(life: Life, first: Deed, second: Deed, at: int) -> bool:
    """False when the first was over before it had come to Vault so often."""
    seen = 0

    async def around(_: str) -> None:
        nonlocal seen
        seen += 1
        if seen == at:
            await second(life)

    await first(life.on(watched(life.parts, around)))
    return seen >= at


@pytest.mark.parametrize(("first", "second"), PAIRS)
async def test_two_things_at_once_end_as_one_of_them_would(oauth: Oauth, parts: Parts, first: str, second: str) -> None:
    seller_id = await oauth.amazon.seller()
    for at in range(1, 20):
        life = Life(oauth, parts, seller_id, new_id())
        await life.connect()
        one, other = await DEEDS[first](life), await DEEDS[second](life)
        reached = await interleaved(life, one, other, at)
        if "revoke" in {first, second}:  # what is revoked on its way to Vault is found there by the next check
            await life.check()
        await life.agrees()
        status = await life.status()
        if second in ENDS_IT and reached:  # whatever was given came before it
            assert status is DISCONNECTED
        if {first, second} <= {"consent", "another seller's consent", "settle"}:
            assert status is CONNECTED
        await life.check()
        assert await life.status() is status
        await life.agrees()
        if not reached:
            return
    pytest.fail("It never ended.")


async def test_of_two_sellers_consents_at_once_the_later_one_counts_at_every_moment(oauth: Oauth, parts: Parts) -> None:
    sellers = [await oauth.amazon.seller() for _ in range(2)]
    for at in range(1, MOMENTS_OF_A_CONSENT + 1):
        life = Life(oauth, parts, sellers[0], new_id())
        first, second = [await consent(life, seller_id) for seller_id in sellers]
        assert await interleaved(life, first, second, at)
        await life.agrees()
        assert (await life.known()).seller_id == sellers[1]
        assert await life.outcomes() == ["CONNECTED", "CONNECTED"]
    assert not await interleaved(life, await consent(life), second, MOMENTS_OF_A_CONSENT + 1)


@pytest.mark.parametrize("seed", range(6))
async def test_many_things_at_once_end_in_one_of_them(oauth: Oauth, parts: Parts, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - no secret hangs on it

    async def slow(_: str) -> None:
        await asyncio.sleep(chance.uniform(0, 0.02))

    sellers = [await oauth.amazon.seller() for _ in range(3)]
    life = Life(oauth, parts, sellers[0])
    deeds: list[Deed] = [await consent(life, seller_id) for seller_id in sellers]
    if seed % 2:
        deeds += [Life.disconnect, Life.check]
    chance.shuffle(deeds)
    slowly = life.on(watched(parts, slow))
    await asyncio.gather(*(deed(slowly) for deed in deeds))
    await life.agrees()
    status = await life.status()
    assert status is CONNECTED or seed % 2
    await life.check()
    await life.agrees()
    assert await life.status() is status


async def looked_at_once(life: Life, count: int = 8) -> None:
    """So many look into Vault before any of them acts on it."""
    barrier = asyncio.Barrier(count)

    async def wait(where: str) -> None:
        if where == "after look":
            await barrier.wait()

    parts = watched(life.parts, wait)
    await asyncio.gather(*(lifecycle.settle(parts, life.tenant_id) for _ in range(count)))


async def test_many_who_find_a_half_done_consent_tell_one_connection(life: Life) -> None:
    await life.die("after write")
    await looked_at_once(life)
    assert await life.ends() == ["connected"]
    await life.agrees()


async def test_many_who_find_credentials_lost_tell_one_end(life: Life) -> None:
    await life.connect()
    await life.destroy()
    await looked_at_once(life)
    assert await life.ends() == ["connected", "CREDENTIALS_LOST"]
    await life.agrees()


async def test_many_who_find_an_authorization_revoked_tell_one_end(life: Life) -> None:
    await life.connect()
    await life.revoke()
    await looked_at_once(life)
    assert await life.ends() == ["connected", "REVOKED"]
    await life.agrees()


async def test_many_who_find_another_application_tell_one_end(life: Life) -> None:
    await life.connect()
    await looked_at_once(life.on(life.other))
    assert await life.ends() == ["connected", "APP_CHANGED"]


async def test_many_who_find_what_only_vault_knows_tell_one_connection(life: Life) -> None:
    await life.authorize()
    await looked_at_once(life)
    assert await life.ends() == ["connected"]
    await life.agrees()


async def test_who_found_nothing_does_not_end_what_came_back_meanwhile(life: Life) -> None:
    await life.connect()
    kept = await life.destroy()
    assert kept is not None
    await life.check()

    async def come_back(where: str) -> None:
        if where == "after look":
            await life.write(kept)
            await life.check()

    await life.check(watched(life.parts, come_back))
    assert await life.ends() == ["connected", "CREDENTIALS_LOST", "connected"]
    await life.agrees()


async def test_who_found_nothing_does_not_end_what_was_connected_anew_meanwhile(life: Life) -> None:
    await life.connect()
    await life.destroy()

    async def connect(where: str) -> None:
        if where == "after look":
            await life.connect()

    await life.check(watched(life.parts, connect), verify=False)
    assert await life.ends() == ["connected", "connected"]
    await life.agrees()


async def test_who_found_another_application_does_not_end_what_was_connected_meanwhile(life: Life) -> None:
    await life.authorize_other()

    async def connect(where: str) -> None:
        if where == "after look":
            await life.connect()

    await life.check(watched(life.parts, connect))
    assert await life.ends() == ["connected"]
    await life.agrees()


async def test_what_is_connected_and_revoked_while_it_is_judged_is_revoked(life: Life) -> None:
    await life.die("after write")

    async def connect(where: str) -> None:
        if where == "after look":
            await life.check(verify=False)
            await life.revoke()

    await life.check(watched(life.parts, connect))
    assert await life.ends() == ["connected", "REVOKED"]
    await life.agrees()


async def test_many_who_disconnect_at_once_tell_one_end(life: Life) -> None:
    await life.connect()
    await asyncio.gather(*(life.disconnect() for _ in range(8)))
    assert await life.ends() == ["connected", "USER"]
    await life.agrees()


async def test_a_consent_that_was_told_before_the_end_of_the_first_seller_s_is_told_after_it(life: Life) -> None:
    """The order of the events is that of the changes, and so is the order of their times."""
    await life.connect()
    await asyncio.gather(*[deed(life) for deed in [await consent_of_another_seller(life) for _ in range(3)]])
    await life.agrees()


async def connected_and_destroyed(life: Life) -> Deed:
    await life.connect()
    await life.destroy()
    return Life.check


async def connected_and_revoked(life: Life) -> Deed:
    await life.connect()
    await life.revoke()
    return Life.check


async def connected_by_the_other_application(life: Life) -> Deed:
    await life.connect()
    return lambda life: life.check(life.other)


async def connected_and(deed: Deed, life: Life) -> Deed:
    await life.connect()
    return deed


async def given_up(life: Life) -> Deed:
    await life.begin()
    await life.age_states("15 minutes")
    return lambda life: lifecycle.end_lost_consents(life.parts, life.tenant_id)


async def refused(life: Life) -> Deed:
    back = await life.consented() | {"code": "wrong"}

    async def come_back(life: Life) -> None:
        with suppress(PermanentError):
            await life.come_back(back)

    return come_back


WRITERS: dict[str, Callable[[Life], Awaitable[Deed]]] = {
    "begin": plain(Life.begin),
    "connect": consent,
    "refused": refused,
    "given up": given_up,
    "lost": connected_and_destroyed,
    "revoked": connected_and_revoked,
    "other application": connected_by_the_other_application,
    "disconnect": partial(connected_and, Life.disconnect),
    "archive": partial(connected_and, archive),
}


async def waits(life: Life, doing: asyncio.Future[Any]) -> bool:
    """For a lock in the database; False when it is over without."""
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    while not doing.done() and not await life.values(waiting):  # noqa: ASYNC110 - the database knows
        await asyncio.sleep(0.01)
    return not doing.done()


@pytest.mark.parametrize("writer", WRITERS)
async def test_every_change_waits_for_the_one_before_it(life: Life, writer: str) -> None:
    deed = await WRITERS[writer](life)
    before = await life.changes()
    async with life.oauth.pool.acquire() as conn, conn.transaction():
        await queries.lock_tenant(conn, life.tenant_id)
        doing = asyncio.ensure_future(deed(life))
        assert await waits(life, doing)
        assert await life.changes() == before
    await doing
    assert await life.changes() != before


async def test_a_tenant_that_is_archived_while_it_begins_a_consent_does_not_begin_it(life: Life) -> None:
    async with life.oauth.pool.acquire() as conn, conn.transaction():
        await queries.lock_tenant(conn, life.tenant_id)
        await queries.upsert_tenant(conn, synced(tenant_id=life.tenant_id, status="ARCHIVED"))
        beginning = asyncio.ensure_future(life.begin())
        assert await waits(life, beginning)
    with pytest.raises(TenantArchivedError):
        await beginning
    assert await life.outcomes() == []


@pytest.mark.parametrize("authorize", [Life.authorize, Life.authorize_other])
async def test_a_tenant_that_is_archived_while_it_is_found_in_vault_is_not_connected(
    life: Life, authorize: Deed
) -> None:
    await authorize(life)
    async with life.oauth.pool.acquire() as conn, conn.transaction():
        await queries.lock_tenant(conn, life.tenant_id)
        await queries.upsert_tenant(conn, synced(tenant_id=life.tenant_id, status="ARCHIVED"))
        finding = asyncio.ensure_future(life.check(verify=False))
        assert await waits(life, finding)
    await finding
    assert await life.status() is Status.NOT_CONNECTED
    await life.check()
    await life.agrees()


async def test_one_event_that_comes_twice_at_once_takes_effect_once(life: Life) -> None:
    await life.connect()
    event = synced(tenant_id=life.tenant_id, status="ARCHIVED")
    await asyncio.gather(*(handlers.follow_tenant(event, "event-1", parts=life.parts) for _ in range(5)))
    assert await life.ends() == ["connected", "TENANT_ARCHIVED"]
    assert [then for _, then, _ in await life.changes()].count("DISCONNECTED") == 1
    await life.agrees()
