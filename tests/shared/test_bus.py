"""One delivery policy, on a real server with the topology's own streams and the service's own user."""

import asyncio
import contextlib
import gc
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import FrameType
from typing import Any

import asyncpg
import msgspec
import pytest
from nats.aio.client import Client
from nats.js import api

from devstack.stack import Stack
from shared import bus as bus_
from shared.bus import Bus, Retry
from shared.errors import NotFoundError, PermanentError, RetryLaterError, UnavailableError
from shared.events import TenantCreated
from shared.provision import consumer_config, provision, stream_config
from shared.settings import Settings, load
from shared.topology import STREAMS, Consumer, consumer_of
from tests.shared.conftest import Recorded, Recording, nats_as, until

CONSUMER = msgspec.structs.replace(consumer_of("tenant-sync", "sync_tenant"), ack_wait_seconds=3)
MAX_DELIVERIES = 3

Sends = Callable[..., Awaitable[None]]
Opens = Callable[[Callable[[TenantCreated, str], Awaitable[None]]], Awaitable[Bus]]


@pytest.fixture(autouse=True)
async def topology(stack: Stack, provisioner: Client) -> AsyncIterator[None]:
    """An empty stream and a consumer that has seen nothing; afterwards all is as the topology says."""
    await renew(provisioner, CONSUMER)
    yield
    js = provisioner.jetstream()
    with contextlib.suppress(Exception):
        await js.delete_consumer(CONSUMER.stream, CONSUMER.durable)
    await js.purge_stream(CONSUMER.stream)
    await provision(stack.endpoints.nats.users["provisioner"].url)


async def renew(provisioner: Client, consumer: Consumer) -> None:
    js = provisioner.jetstream()
    await js.delete_consumer(consumer.stream, consumer.durable)
    await js.purge_stream(consumer.stream)
    await js.add_consumer(consumer.stream, consumer_config(consumer))


@pytest.fixture
async def product(stack: Stack) -> AsyncIterator[Client]:
    async with nats_as(stack, "product") as client:
        yield client


@pytest.fixture
def send(product: Client) -> Sends:
    """Publish a body as the product app would, or whatever bytes."""

    async def publish(body: object, headers: dict[str, str] | None = None) -> None:
        raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
        await product.jetstream().publish("tenant.created", raw, headers=headers)

    return publish


@pytest.fixture
async def dead(operator: Client) -> Recording:
    return await Recording.begin(operator, "DLQ")


def settings_of(stack: Stack, **changes: str) -> Settings:
    environ = {
        "DATABASE_URL": "unused",
        "NATS_URL": stack.endpoints.nats.users["tenant-sync"].url,
        "KEYBUZZ_INTERNAL_KEY": "unused",
        "MAX_DELIVERIES": str(MAX_DELIVERIES),
        "RETRY_BASE_SECONDS": "0.02",
    }
    return load(Settings, environ | changes)


