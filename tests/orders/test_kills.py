"""kill -9 in the middle of a backfill and of an account's upkeep, at each point and at any moment: the next process
goes on, nothing is lost, stored, counted or told twice, and Amazon is asked at most one thing again. `make chaos` runs
it many times over.
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from devstack.outside import Outside
from devstack.stack import Stack
from orders.domain import Task
from shared.db import open_pool
from tests.orders.dying import POINTS, TWICE, UPKEEP_POINTS
from tests.orders.killing import System
from tests.orders.upkeep_killing import KEEPING

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "1"))
"""Kills at each point."""
AT_ANY_MOMENT = 2 if ROUNDS == 1 else 5 * ROUNDS
KILLS_IN_A_ROW = 1 if ROUNDS == 1 else 4
ONCE = (
    "after_the_claim",
    "after_a_page_has_come",
    "before_the_commit_of_the_switch_to_reports",
    "after_the_commit_of_a_page",
    "before_the_job_is_given_back",
    "before_the_commit_of_the_end",
)
"""What every backfill comes to once, and some no second time."""


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    folder = tmp_path_factory.mktemp("kills") / "state"
    async with Stack(folder, services=(), restart=False) as stack, Outside(stack.endpoints) as outside:
        pool = await open_pool(stack.endpoints.postgres.dsns["admin"].rsplit("/", 1)[0] + "/keybuzz_backend", "kills")
        system = System(stack, outside, pool)
        yield system
        await pool.close()
        assert '"loop_failed"' not in system.said()


@pytest.fixture(autouse=True)
async def nobody(system: System) -> AsyncIterator[None]:
    """Each test begins without an orders."""
    yield
    for name in ("orders", "orders-2"):
        if system.running(name):
            await system.kill(name)


@pytest.mark.parametrize("point", POINTS)
async def test_a_backfill_that_is_killed_at_a_point_is_completed_by_the_next_process(
    system: System, point: str
) -> None:
    repeated: Counter[int] = Counter()
    for number in range(ROUNDS):
        tenant_id, seller_id = await system.seller()
        await system.start(point, 1 if point in ONCE else 1 + number % 2)
        await system.ask(tenant_id)
        await system.dead()
        assert system.said().endswith(f"reached {point}\n")
        await system.start()
        job = await system.whole(tenant_id, seller_id)
        times = await system.repeated(seller_id, job["id"])
        assert times <= 1, "one thing is asked again at most"
        repeated[times] += 1
        await system.kill()
    _report(point, repeated)


async def test_a_backfill_that_is_killed_at_any_moment_again_and_again_is_completed(system: System) -> None:
    repeated: Counter[int] = Counter()
    for number in range(AT_ANY_MOMENT):
        chance = random.Random(number)  # noqa: S311 - the moments of a run that failed can be had again
        tenant_id, seller_id = await system.seller()
        await system.start()
        await system.ask(tenant_id)
        await asyncio.sleep(chance.uniform(0, 1.5))
        await system.kill()
        await system.start()
        job = await system.whole(tenant_id, seller_id)
        times = await system.repeated(seller_id, job["id"])
        assert times <= 1
        repeated[times] += 1
        await system.kill()
    _report("at any moment", repeated)


async def test_two_replicas_share_a_tenants_backfill_and_one_goes_on_where_the_other_was_killed(
    system: System,
) -> None:
    for _ in range(ROUNDS):
        tenants = [await system.seller() for _ in range(3)]
        await asyncio.gather(system.start("after_the_commit_of_a_report", 2), system.start_second())
        jobs = await asyncio.gather(*(system.ask(tenant_id) for tenant_id, _ in tenants), return_exceptions=True)
        for tenant_id, job_id in zip((tenant_id for tenant_id, _ in tenants), jobs, strict=True):
            if isinstance(job_id, BaseException):  # its process died before it answered
                await system.start() if not system.running() else None
                await system.ask(tenant_id)
        for tenant_id, seller_id in tenants:
            job = await system.whole(tenant_id, seller_id)
            assert await system.repeated(seller_id, job["id"]) <= 1
        for name in ("orders", "orders-2"):
            if system.running(name):
                await system.kill(name)


@pytest.mark.parametrize("task", KEEPING)
async def test_upkeep_that_is_killed_at_one_point_after_the_other_does_everything_once(
    system: System, task: Task
) -> None:
    points = list(UPKEEP_POINTS[task])[:: 2 if ROUNDS == 1 else 1]
    for _ in range(ROUNDS):
        kept = await KEEPING[task].owe(system)
        for point in points:
            await kept.start(point, 2 if point in TWICE else 1)
            await system.dead()
            assert system.said().endswith(f"reached {point}\n")
        await kept.start()
        await KEEPING[task].paid(kept, sum(UPKEEP_POINTS[task][point].loses for point in points))
        await kept.rest()
    print(f"{task}: {ROUNDS * len(points)} killed, everything done once")  # noqa: T201 - the long form's result


@pytest.mark.parametrize("task", KEEPING)
async def test_upkeep_that_is_killed_at_any_moment_again_and_again_does_everything_once(
    system: System, task: Task
) -> None:
    for number in range(ROUNDS):
        chance = random.Random(number)  # noqa: S311 - the moments of a run that failed can be had again
        kept = await KEEPING[task].owe(system)
        for _ in range(KILLS_IN_A_ROW):
            await kept.start()
            await asyncio.sleep(chance.uniform(0, 0.5))
            await system.kill()
        await kept.start()
        await KEEPING[task].paid(kept, KILLS_IN_A_ROW)
        await kept.rest()


def _report(point: str, repeated: Counter[int]) -> None:
    """For make chaos, which shows what is printed here."""
    came = ", ".join(f"{count} asked Amazon {times} times again" for times, count in sorted(repeated.items()))
    print(f"{point}: {repeated.total()} killed, all complete: {came}")  # noqa: T201 - the long form's result
