"""The local stack as a whole: what starts after what, and the handle that tests and the demo hold."""

import asyncio
import os
import ssl
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from shared.topology import SERVICES

from . import endpoints as endpoints_
from . import provisioning, servers, services, state
from . import secrets as secrets_
from .errors import StackError
from .memory import rss_megabytes
from .ports import Ports
from .supervisor import Program, Supervisor


class Stack:
    """`async with Stack(folder) as stack:` runs everything, then stops it. Enter it in the main thread.

    services: which to run (their tables are made in any case). settings: more environment for each of them.
    restart: whether a service that dies is started again. clock_speed: of the Amazon sandbox, by default the
    one of its state. say: gets one sentence now and then.
    """

    endpoints: endpoints_.Endpoints

    def __init__(
        self,
        folder: Path,
        services: Sequence[str] = SERVICES,
        *,
        settings: Mapping[str, str] | None = None,
        restart: bool = True,
        clock_speed: float | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.folder = folder.absolute()
        self.logs = self.folder / "logs"
        self._services = tuple(services)
        self._settings = dict(settings or {})
        self._restart = restart
        self._clock_speed = clock_speed
        self._say = say
        self._servers: dict[str, Program] = {}

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as undo:
            lock = state.claim(self.folder)
            undo.callback(os.close, lock)
            self._ports = Ports(self.folder)
            undo.callback(self._ports.release)
            self._secrets = secrets_.load(self.folder)
            cacert = servers.cacert(self.folder)
            self.endpoints = endpoints_.describe(self.folder, self._ports, self._secrets, cacert)
            if not servers.prepare_openbao(self.folder, self._ports):
                self._say(
                    "deploy/openbao/openbao.hcl has changed since this state was made, and OpenBao reads it only"
                    f" once: remove {self.folder}, or use another --state, to have the change."
                )
            self._client = await undo.enter_async_context(
                httpx.AsyncClient(verify=ssl.create_default_context(cafile=cacert), trust_env=False, timeout=2)
            )
            self._supervisor = Supervisor(self.logs, self._say, restart=self._restart)
            undo.push_async_callback(self._supervisor.stop_all)
            undo.callback(endpoints_.remove, self.folder)
            endpoints_.remove(self.folder)
            await self._start_all()
            endpoints_.write(self.folder, self.endpoints)
            self._undo = undo.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._undo.aclose()

    async def wait(self) -> None:
        """Until a server dies: StackError then."""
        await self._supervisor.wait()

    async def start(self, name: str, settings: Mapping[str, str] | None = None) -> None:
        """Start a service, or a server that was stopped, until it is ready. settings: for this run only."""
        program = self._servers.get(name) or self._service(name, settings or {})
        await self._supervisor.start(program)

    async def stop(self, name: str) -> float:
        """Ask it to end and wait for it; the seconds that it took."""
        return await self._supervisor.stop(name)

    async def kill(self, name: str) -> None:
        """SIGKILL. A service starts again by itself unless restart is off; a server waits for start()."""
        await self._supervisor.kill(name)

    def pid(self, name: str) -> int:
        return self._supervisor.pid(name)

    def rss_megabytes(self) -> dict[str, float | None]:
        """Resident memory of each process and its children, without what they share; None off Linux."""
        return {name: rss_megabytes(self.pid(name)) for name in self._supervisor.running()}

    async def _start_all(self) -> None:
        """Each server's provisioning starts as soon as that server is ready; services when all is done."""
        await _together(self._nats(), self._postgres(), self._openbao(), self._sandbox())
        await _together(*(self.start(name) for name in self._services))

    async def _nats(self) -> None:
        await self._run(servers.nats(self.folder, self._ports, self._secrets, self._client))
        await provisioning.streams(self.endpoints)

    async def _postgres(self) -> None:
        await self._run(await servers.postgres(self.folder, self._secrets, self.endpoints))
        await provisioning.roles(self.endpoints, self._secrets, self.logs)
        await provisioning.migrations(SERVICES, self.endpoints)

    async def _openbao(self) -> None:
        await self._run(servers.openbao(self.folder, self._ports, self._secrets, self._client))
        await provisioning.app_credentials(
            self.endpoints, self._secrets, servers.redirect_uri(self._ports), self._client
        )
        await provisioning.mailbox_account(self.endpoints, self._client)

    async def _sandbox(self) -> None:
        await self._run(servers.sandbox(self.folder, self._ports, self._secrets, self._client, self._clock_speed))

    async def _run(self, program: Program) -> None:
        self._servers[program.name] = program
        await self._supervisor.start(program)

    def _service(self, name: str, settings: Mapping[str, str]) -> Program:
        if name not in SERVICES:
            raise StackError(f"There is no service {name!r}; there are {', '.join(SERVICES)}.")
        return services.service(name, self.endpoints, self._ports, self._client, self._settings | dict(settings))


async def _together(*steps: Coroutine[Any, Any, None]) -> None:
    """All at once; the first failure ends the others and is the one that is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for step in steps:
                group.create_task(step)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