class Opened:
    """Buses that the test opened, and how often each told that its connection is gone."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.buses: list[Bus] = []
        self.closed = 0

    def _on_closed(self) -> None:
        self.closed += 1

    async def __call__(self, handler: Callable[[TenantCreated, str], Awaitable[None]]) -> Bus:
        bus = Bus("tenant-sync", settings_of(self._stack), on_closed=self._on_closed)
        self.buses.append(bus)
        bus.subscribe(CONSUMER, handler)
        await bus.connect()
        await bus.start()
        return bus


@pytest.fixture
async def consume(stack: Stack) -> AsyncIterator[Opened]:
    opened = Opened(stack)
    yield opened
    for bus in opened.buses:
        await bus.stop()


class Handled:
    """A handler that keeps what it got, after a number of failures."""

    def __init__(self, *failures: BaseException) -> None:
        self.events: list[tuple[str, str]] = []
        self.calls = 0
        self._failures = list(failures)

    async def __call__(self, event: TenantCreated, event_id: str) -> None:
        self.calls += 1
        if self._failures:
            raise self._failures.pop(0)
        self.events.append((event.tenant_id, event_id))

    async def any(self) -> bool:
        return bool(self.events)

    @property
    def tenants(self) -> list[str]:
        return [tenant_id for tenant_id, _ in self.events]


async def buried(dead: Recording, count: int = 1) -> list[Recorded]:
    async def enough() -> bool:
        return await dead.count() >= count

    await until(enough)
    return await dead.messages()


async def acknowledged(client: Client) -> bool:
    info = await client.jetstream().consumer_info(CONSUMER.stream, CONSUMER.durable)
    return (info.num_ack_pending, info.num_pending) == (0, 0)


async def test_an_event_reaches_its_handler_with_its_id_and_is_acknowledged(
    consume: Opened, send: Sends, operator: Client
) -> None:
    handled = Handled()
    await consume(handled)
    await send({"tenantId": "kbz-001"}, {"ce-id": "the-id", "Nats-Msg-Id": "another-id"})
    await until(handled.any)
    assert handled.events == [("kbz-001", "the-id")]

    async def done() -> bool:
        return await acknowledged(operator)

    await until(done)


async def test_a_plain_message_is_known_by_its_place_in_the_stream(
    consume: Opened, product: Client, operator: Client
) -> None:
    handled = Handled()
    await consume(handled)
    before = (await operator.jetstream().stream_info("TENANT")).state.last_seq
    await product.publish("tenant.created", b'{"tenantId":"kbz-003"}')  # as `nats pub` does
    await until(handled.any)
    assert handled.events == [("kbz-003", f"TENANT:{before + 1}")]


async def test_a_message_without_cloudevents_headers_is_known_by_its_jetstream_id(consume: Opened, send: Sends) -> None:
    handled = Handled()
    await consume(handled)
    await send({"tenantId": "kbz-001"}, {"Nats-Msg-Id": "the-message"})
    await until(handled.any)
    assert handled.events == [("kbz-001", "the-message")]


async def test_what_fails_is_delivered_again_until_it_works(consume: Opened, send: Sends, dead: Recording) -> None:
    handled = Handled(ValueError("not yet"), RetryLaterError("not yet", delay_seconds=0.05))
    await consume(handled)
    await send({"tenantId": "kbz-001"})
    await until(handled.any)
    assert handled.calls == 3
    assert handled.tenants == ["kbz-001"]
    assert await dead.count() == 0


@pytest.mark.parametrize(
    ("body", "code", "reason"),
    [
        (b"{", "DecodeError", "truncated"),
        (b"", "DecodeError", "truncated"),
        (b'{"tenantId":"\xff"}', "", ""),
        (b"\xff\xfe\x00", "", ""),
        (b'{"tenantId":7}', "ValidationError", "tenantId"),
        (b'{"tenantId":"../oauth"}', "ValidationError", "tenantId"),
        (b"{}", "ValidationError", "tenantId"),
        (b"[]", "ValidationError", "array"),
        (b"null", "ValidationError", "null"),
    ],
)
async def test_what_is_no_event_is_dead_lettered_at_once_and_others_flow(
    consume: Opened, send: Sends, dead: Recording, body: bytes, code: str, reason: str
) -> None:
    handled = Handled()
    await consume(handled)
    await send(body, {"ce-id": "poison", "X-Kept": "yes", "Nats-Expected-Stream": "TENANT"})
    await send({"tenantId": "kbz-001"})
    await until(handled.any)
    (letter,) = await buried(dead)
    assert handled.tenants == ["kbz-001"]
    assert letter.data == body
    assert letter.subject == "dlq.TENANT.tenant-sync-sync_tenant"
    assert letter.headers["dlq-subject"] == "tenant.created"
    assert letter.headers["dlq-stream"] == "TENANT"
    assert letter.headers["dlq-consumer"] == CONSUMER.durable
    assert letter.headers["dlq-deliveries"] == "1"
    assert int(letter.headers["dlq-sequence"]) > 0
    assert code in letter.headers["dlq-code"]
    assert letter.headers["dlq-code"]
    assert reason in letter.headers["dlq-reason"]
    assert letter.headers["dlq-reason"]
    assert (letter.headers["ce-id"], letter.headers["X-Kept"]) == ("poison", "yes")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PermanentError("The tenant is\r\nwrong: é."), "invalid"),
        (NotFoundError("There is no such tenant."), "not_found"),
    ],
)
async def test_a_permanent_error_is_dead_lettered_at_once_with_its_sentence(
    consume: Opened, send: Sends, dead: Recording, operator: Client, error: PermanentError, code: str
) -> None:
    handled = Handled(error)
    await consume(handled)
    await send({"tenantId": "kbz-001"})
    (letter,) = await buried(dead)
    assert handled.calls == 1
    assert letter.body == {"tenantId": "kbz-001"}
    assert letter.headers["dlq-code"] == code
    assert letter.headers["dlq-reason"].startswith(str(error).split("\r", maxsplit=1)[0])

    async def done() -> bool:
        return await acknowledged(operator)

    await until(done)


class CodedError(Exception):
    code = 42


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (ValueError("never"), "ValueError", "never"),
        (RetryLaterError("Still not.", delay_seconds=0.01), "try_again_later", "Still not."),
        (asyncpg.exceptions._base.DataError("out of range"), "DataError", "out of range"),
        (CodedError("from a library"), "42", "from a library"),
    ],
    ids=["bug", "retry later", "a value that no column takes", "a code that is no text"],
)
async def test_what_keeps_failing_is_dead_lettered_after_the_last_delivery(
    consume: Opened, send: Sends, dead: Recording, error: Exception, code: str, reason: str
) -> None:
    handled = Handled(*[error] * 100)
    await consume(handled)
    await send({"tenantId": "kbz-001"})
    (letter,) = await buried(dead)
    assert handled.calls == MAX_DELIVERIES
    assert letter.headers["dlq-deliveries"] == str(MAX_DELIVERIES)
    assert letter.headers["dlq-code"] == code
    assert reason in letter.headers["dlq-reason"]


@pytest.mark.parametrize(
    "error",
    [
        UnavailableError("The server is away.", delay_seconds=0.01),
        ConnectionRefusedError("nobody there"),
        TimeoutError("no answer"),
        asyncpg.ConnectionDoesNotExistError("gone"),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress"),
        asyncpg.CannotConnectNowError("the database system is starting up"),
        asyncpg.AdminShutdownError("terminating connection"),
        asyncpg.TooManyConnectionsError("too many clients"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_an_outage_is_waited_for_however_many_deliveries_it_takes(
    consume: Opened, send: Sends, dead: Recording, error: Exception
) -> None:
    handled = Handled(*[error] * (MAX_DELIVERIES + 2))
    await consume(handled)
    await send({"tenantId": "kbz-001"})
    await until(handled.any)
    assert handled.calls == MAX_DELIVERIES + 3
    assert await dead.count() == 0


async def test_a_handler_that_takes_longer_than_the_server_waits_runs_once(
    consume: Opened, send: Sends, operator: Client
) -> None:
    started = 0
    finished = asyncio.Event()

    async def slow(_: TenantCreated, __: str) -> None:
        nonlocal started
        started += 1
        await asyncio.sleep(CONSUMER.ack_wait_seconds * 1.7)
        finished.set()

    await consume(slow)
    await send({"tenantId": "kbz-001"})
    await asyncio.wait_for(finished.wait(), 60)

    async def done() -> bool:
        return await acknowledged(operator)

    await until(done)
    assert started == 1


async def test_a_handler_that_hangs_is_cancelled_and_in_the_end_dead_lettered(
    consume: Opened, send: Sends, dead: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_, "HANDLER_SECONDS", 0.05)
    calls = cancelled = 0

    async def hang(_: TenantCreated, __: str) -> None:
        nonlocal calls, cancelled
        calls += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled += 1
            raise

    await consume(hang)
    await send({"tenantId": "kbz-001"})
    (letter,) = await buried(dead)
    assert calls == cancelled == MAX_DELIVERIES
    assert "hung" in letter.headers["dlq-reason"]


@pytest.mark.parametrize(
    ("field", "value"), [("max_ack_pending", 7), ("ack_wait", 5), ("max_deliver", 3), ("filter_subject", "tenant.>")]
)
async def test_a_consumer_that_was_changed_keeps_the_service_from_consuming(
    stack: Stack, consume: Opened, provisioner: Client, field: str, value: Any
) -> None:
    changed = consumer_config(CONSUMER).evolve(**{field: value})
    await provisioner.jetstream().add_consumer(CONSUMER.stream, changed)
    with pytest.raises(PermanentError) as refused:
        await consume(Handled())
    assert CONSUMER.durable in str(refused.value)
    assert f"{field} is {value!r}" in str(refused.value)
    assert "python -m shared.provision" in str(refused.value)
    assert stack.endpoints.nats.users["tenant-sync"].password not in str(refused.value)


async def test_a_consumer_that_is_missing_keeps_the_service_from_consuming(
    consume: Opened, provisioner: Client
) -> None:
    await provisioner.jetstream().delete_consumer(CONSUMER.stream, CONSUMER.durable)
    with pytest.raises(PermanentError, match=CONSUMER.durable):
        await consume(Handled())
    await provisioner.jetstream().add_consumer(CONSUMER.stream, consumer_config(CONSUMER))


async def test_a_graceful_stop_lets_the_handler_in_flight_finish_and_acknowledges_it(
    consume: Opened, send: Sends, operator: Client
) -> None:
    started, finished = asyncio.Event(), asyncio.Event()

    async def slow(_: TenantCreated, __: str) -> None:
        started.set()
        await asyncio.sleep(0.5)
        finished.set()

    bus = await consume(slow)
    await send({"tenantId": "kbz-001"})
    await started.wait()
    await bus.stop()
    assert finished.is_set()
    assert not bus.connected
    assert await acknowledged(operator)
    assert consume.closed == 0


class FrozenError(BaseException):
    """Ends the task that spins; nothing that catches errors catches it."""


@contextlib.contextmanager
def failing_when_frozen(seconds: float) -> Iterator[None]:
    """A frozen loop would never let a timeout of its own fire; the signal interrupts it."""
    frozen = False

    def interrupt(_: int, __: FrameType | None) -> None:
        nonlocal frozen
        frozen = True
        raise FrozenError

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds, 0.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        assert not frozen, "The event loop froze."


async def test_a_connection_that_is_closed_for_good_is_told_and_freezes_nothing(consume: Opened, send: Sends) -> None:
    handled = Handled()
    bus = await consume(handled)
    await send({"tenantId": "kbz-001"})
    await until(handled.any)
    with failing_when_frozen(10):
        await bus.broker.connection.close()
        for _ in range(50):
            await asyncio.sleep(0.01)
        assert consume.closed == 1
        assert not bus.connected
        await bus.stop()
    gc.collect()  # what was left open says so, as an error, when it is collected


async def test_a_message_that_the_dead_letters_refuse_is_not_lost(
    consume: Opened, send: Sends, dead: Recording, provisioner: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_, "DELAY_CAP_SECONDS", 0.2)
    letters = next(stream_config(stream) for stream in STREAMS if stream.name == "DLQ")
    await provisioner.jetstream().update_stream(letters.evolve(max_msg_size=1))
    handled = Handled(*[PermanentError("The tenant is wrong.")] * 100)
    await consume(handled)
    await send({"tenantId": "kbz-001"})

    async def tried_twice() -> bool:
        return handled.calls >= 2

    await until(tried_twice)
    assert await dead.count() == 0
    await provisioner.jetstream().update_stream(letters)
    (letter,) = await buried(dead)
    assert letter.body == {"tenantId": "kbz-001"}


async def test_a_message_too_large_for_its_reason_to_fit_is_dead_lettered_without_its_body(
    consume: Opened, send: Sends, dead: Recording
) -> None:
    await consume(Handled())
    await send(b"[" + b" " * ((1 << 20) - 50))
    (letter,) = await buried(dead)
    assert letter.data == b""
    assert letter.headers["dlq-truncated"] == "true"
    assert int(letter.headers["dlq-sequence"]) > 0


def test_the_delay_doubles_to_its_cap_with_jitter_and_follows_what_the_error_says(stack: Stack) -> None:
    retry = Retry(settings_of(stack, RETRY_BASE_SECONDS="1"), {})
    bug = ValueError()
    for deliveries, longest in ((1, 1), (2, 2), (5, 16), (20, 300), (200, 300)):
        delays = [retry.delay_seconds(deliveries, bug) for _ in range(50)]
        assert all(longest / 2 <= delay <= longest for delay in delays)
        assert len(set(delays)) > 1
    told = [retry.delay_seconds(1, RetryLaterError("later", delay_seconds=30)) for _ in range(50)]
    assert all(30 <= delay <= 60 for delay in told)
    assert all(retry.delay_seconds(1, RetryLaterError("later", delay_seconds=9_999)) <= 300 for _ in range(50))


@pytest.mark.parametrize("password", ["wrong"])
async def test_a_server_that_refuses_us_is_named_without_the_password(
    stack: Stack, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_, "CONNECT_SECONDS", 0.5)
    user = stack.endpoints.nats.users["tenant-sync"]
    url = user.url.replace(user.password, password)
    bus = Bus("tenant-sync", settings_of(stack, NATS_URL=url), on_closed=lambda: None)
    with pytest.raises(UnavailableError, match="NATS_URL") as refused:
        await bus.connect()
    assert password not in str(refused.value)
    assert not bus.connected


def test_the_policy_config_of_a_consumer_has_no_backoff() -> None:
    config = consumer_config(CONSUMER)
    assert config.backoff is None
    assert config.ack_policy == api.AckPolicy.EXPLICIT
    assert config.max_deliver is not None
    assert config.max_deliver > MAX_DELIVERIES
