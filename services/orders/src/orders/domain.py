"""Orders as support people see them."""

from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from msgspec import Struct

from shared.errors import NotFoundError, PermanentError, RetryLaterError

BEGINNING = datetime.min.replace(tzinfo=UTC)
"""-infinity to PostgreSQL: the version of an order that no answer has described."""


class OrderNotFoundError(NotFoundError):
    """Not there, or another tenant's."""

    code = "order_not_found"


class BackfillNotFoundError(NotFoundError):
    """Not there, or another tenant's."""

    code = "backfill_not_found"


class TenantNotConnectedError(RetryLaterError):
    """The tenant has no account that may be asked; its connection.connected may be on its way."""

    code = "tenant_not_connected"
    status = 409


class TenantArchivedError(PermanentError):
    """An archived tenant's orders are not fetched."""

    code = "tenant_archived"
    status = 409


class AccountDisconnectedError(PermanentError):
    """A disconnected account is asked for nothing more."""

    code = "account_disconnected"
    status = 409


class BackfillCancelledError(PermanentError):
    """Somebody called the backfill off."""

    code = "backfill_cancelled"
    status = 409


class OrderStatus(StrEnum):
    PENDING = "PENDING"
    CONFIRMED = "CONFIRMED"
    SHIPPED = "SHIPPED"
    DELIVERED = "DELIVERED"
    CANCELLED = "CANCELLED"
    RETURNED = "RETURNED"


class DeliveryStatus(StrEnum):
    PREPARING = "PREPARING"
    SHIPPED = "SHIPPED"
    IN_TRANSIT = "IN_TRANSIT"
    OUT_FOR_DELIVERY = "OUT_FOR_DELIVERY"
    DELIVERED = "DELIVERED"
    DELAYED = "DELAYED"
    LOST = "LOST"


class SlaStatus(StrEnum):
    OK = "OK"
    AT_RISK = "AT_RISK"
    BREACHED = "BREACHED"


class Detail(StrEnum):
    """How much is known of an order."""

    PLACEHOLDER = "PLACEHOLDER"
    """A message named it; its date is the message's."""
    REPORT = "REPORT"
    """A report's row: neither customer nor address, item ids or packages, unless an older answer told them."""
    FULL = "FULL"
    """searchOrders or getOrder."""


class Item(Struct, frozen=True, rename="camel"):
    """A position of an order; its id is unknown until Amazon is asked for the order itself."""

    external_item_id: str | None
    sku: str | None
    asin: str | None
    title: str | None
    quantity: int
    unit_price: Decimal | None
    currency: str | None


class Continues(Struct, frozen=True):
    """Where a part of a report's order goes on: after so many items of the order as that version of it was stored."""

    version: datetime
    items: int


class NewOrder(Struct, frozen=True):
    """An order as it is to be stored: what one answer says of it, or several (see merging.merge). A cancelled one with
    quantity 0 and no total is an order too.
    """

    external_order_id: str
    marketplace_id: str | None
    customer_name: str | None
    customer_email: str | None
    order_date: datetime
    currency: str | None
    total_amount: Decimal | None
    order_status: OrderStatus
    external_status: str
    delivery_status: DeliveryStatus
    carrier: str | None
    tracking_code: str | None
    shipping_address: dict[str, Any] | None
    ship_by: datetime | None
    deliver_by: datetime | None
    shipped_at: datetime | None
    delivered_at: datetime | None
    external_updated_at: datetime
    """The marketplace's time of change, by which a later answer wins."""
    items: list[Item]
    detail: Detail = Detail.FULL
    package_status: DeliveryStatus | None = None
    """The delivery as the packages say it; None without packages."""
    detail_from: datetime | None = None
    """Of a REPORT: the version of the FULL answer that customer, address and packages are from."""
    known_items: list[tuple[str | None, str | None, str]] | None = None
    """Of a REPORT: sku, asin and id of the items in that answer."""
    continues: Continues | None = None
    """Of a REPORT whose rows are apart in the document: the items are further ones, the total is theirs."""

    @property
    def order_ref(self) -> str:
        return order_ref(self.external_order_id)

    @property
    def detailed_at(self) -> datetime | None:
        """The version of the FULL answer that customer, address, packages and item ids are from."""
        return self.external_updated_at if self.detail is Detail.FULL else self.detail_from


class StoredOrder(Struct, frozen=True, rename="camel"):
    """An order as it is answered."""

    id: UUID
    tenant_id: str
    external_order_id: str
    order_ref: str
    detail: str
    marketplace: str
    marketplace_id: str | None
    customer_name: str | None
    customer_email: str | None
    order_date: datetime
    currency: str | None
    total_amount: Decimal | None
    order_status: str
    delivery_status: str
    sav_status: str
    sla_status: SlaStatus
    carrier: str | None
    tracking_code: str | None
    shipping_address: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime
    shipped_at: datetime | None
    delivered_at: datetime | None


class Sort(StrEnum):
    """The order of a list; a minus is the latest first. Its second key is the id."""

    OLDEST = "orderDate"
    NEWEST = "-orderDate"
    FIRST_CHANGED = "updatedAt"
    LAST_CHANGED = "-updatedAt"

    @property
    def column(self) -> str:
        return "order_date" if self in {Sort.OLDEST, Sort.NEWEST} else "updated_at"

    @property
    def is_descending(self) -> bool:
        return self.startswith("-")


