"""kill -9 in the middle: whoever oauth leaves half connected or half disconnected, the next oauth brings to an end.
`make chaos` runs it many times over.
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta

import httpx
import pytest

from devstack.outside import Outside, eventually
from devstack.stack import Stack
from shared.db import open_pool
from tests.oauth.dying import POINTS
from tests.oauth.killing import LOST, System, Victim, answer_or_none

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "1"))
"""Kills at each point; each has several victims."""
OPEN = ("before_the_state_is_spent",)
TOO_EARLY = ("after_the_state_is_spent", "after_the_exchange", "before_the_vault_write")
COMPLETED = (
    "after_the_vault_write",
    "after_the_marketplaces",
    "before_the_event",
    "before_the_commit",
    "after_the_commit",
    "before_the_page",
)
RECOVERING = (
    "after_the_marketplaces",
    "before_the_commit",
    "after_the_commit",
    "before_the_lost_are_ended",
)
DISCONNECTING = (
    "before_the_commit_of_the_end",
    "after_the_commit_of_the_end",
    "before_the_destroying",
    "after_the_destroying",
)
REVOKING = ("after_the_commit_of_the_revocation", "before_the_destroying", "after_the_destroying")
A_QUARTER_OF_AN_HOUR = timedelta(minutes=16)
TWO_DAYS = timedelta(days=2)


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    folder = tmp_path_factory.mktemp("kills") / "state"
    async with Stack(folder, services=(), restart=False) as stack, Outside(stack.endpoints) as outside:
        pool = await open_pool(stack.endpoints.postgres.dsns["admin"].rsplit("/", 1)[0] + "/keybuzz_backend", "kills")
        system = System(stack, outside, pool)
        yield system
        await pool.close()
        assert [line for line in system.said() if '"loop_failed"' in line] == []


@pytest.fixture(autouse=True)
async def alive(system: System) -> None:
    """Each test begins with an oauth that nobody has told to die."""
    if system.dying and "oauth" in system.stack._supervisor.running():
        await system.kill()
    if "oauth" not in system.stack._supervisor.running():
        await system.start()


def test_every_point_is_tried() -> None:
    assert {*OPEN, *TOO_EARLY, *COMPLETED, *RECOVERING, *DISCONNECTING, *REVOKING} == POINTS.keys()


@pytest.mark.parametrize("point", [*OPEN, *TOO_EARLY, *COMPLETED])
async def test_a_callback_that_is_killed_at_a_point_is_completed_or_ended(system: System, point: str) -> None:
    outcomes: Counter[str] = Counter()
    for _ in range(ROUNDS):
        new, again, other = victims = await asyncio.gather(system.new(), system.again(), system.other_account())
        await _killed_at(system, point, victims, system.come_back)
        await system.pass_time(victims, LOST)
        await system.start()
        await system.whole(victims)
        outcomes.update([await _how(system, victim) for victim in victims])
        row = await system.row(new)
        if point in OPEN:
            assert (row["status"], row["last_error"]) == ("PENDING", None)
        elif point in TOO_EARLY:
            assert (row["status"], row["last_error_code"]) == ("ERROR", "consent_interrupted")
        else:
            assert (row["status"], row["last_error"]) == ("CONNECTED", None)
        for victim in (again, other):
            row = await system.row(victim)
            assert row["status"] == "CONNECTED"
            assert (row["authorized_at"] > victim.before["authorized_at"]) is (point in COMPLETED)
            assert row["last_error_code"] == ("consent_interrupted" if point in TOO_EARLY else None)
        await _all_connect_again(system, victims)
    _report(point, outcomes)


async def test_a_link_that_was_not_spent_still_works_or_runs_out(system: System) -> None:
    victims = reloaded, gone = await asyncio.gather(system.new(), system.new())
    await _killed_at(system, *OPEN, victims, system.come_back)
    await system.start()
    assert (await system.come_back(reloaded)).status_code == 200
    await system.pass_time([gone], A_QUARTER_OF_AN_HOUR)
    await system.whole(victims)
    row = await system.row(gone)
    assert (row["status"], row["last_error_code"]) == ("ERROR", "consent_not_finished")
    await _all_connect_again(system, victims)


@pytest.mark.parametrize("point", RECOVERING)
async def test_a_reconciler_that_is_killed_while_it_completes_is_followed_by_the_next(
    system: System, point: str
) -> None:
    outcomes: Counter[str] = Counter()
    for _ in range(ROUNDS):
        victims = await asyncio.gather(system.new(), system.again(), system.other_account())
        await _killed_at(system, "after_the_vault_write", victims, system.come_back)
        await system.start_dying(point, victims, reconciling=True)
        await system.pass_time(victims, LOST)
        await _died_at(system, point, len(victims))
        await system.pass_time(victims, LOST)
        await system.start()
        await system.whole(victims)
        outcomes.update([await _how(system, victim) for victim in victims])
        assert [(await system.row(victim))["status"] for victim in victims] == ["CONNECTED"] * len(victims)
        await _all_connect_again(system, victims)
    _report(f"recovering, {point}", outcomes)


@pytest.mark.parametrize("point", DISCONNECTING)
async def test_a_disconnection_that_is_killed_at_a_point_is_completed_or_has_not_begun(
    system: System, point: str
) -> None:
    outcomes: Counter[str] = Counter()
    for _ in range(ROUNDS):
        victims = await asyncio.gather(*(system.connected() for _ in range(3)))
        await _killed_at(system, point, victims, system.disconnect)
        await system.pass_time(victims, LOST)
        await system.start()
        await system.whole(victims)
        outcomes.update([await _how(system, victim) for victim in victims])
        begun = point != "before_the_commit_of_the_end"
        for victim in victims:
            row = await system.row(victim)
            assert row["status"] == ("DISCONNECTED" if begun else "CONNECTED")
            assert ((await system.held(victim)).credentials is None) is begun
        await _all_connect_again(system, victims)
    _report(f"disconnecting, {point}", outcomes)


async def test_what_a_killed_callback_wrote_after_the_disconnection_is_destroyed(system: System) -> None:
    """The reconciler has looked meanwhile, and found nothing to destroy yet."""
    victims = await asyncio.gather(system.new(), system.again())
    await system.kill()
    await system.start_dying("after_the_vault_write", victims)
    before = [await system.amazon.calls("token", victim.seller_id) for victim in victims]
    for victim in victims:
        await system.amazon.fail("token", 200, victim.seller_id, delay_seconds=4)
    callbacks = asyncio.gather(*(answer_or_none(system.come_back(victim)) for victim in victims))

    async def asked() -> bool:
        calls = [await system.amazon.calls("token", victim.seller_id) for victim in victims]
        return all(now != then for now, then in zip(calls, before, strict=True))

    await eventually("both codes handed in", asked)
    assert [(await system.disconnect(victim)).status_code for victim in victims] == [200, 200]
    assert await callbacks == [None, None]
    await _died_at(system, "after_the_vault_write", len(victims))
    assert [(await system.held(victim)).credentials is None for victim in victims] == [False, False]
    await system.pass_time(victims, LOST)
    await system.start()
    await system.whole(victims)
    assert [(await system.row(victim))["status"] for victim in victims] == ["DISCONNECTED", "DISCONNECTED"]
    await _all_connect_again(system, victims)


@pytest.mark.parametrize("point", REVOKING)
async def test_a_revocation_that_is_killed_at_a_point_is_completed(system: System, point: str) -> None:
    outcomes: Counter[str] = Counter()
    for _ in range(ROUNDS):
        victims = await asyncio.gather(*(system.connected() for _ in range(3)))
        await system.kill()
        await asyncio.gather(*(system.amazon.revoke(victim.seller_id) for victim in victims))
        await system.start_dying(point, victims, reconciling=True)
        await system.pass_time(victims, TWO_DAYS)
        await _died_at(system, point, len(victims))
        await system.start()
        await system.pass_time(victims, LOST)
        await system.whole(victims)
        outcomes.update([await _how(system, victim) for victim in victims])
        assert [(await system.row(victim))["status"] for victim in victims] == ["REVOKED"] * len(victims)
        await _all_connect_again(system, victims)
    _report(f"revoking, {point}", outcomes)


async def test_what_a_kill_at_any_moment_interrupts_is_brought_to_an_end(system: System) -> None:
    """Twice in a row: while it works, and while it recovers. The moments are drawn over as long as the work takes."""
    chance = random.Random(0)  # noqa: S311 - the same moments in each run, as far as the machine allows
    outcomes: Counter[str] = Counter()
    found: Counter[str] = Counter()
    answered = 0
    for _ in range(2 * ROUNDS - 1):
        new, again, other, ending, torn, revoked = victims = await asyncio.gather(
            system.new(), system.again(), system.other_account(), system.connected(), system.again(), system.connected()
        )
        await system.amazon.revoke(revoked.seller_id)
        work = [
            *(_after(chance.uniform(0, 0.1), system.come_back(victim)) for victim in (new, again, other, torn)),
            *(_after(chance.uniform(0, 0.1), system.disconnect(victim)) for victim in (ending, torn)),
        ]
        going = asyncio.gather(*map(answer_or_none, work))
        await system.pass_time([revoked], TWO_DAYS)
        await asyncio.sleep(chance.uniform(0.01, 0.15))
        await system.kill()
        answers = await going
        answered += sum(answer is not None for answer in answers)
        found.update([await _how(system, victim) for victim in victims])
        await system.start()
        await system.pass_time(victims, LOST)
        await asyncio.sleep(chance.uniform(0, 0.1))
        await system.kill()
        await system.pass_time(victims, LOST)
        await system.start()
        await system.whole(victims)
        outcomes.update([await _how(system, victim) for victim in victims])
        assert (await system.row(revoked))["status"] == "REVOKED"
        for victim, answer in zip((new, again, other, None, ending), answers, strict=False):
            if victim is not None and answer is not None:
                wanted = "DISCONNECTED" if victim is ending else "CONNECTED"
                assert (answer.status_code, (await system.row(victim))["status"]) == (200, wanted)
        await _all_connect_again(system, victims)
    _report("at any moment, found", found)
    _report(f"at any moment, {answered} answered before", outcomes)


async def _killed_at(
    system: System,
    point: str,
    victims: Sequence[Victim],
    request: Callable[[Victim], Awaitable[httpx.Response]],
) -> None:
    """Let oauth die when the requests of all of them have reached the point."""
    await system.kill()
    await system.start_dying(point, victims)
    answers = await asyncio.gather(*(answer_or_none(request(victim)) for victim in victims))
    await _died_at(system, point, len(victims))
    assert answers == [None] * len(victims)


async def _died_at(system: System, point: str, how_many: int) -> None:
    await system.dead()
    assert system.said()[-1] == f"{how_many} reached {point}"


async def _after(seconds: float, request: Awaitable[httpx.Response]) -> httpx.Response:
    await asyncio.sleep(seconds)
    return await request


async def _how(system: System, victim: Victim) -> str:
    row = await system.row(victim)
    return f"{row['status']} {row['last_error_code']}" if row["last_error_code"] else str(row["status"])


async def _all_connect_again(system: System, victims: Sequence[Victim]) -> None:
    await asyncio.gather(*map(system.connect_again, victims))
    await system.whole(victims)


def _report(point: str, outcomes: Counter[str]) -> None:
    """For make chaos, which shows what is printed here."""
    came = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
    print(f"{point}: {outcomes.total()} killed: {came}")  # noqa: T201 - the long form's result
