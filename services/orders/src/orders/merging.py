"""What several answers say of one order, whichever of them came first."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from msgspec.structs import replace

from .domain import BEGINNING, DeliveryStatus, Detail, Item, NewOrder
from .mapping import statuses

_RANK = {Detail.PLACEHOLDER: 0, Detail.REPORT: 1, Detail.FULL: 2}


def version(order: NewOrder) -> tuple[datetime, int]:
    """The greater one wins: the later change, and of one change the answer that knows more."""
    return order.external_updated_at, _RANK[order.detail]


def merge(one: NewOrder, other: NewOrder) -> NewOrder:
    """The order as both know it, the same whichever way round: what every answer tells is the latest one's, and what
    reports do not tell (customer, address, packages, item ids, windows) the latest FULL answer's.
    """
    if one.continues or other.continues:
        return _continued(other, one) if one.continues else _continued(one, other)
    if one.detail is other.detail is Detail.PLACEHOLDER:
        return min(one, other, key=lambda order: order.order_date)
    head, tail = (one, other) if version(one) >= version(other) else (other, one)
    if (tail.detailed_at or BEGINNING) <= (head.detailed_at or BEGINNING):
        return head
    return _with_detail(head, tail)


def _with_detail(report: NewOrder, full: NewOrder) -> NewOrder:
    """A report's row that is later than the answer that told the rest, or a report's row that knows one."""
    known = (
        [(item.sku, item.asin, item.external_item_id) for item in full.items if item.external_item_id]
        if full.detail is Detail.FULL
        else full.known_items or []
    )
    packages = full.package_status
    # Packages that have left say more than "Shipped"; those that had not are behind it.
    status, delivery = statuses(report.external_status, None if packages is DeliveryStatus.PREPARING else packages)
    delivered_at = None
    if delivery is DeliveryStatus.DELIVERED:
        delivered_at = full.detailed_at if packages is delivery else report.external_updated_at
    return replace(
        report,
        marketplace_id=full.marketplace_id,
        customer_name=full.customer_name,
        customer_email=full.customer_email,
        order_date=full.order_date,
        order_status=status,
        delivery_status=delivery,
        carrier=full.carrier,
        tracking_code=full.tracking_code,
        shipping_address=full.shipping_address,
        ship_by=full.ship_by,
        deliver_by=full.deliver_by,
        shipped_at=full.shipped_at,
        delivered_at=delivered_at,
        items=_with_ids(report.items, known),
        package_status=packages,
        detail_from=full.detailed_at,
        known_items=known,
    )


def _with_ids(items: Sequence[Item], known: Sequence[tuple[str | None, str | None, str]]) -> list[Item]:
    """The id of the one known item with that sku and asin, for the one that asks for it."""
    named = Counter((sku, asin) for sku, asin, _ in known)
    asked = Counter((item.sku, item.asin) for item in items)
    ids = {(sku, asin): item_id for sku, asin, item_id in known if named[sku, asin] == asked[sku, asin] == 1}
    return [replace(item, external_item_id=ids.get((item.sku, item.asin))) for item in items]


def _continued(order: NewOrder, part: NewOrder) -> NewOrder:
    """The order with the part's items behind its own; as it is, when it is not the one that the part goes on with:
    it has them already, or a later answer has taken its place.
    """
    follows = part.continues
    if (
        follows is None
        or order.detail is not Detail.REPORT
        or (order.external_updated_at, len(order.items)) != (follows.version, follows.items)
    ):
        return order
    amounts = [amount for amount in (order.total_amount, part.total_amount) if amount is not None]
    whole = replace(
        order,
        items=[*order.items, *part.items],
        currency=order.currency or part.currency,
        total_amount=sum(amounts[1:], amounts[0]) if amounts else None,
        external_updated_at=max(order.external_updated_at, part.external_updated_at),
    )
    return _with_detail(whole, whole) if whole.detail_from else whole
