"""What orders does with events."""

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import hypothesis
import pytest

from orders import backfill, handlers, job_queries, queries
from orders.domain import TenantArchivedError, TenantNotConnectedError
from orders.settings import OrdersSettings
from orders.windows import LEASE
from shared.amazon.errors import AmazonNotFoundError, AuthorizationRevokedError, NotConnectedError
from shared.amazon.spapi import SpApi
from shared.db import Pool
from shared.errors import PermanentError, RetryLaterError
from shared.outbox import Outbox
from tests.builders import connected, lives, new_id, received
from tests.conftest import Told
from tests.orders.conftest import Disconnect, Follow, Seller, connect

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def start_backfill(pool: Pool, outbox: Outbox, settings: OrdersSettings) -> Any:
    return partial(handlers.start_backfill, pool=pool, outbox=outbox, settings=settings)


async def test_a_new_connection_requests_one_backfill_of_ninety_days(
    pool: Pool, start_backfill: Any, told: Told
) -> None:
    await start_backfill(connected(), "event-1")
    [(subject, body)] = await told(pool)
    assert (subject, body["tenantId"], body["days"], body["ordersStored"]) == ("backfill.requested", "kbz-001", 90, 0)


async def test_the_same_connection_told_again_with_another_id_requests_nothing(
    pool: Pool, start_backfill: Any, told: Told
) -> None:
    event = connected()
    await start_backfill(event, "event-1")
    await start_backfill(event, "event-1")
    await start_backfill(event, "event-2")
    assert len(await told(pool)) == 1


async def test_an_older_connection_told_late_changes_nothing(pool: Pool, start_backfill: Any, told: Told) -> None:
    newer, older = connected(seller_id="ANEW", connected_at=NOW), connected(connected_at=NOW - timedelta(days=1))
    await start_backfill(newer, "event-2")
    await start_backfill(older, "event-1")
    assert len(await told(pool)) == 1
    assert await pool.fetchval("SELECT seller_id FROM connections") == "ANEW"


async def test_a_connection_made_anew_requests_a_backfill_when_none_runs(
    pool: Pool, start_backfill: Any, told: Told
) -> None:
    await start_backfill(connected(connected_at=NOW), "event-1")
    await start_backfill(connected(connected_at=NOW + timedelta(days=1)), "event-2")
    assert len(await told(pool)) == 1, "the one that runs is enough"
    await pool.execute("UPDATE backfill_jobs SET state = 'FAILED'")
    await start_backfill(connected(connected_at=NOW + timedelta(days=2)), "event-3")
    assert [subject for subject, _ in await told(pool)] == ["backfill.requested"] * 2


async def archived(pool: Pool) -> bool:
    return bool(await pool.fetchval("SELECT archived FROM tenants WHERE id = 'kbz-001'"))


async def test_an_archived_tenants_backfill_ends_and_is_told_once(
    pool: Pool, start_backfill: Any, follow: Follow, told: Told
) -> None:
    await start_backfill(connected(), "event-1")
    await start_backfill(connected(tenant_id="kbz-002"), "event-2")
    for event_id in ("event-3", "event-3", "event-4"):
        await follow(event_id, status="ARCHIVED")
    row = await pool.fetchrow(
        "SELECT id, state, error_code, error, finished_at IS NOT NULL AS finished FROM backfill_jobs"
        " WHERE tenant_id = 'kbz-001'"
    )
    assert row is not None
    assert tuple(row)[1:] == (
        *("CANCELLED", "tenant_archived"),
        *("The tenant was archived before its backfill was complete.", True),
    )
    failed = [body for subject, body in await told(pool) if subject == "backfill.failed"]
    assert [(body["tenantId"], body["jobId"], body["error"]) for body in failed] == [
        ("kbz-001", str(row["id"]), "tenant_archived")
    ]
    assert await pool.fetchval("SELECT state FROM backfill_jobs WHERE tenant_id = 'kbz-002'") == "REQUESTED"


