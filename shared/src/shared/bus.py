"""The broker, and the one policy of retry and dead letters. FastStream's defaults drop or hammer what fails,
overwrite streams and freeze once the connection is closed; each option here that looks odd is there for that.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

import asyncpg
import msgspec
from faststream import BaseMiddleware
from faststream.exceptions import HandlerException, NackMessage, RejectMessage
from faststream.middlewares import AckPolicy
from faststream.nats import JStream, NatsBroker, NatsMessage, PullSub
from faststream.security import BaseSecurity
from msgspec import Struct
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import Error as JetStreamError

from . import provision, tls
from .errors import PermanentError, RetryLaterError, UnavailableError
from .events import Event
from .settings import Settings
from .telemetry import HANDLED, HANDLING, log
from .topology import DEAD_LETTERS, Consumer

WORKERS = 8
HANDLER_SECONDS = 120
"""A handler that takes longer is hung: it is cancelled and its event delivered again."""
DELAY_CAP_SECONDS = 300.0
CONNECT_SECONDS = 10
STOP_SECONDS = 6

OUTAGES = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.InsufficientResourcesError,
)
"""Not the event's fault: it waits for their end, however many deliveries it takes."""
POISON = (PermanentError, msgspec.MsgspecError, UnicodeDecodeError)

Handler = Callable[[Any, str], Awaitable[None]]


class HandlerHungError(RetryLaterError):
    """The event's handler was cancelled; an event that hangs it each time has to end in the dead letters."""

    code = "handler_hung"


class Delivery(Struct, frozen=True):
    """An event as it arrived, with the id that the inbox knows it by."""

    event: Event
    event_id: str


class Retry:
    """What decides whether a message is acknowledged, delivered again or dead."""

    def __init__(self, settings: Settings, consumers: dict[str, Consumer]) -> None:
        self.max_deliveries = settings.max_deliveries
        self.base_seconds = settings.retry_base_seconds
        self.consumers = consumers
        self.js: JetStreamContext | None = None
        self.max_payload = 0

    def __call__(self, msg: Msg | None, *, context: Any) -> "_Attempt":
        return _Attempt(msg, context=context, policy=self)

    def delay_seconds(self, deliveries: int, error: BaseException) -> float:
        """Doubles with each delivery up to the cap, or begins where the error says when to come back; with
        jitter, so that what failed together spreads.
        """
        delay = min(DELAY_CAP_SECONDS, self.base_seconds * 2.0 ** (deliveries - 1))
        if isinstance(error, RetryLaterError) and error.delay_seconds is not None:
            delay = min(DELAY_CAP_SECONDS, error.delay_seconds * 2)
        return random.uniform(delay / 2, delay)  # noqa: S311 - no secret hangs on it

    async def bury(self, msg: Msg, error: BaseException) -> None:
        """Copy a message to the dead letters with its reason; nats errors rise when it could not be stored."""
        if self.js is None:
            raise UnavailableError("The dead letters cannot be reached: the broker is not connected.")
        meta = msg.metadata
        consumer = self.consumers[meta.consumer]
        headers = {name: value for name, value in (msg.headers or {}).items() if not name.startswith("Nats-")}
        headers |= {
            "Nats-Msg-Id": f"{meta.stream}:{meta.consumer}:{meta.sequence.stream}",
            "dlq-subject": msg.subject,
            "dlq-stream": meta.stream,
            "dlq-sequence": str(meta.sequence.stream),
            "dlq-consumer": meta.consumer,
            "dlq-deliveries": str(meta.num_delivered),
            "dlq-code": one_line(str(getattr(error, "code", type(error).__name__))),
            "dlq-reason": _one_line(error),
        }
        body = msg.data
        # The server closes the connection of who sends too much, headers included, and nats-py does not count those.
        if len(body) + sum(len(name) + len(value) + 4 for name, value in headers.items()) > self.max_payload - 1_024:
            body = b""  # its stream still has it
            headers["dlq-truncated"] = "true"
        await self.js.publish(consumer.dead_letter_subject, body, stream=DEAD_LETTERS, headers=headers, timeout=5)


