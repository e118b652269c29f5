"""The contracts between the services: one struct per subject, the same that /asyncapi.json and the golden
samples in tests/events are made from. A new field has a default; anything else is a new subject.
No event carries personal data: ids only.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, ClassVar
from uuid import UUID

from msgspec import Meta, Struct

# The end of a pattern is $(?!\n): Python's $ alone lets a line break at the end pass, and JSON Schema knows no \Z.
TenantId = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$(?!\n)", description="The product's tenant id")
]
"""Bounded and free of separators: it becomes part of a Vault path and of a mail address."""

Marketplace = Annotated[str, Meta(pattern=r"^[A-Z]{1,32}$(?!\n)", description="AMAZON")]
ExternalOrderId = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9-]{1,64}$(?!\n)", description="The marketplace's order id; Amazon's is 3-7-7 digits")
]
AMAZON = "AMAZON"


class Event(Struct, frozen=True, kw_only=True, rename="camel"):
    """A fact that was committed. Its CloudEvents attributes travel in headers, never in the body."""

    SUBJECT: ClassVar[str]
    PUBLISHERS: ClassVar[tuple[str, ...]]

    @property
    def key(self) -> str:
        """What the event is about: events of one key keep their order."""
        raise NotImplementedError  # each kind of event says it


class TenantEvent(Event, frozen=True, kw_only=True, rename="camel"):
    """A fact about a tenant."""

    tenant_id: TenantId

    @property
    def key(self) -> str:
        return self.tenant_id


class TenantCreated(TenantEvent, frozen=True, kw_only=True, rename="camel"):
    """The product has a new tenant; the product database says what it is."""

    SUBJECT: ClassVar[str] = "tenant.created"
    PUBLISHERS: ClassVar[tuple[str, ...]] = ("product",)


class TenantUpdated(TenantEvent, frozen=True, kw_only=True, rename="camel"):
    """Something about a tenant changed in the product; the product database says what."""

    SUBJECT: ClassVar[str] = "tenant.updated"
    PUBLISHERS: ClassVar[tuple[str, ...]] = ("product",)


class TenantArchived(TenantEvent, frozen=True, kw_only=True, rename="camel"):
    """The product has archived a tenant; the product database says so too."""

    SUBJECT: ClassVar[str] = "tenant.archived"
    PUBLISHERS: ClassVar[tuple[str, ...]] = ("product",)


class InboundAddress(Struct, frozen=True, kw_only=True, rename="camel"):
    """A mail address that a tenant's marketplace messages may be sent to."""

    marketplace: Marketplace
    country: str
    email: str
    status: str


class TenantSynced(TenantEvent, frozen=True, kw_only=True, rename="camel"):
    """The marketplace database has the tenant as the product database does."""

    SUBJECT: ClassVar[str] = "tenant.synced"
    PUBLISHERS: ClassVar[tuple[str, ...]] = ("tenant-sync",)

    name: str
    plan: str
    status: str
    inbound_addresses: list[InboundAddress]
    synced_at: datetime | None = None
    """When our copy became this: of two events about a tenant the later one is true."""

    @property
    def archived(self) -> bool:
        """The tenant is archived: everything of it stops."""
        return self.status == "ARCHIVED"


class TenantAddressVerified(TenantEvent, frozen=True, kw_only=True, rename="camel"):
    """The first mail of the marketplace has come to one of the tenant's addresses: it is set up as it should be."""

    SUBJECT: ClassVar[str] = "tenant.address_verified"
    PUBLISHERS: ClassVar[tuple[str, ...]] = ("poller",)

    marketplace: Marketplace
    inbound_address: str
    at: datetime


class ConnectionConnected(TenantEvent, frozen=True, kw_only=True, rename="camel"):
    """The seller's account is usable: credentials are in Vault and the connection is committed."""

    SUBJECT: ClassVar[str] = "connection.connected"
    PUBLISHERS: ClassVar[tuple[str, ...]] = ("oauth",)

    marketplace: Marketplace
    connection_id: UUID
    seller_id: str
    marketplace_ids: list[str]
    region: str
    app_source: str
    connected_at: datetime
    reauthorize_by: datetime


class DisconnectReason(StrEnum):
    """Why an account is connected no more."""

    USER = "USER"
    REVOKED = "REVOKED"
    APP_CHANGED = "APP_CHANGED"
    TENANT_ARCHIVED = "TENANT_ARCHIVED"
    CREDENTIALS_LOST = "CREDENTIALS_LOST"


class ConnectionDisconnected(TenantEvent, frozen=True, kw_only=True, rename="camel"):
    """The seller's account can be used no more; polling and backfills stop."""

    SUBJECT: ClassVar[str] = "connection.disconnected"
    PUBLISHERS: ClassVar[tuple[str, ...]] = ("oauth",)

    marketplace: Marketplace
    connection_id: UUID
    reason: DisconnectReason
    at: datetime


