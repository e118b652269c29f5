"""Child processes: started, waited for until ready, watched, and none left behind."""

import asyncio
import atexit
import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from .errors import StackError

READY_SECONDS = 60.0
STOP_SECONDS = 10.0
FIRST_RESTART_SECONDS = 0.5
LAST_RESTART_SECONDS = 30.0
SETTLED_SECONDS = 60.0
LOG_BYTES = 10_000_000


class Program(Struct, frozen=True, kw_only=True):
    """How to run one process, and how to tell that it is ready."""

    name: str
    command: Sequence[str | Path]
    environment: Mapping[str, str]
    ready: Callable[[], Awaitable[bool]]
    server: bool = False
    """The stack cannot go on without it; what is none is a service, which is started again when it dies."""
    folder: Path | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    orphan_signal: signal.Signals = signal.SIGKILL
    """What it gets when the supervisor is gone."""


class _Child:
    def __init__(self, program: Program, process: asyncio.subprocess.Process, delay: float) -> None:
        self.program = program
        self.process = process
        self.delay = delay
        self.expected = False
        """Somebody asked it to end."""
        self.starting = False
        """Somebody waits for it to be ready, and hears of its end first."""
        self.watcher: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        return self.process.returncode is None

    def send(self, signal_: signal.Signals) -> None:
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal_)


class Supervisor:
    """Runs programs. Start it in the main thread: Linux ends children with the thread that made them."""

    def __init__(self, logs: Path, say: Callable[[str], None], *, restart: bool) -> None:
        self._logs = logs
        self._say = say
        self._restart = restart
        self._children: dict[str, _Child] = {}
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        logs.mkdir(exist_ok=True, mode=0o700)
        atexit.register(self._kill_all)

    def log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def pid(self, name: str) -> int:
        """StackError when it does not run."""
        child = self._children.get(name)
        if child is None or not child.alive:
            raise StackError(f"{name} is not running.")
        return child.process.pid

    def running(self) -> list[str]:
        return [name for name, child in self._children.items() if child.alive]

    async def start(self, program: Program) -> None:
        """Run it and return when it is ready. StackError when it ends before that or takes too long."""
        before = self._children.get(program.name)
        if before is not None and before.alive:
            raise StackError(f"{program.name} is already running.")
        if before is not None and before.watcher is not None:
            before.watcher.cancel()
        child = await self._spawn(program, FIRST_RESTART_SECONDS, starting=True)
        deadline = time.monotonic() + READY_SECONDS
        while not await program.ready():
            if not child.alive:
                early = f"{self._ended(child)} before it was ready."
                raise StackError(early + _last_words(self.log(program.name)))
            if time.monotonic() > deadline:
                late = f"{program.name} was not ready after {READY_SECONDS:.0f} s."
                raise StackError(late + _last_words(self.log(program.name)))
            await asyncio.sleep(0.02)
        child.starting = False

    async def stop(self, name: str) -> float:
        """Ask it to end, insist after ten seconds; the seconds that it took."""
        child = self._child(name)
        child.expected = True
        if child.watcher is not None and not child.alive:
            child.watcher.cancel()
        since = time.monotonic()
        child.send(child.program.stop_signal)
        try:
            await asyncio.wait_for(child.process.wait(), STOP_SECONDS)
        except TimeoutError:
            self._say(f"{name} did not stop within {STOP_SECONDS:.0f} s and is killed.")
            child.send(signal.SIGKILL)
            await child.process.wait()
        return time.monotonic() - since

    async def kill(self, name: str) -> None:
        """As a crash would; a server that is killed this way does not end the stack."""
        child = self._child(name)
        child.expected = child.program.server
        child.send(signal.SIGKILL)
        await child.process.wait()

    async def wait(self) -> None:
        """Until a server dies: StackError then."""
        await asyncio.shield(self._failure)

    async def stop_all(self) -> None:
        """Services first: they still need the servers to finish what they do."""
        for server in (False, True):
            names = [name for name, child in self._children.items() if child.program.server is server]
            await asyncio.gather(*(self.stop(name) for name in names))
        watchers = [child.watcher for child in self._children.values() if child.watcher is not None]
        await asyncio.gather(*watchers, return_exceptions=True)
        if self._failure.done() and not self._failure.cancelled():
            self._failure.exception()  # told to whoever waits; looked at here so that asyncio does not complain
        self._failure.cancel()
        atexit.unregister(self._kill_all)

    def _child(self, name: str) -> _Child:
        if name not in self._children:
            raise StackError(f"{name} was never started.")
        return self._children[name]

    async def _spawn(self, program: Program, delay: float, *, starting: bool = False) -> _Child:
        process = await spawn(
            program.command,
            program.environment,
            folder=program.folder,
            log=self.log(program.name),
            orphan_signal=program.orphan_signal,
        )
        child = self._children[program.name] = _Child(program, process, delay)
        child.starting = starting
        child.watcher = asyncio.create_task(self._watch(child))
        return child

    async def _watch(self, child: _Child) -> None:
        since = time.monotonic()
        await child.process.wait()
        if child.expected or child.starting:
            return
        program = child.program
        if program.server:
            if not self._failure.done():
                self._failure.set_exception(StackError(f"{self._ended(child)}.{_last_words(self.log(program.name))}"))
        elif self._restart:
            settled = time.monotonic() - since > SETTLED_SECONDS
            delay = FIRST_RESTART_SECONDS if settled else child.delay
            self._say(f"{self._ended(child)}; it starts again in {delay:g} s. Its log: {self.log(program.name)}")
            await asyncio.sleep(delay)
            await self._spawn(program, min(2 * delay, LAST_RESTART_SECONDS))

    def _ended(self, child: _Child) -> str:
        code = child.process.returncode or 0
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
        return f"{child.program.name} ended {how}"

    def _kill_all(self) -> None:
        for child in self._children.values():
            if child.alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.process.pid, signal.SIGKILL)


