"""Whether an order keeps the times that Amazon promised the buyer."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orders.domain import OrderStatus, SlaStatus
from orders.sla import AT_RISK, sla_status

NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("status", "ship_by", "deliver_by", "shipped_at", "sla"),
    [
        ("PENDING", None, None, None, "OK"),
        ("CONFIRMED", 48, 96, None, "OK"),
        ("CONFIRMED", 24, 96, None, "OK"),
        ("CONFIRMED", 23, 96, None, "AT_RISK"),
        ("CONFIRMED", 0, 96, None, "AT_RISK"),
        ("CONFIRMED", -1, 96, None, "BREACHED"),
        ("CONFIRMED", 48, 12, None, "AT_RISK"),
        ("SHIPPED", -24, 48, -30, "OK"),
        ("SHIPPED", -24, 48, -24, "OK"),
        ("SHIPPED", -24, 48, -10, "BREACHED"),  # shipped, but late
        ("SHIPPED", -24, 48, None, "OK"),
        ("SHIPPED", -24, 12, -30, "AT_RISK"),
        ("SHIPPED", -24, -1, -30, "BREACHED"),
        ("SHIPPED", -24, -1, None, "OK"),  # no package that could tell
        ("DELIVERED", -24, -1, -30, "OK"),
        ("DELIVERED", -24, -1, -10, "BREACHED"),
        ("CANCELLED", -24, -1, None, "OK"),
        ("RETURNED", -24, -1, -10, "OK"),
    ],
)
def test_what_a_deadline_means(
    status: str, ship_by: int | None, deliver_by: int | None, shipped_at: int | None, sla: str
) -> None:
    def at(hours: int | None) -> datetime | None:
        return None if hours is None else NOW + hours * HOUR

    assert sla_status(status, at(ship_by), at(deliver_by), at(shipped_at), NOW) is SlaStatus(sla)


MOMENTS = st.none() | st.integers(-100, 100).map(lambda hours: NOW + hours * HOUR)
WORSE = list(SlaStatus)
"""OK, AT_RISK, BREACHED."""


@given(st.sampled_from(OrderStatus), MOMENTS, MOMENTS, MOMENTS, st.integers(0, 200))
def test_time_alone_makes_nothing_better(
    status: str, ship_by: datetime | None, deliver_by: datetime | None, shipped_at: datetime | None, hours: int
) -> None:
    now, later = (sla_status(status, ship_by, deliver_by, shipped_at, at) for at in (NOW, NOW + hours * HOUR))
    assert WORSE.index(now) <= WORSE.index(later)


@given(st.sampled_from(OrderStatus), MOMENTS, MOMENTS, MOMENTS)
def test_two_deadlines_are_as_bad_as_the_worse_one(
    status: str, ship_by: datetime | None, deliver_by: datetime | None, shipped_at: datetime | None
) -> None:
    both, *each = (
        sla_status(status, *deadlines, shipped_at, NOW)
        for deadlines in ((ship_by, deliver_by), (ship_by, None), (None, deliver_by))
    )
    assert both is max(each, key=WORSE.index)


@given(st.sampled_from(OrderStatus), MOMENTS)
def test_what_is_promised_far_ahead_or_not_at_all_is_ok(status: str, shipped_at: datetime | None) -> None:
    far = NOW + timedelta(days=300) + AT_RISK
    assert {sla_status(status, at, at, shipped_at, NOW) for at in (far, None)} == {SlaStatus.OK}
