"""Lists by every filter, search and sort, beside the same said in Python; pages, entity tags and what is refused."""

import asyncio
import itertools
import os
import random
import subprocess
import sys
from datetime import datetime, timedelta
from typing import Any, TypeVar

import httpx
import msgspec
import pytest

from devstack.stack import Stack
from orders.domain import DeliveryStatus, NewOrder, OrderStatus, SlaStatus, Sort
from orders.routes import OrderAnswer, OrdersAnswer
from orders.search_queries import SLA_STATUS
from orders.sla import sla_status
from shared.db import Pool
from tests.builders import agent
from tests.orders.test_queries import order, store

T = TypeVar("T")
ORDERS = "/api/v1/orders"
TENANT, OTHER = "kbz-001", "kbz-002"
HOUR, DAY, TINY = timedelta(hours=1), timedelta(days=1), timedelta(microseconds=1)
MARKETPLACES = ("A13V1IB3VIYZZH", "A1PA6795UKMFR9", "APJ6JRA9NG5V4", None)
Answered = dict[str, Any]


@pytest.fixture
async def now(pool: Pool) -> datetime:
    at: datetime = await pool.fetchval("SELECT clock_timestamp()")
    return at


async def listed(http: httpx.AsyncClient, **parameters: Any) -> list[Answered]:
    answer = await http.get(ORDERS, params=parameters)
    assert answer.status_code == 200, answer.text
    orders: list[Answered] = answer.json()["orders"]
    return orders


async def ids(http: httpx.AsyncClient, **parameters: Any) -> list[str]:
    return [each["externalOrderId"] for each in await listed(http, **parameters)]


async def test_the_database_and_the_function_agree_on_every_sla_status(pool: Pool, now: datetime) -> None:
    steps = (-2 * DAY, -TINY, timedelta(0), TINY, DAY - TINY, DAY, DAY + TINY, 2 * DAY)
    deadlines = [None, *(now + step for step in steps)]
    shipped = [None, *(now + step for step in (-3 * DAY, -2 * DAY, -2 * DAY + TINY, timedelta(0), TINY))]
    cases = list(itertools.product(OrderStatus, deadlines, deadlines, shipped))
    statement = SLA_STATUS.replace("statement_timestamp()", "$5::timestamptz")
    found = await pool.fetch(
        f"SELECT {statement} AS status FROM (SELECT sla_due(status, ship_by, deliver_by, shipped_at) AS sla_due"  # noqa: S608
        " FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[], $4::timestamptz[])"
        " WITH ORDINALITY cases (status, ship_by, deliver_by, shipped_at, number) ORDER BY number) judged",
        *([case[part] for case in cases] for part in range(4)),
        now,
    )
    assert [row["status"] for row in found] == [sla_status(*case, now) for case in cases]


def some_orders(chance: random.Random, now: datetime, count: int) -> list[NewOrder]:
    """Of every kind; no deadline is near enough to now to pass it while the test runs."""
    hours = [None, -72, -48, -5, 5, 20, 30, 200]

    def at() -> datetime | None:
        hour = chance.choice(hours)
        return None if hour is None else now + hour * HOUR

    return [
        order(
            f"40{chance.randrange(3)}-{number:07}-{chance.randrange(10**7):07}",
            order_date=now - chance.randrange(20) * DAY,
            order_status=chance.choice(list(OrderStatus)),
            delivery_status=chance.choice(list(DeliveryStatus)),
            marketplace_id=chance.choice(MARKETPLACES),
            ship_by=at(),
            deliver_by=at(),
            shipped_at=at(),
        )
        for number in range(count)
    ]


def chosen(chance: random.Random, values: list[T], most: int = 3) -> list[T]:
    return chance.sample(values, chance.randrange(min(most, len(values)) + 1)) if chance.random() < 0.5 else []


