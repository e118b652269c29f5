"""Reports of orders: their life by the clock, and documents that tell the same orders as searchOrders does."""

import gzip
import signal
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest

from devstack.sandbox.orderbook import V0_STATUSES
from devstack.sandbox.reportbook import COLUMNS
from tests.sandbox.conftest import BY_LAST_UPDATE, REPORTS, Amazon, Answer, Tokens
from tests.sandbox.test_orders import assert_refused

TOO_LONG = "Date range exceeded. Report can be requested only upto 30 days"
FRANCE_AND_GERMANY = ["A13V1IB3VIYZZH", "A1PA6795UKMFR9"]


async def asked(amazon: Amazon, tokens: Tokens, **changes: object) -> str:
    answer = await amazon.report(tokens, **changes)
    assert answer.status_code == 202, answer.text
    assert answer.headers["x-amzn-RateLimit-Limit"] == "0.0167"
    return str(answer.json()["reportId"])


async def rows(amazon: Amazon, tokens: Tokens, **changes: object) -> list[dict[str, str]]:
    told, answer = await amazon.document(tokens, await asked(amazon, tokens, **changes))
    assert told["compressionAlgorithm"] == "GZIP"
    return parsed(gzip.decompress(answer.content).decode())


def parsed(text: str) -> list[dict[str, str]]:
    head, *lines = [line.split("\t") for line in text.removesuffix("\r\n").split("\r\n")]
    assert all(len(line) == len(head) for line in lines)
    return [dict(zip(head, line, strict=True)) for line in lines]


def expected(order: Answer) -> list[dict[str, str]]:
    """The rows of an order, told here in another way than the sandbox does."""
    fulfillment = order["fulfillment"]
    cancelled = fulfillment["fulfillmentStatus"] == "CANCELLED"
    packages = {package["packageStatus"]["status"] for package in order.get("packages", [])}
    status = "Cancelled" if cancelled else V0_STATUSES[fulfillment["fulfillmentStatus"]]
    if fulfillment["fulfilledBy"] == "MERCHANT" and status == "Shipped" and packages == {"DELIVERED"}:
        status = "Shipped - Delivered to Buyer"
    address = order["recipient"]["deliveryAddress"]
    found = []
    for item in order["orderItems"]:
        done = item["fulfillment"]
        sent = "Shipped" if not done["quantityUnfulfilled"] and done["quantityFulfilled"] else "Unshipped"
        money = item["proceeds"]["proceedsTotal"]
        filled = {
            "amazon-order-id": order["orderId"],
            "merchant-order-id": order["orderId"],
            "purchase-date": order["createdTime"].replace("Z", "+00:00"),
            "last-updated-date": order["lastUpdatedTime"].replace("Z", "+00:00"),
            "order-status": status,
            "fulfillment-channel": "Amazon" if fulfillment["fulfilledBy"] == "AMAZON" else "Merchant",
            "sales-channel": order["salesChannel"]["marketplaceName"],
            "ship-service-level": fulfillment["fulfillmentServiceLevel"].title().replace("_D", "D"),
            "product-name": item["product"]["title"],
            "sku": item["product"]["sellerSku"],
            "asin": item["product"]["asin"],
            "item-status": "Cancelled" if cancelled else sent,
            "quantity": str(item["quantityOrdered"]),
            "currency": "" if cancelled else money["currencyCode"],
            "item-price": "" if cancelled else money["amount"],
            "ship-city": address["city"],
            "ship-postal-code": address["postalCode"],
            "ship-country": address["countryCode"],
            "promotion-ids": ",".join(one["promotionId"] for one in item.get("promotion", {}).get("breakdowns", [])),
            "is-business-order": "false",
        }
        found.append({column: filled.get(column, "") for column in COLUMNS})
    return found


def window(orders: list[Answer], field: str, after: datetime) -> list[Answer]:
    return sorted(
        (one for one in orders if datetime.fromisoformat(one[field]) >= after), key=lambda one: str(one[field])
    )


