"""What the tests of the kit share."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import hypothesis
import msgspec
import nats
import pytest
from nats.aio.client import Client
from nats.js import api

from devstack.stack import Stack
from shared.db import Pool
from tests.shared.vaults import Bao, running_bao

hypothesis.settings.register_profile("kit", deadline=None)
hypothesis.settings.load_profile("kit")

PATIENCE_SECONDS = 20
"""How long a test waits for what has to come; what must not come is proven by what comes after it."""


async def until(condition: Callable[[], Awaitable[Any]]) -> None:
    """Return when the condition holds; the test fails when it never does."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await condition():  # noqa: ASYNC110 - the condition is in another process
            await asyncio.sleep(0.01)


@asynccontextmanager
async def nats_as(stack: Stack, user: str) -> AsyncIterator[Client]:
    """A connection as a service makes it: it survives the server."""

    async def ignore(_: Exception) -> None:
        pass

    client = await nats.connect(
        stack.endpoints.nats.users[user].url,
        inbox_prefix=f"_INBOX_{user}".encode(),
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.1,
        error_cb=ignore,
    )
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture(scope="session")
async def operator(stack: Stack) -> AsyncIterator[Client]:
    async with nats_as(stack, "operator") as client:
        yield client


@pytest.fixture(scope="session")
async def provisioner(stack: Stack) -> AsyncIterator[Client]:
    async with nats_as(stack, "provisioner") as client:
        yield client


class Recorded(msgspec.Struct, frozen=True):
    """A message that a stream holds."""

    sequence: int
    subject: str
    headers: dict[str, str]
    data: bytes

    @property
    def body(self) -> Any:
        return msgspec.json.decode(self.data)


class Recording:
    """What a stream has stored since the recording began."""

    def __init__(self, client: Client, stream: str, last: int) -> None:
        self._client = client
        self._stream = stream
        self._last = last

    @classmethod
    async def begin(cls, client: Client, stream: str) -> "Recording":
        state = (await client.jetstream().stream_info(stream)).state
        return cls(client, stream, state.last_seq)

    async def count(self) -> int:
        return (await self._client.jetstream().stream_info(self._stream)).state.last_seq - self._last

    async def messages(self) -> list[Recorded]:
        js = self._client.jetstream()
        last = (await js.stream_info(self._stream)).state.last_seq
        if last == self._last:
            return []
        config = api.ConsumerConfig(
            deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=self._last + 1,
            ack_policy=api.AckPolicy.NONE,
        )
        pull = await js.pull_subscribe("", stream=self._stream, config=config)
        found: list[Recorded] = []
        while not found or found[-1].sequence < last:
            for message in await pull.fetch(500, timeout=30):
                found.append(  # noqa: PERF401 - the loop asks for more
                    Recorded(message.metadata.sequence.stream, message.subject, message.headers or {}, message.data)
                )
        await pull.unsubscribe()
        return found


@asynccontextmanager
async def running(work: Awaitable[None]) -> AsyncIterator[asyncio.Task[None]]:
    """Run something endless beside the test, and end it with the test."""

    async def body() -> None:
        await work

    task = asyncio.create_task(body())
    try:
        yield task
    finally:
        for _ in range(PATIENCE_SECONDS):  # as in Service: a cancellation may get lost
            task.cancel()
            if (await asyncio.wait([task], timeout=1))[0]:
                break
        assert task.done(), "The work did not end when it was cancelled."


async def dsn_of(stack: Stack, role: str, pool: Pool) -> str:
    """The address of the database that a pool is open on."""
    database = await pool.fetchval("SELECT current_database()")
    return urlunsplit(urlsplit(stack.endpoints.postgres.dsns[role])._replace(path=f"/{database}"))


@pytest.fixture(scope="session")
async def mortal(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """A stack for the tests that kill servers; each of them leaves all servers running."""
    async with Stack(tmp_path_factory.mktemp("mortal") / "state", services=(), restart=False) as stack:
        yield stack


@pytest.fixture(scope="session")
async def bao(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bao]:
    """For what no role of the stack may do: short tokens, deleting, sealing. Each test leaves it unsealed."""
    async with running_bao(tmp_path_factory.mktemp("bao")) as running:
        yield running
