"""Order reports: tab separated rows, one for each item, as batches of orders.

A document is read as it comes, in memory that grows by the number of its orders alone (their ids and how many rows each
had). Rows of one order make one order as long as they stand in one batch; what comes later is a part that continues it,
and merging puts it behind what is stored, once. Columns: the page "Order tracking reports attributes".
"""

import codecs
import re
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from operator import itemgetter

from msgspec.structs import replace

from shared.amazon.marketplaces import BY_CHANNEL, BY_COUNTRY
from shared.errors import PermanentError, RetryLaterError

from .domain import Continues, DeliveryStatus, Detail, Item, NewOrder, OrderStatus
from .mapping import statuses

BATCH_ORDERS = 500
MAX_BYTES = 1 << 29
"""Of a document, unpacked: more than a million rows."""
MAX_LINE_BYTES = 1 << 20
_PIECE_BYTES = 1 << 16
_TEXT_CHARACTERS = 200
_GZIP = b"\x1f\x8b"
_COLUMNS = (
    *("amazon-order-id", "merchant-order-id", "purchase-date", "last-updated-date", "order-status"),
    *("fulfillment-channel", "sales-channel", "order-channel", "ship-service-level", "product-name", "sku", "asin"),
    *("item-status", "quantity", "currency", "item-price", "item-tax", "shipping-price", "shipping-tax"),
    *("gift-wrap-price", "gift-wrap-tax", "item-promotion-discount", "ship-promotion-discount", "ship-city"),
    *("ship-state", "ship-postal-code", "ship-country", "promotion-ids", "cpf", "is-business-order"),
    *("purchase-order-number", "price-designation"),
)
"""In Amazon's order."""
_NEEDED = (
    *("amazon-order-id", "purchase-date", "last-updated-date", "order-status", "sales-channel", "product-name"),
    *("sku", "asin", "quantity", "currency", "item-price"),
)
_ADDED = ("shipping-price", "gift-wrap-price")
_TAXES = ("item-tax", "shipping-tax", "gift-wrap-tax")
_DISCOUNTS = ("item-promotion-discount", "ship-promotion-discount")
_READ = (*_NEEDED, *_ADDED, *_TAXES, *_DISCOUNTS)
_ORDER_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_AMOUNT = re.compile(r"-?[0-9]{1,18}(?:\.[0-9]{1,9})?")
_QUANTITY = re.compile(r"[0-9]{1,9}")
_TAX_ON_TOP = {"amazon.com", "amazon.ca"}
"""The sales channels whose prices are told without taxes."""
_NOTHING = Decimal(0)
_JAPAN = BY_COUNTRY["JP"].id
_WIDER = {"iso8859-1": "cp1252", "shift_jis": "cp932"}
"""What is declared as the one may hold characters of the other, which has all of its own too."""

_Row = tuple[str, ...]


class RefusedReportError(PermanentError):
    """Amazon says in the document why there is no report, or says nothing at all; a shorter window may be granted."""

    code = "report_refused"

    def __init__(self, text: str) -> None:
        told = f"says: {text}" if text else "is empty, without even a header"
        super().__init__(f"Amazon made no report of this window, its document {told}. Ask for a shorter window.")
        self.text = text


class BrokenReportError(PermanentError):
    """The document is no order report as we know it; the message names the line, never what stands there."""

    code = "report_broken"


class CutReportError(RetryLaterError):
    """The document ended too early: fetch it again."""

    code = "report_cut"


async def read_orders(
    document: AsyncIterable[bytes],
    content_type: str | None = None,
    marketplace_ids: Collection[str] = (),
    batch_orders: int = BATCH_ORDERS,
) -> AsyncIterator[list[NewOrder]]:
    """The orders of a report's document, packed by gzip or not, batch by batch; they are REPORT.
    content_type is what the document came with. RefusedReportError before the first batch, BrokenReportError and
    CutReportError at any time: store what came before or not, a second reading adds nothing twice.
    """
    rows = _Rows(_charsets(content_type, marketplace_ids))
    batches = _Batches(batch_orders)
    unpack = _Unpacker()
    async for chunk in document:
        for piece in unpack.feed(chunk):
            for batch in batches.feed(rows.feed(piece)):
                yield batch
    unpack.finish()
    for batch in batches.feed(rows.finish()):
        yield batch
    if last := batches.close():
        yield last


