"""The job that makes the streams and consumers, on a real server."""

import asyncio
import sys
from typing import Any

import pytest
from nats.aio.client import Client

from devstack.stack import Stack
from shared.provision import consumer_config, drift, provision, stream_config
from shared.topology import CONSUMERS, STREAMS, consumer_of
from tests.shared.conftest import Recording, nats_as

TENANT = next(stream for stream in STREAMS if stream.name == "TENANT")


def url_of(stack: Stack) -> str:
    return stack.endpoints.nats.users["provisioner"].url


async def as_the_server_has_it(client: Client) -> dict[str, Any]:
    js = client.jetstream()
    found: dict[str, Any] = {}
    for stream in STREAMS:
        config = (await js.stream_info(stream.name)).config
        found[stream.name] = (
            *(config.subjects, config.max_age, config.max_bytes, config.duplicate_window, config.discard),
            *(config.storage, config.retention, config.num_replicas, config.allow_atomic),
        )
    for consumer in CONSUMERS:
        found[consumer.durable] = drift(consumer, (await js.consumer_info(consumer.stream, consumer.durable)).config)
    return found


async def test_a_run_makes_what_the_topology_says_and_another_changes_nothing(
    stack: Stack, provisioner: Client
) -> None:
    await provision(url_of(stack))
    found = await as_the_server_has_it(provisioner)
    for stream in STREAMS:
        wanted = stream_config(stream)
        assert found[stream.name] == (
            *(wanted.subjects, wanted.max_age, wanted.max_bytes, wanted.duplicate_window, wanted.discard),
            *(wanted.storage, wanted.retention, wanted.num_replicas, wanted.allow_atomic),
        )
    for consumer in CONSUMERS:
        assert found[consumer.durable] == []
    await provision(url_of(stack))
    assert await as_the_server_has_it(provisioner) == found


async def test_two_runs_at_once_do_no_harm(stack: Stack, provisioner: Client) -> None:
    before = await as_the_server_has_it(provisioner)
    await asyncio.gather(provision(url_of(stack)), provision(url_of(stack)))
    assert await as_the_server_has_it(provisioner) == before


async def test_a_stream_or_consumer_that_is_gone_is_made_again(stack: Stack, provisioner: Client) -> None:
    js = provisioner.jetstream()
    before = await as_the_server_has_it(provisioner)
    await js.delete_stream("TENANT")
    await js.delete_consumer("MESSAGE", "orders-fetch_missing_order")
    await provision(url_of(stack))
    assert await as_the_server_has_it(provisioner) == before


async def test_what_was_changed_is_brought_back_and_no_message_is_lost(
    stack: Stack, provisioner: Client, operator: Client
) -> None:
    js = provisioner.jetstream()
    recording = await Recording.begin(operator, "TENANT")
    async with nats_as(stack, "product") as product:
        for number in range(5):
            await product.jetstream().publish("tenant.created", b'{"tenantId":"kbz-%d"}' % number)
    consumer = consumer_of("tenant-sync", "sync_tenant")
    changed = consumer_config(consumer).evolve(ack_wait=99, max_ack_pending=1, max_deliver=2)
    await js.add_consumer("TENANT", changed)
    await js.update_stream(stream_config(TENANT).evolve(max_age=86_400, subjects=["tenant.>", "other.>"]))
    held = (await js.consumer_info("TENANT", consumer.durable)).num_pending

    actual = (await js.consumer_info("TENANT", consumer.durable)).config
    assert drift(consumer, actual) == [
        "ack_wait is 99.0, expected 10",
        "max_deliver is 2, expected 200",
        "max_ack_pending is 1, expected 256",
    ]

    await provision(url_of(stack))
    info = await js.consumer_info("TENANT", consumer.durable)
    config = (await js.stream_info("TENANT")).config
    assert drift(consumer, info.config) == []
    assert info.num_pending == held
    assert (config.subjects, config.max_age) == (["tenant.>"], TENANT.max_age_seconds)
    assert [message.body for message in await recording.messages()] == [{"tenantId": f"kbz-{n}"} for n in range(5)]


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, "NATS_URL is missing"),
        ({"NATS_URL": ""}, "NATS_URL is missing"),
        ({"NATS_URL": "nats://provisioner:secretpart@127.0.0.1:1"}, "NATS"),
    ],
    ids=["missing", "empty", "nobody there"],
)
async def test_the_command_says_in_a_line_what_keeps_it_from_running(environment: dict[str, str], words: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "shared.provision"),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 1
    assert output == b""
    assert words in errors.decode()
    assert len(errors.decode().splitlines()) == 1
    assert "secretpart" not in errors.decode()
