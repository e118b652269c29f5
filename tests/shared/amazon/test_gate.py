"""The gate before Amazon: its rows beside a model that counts tokens, and many who take from one row at once."""

import asyncio
import contextlib
import itertools
import math
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from devstack.stack import Stack
from shared.amazon import orders
from shared.amazon.errors import NotConnectedError, QuotaExceededError, QuotaWaitError
from shared.amazon.gate import LEARNED_FOR, SLACK_SECONDS, Bucket, Gate, Lane, Left, Operation
from shared.amazon.spapi import SpApi
from shared.db import Pool, open_pool
from shared.vault import Vault
from tests.conftest import OpenPool
from tests.shared.amazon.conftest import Amazon, settings_of
from tests.shared.amazon.taking import BUCKET
from tests.shared.amazon.test_spapi import connected
from tests.shared.conftest import dsn_of, until

SEARCH = Bucket("AKIT", "eu", orders.SEARCH_ORDERS)
INTERVAL = 1 / orders.SEARCH_ORDERS.rate
BURST = orders.SEARCH_ORDERS.burst


class Clocked:
    """A gate whose database's clock stands still until it is told to go on."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.gate = Gate(pool, "external_test")
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    async def go(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        await self.pool.execute("SELECT set_config('test.now', $1, false)", self.now.isoformat())

    async def take(self, lane: Lane = Lane.LIVE, wait_seconds: float = 0, bucket: Bucket = SEARCH) -> float | None:
        """The seconds to wait; None when nothing was taken. As Gate.take(), which would wait for them."""
        is_taken, wait = await self.gate._take(bucket, wait_seconds if lane is Lane.LIVE else 0)
        return wait if is_taken else None

    async def wait(self, bucket: Bucket = SEARCH) -> float:
        """How long a backfill is told to wait."""
        with pytest.raises(QuotaWaitError) as refused:
            await self.gate.take(bucket, Lane.BACKFILL)
        assert refused.value.delay_seconds is not None
        return refused.value.delay_seconds

    async def heed(
        self, status: int = 200, *, rate: str | None = None, retry_after: str | None = None, bucket: Bucket = SEARCH
    ) -> None:
        told = {"x-amzn-RateLimit-Limit": rate, "Retry-After": retry_after}
        headers = {name: value for name, value in told.items() if value is not None}
        await self.gate.heed(bucket, httpx.Response(status, headers=headers))


@pytest.fixture
async def clocked(pool_of: OpenPool, stack: Stack) -> AsyncIterator[Clocked]:
    """The gate's own statements; clock_timestamp() is found in the role's schema before the server's."""
    owner = await pool_of("poller_owner")
    await owner.execute(
        "CREATE FUNCTION clock_timestamp() RETURNS timestamptz LANGUAGE sql"
        " AS $$ SELECT current_setting('test.now')::timestamptz $$"
    )
    pool = await open_pool(await dsn_of(stack, "poller", owner), "poller", size=1)
    await pool.execute("SET search_path = poller, pg_catalog")
    clocked = Clocked(pool)
    await clocked.go(0)
    yield clocked
    await pool.close()


async def drain(clocked: Clocked, bucket: Bucket = SEARCH) -> None:
    for _ in range(bucket.operation.burst):
        await clocked.gate.take(bucket, Lane.BACKFILL)


async def test_a_burst_goes_at_once_and_then_one_call_an_interval(clocked: Clocked) -> None:
    await drain(clocked)
    assert await clocked.wait() == pytest.approx(INTERVAL + SLACK_SECONDS)
    await clocked.go(INTERVAL - 0.01)
    assert await clocked.wait() == pytest.approx(0.01 + SLACK_SECONDS)
    await clocked.go(0.01)
    await clocked.gate.take(SEARCH, Lane.BACKFILL)
    assert await clocked.wait() == pytest.approx(INTERVAL + SLACK_SECONDS)
    await clocked.go(1_000 * INTERVAL)
    await drain(clocked)
    await clocked.wait()


async def test_the_buckets_of_others_are_not_touched(clocked: Clocked) -> None:
    await drain(clocked)
    for other in (
        Bucket("AOTHER", "eu", orders.SEARCH_ORDERS),
        Bucket("AKIT", "na", orders.SEARCH_ORDERS),
        Bucket("AKIT", "eu", orders.GET_ORDER),
    ):
        await clocked.gate.take(other, Lane.BACKFILL)
    await Gate(clocked.pool, "keybuzz").take(SEARCH, Lane.BACKFILL)