@pytest.mark.parametrize(
    ("changes", "field"), [({}, "createdTime"), ({"reportType": BY_LAST_UPDATE}, "lastUpdatedTime")]
)
async def test_the_rows_are_the_orders_and_items_that_a_search_finds(
    amazon: Amazon, changes: dict[str, object], field: str
) -> None:
    seller = await amazon.seller(900, marketplaceIds=[*FRANCE_AND_GERMANY, "APJ6JRA9NG5V4"])
    tokens = await amazon.connect(seller)
    after = datetime.fromisoformat((await amazon.control("GET", "clock"))["now"]) - timedelta(days=20)
    told = await rows(amazon, tokens, marketplaceIds=FRANCE_AND_GERMANY, dataStartTime=after.isoformat(), **changes)
    parameter = {"createdTime": "createdAfter", "lastUpdatedTime": "lastUpdatedAfter"}[field]
    found = await amazon.search_all(
        tokens,
        marketplaceIds=",".join(FRANCE_AND_GERMANY),
        includedData="RECIPIENT,PROCEEDS,FULFILLMENT,PACKAGES,PROMOTION",
        **{parameter: after.isoformat()},
    )
    assert len(found) > 50
    assert told == [row for order in found for row in expected(order)]
    assert len({row["amazon-order-id"] for row in told}) < len(told), "some orders have several items"
    assert {"Cancelled", "Unshipped", "Shipped", "Shipped - Delivered to Buyer"} <= {
        one["order-status"] for one in told
    }
    assert {row["quantity"] for row in told if row["order-status"] == "Cancelled"} == {"0"}


async def test_both_ends_of_the_time_belong_to_it(amazon: Amazon) -> None:
    seller = await amazon.seller(20, days=20)
    tokens = await amazon.connect(seller)
    truth = await amazon.truth(seller)
    ends = {"dataStartTime": truth[3]["createdTime"], "dataEndTime": truth[6]["createdTime"]}
    told = await rows(amazon, tokens, **ends)
    assert told == [row for order in truth[3:7] for row in expected(order)]


async def test_a_report_is_queued_processed_and_done_by_the_clock(amazon: Amazon) -> None:
    seller = await amazon.seller(50, days=20, reports={"seconds": 100, "secondsPerRow": 1})
    tokens = await amazon.connect(seller)
    await amazon.control("POST", "clock", {"speed": 0})
    report_id = await asked(amazon, tokens)
    path = f"{REPORTS}/reports/{report_id}"
    number = sum(len(order["orderItems"]) for order in await amazon.truth(seller))
    seen = []
    for seconds in (0, 24.9, 0.2, 74.9 + number - 0.1, 0.2):
        await amazon.advance(seconds)
        told = (await amazon.get(path, tokens)).json()
        seen.append(told["processingStatus"])
        assert ("reportDocumentId" in told) == ("processingEndTime" in told) == (told["processingStatus"] == "DONE")
        assert ("processingStartTime" in told) == (told["processingStatus"] != "IN_QUEUE")
    assert seen == ["IN_QUEUE", "IN_QUEUE", "IN_PROGRESS", "IN_PROGRESS", "DONE"]
    took = datetime.fromisoformat(told["processingEndTime"]) - datetime.fromisoformat(told["createdTime"])
    assert took.total_seconds() == pytest.approx(100 + number, abs=0.002)


async def test_a_report_of_more_than_30_days_is_done_and_holds_a_sentence(amazon: Amazon) -> None:
    tokens = await amazon.connect(await amazon.seller(5))
    now = datetime.fromisoformat((await amazon.control("GET", "clock"))["now"])
    for days, text in ((30, COLUMNS[0]), (30.001, TOO_LONG)):
        times = {"dataStartTime": (now - timedelta(days=days)).isoformat(), "dataEndTime": now.isoformat()}
        _, answer = await amazon.document(tokens, await asked(amazon, tokens, **times))
        assert gzip.decompress(answer.content).decode().split("\t")[0] == text