@pytest.mark.parametrize("state", ["REQUESTED", "RUNNING", "WAITING", "COMPLETED", "FAILED"])
async def test_the_archive_ends_what_is_unfinished_and_nothing_else(
    pool: Pool, start_backfill: Any, follow: Follow, told: Told, state: str
) -> None:
    await start_backfill(connected(), "event-1")
    await pool.execute("UPDATE backfill_jobs SET state = $1", state)
    await follow(status="ARCHIVED")
    ended = state in {"REQUESTED", "RUNNING", "WAITING"}
    assert await pool.fetchval("SELECT state FROM backfill_jobs") == ("CANCELLED" if ended else state)
    assert [subject for subject, _ in await told(pool)] == ["backfill.requested", *["backfill.failed"] * ended]


async def test_an_account_connected_after_the_archive_is_kept_and_requests_nothing(
    pool: Pool, start_backfill: Any, follow: Follow, told: Told
) -> None:
    await follow(status="ARCHIVED")
    await start_backfill(connected(), "event-1")
    assert await queries.get_connection(pool, "kbz-001") is not None
    assert await pool.fetchval("SELECT count(*) FROM backfill_jobs") == 0
    assert await told(pool) == []


async def test_a_tenant_that_comes_back_requests_again_what_is_new(
    pool: Pool, start_backfill: Any, follow: Follow, told: Told
) -> None:
    await start_backfill(connected(connected_at=NOW), "event-1")
    await follow(status="ARCHIVED")
    await follow(status="ACTIVE")
    assert await job_queries.claim_job(pool, LEASE) is None, "what ended stays ended"
    await start_backfill(connected(connected_at=NOW + timedelta(days=1)), "event-2")
    assert [subject for subject, _ in await told(pool)] == [
        *("backfill.requested", "backfill.failed"),
        "backfill.requested",
    ]


@pytest.mark.parametrize("older", [NOW - timedelta(seconds=1), None])
@pytest.mark.parametrize(("first", "late"), [("ARCHIVED", "ACTIVE"), ("ACTIVE", "ARCHIVED")])
async def test_an_older_change_told_late_does_not_overwrite_a_newer_one(
    pool: Pool, start_backfill: Any, follow: Follow, first: str, late: str, older: datetime | None
) -> None:
    await follow(status=first, synced_at=NOW)
    await start_backfill(connected(), "event-1")
    await follow(status=late, synced_at=older)
    assert await archived(pool) == (first == "ARCHIVED")
    assert await pool.fetchval("SELECT count(*) FROM backfill_jobs WHERE state = 'FAILED'") == 0


async def test_among_changes_that_do_not_say_when_the_last_to_arrive_is_true(pool: Pool, follow: Follow) -> None:
    for status in ("ACTIVE", "ARCHIVED", "ACTIVE", "ARCHIVED"):
        await follow(status=status, synced_at=None)
        assert await archived(pool) == (status == "ARCHIVED")
    await follow(status="ACTIVE", synced_at=NOW)
    assert not await archived(pool)