async def test_a_wait_beyond_what_the_caller_allows_is_an_answer_and_takes_nothing(clocked: Clocked) -> None:
    await drain(clocked)
    before = await clocked.pool.fetchval("SELECT arrives_at FROM amazon.request_buckets")
    refused_before = REGISTRY.get_sample_value(*REFUSALS) or 0
    for wait_seconds in (0, 5, INTERVAL):
        with pytest.raises(QuotaWaitError, match=r"searchOrders.* 178\.8 s") as refused:
            await clocked.gate.take(SEARCH, Lane.LIVE, wait_seconds)
        assert refused.value.delay_seconds == pytest.approx(INTERVAL + SLACK_SECONDS)
    assert await clocked.pool.fetchval("SELECT arrives_at FROM amazon.request_buckets") == before
    assert REGISTRY.get_sample_value(*REFUSALS) == refused_before + 3
    assert await clocked.take(wait_seconds=INTERVAL + SLACK_SECONDS + 0.001) == pytest.approx(INTERVAL + SLACK_SECONDS)


REFUSALS = ("amazon_quota_refused_total", {"operation": "searchOrders", "lane": "live"})


async def test_live_calls_go_one_after_the_other_and_before_a_backfill_that_asks_all_the_time(
    clocked: Clocked,
) -> None:
    await drain(clocked)
    places = [await clocked.take(wait_seconds=10 * INTERVAL) for _ in range(3)]
    assert places == [pytest.approx(number * INTERVAL + SLACK_SECONDS) for number in (1, 2, 3)]
    taken = 0
    for _ in range(int(4 * INTERVAL)):
        await clocked.go(1)
        taken += await clocked.take(Lane.BACKFILL) is not None
    assert taken == 0  # three are the live calls', and the fourth interval has a rest
    await clocked.go(2)
    assert await clocked.take(Lane.BACKFILL) == 0


async def test_a_live_call_waits_an_interval_at_most_however_hungry_a_backfill_is(clocked: Clocked) -> None:
    for moment in range(300):
        while await clocked.take(Lane.BACKFILL) is not None:
            pass
        if moment % 25 == 24:
            place = await clocked.take(wait_seconds=2 * INTERVAL)
            assert place is not None
            assert place <= INTERVAL + SLACK_SECONDS
            await clocked.go(place)
        await clocked.go(INTERVAL / 7)


async def test_a_backfill_that_waits_has_booked_nothing_and_lets_live_calls_go_first(clocked: Clocked) -> None:
    bucket = Bucket("AKIT", "eu", Operation("getThings", 2, 1))
    await clocked.gate.take(bucket, Lane.BACKFILL)
    waited = ("amazon_quota_waited_seconds_total", {"operation": "getThings", "lane": "backfill"})

    async def asked(times: int) -> bool:
        return (REGISTRY.get_sample_value(*waited) or 0) > 0.7 * times

    begun = (await row(clocked))["arrives_at"]
    backfill = asyncio.create_task(clocked.gate.take(bucket, Lane.BACKFILL, wait_seconds=60))
    await until(lambda: asked(1))
    assert (await row(clocked))["arrives_at"] == begun
    assert await clocked.take(wait_seconds=10, bucket=bucket) == pytest.approx(0.5 + SLACK_SECONDS)
    await clocked.go(0.5)
    await until(lambda: asked(2))
    assert not backfill.done()
    await clocked.go(0.5)
    await backfill
    assert ((await row(clocked))["arrives_at"] - begun).total_seconds() == 1


async def test_a_told_rate_holds_at_once_and_calls_that_were_made_stay_made(clocked: Clocked) -> None:
    await drain(clocked)
    await clocked.heed(rate="0.056")
    assert await clocked.wait() == pytest.approx(INTERVAL / 10 + SLACK_SECONDS)
    await clocked.go(INTERVAL / 10)
    await clocked.gate.take(SEARCH, Lane.BACKFILL)
    await clocked.heed(404, rate="0.0028")
    assert await clocked.wait() == pytest.approx(INTERVAL * 2 + SLACK_SECONDS)
    await clocked.heed(rate="0.0056")
    assert await clocked.wait() == pytest.approx(INTERVAL + SLACK_SECONDS)