async def test_a_report_without_data_is_empty_or_cancelled(amazon: Amazon) -> None:
    seller = await amazon.seller(0)
    tokens = await amazon.connect(seller)
    assert await rows(amazon, tokens) == []
    await amazon.control("PUT", f"sellers/{seller}/reports", {"cancelsEmpty": True})
    told = await amazon.done(tokens, await asked(amazon, tokens))
    assert told["processingStatus"] == "CANCELLED"
    assert "reportDocumentId" not in told


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize(
    ("charset", "marketplace_id", "region", "city"),
    [
        ("UTF-8", "A1C3SOZRARQ6R3", "EU", "Kraków"),
        ("ISO-8859-1", "A1C3SOZRARQ6R3", "EU", "Kraków"),
        ("cp932", "A1VC38T7YXB528", "FE", "Osaka"),
    ],
)
async def test_a_document_can_come_in_another_charset_and_with_other_headers(
    amazon: Amazon, charset: str, marketplace_id: str, region: str, city: str, *, declared: bool
) -> None:
    headers = {"amazon-order-id": "注文番号" if charset == "cp932" else "Numéro de commande", "sku": "SKU du vendeur"}
    habits = {"charset": charset, "declaresCharset": declared, "headers": headers, "compressed": False}
    seller = await amazon.seller(60, days=20, region=region, marketplaceIds=[marketplace_id], reports=habits)
    tokens = await amazon.connect(seller)
    address, answer = await amazon.document(tokens, await asked(amazon, tokens, marketplaceIds=[marketplace_id]))
    assert "compressionAlgorithm" not in address
    assert answer.headers["content-type"] == (
        f"text/plain; charset={charset}" if declared else "application/octet-stream"
    )
    told = parsed(answer.content.decode(charset))
    assert [*told[0]][:1] == [headers["amazon-order-id"]]
    assert {row["ship-city"] for row in told} == {city}
    truth = [item["product"] for order in await amazon.truth(seller) for item in order["orderItems"]]
    assert [row["product-name"] for row in told] == [product["title"] for product in truth]
    assert [row["SKU du vendeur"] for row in told] == [product["sellerSku"] for product in truth]
    assert any(not title.isascii() for title in (row["product-name"] for row in told))


async def test_a_charset_without_the_letter_writes_a_question_mark(amazon: Amazon) -> None:
    habits = {"charset": "cp932", "compressed": False}
    seller = await amazon.seller(60, days=20, marketplaceIds=["A1C3SOZRARQ6R3"], reports=habits)
    tokens = await amazon.connect(seller)
    report_id = await asked(amazon, tokens, marketplaceIds=["A1C3SOZRARQ6R3"])
    _, answer = await amazon.document(tokens, report_id)
    assert {row["ship-city"] for row in parsed(answer.content.decode("cp932"))} == {"Krak?w"}


async def test_a_document_can_be_downloaded_for_five_minutes(amazon: Amazon) -> None:
    tokens = await amazon.connect(await amazon.seller(5))
    report_id = await asked(amazon, tokens)
    address, answer = await amazon.document(tokens, report_id)
    assert answer.headers["content-length"] == str(len(answer.content))
    await amazon.advance(290)
    assert (await amazon.http.get(address["url"])).content == answer.content
    await amazon.advance(11)
    late = await amazon.http.get(address["url"])
    assert (late.status_code, "AccessDenied" in late.text) == (403, True)
    changed = await amazon.http.get(address["url"][:-4] + "AAAA")
    assert (changed.status_code, "SignatureDoesNotMatch" in changed.text) == (403, True)
    again, _ = await amazon.document(tokens, report_id)
    assert (await amazon.http.get(again["url"])).content == answer.content