class _Attempt(BaseMiddleware[Any, Any]):
    """One delivery of one message."""

    def __init__(self, msg: Msg | None, /, *, context: Any, policy: Retry) -> None:
        super().__init__(msg, context=context)
        self.policy = policy
        self.started = asyncio.get_running_loop().time()

    async def consume_scope(self, call_next: Callable[[Any], Awaitable[Any]], msg: Any) -> Any:
        """Keep the server from delivering again what is still being worked on."""
        heartbeat = asyncio.create_task(self._heartbeat(msg.raw_message))
        try:
            async with asyncio.timeout(HANDLER_SECONDS) as limit:
                return await call_next(msg)
        except TimeoutError as error:
            if limit.expired():
                raise HandlerHungError(f"The handler hung: it did not end within {HANDLER_SECONDS} s.") from error
            raise
        finally:
            heartbeat.cancel()

    async def _heartbeat(self, msg: Msg) -> None:
        pause = self.policy.consumers[msg.metadata.consumer].ack_wait_seconds / 3
        while True:
            await asyncio.sleep(pause)
            with contextlib.suppress(NatsError):  # the connection is away: the next beat may get through
                await msg.in_progress()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> bool | None:
        if self.msg is None:
            return False
        meta = self.msg.metadata
        handler = meta.consumer
        HANDLING.labels(handler).observe(asyncio.get_running_loop().time() - self.started)
        if error is None:
            HANDLED.labels(handler, "done").inc()
            return False
        if isinstance(error, (HandlerException, asyncio.CancelledError)):
            return False
        about = {"handler": handler, "subject": self.msg.subject, "sequence": meta.sequence.stream}
        patient = _is_outage(error) or (isinstance(error, RetryLaterError) and error.patient)
        exhausted = meta.num_delivered >= self.policy.max_deliveries and not patient
        if not (exhausted or isinstance(error, POISON)):
            delay = self.policy.delay_seconds(meta.num_delivered, error)
            HANDLED.labels(handler, "retried").inc()
            log.warning(
                "event_delivered_again_later",
                **about,
                delay_seconds=round(delay, 3),
                delivery=meta.num_delivered,
                error=_one_line(error),
            )
            raise NackMessage(delay=delay) from error
        try:
            await self.policy.bury(self.msg, error)
        except (NatsError, JetStreamError, RetryLaterError) as trouble:
            log.warning("dead_letter_not_stored", **about, error=repr(trouble))
            raise NackMessage(delay=DELAY_CAP_SECONDS) from error
        HANDLED.labels(handler, "dead").inc()
        log.error("event_dead_lettered", **about, delivery=meta.num_delivered, error=_one_line(error))
        raise RejectMessage from error