@pytest.mark.parametrize(
    "told", ["", "fast", "nan", "-1", "0", "inf", "1e300", "0.00055", "0.57", "0x1", "1,5", "-0.0056"]
)
async def test_a_rate_that_cannot_be_is_not_believed(clocked: Clocked, told: str) -> None:
    await drain(clocked)
    await clocked.heed(rate=told)
    assert await clocked.wait() == pytest.approx(INTERVAL + SLACK_SECONDS)


async def test_a_told_rate_is_forgotten_when_no_answer_confirms_it(clocked: Clocked) -> None:
    await drain(clocked)
    await clocked.heed(rate="0.001")
    await clocked.go(LEARNED_FOR.total_seconds() * 0.6)
    await clocked.heed(rate="0.001")
    await clocked.go(LEARNED_FOR.total_seconds() * 0.6)
    await clocked.heed()
    assert (await row(clocked))["rate"] == 0.001
    await clocked.go(LEARNED_FOR.total_seconds() * 0.6)
    await clocked.heed(503)
    assert (await row(clocked))["rate"] is None
    for _ in range(20):
        assert await clocked.take(Lane.BACKFILL) in (0, None)
    assert await clocked.wait() <= INTERVAL + SLACK_SECONDS


A_MOMENT = 0.01
"""The row's times are of whole microseconds: a look at the very moment when a call comes back may not see it yet."""


async def test_a_look_tells_how_many_calls_may_go_at_once_and_takes_none(clocked: Clocked) -> None:
    full = Left(BURST, INTERVAL)
    assert await clocked.gate.left(SEARCH) == full
    assert await clocked.pool.fetchval("SELECT count(*) FROM amazon.request_buckets") == 0
    for _ in range(3):
        await clocked.gate.take(SEARCH, Lane.BACKFILL)
    before = await row(clocked)
    await clocked.go(A_MOMENT)
    for _ in range(3):
        assert await clocked.gate.left(SEARCH) == Left(BURST - 3, INTERVAL)
    assert await row(clocked) == before
    await clocked.go(INTERVAL - 2 * A_MOMENT)
    assert (await clocked.gate.left(SEARCH)).calls == BURST - 3
    await clocked.go(2 * A_MOMENT)
    assert (await clocked.gate.left(SEARCH)).calls == BURST - 2
    for other in (Bucket("AOTHER", "eu", orders.SEARCH_ORDERS), Bucket("AKIT", "na", orders.SEARCH_ORDERS)):
        assert await clocked.gate.left(other) == full
    assert (await clocked.gate.left(Bucket("AKIT", "eu", orders.GET_ORDER))).calls == orders.GET_ORDER.burst
    assert await Gate(clocked.pool, "keybuzz").left(SEARCH) == full
    await clocked.go(1_000 * INTERVAL)
    assert await clocked.gate.left(SEARCH) == full


async def test_of_a_plan_that_is_used_up_and_booked_ahead_nothing_is_left_until_all_have_gone(clocked: Clocked) -> None:
    await drain(clocked)
    await clocked.take(wait_seconds=10 * INTERVAL)
    await clocked.take(wait_seconds=10 * INTERVAL)
    assert (await clocked.gate.left(SEARCH)).calls == 0
    await clocked.go(3 * INTERVAL - A_MOMENT)
    assert (await clocked.gate.left(SEARCH)).calls == 0
    await clocked.go(2 * A_MOMENT)
    assert (await clocked.gate.left(SEARCH)).calls == 1


async def test_what_amazon_says_of_its_plan_holds_for_a_look_too(clocked: Clocked) -> None:
    for _ in range(4):
        await clocked.gate.take(SEARCH, Lane.LIVE)
    await clocked.heed(rate="0.0112")
    await clocked.go(A_MOMENT)
    assert await clocked.gate.left(SEARCH) == Left(BURST - 4, INTERVAL / 2)
    await clocked.go(INTERVAL)
    assert (await clocked.gate.left(SEARCH)).calls == BURST - 2
    await clocked.heed(429)
    assert await clocked.gate.left(SEARCH) == Left(0, INTERVAL)


async def row(clocked: Clocked) -> Any:
    return await clocked.pool.fetchrow("SELECT * FROM amazon.request_buckets")


