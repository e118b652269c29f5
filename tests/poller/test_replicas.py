"""Pollers as processes on one database: what one leaves in hand when it dies, or sleeps, the other one does, once."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest

from devstack.services import environment
from devstack.stack import Stack
from shared.db import Pool
from tests.conftest import OpenPool, Told
from tests.poller.conftest import equals, eventually, returns, schedule

TENANTS = 20
SEEN = """
CREATE TABLE seen (tenant_id text, token bigint, at timestamptz, free_at timestamptz);
CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO seen VALUES (new.tenant_id, new.lease_token, clock_timestamp(), old.leased_until);
    RETURN NULL;
END $$;
CREATE TRIGGER see AFTER UPDATE ON poll_schedules FOR EACH ROW WHEN (new.lease_token > old.lease_token)
    EXECUTE FUNCTION see();
"""
Start = Callable[[str], Coroutine[Any, Any, Process]]


@pytest.fixture
async def start(stack: Stack, pool: Pool, tmp_path: Path) -> AsyncIterator[Start]:
    """Start a poller on the test's own database; its log is of its name."""
    database = await pool.fetchval("SELECT current_database()")
    dsn = urlsplit(stack.endpoints.postgres.dsns["poller"])._replace(path=f"/{database}")
    variables = {"DATABASE_URL": urlunsplit(dsn), "PORT": "0"}
    processes: list[Process] = []

    async def start_one(name: str) -> Process:
        with (tmp_path / name).open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "poller.app"),
                env={"PATH": os.environ["PATH"]} | environment("poller", stack.endpoints, stack._ports) | variables,
                stdout=log,
                stderr=log,
            )
        processes.append(process)
        return process

    yield start_one
    for process in processes:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM])
async def test_what_one_replica_leaves_in_hand_the_other_does_once(
    pool: Pool, pool_of: OpenPool, start: Start, told: Told, tmp_path: Path, end: signal.Signals
) -> None:
    """One dies, is frozen and wakes up, or is stopped, with all leases in hand. Who wakes up has lost them, or its
    statements have taken too long.
    """
    said = tmp_path / "one"
    owner = await pool_of("poller_owner")
    await owner.execute(SEEN)
    for number in range(TENANTS):
        await schedule(pool, f"kbz-{number}")

    async def count(condition: str) -> int:
        found: int = await pool.fetchval(f"SELECT count(*) FROM poll_schedules WHERE {condition}")  # noqa: S608 - ours
        return found

    async with owner.acquire() as conn:
        locked = conn.transaction()
        await locked.start()
        await conn.execute("LOCK TABLE external_messages IN ACCESS EXCLUSIVE MODE")  # so that no poll can end
        one = await start("one")
        await eventually(lambda: returns(said.read_text().count("poll_starting") == TENANTS))
        await eventually(lambda: returns('"started"' in said.read_text()))  # who is frozen before that gives up
        assert await count("lease_token = 1 AND leased_until IS NOT NULL") == TENANTS
        one.send_signal(end)
        if end is not signal.SIGSTOP:
            await one.wait()
        await locked.rollback()
    assert await count("last_success_at IS NOT NULL") == 0
    await start("two")
    await eventually(lambda: equals(count("last_success_at IS NOT NULL"), TENANTS))
    before = await pool.fetch("SELECT * FROM poll_schedules ORDER BY tenant_id")
    if end is signal.SIGSTOP:
        one.send_signal(signal.SIGCONT)
        await eventually(lambda: returns("poll_failed" in said.read_text()))
        one.terminate()  # what it had in hand is over then
        await one.wait()
    assert await pool.fetch("SELECT * FROM poll_schedules ORDER BY tenant_id") == before
    assert len(await told(pool)) == 3 * TENANTS
    claims = await owner.fetch("SELECT * FROM seen ORDER BY token")
    assert [row["token"] for row in claims] == [1] * TENANTS + [2] * TENANTS
    for row in claims[TENANTS:]:
        if end is signal.SIGTERM:
            assert row["free_at"] is None, "the lease was given back"
        else:
            assert row["free_at"] <= row["at"], "nobody takes what is somebody's"
