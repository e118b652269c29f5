"""What a service is made of, and its life: start in order, serve, stop without dropping what is in hand."""

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

import uvicorn
from litestar.middleware import DefineMiddleware
from litestar.stores.base import Store
from litestar.types import ControllerRouterHandler

from . import asyncapi, web
from .auth import Keys
from .bus import STOP_SECONDS, Bus, Handler
from .db import LOST, Pool, open_pool
from .errors import PermanentError, RetryLaterError, UnavailableError
from .outbox import Outbox
from .requests import Operation, Requests
from .settings import Secret, Settings, SettingsError
from .telemetry import LOOP_ERRORS, configure_logging, log
from .topology import consumer_of, published_by

HTTP_STOP_SECONDS = 2
PUBLISH_OUTBOX_SECONDS = 20
LOOP_PAUSE_AFTER_ERROR_SECONDS = 5.0


class Service:
    """The pool, the bus and the outbox of a service, its loops, its HTTP server and its answers over NATS.

    async with Service("orders", settings) as service:
        service.handle("start_backfill", partial(handlers.start_backfill, pool=service.pool))
        await service.serve(routes, operations, ...)
    """

    pool: Pool

    def __init__(self, name: str, settings: Settings) -> None:
        configure_logging(name, settings.log_level)
        self.name = name
        self.settings = settings
        self.bus = Bus(name, settings, on_closed=lambda: self._end(1))
        self.outbox = Outbox(name, settings.database_url.reveal())
        self._requests = Requests(name)
        self.checks: dict[str, web.Check] = {}
        self._cleanup = contextlib.AsyncExitStack()
        self._loops: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()
        self._exit_code = 0

    async def __aenter__(self) -> Self:
        self.pool = await self.open_pool("DATABASE_URL", self.settings.database_url)
        try:
            await self.bus.connect()
        except UnavailableError:
            await self._cleanup.aclose()
            raise
        self.checks["nats"] = self._nats_missing
        return self

    async def open_pool(self, variable: str, url: Secret, *, size: int = 10) -> Pool:
        """A pool that closes with the service and counts for its readiness.
        UnavailableError names the variable when the server does not let us in.
        """
        try:
            pool = await open_pool(url.reveal(), self.name, size=size)
        except (*LOST, ValueError) as error:
            raise UnavailableError(
                f"PostgreSQL did not let {self.name} in ({type(error).__name__}): check {variable}, its user and"
                " password, and that the server runs."
            ) from error
        self._cleanup.push_async_callback(_close, pool)
        self.checks[variable.lower()] = partial(_database_missing, pool)
        return pool

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await _cancel(self._loops)
        self._requests.stop_in(STOP_SECONDS)
        await self.bus.stop()
        await self._cleanup.aclose()
        if exc is not None:
            return  # run() says what ended it
        log.info("stopped", exit_code=self._exit_code)
        if self._exit_code:
            sys.exit(self._exit_code)

    def handle(self, name: str, handler: Handler) -> None:
        """Let the events of the handler's consumer reach it, as handler(event, event_id)."""
        self.bus.subscribe(consumer_of(self.name, name), handler)

    def loop(self, name: str, body: Callable[[], Awaitable[None]]) -> None:
        """Run a background loop until the service stops; when it fails, log it and begin it again."""
        self._loops.append(asyncio.create_task(_forever(name, body), name=name))

    async def serve(
        self,
        routes: Sequence[ControllerRouterHandler],
        operations: Mapping[str, Operation],
        *,
        dependencies: Mapping[str, Any] | None = None,
        middleware: Sequence[DefineMiddleware] = (),
        stores: Mapping[str, Store] | None = None,
    ) -> None:
        """Consume events and answer, over HTTP and NATS, until SIGTERM or SIGINT. The dependencies reach the routes and
        the operations by name.
        """
        known = {"pool": self.pool, "outbox": self.outbox, **(dependencies or {})}
        consumed = [consumer.event for consumer in self.bus.consumers.values()]
        app = web.create_app(
            self.name,
            routes,
            keys=Keys.of(self.settings),
            dependencies=known,
            checks=self.checks,
            middleware=middleware,
            stores=stores,
            asyncapi=asyncapi.document(self.name, published_by(self.name), consumed),
        )
        server = _Server(
            uvicorn.Config(
                app,
                access_log=False,
                log_config=None,
                lifespan="off",
                server_header=False,
                timeout_graceful_shutdown=HTTP_STOP_SECONDS,
            )
        )
        listening = _listen(self.settings)
        for signum in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signum, self._end, 0)
        await self.bus.start()
        await self._requests.start(self.bus.broker.connection, operations, known)
        self.loop("outbox relay", partial(self.outbox.run, self.bus.broker.connection))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        log.info("started", port=listening.getsockname()[1], dev_mode=self.settings.keybuzz_dev_mode)
        await asyncio.wait([serving, asyncio.create_task(self._stop.wait())], return_when=asyncio.FIRST_COMPLETED)
        log.info("stopping")
        server.should_exit = True
        await serving

    async def publish_outbox(self) -> None:
        """For a process that ends by itself: publish what is in the outbox, unless another replica's relay does.
        UnavailableError when that takes too long; what is left stays for the next relay.
        """
        relay = asyncio.create_task(self.outbox.run(self.bus.broker.connection))
        try:
            async with asyncio.timeout(PUBLISH_OUTBOX_SECONDS):
                while await self.outbox.unpublished(self.pool):  # noqa: ASYNC110 - the database knows
                    await asyncio.sleep(0.05)
        except TimeoutError as error:
            raise UnavailableError("Events are left in the outbox: the next relay publishes them.") from error
        finally:
            await _cancel([relay])

    def _end(self, exit_code: int) -> None:
        self._exit_code = exit_code
        self._stop.set()

    async def _nats_missing(self) -> str | None:
        if not self.bus.connected:
            return "NATS is not connected."
        for consumer in self.bus.consumers.values():
            if differences := await self.bus.drift(consumer):
                return f"The consumer {consumer.durable}: {'; '.join(differences)}."
        return None


