"""Whether an order keeps the times that Amazon promised the buyer."""

from datetime import datetime, timedelta

from .domain import OrderStatus, SlaStatus

AT_RISK = timedelta(hours=24)


def sla_status(
    order_status: str,
    ship_by: datetime | None,
    deliver_by: datetime | None,
    shipped_at: datetime | None,
    now: datetime,
) -> SlaStatus:
    """BREACHED once a deadline has passed or was missed, AT_RISK on its last day, else OK.
    A cancelled or returned order has no deadlines any more. The column sla_due says the same for lists to be filtered.
    """
    if order_status in {OrderStatus.CANCELLED, OrderStatus.RETURNED}:
        return SlaStatus.OK
    has_shipped = order_status in {OrderStatus.SHIPPED, OrderStatus.DELIVERED}
    # Amazon does not tell when a package arrived, and nothing at all of one that it was not told of: neither is held
    # against the deadline.
    has_arrived = order_status == OrderStatus.DELIVERED or (has_shipped and shipped_at is None)
    met = [_deadline(ship_by, shipped_at, has_shipped, now), _deadline(deliver_by, None, has_arrived, now)]
    for worst in (SlaStatus.BREACHED, SlaStatus.AT_RISK):
        if worst in met:
            return worst
    return SlaStatus.OK


def _deadline(deadline: datetime | None, done_at: datetime | None, done: bool, now: datetime) -> SlaStatus:
    if deadline is None:
        return SlaStatus.OK
    if done:
        return SlaStatus.BREACHED if done_at is not None and done_at > deadline else SlaStatus.OK
    if now > deadline:
        return SlaStatus.BREACHED
    return SlaStatus.AT_RISK if deadline - now < AT_RISK else SlaStatus.OK
