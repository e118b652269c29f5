"""What the product app asks about tickets: filters, files, closing; and that every filter finds its index."""

import re
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devstack.stack import Stack
from poller import mock, ticket_queries, tickets
from poller.domain import Incoming, IncomingMessage
from poller.mail import Attachment
from poller.routes import ROUTES, disposition
from poller.settings import PollerSettings
from poller.wording import Kind
from shared.db import Pool
from shared.events import MessageSource
from shared.outbox import Outbox
from tests.builders import agent, serving
from tests.poller.conftest import TENANT, message

TICKETS = "/api/v1/tickets"
OTHER = "kbz-002"
ORDER, OTHER_ORDER = "407-8949262-6149120", "171-3125066-7920325"
DAY = timedelta(days=1)


@pytest.fixture
async def http(stack: Stack, pool: Pool, outbox: Outbox, settings: PollerSettings) -> AsyncIterator[httpx.AsyncClient]:
    dependencies = {"pool": pool, "outbox": outbox, "source": mock.fetch}
    async with serving("poller", ROUTES, settings, dependencies) as client:
        client.headers.update(agent(stack, TENANT))
        yield client


async def take(pool: Pool, outbox: Outbox, *messages: IncomingMessage) -> None:
    async with pool.acquire() as conn, conn.transaction():
        for each in messages:
            await tickets.take_all(conn, outbox, [Incoming(TENANT, "AMAZON", each)])


async def found(http: httpx.AsyncClient, **parameters: str) -> list[str]:
    answer = await http.get(TICKETS, params=parameters)
    assert answer.status_code == 200, answer.text
    return [each["subject"] for each in answer.json()["tickets"]]


async def test_tickets_are_found_by_state_order_and_channel(
    http: httpx.AsyncClient, pool: Pool, outbox: Outbox
) -> None:
    now = datetime.now(UTC)
    await take(
        pool,
        outbox,
        message("late", subject="late", buyer="a", received_at=now - 2 * DAY),
        message("answered", subject="answered", buyer="b", external_order_id=OTHER_ORDER, received_at=now - 3 * DAY),
        message("r", kind=Kind.SELLER_REPLY, buyer=None, external_order_id=OTHER_ORDER, received_at=now - 2.9 * DAY),
        message("mail", subject="mail", buyer="c", source=MessageSource.EMAIL, external_order_id=None, received_at=now),
    )
    assert await found(http) == ["mail", "late", "answered"]
    assert await found(http, status="ANSWERED") == ["answered"]
    assert await found(http, status="OPEN") == ["mail", "late"]
    assert await found(http, overdue="true") == ["late"]
    assert await found(http, overdue="false") == ["mail", "answered"]
    assert await found(http, order=OTHER_ORDER) == ["answered"]
    assert await found(http, order=ORDER, overdue="true", status="OPEN", channel="mock") == ["late"]
    assert await found(http, channel="email") == ["mail"]
    assert await found(http, channel="spapi") == []
    for parameters in ({"channel": "fax"}, {"overdue": "maybe"}, {"order": "x" * 65}):
        answer = await http.get(TICKETS, params=parameters)
        assert (answer.status_code, [each["field"] for each in answer.json()["errors"]]) == (400, [*parameters])


async def test_a_ticket_is_closed_and_opened_by_a_new_message(
    http: httpx.AsyncClient, pool: Pool, outbox: Outbox, stack: Stack
) -> None:
    await take(pool, outbox, message("m-1"))
    [ticket] = (await http.get(TICKETS)).json()["tickets"]
    close = f"{TICKETS}/{ticket['id']}/close"
    assert (await http.post(close, headers=agent(stack, OTHER))).status_code == 404
    assert (await http.get(f"{TICKETS}/{ticket['id']}")).json()["status"] == "OPEN"
    for _ in range(2):
        answer = await http.post(close)
        assert (answer.status_code, answer.json()["status"], answer.json()["replyBy"]) == (200, "CLOSED", None)
    await take(pool, outbox, message("m-2"))
    assert (await http.get(f"{TICKETS}/{ticket['id']}")).json()["status"] == "OPEN"
    assert (await http.post(f"{TICKETS}/{uuid4()}/close")).json()["code"] == "ticket_not_found"


