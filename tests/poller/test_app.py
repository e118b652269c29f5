"""`poller --once`, the process that a CronJob runs, on a database of the test's own and the stack's NATS."""

import asyncio
import json
import os
import sys
from urllib.parse import urlsplit, urlunsplit

import httpx
import nats
from nats.js.api import DeliverPolicy

from devstack.services import environment
from devstack.stack import Stack
from poller import queries, ticket_queries
from poller.settings import PollerSettings
from shared.amazon.spapi import SpApi
from shared.db import Pool
from shared.vault import Vault
from tests.builders import Amazon, new_id, oauth_vault, settings_of
from tests.conftest import OpenPool
from tests.poller.conftest import make_due, schedule


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
        events = [await subscription.next_msg(timeout=30) for _ in range(3)]
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


async def test_once_leaves_what_becomes_due_meanwhile(stack: Stack, pool: Pool, pool_of: OpenPool) -> None:
    owner = await pool_of("poller_owner")
    await owner.execute(
        "CREATE FUNCTION due_again() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN new.next_due = clock_timestamp(); RETURN new; END $$;"
        " CREATE TRIGGER due_again BEFORE UPDATE OF last_success_at ON poll_schedules FOR EACH ROW"
        " EXECUTE FUNCTION due_again()"
    )
    await schedule(pool, new_id())
    code, said = await once(stack, pool)
    assert (code, said.count("poll_completed")) == (0, 1), said


async def test_once_brings_what_buyers_wrote_to_a_stand_in_and_says_that_it_is_one(stack: Stack, pool: Pool) -> None:
    tenant_id = new_id()
    settings = settings_of(PollerSettings, stack, "poller")
    async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
        amazon = Amazon(stack, http)
        seller_id = await amazon.seller(1, days=1)
        [order] = await amazon.orders_of(seller_id)
        path = f"sellers/{seller_id}/orders/{order['orderId']}/messages"
        external_id = (await amazon.control("POST", path, {"body": "Where is my parcel?"}))["messageId"]
        api = SpApi(settings, Vault(settings), http, gate=None)
        await amazon.authorize(api, oauth_vault(stack), tenant_id, seller_id)
    await schedule(pool, tenant_id)
    connection = await nats.connect(stack.endpoints.nats.users["operator"].url)
    try:
        subscription = await connection.jetstream().subscribe(
            "message.received", ordered_consumer=True, deliver_policy=DeliverPolicy.NEW
        )
        for _ in range(2):
            code, said = await once(stack, pool, AMAZON_USE_MOCK="false", AMAZON_READ_MESSAGES="true")
            assert code == 0, said
            assert said.count("messages_are_read_from_a_stand_in") == 1
            assert "Where is my parcel" not in said
            await make_due(pool)
        published = await pool.fetchval("SELECT count(*) FROM outbox")
        events = [json.loads((await subscription.next_msg(timeout=30)).data) for _ in range(published)]
        [received] = [event for event in events if event["externalId"] == external_id]
        assert (received["externalOrderId"], received["source"]) == (order["orderId"], "spapi")
    finally:
        await connection.close()


async def test_once_without_a_source_of_messages_says_why_and_fails(stack: Stack, pool: Pool) -> None:
    code, said = await once(stack, pool, AMAZON_USE_MOCK="false", MAILBOXES="")
    assert code == 1
    assert "AMAZON_USE_MOCK" in said
    assert "no source of messages" in said
    assert "Traceback" not in said


async def test_once_without_its_database_names_the_variable_and_fails(stack: Stack, pool: Pool) -> None:
    code, said = await once(stack, pool, DATABASE_URL="postgresql://poller:wrong@127.0.0.1:1/keybuzz_backend")
    assert code == 1
    assert "DATABASE_URL" in said
    assert "Traceback" not in said
    assert "wrong" not in said