async def test_each_filter_in_each_sort_gives_what_it_should_in_pages_without_gap_or_double(
    http: httpx.AsyncClient, pool: Pool, now: datetime
) -> None:
    chance = random.Random(5)  # noqa: S311 - the same every time
    mine = some_orders(chance, now, 150)
    await store(pool, *mine[75:])
    await store(pool, *some_orders(chance, now, 60), tenant_id=OTHER)
    await store(pool, *mine[:75])
    sources = {each.external_order_id: each for each in mine}
    everything = await listed(http, limit=200)
    assert {each["externalOrderId"] for each in everything} == set(sources)
    results = set()
    for number in range(160):
        sort = list(Sort)[number % 4]
        edge = sorted(now - chance.randrange(-1, 21) * DAY for _ in range(2))
        asked: dict[str, Any] = {
            "orderStatus": [str(each) for each in chosen(chance, list(OrderStatus))],
            "deliveryStatus": [str(each) for each in chosen(chance, list(DeliveryStatus), 4)],
            "slaStatus": [str(each) for each in chosen(chance, list(SlaStatus), 2)],
            "marketplaceId": [str(each) for each in chosen(chance, list(MARKETPLACES[:3]), 2)],
        }
        if edge[0] < edge[1] and chance.random() < 0.4:
            asked |= {"from": edge[0].isoformat(), "to": edge[1].isoformat()}
        expected = [
            each
            for each in everything
            if all(not values or each[field] in values for field, values in asked.items() if isinstance(values, list))
            and ("from" not in asked or edge[0] <= sources[each["externalOrderId"]].order_date < edge[1])
        ]
        expected.sort(key=lambda each: (each[sort.removeprefix("-")], each["id"]), reverse=sort.is_descending)
        assert await all_pages(http, limit=chance.choice([1, 7, 50, 200]), sort=str(sort), **asked) == expected, asked
        results.add(len(expected))
    assert len(results) > 30, "the filters find nothing or everything"
    for each in everything:
        source = sources[each["externalOrderId"]]
        wanted = sla_status(source.order_status, source.ship_by, source.deliver_by, source.shipped_at, now)
        assert each["slaStatus"] == wanted


async def all_pages(http: httpx.AsyncClient, limit: int, **parameters: Any) -> list[Answered]:
    found: list[Answered] = []
    cursor: dict[str, str] = {}
    while True:
        answer = await http.get(ORDERS, params=parameters | {"limit": limit} | cursor)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += page["orders"]
        assert len(found) <= 200, "the pages do not end"
        if page["nextCursor"] is None:
            return found
        assert len(page["orders"]) == limit
        cursor = {"cursor": page["nextCursor"]}


PEOPLE = {
    "407-8949262-6149120": ("Jean-Pierre O’Brien", "x1abc@marketplace.amazon.fr"),  # noqa: RUF001 - as people write it
    "407-8949262-0000001": ("HÉLÈNE  Durand", "Y2@Example.com"),
    "S01-1234567-7654321": ("李明", None),
    "028-0000000-0149120": (None, "149120a@example.com"),
    "171-0000000-0000002": ("d'Arc\x1f\\ \\'\t& | ! :* %_", None),
    "171-0000000-0000003": ("Ἀθηνᾶ " * 200 + "x" * 3_000, "a" * 5_000),
    "171-0000000-0000004": (" ", ""),
}


