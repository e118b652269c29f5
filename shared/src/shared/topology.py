"""The streams and consumers that the services rely on: the one description that the provisioning job, the
services' check at start and the NATS permissions in deploy/nats are made from.
"""

from msgspec import Struct

from .events import (
    EVENTS,
    ConnectionConnected,
    ConnectionDisconnected,
    ConnectionRejected,
    Event,
    MessageReceived,
    TenantAddressVerified,
    TenantArchived,
    TenantCreated,
    TenantSynced,
    TenantUpdated,
)

DAY_SECONDS = 86_400


class Stream(Struct, frozen=True, kw_only=True):
    """A JetStream stream. It refuses new messages when full: losing the oldest would lose them unseen."""

    name: str
    subjects: tuple[str, ...]
    max_age_seconds: int = 14 * DAY_SECONDS
    max_bytes: int = 1 << 30
    duplicate_window_seconds: int = 3_600


class Consumer(Struct, frozen=True, kw_only=True):
    """A durable pull consumer: one per handler, so that each has its own progress and its own dead letters."""

    service: str
    handler: str
    stream: str
    event: type[Event]
    ack_wait_seconds: int = 10
    """How long an event rests when its handler is killed; a living handler asks for more time meanwhile."""
    max_ack_pending: int = 256

    @property
    def durable(self) -> str:
        """Renaming a handler makes a new durable, which reads its stream from the start."""
        return f"{self.service}-{self.handler}"

    @property
    def dead_letter_subject(self) -> str:
        return f"dlq.{self.stream}.{self.durable}"


STREAMS: tuple[Stream, ...] = (
    Stream(name="TENANT", subjects=("tenant.>",)),
    Stream(name="CONNECTION", subjects=("connection.>", "application.>")),
    Stream(name="MESSAGE", subjects=("message.>",)),
    Stream(name="ORDER", subjects=("order.>", "backfill.>")),
    Stream(name="DLQ", subjects=("dlq.>",), max_age_seconds=90 * DAY_SECONDS),
    Stream(
        name="ADVISORY",
        subjects=(
            "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>",
            "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>",
        ),
        max_bytes=64 << 20,
    ),
)

CONSUMERS: tuple[Consumer, ...] = (
    Consumer(service="tenant-sync", handler="sync_tenant", stream="TENANT", event=TenantCreated),
    Consumer(service="tenant-sync", handler="sync_updated_tenant", stream="TENANT", event=TenantUpdated),
    Consumer(service="tenant-sync", handler="sync_archived_tenant", stream="TENANT", event=TenantArchived),
    Consumer(service="tenant-sync", handler="note_connection", stream="CONNECTION", event=ConnectionConnected),
    Consumer(service="tenant-sync", handler="note_disconnection", stream="CONNECTION", event=ConnectionDisconnected),
    Consumer(service="tenant-sync", handler="activate_address", stream="TENANT", event=TenantAddressVerified),
    Consumer(service="oauth", handler="follow_tenant", stream="TENANT", event=TenantSynced),
    Consumer(service="oauth", handler="check_connection", stream="CONNECTION", event=ConnectionRejected),
    Consumer(service="poller", handler="follow_tenant", stream="TENANT", event=TenantSynced),
    Consumer(service="orders", handler="follow_tenant", stream="TENANT", event=TenantSynced),
    Consumer(service="poller", handler="start_polling", stream="CONNECTION", event=ConnectionConnected),
    Consumer(service="orders", handler="start_backfill", stream="CONNECTION", event=ConnectionConnected),
    Consumer(service="poller", handler="stop_polling", stream="CONNECTION", event=ConnectionDisconnected),
    Consumer(service="orders", handler="stop_backfill", stream="CONNECTION", event=ConnectionDisconnected),
    Consumer(service="orders", handler="fetch_missing_order", stream="MESSAGE", event=MessageReceived),
)

SERVICES = ("oauth", "poller", "orders", "tenant-sync")
DEAD_LETTERS = "DLQ"


def stream_of(subject: str) -> str:
    """The stream that stores a subject; ValueError when none does."""
    for stream in STREAMS:
        if any(subject.startswith(pattern.removesuffix(">")) for pattern in stream.subjects):
            return stream.name
    raise ValueError(f"No stream stores the subject {subject!r}; add it to shared/topology.py.")


def consumer_of(service: str, handler: str) -> Consumer:
    """The consumer of a handler; ValueError when the topology does not know it."""
    for consumer in CONSUMERS:
        if (consumer.service, consumer.handler) == (service, handler):
            return consumer
    raise ValueError(f"{service} has no consumer for {handler!r}; add it to shared/topology.py.")


def published_by(service: str) -> list[type[Event]]:
    """The events whose publisher is this service (or "product", the product app)."""
    return [event for event in EVENTS if service in event.PUBLISHERS]
