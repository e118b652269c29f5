"""A poll: what a source gives becomes messages, tickets and events, each once."""

import asyncio
import contextlib
from datetime import datetime, timedelta
from typing import Any

import pytest
import structlog

from poller import handlers, mock, polling, queries, ticket_queries
from poller.domain import Found, IncomingMessage, Lease, NotScheduledError, PollRunningError, Ticket
from poller.settings import PollerSettings
from shared.amazon.errors import AccessDeniedError, AuthorizationRevokedError, NotConnectedError
from shared.db import Conn, Pool
from shared.errors import PermanentError, RetryLaterError, UnavailableError
from shared.events import Event
from shared.outbox import Outbox
from tests.builders import connected, disconnected
from tests.conftest import Told
from tests.poller.conftest import (
    MINUTE,
    NOW,
    TENANT,
    claim,
    disconnect,
    follow,
    make_due,
    message,
    schedule,
    source_of,
)


async def poll(pool: Pool, outbox: Outbox, *messages: IncomingMessage) -> None:
    await make_due(pool)
    assert await polling.poll_due(pool, outbox, source_of(*messages)) == 1


async def count(pool: Pool) -> tuple[int, ...]:
    tables = ("external_messages", "tickets", "ticket_messages")
    return tuple([await pool.fetchval(f"SELECT count(*) FROM {table}") for table in tables])  # noqa: S608 - ours


async def tickets(pool: Pool, tenant_id: str = TENANT) -> list[Ticket]:
    return await ticket_queries.list_tickets(pool, tenant_id, limit=100, before=None)


async def test_three_messages_become_three_tickets_and_three_events_once(
    pool: Pool, outbox: Outbox, told: Told
) -> None:
    await schedule(pool)
    assert await polling.poll_due(pool, outbox, mock.fetch) == 1
    assert await count(pool) == (3, 3, 3)
    first = await told(pool)
    assert [subject for subject, _ in first] == ["message.received"] * 3
    for _ in range(2):
        await make_due(pool)
        assert await polling.poll_due(pool, outbox, mock.fetch) == 1
    assert await count(pool) == (3, 3, 3)
    assert await told(pool) == first


async def test_the_event_says_where_to_look_and_nothing_personal(pool: Pool, outbox: Outbox, told: Told) -> None:
    await schedule(pool)
    sent = message(subject="Secret subject", body="Secret body", buyer="secret-buyer@marketplace.amazon.fr")
    await poll(pool, outbox, sent)
    [(subject, body)] = await told(pool)
    [ticket] = await tickets(pool)
    message_id = await pool.fetchval("SELECT id FROM external_messages")
    assert subject == "message.received"
    assert body == {
        "tenantId": TENANT,
        "marketplace": "AMAZON",
        "messageId": str(message_id),
        "externalId": "m-1",
        "ticketId": str(ticket.id),
        "externalOrderId": "407-8949262-6149120",
        "source": "mock",
        "inboundAddress": None,
        "receivedAt": "2026-01-10T12:00:00Z",
        "replyBy": "2026-01-11T12:00:00Z",
    }
    assert "secret" not in str(body).lower()


async def test_the_same_buyer_and_order_continue_their_ticket(pool: Pool, outbox: Outbox, told: Told) -> None:
    await schedule(pool)
    await poll(pool, outbox, message("m-1"))
    await poll(pool, outbox, message("m-2", received_at=NOW + MINUTE, subject="Again"))
    [ticket] = await tickets(pool)
    assert (ticket.subject, ticket.last_message_at) == ("Where is it?", NOW + MINUTE)
    assert {body["ticketId"] for _, body in await told(pool)} == {str(ticket.id)}
    assert await count(pool) == (2, 1, 2)


@pytest.mark.parametrize("different", [{"buyer": "other@marketplace.amazon.fr"}, {"external_order_id": "171-1"}])
async def test_another_buyer_or_order_begins_another_ticket(
    pool: Pool, outbox: Outbox, different: dict[str, Any]
) -> None:
    await schedule(pool)
    await poll(pool, outbox, message("m-1"), message("m-2", **different))
    assert await count(pool) == (2, 2, 2)


async def test_a_buyer_without_an_order_continues_too(pool: Pool, outbox: Outbox) -> None:
    await schedule(pool)
    await poll(pool, outbox, message("m-1", external_order_id=None), message("m-2", external_order_id=None))
    assert await count(pool) == (2, 1, 2)