class Search(Struct, frozen=True):
    """What a list of orders is asked for: of several values one has to fit, and of several filters all."""

    sort: Sort = Sort.NEWEST
    order_status: frozenset[OrderStatus] = frozenset()
    delivery_status: frozenset[DeliveryStatus] = frozenset()
    sla_status: frozenset[SlaStatus] = frozenset()
    marketplace_id: frozenset[str] = frozenset()
    ordered_from: datetime | None = None
    ordered_to: datetime | None = None
    """Exclusive."""
    external_order_id: str | None = None
    q: str | None = None


class Connection(Struct, frozen=True):
    """A seller's account that we may ask."""

    tenant_id: str
    marketplace: str
    connection_id: UUID
    seller_id: str
    marketplace_ids: list[str]
    connected_at: datetime


class Upserted(Struct, frozen=True):
    """What storing did to an order: it is new, or it was changed."""

    id: UUID
    external_order_id: str
    order_status: str
    is_new: bool
    detail: Detail


class Lacking(Struct, frozen=True):
    """An order of which more is to be asked."""

    id: UUID
    external_order_id: str
    order_date: datetime


class JobState(StrEnum):
    REQUESTED = "REQUESTED"
    RUNNING = "RUNNING"
    WAITING = "WAITING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


UNFINISHED = (JobState.REQUESTED, JobState.RUNNING, JobState.WAITING)


class Waiting(StrEnum):
    """What a WAITING job waits for."""

    QUOTA = "QUOTA"
    """The seller's usage plan at Amazon."""
    OUTAGE = "OUTAGE"
    """Amazon, Vault, or an operator."""


class Job(Struct, frozen=True, rename="camel"):
    """A backfill as it is answered."""

    id: UUID
    tenant_id: str
    marketplace: str
    days: int
    window_from: datetime
    window_to: datetime
    state: JobState
    waiting_for: Waiting | None
    orders_stored: int
    items_stored: int
    pages: int
    windows_done: int
    windows_total: int
    calls: int
    quota_waited_seconds: float
    eta_seconds: int | None
    """Until every order is stored, as far as it can be told."""
    notice: str | None
    """What it does otherwise than planned, and why."""
    error_code: str | None
    error: str | None
    next_attempt_at: datetime
    created_at: datetime
    finished_at: datetime | None
    audited_at: datetime | None
    """When the audit after it ended."""
    days_checked: int
    missing: int
    """Orders that the audit found, and stored."""
    unlisted: int
    """Orders that are stored and that Amazon's reports of their days lack."""

    @property
    def is_unfinished(self) -> bool:
        return self.state in UNFINISHED


class Lease(Struct, frozen=True):
    """A job in our hands until the lease ends; the token proves that it still is."""

    job_id: UUID
    tenant_id: str
    token: int
    attempts: int


class Task(StrEnum):
    """What is done for an account again and again."""

    DELTA = "DELTA"
    """Store what changed."""
    DETAILS = "DETAILS"
    """Ask for what is lacking of orders."""
    AUDIT = "AUDIT"
    """Compare what a backfill stored with Amazon's reports."""


class Turn(Struct, frozen=True):
    """An account's task in our hands until the lease ends; the token proves that it still is."""

    tenant_id: str
    marketplace: str
    task: Task
    token: int
    cursor_at: datetime
    """Of DELTA: whatever changed before is stored."""
    read_to: datetime | None
    """Where the round ends that next_token belongs to; None is up to the time of its first page."""
    next_token: str | None
    token_is_stale: bool
    now: datetime

    @property
    def key(self) -> tuple[str, str, Task, int]:
        return self.tenant_id, self.marketplace, self.task, self.token


class Audit(Struct, frozen=True):
    """A completed backfill that is compared with Amazon's reports."""

    job_id: UUID
    window_from: datetime
    window_to: datetime
    has_begun: bool


class Freshness(Struct, frozen=True, rename="camel"):
    """How true an account's orders are."""

    marketplace: str
    fresh_until: datetime
    """Whatever changed at Amazon before is stored, but for what a backfill in hand still brings."""
    last_success_at: datetime | None
    next_due: datetime
    running: bool
    failures: int
    error_code: str | None
    last_error: str | None
    rejected_at: datetime | None
    """Since when Amazon refuses the credentials."""
    disconnected_at: datetime | None


class LeaseLostError(PermanentError):
    """What was in our hands is another worker's, or over: nothing more is written for it."""

    code = "lease_lost"


def order_ref(external_order_id: str) -> str:
    """407-8949262-6149120 is #149120."""
    digits = "".join(character for character in external_order_id if character.isdigit())
    return f"#{digits[-6:]}"


def placeholder(external_order_id: str, named_at: datetime) -> NewOrder:
    """An order of which nothing is known but that a message of that time names it."""
    return NewOrder(
        external_order_id=external_order_id,
        marketplace_id=None,
        customer_name=None,
        customer_email=None,
        order_date=named_at,
        currency=None,
        total_amount=None,
        order_status=OrderStatus.PENDING,
        external_status="UNKNOWN",
        delivery_status=DeliveryStatus.PREPARING,
        carrier=None,
        tracking_code=None,
        shipping_address=None,
        ship_by=None,
        deliver_by=None,
        shipped_at=None,
        delivered_at=None,
        external_updated_at=BEGINNING,
        items=[],
        detail=Detail.PLACEHOLDER,
    )
