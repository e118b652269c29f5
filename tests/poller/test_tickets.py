"""What a message becomes: which conversation it joins, who waits since when, and what is told of it."""

import asyncio
from datetime import timedelta
from typing import Any

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from poller import ticket_queries, tickets
from poller.domain import OPENS, Incoming, IncomingMessage, Ticket
from poller.mail import Attachment
from poller.wording import Kind
from shared.db import Pool
from shared.events import MessageSource
from shared.outbox import Outbox
from tests.conftest import Told
from tests.poller.conftest import MINUTE, NOW, TENANT, message

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ORDER, OTHER_ORDER = "407-8949262-6149120", "171-3125066-7920325"


async def take(pool: Pool, outbox: Outbox, *messages: IncomingMessage, tenant_id: str = TENANT) -> list[bool]:
    """Each in a transaction of its own."""
    taken = []
    for each in messages:
        async with pool.acquire() as conn, conn.transaction():
            taken += await tickets.take_all(conn, outbox, [Incoming(tenant_id, "AMAZON", each)])
    return taken


async def take_together(pool: Pool, outbox: Outbox, *messages: IncomingMessage, tenant_id: str = TENANT) -> list[bool]:
    """All in one transaction."""
    async with pool.acquire() as conn, conn.transaction():
        return await tickets.take_all(conn, outbox, [Incoming(tenant_id, "AMAZON", each) for each in messages])


async def all_tickets(pool: Pool, tenant_id: str = TENANT) -> list[Ticket]:
    return await ticket_queries.list_tickets(pool, tenant_id, limit=100)


async def conversations(pool: Pool) -> set[tuple[str, ...]]:
    """The external ids of each ticket's messages, in their order."""
    rows = await pool.fetch(
        "SELECT array_agg(external_id ORDER BY m.sent_at, m.id) FROM ticket_messages m"
        " JOIN external_messages e ON e.id = external_message_id GROUP BY ticket_id"
    )
    return {tuple(row[0]) for row in rows}


def reply(external_id: str = "r-1", **changes: object) -> IncomingMessage:
    return message(external_id, **({"kind": Kind.SELLER_REPLY, "buyer": None, "received_at": NOW + HOUR} | changes))


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        pytest.param({}, {}, True, id="same buyer and order"),
        pytest.param({}, {"buyer": "other"}, False, id="another buyer about the same order"),
        pytest.param({}, {"external_order_id": OTHER_ORDER}, False, id="another order of the buyer"),
        pytest.param({"external_order_id": None}, {}, True, id="a question before the order"),
        pytest.param({}, {"external_order_id": None}, True, id="a question without the order's number"),
        pytest.param({"external_order_id": None}, {"external_order_id": None, "buyer": "other"}, False, id="two ask"),
        pytest.param({}, {"external_order_id": OTHER_ORDER, "replies_to": ("m-1",)}, True, id="answers it"),
        pytest.param({}, {"buyer": "other", "replies_to": ("m-1",)}, False, id="another buyer answers it"),
        pytest.param({}, {"buyer": None, "kind": Kind.RETURN}, True, id="a return of the order"),
        pytest.param({"buyer": None, "kind": Kind.RETURN}, {}, True, id="a message after the return"),
        pytest.param(
            {"buyer": None, "kind": Kind.CLAIM}, {"external_order_id": OTHER_ORDER}, False, id="a claim about another"
        ),
    ],
)
async def test_a_message_joins_what_it_answers_then_its_buyer_then_its_order(
    pool: Pool, outbox: Outbox, first: dict[str, Any], second: dict[str, Any], together: bool
) -> None:
    await take(pool, outbox, message("m-1", **first), message("m-2", received_at=NOW + MINUTE, **second))
    assert len(await conversations(pool)) == (1 if together else 2)


