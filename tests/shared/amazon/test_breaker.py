"""What a region that fails again and again does to the calls after."""

import asyncio
import contextlib
import itertools

import pytest

from devstack.stack import Stack
from shared.amazon import breaker, orders
from shared.amazon.breaker import FAILURES, FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Breaker
from shared.amazon.credentials import TenantCredentials
from shared.amazon.errors import AmazonNotFoundError, AmazonUnavailableError
from shared.amazon.spapi import SpApi
from shared.vault import Vault
from tests.shared.amazon.conftest import Amazon, settings_of

ORDER = "/orders/2026-01-01/orders/407-8949262-6149120"


class Clock:
    """In place of time.monotonic()."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(breaker, "time", clock)
    return clock


def fail(watched: Breaker, times: int = 1) -> None:
    for _ in range(times):
        with watched.watch():
            watched.failed()


def pause(watched: Breaker) -> float:
    with pytest.raises(AmazonUnavailableError, match="region eu has failed") as refused, watched.watch():
        pytest.fail("it let a call through")
    assert refused.value.delay_seconds is not None
    assert refused.value.patient
    return refused.value.delay_seconds


def test_failures_in_a_row_stop_the_calls_and_a_success_between_does_not(clock: Clock) -> None:
    watched = Breaker("eu")
    fail(watched, FAILURES - 1)
    watched.succeeded()
    fail(watched, FAILURES)
    assert pause(watched) == FIRST_PAUSE_SECONDS
    clock.now += FIRST_PAUSE_SECONDS - 0.25
    pause(watched)


def test_the_pause_doubles_up_to_a_minute(clock: Clock) -> None:
    watched = Breaker("eu")
    fail(watched, FAILURES)
    pauses = []
    for _ in range(20):
        pauses.append(pause(watched))
        clock.now += pauses[-1]
        fail(watched)
    assert pauses == [*(2.0**number for number in range(6)), *itertools.repeat(LONGEST_PAUSE_SECONDS, 14)]


@pytest.mark.usefixtures("clock")
def test_calls_that_were_on_their_way_make_the_pause_no_longer() -> None:
    watched = Breaker("eu")
    with contextlib.ExitStack() as under_way:
        for _ in range(3 * FAILURES):
            under_way.enter_context(watched.watch())
        for _ in range(3 * FAILURES):
            watched.failed()
    assert pause(watched) == FIRST_PAUSE_SECONDS


def test_after_the_pause_one_call_at_a_time_goes_and_its_success_lets_all_through(clock: Clock) -> None:
    watched = Breaker("eu")
    fail(watched, FAILURES)
    clock.now += FIRST_PAUSE_SECONDS
    with watched.watch():
        pause(watched)
        watched.succeeded()
    with watched.watch(), watched.watch():
        pass


def test_a_call_that_ends_with_no_word_of_amazon_leaves_the_way_free_for_the_next(clock: Clock) -> None:
    watched = Breaker("eu")
    fail(watched, FAILURES)
    clock.now += FIRST_PAUSE_SECONDS
    with pytest.raises(asyncio.CancelledError), watched.watch():
        raise asyncio.CancelledError
    with watched.watch():
        watched.succeeded()


async def call(api: SpApi, tenant: TenantCredentials) -> None:
    await api.get_as(tenant, orders.GET_ORDER, ORDER, {}, dict)


async def test_a_region_that_fails_is_asked_no_more_and_then_again(stack: Stack, amazon: Amazon, clock: Clock) -> None:
    api = SpApi(settings_of(stack), Vault(amazon.settings), amazon.http, gate=None)
    seller_id = await amazon.seller()
    tenant = await amazon.connect(seller_id)
    await amazon.fail("getOrder", 503, seller_id, FAILURES + 1)
    for _ in range(FAILURES):
        with pytest.raises(AmazonUnavailableError, match="request id"):
            await call(api, tenant)
    for _ in range(3):
        with pytest.raises(AmazonUnavailableError, match="region eu"):
            await call(api, tenant)
    assert await amazon.calls("getOrder", seller_id) == {"503": FAILURES}
    clock.now += FIRST_PAUSE_SECONDS
    with pytest.raises(AmazonUnavailableError, match="request id"):
        await call(api, tenant)
    clock.now += FIRST_PAUSE_SECONDS
    with pytest.raises(AmazonUnavailableError, match="region eu"):
        await call(api, tenant)
    clock.now += FIRST_PAUSE_SECONDS
    for _ in range(2):
        with pytest.raises(AmazonNotFoundError):
            await call(api, tenant)
    assert await amazon.calls("getOrder", seller_id) == {"503": FAILURES + 1, "404": 2}
