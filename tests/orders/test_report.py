"""Documents of order reports, good and bad."""

import zlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orders import order_queries, report
from orders.domain import Continues, Detail, NewOrder
from orders.report import BrokenReportError, CutReportError, RefusedReportError, read_orders
from shared.amazon.marketplaces import MARKETPLACES
from shared.db import Pool

NAMES = report._COLUMNS
JAPAN = "A1VC38T7YXB528"
ROW = {
    "amazon-order-id": "407-0000000-0000001",
    "purchase-date": "2026-01-02T03:04:05+00:00",
    "last-updated-date": "2026-01-03T03:04:05+00:00",
    "order-status": "Shipped",
    "sales-channel": "Amazon.fr",
    "product-name": "Flask",
    "sku": "SKU",
    "asin": "B000000001",
    "quantity": "1",
    "currency": "EUR",
    "item-price": "9.90",
}


def line(number: int = 1, **changes: str) -> str:
    cells = ROW | {"amazon-order-id": f"407-0000000-{number:07}"}
    cells |= {name.replace("_", "-"): value for name, value in changes.items()}
    return "\t".join(cells.get(name, "") for name in NAMES)


def document(*lines: str, header: Iterable[str] = NAMES) -> bytes:
    return "".join(f"{each}\r\n" for each in ("\t".join(header), *lines)).encode()


def packed(content: bytes) -> bytes:
    return zlib.compress(content, wbits=zlib.MAX_WBITS | 16)