async def test_a_file_is_answered_as_bytes_to_be_stored_and_only_to_its_tenant(
    http: httpx.AsyncClient, pool: Pool, outbox: Outbox, stack: Stack
) -> None:
    file = Attachment("../facture é\r\nX: 1.html", "text/html", 9, "ab" * 32, b"<script>\0")
    gone = Attachment("film.mp4", "video/mp4", 90_000_000, "cd" * 32, None)
    other = message("m-2", buyer="other", external_order_id=None)
    await take(pool, outbox, message("m-1", attachments=(file, gone), kind=Kind.RETURN), other)
    one, two = sorted((await http.get(TICKETS)).json()["tickets"], key=lambda each: each["externalOrderId"] or "~")
    [shown] = (await http.get(f"{TICKETS}/{one['id']}")).json()["messages"]
    assert shown["kind"] == "RETURN"
    first, second = shown["attachments"]
    identity = first.pop("id")
    assert first == {"name": file.name, "mediaType": "text/html", "sizeBytes": 9, "sha256": "ab" * 32}
    address = f"{TICKETS}/{one['id']}/attachments/{identity}"
    answer = await http.get(address)
    assert (answer.status_code, answer.content) == (200, b"<script>\0")
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Disposition"] == (
        "attachment; filename=\"_facture ___X_ 1.html\"; filename*=UTF-8''_facture%20%C3%A9__X_%201.html"
    )
    assert (await http.get(address, headers=agent(stack, OTHER))).status_code == 404
    assert (await http.get(f"{TICKETS}/{two['id']}/attachments/{identity}")).status_code == 404
    answer = await http.get(f"{TICKETS}/{one['id']}/attachments/{second['id']}")
    assert (answer.status_code, answer.json()["code"]) == (404, "attachment_not_found")
    assert "too large" in answer.json()["detail"]


@given(st.none() | st.text())
def test_a_file_name_is_never_more_than_a_name(name: str | None) -> None:
    plain = re.fullmatch(r"attachment; filename=\"([ -~]+)\"; filename\*=UTF-8''([A-Za-z0-9_.~%-]+)", disposition(name))
    assert plain is not None
    assert not set(plain[1]) & set('/\\:*?"<>|')
    assert plain[1].strip(". ") == plain[1]


@pytest.fixture
async def many(pool: Pool, pool_of: Any) -> Pool:
    """Twenty thousand tickets of ten tenants, most of them answered mails."""
    await pool.execute(
        """
        INSERT INTO tickets (tenant_id, marketplace, channel, buyer, external_order_id, subject, status, reply_by,
                             last_message_at)
        SELECT 't-' || n % 10, 'AMAZON', CASE WHEN n % 500 < 10 THEN 'spapi' ELSE 'email' END, 'b' || n, 'o' || n, 's',
               CASE WHEN n % 100 < 10 THEN 'OPEN' ELSE 'ANSWERED' END,
               CASE WHEN n % 100 < 10 THEN now() + make_interval(hours => n % 1000 - 10) END,
               now() - make_interval(secs => n)
          FROM generate_series(1, 20000) n
        """
    )
    owner: Pool = await pool_of("poller_owner")
    await owner.execute("ANALYZE tickets")
    return pool


ASKED: Sequence[tuple[dict[str, Any], str]] = (
    ({}, "tickets_newest"),
    ({"before": (datetime(2026, 1, 1, tzinfo=UTC), uuid4())}, "tickets_newest"),
    ({"status": "OPEN"}, "tickets_of_status"),
    ({"overdue": True}, "tickets_overdue"),
    ({"order": "o4711"}, "tickets_of_order"),
    ({"channel": MessageSource.SPAPI}, "tickets_of_channel"),
)


@pytest.mark.parametrize(("asked", "index"), ASKED, ids=[" ".join(asked) or "all" for asked, _ in ASKED])
async def test_every_filter_finds_its_index(many: Pool, asked: dict[str, Any], index: str) -> None:
    nothing = {"before": None, "status": None, "overdue": None, "order": None, "channel": None}
    statement, arguments = ticket_queries.select_tickets("t-1", limit=50, **(nothing | asked))
    plan = "\n".join(row[0] for row in await many.fetch(f"EXPLAIN {statement}", *arguments))
    assert index in plan
    if "overdue" in asked:
        assert "reply_by" in plan.partition("Index Cond:")[2].partition("\n")[0]
    assert "Seq Scan" not in plan