async def test_an_answer_that_says_nothing_new_writes_nothing(clocked: Clocked) -> None:
    await clocked.gate.take(SEARCH, Lane.LIVE)
    await clocked.heed()
    await clocked.heed(rate="0.0056")
    version = await clocked.pool.fetchval("SELECT (ctid, rate)::text FROM amazon.request_buckets")
    assert version == '("(0,1)",)'
    await clocked.heed(rate="0.01")
    changed = await clocked.pool.fetchval("SELECT ctid FROM amazon.request_buckets")
    await clocked.heed(rate="0.01")
    assert await clocked.pool.fetchval("SELECT ctid FROM amazon.request_buckets") == changed


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        (None, INTERVAL),
        ("5", INTERVAL),
        ("600", 600),
        ("1e9", 3_600),
        ("inf", 3_600),
        ("nan", INTERVAL),
        ("-3", INTERVAL),
        ("Sat, 21 Nov 2026 06:00:00 GMT", INTERVAL),
    ],
)
async def test_a_429_empties_the_bucket(clocked: Clocked, retry_after: str | None, seconds: float) -> None:
    await clocked.gate.take(SEARCH, Lane.LIVE)
    for _ in range(3):  # those that were on their way together say one thing
        await clocked.heed(429, retry_after=retry_after)
    assert await clocked.wait() == pytest.approx(seconds + SLACK_SECONDS)
    await clocked.go(seconds)
    await clocked.gate.take(SEARCH, Lane.LIVE)
    assert await clocked.wait() == pytest.approx(INTERVAL + SLACK_SECONDS)


async def test_a_429_ends_a_rate_above_the_plan_and_keeps_one_below(clocked: Clocked) -> None:
    await clocked.gate.take(SEARCH, Lane.LIVE)
    await clocked.heed(rate="0.056")
    await clocked.heed(429, rate="0.056")
    assert await clocked.wait() == pytest.approx(INTERVAL + SLACK_SECONDS)
    await clocked.go(100 * INTERVAL)
    await clocked.heed(rate="0.0028")
    await clocked.heed(429)
    assert await clocked.wait() == pytest.approx(2 * INTERVAL + SLACK_SECONDS)


async def test_a_429_takes_no_place_from_who_waits_already(clocked: Clocked) -> None:
    await drain(clocked)
    for _ in range(5):
        await clocked.take(wait_seconds=10 * INTERVAL)
    await clocked.heed(429)
    assert await clocked.wait() == pytest.approx(6 * INTERVAL + SLACK_SECONDS)


class Tokens:
    """The same bucket as people tell it: tokens that are taken, come back at a rate, and are at most a burst."""

    def __init__(self, operation: Operation) -> None:
        self.operation = operation
        self.level = float(operation.burst)
        self.rate = operation.rate
        self.learned_for: float | None = None

    def go(self, seconds: float) -> None:
        self.level = min(self.operation.burst, self.level + seconds * self.rate)
        if self.learned_for is not None:
            self.learned_for += seconds

    def wait(self) -> float:
        return (1 - self.level) / self.rate

    def learn(self, told: float | None) -> None:
        lasts = LEARNED_FOR.total_seconds()
        if told is not None and (told != self.rate or (self.learned_for is not None and self.learned_for > lasts / 2)):
            self.rate, self.learned_for = told, 0.0
        elif told is None and self.learned_for is not None and self.learned_for > lasts:
            self.rate, self.learned_for = self.operation.rate, None

    def push_back(self, retry_after: float) -> None:
        if self.rate >= self.operation.rate:  # who has a place keeps it
            self.level = self.operation.burst - (self.operation.burst - self.level) * self.operation.rate / self.rate
            self.rate, self.learned_for = self.operation.rate, None
        self.level = min(self.level, 1 - self.rate * max(retry_after, 1 / self.rate))