async def chunks(content: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def batches(
    content: bytes,
    content_type: str | None = None,
    marketplace_ids: tuple[str, ...] = (),
    *,
    size: int = 1000,
    batch_orders: int = 500,
) -> list[list[NewOrder]]:
    return [each async for each in read_orders(chunks(content, size), content_type, marketplace_ids, batch_orders)]


async def orders(
    content: bytes, content_type: str | None = None, marketplace_ids: tuple[str, ...] = (), *, size: int = 1000
) -> list[NewOrder]:
    return [each for batch in await batches(content, content_type, marketplace_ids, size=size) for each in batch]


async def test_a_row_is_an_order_as_far_as_it_tells() -> None:
    [order] = await orders(document(line(order_status="Shipped - Delivered to Buyer", quantity="2")))
    assert (order.external_order_id, order.detail, order.order_ref) == (
        *("407-0000000-0000001", Detail.REPORT, "#000001"),
    )
    assert (order.order_date, order.external_updated_at) == (
        datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        datetime(2026, 1, 3, 3, 4, 5, tzinfo=UTC),
    )
    assert (order.order_status, order.delivery_status, order.external_status, order.delivered_at) == (
        *("DELIVERED", "DELIVERED", "Shipped - Delivered to Buyer", order.external_updated_at),
    )
    assert (order.marketplace_id, order.currency, order.total_amount) == ("A13V1IB3VIYZZH", "EUR", Decimal("9.90"))
    [item] = order.items
    assert (item.external_item_id, item.sku, item.asin, item.title, item.quantity, item.unit_price, item.currency) == (
        *(None, "SKU", "B000000001", "Flask", 2, Decimal("4.95"), "EUR"),
    )


async def test_a_cancelled_row_without_a_price_and_with_quantity_zero_is_an_order() -> None:
    [order] = await orders(document(line(order_status="Cancelled", quantity="0", currency="", item_price="")))
    assert (order.order_status, order.total_amount, order.currency) == ("CANCELLED", None, None)
    assert [(each.quantity, each.unit_price) for each in order.items] == [(0, None)]


@pytest.mark.parametrize(
    ("channel", "total"), [("Amazon.de", "22.40"), ("Amazon.com", "26.90"), ("Amazon.ca", "26.90"), ("Other", "22.40")]
)
async def test_what_the_buyer_pays_is_the_sum_of_the_row(channel: str, total: str) -> None:
    row = line(
        sales_channel=channel,
        item_price="20.00",
        item_tax="3.00",
        shipping_price="4.40",
        shipping_tax="1.00",
        gift_wrap_price="2.00",
        gift_wrap_tax="0.50",
        item_promotion_discount="3.00",
        ship_promotion_discount="-1.00",
    )
    [order] = await orders(document(row))
    assert order.total_amount == Decimal(total)


async def test_a_price_that_the_quantity_does_not_divide_is_told_to_four_places() -> None:
    [order] = await orders(document(line(item_price="10.00", quantity="3")))
    assert (order.items[0].unit_price, order.total_amount) == (Decimal("3.3333"), Decimal("10.00"))


async def test_every_marketplaces_channel_is_known_and_others_are_none() -> None:
    lines = [line(number, sales_channel=f"Amazon.{each.domain}") for number, each in enumerate(MARKETPLACES)]
    found = await orders(document(*lines, line(99, sales_channel="Non-Amazon")))
    assert [each.marketplace_id for each in found] == [*(each.id for each in MARKETPLACES), None]


async def test_rows_of_one_order_are_one_order_wherever_they_stand_in_a_batch() -> None:
    later = "2026-01-09T00:00:00+00:00"
    [first, second] = await orders(
        document(line(1, sku="a"), line(2), line(1, sku="b", last_updated_date=later), line(1, sku="a"))
    )
    assert [each.sku for each in first.items] == ["a", "b", "a"]
    assert (first.total_amount, first.external_updated_at) == (Decimal("29.70"), datetime.fromisoformat(later))
    assert len(second.items) == 1


async def test_rows_that_come_batches_later_continue_their_order() -> None:
    lines = [line(1, sku="a"), line(1, sku="b"), line(2), line(3), line(1, sku="c"), line(4), line(1, sku="d")]
    found = await batches(document(*lines), batch_orders=2)
    parts = [each for batch in found for each in batch if each.external_order_id.endswith("1")]
    assert [[item.sku for item in each.items] for each in parts] == [["a", "b"], ["c"], ["d"]]
    updated_at = parts[0].external_updated_at
    assert [each.continues for each in parts] == [None, Continues(updated_at, 2), Continues(updated_at, 3)]


async def test_what_continues_an_order_knows_its_latest_change_so_far() -> None:
    first, later = line(1, last_updated_date="2026-01-09T00:00:00Z"), line(1)
    found = await batches(document(first, line(2), later, line(3), later), batch_orders=1)
    last = found[-1][0].continues
    assert last == Continues(datetime(2026, 1, 9, tzinfo=UTC), 2)


async def test_a_shuffled_report_is_stored_whole_and_a_second_time_not_at_all(pool: Pool) -> None:
    lines = [line(number, sku=f"{place}", item_price=f"{place}.10") for place in range(3) for number in range(40)]
    for _ in range(2):
        for batch in await batches(document(*lines), batch_orders=7):
            async with pool.acquire() as conn, conn.transaction():
                await order_queries.upsert_orders(conn, "kbz-001", batch)
        rows = await pool.fetch(
            "SELECT o.total_amount, array_agg(i.sku ORDER BY i.position) AS skus"
            "  FROM orders o JOIN order_items i ON i.order_id = o.id GROUP BY o.id"
        )
        assert [tuple(row) for row in rows] == [(Decimal("3.30"), ["0", "1", "2"])] * 40


@pytest.mark.parametrize("size", [1, 7, 100_000])
async def test_a_document_reads_the_same_in_chunks_of_any_size_packed_or_not(size: int) -> None:
    content = document(*(line(number) for number in range(20)))
    members = packed(content[:900]) + packed(content[900:])
    for each in (content, packed(content), members):
        assert len(await orders(each, size=size)) == 20


@pytest.mark.parametrize("content", [document(), document().rstrip(), packed(document())])
async def test_a_report_of_nothing_but_a_header_has_no_orders(content: bytes) -> None:
    assert await batches(content) == []


@pytest.mark.parametrize("content", [b"", b"\r\n", b"\xef\xbb\xbf", packed(b"")])
async def test_a_document_without_a_header_is_refused(content: bytes) -> None:
    with pytest.raises(RefusedReportError) as refused:
        await batches(content)
    assert refused.value.text == ""


@pytest.mark.parametrize("pack", [bytes, packed])
async def test_amazons_words_in_place_of_a_report_are_told(pack: Callable[[bytes], bytes]) -> None:
    text = "Date range exceeded. Report can be requested only upto 30 days"
    with pytest.raises(RefusedReportError, match="only upto 30 days") as refused:
        await batches(pack(text.encode()))
    assert refused.value.text == text


@pytest.mark.parametrize(
    ("charset", "content_type", "marketplace_ids", "title"),
    [
        ("utf-8", None, (), "Écharpe 漆器"),
        ("utf-8-sig", None, (), "Écharpe"),
        ("utf-8", "text/plain;charset=UTF-8", (), "Écharpe"),
        ("cp1252", None, (), "Écharpe “5 €”"),
        ("cp1252", "text/plain;charset=UTF-8", (), "Écharpe “5 €”"),
        ("cp1252", 'text/plain; charset="ISO-8859-1"', (), "Écharpe “5 €”"),
        ("cp1252", "text/plain;charset=Cp1252", (JAPAN,), "Écharpe"),
        ("cp932", None, (JAPAN,), "漆器①"),
        ("cp932", "text/plain;charset=Shift_JIS", (), "漆器①"),
        ("cp932", "text/plain;charset=no-such", (JAPAN,), "漆器"),
    ],
)
async def test_the_charset_is_the_declared_one_or_what_fits(
    charset: str, content_type: str | None, marketplace_ids: tuple[str, ...], title: str
) -> None:
    many = [line(number, product_name="plain") for number in range(30)]
    content = document(*many, line(99, product_name=title)).decode().encode(charset)
    found = await orders(content, content_type, marketplace_ids)
    assert [each.items[0].title for each in found] == ["plain"] * 30 + [title]
    assert found[0].external_order_id == "407-0000000-0000000"


async def test_quotes_have_no_meaning_and_nul_no_place() -> None:
    [order] = await orders(document(line(product_name='"6" Pan, 28\0cm')))
    assert order.items[0].title == '"6" Pan, 28cm'


async def test_columns_are_found_by_name() -> None:
    header = ["new-column", *reversed(NAMES), "another"]
    row = "\t".join(["x", *reversed(line().split("\t")), "y"])
    assert await orders(document(row, header=header)) == await orders(document(line()))


async def test_a_header_in_another_language_is_known_by_its_form() -> None:
    header = [{"amazon-order-id": "注文番号", "quantity": "数量"}.get(name, name) for name in NAMES]
    assert await orders(document(line(), header=header)) == await orders(document(line()))
    header = [f"列{number}" for number in range(len(NAMES))]
    assert await orders(document(line(), header=header)) == await orders(document(line()))


@pytest.mark.parametrize(
    "header",
    [
        [name for name in NAMES if name not in {"sku", "quantity"}],
        [f"x-{name}" if name in {"sku", "quantity"} else name for name in [*NAMES, "more"]],
        [{"sku": "cpf", "cpf": "x", "quantity": "y"}.get(name, name) for name in NAMES],
    ],
)
async def test_a_header_without_what_we_need_is_refused_by_name(header: list[str]) -> None:
    with pytest.raises(BrokenReportError, match="sku, quantity"):
        await batches(document(line(), header=header))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("amazon-order-id", ""),
        ("amazon-order-id", "Ada Lovelace"),
        ("order-status", ""),
        ("purchase-date", "yesterday"),
        ("purchase-date", "2026-01-02T03:04:05"),
        ("last-updated-date", ""),
        ("last-updated-date", "2026-02-30T00:00:00Z"),
        ("quantity", ""),
        ("quantity", "-1"),
        ("quantity", "1.5"),
        ("quantity", "99999999999"),
        ("item-price", "9,90"),
        ("item-price", "NaN"),
        ("item-price", "1e9"),
        ("item-price", "٣"),
        ("shipping-price", "free"),
        ("item-tax", "Infinity"),
        ("item-promotion-discount", "x"),
    ],
)
async def test_nonsense_is_named_by_its_line_and_never_quoted(column: str, value: str) -> None:
    with pytest.raises(BrokenReportError) as broken:
        await batches(document(line(1), line(2), line(3, **{column: value})))
    assert str(broken.value) == f"Line 4 of the report has no valid {column}."