async def test_the_message_that_is_answered_counts_before_the_latest_of_the_buyer(pool: Pool, outbox: Outbox) -> None:
    await take(
        pool,
        outbox,
        message("m-1"),
        message("m-2", external_order_id=OTHER_ORDER, received_at=NOW + HOUR),
        message("m-3", external_order_id=None, received_at=NOW + 2 * HOUR, replies_to=("m-1",)),
        message("m-4", external_order_id=None, received_at=NOW + 3 * HOUR, replies_to=("m-2", "m-1")),
    )
    assert await conversations(pool) == {("m-1", "m-3"), ("m-2", "m-4")}


async def test_the_ticket_of_the_order_counts_before_a_later_one_without(pool: Pool, outbox: Outbox) -> None:
    await take(pool, outbox, message("m-1"), message("m-2", external_order_id=OTHER_ORDER, received_at=NOW + HOUR))
    await pool.execute("UPDATE tickets SET external_order_id = NULL WHERE external_order_id = $1", OTHER_ORDER)
    await take(pool, outbox, message("m-3", received_at=NOW + 2 * HOUR))
    assert await conversations(pool) == {("m-1", "m-3"), ("m-2",)}


async def test_another_tenant_is_another_conversation(pool: Pool, outbox: Outbox) -> None:
    await take(pool, outbox, message("m-1"))
    assert await take(pool, outbox, message("m-2", replies_to=("m-1",)), tenant_id="kbz-002") == [True]
    assert await conversations(pool) == {("m-1",), ("m-2",)}


async def test_a_question_takes_on_the_order_that_comes_later(pool: Pool, outbox: Outbox) -> None:
    await take(pool, outbox, message("m-1", external_order_id=None), message("m-2", received_at=NOW + HOUR))
    [ticket] = await all_tickets(pool)
    assert ticket.external_order_id == ORDER
    await take(pool, outbox, message("m-3", external_order_id=OTHER_ORDER, received_at=NOW + 2 * HOUR))
    assert await conversations(pool) == {("m-1", "m-2"), ("m-3",)}


async def test_the_answer_is_due_24_hours_after_the_earliest_that_waits_at_weekends_too(
    pool: Pool, outbox: Outbox
) -> None:
    saturday = NOW  # 10 January 2026
    assert saturday.weekday() == 5
    await take(pool, outbox, message("m-2", received_at=saturday + HOUR), message("m-1", received_at=saturday))
    [ticket] = await all_tickets(pool)
    assert (ticket.status, ticket.reply_by) == ("OPEN", saturday + DAY)


async def test_the_sellers_reply_answers_and_a_new_message_opens_again(pool: Pool, outbox: Outbox) -> None:
    assert await take(pool, outbox, message("m-1"), reply()) == [True, False]
    [ticket] = await all_tickets(pool)
    assert (ticket.status, ticket.reply_by, ticket.last_message_at) == ("ANSWERED", None, NOW + HOUR)
    await take(pool, outbox, message("m-2", received_at=NOW + 2 * HOUR))
    [ticket] = await all_tickets(pool)
    assert (ticket.status, ticket.reply_by) == ("OPEN", NOW + 2 * HOUR + DAY)


async def test_a_reply_that_is_older_than_what_the_buyer_wrote_last_leaves_that_waiting(
    pool: Pool, outbox: Outbox
) -> None:
    await take(pool, outbox, message("m-1"), message("m-2", received_at=NOW + 2 * HOUR), reply())
    [ticket] = await all_tickets(pool)
    assert (ticket.status, ticket.reply_by) == ("OPEN", NOW + 2 * HOUR + DAY)


async def test_a_refund_after_the_reply_waits_for_nobody(pool: Pool, outbox: Outbox, told: Told) -> None:
    refund = reply("f-1", kind=Kind.REFUND, received_at=NOW + 2 * HOUR)
    assert await take(pool, outbox, message("m-1"), refund, reply()) == [True, False, False]
    [ticket] = await all_tickets(pool)
    assert (ticket.status, ticket.reply_by, ticket.last_message_at) == ("ANSWERED", None, NOW + 2 * HOUR)
    assert await conversations(pool) == {("m-1", "r-1", "f-1")}
    assert len(await told(pool)) == 1


