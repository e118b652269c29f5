"""`poller --once`, the process that a CronJob runs, on a database of the test's own and the stack's NATS."""

import asyncio
import os
import sys
from urllib.parse import urlsplit, urlunsplit

import nats
from nats.js.api import DeliverPolicy

from devstack.services import environment
from devstack.stack import Stack
from poller import queries, ticket_queries
from shared.db import Pool
from tests.builders import new_id
from tests.poller.conftest import schedule


async def once(stack: Stack, pool: Pool, **variables: str) -> tuple[int, str]:
    """Its exit status, and all that it said."""
    database = await pool.fetchval("SELECT current_database()")
    dsn = urlsplit(stack.endpoints.postgres.dsns["poller"])
    variables = {"DATABASE_URL": urlunsplit(dsn._replace(path=f"/{database}"))} | variables
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "poller.app", "--once"),
        env={"PATH": os.environ["PATH"]} | environment("poller", stack.endpoints, stack._ports) | variables,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(30):
        said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_once_polls_what_is_due_publishes_it_and_ends(stack: Stack, pool: Pool) -> None:
    due, not_due = new_id(), new_id()
    await schedule(pool, due)
    await schedule(pool, not_due)
    await pool.execute(
        "UPDATE poll_schedules SET next_due = clock_timestamp() + interval '1 h' WHERE tenant_id = $1", not_due
    )
    connection = await nats.connect(stack.endpoints.nats.users["operator"].url)
    try:
        subscription = await connection.jetstream().subscribe(
            "message.received", ordered_consumer=True, deliver_policy=DeliverPolicy.NEW
        )
        code, said = await once(stack, pool)
        assert code == 0, said
        events = [await subscription.next_msg(timeout=5) for _ in range(3)]
        assert all(due in event.data.decode() for event in events)
        assert {event.headers["ce-type"] for event in events if event.headers} == {"message.received"}
        assert len({event.headers["Nats-Msg-Id"] for event in events if event.headers}) == 3
    finally:
        await connection.close()
    assert await pool.fetchval("SELECT count(*) FROM outbox WHERE published_at IS NULL") == 0
    assert len(await ticket_queries.list_tickets(pool, due, limit=10, before=None)) == 3
    assert await ticket_queries.list_tickets(pool, not_due, limit=10, before=None) == []
    [polled] = await queries.list_schedules(pool, due)
    assert (polled.running, polled.last_success_at is not None) == (False, True)
    for fact in ("poll_starting", "poll_fetched", "poll_completed"):
        assert fact in said
    assert "Bonjour" not in said
    assert "buyer-1" not in said

    code, said = await once(stack, pool)
    assert (code, "poll_starting" in said) == (0, False), said


async def test_once_without_a_source_of_messages_says_why_and_fails(stack: Stack, pool: Pool) -> None:
    code, said = await once(stack, pool, AMAZON_USE_MOCK="false", MAILBOXES="")
    assert code == 1
    assert "AMAZON_USE_MOCK" in said
    assert "the only source" in said
    assert "Traceback" not in said


async def test_once_without_its_database_names_the_variable_and_fails(stack: Stack, pool: Pool) -> None:
    code, said = await once(stack, pool, DATABASE_URL="postgresql://poller:wrong@127.0.0.1:1/keybuzz_backend")
    assert code == 1
    assert "DATABASE_URL" in said
    assert "Traceback" not in said
    assert "wrong" not in said