async def _database_missing(pool: Pool) -> str | None:
    try:
        await pool.fetchval("SELECT 1", timeout=2)
    except LOST as error:
        return f"PostgreSQL does not answer ({type(error).__name__})."
    return None


async def _close(pool: Pool) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(pool.close(), 1)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the service decides in which order its parts stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(settings: Settings) -> socket.socket:
    host = settings.host
    if settings.keybuzz_dev_mode:
        host = "127.0.0.1"
        log.warning("dev_mode_waives_the_internal_key", host=host)
    try:
        return socket.create_server((host, settings.port), backlog=1024)
    except OSError as error:
        raise PermanentError(f"{host}:{settings.port} cannot be listened on: {error.strerror}.") from error


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel until they end: asyncio.wait_for before Python 3.12 loses a cancellation that comes with its result."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=1)


async def _forever(name: str, body: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await body()
        except Exception as error:  # noqa: BLE001 - the guard of every loop: one bad round must not end the work
            LOOP_ERRORS.labels(name).inc()
            expected = isinstance(error, (PermanentError, RetryLaterError, OSError))
            log.error("loop_failed", loop=name, error=repr(error), exc_info=None if expected else error)
            await asyncio.sleep(LOOP_PAUSE_AFTER_ERROR_SECONDS)


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run a service's main() on uvloop; what keeps it from starting is one line and exit status 1."""
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_awaited(main))
    except SettingsError as error:
        sys.exit(str(error))
    except (PermanentError, RetryLaterError) as error:
        log.error("could_not_start", reason=str(error))
        sys.exit(1)


async def _awaited(main: Callable[[], Awaitable[None]]) -> None:
    await main()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop  # noqa: PLC0415 - absent on Windows

    return uvloop.new_event_loop