@pytest.mark.parametrize(
    ("q", "found"),
    [
        ("407-8949262-6149120", "407-8949262-6149120"),
        ("407-8949262", "407-8949262-6149120 407-8949262-0000001"),
        ("407-", "407-8949262-6149120 407-8949262-0000001"),
        ("s01-12", "S01-1234567-7654321"),
        ("07-8949262", ""),
        ("#149120", "407-8949262-6149120 028-0000000-0149120"),
        ("149120", "407-8949262-6149120 028-0000000-0149120"),
        ("#14912", ""),
        ("149121", ""),
        ("149120A", "028-0000000-0149120"),
        ("jean", "407-8949262-6149120"),
        ("PIERRE", "407-8949262-6149120"),
        ("jean-p", "407-8949262-6149120"),
        ("brien o’b", "407-8949262-6149120"),  # noqa: RUF001 - as above
        ("jean durand", ""),
        ("ean", ""),
        ("hélène", "407-8949262-0000001"),
        ("Duran HÉL", "407-8949262-0000001"),
        ("  durand  ", "407-8949262-0000001"),
        ("y2@example.com", "407-8949262-0000001"),
        ("Y2@EX", "407-8949262-0000001"),
        ("example", ""),
        ("李明", "S01-1234567-7654321"),
        ("d'arc", "171-0000000-0000002"),
        (r"\\", ""),
        (r"\'", "171-0000000-0000002"),
        ("& |", "171-0000000-0000002"),
        (":*", "171-0000000-0000002"),
        ("%%", ""),
        ("ἀθηνᾶ", "171-0000000-0000003"),
        ("a" * 100, "171-0000000-0000003"),
        ("kbz-001", ""),
        ("kbz-002 jean", ""),
    ],
)
async def test_a_search_finds_orders_by_their_ids_refs_and_customers(
    http: httpx.AsyncClient, pool: Pool, q: str, found: str
) -> None:
    people = [order(each, customer_name=name, customer_email=mail) for each, (name, mail) in PEOPLE.items()]
    await store(pool, *people)
    await store(pool, *people, tenant_id=OTHER)
    await store(pool, *people, tenant_id=f"{TENANT} ")
    for sort in Sort:
        assert sorted(await ids(http, q=q, sort=str(sort))) == sorted(found.split())


async def test_a_search_goes_with_filters_and_pages(http: httpx.AsyncClient, pool: Pool) -> None:
    statuses = (OrderStatus.CONFIRMED, OrderStatus.CANCELLED)
    await store(pool, *(order(f"407-0000000-{number:07}", order_status=statuses[number % 2]) for number in range(60)))
    assert len(await all_pages(http, 7, q="ada", orderStatus="CANCELLED")) == 30
    assert len(await all_pages(http, 7, q="407-0000000-000000", orderStatus="CANCELLED", sort="updatedAt")) == 5
    assert await ids(http, q="ada", externalOrderId="407-0000000-0000033") == ["407-0000000-0000033"]
    assert await ids(http, q="ada", externalOrderId="407-0000000-0000033", orderStatus="CONFIRMED") == []


async def test_an_order_that_changes_is_found_by_what_it_is_now(
    http: httpx.AsyncClient, pool: Pool, now: datetime
) -> None:
    await store(pool, order(customer_name="Ada", ship_by=now - DAY))
    changed = order(
        customer_name="Grace",
        customer_email=None,
        order_status=OrderStatus.SHIPPED,
        external_updated_at=now,
        ship_by=now,
        shipped_at=now - HOUR,
    )
    assert len(await listed(http, q="ada", slaStatus="BREACHED", orderStatus="CONFIRMED")) == 1
    await store(pool, changed)
    assert await listed(http, q="ada") == await listed(http, slaStatus="BREACHED") == []
    assert len(await listed(http, q="grace", slaStatus="OK", orderStatus="SHIPPED")) == 1


async def test_the_last_changed_come_first_when_that_is_asked(http: httpx.AsyncClient, pool: Pool) -> None:
    for number in (2, 1, 3):
        await store(pool, order(f"407-0000000-000000{number}"))
    assert [each[-1] for each in await ids(http, sort="-updatedAt")] == ["3", "1", "2"]
    assert [each[-1] for each in await ids(http, sort="updatedAt")] == ["2", "1", "3"]


async def test_a_cursor_is_refused_with_another_sort_or_other_filters(http: httpx.AsyncClient, pool: Pool) -> None:
    await store(pool, *(order(f"407-0000000-{number:07}") for number in range(3)))
    asked: dict[str, Any] = {"orderStatus": ["CONFIRMED", "SHIPPED"], "q": "ada", "limit": 1}
    cursor = (await http.get(ORDERS, params=asked)).json()["nextCursor"]
    for same in ({}, {"limit": 2}, {"orderStatus": ["SHIPPED", "CONFIRMED"]}, {"sort": "-orderDate"}):
        assert (await http.get(ORDERS, params=asked | same | {"cursor": cursor})).status_code == 200
    for other in (
        {"sort": "orderDate"},
        {"sort": "-updatedAt"},
        {"q": "ad"},
        {"orderStatus": ["SHIPPED"]},
        {"deliveryStatus": "LOST"},
        {"slaStatus": "OK"},
        {"marketplaceId": "A1"},
        {"from": "2026-01-01T00:00:00Z"},
        {"to": "2026-01-01T00:00:00Z"},
        {"externalOrderId": "1"},
    ):
        answer = await http.get(ORDERS, params=asked | other | {"cursor": cursor})
        assert answer.status_code == 400, other
        [error] = answer.json()["errors"]
        assert error["field"] == "cursor"
        assert "another sort or other filters" in error["message"]


