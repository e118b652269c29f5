"""What order reports hold: a row for each item, in Amazon's columns.

Columns: developer-docs.amazon.com/sp-api/docs/order-tracking-reports-attributes. Quotes have no meaning in them. There
is no order item id, and a cancelled item has neither currency nor price.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

import msgspec

from .orderbook import V0_STATUSES, Family, Line, OrderBook, Sale, iso, money

TYPES: Mapping[str, Family] = {
    "GET_FLAT_FILE_ALL_ORDERS_DATA_BY_ORDER_DATE_GENERAL": "created",
    "GET_FLAT_FILE_ALL_ORDERS_DATA_BY_LAST_UPDATE_GENERAL": "updated",
}
COLUMNS = (
    *("amazon-order-id", "merchant-order-id", "purchase-date", "last-updated-date", "order-status"),
    *("fulfillment-channel", "sales-channel", "order-channel", "ship-service-level", "product-name", "sku", "asin"),
    *("item-status", "quantity", "currency", "item-price", "item-tax", "shipping-price", "shipping-tax"),
    *("gift-wrap-price", "gift-wrap-tax", "item-promotion-discount", "ship-promotion-discount", "ship-city"),
    *("ship-state", "ship-postal-code", "ship-country", "promotion-ids", "cpf", "is-business-order"),
    *("purchase-order-number", "price-designation"),
)
MOST_MILLISECONDS = 30 * 86_400_000
TOO_LONG = "Date range exceeded. Report can be requested only upto 30 days"
"""All that a report of more holds: selling-partner-api-models, issue 2591."""
FAULT = "Report data could not be generated. Please try again later."
"""Ours, for a report that is told to hold an error."""
_STATUSES = {**V0_STATUSES, "CANCELLED": "Cancelled"}
_SERVICE_LEVELS = {"STANDARD": "Standard", "EXPEDITED": "Expedited", "SECOND_DAY": "SecondDay"}


class Habits(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """How a seller's reports come."""

    seconds: Annotated[float, msgspec.Meta(ge=0)] = 60
    """From the request until it is done, by the sandbox's clock: a quarter of them in the queue."""
    seconds_per_row: Annotated[float, msgspec.Meta(ge=0)] = 0.001
    """More of them for each row."""
    charset: Literal["UTF-8", "ISO-8859-1", "cp932"] = "UTF-8"
    """What it cannot write becomes a question mark."""
    declares_charset: bool = True
    """In the document's content-type."""
    headers: dict[str, str] = {}
    """Names of columns in another language, by the English ones."""
    compressed: bool = True
    cancels_empty: bool = False
    """Without data, a report is cancelled in place of a document that has no rows."""

    def __post_init__(self) -> None:
        unknown = self.headers.keys() - set(COLUMNS)
        if unknown:
            raise ValueError(f"no columns of the report: {', '.join(sorted(unknown))}")


class Report(msgspec.Struct, kw_only=True):
    """A report that was asked for. Times in milliseconds since 1970; what it tells is as of `created`."""

    report_id: str
    report_type: str
    marketplace_ids: tuple[str, ...]
    start: int
    end: int
    created: int
    habits: Habits
    outcome: Literal["FATAL", "CANCELLED", "error_text"] | None = None
    """What a fault told."""
    cancelled: int | None = None
    """When it was called off."""
    rows: int | None = None
    """Not known until its document is written."""


def lines(book: OrderBook, report: Report) -> Iterator[tuple[str, int]]:
    """The document in parts, each with the number of its rows; both ends of the time belong to it."""
    if report.outcome == "error_text" or report.end - report.start > MOST_MILLISECONDS:
        yield FAULT if report.outcome == "error_text" else TOO_LONG, 0
        return
    yield "\t".join(report.habits.headers.get(column, column) for column in COLUMNS) + "\r\n", 0
    for time, index in book.walk(TYPES[report.report_type], (report.start, -1)):
        if time > report.end:
            return
        sale = book.sale(index)
        if sale.traits.marketplace_id in report.marketplace_ids:
            yield "".join(_rows(sale)), len(sale.lines)


def _rows(sale: Sale) -> Iterator[str]:
    traits, marketplace = sale.traits, sale.marketplace
    cancelled = traits.status == "CANCELLED"
    delivered = sale.delivered and traits.status == "SHIPPED" and traits.fulfilled_by == "MERCHANT"
    status = "Shipped - Delivered to Buyer" if delivered else _STATUSES[traits.status]
    channel = "Merchant" if traits.fulfilled_by == "MERCHANT" else "Amazon"
    level = _SERVICE_LEVELS.get(sale.service_level, sale.service_level.title())
    order = (
        f"{sale.order_id}\t{sale.order_id}\t{_time(sale.created)}\t{_time(sale.updated)}\t{status}\t{channel}"
        f"\t{marketplace.name}\t\t{level}"
    )
    place = "\t".join(sale.place)
    for line in sale.lines:
        item = f"{line.title}\t{line.sku}\t{line.asin}\t{_item_status(line, cancelled=cancelled)}\t{line.quantity}"
        price = "\t" if cancelled else f"{marketplace.currency}\t{money(line.price * line.quantity, marketplace)}"
        yield f"{order}\t{item}\t{price}\t\t\t\t\t\t\t\t{place}\t{line.promotion or ''}\t\tfalse\t\t\r\n"


def _item_status(line: Line, *, cancelled: bool) -> str:
    if cancelled:
        return "Cancelled"
    return "Shipped" if line.shipped == line.quantity else "Unshipped"


def _time(milliseconds: int) -> str:
    return iso(milliseconds // 1000 * 1000).replace("Z", "+00:00")