@pytest.mark.parametrize("kind", [Kind.SELLER_REPLY, Kind.REFUND, Kind.OTHER])
async def test_what_wants_no_answer_begins_no_ticket_and_tells_nothing(
    pool: Pool, outbox: Outbox, told: Told, kind: Kind
) -> None:
    assert await take(pool, outbox, reply(kind=kind), reply("r-2", kind=kind, external_order_id=None)) == [False] * 2
    assert (await all_tickets(pool), await told(pool)) == ([], [])
    assert await pool.fetchval("SELECT count(*) FROM external_messages") == 2
    assert await take(pool, outbox, message("m-1")) == [True]
    assert await conversations(pool) == {("m-1", "r-1")}


async def test_replies_that_came_first_join_with_what_answers_them(pool: Pool, outbox: Outbox) -> None:
    for number in (3, 2, 1):
        answered = (f"r-{number - 1}" if number > 1 else "m-1",)
        at = NOW + number * HOUR
        await take(pool, outbox, reply(f"r-{number}", external_order_id=None, replies_to=answered, received_at=at))
    await take(pool, outbox, message("m-1"))
    assert await conversations(pool) == {("m-1", "r-1", "r-2", "r-3")}
    [ticket] = await all_tickets(pool)
    assert (ticket.status, ticket.reply_by, ticket.last_message_at) == ("ANSWERED", None, NOW + 3 * HOUR)


async def test_a_closed_ticket_waits_for_nothing_until_a_message_comes(pool: Pool, outbox: Outbox) -> None:
    await take(pool, outbox, message("m-1", received_at=NOW + HOUR))
    [ticket] = await all_tickets(pool)
    closed = await ticket_queries.close_ticket(pool, TENANT, ticket.id)
    assert closed is not None
    assert (closed.status, closed.reply_by) == ("CLOSED", None)
    await take(pool, outbox, reply(), reply("f-1", kind=Kind.REFUND))
    [ticket] = await all_tickets(pool)
    assert (ticket.status, ticket.reply_by) == ("CLOSED", None)
    await take(pool, outbox, message("m-2", received_at=NOW + 2 * HOUR))
    [ticket] = await all_tickets(pool)
    assert (ticket.status, ticket.reply_by) == ("OPEN", NOW + 2 * HOUR + DAY)
    await take(pool, outbox, reply("r-2", received_at=NOW + 3 * HOUR))
    [ticket] = await all_tickets(pool)
    assert (ticket.status, ticket.reply_by) == ("ANSWERED", None)


async def test_closing_is_for_its_own_tenant(pool: Pool, outbox: Outbox) -> None:
    await take(pool, outbox, message("m-1"))
    [ticket] = await all_tickets(pool)
    assert await ticket_queries.close_ticket(pool, "kbz-002", ticket.id) is None
    assert [each.status for each in await all_tickets(pool)] == ["OPEN"]


ASKED_FIRST = (
    message("question", external_order_id=None, language="fr", subject="First", received_at=NOW),
    message("order", language="en", subject="Second", received_at=NOW + HOUR),
    reply("reply", external_order_id=None, replies_to=("order", "question"), received_at=NOW + 2 * HOUR),
    reply("reply to the reply", external_order_id=None, replies_to=("reply",), received_at=NOW + 3 * HOUR),
    message("again", replies_to=("reply",), received_at=NOW + 4 * HOUR),
    message("and again", received_at=NOW + 5 * HOUR),
    reply("refund", kind=Kind.REFUND, received_at=NOW + 6 * HOUR),
)
SENT_BACK = (
    message("order", language="fr", subject="First", received_at=NOW),
    message("claim", buyer=None, kind=Kind.CLAIM, received_at=NOW + HOUR),
    reply("reply", received_at=NOW + 3 * HOUR),
    message("return", buyer=None, kind=Kind.RETURN, received_at=NOW + 4 * HOUR),
    reply("refund", kind=Kind.REFUND, received_at=NOW + 6 * HOUR),
)
OF_ANOTHER = (
    message("another buyer", buyer="buyer-2", external_order_id=OTHER_ORDER, received_at=NOW + 7 * HOUR),
    message("another buyer again", buyer="buyer-2", external_order_id=OTHER_ORDER, received_at=NOW + 8 * HOUR),
)