NEAR = 1e-3
"""Seconds from the moment when a token is there: the two count in different units there."""
waits = st.floats(0, 2_000)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("live"), waits),
        st.tuples(st.just("backfill")),
        st.tuples(st.just("burst"), st.integers(1, 8)),
        st.tuples(st.just("go"), st.one_of(st.floats(0.01, 60), st.floats(60, 5_000))),
        st.tuples(st.just("told"), st.sampled_from([0.02, 0.1, 0.25, 1.0, None])),
        st.tuples(st.just("429"), st.one_of(st.just(0), st.integers(1, 400))),
    ),
    min_size=1,
    max_size=40,
)
numbers = itertools.count()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps, st.integers(1, 7))
async def test_whatever_happens_the_row_says_what_counting_tokens_says(
    clocked: Clocked, steps: list[tuple[Any, ...]], burst: int
) -> None:
    operation = Operation("getThings", 0.1, burst)
    bucket = Bucket(f"A{next(numbers)}", "eu", operation)
    tokens = Tokens(operation)
    assert await clocked.take(bucket=bucket) == 0
    tokens.level -= 1
    for name, *values in steps:
        if name == "go":
            await clocked.go(values[0])
            tokens.go(values[0])
        elif name == "told":
            await clocked.heed(bucket=bucket, rate=str(values[0]) if values[0] else None)
            tokens.learn(values[0])
        elif name == "429":
            await clocked.heed(429, retry_after=str(values[0]), bucket=bucket)
            tokens.push_back(values[0])
        else:
            for _ in range(values[0] if name == "burst" else 1):
                allowed = values[0] if name == "live" else 0.0
                wait = tokens.wait()
                told = wait + SLACK_SECONDS if wait > 0 else 0.0
                lane = Lane.LIVE if name == "live" else Lane.BACKFILL
                taken = await clocked.take(lane, allowed, bucket)
                if abs(wait) > NEAR and abs(told - allowed) > NEAR:
                    assert (taken is not None) == (told <= allowed)
                if taken is not None:
                    assert taken == pytest.approx(told, abs=NEAR) or abs(wait) < NEAR
                    tokens.level -= 1
        left = await clocked.gate.left(bucket)
        assert left.interval_seconds == pytest.approx(1 / tokens.rate)
        if abs(tokens.level - round(tokens.level)) > NEAR * tokens.rate:
            assert left.calls == max(0, math.floor(tokens.level))


TRIGGER_SECONDS = 0.02
"""It reads the clock after the row has: less than half of a call's interval."""


async def test_six_processes_never_exceed_the_plan(pool_of: OpenPool, stack: Stack) -> None:
    """Every change of the row is written down by the database; when a call may go follows from it."""
    owner = await pool_of("poller_owner")
    admin = await open_pool(await dsn_of(stack, "admin", owner), "test", size=1)
    await admin.execute(
        """
        CREATE TABLE amazon.taken (arrives_at timestamptz, at timestamptz);
        CREATE FUNCTION amazon.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
        BEGIN
            IF TG_OP = 'INSERT' OR new.arrives_at > old.arrives_at THEN
                INSERT INTO amazon.taken VALUES (new.arrives_at, clock_timestamp());
            END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER note AFTER INSERT OR UPDATE ON amazon.request_buckets
            FOR EACH ROW EXECUTE FUNCTION amazon.note();
        """
    )
    each = 15
    lanes = [Lane.BACKFILL, Lane.BACKFILL, Lane.BACKFILL, Lane.LIVE, Lane.LIVE, Lane.LIVE]
    dsn = await dsn_of(stack, "poller", owner)
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.shared.amazon.taking", dsn, lane.value, str(each)),
            cwd=Path(__file__).parents[3],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for lane in lanes
    ]
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    outputs = await asyncio.gather(*(process.communicate(b"\n") for process in processes))
    went = sorted(float(line) for output, _ in outputs for line in output.splitlines())
    rows = await admin.fetch(
        "SELECT extract(epoch FROM arrives_at)::float8 AS arrives_at, extract(epoch FROM at)::float8 AS at"
        " FROM amazon.taken"
    )
    await admin.close()
    rate, burst = BUCKET.operation.rate, BUCKET.operation.burst
    may = sorted(max(row["at"], row["arrives_at"] - burst / rate) for row in rows)
    assert len(went) == len(may) == each * len(processes)
    assert all(later - earlier > -0.001 for earlier, later in zip(may, went, strict=True))
    for (first, begin), (last, end) in itertools.combinations(enumerate(may), 2):
        assert last - first + 1 <= burst + rate * (end - begin + TRIGGER_SECONDS)


GET_MESSAGES = Operation("getMessages", 1, 5)