class Bus:
    """A service's connection to NATS: its subscriptions, its publishing, its state."""

    def __init__(self, service: str, settings: Settings, *, on_closed: Callable[[], None]) -> None:
        self.service = service
        self.consumers: dict[str, Consumer] = {}
        self._retry = Retry(settings, self.consumers)
        self._on_closed = on_closed
        self._stopping = False
        self.broker = NatsBroker(
            settings.nats_url.reveal(),
            name=service,
            apply_types=False,
            ack_policy=AckPolicy.NACK_ON_ERROR,
            middlewares=[self._retry],
            graceful_timeout=STOP_SECONDS,
            logger=None,
            inbox_prefix=f"_INBOX_{service}".encode(),
            max_reconnect_attempts=-1,
            reconnect_time_wait=1,
            ping_interval=10,
            max_outstanding_pings=2,
            connect_timeout=2,
            closed_cb=self._closed,
            security=BaseSecurity(ssl_context=context) if (context := tls.context(settings.nats_cacert)) else None,
        )
        # FastStream wraps this callback and raises from it, which ends nats-py's reconnecting for good.
        self.broker._connection_kwargs["error_cb"] = self._error  # noqa: SLF001

    def subscribe(self, consumer: Consumer, handler: Handler) -> None:
        """Let a durable consumer's events reach the handler, as handler(event, event_id)."""
        decoder = msgspec.json.Decoder(consumer.event)

        async def decode(message: NatsMessage) -> Delivery:
            return Delivery(decoder.decode(message.body), event_id_of(message.raw_message))

        async def receive(delivery: Delivery) -> None:
            await handler(delivery.event, delivery.event_id)

        self.consumers[consumer.durable] = consumer
        self.broker.subscriber(
            consumer.event.SUBJECT,
            stream=JStream(consumer.stream, declare=False),
            durable=consumer.durable,
            # A larger batch would hold undelivered messages whose ack_wait is running.
            pull_sub=PullSub(batch_size=1, timeout=5),
            max_workers=WORKERS,
            inbox_prefix=f"_INBOX_{self.service}.".encode(),
            decoder=decode,
            no_reply=True,
        )(receive)

    async def connect(self) -> None:
        """UnavailableError when the server is not there, or refuses us, for ten seconds."""
        try:
            await asyncio.wait_for(self.broker.connect(), CONNECT_SECONDS)
        except (TimeoutError, OSError, NatsError) as error:
            raise UnavailableError(
                f"NATS did not let {self.service} in within {CONNECT_SECONDS} s ({type(error).__name__}):"
                " check NATS_URL, its user and password, and that the server runs."
            ) from error
        self._retry.js = self.broker.connection.jetstream()
        self._retry.max_payload = self.broker.connection.max_payload

    async def start(self) -> None:
        """Begin to consume. PermanentError when a consumer differs from topology.py: it must be provisioned."""
        for consumer in self.consumers.values():
            if differences := await self.drift(consumer):
                raise PermanentError(
                    f"The consumer {consumer.durable} of stream {consumer.stream} is not as topology.py says: "
                    f"{'; '.join(differences)}. Run python -m shared.provision."
                )
        await self.broker.start()

    async def drift(self, consumer: Consumer) -> list[str]:
        try:
            info = await self.broker.connection.jetstream(timeout=2).consumer_info(consumer.stream, consumer.durable)
        except (NatsError, JetStreamError) as error:
            return [f"it cannot be read ({error!r})"]
        return provision.drift(consumer, info.config)

    async def stop(self) -> None:
        """Take no more, let what is in hand finish, close."""
        self._stopping = True
        try:
            await self.broker.stop()
        except* NatsError:
            log.info("nats_was_closed_already")
            # FastStream's own stop ends at the first thing that a closed connection refuses.
            subscribers: list[Any] = list(self.broker.subscribers)
            for subscriber in subscribers:
                for task in subscriber.tasks:
                    task.cancel()
                subscriber.send_stream.close()
                subscriber.receive_stream.close()

    @property
    def connected(self) -> bool:
        return bool(self.broker._connection and self.broker.connection.is_connected)  # noqa: SLF001

    async def _error(self, error: Exception) -> None:
        log.warning("nats_error", error=repr(error))

    async def _closed(self) -> None:
        """A closed connection never comes back, and FastStream's pull loop would spin on it: end the process."""
        if self._stopping:
            return
        for subscriber in self.broker.subscribers:
            subscriber.running = False
        log.error("nats_connection_closed")
        self._on_closed()


def event_id_of(msg: Msg) -> str:
    """The CloudEvents id; for a plain message its JetStream id, or else its place in the stream."""
    headers = msg.headers or {}
    meta = msg.metadata
    return headers.get("ce-id") or headers.get("Nats-Msg-Id") or f"{meta.stream}:{meta.sequence.stream}"


def _is_outage(error: BaseException) -> bool:
    """Of asyncpg's own errors those that are a ValueError too tell of a value that no column takes."""
    return isinstance(error, OUTAGES) and not (
        isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError)
    )


def _one_line(error: BaseException) -> str:
    named = isinstance(error, (PermanentError, RetryLaterError, msgspec.MsgspecError))
    return one_line(str(error) if named else repr(error))


def one_line(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode().replace("\r", " ").replace("\n", " ")[:500]