@pytest.mark.parametrize("story", [ASKED_FIRST, SENT_BACK], ids=["asked first", "sent back"])
@hypothesis.settings(
    max_examples=50, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(data=st.data())
async def test_in_whatever_order_they_come_and_come_again_the_end_is_the_same(
    pool: Pool, outbox: Outbox, story: tuple[IncomingMessage, ...], data: st.DataObject
) -> None:
    for table in ("ticket_messages", "tickets", "external_messages", "outbox"):
        await pool.execute(f"DELETE FROM {table}")  # noqa: S608 - constants
    arrivals = data.draw(st.permutations(story + OF_ANOTHER))
    arrivals = [*arrivals, data.draw(st.sampled_from(arrivals))]
    cut = data.draw(st.integers(1, len(arrivals)))
    await take_together(pool, outbox, *arrivals[:cut])
    await take(pool, outbox, *arrivals[cut:])
    assert await conversations(pool) == {tuple(each.external_id for each in told) for told in (story, OF_ANOTHER)}
    other, ticket = await all_tickets(pool)
    assert (other.status, other.reply_by) == ("OPEN", NOW + 7 * HOUR + DAY)
    assert (ticket.status, ticket.reply_by) == ("OPEN", NOW + 4 * HOUR + DAY)
    assert (ticket.subject, ticket.language, ticket.external_order_id) == ("First", "fr", ORDER)
    assert ticket.last_message_at == NOW + 6 * HOUR
    wanting = [each for each in story + OF_ANOTHER if each.kind in OPENS]
    assert await pool.fetchval("SELECT count(*) FROM outbox") == len(wanting)


MESSAGES = st.builds(
    message,
    st.sampled_from([f"m-{number}" for number in range(12)]),
    external_order_id=st.sampled_from([None, ORDER, OTHER_ORDER]),
    buyer=st.sampled_from([None, "one", "two"]),
    kind=st.sampled_from([Kind.BUYER_MESSAGE, Kind.SELLER_REPLY, Kind.RETURN, Kind.REFUND]),
    received_at=st.integers(0, 6).map(lambda hours: NOW + hours * HOUR),
    replies_to=st.sampled_from([(), (), ("m-1",), ("m-2", "m-1"), ("m-5", "m-3")]),
    language=st.sampled_from([None, "fr", "de"]),
)


@hypothesis.settings(
    max_examples=60, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(batches=st.lists(st.lists(MESSAGES, min_size=1, max_size=6), min_size=1, max_size=4))
async def test_messages_that_are_taken_together_become_what_they_become_one_by_one(
    pool: Pool, outbox: Outbox, told: Told, batches: list[list[IncomingMessage]]
) -> None:
    for table in ("ticket_messages", "tickets", "external_messages", "outbox"):
        await pool.execute(f"DELETE FROM {table}")  # noqa: S608 - constants
    for batch in batches:
        one_by_one = await take(pool, outbox, *batch, tenant_id="alone")
        assert await take_together(pool, outbox, *batch, tenant_id="together") == one_by_one
    alone, together = [
        await pool.fetch(
            """
            SELECT t.buyer, t.external_order_id, t.subject, t.language, t.status, t.reply_by, t.last_message_at,
                   array_agg(e.external_id ORDER BY e.external_id) AS messages
              FROM tickets t JOIN ticket_messages m ON ticket_id = t.id
              JOIN external_messages e ON e.id = external_message_id
             WHERE t.tenant_id = $1 GROUP BY t.id ORDER BY messages
            """,
            tenant,
        )
        for tenant in ("alone", "together")
    ]
    assert alone == together
    events = [event for _, event in await told(pool)]
    alone_told, together_told = [
        [event["externalId"] for event in events if event["tenantId"] == tenant] for tenant in ("alone", "together")
    ]
    assert alone_told == together_told


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param([message("m-1"), message("m-2", received_at=NOW + 2 * HOUR)], id="written to"),
        pytest.param(
            [reply("r-1", received_at=NOW + 2 * HOUR), message("m-1")], id="joined by a reply that came first"
        ),
    ],
)
async def test_the_latest_conversation_of_a_buyer_is_the_latest_within_a_batch_too(
    pool: Pool, outbox: Outbox, batch: list[IncomingMessage]
) -> None:
    other = message("m-3", external_order_id=OTHER_ORDER, received_at=NOW + HOUR)
    last = message("m-4", external_order_id=None, received_at=NOW + 3 * HOUR)
    await take_together(pool, outbox, *batch, other, last)
    assert {frozenset(each) for each in await conversations(pool)} == {
        frozenset([*(each.external_id for each in batch), "m-4"]),
        frozenset(["m-3"]),
    }