async def test_a_fast_clock_leaves_the_caller_its_five_minutes(amazon: Amazon) -> None:
    tokens = await amazon.connect(await amazon.seller(5))
    report_id = await asked(amazon, tokens)
    await amazon.done(tokens, report_id)
    await amazon.control("POST", "clock", {"speed": 1000})
    address, _ = await amazon.document(tokens, report_id)
    await amazon.control("POST", "clock", {"speed": 1, "advanceSeconds": 250_000})
    assert (await amazon.http.get(address["url"])).status_code == 200


async def test_only_a_queued_report_can_be_cancelled(amazon: Amazon) -> None:
    tokens = await amazon.connect(await amazon.seller(5))
    headers = {"x-amz-access-token": tokens.access}
    first, second = await asked(amazon, tokens), await asked(amazon, tokens)
    answer = await amazon.http.delete(f"{REPORTS}/reports/{first}", headers=headers)
    assert (answer.status_code, answer.content) == (200, b"")
    assert (await amazon.done(tokens, first))["processingStatus"] == "CANCELLED"
    await amazon.document(tokens, second)
    assert_refused(await amazon.http.delete(f"{REPORTS}/reports/{second}", headers=headers), "reportId")
    assert (await amazon.http.delete(f"{REPORTS}/reports/1", headers=headers)).status_code == 404


async def test_reports_are_listed_newest_first_and_in_pages(amazon: Amazon) -> None:
    seller = await amazon.seller(5, marketplaceIds=FRANCE_AND_GERMANY)
    tokens = await amazon.connect(seller)
    ids = []
    for kind in ({}, {"reportType": BY_LAST_UPDATE}, {"marketplaceIds": FRANCE_AND_GERMANY[1:]}, {}):
        ids.append(await asked(amazon, tokens, **kind))
        await amazon.advance(100)

    async def listed(**parameters: str) -> list[list[str]]:
        pages: list[list[str]] = []
        query: dict[str, Any] = {"reportTypes": f"{BY_LAST_UPDATE},GET_FLAT_FILE_ALL_ORDERS_DATA_BY_ORDER_DATE_GENERAL"}
        query |= parameters
        while True:
            answer = await amazon.get(f"{REPORTS}/reports", tokens, query)
            if answer.status_code == 429:
                await amazon.advance(46)
                continue
            assert answer.status_code == 200, answer.text
            pages.append([one["reportId"] for one in answer.json()["reports"]])
            if "nextToken" not in answer.json():
                return pages
            query = {"nextToken": answer.json()["nextToken"]}

    assert await listed() == [ids[::-1]]
    assert await listed(pageSize="3") == [ids[:0:-1], ids[:1]]
    assert await listed(reportTypes=BY_LAST_UPDATE) == [[ids[1]]]
    assert await listed(marketplaceIds=FRANCE_AND_GERMANY[1]) == [[ids[2]]]
    created = (await amazon.get(f"{REPORTS}/reports/{ids[2]}", tokens)).json()["createdTime"]
    assert await listed(createdSince=created) == [ids[:1:-1]]
    assert await listed(createdUntil=created) == [ids[2::-1]]
    await asked(amazon, tokens)
    assert len((await listed(processingStatuses="IN_QUEUE"))[0]) == 1
    assert await listed(processingStatuses="DONE") == [ids[::-1]]
    other = await amazon.connect(await amazon.seller(5))
    assert (await amazon.get(f"{REPORTS}/reports/{ids[0]}", other)).status_code == 404
    assert_refused(await amazon.get(f"{REPORTS}/reports", other), "reportTypes")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"reportType": "GET_NOTHING"}, "reportType"),
        ({"reportType": None}, "reportType"),
        ({"marketplaceIds": []}, "marketplaceIds"),
        ({"marketplaceIds": ["ATVPDKIKX0DER"]}, "marketplaceIds"),
        ({"marketplaceIds": ["A13V1IB3VIYZZH"] * 26}, "marketplaceIds"),
        ({"dataStartTime": "yesterday"}, "dataStartTime"),
        ({"dataEndTime": "2020-01-01T00:00:00Z"}, "dataEndTime"),
        ({"dataEndTime": "2099-01-01T00:00:00Z"}, "dataEndTime"),
    ],
)
async def test_a_wrong_specification_is_refused(amazon: Amazon, changes: dict[str, object], named: str) -> None:
    tokens = await amazon.connect(await amazon.seller())
    assert_refused(await amazon.report(tokens, **changes), named)


