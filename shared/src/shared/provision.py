"""The job that makes the streams and consumers of topology.py, and brings existing ones in line with it.
Run before a deploy with the provisioner's user: NATS_URL=… python -m shared.provision
"""

import asyncio
import contextlib
import os
import sys

import nats
from nats.errors import Error as NatsError
from nats.js import JetStreamContext, api
from nats.js.errors import NotFoundError

from . import tls
from .errors import PermanentError
from .topology import CONSUMERS, STREAMS, Consumer, Stream

# Higher than the retry policy ever needs (half a day of outage at its longest delay): the policy decides, the
# server only ends what kills the process that handles it, and tells of it in the ADVISORY stream.
SERVER_MAX_DELIVERIES = 200


def stream_config(stream: Stream, replicas: int = 1) -> api.StreamConfig:
    return api.StreamConfig(
        name=stream.name,
        subjects=list(stream.subjects),
        storage=api.StorageType.FILE,
        retention=api.RetentionPolicy.LIMITS,
        discard=api.DiscardPolicy.NEW,
        max_age=stream.max_age_seconds,
        max_bytes=stream.max_bytes,
        duplicate_window=stream.duplicate_window_seconds,
        num_replicas=replicas,
        allow_atomic=True,
        allow_direct=True,
    )


def consumer_config(consumer: Consumer) -> api.ConsumerConfig:
    """No backoff: it would replace ack_wait and bend the delays of the retry policy."""
    return api.ConsumerConfig(
        durable_name=consumer.durable,
        filter_subject=consumer.event.SUBJECT,
        deliver_policy=api.DeliverPolicy.ALL,
        ack_policy=api.AckPolicy.EXPLICIT,
        ack_wait=consumer.ack_wait_seconds,
        max_deliver=SERVER_MAX_DELIVERIES,
        max_ack_pending=consumer.max_ack_pending,
    )


def drift(consumer: Consumer, actual: api.ConsumerConfig) -> list[str]:
    """What differs between a consumer as it should be and as the server has it."""
    wanted = consumer_config(consumer)
    return [
        f"{name} is {getattr(actual, name)!r}, expected {getattr(wanted, name)!r}"
        for name in ("filter_subject", "ack_policy", "ack_wait", "max_deliver", "max_ack_pending")
        if getattr(actual, name) != getattr(wanted, name)
    ]


async def provision(url: str, replicas: int = 1, cacert: str | None = None) -> None:
    """Make every stream and consumer; safe to run again. nats.errors.Error when the server refuses or is away."""
    connection = await nats.connect(
        url,
        inbox_prefix=b"_INBOX_provisioner",
        allow_reconnect=False,
        reconnect_time_wait=0.5,
        max_reconnect_attempts=2,  # allow_reconnect does not count for the first connection: two minutes by default
        connect_timeout=10,
        error_cb=_ignore,  # the last one rises
        tls=tls.context(cacert),
    )
    try:
        js = connection.jetstream(timeout=10)
        await asyncio.gather(*(_ensure_stream(js, stream_config(stream, replicas)) for stream in STREAMS))
        await asyncio.gather(*(js.add_consumer(consumer.stream, consumer_config(consumer)) for consumer in CONSUMERS))
    finally:
        await connection.close()


async def _ignore(_: Exception) -> None:
    pass


async def _ensure_stream(js: JetStreamContext, config: api.StreamConfig) -> None:
    with contextlib.suppress(NotFoundError):
        await js.update_stream(config)
        return
    await js.add_stream(config)


if __name__ == "__main__":
    if not os.environ.get("NATS_URL"):
        sys.exit("NATS_URL is missing: the address of the NATS server with the provisioner's user and password.")
    try:
        asyncio.run(
            provision(
                os.environ["NATS_URL"],
                replicas=int(os.environ.get("NATS_REPLICAS") or "1"),
                cacert=os.environ.get("NATS_CACERT"),
            )
        )
    except (NatsError, OSError, PermanentError) as error:
        sys.exit(
            f"NATS was not provisioned: {error!r}. Check NATS_URL, its user and password, and that the server runs."
        )