async def test_a_batch_with_answer_and_question_is_told_as_it_stands(pool: Pool, outbox: Outbox, told: Told) -> None:
    later = message("m-2", received_at=NOW + 2 * HOUR)
    assert await take_together(pool, outbox, message("m-1"), reply(), later) == [True, False, True]
    assert [event["replyBy"] for _, event in await told(pool)] == [f"{NOW + 2 * HOUR + DAY:%Y-%m-%dT%H:%M:%SZ}"] * 2


async def test_the_same_message_again_is_one_message_and_one_event(pool: Pool, outbox: Outbox, told: Told) -> None:
    file = Attachment("a.txt", "text/plain", 2, "hash", b"hi")
    assert await take(pool, outbox, message("m-1"), message("m-1", body="changed", attachments=(file,))) == [
        True,
        False,
    ]
    assert await pool.fetch("SELECT body FROM ticket_messages") == [("Hello, where is my order?",)]
    assert await pool.fetchval("SELECT count(*) FROM attachments") == 0
    assert len(await told(pool)) == 1


async def test_message_received_says_where_it_came_in_and_nothing_of_a_person(
    pool: Pool, outbox: Outbox, told: Told
) -> None:
    secret = message(
        "m-1",
        buyer="secret-buyer@marketplace.amazon.fr",
        subject="secret subject",
        body="secret body",
        source=MessageSource.EMAIL,
        inbound_address="amazon.kbz-001.fr@inbound.keybuzz.io",
        attachments=(Attachment("secret.txt", "text/plain", 2, "secret hash", b"hi"),),
    )
    await take(pool, outbox, secret)
    [(subject, body)] = await told(pool)
    assert subject == "message.received"
    assert body["inboundAddress"] == "amazon.kbz-001.fr@inbound.keybuzz.io"
    assert "secret" not in msgspec.json.encode(body).decode()


async def test_attachments_are_kept_with_what_they_are(pool: Pool, outbox: Outbox) -> None:
    files = (
        Attachment("a.pdf", "application/pdf", 3, "abc", b"pdf"),
        Attachment(None, "image/png", 99_000_000, "def", None),
    )
    await take(pool, outbox, message("m-1", attachments=files))
    [ticket] = await all_tickets(pool)
    found = await ticket_queries.get_ticket(pool, TENANT, ticket.id)
    assert found is not None
    [only] = found[1]
    kept = [(each.name, each.media_type, each.size_bytes, each.sha256) for each in only.attachments]
    assert kept == [("a.pdf", "application/pdf", 3, "abc"), (None, "image/png", 99_000_000, "def")]
    assert await pool.fetch("SELECT content FROM attachments ORDER BY id") == [(b"pdf",), (None,)]


async def test_two_replicas_at_once_begin_one_ticket(pool: Pool, outbox: Outbox, told: Told) -> None:
    taken = await asyncio.gather(
        *(take(pool, outbox, message(f"m-{number % 5}", received_at=NOW + number % 5 * MINUTE)) for number in range(10))
    )
    assert sorted(each for [each] in taken) == [False] * 5 + [True] * 5
    assert await conversations(pool) == {("m-0", "m-1", "m-2", "m-3", "m-4")}
    assert len(await told(pool)) == 5