@pytest.mark.parametrize("outcome", ["FATAL", "CANCELLED"])
async def test_a_report_can_be_told_to_fail(amazon: Amazon, outcome: str) -> None:
    seller = await amazon.seller(5)
    tokens = await amazon.connect(seller)
    await amazon.fail("createReport", outcome, seller)
    told = await amazon.done(tokens, await asked(amazon, tokens))
    assert (told["processingStatus"], "reportDocumentId" in told) == (outcome, False)
    assert (await amazon.done(tokens, await asked(amazon, tokens)))["processingStatus"] == "DONE"


async def test_a_report_can_be_told_to_hold_an_error(amazon: Amazon) -> None:
    seller = await amazon.seller(5)
    tokens = await amazon.connect(seller)
    await amazon.fail("createReport", "error_text", seller)
    _, answer = await amazon.document(tokens, await asked(amazon, tokens))
    assert gzip.decompress(answer.content) == b"Report data could not be generated. Please try again later."


async def test_a_download_can_be_late_cut_broken_or_refused(amazon: Amazon) -> None:
    seller = await amazon.seller(500, days=20)
    tokens = await amazon.connect(seller)
    report_id = await asked(amazon, tokens)
    _, whole = await amazon.document(tokens, report_id)
    await amazon.fail("getReportDocument", "url_expired", seller)
    _, expired = await amazon.document(tokens, report_id)
    assert expired.status_code == 403
    await amazon.fail("getReportDocument", "wrong_gzip", seller)
    _, broken = await amazon.document(tokens, report_id)
    assert len(broken.content) == len(whole.content)
    with pytest.raises(gzip.BadGzipFile):
        gzip.decompress(broken.content)
    await amazon.fail("getReportDocument", "cut", seller)
    with pytest.raises(httpx.TransportError):
        await amazon.document(tokens, report_id)
    await amazon.fail("download", 503, seller)
    _, refused = await amazon.document(tokens, report_id)
    assert refused.status_code == 503
    _, again = await amazon.document(tokens, report_id)
    assert again.content == whole.content


async def test_a_report_survives_a_kill_also_before_it_is_written(own: Amazon) -> None:
    seller = await own.seller(3000, days=20, ordersPerDay=50)
    tokens = await own.connect(seller)
    before = await asked(own, tokens)
    _, whole = await own.document(tokens, before)
    await own.advance(86_400)
    tokens = Tokens((await own.token("refresh_token", refresh_token=tokens.refresh)).json()["access_token"], "")
    unwritten = await asked(own, tokens)
    own.server.end(signal.SIGKILL)
    own.server.start()
    assert (await own.document(tokens, before))[1].content == whole.content
    truth = window(await own.truth(seller), "createdTime", datetime.now(UTC) - timedelta(days=29))
    told = (await own.document(tokens, unwritten))[1].content
    numbers = [row["amazon-order-id"] for row in parsed(gzip.decompress(told).decode())]
    assert len(numbers) > 1000
    assert set(numbers) <= {one["orderId"] for one in truth}


async def test_amounts_of_reports_and_searches_add_up_to_the_same(amazon: Amazon) -> None:
    seller = await amazon.seller(300, days=29)
    tokens = await amazon.connect(seller)
    told = await rows(amazon, tokens)
    orders = await amazon.truth(seller)
    total = sum(Decimal(one["proceeds"].get("grandTotal", {"amount": "0"})["amount"]) for one in orders)
    assert sum(Decimal(row["item-price"] or 0) for row in told) == total