def test_a_cursor_of_one_replica_is_good_at_another() -> None:
    script = (
        "from datetime import UTC, datetime; from uuid import UUID; from shared.cursor import encode_cursor;"
        "from orders.domain import Search, OrderStatus; asked = Search(order_status=frozenset(OrderStatus));"
        "print(encode_cursor(datetime(2026, 1, 1, tzinfo=UTC), UUID(int=1), asked=asked))"
    )
    given = {
        subprocess.run(  # noqa: S603 - ourselves
            [sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": seed}, check=True, capture_output=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(given) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sort", "price"),
        ("sort", "+orderDate"),
        ("orderStatus", "shipped"),
        ("orderStatus", ["SHIPPED", "NEVER"]),
        ("deliveryStatus", "AWAY"),
        ("slaStatus", "LATE"),
        ("marketplaceId", "A13'"),
        ("marketplaceId", ["A13V1IB3VIYZZH", ""]),
        ("from", "yesterday"),
        ("from", "2026-01-01T00:00:00"),
        ("from", "0001-01-01T00:00:00+14:00"),
        ("to", "9999-12-31T23:59:59-12:00"),
        ("to", "2026-13-01T00:00:00Z"),
        ("q", "a"),
        ("q", "  a  "),
        ("q", ""),
        ("q", "ada\x00"),
        ("q", "a" * 101),
        ("limit", "201"),
        ("cursor", "ABC"),
    ],
)
async def test_what_cannot_be_asked_for_names_its_field(http: httpx.AsyncClient, field: str, value: Any) -> None:
    answer = await http.get(ORDERS, params={field: value})
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert [error["field"] for error in answer.json()["errors"]] == [field], answer.text


async def test_a_range_that_ends_before_it_begins_is_refused(http: httpx.AsyncClient) -> None:
    for to in ("2026-01-02T00:00:00Z", "2026-01-02T00:00:00.000001+01:00"):
        answer = await http.get(ORDERS, params={"from": "2026-01-02T00:00:00Z", "to": to})
        assert [error["field"] for error in answer.json()["errors"]] == ["to"]


async def test_the_answers_are_what_the_documentation_says(http: httpx.AsyncClient, pool: Pool) -> None:
    await store(pool, order())
    answer = await http.get(ORDERS)
    page = msgspec.json.decode(answer.content, type=OrdersAnswer)
    one = await http.get(f"{ORDERS}/{page.orders[0].id}")
    assert msgspec.json.decode(one.content, type=OrderAnswer).items
    schema = (await http.get("/schema/openapi.json")).json()
    parameters = {each["name"] for each in schema["paths"][ORDERS]["get"]["parameters"]}
    assert parameters >= {"sort", "orderStatus", "deliveryStatus", "slaStatus", "marketplaceId", "from", "to", "q"}


async def test_what_has_not_changed_is_not_sent_again(http: httpx.AsyncClient, pool: Pool, stack: Stack) -> None:
    await store(pool, order())
    [one] = await listed(http)
    for path in (ORDERS, f"{ORDERS}/{one['id']}"):
        first = await http.get(path)
        tag = first.headers["etag"]
        assert (first.status_code, first.headers["cache-control"]) == (200, "private, no-cache")
        for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            again = await http.get(path, headers={"If-None-Match": known})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag), known
            assert again.headers["cache-control"] == "private, no-cache"
        for unknown in ('"other"', tag.strip('"'), "", "W/"):
            assert (await http.get(path, headers={"If-None-Match": unknown})).status_code == 200, unknown
    other = await http.get(
        ORDERS, headers=agent(stack, OTHER) | {"If-None-Match": (await http.get(ORDERS)).headers["etag"]}
    )
    assert (other.status_code, other.json()["orders"]) == (200, [])


