"""How orders go on: what becomes of them, and when."""

from collections.abc import Sequence
from typing import Literal

import msgspec

HOUR = 3_600_000
DAY = 24 * HOUR

SENT_STATUSES = ("PARTIALLY_SHIPPED", "SHIPPED")
PackageStatus = Literal["SHIPPED", "IN_TRANSIT", "DELIVERED", "UNDELIVERABLE"]


class Step(msgspec.Struct, frozen=True):
    """From `after` (milliseconds after the order's creation) it is so."""

    after: int
    status: str
    package: PackageStatus | None = None


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What the control made of an order: from then on its course is over. `at` in milliseconds since 1970."""

    at: int
    status: str
    package: PackageStatus | None = None
    carrier: str | None = None
    tracking: str | None = None


class Pace(msgspec.Struct, frozen=True, rename="camel"):
    """New orders, evenly, from `since` (milliseconds since 1970) until the next pace."""

    since: int
    orders_per_day: float


class State(msgspec.Struct, frozen=True, kw_only=True):
    """An order at a moment. Times in milliseconds since 1970."""

    status: str
    updated: int
    shipped: int | None = None
    """When the parcel was handed over."""
    package: PackageStatus | None = None
    carrier: str | None = None
    tracking: str | None = None


Course = tuple[Step, ...]


def _sent(unshipped: float, shipped: float, in_transit: float, delivered: float) -> Course:
    """Hours after the creation."""
    return (
        Step(0, "PENDING"),
        Step(int(unshipped * HOUR), "UNSHIPPED"),
        Step(int(shipped * HOUR), "SHIPPED", "SHIPPED"),
        Step(int(in_transit * HOUR), "SHIPPED", "IN_TRANSIT"),
        Step(int(delivered * HOUR), "SHIPPED", "DELIVERED"),
    )


SENT = _sent(0.5, 26, 38, 76)
SPLIT = (
    Step(0, "PENDING"),
    Step(HOUR // 2, "UNSHIPPED"),
    Step(22 * HOUR, "PARTIALLY_SHIPPED", "SHIPPED"),
    Step(96 * HOUR, "SHIPPED", "IN_TRANSIT"),
    Step(130 * HOUR, "SHIPPED", "DELIVERED"),
)
CANCELLED = (Step(0, "PENDING"), Step(HOUR // 4, "UNSHIPPED"), Step(2 * HOUR, "CANCELLED"))
COURSES: Sequence[Course] = (
    SENT,
    _sent(0.25, 5, 9, 48),
    _sent(2, 48, 60, 120),
    _sent(0.5, 20, 30, 70),
    _sent(1, 30, 44, 98),
    _sent(0.1, 3, 8, 27),
    _sent(4, 70, 80, 150),
    _sent(0.5, 44, 52, 240),
    _sent(24, 40, 50, 90),
    _sent(1, 6, 12, 30),
    _sent(0.5, 10, 18, 42),
    _sent(12, 24, 30, 60),
    SPLIT,
    (*_sent(1, 28, 40, 0)[:-1], Step(9 * DAY, "SHIPPED", "UNDELIVERABLE")),
    (
        Step(0, "PENDING_AVAILABILITY"),
        Step(12 * DAY, "UNSHIPPED"),
        Step(13 * DAY, "SHIPPED", "SHIPPED"),
        Step(16 * DAY, "SHIPPED", "DELIVERED"),
    ),
    (Step(0, "PENDING"), Step(5 * HOUR, "UNFULFILLABLE")),
)
"""Of any len(COURSES) orders that follow each other, each has another one."""