class ConnectionRejected(TenantEvent, frozen=True, kw_only=True, rename="camel"):
    """Amazon refused the tenant's credentials, or there are none; oauth looks whether that is so. error is a code."""

    SUBJECT: ClassVar[str] = "connection.rejected"
    PUBLISHERS: ClassVar[tuple[str, ...]] = ("poller", "orders")

    connection_id: UUID
    error: str
    at: datetime


class ConnectionExpiring(TenantEvent, frozen=True, kw_only=True, rename="camel"):
    """The seller's authorization ends in at most daysLeft days (told at 30, 7 and 1), unless it is given anew."""

    SUBJECT: ClassVar[str] = "connection.expiring"
    PUBLISHERS: ClassVar[tuple[str, ...]] = ("oauth",)

    marketplace: Marketplace
    connection_id: UUID
    reauthorize_by: datetime
    days_left: int


class ApplicationSecretExpiring(Event, frozen=True, kw_only=True, rename="camel"):
    """Our application's client secret has to be changed in at most daysLeft days (told at 30, 7 and 1): after that
    Amazon refuses every tenant's calls.
    """

    SUBJECT: ClassVar[str] = "application.secret_expiring"
    PUBLISHERS: ClassVar[tuple[str, ...]] = ("oauth",)

    app_source: str
    rotate_by: datetime
    days_left: int

    @property
    def key(self) -> str:
        return f"application {self.app_source}"


class MessageSource(StrEnum):
    """Where a buyer's message came from."""

    MOCK = "mock"
    SPAPI = "spapi"
    EMAIL = "email"


class MessageReceived(TenantEvent, frozen=True, kw_only=True, rename="camel"):
    """A buyer's message was stored, once, and belongs to a ticket."""

    SUBJECT: ClassVar[str] = "message.received"
    PUBLISHERS: ClassVar[tuple[str, ...]] = ("poller",)

    marketplace: Marketplace
    message_id: UUID
    external_id: str
    ticket_id: UUID
    external_order_id: ExternalOrderId | None = None
    source: MessageSource
    inbound_address: str | None = None
    received_at: datetime
    reply_by: datetime | None = None


class StoreCause(StrEnum):
    """Why a single order was stored."""

    MESSAGE = "MESSAGE"
    DELTA = "DELTA"
    REQUEST = "REQUEST"
    AUDIT = "AUDIT"


class OrderStored(TenantEvent, frozen=True, kw_only=True, rename="camel"):
    """An order was stored or changed outside of a backfill."""

    SUBJECT: ClassVar[str] = "order.stored"
    PUBLISHERS: ClassVar[tuple[str, ...]] = ("orders",)

    marketplace: Marketplace
    order_id: UUID
    external_order_id: ExternalOrderId
    order_status: str
    is_new: bool
    cause: StoreCause


class Window(Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """The span of order dates that a backfill covers: from is in it, to is not."""

    from_: datetime
    to: datetime


class BackfillEvent(TenantEvent, frozen=True, kw_only=True, rename="camel"):
    """What every event of a backfill says."""

    PUBLISHERS: ClassVar[tuple[str, ...]] = ("orders",)

    job_id: UUID
    days: int
    window: Window
    orders_stored: int
    items_stored: int
    eta_seconds: int | None = None


class BackfillRequested(BackfillEvent, frozen=True, kw_only=True, rename="camel"):
    """A backfill is queued."""

    SUBJECT: ClassVar[str] = "backfill.requested"


class BackfillProgressed(BackfillEvent, frozen=True, kw_only=True, rename="camel"):
    """Orders of a backfill are stored; told every two seconds at most."""

    SUBJECT: ClassVar[str] = "backfill.progressed"


class BackfillCompleted(BackfillEvent, frozen=True, kw_only=True, rename="camel"):
    """Every order of the window is stored."""

    SUBJECT: ClassVar[str] = "backfill.completed"


class BackfillFailed(BackfillEvent, frozen=True, kw_only=True, rename="camel"):
    """A backfill ended before it was complete; error is the code of what ended it."""

    SUBJECT: ClassVar[str] = "backfill.failed"

    error: str


EVENTS: tuple[type[Event], ...] = (
    TenantCreated,
    TenantUpdated,
    TenantArchived,
    TenantSynced,
    TenantAddressVerified,
    ConnectionConnected,
    ConnectionDisconnected,
    ConnectionRejected,
    ConnectionExpiring,
    ApplicationSecretExpiring,
    MessageReceived,
    OrderStored,
    BackfillRequested,
    BackfillProgressed,
    BackfillCompleted,
    BackfillFailed,
)
"""Every contract, in the order of the story."""