async def test_a_new_message_opens_a_closed_ticket_again(pool: Pool, outbox: Outbox) -> None:
    await schedule(pool)
    await poll(pool, outbox, message("m-1"))
    [ticket] = await tickets(pool)
    await ticket_queries.close_ticket(pool, TENANT, ticket.id)
    await poll(pool, outbox, message("m-2", received_at=NOW + timedelta(days=3)))
    [ticket] = await tickets(pool)
    assert (ticket.status, ticket.reply_by) == ("OPEN", NOW + timedelta(days=4))


async def test_messages_are_stored_and_told_in_the_order_they_were_received(
    pool: Pool, outbox: Outbox, told: Told
) -> None:
    await schedule(pool)
    sent = [message(f"m-{number}", received_at=NOW + number * MINUTE, body=f"{number}") for number in (3, 1, 2)]
    await poll(pool, outbox, *sent)
    assert [body["externalId"] for _, body in await told(pool)] == ["m-1", "m-2", "m-3"]
    [ticket] = await tickets(pool)
    found = await ticket_queries.get_ticket(pool, TENANT, ticket.id)
    assert found is not None
    assert [each.body for each in found[1]] == ["1", "2", "3"]


async def test_a_message_that_comes_late_takes_its_place_in_the_ticket(pool: Pool, outbox: Outbox) -> None:
    await schedule(pool)
    await poll(pool, outbox, message("m-2", received_at=NOW + MINUTE, body="second"))
    await poll(pool, outbox, message("m-1", received_at=NOW, body="first"))
    [ticket] = await tickets(pool)
    found = await ticket_queries.get_ticket(pool, TENANT, ticket.id)
    assert found is not None
    assert [each.body for each in found[1]] == ["first", "second"]
    assert ticket.last_message_at == NOW + MINUTE


async def test_the_same_message_twice_in_an_answer_is_one(pool: Pool, outbox: Outbox, told: Told) -> None:
    await schedule(pool)
    await poll(pool, outbox, message(), message())
    assert await count(pool) == (1, 1, 1)
    assert len(await told(pool)) == 1


async def test_two_tenants_have_the_same_message_each_for_itself(pool: Pool, outbox: Outbox, told: Told) -> None:
    for tenant_id in ("kbz-001", "kbz-002"):
        await schedule(pool, tenant_id)
        assert await polling.poll_due(pool, outbox, mock.fetch) == 1
    assert await count(pool) == (6, 6, 6)
    assert len(await tickets(pool, "kbz-001")) == len(await tickets(pool, "kbz-002")) == 3
    assert sorted(body["tenantId"] for _, body in await told(pool)) == ["kbz-001"] * 3 + ["kbz-002"] * 3


async def test_who_loses_the_lease_on_the_way_stores_nothing(pool: Pool, outbox: Outbox, told: Told) -> None:
    await schedule(pool)

    async def slow(_: Lease) -> Found:
        await make_due(pool)
        await claim(pool)  # another one has begun meanwhile
        return Found([message()])

    assert await polling.poll_due(pool, outbox, slow) == 1
    assert await count(pool) == (0, 0, 0)
    assert await told(pool) == []
    [found] = await queries.list_schedules(pool, TENANT)
    assert (found.running, found.failures) == (True, 0)


async def test_a_source_that_takes_longer_than_a_lease_keeps_it(
    pool: Pool, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "LEASE", timedelta(seconds=3))
    await schedule(pool)
    ends = "SELECT leased_until FROM poll_schedules"

    async def slow(_: Lease) -> Found:
        first = await pool.fetchval(ends)
        while await pool.fetchval(ends) < first + timedelta(seconds=3):  # noqa: ASYNC110 - the database knows
            await asyncio.sleep(0.05)
        assert await polling.poll_due(pool, outbox, source_of()) == 0
        return Found([message()])

    async with asyncio.timeout(20):
        assert (await polling.poll_now(pool, outbox, slow, TENANT)).stored == 1


@pytest.mark.parametrize("told_meanwhile", ["end", "end and connection", "connection and end"])
@pytest.mark.parametrize("asked_by", ["schedule", "request"])
async def test_a_poll_in_hand_when_the_account_is_disconnected_stores_nothing(
    pool: Pool, outbox: Outbox, told: Told, settings: PollerSettings, told_meanwhile: str, asked_by: str
) -> None:
    await handlers.start_polling(connected(connected_at=NOW), "event-1", pool=pool, settings=settings)

    async def slow(_: Lease) -> Found:
        events = told_meanwhile.split(" and ")
        for event in events:
            if event == "end":
                await handlers.stop_polling(disconnected(at=NOW + MINUTE), "event-2", pool=pool, settings=settings)
            else:
                newer = connected(connected_at=NOW + 2 * MINUTE)
                await handlers.start_polling(newer, "event-3", pool=pool, settings=settings)
        return Found([message()])

    if asked_by == "schedule":
        assert await polling.poll_due(pool, outbox, slow, await queries.get_now(pool)) == 1
    else:
        with pytest.raises(PollRunningError, match="the account changed"):
            await polling.poll_now(pool, outbox, slow, TENANT)
    assert await count(pool) == (0, 0, 0)
    assert await told(pool) == []
    [found] = await queries.list_schedules(pool, TENANT)
    assert (found.running, found.failures, found.last_error, found.last_success_at) == (False, 0, None, None)
    again = "connection" in told_meanwhile
    assert await polling.poll_due(pool, outbox, source_of(message())) == again
    assert await count(pool) == (again, again, again)


