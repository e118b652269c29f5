"""Amazon's own orders: those in the examples and the sandbox answers of the official model, from the sandbox through
the backfill and the database to what the product app is answered, each compared with the model's file itself.
"""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from devstack.stack import Stack
from orders import backfill, job_queries, order_queries, worker
from orders.details import Looks
from orders.mapping import from_amazon
from orders.routes import ROUTES
from orders.settings import OrdersSettings
from orders.windows import LEASE, Parts
from shared.amazon import orders as amazon_orders
from shared.amazon.spapi import SpApi
from shared.db import Pool
from shared.outbox import Outbox
from tests.builders import agent, serving
from tests.models import Json, model, needs_models
from tests.orders.conftest import Seller, connect

SELLER = "A3OFFICIALMODEL"
WINDOW = datetime(2024, 12, 1, tzinfo=UTC), datetime(2025, 4, 1, tzinfo=UTC)
"""The examples' dates; they don't move, so the window does not either."""

pytestmark = needs_models


def orders_in(node: Any) -> Iterator[Json]:
    if isinstance(node, dict):
        if {"orderId", "orderItems"} <= node.keys():
            yield node
        else:
            for value in node.values():
                yield from orders_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from orders_in(value)


def examples() -> dict[str, Json]:
    """The orders of every example, with their amounts as text. One that stands there twice is the same both times."""
    found: dict[str, Json] = {}
    for order in orders_in(model("orders")["paths"]):
        assert found.setdefault(order["orderId"], order) == order
    return found


async def answered(parts: Parts, stack: Stack, settings: OrdersSettings, tenant_id: str) -> list[Json]:
    """What the product app gets: the list, each order of it again with its items, amounts to the last digit."""
    dependencies = {"pool": parts.pool, "outbox": parts.outbox, "looks": Looks(parts)}
    async with serving("orders", ROUTES, settings, dependencies) as http:
        http.headers.update(agent(stack, tenant_id))
        listed = json.loads((await http.get("/api/v1/orders?limit=200")).content, parse_float=Decimal)["orders"]
        found = []
        for each in listed:
            one = json.loads((await http.get(f"/api/v1/orders/{each['id']}")).content, parse_float=Decimal)
            assert {name: value for name, value in one.items() if name != "items"} == each
            found.append(one)
        return found


def compare(theirs: Json, ours: Json, compared: Counter[str]) -> None:
    """Everything that the model's order holds of what we keep, and nothing where it holds none."""

    def same(kind: str, wanted: object, got: object) -> None:
        assert got == wanted, f"{theirs['orderId']}: {kind}"
        compared[kind] += wanted is not None

    def amount(kind: str, money: Json | None, got: object, currency: object) -> None:
        same(kind, Decimal(money["amount"]) if money else None, None if got is None else Decimal(str(got)))
        same(f"{kind} currency", money["currencyCode"] if money else None, currency if money else None)

    def moment(kind: str, wanted: str | None, got: str | None) -> None:
        parsed = [datetime.fromisoformat(text) if text else None for text in (wanted, got)]
        same(kind, *parsed)

    packages = theirs.get("packages", [])
    assert len(packages) <= 1, "the examples have no order in several packages: teach this test what to expect"
    package = packages[0] if packages else {}
    same("order id", theirs["orderId"], ours["externalOrderId"])
    same("marketplace id", theirs["salesChannel"].get("marketplaceId"), ours["marketplaceId"])
    amount("total", theirs.get("proceeds", {}).get("grandTotal"), ours["totalAmount"], ours["currency"])
    moment("order date", theirs["createdTime"], ours["orderDate"])
    moment("ship time", package.get("shipTime"), ours["shippedAt"])
    same("carrier", package.get("carrier"), ours["carrier"])
    same("tracking number", package.get("trackingNumber"), ours["trackingCode"])
    same("buyer name", theirs.get("buyer", {}).get("buyerName"), ours["customerName"])
    same("buyer email", theirs.get("buyer", {}).get("buyerEmail"), ours["customerEmail"])
    same("address", theirs.get("recipient", {}).get("deliveryAddress"), ours["shippingAddress"])
    items = {item["externalItemId"]: item for item in ours["items"]}
    assert len(items) == len(theirs["orderItems"])
    for item in theirs["orderItems"]:
        mine, product = items[item["orderItemId"]], item["product"]
        same("item", item["orderItemId"], mine["externalItemId"])
        same("sku", product.get("sellerSku"), mine["sku"])
        same("asin", product.get("asin"), mine["asin"])
        same("title", product.get("title"), mine["title"])
        same("quantity", item["quantityOrdered"], mine["quantity"])
        amount("unit price", product.get("price", {}).get("unitPrice"), mine["unitPrice"], mine["currency"])


