"""Start, restart and stop, with small programs that behave badly."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from devstack import supervisor as module
from devstack.errors import StackError
from devstack.supervisor import Program, Supervisor


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
async def supervisor(tmp_path: Path, said: list[str]) -> AsyncIterator[Supervisor]:
    running = Supervisor(tmp_path / "logs", said.append, restart=True)
    yield running
    await running.stop_all()


def program(code: str, *, server: bool = False, name: str = "probe") -> Program:
    async def ready() -> bool:
        await asyncio.sleep(0.1)
        return "never" not in code

    return Program(
        name=name, command=[sys.executable, "-c", code], environment={"PROBE": "1"}, ready=ready, server=server
    )


SLEEP = "import time; time.sleep(60)"


async def test_a_program_that_ends_before_it_is_ready_is_reported_with_its_last_words(
    supervisor: Supervisor,
) -> None:
    with pytest.raises(StackError, match=r"probe ended with code 3 before it was ready.*\n  no such setting"):
        await supervisor.start(program("'never'; print('no such setting', flush=True); raise SystemExit(3)"))


async def test_a_service_that_dies_starts_again_and_says_so(
    supervisor: Supervisor, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_RESTART_SECONDS", 0.05)
    await supervisor.start(program(SLEEP))
    first = supervisor.pid("probe")
    await supervisor.kill("probe")
    async with asyncio.timeout(60):
        while not supervisor.running():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert supervisor.pid("probe") != first
    assert "probe ended by SIGKILL; it starts again in 0.05 s" in said[0]


async def test_a_service_that_was_stopped_stays_stopped(supervisor: Supervisor) -> None:
    await supervisor.start(program(SLEEP))
    assert await supervisor.stop("probe") < 5
    await asyncio.sleep(0.1)
    assert supervisor.running() == []
    with pytest.raises(StackError, match="probe is not running"):
        supervisor.pid("probe")


async def test_a_service_that_crashes_is_not_started_again_when_restarts_are_off(tmp_path: Path) -> None:
    running = Supervisor(tmp_path / "logs", print, restart=False)
    await running.start(program(SLEEP))
    await running.kill("probe")
    await asyncio.sleep(0.1)
    assert running.running() == []
    await running.start(program(SLEEP))
    await running.stop_all()


async def test_a_server_that_dies_ends_the_stack_with_where_its_log_is(supervisor: Supervisor) -> None:
    await supervisor.start(program("import time; time.sleep(.2); print('disk full')", server=True))
    with pytest.raises(StackError, match=r"probe ended with code 0.*probe\.log, ends:\n  disk full"):
        await asyncio.wait_for(supervisor.wait(), 60)


async def test_a_program_that_ignores_the_request_to_stop_is_killed(
    supervisor: Supervisor, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STOP_SECONDS", 0.3)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    await supervisor.start(program(deaf))
    assert 0.3 <= await supervisor.stop("probe") < 3
    assert "is killed" in said[0]


async def test_services_stop_before_servers(supervisor: Supervisor, tmp_path: Path) -> None:
    note = (
        "import signal, sys, time\n"
        "def end(*_): open({file!r}, 'a').write(sys.argv[0] + {name!r} + ' '); sys.exit()\n"
        "signal.signal(signal.SIGTERM, end); time.sleep(60)"
    )
    file = tmp_path / "order"
    for name, server in (("server", True), ("service", False)):
        await supervisor.start(program(note.format(file=str(file), name=name), server=server, name=name))
    await supervisor.stop_all()
    assert file.read_text() == "-cservice -cserver "