@pytest.fixture
async def replicas(pool_of: OpenPool, stack: Stack, amazon: Amazon) -> AsyncIterator[list[SpApi]]:
    """Two services' clients, with nothing between them but the database."""
    async with contextlib.AsyncExitStack() as opened:
        apis = []
        for role in ("poller", "orders"):
            http = await opened.enter_async_context(httpx.AsyncClient(trust_env=False, timeout=30))
            gate = Gate(await pool_of(role), amazon.settings.amazon_spapi_app_source)
            apis.append(SpApi(settings_of(stack), Vault(amazon.settings), http, gate))
        yield apis


async def test_two_clients_at_once_are_never_refused_by_amazon(amazon: Amazon, replicas: list[SpApi]) -> None:
    seller_id = await amazon.seller()
    tenant = await amazon.connect(seller_id)
    (order_id, *_) = await amazon.order_ids(seller_id)
    path = f"/messaging/v1/orders/{order_id}/messages"

    async def call_four_times(api: SpApi) -> None:
        await asyncio.gather(*(api.get_as(tenant, GET_MESSAGES, path, {}, dict, wait_seconds=30) for _ in range(4)))

    get_order = f"/orders/2026-01-01/orders/{order_id}"
    for api in replicas:  # the connections first
        await asyncio.gather(*(api.get_as(tenant, orders.GET_ORDER, get_order, {}, dict) for _ in range(4)))
    await asyncio.gather(*map(call_four_times, replicas))
    assert await amazon.calls("getMessages", seller_id) == {"200": 8}

    without = SpApi(amazon.settings, Vault(amazon.settings), amazon.http, gate=None)
    with pytest.raises(QuotaExceededError):
        await asyncio.gather(*map(call_four_times, [without, without]))


async def test_a_429_of_amazon_and_what_it_says_of_its_plan_reach_every_replica(
    amazon: Amazon, replicas: list[SpApi]
) -> None:
    seller_id = await amazon.seller()
    tenant = await amazon.connect(seller_id)
    (order_id, *_) = await amazon.order_ids(seller_id)
    plan = Operation("getOrder", 0.1, 30)  # Amazon says 0.5
    path = f"/orders/2026-01-01/orders/{order_id}"
    await replicas[0].get_as(tenant, plan, path, {}, dict)
    rate = "SELECT rate FROM amazon.request_buckets WHERE seller_id = $1"
    assert await replicas[1]._gate._pool.fetchval(rate, seller_id) == 0.5  # type: ignore[union-attr] # it has one
    await amazon.fail("getOrder", 429, seller_id)
    with pytest.raises(QuotaExceededError):
        await replicas[0].get_as(tenant, plan, path, {}, dict)
    with pytest.raises(QuotaWaitError, match="getOrder") as refused:
        await replicas[1].get_as(tenant, plan, path, {}, dict, lane=Lane.BACKFILL)
    assert refused.value.delay_seconds == pytest.approx(10, abs=2)
    assert await amazon.calls("getOrder", seller_id) == {"200": 1, "429": 1}


async def test_what_one_replica_called_another_sees_gone_from_the_tenants_plan(
    amazon: Amazon, replicas: list[SpApi]
) -> None:
    tenant_id, seller_id = await connected(amazon)
    (order_id, *_) = await amazon.order_ids(seller_id)
    plan = Operation("getOrder", 0.001, 30)
    assert await replicas[1].left(tenant_id, plan) == Left(30, 1_000)
    await replicas[0].get(tenant_id, plan, f"/orders/2026-01-01/orders/{order_id}", {}, dict)
    assert (await replicas[1].left(tenant_id, plan)).calls == 29
    with pytest.raises(NotConnectedError):
        await replicas[1].left("kbz-nobody", plan)
    with pytest.raises(TypeError, match="without a gate"):
        await amazon.api.left(tenant_id, plan)


async def test_a_call_that_is_sent_again_with_a_new_token_takes_another_place(
    amazon: Amazon, replicas: list[SpApi]
) -> None:
    seller_id = await amazon.seller()
    tenant = await amazon.connect(seller_id)
    (order_id, *_) = await amazon.order_ids(seller_id)
    path = f"/orders/2026-01-01/orders/{order_id}"
    plan = Operation("getOrder", 0.01, 2)
    await amazon.api._token(tenant)
    api = replicas[0]
    api._lwa = amazon.api._lwa
    await amazon.control("POST", "clock", {"advanceSeconds": 3_700})
    await api.get_as(tenant, plan, path, {}, dict)
    with pytest.raises(QuotaWaitError):
        await api.get_as(tenant, plan, path, {}, dict)