class OneFails:
    """A source that fails for the first who asks."""

    def __init__(self, error: Exception) -> None:
        self.error: Exception | None = error

    async def __call__(self, _: Lease) -> Found:
        error, self.error = self.error, None
        if error is not None:
            raise error
        await asyncio.sleep(0.05)  # the failure is there before the others are done
        return Found([message()])


@pytest.mark.parametrize("error", [UnavailableError("The mailbox is away."), PermanentError("The mailbox is away.")])
async def test_a_source_that_fails_is_noted_backs_off_and_stops_nobody_else(
    pool: Pool, outbox: Outbox, told: Told, error: Exception
) -> None:
    for tenant_id in ("kbz-001", "kbz-002", "kbz-003"):
        await schedule(pool, tenant_id)
    assert await polling.poll_due(pool, outbox, OneFails(error)) == 3
    failed = await pool.fetch(
        "SELECT last_error, failures, next_due > clock_timestamp() AS later, leased_until FROM poll_schedules"
        " WHERE failures > 0"
    )
    assert [tuple(row) for row in failed] == [("The mailbox is away.", 1, True, None)]
    assert len(await told(pool)) == 2
    assert await polling.poll_due(pool, outbox, source_of()) == 0


@pytest.mark.parametrize("asked_by", ["schedule", "request"])
@pytest.mark.parametrize("error", [AuthorizationRevokedError("Withdrawn."), NotConnectedError("No credentials.")])
async def test_credentials_that_are_refused_are_noted_and_told(
    pool: Pool, outbox: Outbox, told: Told, error: PermanentError, asked_by: str
) -> None:
    await schedule(pool)
    before = await pool.fetchval("SELECT clock_timestamp()")
    if asked_by == "schedule":
        assert await polling.poll_due(pool, outbox, OneFails(error)) == 1
    else:
        with pytest.raises(type(error)):
            await polling.poll_now(pool, outbox, OneFails(error), TENANT)
    [found] = await queries.list_schedules(pool, TENANT)
    assert (found.running, found.failures, found.last_error) == (False, 1, str(error))
    [(subject, body)] = await told(pool)
    at = datetime.fromisoformat(body.pop("at"))
    assert before < at < await pool.fetchval("SELECT clock_timestamp()")
    connection_id = str(await pool.fetchval("SELECT connection_id FROM poll_schedules"))
    assert subject == "connection.rejected"
    assert body == {"tenantId": TENANT, "connectionId": connection_id, "error": error.code}


@pytest.mark.parametrize("error", [UnavailableError("Away."), PermanentError("No."), AccessDeniedError("No role.")])
async def test_what_else_a_source_refuses_says_nothing_of_the_credentials(
    pool: Pool, outbox: Outbox, told: Told, error: Exception
) -> None:
    await schedule(pool)
    await polling.poll_due(pool, outbox, OneFails(error))
    assert await told(pool) == []


async def test_credentials_refused_to_who_has_lost_the_lease_are_not_told(
    pool: Pool, outbox: Outbox, told: Told
) -> None:
    await schedule(pool)

    async def refused(_: Lease) -> Found:
        await disconnect(pool)
        raise AuthorizationRevokedError("Withdrawn.")

    assert await polling.poll_due(pool, outbox, refused) == 1
    assert await told(pool) == []
    [found] = await queries.list_schedules(pool, TENANT)
    assert (found.failures, found.last_error) == (0, None)