async def test_any_change_is_sent(http: httpx.AsyncClient, pool: Pool) -> None:
    await store(pool, order())
    [one] = await listed(http)
    paths = (ORDERS, f"{ORDERS}/{one['id']}")
    for change in (
        "UPDATE orders SET sav_status = 'OPEN'",
        "UPDATE orders SET customer_name = 'Grace'",
        "UPDATE orders SET ship_by = clock_timestamp() - interval '1 hour'",
    ):
        tags = [(await http.get(path)).headers["etag"] for path in paths]
        await pool.execute(change)
        for path, tag in zip(paths, tags, strict=True):
            assert (await http.get(path, headers={"If-None-Match": tag})).status_code == 200, change
    tag = (await http.get(paths[1])).headers["etag"]
    await pool.execute("UPDATE order_items SET quantity = 7")
    assert (await http.get(paths[1], headers={"If-None-Match": tag})).json()["items"][0]["quantity"] == 7


async def test_an_sla_status_that_changes_by_time_alone_is_sent(
    http: httpx.AsyncClient, pool: Pool, now: datetime
) -> None:
    await store(pool, order(ship_by=now + timedelta(minutes=5)))
    [one] = await listed(http, slaStatus="AT_RISK")
    for path in (ORDERS, f"{ORDERS}/{one['id']}"):
        said = ""
        while '"slaStatus":"AT_RISK"' not in said:  # nor has the second passed before we ask
            await pool.execute("UPDATE orders SET ship_by = clock_timestamp() + interval '1 second'")
            first = await http.get(path)
            said, tag = first.text, first.headers["etag"]
        async with asyncio.timeout(60):
            while (answer := await http.get(path, headers={"If-None-Match": tag})).status_code == 304:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert '"slaStatus":"BREACHED"' in answer.text
    assert await listed(http, slaStatus="AT_RISK") == []


async def test_no_filter_or_search_shows_another_tenants_orders(
    http: httpx.AsyncClient, pool: Pool, stack: Stack, now: datetime
) -> None:
    secret = order(
        marketplace_id="A1PA6795UKMFR9", ship_by=now - DAY, delivery_status=DeliveryStatus.LOST, order_date=now - DAY
    )
    await store(pool, secret, tenant_id=OTHER)
    filters: tuple[dict[str, Any], ...] = (
        {},
        {"orderStatus": [str(each) for each in OrderStatus]},
        {"deliveryStatus": [str(each) for each in DeliveryStatus]},
        {"slaStatus": [str(each) for each in SlaStatus]},
        {"slaStatus": "BREACHED"},
        {"slaStatus": "AT_RISK"},
        {"marketplaceId": "A1PA6795UKMFR9"},
        {"from": (now - 2 * DAY).isoformat(), "to": now.isoformat()},
        {"externalOrderId": "407-0000000-0000001"},
        {"q": "407-0000000"},
        {"q": "#000001"},
        {"q": "ada"},
        {"q": "ada@marketplace"},
        {"q": f"{OTHER} ada"},
    )
    cursors = {}
    await store(pool, order("407-0000000-0000002"), tenant_id=OTHER)
    for asked, sort in itertools.product(filters, Sort):
        parameters = asked | {"sort": str(sort), "limit": 1}
        theirs = (await http.get(ORDERS, params=parameters, headers=agent(stack, OTHER))).json()
        cursors[str(parameters)] = theirs["nextCursor"]
        for cursor in ({}, {"cursor": theirs["nextCursor"]} if theirs["nextCursor"] else {}):
            mine = await http.get(ORDERS, params=parameters | cursor)
            assert (mine.status_code, mine.json()) == (200, {"orders": [], "nextCursor": None}), parameters
    assert any(cursors.values())
