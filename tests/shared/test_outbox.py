"""What is committed reaches its stream once and in order, whatever dies on the way."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import pytest
from nats.aio.client import Client

from devstack.stack import Stack
from shared import outbox as outbox_
from shared.db import Pool, open_pool
from shared.events import OrderStored, StoreCause
from shared.outbox import Outbox
from tests.conftest import OpenPool
from tests.shared.conftest import Recorded, Recording, dsn_of, nats_as, running, until


def stored(number: int, tenant_id: str = "kbz-001") -> OrderStored:
    """An event that a number can be read from."""
    return OrderStored(
        tenant_id=tenant_id,
        marketplace="AMAZON",
        order_id=uuid4(),
        external_order_id=f"{number}",
        order_status="SHIPPED",
        is_new=True,
        cause=StoreCause.DELTA,
    )


def numbers(messages: list[Recorded]) -> list[int]:
    return [int(message.body["externalOrderId"]) for message in messages]


async def add(pool: Pool, outbox: Outbox, *events: OrderStored, key: str | None = None) -> None:
    async with pool.acquire() as conn, conn.transaction():
        await outbox.add(conn, *events, key=key)


def drained(pool: Pool, outbox: Outbox) -> Callable[[], Awaitable[bool]]:
    async def nothing_waits() -> bool:
        return await outbox.unpublished(pool) == 0

    return nothing_waits


async def publish_all(pool: Pool, outbox: Outbox, client: Client) -> None:
    async with running(outbox.run(client)):
        await until(drained(pool, outbox))


@pytest.fixture
async def pool(pool_of: OpenPool) -> Pool:
    return await pool_of("orders")


@pytest.fixture
async def relay(stack: Stack, pool: Pool) -> Outbox:
    return Outbox("orders", await dsn_of(stack, "orders", pool))


@pytest.fixture
async def recording(operator: Client) -> Recording:
    return await Recording.begin(operator, "ORDER")


async def test_an_event_arrives_with_its_cloudevents_headers(
    stack: Stack, pool: Pool, relay: Outbox, recording: Recording
) -> None:
    event = stored(1)
    await add(pool, relay, event)
    async with nats_as(stack, "orders") as client:
        await publish_all(pool, relay, client)
    (message,) = await recording.messages()
    row = await pool.fetchrow("SELECT id, created_at, published_at FROM outbox")
    assert row is not None
    assert message.subject == "order.stored"
    assert message.body["orderId"] == str(event.order_id)
    assert message.headers["ce-id"] == message.headers["Nats-Msg-Id"] == str(row["id"])
    assert UUID(message.headers["ce-id"]).version == 7
    assert message.headers["ce-type"] == "order.stored"
    assert message.headers["ce-source"] == "/keybuzz/orders"
    assert message.headers["ce-specversion"] == "1.0"
    assert message.headers["Content-Type"] == "application/json"
    assert message.headers["ce-time"].endswith("Z")
    assert datetime.fromisoformat(message.headers["ce-time"]) == row["created_at"]
    assert row["published_at"] is not None


@pytest.mark.parametrize("count", [3, 30], ids=["singly", "as a batch"])
async def test_events_arrive_in_the_order_in_which_they_were_committed(
    stack: Stack, pool: Pool, relay: Outbox, recording: Recording, count: int
) -> None:
    await add(pool, relay, *(stored(number) for number in range(count)))
    await add(pool, relay, stored(count), stored(count + 1))
    async with nats_as(stack, "orders") as client:
        await publish_all(pool, relay, client)
    assert numbers(await recording.messages()) == list(range(count + 2))


async def test_what_is_rolled_back_is_not_published(
    stack: Stack, pool: Pool, relay: Outbox, recording: Recording
) -> None:
    async with pool.acquire() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await relay.add(conn, stored(1))
        await transaction.rollback()
    await add(pool, relay, stored(2))
    async with nats_as(stack, "orders") as client:
        await publish_all(pool, relay, client)
    assert numbers(await recording.messages()) == [2]


async def test_an_event_that_is_added_while_the_relay_idles_is_published(
    stack: Stack, pool: Pool, relay: Outbox, recording: Recording
) -> None:
    async with nats_as(stack, "orders") as client, running(relay.run(client)):
        for number in range(3):
            await add(pool, relay, stored(number))
            await until(drained(pool, relay))
        # From another process: nobody wakes this relay.
        await add(pool, Outbox("orders", "unused"), stored(3))
        await until(drained(pool, relay))
    assert numbers(await recording.messages()) == [0, 1, 2, 3]


async def test_the_order_of_each_key_is_kept_when_messages_go_one_by_one(
    stack: Stack, pool: Pool, relay: Outbox, recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_, "BATCH_FROM", 10_000)
    for number in range(60):
        await add(pool, relay, stored(number), key=f"order {number % 4}")
    async with nats_as(stack, "orders") as client:
        await publish_all(pool, relay, client)
    found = numbers(await recording.messages())
    assert sorted(found) == list(range(60))
    for key in range(4):
        of_key = [number for number in found if number % 4 == key]
        assert of_key == sorted(of_key)


async def test_a_large_backlog_goes_in_atomic_batches_and_is_stored_once(
    stack: Stack, pool: Pool, relay: Outbox, recording: Recording
) -> None:
    await add(pool, relay, *(stored(number) for number in range(2_000)))
    async with nats_as(stack, "orders") as client:
        await publish_all(pool, relay, client)
    messages = await recording.messages()
    assert numbers(messages) == list(range(2_000))
    assert all("Nats-Batch-Id" in message.headers for message in messages)
    assert len({message.headers["Nats-Batch-Id"] for message in messages}) == 2_000 / outbox_.BATCH_ROWS


async def test_what_was_published_but_not_marked_is_not_stored_twice(
    stack: Stack, pool: Pool, relay: Outbox, recording: Recording
) -> None:
    await add(pool, relay, *(stored(number) for number in range(3)))
    async with nats_as(stack, "orders") as client:
        await publish_all(pool, relay, client)
        await pool.execute("UPDATE outbox SET published_at = NULL")  # as if the relay had died before the mark
        await publish_all(pool, relay, client)
    assert numbers(await recording.messages()) == [0, 1, 2]


@pytest.mark.parametrize("repeated", ["= 1", "= 15", "= 20", "<= 20"], ids=["first", "inner", "last", "all"])
async def test_a_batch_with_a_message_that_the_stream_has_loses_nothing_and_doubles_nothing(
    stack: Stack, pool: Pool, relay: Outbox, recording: Recording, repeated: str
) -> None:
    await add(pool, relay, *(stored(number) for number in range(1, 21)))
    async with nats_as(stack, "orders") as client:
        await publish_all(pool, relay, client)
        await pool.execute(f"UPDATE outbox SET published_at = NULL WHERE seq {repeated}")  # noqa: S608 - constants
        await add(pool, relay, *(stored(number) for number in range(21, 41)))
        await publish_all(pool, relay, client)
    assert numbers(await recording.messages()) == list(range(1, 41))


@pytest.mark.parametrize("size", [2_000_000, (1 << 20) - 100], ids=["by far", "only with its headers"])
async def test_an_event_that_is_too_large_for_the_server_holds_up_its_own_key_only(
    stack: Stack, pool: Pool, relay: Outbox, recording: Recording, size: int
) -> None:
    await add(pool, relay, stored(0), stored(1), key="a")
    await pool.execute(
        "UPDATE outbox SET payload = convert_to(rpad('{', $1), 'UTF8') WHERE seq = (SELECT min(seq) FROM outbox)", size
    )
    await add(pool, relay, *(stored(number) for number in range(2, 22)), key="b")

    async def only_the_first_key_waits() -> bool:
        return await relay.unpublished(pool) == 2

    async with nats_as(stack, "orders") as client, running(relay.run(client)):
        await until(only_the_first_key_waits)
    assert numbers(await recording.messages()) == list(range(2, 22))


async def test_a_relay_whose_database_connection_is_cut_comes_back(
    stack: Stack, pool: Pool, relay: Outbox, recording: Recording
) -> None:
    async def leads() -> bool:
        return relay.leading

    async with nats_as(stack, "orders") as client, running(relay.run(client)):
        await add(pool, relay, stored(0))
        await until(drained(pool, relay))
        ended = await pool.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE application_name = 'orders relay' AND datname = current_database()"
        )
        assert ended == 1
        await add(pool, relay, stored(1))
        await until(drained(pool, relay))
        await until(leads)
    assert numbers(await recording.messages()) == [0, 1]


async def test_one_of_two_relays_leads_and_the_other_takes_over(
    stack: Stack, pool: Pool, relay: Outbox, recording: Recording
) -> None:
    other = Outbox("orders", await dsn_of(stack, "orders", pool))

    async def first_leads() -> bool:
        return relay.leading

    async def other_leads() -> bool:
        return other.leading

    async with nats_as(stack, "orders") as client, running(relay.run(client)) as first:
        await until(first_leads)
        async with running(other.run(client)):
            await add(pool, relay, *(stored(number) for number in range(20)))
            await until(drained(pool, relay))
            assert not other.leading
            first.cancel()
            await until(other_leads)
            assert not relay.leading
            await add(pool, other, *(stored(number) for number in range(20, 40)))
            await until(drained(pool, other))
    assert numbers(await recording.messages()) == list(range(40))


async def test_pruning_keeps_what_is_recent_and_what_was_never_published(pool: Pool, relay: Outbox) -> None:
    now = datetime.now(UTC)
    await add(pool, relay, *(stored(number) for number in range(4)))
    ages: dict[int, timedelta | None] = {
        0: timedelta(days=outbox_.KEEP_DAYS, seconds=1),
        1: timedelta(days=outbox_.KEEP_DAYS, seconds=-60),
        2: None,
        3: timedelta(),
    }
    rows = await pool.fetch("SELECT seq FROM outbox ORDER BY seq")
    for row, age in zip(rows, ages.values(), strict=True):
        await pool.execute(
            "UPDATE outbox SET published_at = $2, created_at = $3 WHERE seq = $1",
            row["seq"],
            None if age is None else now - age,
            now - timedelta(days=365),
        )
    for name, days in (("old", outbox_.INBOX_KEEP_DAYS + 1), ("recent", outbox_.INBOX_KEEP_DAYS - 1)):
        await pool.execute(
            "INSERT INTO inbox (handler, event_id, claimed_at) VALUES ('h', $1, $2)", name, now - timedelta(days=days)
        )
    async with pool.acquire() as conn:
        await outbox_.prune(conn, now)
    kept: list[Any] = await pool.fetch("SELECT seq FROM outbox ORDER BY seq")
    assert [row["seq"] for row in kept] == [row["seq"] for row in rows[1:]]
    assert await pool.fetchval("SELECT array_agg(event_id) FROM inbox") == ["recent"]


async def test_while_nats_is_away_events_wait_and_then_arrive_in_order(mortal: Stack) -> None:
    url = mortal.endpoints.postgres.dsns["orders"]
    pool = await open_pool(url, "orders", size=3)
    relay = Outbox("orders", url)
    try:
        async with nats_as(mortal, "orders") as client, nats_as(mortal, "operator") as operator:
            recording = await Recording.begin(operator, "ORDER")
            async with running(relay.run(client)) as task:
                await add(pool, relay, *(stored(number) for number in range(3)))
                await until(drained(pool, relay))
                await mortal.kill("nats")
                for number in range(3, 40):
                    await add(pool, relay, stored(number), key=f"order {number % 3}")
                await asyncio.sleep(0.3)
                assert await relay.unpublished(pool) == 37
                await mortal.start("nats")
                await until(drained(pool, relay))
                assert not task.done()
            found = numbers(await recording.messages())
    finally:
        await pool.execute("DELETE FROM outbox")
        await pool.close()
    assert sorted(found) == list(range(40))
    for key in range(3):
        of_key = [number for number in found if number % 3 == key]
        assert of_key == sorted(of_key)


async def test_a_relay_that_the_database_refuses_waits(stack: Stack, pool: Pool) -> None:
    parts = urlsplit(await dsn_of(stack, "orders", pool))
    wrong = urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", ":wrong@")))
    relay = Outbox("orders", wrong)
    await add(pool, relay, stored(1))
    async with nats_as(stack, "orders") as client, running(relay.run(client)) as task:
        await asyncio.sleep(0.2)
        assert not task.done()
        assert not relay.leading
    assert await relay.unpublished(pool) == 1


async def test_a_relay_that_is_cancelled_ends_though_its_database_does_not_answer(
    stack: Stack, pool: Pool, relay: Outbox
) -> None:
    async def leads() -> bool:
        return relay.leading

    async with nats_as(stack, "orders") as client, running(relay.run(client)) as task:
        await until(leads)
        backend = await pool.fetchval(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'orders relay' AND datname = current_database()"
        )
        os.kill(backend, signal.SIGSTOP)
        try:
            await asyncio.sleep(2 * outbox_.IDLE_SECONDS)  # it asks, and waits for the answer
            task.cancel()

            async def ended() -> bool:
                return task.done()

            await until(ended)
        finally:
            os.kill(backend, signal.SIGCONT)
    assert task.cancelled()