class _Unpacker:
    """Pieces of the document from chunks of what was sent, of one size whatever they unpack to."""

    def __init__(self) -> None:
        self._start = b""
        self._gzip: zlib._Decompress | None = None
        self._plain = False
        self._bytes = 0

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        if self._plain:
            yield from self._counted(chunk)
            return
        if self._gzip is None:
            self._start += chunk
            if len(self._start) < len(_GZIP):
                return
            chunk, self._start = self._start, b""
            if not chunk.startswith(_GZIP):
                self._plain = True
                yield from self._counted(chunk)
                return
            self._gzip = zlib.decompressobj(zlib.MAX_WBITS | 16)
        while chunk:
            try:
                piece = self._gzip.decompress(chunk, _PIECE_BYTES)
            except zlib.error as error:
                raise BrokenReportError("The report's document cannot be unpacked: its gzip is damaged.") from error
            yield from self._counted(piece)
            if self._gzip.eof:
                chunk = self._gzip.unused_data  # gzip allows one member behind another
                if chunk:
                    self._gzip = zlib.decompressobj(zlib.MAX_WBITS | 16)
            else:
                chunk = self._gzip.unconsumed_tail

    def finish(self) -> None:
        if self._gzip is not None and not self._gzip.eof:
            raise CutReportError("The report's document ends within its gzip: fetch it again.")

    def _counted(self, piece: bytes) -> Iterator[bytes]:
        self._bytes += len(piece)
        if self._bytes > MAX_BYTES:
            raise BrokenReportError(f"The report's document has more than {MAX_BYTES:,} bytes: it is not read further.")
        if piece:
            yield piece