async def test_a_refusal_that_cannot_be_told_is_not_noted_either(
    pool: Pool, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(*_: object) -> None:
        raise ConnectionResetError

    await schedule(pool)
    monkeypatch.setattr(outbox, "add", crash)
    with pytest.raises(ConnectionResetError):
        await polling.poll_due(pool, outbox, OneFails(AuthorizationRevokedError("Withdrawn.")))
    [found] = await queries.list_schedules(pool, TENANT)
    assert (found.running, found.failures) == (True, 0)


@pytest.mark.parametrize("asked_by", ["schedule", "request"])
async def test_credentials_that_stay_refused_are_told_once_and_asked_for_once_an_hour(
    pool: Pool, outbox: Outbox, told: Told, asked_by: str
) -> None:
    async def poll(error: Exception | None) -> None:
        source = OneFails(error) if error else source_of()
        if asked_by == "schedule":
            await make_due(pool)
            assert await polling.poll_due(pool, outbox, source) == 1
        else:
            with pytest.raises(type(error)) if error else contextlib.nullcontext():
                await polling.poll_now(pool, outbox, source, TENANT)

    refused = AuthorizationRevokedError("Withdrawn.")
    await schedule(pool, interval_seconds=300)
    for error in (refused, refused, UnavailableError("Away."), refused):
        await poll(error)
        assert len(await told(pool)) == 1
        assert await pool.fetchval("SELECT next_due > now() + interval '50 minutes' FROM poll_schedules")
    await poll(None)
    [found] = await queries.list_schedules(pool, TENANT)
    assert (found.rejected_at, found.failures) == (None, 0)
    await poll(refused)
    assert len(await told(pool)) == 2


async def test_refused_credentials_wait_for_oauths_word_which_ends_the_wait_or_the_polls(
    pool: Pool, outbox: Outbox, told: Told
) -> None:
    await schedule(pool)
    for times in (1, 2):
        await polling.poll_due(pool, outbox, OneFails(AuthorizationRevokedError("Withdrawn.")))
        assert len(await told(pool)) == times
        assert await polling.poll_due(pool, outbox, source_of()) == 0
        await schedule(pool)  # the seller has connected the account anew
        [found] = await queries.list_schedules(pool, TENANT)
        assert found.rejected_at is None
    await polling.poll_due(pool, outbox, OneFails(AuthorizationRevokedError("Withdrawn.")))
    await disconnect(pool)
    await make_due(pool)
    assert await polling.poll_due(pool, outbox, source_of()) == 0


async def test_what_nobody_expected_is_noted_backs_off_and_stops_nobody_else(
    pool: Pool, outbox: Outbox, told: Told
) -> None:
    for tenant_id in ("kbz-001", "kbz-002", "kbz-003"):
        await schedule(pool, tenant_id)
    with structlog.testing.capture_logs() as logs:
        assert await polling.poll_due(pool, outbox, OneFails(ValueError("A buyer's words."))) == 3
    failed = await pool.fetch(
        "SELECT last_error, failures, next_due > clock_timestamp() AS later, leased_until FROM poll_schedules"
        " WHERE failures > 0"
    )
    wanted = "The poll failed as nobody expected (ValueError): the log says where."
    assert [tuple(row) for row in failed] == [(wanted, 1, True, None)]
    assert len(await told(pool)) == 2
    [line] = [line for line in logs if line["event"] == "poll_failed"]
    assert (line["log_level"], line["error"]) == ("error", "ValueError")
    assert "raise error" in "".join(line["where"])
    assert "buyer" not in str(logs)


async def test_what_nobody_expected_of_a_poll_on_request_is_noted_and_rises(pool: Pool, outbox: Outbox) -> None:
    await schedule(pool)
    with pytest.raises(ZeroDivisionError):
        await polling.poll_now(pool, outbox, OneFails(ZeroDivisionError()), TENANT)
    [found] = await queries.list_schedules(pool, TENANT)
    assert (found.running, found.failures) == (False, 1)


async def test_messages_events_and_the_next_slot_are_one_transaction(
    pool: Pool, outbox: Outbox, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    await schedule(pool)
    messages = [message("m-1"), message("m-2")]
    add = outbox.add

    async def crash(conn: Conn, *events: Event) -> None:
        await add(conn, *events)
        raise ConnectionResetError

    with monkeypatch.context() as broken:
        broken.setattr(outbox, "add", crash)
        assert await polling.poll_due(pool, outbox, source_of(*messages)) == 1
    assert (await count(pool), await told(pool)) == ((0, 0, 0), [])
    [found] = await queries.list_schedules(pool, TENANT)
    assert (found.failures, found.last_success_at) == (1, None)
    await poll(pool, outbox, *messages)
    assert (await count(pool), len(await told(pool))) == ((2, 1, 2), 2)


async def test_a_poll_that_brings_nothing_new_takes_three_statements(pool: Pool, outbox: Outbox) -> None:
    await schedule(pool)
    await polling.poll_due(pool, outbox, mock.fetch)
    await make_due(pool)
    said: list[str] = []
    async with pool.acquire() as conn:  # the only one, used by turns
        conn.add_query_logger(lambda record: said.append(record.query))
    due_by = await queries.get_now(pool)
    said.clear()
    assert await polling.poll_due(pool, outbox, mock.fetch, due_by) == 1
    *of_poll, none_left = said
    assert len(of_poll) == 3
    assert of_poll[0] == none_left


@pytest.mark.parametrize("came_back", [False, True])
@pytest.mark.parametrize("asked_by", ["schedule", "request"])
async def test_a_poll_in_hand_when_the_tenant_is_archived_stores_nothing(
    pool: Pool, outbox: Outbox, told: Told, asked_by: str, came_back: bool
) -> None:
    await schedule(pool)

    async def slow(_: Lease) -> Found:
        await follow(pool, status="ARCHIVED")
        if came_back:
            await follow(pool, status="ACTIVE")
        return Found([message()])

    if asked_by == "schedule":
        assert await polling.poll_due(pool, outbox, slow, await queries.get_now(pool)) == 1
    else:
        with pytest.raises(PollRunningError, match="archived meanwhile"):
            await polling.poll_now(pool, outbox, slow, TENANT)
    assert (await count(pool), await told(pool)) == ((0, 0, 0), [])
    [found] = await queries.list_schedules(pool, TENANT)
    assert (found.failures, found.last_error, found.last_success_at) == (0, None, None)
    assert await polling.poll_due(pool, outbox, source_of(message())) == came_back
    assert await count(pool) == (came_back, came_back, came_back)


async def test_a_poll_on_request_stores_what_is_new(pool: Pool, outbox: Outbox, told: Told) -> None:
    await schedule(pool)
    for stored in (3, 0):
        polled = await polling.poll_now(pool, outbox, mock.fetch, TENANT)
        assert (polled.fetched, polled.stored) == (3, stored)
    assert len(await told(pool)) == 3


async def test_a_poll_on_request_waits_for_nobody(pool: Pool, outbox: Outbox) -> None:
    with pytest.raises(NotScheduledError):
        await polling.poll_now(pool, outbox, mock.fetch, TENANT)
    await schedule(pool)
    await claim(pool)
    with pytest.raises(PollRunningError):
        await polling.poll_now(pool, outbox, mock.fetch, TENANT)
    await pool.execute("UPDATE poll_schedules SET leased_until = clock_timestamp() - interval '1 second'")
    assert (await polling.poll_now(pool, outbox, mock.fetch, TENANT)).stored == 3


async def test_an_archived_tenant_is_not_polled_on_request_and_the_reason_is_said(pool: Pool, outbox: Outbox) -> None:
    await follow(pool, status="ARCHIVED")
    for _ in range(2):
        with pytest.raises(NotScheduledError, match="The tenant is archived"):
            await polling.poll_now(pool, outbox, mock.fetch, TENANT)
        assert await polling.poll_due(pool, outbox, mock.fetch) == 0
        await schedule(pool)
    await follow(pool, status="ACTIVE")
    assert await polling.poll_due(pool, outbox, mock.fetch) == 1


@pytest.mark.parametrize("known", [True, False])
async def test_a_disconnected_account_is_not_polled_on_request_and_the_reason_is_said(
    pool: Pool, outbox: Outbox, known: bool
) -> None:
    if known:
        await schedule(pool)
    await disconnect(pool)
    with pytest.raises(NotScheduledError, match="account is disconnected"):
        await polling.poll_now(pool, outbox, mock.fetch, TENANT)
    assert await polling.poll_due(pool, outbox, mock.fetch) == 0
    await schedule(pool)
    assert await polling.poll_due(pool, outbox, mock.fetch) == 1


async def test_a_poll_on_request_that_fails_is_noted_and_gives_the_schedule_back(pool: Pool, outbox: Outbox) -> None:
    await schedule(pool)
    with pytest.raises(RetryLaterError):
        await polling.poll_now(pool, outbox, OneFails(UnavailableError("The mailbox is away.")), TENANT)
    [found] = await queries.list_schedules(pool, TENANT)
    assert (found.running, found.failures, found.last_error) == (False, 1, "The mailbox is away.")
    assert (await polling.poll_now(pool, outbox, mock.fetch, TENANT)).stored == 3


async def test_the_mock_gives_three_fixed_messages() -> None:
    lease = Lease(TENANT, "AMAZON", 1)
    first, second = (await mock.fetch(lease)).messages, (await mock.fetch(lease)).messages
    assert [each.external_id for each in first] == [each.external_id for each in second]
    assert [each.external_order_id for each in first] == ["407-8949262-6149120", "171-3125066-7920325", None]
