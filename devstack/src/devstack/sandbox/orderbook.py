"""What the Orders and Messaging operations ask of a seller's orders, wherever these come from."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal, Protocol

import msgspec

Json = dict[str, object]
Family = Literal["created", "updated"]

FULFILLMENT_STATUSES = (
    "PENDING_AVAILABILITY",
    "PENDING",
    "UNSHIPPED",
    "PARTIALLY_SHIPPED",
    "SHIPPED",
    "CANCELLED",
    "UNFULFILLABLE",
)
FULFILLED_BY = ("MERCHANT", "AMAZON")


class Traits(msgspec.Struct, frozen=True):
    """What searchOrders filters by."""

    status: str
    marketplace_id: str
    fulfilled_by: str


class OrderBook(Protocol):
    """A seller's orders, each under an index that never changes. Times are in milliseconds since 1970."""

    def __len__(self) -> int: ...

    def positions(self, family: Family) -> Sequence[int]:
        """All indexes, in the order of (time, index)."""

    def time(self, family: Family, index: int) -> int: ...

    def traits(self, index: int) -> Traits: ...

    def order(self, index: int) -> Mapping[str, object]:
        """The order with all of its sections."""

    def find(self, order_id: str) -> int | None: ...

    def messages(self, index: int) -> Sequence[Mapping[str, object]]: ...


def iso(milliseconds: int) -> str:
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    precision = "milliseconds" if milliseconds % 1000 else "seconds"
    return moment.isoformat(timespec=precision).replace("+00:00", "Z")
