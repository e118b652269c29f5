"""The stack as a whole: what it leaves in its folder, what survives, and that nothing is left running."""

import asyncio
import contextlib
import os
import signal
import stat
import sys
import time
from pathlib import Path

import asyncpg
import jwt
import nats
import psutil
import pytest

from devstack import endpoints
from devstack.errors import StackError
from devstack.stack import Stack


def test_endpoints_are_private_and_complete(stack: Stack) -> None:
    file = stack.folder / "endpoints.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(stack.folder.stat().st_mode) == 0o700
    assert endpoints.read(stack.folder) == stack.endpoints
    for secret in ("secrets.json", "openbao/seal.key", "openbao/tls/key.pem"):
        assert stat.S_IMODE((stack.folder / secret).stat().st_mode) == 0o600


def test_tokens_name_a_tenant_and_a_role(stack: Stack) -> None:
    tokens = stack.endpoints.tokens
    claims = jwt.decode(tokens.tenants["kbz-003"], tokens.jwt_secret, algorithms=["HS256"])
    assert (claims["tenantId"], claims["role"]) == ("kbz-003", "agent")
    assert claims["exp"] > time.time() + 364 * 86_400
    admin = jwt.decode(tokens.admin, tokens.jwt_secret, algorithms=["HS256"])
    assert (admin["role"], "tenantId" in admin) == ("admin", False)


def test_every_server_listens_on_loopback_only(stack: Stack) -> None:
    for name in ("nats", "postgres", "openbao", "sandbox"):
        listening = [
            connection.laddr.ip
            for connection in psutil.Process(stack.pid(name)).net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert listening, name
        assert set(listening) == {"127.0.0.1"}, name


def test_no_process_has_more_of_our_environment_than_it_needs(stack: Stack) -> None:
    for name in ("nats", "postgres", "openbao", "sandbox"):
        inherited = {
            variable
            for variable in psutil.Process(stack.pid(name)).environ()
            if not variable.startswith(("NATS_", "BAO_", "SANDBOX_"))
            and not variable.endswith(("_ROLE_ID", "_SECRET_ID"))
        }
        # PWD is unshare's or PostgreSQL's own doing.
        assert inherited <= {"PATH", "HOME", "LANG", "SSL_CERT_FILE", "PWD", "PGLOCALEDIR", "PG_GRANDPARENT_PID"}


def test_it_says_how_much_memory_each_process_holds(stack: Stack) -> None:
    memory = stack.rss_megabytes()
    assert set(memory) >= {"nats", "postgres", "openbao", "sandbox"}
    if sys.platform == "linux":
        assert all(megabytes is not None and megabytes > 5 for megabytes in memory.values())


async def test_the_same_folder_is_refused_twice(stack: Stack) -> None:
    with pytest.raises(StackError, match=f"process {os.getpid()}.*already runs on"):
        async with Stack(stack.folder, services=()):
            pass
    assert endpoints.read(stack.folder) == stack.endpoints


async def test_two_stacks_run_side_by_side_and_a_restart_keeps_everything(stack: Stack, tmp_path: Path) -> None:
    async with Stack(tmp_path / "other", services=()) as other:
        before = other.endpoints
        assert before.nats.url != stack.endpoints.nats.url
        assert before.postgres.port != stack.endpoints.postgres.port
        assert before.vault.addr != stack.endpoints.vault.addr
        assert before.tokens.internal_key != stack.endpoints.tokens.internal_key
        client = await nats.connect(before.nats.users["operator"].url)
        await client.jetstream().publish("tenant.created", b'{"tenantId":"kbz-001"}')
        await client.close()
        product = await asyncpg.connect(before.postgres.dsns["product"])
        await product.execute("DELETE FROM tenants WHERE id = 'kbz-004'")
        await product.execute("UPDATE tenants SET plan = 'business' WHERE id = 'kbz-001'")
        await product.close()
    assert not (tmp_path / "other" / "endpoints.json").exists()

    async with Stack(tmp_path / "other", services=()) as again:
        after = again.endpoints
        assert (after.nats, after.postgres, after.vault, after.amazon) == (
            before.nats,
            before.postgres,
            before.vault,
            before.amazon,
        )
        assert after.tokens.jwt_secret == before.tokens.jwt_secret
        client = await nats.connect(after.nats.users["operator"].url)
        assert (await client.jetstream().stream_info("TENANT")).state.messages == 1
        await client.close()
        product = await asyncpg.connect(after.postgres.dsns["product"])
        rows = await product.fetch("SELECT id, plan FROM tenants")
        await product.close()
        plans = {row["id"]: row["plan"] for row in rows}
        assert (plans["kbz-001"], "kbz-004" in plans, len(plans)) == ("business", False, 5)

        # Servers come back after a crash that a test asked for.
        for name in ("nats", "openbao", "postgres"):
            await again.kill(name)
            await again.start(name)


async def _up(folder: Path) -> asyncio.subprocess.Process:
    """`python -m devstack up`, as a person starts it, until it is ready."""
    endpoints.remove(folder)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "devstack", "up", "--no-services", "--state", str(folder)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(30):
            while not (folder / "endpoints.json").exists():
                assert process.returncode is None
                await asyncio.sleep(0.05)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        raise
    return process


def _alive(processes: list[psutil.Process]) -> list[str]:
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {process.name()}")
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with a killed parent")
async def test_nothing_is_left_when_the_supervisor_is_killed_or_interrupted(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    for signal_ in (signal.SIGKILL, signal.SIGINT):
        supervisor = await _up(folder)
        processes = psutil.Process(supervisor.pid).children(recursive=True)
        supervisor.send_signal(signal_)
        assert await supervisor.wait() == (0 if signal_ is signal.SIGINT else -signal.SIGKILL)
        assert len(processes) >= 4
        await asyncio.to_thread(psutil.wait_procs, processes, timeout=10)
        assert _alive(processes) == []