class _Rows:
    """The columns that we read of each line, with its number, in the order of _READ."""

    def __init__(self, charsets: Sequence[str]) -> None:
        self._charsets = list(charsets)
        self._rest = b""
        self._line = 0
        self._width = 0
        self._pick: Callable[[Sequence[str]], _Row] | None = None

    def feed(self, piece: bytes) -> Iterator[tuple[int, _Row]]:
        lines, newline, self._rest = (self._rest + piece).rpartition(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise BrokenReportError(f"Line {self._line + 1} of the report is longer than {MAX_LINE_BYTES:,} bytes.")
        if newline:
            yield from self._read(lines, cut=False)

    def finish(self) -> Iterator[tuple[int, _Row]]:
        """The last line may have no end."""
        yield from self._read(self._rest, cut=True)
        if self._pick is None:
            raise RefusedReportError("")

    def _read(self, lines: bytes, *, cut: bool) -> Iterator[tuple[int, _Row]]:
        for line in self._decode(lines).split("\n"):
            self._line += 1
            cells = line.rstrip("\r").split("\t")
            if len(cells) == 1 and not cells[0].strip():
                continue
            if self._pick is None:
                self._pick = self._head(cells)
                self._width = len(cells)
            elif len(cells) == self._width:
                cells.append("")
                yield self._line, self._pick(cells)
            elif cut:
                raise CutReportError(f"The report's document ends within line {self._line}: fetch it again.")
            else:
                raise BrokenReportError(f"Line {self._line} of the report has {len(cells)} columns, not {self._width}.")

    def _decode(self, lines: bytes) -> str:
        """In the first charset that fits, from now on: what was read before it did not fit reads the same in both."""
        if self._line == 0:
            lines = lines.removeprefix(codecs.BOM_UTF8)
        lines = lines.replace(b"\0", b"")  # which PostgreSQL takes in no text
        while len(self._charsets) > 1:
            try:
                return lines.decode(self._charsets[0])
            except UnicodeDecodeError:
                del self._charsets[0]
        return lines.decode(self._charsets[0], "replace")

    @staticmethod
    def _head(header: Sequence[str]) -> Callable[[Sequence[str]], _Row]:
        """Picks what we read, and "" for what the report has not. Columns by name; a header in another language is
        known by its form: as many columns as Amazon documents, and those in English in their places.
        """
        names = [name.strip().strip('"').lower().replace(" ", "-").replace("_", "-") for name in header]
        if len(names) == 1:
            raise RefusedReportError(header[0].strip()[:_TEXT_CHARACTERS])
        places = {name: place for place, name in enumerate(names)}
        if len(names) == len(_COLUMNS) and all(
            name == documented or name not in _COLUMNS for name, documented in zip(names, _COLUMNS, strict=True)
        ):
            places = {name: place for place, name in enumerate(_COLUMNS)}
        missing = [name for name in _NEEDED if name not in places]
        if missing:
            raise BrokenReportError(
                f"The report lacks the columns {', '.join(missing)}. If its header is in another language, ask for the"
                " report in English, or teach orders/report.py its names."
            )
        return itemgetter(*(places.get(name, len(header)) for name in _READ))


class _Batches:
    """Orders of rows, in batches; who was seen in an earlier batch is continued."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._orders: dict[str, NewOrder] = {}
        self._told: dict[str, Continues] = {}

    def feed(self, rows: Iterator[tuple[int, _Row]]) -> Iterator[list[NewOrder]]:
        orders = self._orders
        for line, row in rows:
            order_id = row[0]
            known = orders.get(order_id)
            if known is None:
                if len(orders) >= self._size:
                    yield self.close()
                    orders = self._orders
                try:
                    order = _order(row)
                except _NonsenseError as error:
                    raise BrokenReportError(f"Line {line} of the report has no valid {error.column}.") from None
                told = self._told.get(order_id)
                orders[order_id] = order if told is None else replace(order, continues=told)
            else:
                try:
                    orders[order_id] = _with_row(known, row)
                except _NonsenseError as error:
                    raise BrokenReportError(f"Line {line} of the report has no valid {error.column}.") from None

    def close(self) -> list[NewOrder]:
        """What is collected; the next batch begins."""
        batch = list(self._orders.values())
        for order in batch:
            before = order.continues
            version, items = order.external_updated_at, len(order.items)
            self._told[order.external_order_id] = (
                Continues(max(version, before.version), items + before.items) if before else Continues(version, items)
            )
        self._orders = {}
        return batch


class _NonsenseError(Exception):
    """What stands in a column is nothing of its kind."""

    def __init__(self, column: str) -> None:
        super().__init__(column)
        self.column = column


def _order(row: _Row) -> NewOrder:
    order_id, purchased, updated, external_status, channel, title, sku, asin, quantity, currency, price = row[:11]
    if not _ORDER_ID.fullmatch(order_id):
        raise _NonsenseError("amazon-order-id")
    if not external_status:
        raise _NonsenseError("order-status")
    updated_at = _time(updated, "last-updated-date")
    status, delivery = _statuses(external_status)
    marketplace = BY_CHANNEL.get(channel.lower())
    return NewOrder(
        external_order_id=order_id,
        marketplace_id=marketplace.id if marketplace else None,
        customer_name=None,
        customer_email=None,
        order_date=_time(purchased, "purchase-date"),
        currency=currency or None,
        total_amount=_total(row),
        order_status=status,
        external_status=external_status,
        delivery_status=delivery,
        carrier=None,
        tracking_code=None,
        shipping_address=None,
        ship_by=None,
        deliver_by=None,
        shipped_at=None,
        delivered_at=updated_at if delivery is DeliveryStatus.DELIVERED else None,
        external_updated_at=updated_at,
        items=[_item(title, sku, asin, quantity, currency, price)],
        detail=Detail.REPORT,
    )


def _with_row(order: NewOrder, row: _Row) -> NewOrder:
    """A further item of the order, whose changes are the latest of its rows."""
    amount = _total(row)
    updated_at = _time(row[2], "last-updated-date")
    return replace(
        order,
        currency=order.currency or row[9] or None,
        total_amount=order.total_amount if amount is None else (order.total_amount or 0) + amount,
        external_updated_at=max(order.external_updated_at, updated_at),
        items=[*order.items, _item(*row[5:11])],
    )


def _item(title: str, sku: str, asin: str, quantity: str, currency: str, price: str) -> Item:
    count = _quantity(quantity)
    return Item(None, sku or None, asin or None, title or None, count, _unit_price(price, count), currency or None)


def _total(row: _Row) -> Decimal | None:
    """What the buyer pays for the row; taxes are part of its prices but where they come on top."""
    price = _amount(row[10], "item-price")
    if price is None or not any(row[11:]):
        return price
    amounts = [_amount(text, column) or _NOTHING for text, column in zip(row[11:], _READ[11:], strict=True)]
    added, taxes, discounts = amounts[:2], amounts[2:5], amounts[5:]
    on_top = taxes if row[4].lower() in _TAX_ON_TOP else []
    return price + sum(added, _NOTHING) + sum(on_top, _NOTHING) - sum(map(abs, discounts), _NOTHING)


@lru_cache(maxsize=4096)
def _statuses(external_status: str) -> tuple[OrderStatus, DeliveryStatus]:
    return statuses(external_status, None)


@lru_cache(maxsize=4096)
def _amount(text: str, column: str) -> Decimal | None:
    if not text:
        return None
    if not _AMOUNT.fullmatch(text):
        raise _NonsenseError(column)
    return Decimal(text)


@lru_cache(maxsize=4096)
def _unit_price(text: str, quantity: int) -> Decimal | None:
    """The report's price is that of all pieces."""
    price = _amount(text, "item-price")
    if price is None or quantity <= 1:
        return price
    each = price / quantity
    return each if each * quantity == price else round(each, 4)


@lru_cache(maxsize=256)
def _quantity(text: str) -> int:
    if not _QUANTITY.fullmatch(text):
        raise _NonsenseError("quantity")
    return int(text)


def _time(text: str, column: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _NonsenseError(column) from None
    if moment.tzinfo is None:
        raise _NonsenseError(column)
    return moment


def _charsets(content_type: str | None, marketplace_ids: Collection[str]) -> list[str]:
    """The declared one, if it says one that exists, then UTF-8, then what Amazon's older systems write."""
    charsets = ["utf-8", "cp932" if _JAPAN in marketplace_ids else "cp1252"]
    declared = re.search(r"charset=\"?([\w.:-]+)", content_type or "", re.IGNORECASE)
    if declared:
        try:
            name = codecs.lookup(declared[1]).name
        except LookupError:
            return charsets
        charsets.insert(0, _WIDER.get(name, name))
    return charsets
