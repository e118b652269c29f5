"""What each user of NATS can and cannot do, on a real server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats
import pytest
from nats.aio.client import Client

from devstack.stack import Stack
from shared.events import EVENTS
from shared.topology import CONSUMERS, SERVICES, STREAMS, Consumer, published_by, stream_of


class Connection:
    """A client and the permission errors that the server sent it."""

    def __init__(self, client: Client, errors: list[str]) -> None:
        self.client = client
        self.errors = errors

    async def is_denied(self, subject: str) -> bool:
        """Publish without waiting for an answer; the server says so at once when it refuses."""
        self.errors.clear()
        await self.client.publish(subject, b"{}")
        return await self._was_denied()

    async def is_deaf_to(self, subject: str) -> bool:
        self.errors.clear()
        await self.client.subscribe(subject)
        return await self._was_denied()

    async def _was_denied(self) -> bool:
        # The first PING overtakes what is still buffered; the second follows it.
        await self.client.flush()
        await self.client.flush()
        return any("permissions violation" in error.lower() for error in self.errors)


@asynccontextmanager
async def connected(stack: Stack, user: str, inbox: str | None = None) -> AsyncIterator[Connection]:
    errors: list[str] = []

    async def remember(error: Exception) -> None:
        errors.append(str(error))

    client = await nats.connect(
        stack.endpoints.nats.users[user].url,
        inbox_prefix=(inbox or f"_INBOX_{user}").encode(),
        allow_reconnect=False,
        error_cb=remember,
    )
    try:
        yield Connection(client, errors)
    finally:
        await client.close()


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_publishes_its_own_events_and_hears_that_they_are_stored(stack: Stack, service: str) -> None:
    async with connected(stack, service) as connection:
        for event in published_by(service):
            ack = await connection.client.jetstream().publish(event.SUBJECT, b"{}", timeout=30)
            assert ack.stream == stream_of(event.SUBJECT)


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_cannot_publish_the_events_of_others(stack: Stack, service: str) -> None:
    async with connected(stack, service) as connection:
        for event in EVENTS:
            if service not in event.PUBLISHERS:
                assert await connection.is_denied(event.SUBJECT), event.SUBJECT


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_hears_its_own_inbox_only(stack: Stack, service: str) -> None:
    async with connected(stack, service) as connection:
        assert not await connection.is_deaf_to(f"_INBOX_{service}.x.>")
        for subject in (">", "tenant.>", "connection.>", "_INBOX.>", "_INBOX_operator.>", "*.>"):
            assert await connection.is_deaf_to(subject), subject


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_hears_what_it_is_asked_and_nothing_that_others_are(stack: Stack, service: str) -> None:
    async with connected(stack, service) as connection:
        for subject in (f"{service}.x.y", "$SRV.PING", *(f"$SRV.STATS.{service}{rest}" for rest in ("", ".x"))):
            assert not await connection.is_deaf_to(subject), subject
        for other in {*SERVICES} - {service}:
            for subject in (f"{other}.>", f"{other}.status", f"$SRV.PING.{other}", f"$SRV.INFO.{other}.x"):
                assert await connection.is_deaf_to(subject), subject
        for subject in ("$SRV.>", "$SRV.PING.>", "$SRV.PING.*", "*.status"):
            assert await connection.is_deaf_to(subject), subject


@pytest.mark.parametrize("user", [*SERVICES, "product", "provisioner"])
async def test_nobody_but_an_operator_asks_a_service(stack: Stack, user: str) -> None:
    async with connected(stack, user) as connection:
        for service in SERVICES:
            for subject in (f"{service}.status", f"$SRV.PING.{service}", "$SRV.PING", "$SRV.STATS"):
                assert await connection.is_denied(subject), subject


async def test_a_service_answers_whoever_asked_it_once_and_nobody_else(stack: Stack) -> None:
    async with connected(stack, "operator", inbox="_INBOX") as operator, connected(stack, "poller") as poller:
        asked = await poller.client.subscribe("poller.status")
        await poller.client.flush()
        inbox = operator.client.new_inbox()
        answers = await operator.client.subscribe(inbox)
        await operator.client.flush()
        assert await poller.is_denied(inbox)
        await operator.client.publish("poller.status", b"{}", reply=inbox)
        request = await asked.next_msg(timeout=30)
        assert not await poller.is_denied(request.reply)
        assert (await answers.next_msg(timeout=30)).data == b"{}"
        assert await poller.is_denied(request.reply)
        assert await poller.is_denied(operator.client.new_inbox())


@pytest.mark.parametrize("consumer", CONSUMERS, ids=lambda consumer: consumer.durable)
async def test_a_service_pulls_acknowledges_and_buries_what_its_consumer_delivers(
    stack: Stack, consumer: Consumer
) -> None:
    async with connected(stack, "operator", inbox="_INBOX") as connection:
        await connection.client.jetstream().publish(consumer.event.SUBJECT, b"{}")
    async with connected(stack, consumer.service) as connection:
        js = connection.client.jetstream()
        pull = await js.pull_subscribe_bind(consumer.durable, consumer.stream, f"_INBOX_{consumer.service}.".encode())
        for message in await pull.fetch(1, timeout=30):
            await message.ack_sync(timeout=30)
        info = await js.consumer_info(consumer.stream, consumer.durable, timeout=30)
        assert info.ack_floor is not None
        assert info.ack_floor.stream_seq > 0
        await js.publish(consumer.dead_letter_subject, b"{}", timeout=30)
        assert connection.errors == []


async def test_a_service_cannot_touch_another_services_consumer(stack: Stack) -> None:
    async with connected(stack, "poller") as connection:
        for subject in (
            "$JS.API.CONSUMER.MSG.NEXT.CONNECTION.orders-start_backfill",
            "$JS.API.CONSUMER.DELETE.CONNECTION.poller-start_polling",
            "$JS.ACK.CONNECTION.orders-start_backfill.1.1.1.1.0",
            "dlq.CONNECTION.orders-start_backfill",
        ):
            assert await connection.is_denied(subject), subject


async def test_a_service_cannot_change_or_read_a_stream(stack: Stack) -> None:
    async with connected(stack, "orders") as connection:
        for action in ("CREATE", "UPDATE", "DELETE", "PURGE", "MSG.GET", "INFO"):
            assert await connection.is_denied(f"$JS.API.STREAM.{action}.TENANT"), action
        assert await connection.is_denied("$JS.API.DIRECT.GET.TENANT.tenant.created")


async def test_the_product_announces_tenants_and_nothing_else(stack: Stack) -> None:
    async with connected(stack, "product") as connection:
        for subject in ("tenant.created", "tenant.updated", "tenant.archived"):
            assert not await connection.is_denied(subject), subject
        for event in EVENTS:
            if "product" not in event.PUBLISHERS:
                assert await connection.is_denied(event.SUBJECT), event.SUBJECT
        for subject in ("tenant.renamed", "tenant.created.x", "dlq.TENANT.tenant-sync-sync_tenant"):
            assert await connection.is_denied(subject), subject


async def test_the_product_cannot_use_the_api_of_jetstream(stack: Stack) -> None:
    async with connected(stack, "product") as connection:
        for subject in (
            "$JS.API.INFO",
            *(f"$JS.API.STREAM.{action}.TENANT" for action in ("INFO", "UPDATE", "DELETE", "PURGE", "MSG.GET")),
            "$JS.API.CONSUMER.CREATE.TENANT",
            "$JS.API.CONSUMER.MSG.NEXT.TENANT.tenant-sync-sync_tenant",
            "$JS.API.DIRECT.GET.TENANT.tenant.created",
            "$JS.ACK.TENANT.tenant-sync-sync_tenant.1.1.1.1.0",
        ):
            assert await connection.is_denied(subject), subject


async def test_the_product_hears_that_its_events_are_stored_and_nothing_else(stack: Stack) -> None:
    async with connected(stack, "product") as connection:
        for event in published_by("product"):
            ack = await connection.client.jetstream().publish(event.SUBJECT, b"{}", timeout=30)
            assert ack.stream == "TENANT"
        for subject in (">", "tenant.>", "connection.>", "_INBOX.>", "_INBOX_tenant-sync.>"):
            assert await connection.is_deaf_to(subject), subject


async def test_the_provisioner_manages_streams_and_publishes_no_event(stack: Stack) -> None:
    async with connected(stack, "provisioner") as connection:
        streams = await connection.client.jetstream().streams_info()
        assert {info.config.name for info in streams} == {stream.name for stream in STREAMS}
        assert await connection.is_denied("tenant.created")
        assert await connection.is_deaf_to("tenant.>")


async def test_an_operator_with_the_plain_command_line_sees_everything(stack: Stack) -> None:
    async with connected(stack, "operator", inbox="_INBOX") as connection:
        assert not await connection.is_deaf_to(">")
        assert await connection.client.jetstream().stream_info("DLQ")


@pytest.mark.parametrize("credentials", ["{}", '{"user":"oauth","pass":"wrong"}', '{"user":"nobody","pass":"x"}'])
async def test_nobody_enters_without_a_users_password(stack: Stack, credentials: str) -> None:
    host, _, port = stack.endpoints.nats.url.removeprefix("nats://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(f"CONNECT {credentials}\r\nPING\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 30)
    finally:
        writer.close()
        await writer.wait_closed()
    assert b"-ERR 'Authorization Violation'" in answer
    assert b"PONG" not in answer