async def test_an_archive_that_fails_leaves_the_backfill_and_works_the_next_time(
    pool: Pool, start_backfill: Any, follow: Follow, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(*_: object) -> None:
        raise ConnectionResetError

    await start_backfill(connected(), "event-1")
    with monkeypatch.context() as broken:
        broken.setattr(Outbox, "add", crash)
        with pytest.raises(ConnectionResetError):
            await follow("event-2", status="ARCHIVED")
    assert not await archived(pool)
    assert await pool.fetchval("SELECT state FROM backfill_jobs") == "REQUESTED"
    await follow("event-2", status="ARCHIVED")
    assert (await told(pool))[-1][0] == "backfill.failed"


async def until_waiting(pool: Pool, sessions: int = 1) -> None:
    """So many wait for a lock."""
    async with asyncio.timeout(60):
        while sessions != await pool.fetchval(  # noqa: ASYNC110 - the database knows
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("known", [True, False])
async def test_a_request_beside_the_archive_is_refused_or_ends_with_it(
    pool: Pool, outbox: Outbox, follow: Follow, told: Told, known: bool
) -> None:
    await connect(pool, "kbz-001")
    if known:
        await follow(status="ACTIVE", synced_at=NOW)
    async with pool.acquire() as conn, conn.transaction():
        await backfill.request(conn, outbox, "kbz-001", 90)
        archiving = asyncio.ensure_future(follow(status="ARCHIVED"))
        await until_waiting(pool)
    await archiving
    assert [subject for subject, _ in await told(pool)] == ["backfill.requested", "backfill.failed"]
    async with pool.acquire() as conn, conn.transaction():
        with pytest.raises(TenantArchivedError):
            await backfill.request(conn, outbox, "kbz-001", 90)


async def unfinished(pool: Pool, tenant_id: str = "kbz-001") -> int:
    found: int = await pool.fetchval(
        "SELECT count(*) FROM backfill_jobs WHERE state IN ('REQUESTED', 'RUNNING', 'WAITING') AND tenant_id = $1",
        tenant_id,
    )
    return found


async def test_a_disconnected_accounts_backfill_ends_and_is_told_once(
    pool: Pool, start_backfill: Any, disconnect: Disconnect, told: Told
) -> None:
    await start_backfill(connected(), "event-1")
    await start_backfill(connected(tenant_id="kbz-002"), "event-2")
    at = datetime.now(UTC)
    for event_id in ("event-3", "event-3", "event-4"):
        await disconnect(event_id, at=at)
        assert await queries.get_connection(pool, "kbz-001") is None
    row = await pool.fetchrow(
        "SELECT id, state, error_code, error, finished_at IS NOT NULL AS finished FROM backfill_jobs"
        " WHERE tenant_id = 'kbz-001'"
    )
    assert row is not None
    assert tuple(row)[1:] == (
        *("CANCELLED", "account_disconnected"),
        *("The account was disconnected before its backfill was complete.", True),
    )
    failed = [body for subject, body in await told(pool) if subject == "backfill.failed"]
    assert [(body["tenantId"], body["jobId"], body["error"]) for body in failed] == [
        ("kbz-001", str(row["id"]), "account_disconnected")
    ]
    assert await queries.get_connection(pool, "kbz-002") is not None
    assert await unfinished(pool, "kbz-002") == 1


async def test_an_account_connected_again_gets_its_orders_again(
    pool: Pool, start_backfill: Any, disconnect: Disconnect, told: Told
) -> None:
    await start_backfill(connected(connected_at=NOW), "event-1")
    await disconnect(at=NOW + MINUTE)
    newer = connected(seller_id="ANEW", connected_at=NOW + 2 * MINUTE)
    await start_backfill(newer, "event-3")
    connection = await queries.get_connection(pool, "kbz-001")
    assert connection is not None
    assert connection.connection_id == newer.connection_id
    assert [subject for subject, _ in await told(pool)] == [
        *("backfill.requested", "backfill.failed"),
        "backfill.requested",
    ]


async def test_an_older_end_told_late_changes_nothing(
    pool: Pool, start_backfill: Any, disconnect: Disconnect, told: Told
) -> None:
    await start_backfill(connected(connected_at=NOW), "event-2")
    await disconnect(at=NOW - timedelta(microseconds=1))
    assert await queries.get_connection(pool, "kbz-001") is not None
    assert await unfinished(pool) == 1
    assert [subject for subject, _ in await told(pool)] == ["backfill.requested"]


@pytest.mark.parametrize("known", [True, False])
async def test_an_older_connection_told_after_the_end_requests_nothing(
    pool: Pool, start_backfill: Any, disconnect: Disconnect, told: Told, known: bool
) -> None:
    if known:
        await start_backfill(connected(connected_at=NOW - 2 * MINUTE), "event-1")
    await disconnect(at=NOW)
    before = await told(pool)
    for late, event_id in ((NOW - MINUTE, "event-2"), (NOW, "event-4")):
        await start_backfill(connected(connected_at=late), event_id)
        assert await queries.get_connection(pool, "kbz-001") is None
    assert await unfinished(pool) == 0
    assert await told(pool) == before
    await start_backfill(connected(connected_at=NOW + timedelta(microseconds=1)), "event-5")
    assert await unfinished(pool) == 1


async def test_an_end_that_fails_leaves_the_backfill_and_works_the_next_time(
    pool: Pool, start_backfill: Any, disconnect: Disconnect, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(*_: object) -> None:
        raise ConnectionResetError

    await start_backfill(connected(), "event-1")
    with monkeypatch.context() as broken:
        broken.setattr(Outbox, "add", crash)
        with pytest.raises(ConnectionResetError):
            await disconnect("event-2")
    assert await queries.get_connection(pool, "kbz-001") is not None
    assert await unfinished(pool) == 1
    await disconnect("event-2")
    assert (await told(pool))[-1][0] == "backfill.failed"


async def test_a_request_beside_the_end_is_refused_or_ends_with_it(
    pool: Pool, outbox: Outbox, disconnect: Disconnect, told: Told
) -> None:
    await connect(pool, "kbz-001")
    async with pool.acquire() as conn, conn.transaction():
        await backfill.request(conn, outbox, "kbz-001", 90)
        ending = asyncio.ensure_future(disconnect())
        await until_waiting(pool)
    await ending
    assert [subject for subject, _ in await told(pool)] == ["backfill.requested", "backfill.failed"]
    async with pool.acquire() as conn, conn.transaction():
        with pytest.raises(TenantNotConnectedError):
            await backfill.request(conn, outbox, "kbz-001", 90)


async def test_a_request_beside_a_new_connection_waits_instead_of_deadlocking(
    pool: Pool, outbox: Outbox, start_backfill: Any, told: Told
) -> None:
    async def request() -> None:
        async with pool.acquire() as conn, conn.transaction():
            await backfill.request(conn, outbox, "kbz-001", 90)

    await connect(pool, "kbz-001")
    async with pool.acquire() as conn, conn.transaction():
        await queries.lock_tenant(conn, "kbz-001")
        requesting = asyncio.ensure_future(request())
        await until_waiting(pool)
        connecting = asyncio.ensure_future(start_backfill(connected(), "event-1"))
        await until_waiting(pool, 2)
    await asyncio.gather(requesting, connecting)
    assert [subject for subject, _ in await told(pool)] == ["backfill.requested"]


@hypothesis.settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(life=lives)
async def test_in_whatever_order_it_is_told_the_latest_that_was_heard_is_true(
    pool: Pool, start_backfill: Any, disconnect: Disconnect, life: list[tuple[int, bool]]
) -> None:
    tenant_id, latest = new_id(), (-1, False)
    for minute, is_connected in life:
        at = NOW + minute * MINUTE
        if is_connected:
            await start_backfill(connected(tenant_id=tenant_id, connected_at=at), new_id("event"))
        else:
            await disconnect(tenant_id=tenant_id, at=at)
        latest = max(latest, (minute, is_connected))
        usable = await queries.get_connection(pool, tenant_id) is not None
        assert (usable, await unfinished(pool, tenant_id)) == (latest[1], latest[1])


@pytest.fixture
async def known_seller(seller: Seller, start_backfill: Any) -> Seller:
    """Connected, with three orders at Amazon and none of them here."""
    await seller.with_orders(3)
    await start_backfill(connected(tenant_id=seller.tenant_id, seller_id=seller.seller_id), "event-connected")
    return seller


@pytest.fixture
def fetch_missing_order(pool: Pool, outbox: Outbox, api: SpApi) -> Any:
    return partial(handlers.fetch_missing_order, pool=pool, outbox=outbox, api=api)


async def order_id_of(seller: Seller) -> str:
    return str((await seller.amazon.orders_of(seller.seller_id))[0]["orderId"])


async def test_a_message_about_an_unknown_order_brings_it_in_and_tells(
    pool: Pool, known_seller: Seller, fetch_missing_order: Any, told: Told
) -> None:
    truth = (await known_seller.amazon.orders_of(known_seller.seller_id))[0]
    await fetch_missing_order(received(known_seller.tenant_id, truth["orderId"]), "event-1")
    [row] = await pool.fetch("SELECT id, tenant_id, external_order_id, order_status FROM orders")
    assert (row["tenant_id"], row["external_order_id"]) == (known_seller.tenant_id, truth["orderId"])
    assert await pool.fetchval("SELECT count(*) FROM order_items") == len(truth["orderItems"])
    assert (await told(pool))[1:] == [
        (
            "order.stored",
            {
                "tenantId": known_seller.tenant_id,
                "marketplace": "AMAZON",
                "orderId": str(row["id"]),
                "externalOrderId": truth["orderId"],
                "orderStatus": row["order_status"],
                "isNew": True,
                "cause": "MESSAGE",
            },
        )
    ]


@pytest.mark.parametrize("second_id", ["event-1", "event-2"])
async def test_a_message_told_again_asks_amazon_and_tells_nothing_more(
    pool: Pool, known_seller: Seller, fetch_missing_order: Any, told: Told, second_id: str
) -> None:
    event = received(known_seller.tenant_id, await order_id_of(known_seller))
    await fetch_missing_order(event, "event-1")
    await fetch_missing_order(event, second_id)
    assert await known_seller.amazon.calls("getOrder", known_seller.seller_id) == {"200": 1}
    assert [subject for subject, _ in await told(pool)].count("order.stored") == 1


async def test_a_message_about_no_order_asks_nobody(
    pool: Pool, known_seller: Seller, fetch_missing_order: Any, told: Told
) -> None:
    await fetch_missing_order(received(known_seller.tenant_id, None), "event-1")
    assert await known_seller.amazon.calls("getOrder", known_seller.seller_id) == {}
    assert await pool.fetchval("SELECT count(*) FROM orders") == 0
    assert len(await told(pool)) == 1


async def test_a_message_before_its_connection_is_tried_again_later(
    pool: Pool, seller: Seller, fetch_missing_order: Any, told: Told
) -> None:
    with pytest.raises(TenantNotConnectedError):
        await fetch_missing_order(received(seller.tenant_id, "407-8949262-6149120"), "event-1")
    assert await pool.fetchval("SELECT count(*) FROM inbox") == 0
    assert await told(pool) == []


async def test_a_message_to_a_disconnected_account_asks_nobody_until_it_is_connected_again(
    pool: Pool, known_seller: Seller, fetch_missing_order: Any, disconnect: Disconnect
) -> None:
    event = received(known_seller.tenant_id, await order_id_of(known_seller))
    await disconnect(tenant_id=known_seller.tenant_id)
    with pytest.raises(TenantNotConnectedError):
        await fetch_missing_order(event, "event-1")
    assert await known_seller.amazon.calls("getOrder", known_seller.seller_id) == {}
    await connect(pool, known_seller.tenant_id)
    await fetch_missing_order(event, "event-1")
    assert await pool.fetchval("SELECT count(*) FROM orders") == 1


async def test_credentials_are_those_of_the_connection_that_is_known(
    pool: Pool, known_seller: Seller, fetch_missing_order: Any
) -> None:
    tenant_id, before, amazon = known_seller.tenant_id, known_seller.seller_id, known_seller.amazon
    first, second, *_ = [order["orderId"] for order in await amazon.orders_of(before)]
    await fetch_missing_order(received(tenant_id, first), "event-1")
    after = await amazon.seller(1)
    await known_seller.who_is(after)  # and connection.connected is still on its way
    await fetch_missing_order(received(tenant_id, second), "event-2")
    await connect(pool, tenant_id, after)
    await fetch_missing_order(received(tenant_id, await order_id_of(known_seller)), "event-3")
    assert await amazon.calls("getOrder", before) == {"200": 2}
    assert await amazon.calls("getOrder", after) == {"200": 1}


async def rejections(pool: Pool, told: Told) -> list[tuple[str, str, str]]:
    now = await pool.fetchval("SELECT clock_timestamp()")
    bodies = [body for subject, body in await told(pool) if subject == "connection.rejected"]
    assert all(timedelta() < now - datetime.fromisoformat(body["at"]) < MINUTE for body in bodies)
    return [(body["tenantId"], body["connectionId"], body["error"]) for body in bodies]


async def test_credentials_that_are_refused_are_told_once_for_each_message(
    pool: Pool, known_seller: Seller, fetch_missing_order: Any, told: Told
) -> None:
    connection = await queries.get_connection(pool, known_seller.tenant_id)
    assert connection is not None
    expected = (known_seller.tenant_id, str(connection.connection_id), "authorization_revoked")
    event = received(known_seller.tenant_id, await order_id_of(known_seller))
    await known_seller.amazon.control("POST", f"sellers/{known_seller.seller_id}/revoke")
    for event_id, times in (("event-1", 1), ("event-1", 1), ("event-2", 2)):
        with pytest.raises(AuthorizationRevokedError):
            await fetch_missing_order(event, event_id)
        assert await rejections(pool, told) == [expected] * times
    await known_seller.who_is(known_seller.seller_id)
    await fetch_missing_order(event, "event-1")
    assert [subject for subject, _ in await told(pool)][-1] == "order.stored"


async def test_credentials_that_are_not_there_are_told_too(
    pool: Pool, seller: Seller, fetch_missing_order: Any, told: Told
) -> None:
    await connect(pool, seller.tenant_id)  # Vault has nothing
    with pytest.raises(NotConnectedError):
        await fetch_missing_order(received(seller.tenant_id, "407-8949262-6149120"), "event-1")
    [(tenant_id, _, error)] = await rejections(pool, told)
    assert (tenant_id, error) == (seller.tenant_id, "not_connected")


async def test_a_refusal_that_cannot_be_told_is_told_the_next_time(
    pool: Pool, seller: Seller, fetch_missing_order: Any, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(*_: object) -> None:
        raise ConnectionResetError

    await connect(pool, seller.tenant_id)
    event = received(seller.tenant_id, "407-8949262-6149120")
    with monkeypatch.context() as broken:
        broken.setattr(Outbox, "add", crash)
        with pytest.raises(ConnectionResetError):
            await fetch_missing_order(event, "event-1")
    with pytest.raises(NotConnectedError):
        await fetch_missing_order(event, "event-1")
    assert len(await rejections(pool, told)) == 1


async def test_an_order_that_amazon_does_not_have_is_not_tried_again(
    pool: Pool, known_seller: Seller, fetch_missing_order: Any, told: Told
) -> None:
    with pytest.raises(AmazonNotFoundError) as refused:
        await fetch_missing_order(received(known_seller.tenant_id, "999-9999999-9999999"), "event-1")
    assert isinstance(refused.value, PermanentError)
    assert await rejections(pool, told) == []
    assert await pool.fetchval("SELECT count(*) FROM orders") == 0


async def known_orders(pool: Pool) -> list[tuple[str, bool]]:
    rows = await pool.fetch("SELECT detail, unknown_at IS NOT NULL AS is_unknown FROM orders")
    return [(row["detail"], row["is_unknown"]) for row in rows]


async def test_an_order_that_was_fetched_lately_is_not_asked_for_and_one_of_earlier_is(
    pool: Pool, known_seller: Seller, fetch_missing_order: Any, told: Told
) -> None:
    event = received(known_seller.tenant_id, await order_id_of(known_seller))
    await fetch_missing_order(event, "event-1")
    for minutes, calls in ((9, 1), (11, 2), (0, 2)):
        await pool.execute("UPDATE orders SET fetched_at = fetched_at - make_interval(mins => $1)", minutes)
        await fetch_missing_order(event, f"event-after-{minutes}")
        assert await known_seller.amazon.calls("getOrder", known_seller.seller_id) == {"200": calls}
    assert [subject for subject, _ in await told(pool)].count("order.stored") == 1, "nothing about it was new"


async def test_an_order_of_a_report_is_asked_for_however_young_it_is(
    pool: Pool, known_seller: Seller, fetch_missing_order: Any
) -> None:
    event = received(known_seller.tenant_id, await order_id_of(known_seller))
    await fetch_missing_order(event, "event-1")
    await pool.execute("UPDATE orders SET detail = 'REPORT'")
    await fetch_missing_order(event, "event-2")
    assert await known_orders(pool) == [("FULL", False)]


@pytest.mark.parametrize("status", [429, 503])
async def test_an_order_that_cannot_be_fetched_at_once_is_there_by_its_id_meanwhile(
    pool: Pool, known_seller: Seller, fetch_missing_order: Any, told: Told, status: int
) -> None:
    event = received(known_seller.tenant_id, await order_id_of(known_seller))
    for _ in range(2):
        await known_seller.amazon.fail("getOrder", status, known_seller.seller_id)
        with pytest.raises(RetryLaterError):
            await fetch_missing_order(event, "event-1")
        assert await known_orders(pool) == [("PLACEHOLDER", False)]
        await pool.execute("UPDATE amazon.request_buckets SET arrives_at = clock_timestamp()")
    await fetch_missing_order(event, "event-1")
    assert await known_orders(pool) == [("FULL", False)]
    bodies = [body for subject, body in await told(pool) if subject == "order.stored"]
    assert [(body["isNew"], body["cause"]) for body in bodies] == [(True, "MESSAGE"), (False, "MESSAGE")]


async def test_a_placeholder_that_amazon_does_not_know_is_marked(
    pool: Pool, known_seller: Seller, fetch_missing_order: Any
) -> None:
    event = received(known_seller.tenant_id, "999-9999999-9999999")
    await known_seller.amazon.fail("getOrder", 503, known_seller.seller_id)
    with pytest.raises(RetryLaterError):
        await fetch_missing_order(event, "event-1")
    with pytest.raises(AmazonNotFoundError):
        await fetch_missing_order(event, "event-1")
    assert await known_orders(pool) == [("PLACEHOLDER", True)]


async def test_an_order_that_we_know_and_amazon_no_more_is_no_dead_letter(
    pool: Pool, known_seller: Seller, fetch_missing_order: Any
) -> None:
    event = received(known_seller.tenant_id, await order_id_of(known_seller))
    await fetch_missing_order(event, "event-1")
    await pool.execute("UPDATE orders SET external_order_id = '999-9999999-9999999', fetched_at = NULL")
    await fetch_missing_order(received(known_seller.tenant_id, "999-9999999-9999999"), "event-2")
    assert await known_orders(pool) == [("FULL", True)]


async def test_a_message_that_fails_once_works_the_next_time(
    pool: Pool, known_seller: Seller, fetch_missing_order: Any, told: Told
) -> None:
    event = received(known_seller.tenant_id, await order_id_of(known_seller))
    await known_seller.amazon.fail("getOrder", 500, known_seller.seller_id)
    with pytest.raises(Exception, match="500"):
        await fetch_missing_order(event, "event-1")
    await fetch_missing_order(event, "event-1")
    assert [subject for subject, _ in await told(pool)][1:] == ["order.stored"] * 2