COMPARED = {
    **dict.fromkeys(("order id", "marketplace id", "order date", "total", "total currency", "address"), 8),
    **dict.fromkeys(("buyer name", "buyer email"), 7),
    **dict.fromkeys(("carrier", "tracking number", "ship time"), 3),
    **dict.fromkeys(("item", "sku", "asin", "title", "quantity", "unit price", "unit price currency"), 10),
}
"""How many of each the model's examples hold: an empty comparison would prove nothing."""

STATUSES = {
    "123-4567890-1234567": ("DELIVERED", "DELIVERED"),
    "250-1234567-8901234": ("SHIPPED", "SHIPPED"),
    "202-7654321-1098765": ("SHIPPED", "OUT_FOR_DELIVERY"),
    "171-2345678-9012345": ("CONFIRMED", "PREPARING"),
    "202-1234567-8901234": ("SHIPPED", "OUT_FOR_DELIVERY"),
    "171-9876543-2109876": ("CONFIRMED", "PREPARING"),
    "028-1234567-8901234": ("SHIPPED", "SHIPPED"),
    "114-9876543-1234567": ("CONFIRMED", "PREPARING"),
}


def compare_all(found: list[Json]) -> None:
    true = examples()
    assert sorted(order["externalOrderId"] for order in found) == sorted(true)
    compared: Counter[str] = Counter()
    for order in found:
        compare(true[order["externalOrderId"]], order, compared)
    assert compared == COMPARED
    assert {order["externalOrderId"]: (order["orderStatus"], order["deliveryStatus"]) for order in found} == STATUSES


async def test_a_backfill_keeps_every_value_of_amazons_own_orders(
    pool: Pool, outbox: Outbox, parts: Parts, seller: Seller, settings: OrdersSettings, stack: Stack
) -> None:
    await seller.who_is(SELLER)
    await connect(pool, seller.tenant_id)
    async with pool.acquire() as conn, conn.transaction():
        job, _ = await backfill.request(conn, outbox, seller.tenant_id, 730)
        await conn.execute(
            "UPDATE backfill_windows SET from_at = $1, to_at = $2, rest_from = $1, rest_to = $2", *WINDOW
        )
    lease = await job_queries.claim_job(pool, LEASE)
    assert lease is not None
    await worker.work(parts, lease)
    done = await job_queries.get_job(pool, seller.tenant_id, job.id)
    assert done is not None
    assert (done.state, done.orders_stored, done.items_stored) == ("COMPLETED", 8, 10)
    compare_all(await answered(parts, stack, settings, seller.tenant_id))


async def test_an_order_fetched_alone_keeps_every_value_too(
    parts: Parts, api: SpApi, seller: Seller, settings: OrdersSettings, stack: Stack
) -> None:
    await seller.who_is(SELLER)
    for order_id in examples():
        order = from_amazon(await amazon_orders.get_order(api, seller.tenant_id, order_id))
        async with parts.pool.acquire() as conn, conn.transaction():
            await order_queries.upsert_orders(conn, seller.tenant_id, [order])
    compare_all(await answered(parts, stack, settings, seller.tenant_id))
