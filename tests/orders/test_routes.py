"""The HTTP of orders, as the product app asks it."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import httpx
import msgspec

from devstack.stack import Stack
from orders import order_queries
from orders.domain import DeliveryStatus, Item, NewOrder, OrderStatus
from shared.db import Pool
from tests.builders import agent
from tests.conftest import Told
from tests.orders.conftest import Disconnect, Follow, connect

ORDERS, BACKFILL = "/api/v1/orders", "/api/v1/orders/backfill"
TENANT, OTHER = "kbz-001", "kbz-002"
NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)
TOTALS = ("391.84", "441.50", "71.46", "1229.91", "83.1", "19940", "0.10", "12345678901234567890.123456789")


def order(number: int, total: str | None = "441.50") -> NewOrder:
    return NewOrder(
        external_order_id=f"407-0000000-{number:07}",
        marketplace_id="A13V1IB3VIYZZH",
        customer_name="Ada",
        customer_email="ada@marketplace.amazon.fr",
        order_date=NOW - timedelta(days=number),
        currency="EUR" if total else None,
        total_amount=Decimal(total) if total else None,
        order_status=OrderStatus.SHIPPED,
        external_status="SHIPPED",
        delivery_status=DeliveryStatus.IN_TRANSIT,
        carrier="DPD",
        tracking_code="42",
        shipping_address={"city": "Paris"},
        ship_by=NOW,
        deliver_by=None,
        shipped_at=NOW - timedelta(days=1),
        delivered_at=None,
        external_updated_at=NOW,
        items=[Item("1", "SKU", "B001", "Title", 2, Decimal("8.30"), "EUR")],
    )


async def store(pool: Pool, *orders: NewOrder, tenant_id: str = TENANT) -> None:
    async with pool.acquire() as conn, conn.transaction():
        await order_queries.upsert_orders(conn, tenant_id, orders)


async def test_the_list_has_every_field_of_an_order(http: httpx.AsyncClient, pool: Pool) -> None:
    await store(pool, order(1))
    answer = await http.get(ORDERS)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    [found] = body.pop("orders")
    assert body == {"nextCursor": None}
    assert found.pop("id")
    assert datetime.fromisoformat(found.pop("createdAt")) <= datetime.fromisoformat(found.pop("updatedAt"))
    assert found == {
        "tenantId": TENANT,
        "externalOrderId": "407-0000000-0000001",
        "orderRef": "#000001",
        "detail": "FULL",
        "marketplace": "AMAZON",
        "marketplaceId": "A13V1IB3VIYZZH",
        "customerName": "Ada",
        "customerEmail": "ada@marketplace.amazon.fr",
        "orderDate": "2026-01-09T12:00:00Z",
        "currency": "EUR",
        "totalAmount": 441.5,
        "orderStatus": "SHIPPED",
        "deliveryStatus": "IN_TRANSIT",
        "savStatus": "NONE",
        "slaStatus": "OK",
        "carrier": "DPD",
        "trackingCode": "42",
        "shippingAddress": {"city": "Paris"},
        "shippedAt": "2026-01-09T12:00:00Z",
        "deliveredAt": None,
    }


async def test_amounts_are_json_numbers_exactly_as_they_are_stored(http: httpx.AsyncClient, pool: Pool) -> None:
    await store(pool, *(order(number, total) for number, total in enumerate(TOTALS)), order(99, None))
    text = (await http.get(ORDERS)).text
    assert [bytes(each["totalAmount"]).decode() for each in raw_orders(text)] == [*TOTALS, "null"]


def raw_orders(text: str) -> list[dict[str, msgspec.Raw]]:
    """The answer with each value as the bytes it came in: a float would hide a lost digit."""
    outer = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    return msgspec.json.decode(outer["orders"], type=list[dict[str, msgspec.Raw]])


async def test_one_order_has_its_items(http: httpx.AsyncClient, pool: Pool) -> None:
    await store(pool, order(1))
    [listed] = (await http.get(ORDERS)).json()["orders"]
    answer = await http.get(f"{ORDERS}/{listed['id']}")
    body = answer.json()
    assert body.pop("items") == [
        {
            "externalItemId": "1",
            "sku": "SKU",
            "asin": "B001",
            "title": "Title",
            "quantity": 2,
            "unitPrice": 8.3,
            "currency": "EUR",
        }
    ]
    assert (answer.status_code, body) == (200, listed)
    assert b'"unitPrice":8.30' in answer.content


async def test_the_pages_of_the_list_join_up(http: httpx.AsyncClient, pool: Pool) -> None:
    await store(pool, *(order(number) for number in range(25)))
    seen: list[str] = []
    parameters: dict[str, str] = {"limit": "10"}
    for size in (10, 10, 5):
        body = (await http.get(ORDERS, params=parameters)).json()
        assert len(body["orders"]) == size
        seen += [each["externalOrderId"] for each in body["orders"]]
        parameters["cursor"] = body["nextCursor"]
    assert body["nextCursor"] is None
    assert seen == [f"407-0000000-{number:07}" for number in range(25)]


async def test_a_full_last_page_has_no_next_one(http: httpx.AsyncClient, pool: Pool) -> None:
    await store(pool, *(order(number) for number in range(3)))
    assert (await http.get(ORDERS, params={"limit": 3})).json()["nextCursor"] is None


async def test_the_list_finds_one_order_by_amazons_id(http: httpx.AsyncClient, pool: Pool) -> None:
    await store(pool, *(order(number) for number in range(3)))
    wanted = {"externalOrderId": "407-0000000-0000002"}
    assert [each["orderRef"] for each in (await http.get(ORDERS, params=wanted)).json()["orders"]] == ["#000002"]
    assert (await http.get(ORDERS, params={"externalOrderId": "999-0000000-0000002"})).json()["orders"] == []


async def test_what_cannot_be_asked_for_is_refused_and_named(http: httpx.AsyncClient) -> None:
    for parameters, field in (
        ({"limit": "0"}, "limit"),
        ({"limit": "201"}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"cursor": "not-a-cursor"}, "cursor"),
        ({"cursor": "gqA"}, "cursor"),
        ({"externalOrderId": "1'; DROP TABLE orders"}, "externalOrderId"),
        ({"externalOrderId": "\x00"}, "externalOrderId"),
        ({"externalOrderId": "4" * 65}, "externalOrderId"),
    ):
        answer = await http.get(ORDERS, params=parameters)
        assert answer.status_code == 400, parameters
        assert [error["field"] for error in answer.json()["errors"]] == [field], answer.text


async def test_the_largest_page_is_two_hundred(http: httpx.AsyncClient, pool: Pool) -> None:
    await store(pool, *(order(number) for number in range(201)))
    assert len((await http.get(ORDERS, params={"limit": 200})).json()["orders"]) == 200


async def test_another_tenants_orders_are_not_there(http: httpx.AsyncClient, pool: Pool, stack: Stack) -> None:
    await store(pool, order(1))
    order_id = (await http.get(ORDERS)).json()["orders"][0]["id"]
    other = agent(stack, OTHER)
    assert (await http.get(ORDERS, headers=other)).json()["orders"] == []
    assert (await http.get(f"{ORDERS}/{order_id}", headers=other)).status_code == 404
    assert (await http.get(ORDERS, headers={"X-Tenant-Id": OTHER})).status_code == 404


async def test_what_is_not_there_is_404(http: httpx.AsyncClient) -> None:
    for path in (f"{ORDERS}/{uuid4()}", f"{ORDERS}/backfills/{uuid4()}", f"{ORDERS}/no-uuid"):
        answer = await http.get(path)
        assert answer.status_code == 404, path
        assert answer.headers["content-type"] == "application/problem+json"


async def test_without_credentials_nothing_is_answered(http: httpx.AsyncClient) -> None:
    del http.headers["Authorization"]
    assert (await http.get(ORDERS)).status_code == 401
    assert (await http.post(BACKFILL, json={"days": 90})).status_code == 401


async def test_a_backfill_is_accepted_and_the_running_one_named_again(
    http: httpx.AsyncClient, pool: Pool, told: Told
) -> None:
    await connect(pool, TENANT)
    answer = await http.post(BACKFILL, json={"days": 30})
    assert answer.status_code == 202
    job = answer.json()
    assert (job["tenantId"], job["days"], job["state"], job["ordersStored"]) == (TENANT, 30, "REQUESTED", 0)
    again = await http.post(BACKFILL, json={"days": 90})
    assert (again.status_code, again.json()) == (202, job)
    assert (await http.get(f"{ORDERS}/backfills/{job['id']}")).json() == job
    assert [subject for subject, _ in await told(pool)] == ["backfill.requested"]


async def test_a_backfill_reaches_back_ninety_days_unless_it_is_told(http: httpx.AsyncClient, pool: Pool) -> None:
    await connect(pool, TENANT)
    assert (await http.post(BACKFILL, json={})).json()["days"] == 90


async def test_days_out_of_range_are_refused_and_named(http: httpx.AsyncClient, pool: Pool, told: Told) -> None:
    await connect(pool, TENANT)
    for days in (0, -1, 731, 1.5, "many", None):
        answer = await http.post(BACKFILL, json={"days": days})
        assert answer.status_code == 400, days
        assert [error["field"] for error in answer.json()["errors"]] == ["days"], answer.text
    assert await told(pool) == []


async def test_a_tenant_without_an_account_has_nothing_to_backfill(
    http: httpx.AsyncClient, pool: Pool, told: Told
) -> None:
    await connect(pool, OTHER)
    answer = await http.post(BACKFILL, json={"days": 90})
    assert (answer.status_code, answer.json()["code"]) == (409, "tenant_not_connected")
    assert await told(pool) == []


async def test_an_archived_tenant_requests_nothing_until_it_comes_back(
    http: httpx.AsyncClient, pool: Pool, follow: Follow, told: Told
) -> None:
    await connect(pool, TENANT)
    first = (await http.post(BACKFILL, json={})).json()
    await follow(status="ARCHIVED")
    answer = await http.post(BACKFILL, json={})
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, answer.json()["code"]) == (409, "tenant_archived")
    ended = (await http.get(f"{ORDERS}/backfills/{first['id']}")).json()
    assert (ended["state"], ended["errorCode"]) == ("CANCELLED", "tenant_archived")
    assert [subject for subject, _ in await told(pool)] == ["backfill.requested", "backfill.failed"]
    await follow(status="ACTIVE")
    again = await http.post(BACKFILL, json={})
    assert (again.status_code, again.json()["state"]) == (202, "REQUESTED")
    assert again.json()["id"] != first["id"]


async def test_a_disconnected_account_requests_nothing_until_it_is_connected_again(
    http: httpx.AsyncClient, pool: Pool, disconnect: Disconnect, told: Told
) -> None:
    await connect(pool, TENANT)
    first = (await http.post(BACKFILL, json={})).json()
    await disconnect()
    answer = await http.post(BACKFILL, json={})
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, answer.json()["code"]) == (409, "tenant_not_connected")
    assert "no connected Amazon account: connect it first" in answer.json()["detail"]
    ended = (await http.get(f"{ORDERS}/backfills/{first['id']}")).json()
    assert (ended["state"], ended["errorCode"]) == ("CANCELLED", "account_disconnected")
    assert [subject for subject, _ in await told(pool)] == ["backfill.requested", "backfill.failed"]
    await connect(pool, TENANT)
    again = await http.post(BACKFILL, json={})
    assert (again.status_code, again.json()["state"]) == (202, "REQUESTED")
    assert again.json()["id"] != first["id"]


async def test_another_tenants_backfill_is_not_there(http: httpx.AsyncClient, pool: Pool, stack: Stack) -> None:
    await connect(pool, TENANT)
    job = (await http.post(BACKFILL, json={})).json()
    assert (await http.get(f"{ORDERS}/backfills/{job['id']}", headers=agent(stack, OTHER))).status_code == 404
