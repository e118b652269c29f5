"""The life of a service as a process: what keeps it from starting, what it survives, how it ends."""

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pytest
from nats.aio.client import Client

from devstack.services import environment
from devstack.stack import Stack
from shared.provision import consumer_config
from shared.topology import consumer_of
from tests.shared.conftest import nats_as, until

SLOW = Path(__file__).parent / "slow_service.py"
NOBODY = "127.0.0.1:1"


class Process:
    """A running service and what it said so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.facts: list[dict[str, Any]] = []
        self.errors = ""
        self._reading = asyncio.gather(self._read_facts(), self._read_errors())

    async def _read_facts(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.facts.append(msgspec.json.decode(line))

    async def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors = (await self.process.stderr.read()).decode()

    def said(self, event: str) -> list[dict[str, Any]]:
        return [fact for fact in self.facts if fact["event"] == event]

    async def says(self, event: str) -> dict[str, Any]:
        async def said() -> bool:
            assert self.process.returncode is None, (self.facts, self.errors)
            return bool(self.said(event))

        await until(said)
        return self.said(event)[0]

    async def url(self) -> str:
        return f"http://127.0.0.1:{(await self.says('started'))['port']}"

    async def ended(self, seconds: float = 20) -> int:
        async with asyncio.timeout(seconds):
            await self._reading
            return await self.process.wait()

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self._reading
        await self.process.wait()


def variables(stack: Stack, **changes: str) -> dict[str, str]:
    wanted = environment("tenant-sync", stack.endpoints, stack._ports) | {"PORT": "0"} | changes
    return {name: value for name, value in wanted.items() if value}


@asynccontextmanager
async def started(stack: Stack, *command: str | Path, **changes: str) -> AsyncIterator[Process]:
    process = Process(
        await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            env=variables(stack, **changes),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    )
    try:
        yield process
    finally:
        await process.kill()


@pytest.fixture(scope="module", autouse=True)
async def without_nats(stack: Stack) -> AsyncIterator[Process]:
    """Begun before the other tests: it takes ten seconds to give up."""
    async with started(stack, "-m", "tenant_sync.app", NATS_URL=f"nats://tenant-sync:secretpart@{NOBODY}") as process:
        yield process


@pytest.fixture(scope="module")
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        yield client


async def test_a_stop_lets_the_request_and_the_handler_in_hand_finish(
    stack: Stack, provisioner: Client, http: httpx.AsyncClient
) -> None:
    consumer = consumer_of("tenant-sync", "sync_tenant")
    js = provisioner.jetstream()
    await js.delete_consumer(consumer.stream, consumer.durable)
    await js.purge_stream(consumer.stream)
    await js.add_consumer(consumer.stream, consumer_config(consumer))
    async with started(stack, SLOW) as process, nats_as(stack, "product") as product:
        url = await process.url()
        await product.jetstream().publish("tenant.created", b'{"tenantId":"kbz-slow"}')
        answer = asyncio.create_task(http.get(f"{url}/slow"))
        await process.says("handling")
        await process.says("answering")
        process.process.send_signal(signal.SIGTERM)
        assert await process.ended(10) == 0
        assert (await answer).json() == {"done": True}
    assert process.said("handled")
    assert process.said("stopped") == [process.facts[-1]]
    assert process.errors == ""
    info = await js.consumer_info(consumer.stream, consumer.durable)
    assert (info.num_ack_pending, info.num_pending) == (0, 0)
    assert info.delivered is not None
    assert info.delivered.consumer_seq == 1


async def test_a_stop_lets_the_operators_request_in_hand_finish_but_not_for_long(
    stack: Stack, operator: Client
) -> None:
    for seconds, answer in ((0.8, b'{"done":true}'), (60, b'"code":"stopping"')):
        async with started(stack, SLOW) as process:
            await process.says("started")
            asking = asyncio.create_task(
                operator.request("tenant-sync.nap", msgspec.json.encode({"seconds": seconds}), timeout=15)
            )
            await process.says("napping")
            process.process.send_signal(signal.SIGTERM)
            assert answer in (await asking).data
            assert await process.ended(10) == 0
        assert process.said("stopped") == [process.facts[-1]]
        assert process.errors == ""


async def test_a_loop_that_fails_is_logged_and_does_not_end_the_service(stack: Stack, http: httpx.AsyncClient) -> None:
    async with started(stack, SLOW) as process:
        url = await process.url()
        fact = await process.says("loop_failed")
        assert (fact["loop"], fact["level"]) == ("failing", "error")
        assert "a bug in a loop" in fact["exception"]
        assert (await http.get(f"{url}/readyz")).status_code == 200
        metrics = (await http.get(f"{url}/metrics")).text
        assert 'loop_errors_total{loop="failing"}' in metrics
        process.process.send_signal(signal.SIGINT)
        assert await process.ended(10) == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"DATABASE_URL": "", "NATS_URL": "", "PORT": "99999"},
            ["DATABASE_URL is missing", "NATS_URL is missing", "PORT is wrong"],
        ),
        ({"DATABASE_URL": f"postgresql://u:secretpart@{NOBODY}/x"}, ["check DATABASE_URL"]),
        ({"DATABASE_URL": "postgresql://u:secretpart@127.0.0.1:port/x"}, ["check DATABASE_URL"]),
        ({"PRODUCT_DATABASE_URL": f"postgresql://u:secretpart@{NOBODY}/x"}, ["check PRODUCT_DATABASE_URL"]),
        ({"NATS_CACERT": "/nowhere/ca.pem"}, ["NATS_CACERT", "/nowhere/ca.pem"]),
    ],
    ids=lambda value: "-".join(f"{name}={text}" for name, text in value.items()) if isinstance(value, dict) else "",
)
async def test_what_keeps_a_service_from_starting_is_one_clear_line(
    stack: Stack, changes: dict[str, str], words: list[str]
) -> None:
    async with started(stack, "-m", "tenant_sync.app", **changes) as process:
        assert await process.ended() == 1
    shown = process.errors + "".join(fact.get("reason", "") for fact in process.said("could_not_start"))
    for word in words:
        assert word in shown
    assert "Traceback" not in process.errors
    assert "secretpart" not in f"{process.errors} {process.facts}"
    assert not process.said("started")
    assert not process.said("stopped")


async def test_a_port_that_is_taken_is_named(stack: Stack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with started(stack, "-m", "tenant_sync.app", PORT=str(port)) as process:
            assert await process.ended() == 1
    (fact,) = process.said("could_not_start")
    assert f"127.0.0.1:{port}" in fact["reason"]
    assert process.errors == ""


async def test_dev_mode_binds_the_loopback_only_and_says_so(stack: Stack, http: httpx.AsyncClient) -> None:
    async with started(stack, SLOW, KEYBUZZ_DEV_MODE="true", HOST="0.0.0.0") as process:  # noqa: S104 - it must not
        url = await process.url()
        assert (await process.says("dev_mode_waives_the_internal_key"))["host"] == "127.0.0.1"
        assert (await http.get(f"{url}/health")).status_code == 200
        with pytest.raises(httpx.ConnectError):
            await http.get(url.replace("127.0.0.1", "127.0.0.2") + "/health")


async def readiness(http: httpx.AsyncClient, url: str) -> tuple[int, dict[str, str]]:
    answer = await http.get(f"{url}/readyz")
    missing: dict[str, str] = answer.json()["missing"]
    return answer.status_code, missing


@pytest.mark.parametrize(("server", "check"), [("nats", "nats"), ("postgres", "database_url")])
async def test_readiness_tells_of_a_server_that_is_away_and_of_its_return(
    mortal: Stack, http: httpx.AsyncClient, server: str, check: str
) -> None:
    async with started(mortal, SLOW) as process:
        url = await process.url()
        assert await readiness(http, url) == (200, {})

        async def unready() -> bool:
            return (await readiness(http, url))[0] == 503

        async def ready() -> bool:
            return not await unready()

        await mortal.kill(server)
        try:
            await until(unready)
            status, missing = await readiness(http, url)
            assert (status, list(missing)) == (503, [check])
            assert {"nats": "NATS", "postgres": "PostgreSQL"}[server] in missing[check]
            assert (await http.get(f"{url}/livez")).status_code == 200
        finally:
            await mortal.start(server)
        await until(ready)

        tenant_id = f"kbz-{uuid4().hex}"
        async with nats_as(mortal, "product") as product:
            await product.jetstream().publish("tenant.created", b'{"tenantId":"%s"}' % tenant_id.encode())

        async def handled() -> bool:
            return any(fact["tenant_id"] == tenant_id for fact in process.said("handled"))

        await until(handled)
        async with nats_as(mortal, "operator") as client:
            assert (await client.request("tenant-sync.nap", b'{"seconds":0}', timeout=30)).data == b'{"done":true}'
        process.process.send_signal(signal.SIGTERM)
        assert await process.ended(10) == 0


async def test_without_nats_a_service_gives_up_and_says_what_to_check(without_nats: Process) -> None:
    assert await without_nats.ended() == 1
    (fact,) = without_nats.said("could_not_start")
    assert "check NATS_URL" in fact["reason"]
    assert not without_nats.said("stopped")
    assert "secretpart" not in f"{without_nats.errors} {without_nats.facts}"
    assert without_nats.errors == ""
