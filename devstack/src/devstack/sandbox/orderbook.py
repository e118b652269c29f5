"""What the Orders, Reports and Messaging operations ask of a seller's orders, wherever these come from."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal, Protocol

import msgspec

from .marketplaces import Marketplace

Json = dict[str, object]
Family = Literal["created", "updated"]

UNKNOWN_STATUS = "INVOICE_UNCONFIRMED"
"""Amazon's migration guide has it, its model has not."""
V0_STATUSES = {
    "PENDING_AVAILABILITY": "PendingAvailability",
    "PENDING": "Pending",
    "UNSHIPPED": "Unshipped",
    "PARTIALLY_SHIPPED": "PartiallyShipped",
    "SHIPPED": "Shipped",
    "CANCELLED": "Canceled",
    "UNFULFILLABLE": "Unfulfillable",
    UNKNOWN_STATUS: "InvoiceUnconfirmed",
}
"""Of each status, its name in Orders v0: "Orders API migration guide"."""
FULFILLMENT_STATUSES = tuple(status for status in V0_STATUSES if status != UNKNOWN_STATUS)
FULFILLED_BY = ("MERCHANT", "AMAZON")


class Traits(msgspec.Struct, frozen=True):
    """What searchOrders filters by."""

    status: str
    marketplace_id: str
    fulfilled_by: str


class Line(msgspec.Struct, frozen=True):
    """An item as it is sold. The price is of one, in the currency's smallest unit."""

    item_id: str
    asin: str
    sku: str
    title: str
    price: int
    quantity: int
    shipped: int
    promotion: str | None


class Sale(msgspec.Struct, frozen=True, kw_only=True):
    """An order as reports tell it. Times in milliseconds since 1970."""

    order_id: str
    created: int
    updated: int
    traits: Traits
    marketplace: Marketplace
    delivered: bool
    service_level: str
    place: tuple[str, str, str, str]
    """City, state, postal code and country that it goes to."""
    lines: Sequence[Line]


class OrderBook(Protocol):
    """A seller's orders at one moment, each under an index that never changes. Times in milliseconds since 1970."""

    def __len__(self) -> int: ...

    def walk(self, family: Family, start: tuple[int, int]) -> Iterator[tuple[int, int]]:
        """(time, index) of all orders that are not before the start, in this order."""

    def time(self, family: Family, index: int) -> int: ...

    def traits(self, index: int) -> Traits: ...

    def sale(self, index: int) -> Sale: ...

    def order(self, index: int) -> Mapping[str, object]:
        """The order with all of its sections."""

    def find(self, order_id: str) -> int | None: ...

    def messages(self, index: int) -> Sequence[Mapping[str, object]]: ...


def iso(milliseconds: int) -> str:
    day, rest = divmod(milliseconds, 86_400_000)
    minute, rest = divmod(rest, 60_000)
    second, thousandths = divmod(rest, 1000)
    fraction = f".{thousandths:03}" if thousandths else ""
    return f"{_day(day)}T{_MINUTES[minute]}:{second:02}{fraction}Z"


def money(amount: int, marketplace: Marketplace) -> str:
    """A decimal, from an amount in the currency's smallest unit."""
    if not marketplace.decimals:
        return str(amount)
    whole, rest = divmod(amount, 10**marketplace.decimals)
    return f"{whole}.{rest:0{marketplace.decimals}}"


_MINUTES = [f"{hour:02}:{minute:02}" for hour in range(24) for minute in range(60)]


@lru_cache(maxsize=4096)
def _day(day: int) -> str:
    return datetime.fromtimestamp(day * 86_400, UTC).date().isoformat()
