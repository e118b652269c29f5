"""Real servers for every test: one stack without services per run, and for each test databases of its own, cloned
from the migrated ones and used with the roles that the services have.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import msgspec
import pytest

from devstack.stack import Stack
from shared.db import Pool, open_pool
from shared.outbox import Outbox
from tests.builders import draws

OpenPool = Callable[[str], Awaitable[Pool]]


def pytest_configure() -> None:
    """The same draws in each run of CI, as hypothesis does it; elsewhere other ones, or those of a run that failed."""
    os.environ.setdefault("TEST_SEED", "0" if "CI" in os.environ else f"{Random().getrandbits(32)}")  # noqa: S311


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if {"failed", "error"} & {*terminalreporter.stats}:
        terminalreporter.write_line(f"To have the same ids and orders again: TEST_SEED={os.environ['TEST_SEED']}")


@pytest.fixture(autouse=True)
def _draws(request: pytest.FixtureRequest) -> None:
    draws.seed(f"{os.environ['TEST_SEED']} {request.node.nodeid}")


@asynccontextmanager
async def servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """NATS, PostgreSQL, OpenBao and the sandbox, provisioned and migrated; no service runs."""
    folder: Path = tmp_path_factory.mktemp("stack") / "state"
    async with Stack(folder, services=()) as running:
        admin = await asyncpg.connect(running.endpoints.postgres.dsns["admin"])
        # Databases come and go with every test, and each waits for the disk otherwise: nothing here outlives the run.
        await admin.execute("ALTER SYSTEM SET fsync = off")
        await admin.execute("SELECT pg_reload_conf()")
        await admin.close()
        yield running


@pytest.fixture(scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """The servers that tests share."""
    async with servers(tmp_path_factory) as running:
        yield running


@pytest.fixture
async def pool_of(stack: Stack) -> AsyncIterator[OpenPool]:
    """Opens a pool as a role (orders, product, product_reader, …) on this test's own databases."""
    admin = await asyncpg.connect(stack.endpoints.postgres.dsns["admin"])
    clones: dict[str, str] = {}
    pools: list[Pool] = []

    async def open_as(role: str) -> Pool:
        parts = urlsplit(stack.endpoints.postgres.dsns[role])
        source = parts.path.removeprefix("/")
        if source not in clones:
            clones[source] = f"test_{uuid4().hex}"
            await admin.execute(f'CREATE DATABASE "{clones[source]}" TEMPLATE "{source}"')
        pool = await open_pool(urlunsplit(parts._replace(path=f"/{clones[source]}")), role, size=10)
        pools.append(pool)
        return pool

    yield open_as
    for pool in pools:
        await pool.close()
    for clone in clones.values():
        await admin.execute(f'DROP DATABASE "{clone}" WITH (FORCE)')
    await admin.close()


@pytest.fixture
def outbox(stack: Stack) -> Outbox:
    """For handlers that only add to it: no relay runs, told() reads what they added."""
    return Outbox("test", stack.endpoints.postgres.dsns["admin"])


Told = Callable[[Pool], Awaitable[list[tuple[str, dict[str, Any]]]]]


@pytest.fixture
def told() -> Told:
    """The events in a service's outbox, in their order: subject and body."""

    async def read(pool: Pool) -> list[tuple[str, dict[str, Any]]]:
        rows = await pool.fetch("SELECT subject, payload FROM outbox ORDER BY seq")
        return [(row["subject"], msgspec.json.decode(row["payload"])) for row in rows]

    return read