async def spawn(
    command: Sequence[str | Path],
    environment: Mapping[str, str],
    *,
    log: Path,
    folder: Path | None = None,
    orphan_signal: signal.Signals = signal.SIGKILL,
) -> asyncio.subprocess.Process:
    """Start a process with this environment and nothing of ours in it. Its output goes straight to its log:
    it runs on while we are busy.
    """
    output = _open_log(log)
    try:
        return await asyncio.create_subprocess_exec(
            *_ends_with_parent(orphan_signal),
            *command,
            env=inherited() | dict(environment),
            cwd=folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # the terminal's Ctrl-C is for the supervisor, which stops them in order
        )
    finally:
        os.close(output)


def _last_words(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()[-5:]
    except OSError:  # somebody removed the folder under a running stack
        return f" Its log, {log}, is gone."
    return "\n".join([f" Its log, {log}, ends:", *(f"  {line}" for line in lines)])


def _open_log(log: Path) -> int:
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
    return os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


async def run(command: Sequence[str | Path], environment: Mapping[str, str], *, log: Path) -> None:
    """Run to the end. StackError with the log's name when it fails."""
    process = await spawn(command, environment, log=log)
    try:
        code = await process.wait()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if code:
        raise StackError(f"{Path(command[0]).name} failed with code {code}.{_last_words(log)}")


def inherited() -> dict[str, str]:
    """All that children get of our own environment."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "SSL_CERT_FILE") if name in os.environ}


def _ends_with_parent(signal_: signal.Signals) -> list[str]:
    """Linux sends the signal when the supervisor dies, even by SIGKILL; elsewhere atexit has to do.
    Not by preexec_fn: Python code between fork and exec is unsafe beside threads, and Python warns of it.
    """
    if sys.platform != "linux" or shutil.which("setpriv") is None:
        return []
    return ["setpriv", "--pdeathsig", signal_.name.removeprefix("SIG")]