@pytest.mark.parametrize("column", ["last-updated-date", "quantity", "item-price", "shipping-tax"])
async def test_nonsense_in_a_further_row_of_an_order_is_named_too(column: str) -> None:
    with pytest.raises(BrokenReportError, match=f"Line 3 of the report has no valid {column}"):
        await batches(document(line(1), line(1, **{column: "x"})))


@pytest.mark.parametrize("row", [line() + "\tmore", line().rsplit("\t", 1)[0], "text"])
async def test_a_row_with_other_columns_than_the_header_is_refused(row: str) -> None:
    with pytest.raises(BrokenReportError, match=r"Line 2 of the report has \d+ columns, not 32"):
        await batches(document(row, line(2)))


async def test_a_document_that_ends_too_early_is_to_be_fetched_again() -> None:
    whole = document(*(line(number) for number in range(50)))
    with pytest.raises(CutReportError, match="line 51"):
        await batches(whole[:-60])
    content = packed(whole)
    for size in (5, len(content) // 2, len(content) - 1):
        with pytest.raises(CutReportError):
            await batches(content[:size])


async def test_what_came_before_the_cut_comes_in_whole_batches() -> None:
    whole = document(*(line(number) for number in range(50)))
    found: list[NewOrder] = []

    async def collect() -> None:
        async for batch in read_orders(chunks(whole[:-60]), batch_orders=20):
            found.extend(batch)

    with pytest.raises(CutReportError):
        await collect()
    assert [each.external_order_id for each in found] == [f"407-0000000-{number:07}" for number in range(40)]


async def test_the_last_line_needs_no_end() -> None:
    assert len(await orders(document(line(1), line(2)).removesuffix(b"\r\n"))) == 2


async def test_damaged_gzip_is_refused() -> None:
    content = bytearray(packed(document(*(line(number) for number in range(50)))))
    content[len(content) // 2] ^= 0xFF
    with pytest.raises(BrokenReportError, match="gzip is damaged"):
        await batches(bytes(content))


async def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    feed = report._Rows.feed

    def spy(rows: report._Rows, piece: bytes) -> object:
        seen.append(len(piece))
        return feed(rows, piece)

    monkeypatch.setattr(report._Rows, "feed", spy)
    monkeypatch.setattr(report, "MAX_BYTES", 1 << 20)
    bomb = packed(document() + b"\n" * (50 << 20))
    assert len(bomb) < 100_000
    with pytest.raises(BrokenReportError, match="more than 1,048,576 bytes"):
        await batches(bomb, size=len(bomb))
    assert max(seen) <= 1 << 16
    assert sum(seen) <= 1 << 20


async def test_a_line_without_end_is_refused() -> None:
    with pytest.raises(BrokenReportError, match="longer than"):
        await batches(document() + b"x" * (2 << 20))


TEXT = st.text(st.characters(exclude_characters="\t\r\n\0", exclude_categories=["Cs"]), max_size=12)
ROWS = st.lists(
    st.tuples(st.integers(1, 6), TEXT, st.integers(0, 9), st.decimals(0, 10**6, places=2), st.booleans()), max_size=25
)


@settings(deadline=None)
@given(ROWS, st.integers(1, 4), st.integers(1, 400), st.booleans())
async def test_every_item_of_every_row_is_read_once_whatever_the_batches(
    rows: list[tuple[int, str, int, Decimal, bool]], batch_orders: int, size: int, pack: bool
) -> None:
    lines = [line(number, product_name=title, quantity=str(n), item_price=str(p)) for number, title, n, p, _ in rows]
    content = document(*lines)
    found = await batches(packed(content) if pack else content, size=size, batch_orders=batch_orders)
    assert all(1 <= len(batch) <= batch_orders for batch in found)
    read: dict[str, list[NewOrder]] = {}
    for order in (each for batch in found for each in batch):
        parts = read.setdefault(order.external_order_id, [])
        before = sum(len(each.items) for each in parts)
        assert order.continues == (Continues(order.external_updated_at, before) if parts else None)
        parts.append(order)
    for number in {number for number, *_ in rows}:
        parts = read.pop(f"407-0000000-{number:07}")
        mine = [row for row in rows if row[0] == number]
        items = [item for each in parts for item in each.items]
        assert [(each.title or "", each.quantity) for each in items] == [(title, n) for _, title, n, _, _ in mine]
        assert sum(each.total_amount or 0 for each in parts) == sum(price for *_, price, _ in mine)
    assert read == {}


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(1, 64), st.sampled_from(["no", "header", "gzip"]))
async def test_any_bytes_are_orders_or_a_named_error(junk: bytes, size: int, before: str) -> None:
    content = {"no": b"", "header": document(line()), "gzip": packed(document(line()))}[before] + junk
    with suppress(RefusedReportError, BrokenReportError, CutReportError):
        await batches(content, size=size)
