"""The HTTP of poller, as the product app asks it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import httpx
import pytest

from devstack.stack import Stack
from poller import mock, polling
from poller.domain import Found, Lease
from poller.routes import ROUTES
from poller.settings import PollerSettings
from shared.amazon.errors import AuthorizationRevokedError
from shared.db import Pool
from shared.outbox import Outbox
from tests.builders import agent, serving
from tests.poller.conftest import MINUTE, NOW, TENANT, claim, disconnect, follow, message, schedule, source_of

TICKETS, STATUS, RUN = "/api/v1/tickets", "/api/v1/poller/status", "/api/v1/poller/run"
OTHER = "kbz-002"


@pytest.fixture
async def http(stack: Stack, pool: Pool, outbox: Outbox, settings: PollerSettings) -> AsyncIterator[httpx.AsyncClient]:
    dependencies = {"pool": pool, "outbox": outbox, "source": mock.fetch}
    async with serving("poller", ROUTES, settings, dependencies) as client:
        client.headers.update(agent(stack, TENANT))
        yield client


def silent(tenant_id: str) -> dict[str, object]:
    """The status of a tenant that nothing is known of."""
    return {
        "tenantId": tenant_id,
        "archived": False,
        "schedules": [],
        "lastMessageAt": None,
        "lastMessageSource": None,
        "silentHours": None,
        "mailboxes": None,
    }


async def receive(pool: Pool, outbox: Outbox, tickets: int = 1) -> None:
    """So many tickets, the first of them the latest, two with the same time."""
    await schedule(pool)
    messages = [
        message(f"m-{number}", buyer=f"buyer-{number}", received_at=NOW - (number // 2) * MINUTE)
        for number in range(tickets)
    ]
    await polling.poll_due(pool, outbox, source_of(*messages))


async def test_the_list_has_every_field_of_a_ticket(http: httpx.AsyncClient, pool: Pool, outbox: Outbox) -> None:
    await receive(pool, outbox)
    answer = await http.get(TICKETS)
    body = answer.json()
    [ticket] = body.pop("tickets")
    assert (answer.status_code, body) == (200, {"nextCursor": None})
    assert ticket.pop("id")
    assert abs(datetime.fromisoformat(ticket.pop("createdAt")) - datetime.now(UTC)) < timedelta(minutes=1)
    assert ticket == {
        "tenantId": TENANT,
        "marketplace": "AMAZON",
        "channel": "mock",
        "language": None,
        "externalOrderId": "407-8949262-6149120",
        "subject": "Where is it?",
        "status": "OPEN",
        "replyBy": "2026-01-11T12:00:00Z",
        "lastMessageAt": "2026-01-10T12:00:00Z",
    }


async def test_one_ticket_has_its_messages(http: httpx.AsyncClient, pool: Pool, outbox: Outbox) -> None:
    await receive(pool, outbox)
    [listed] = (await http.get(TICKETS)).json()["tickets"]
    body = (await http.get(f"{TICKETS}/{listed['id']}")).json()
    [only] = body.pop("messages")
    assert body == listed
    assert only.pop("id")
    assert only == {
        "kind": "BUYER_MESSAGE",
        "body": "Hello, where is my order?",
        "sentAt": "2026-01-10T12:00:00Z",
        "attachments": [],
    }


async def test_the_pages_of_the_list_join_up(http: httpx.AsyncClient, pool: Pool, outbox: Outbox) -> None:
    await receive(pool, outbox, 25)
    seen: list[tuple[str, str]] = []
    parameters = {"limit": "10"}
    for size in (10, 10, 5):
        body = (await http.get(TICKETS, params=parameters)).json()
        assert len(body["tickets"]) == size
        seen += [(each["lastMessageAt"], each["id"]) for each in body["tickets"]]
        parameters["cursor"] = body["nextCursor"]
    assert body["nextCursor"] is None
    assert len(set(seen)) == 25
    assert seen == sorted(seen, reverse=True)


async def test_the_list_finds_by_status(http: httpx.AsyncClient, pool: Pool, outbox: Outbox) -> None:
    await receive(pool, outbox, 3)
    await pool.execute("UPDATE tickets SET status = 'CLOSED' WHERE buyer = 'buyer-1'")
    found = {
        status: len((await http.get(TICKETS, params={"status": status})).json()["tickets"])
        for status in ("OPEN", "CLOSED")
    }
    assert found == {"OPEN": 2, "CLOSED": 1}


async def test_what_cannot_be_asked_for_is_refused_and_named(http: httpx.AsyncClient) -> None:
    for parameters, field in (
        ({"limit": "0"}, "limit"),
        ({"limit": "201"}, "limit"),
        ({"status": "open"}, "status"),
        ({"cursor": "not-a-cursor"}, "cursor"),
    ):
        answer = await http.get(TICKETS, params=parameters)
        assert answer.status_code == 400, parameters
        assert [error["field"] for error in answer.json()["errors"]] == [field], answer.text


async def test_another_tenants_tickets_are_not_there(
    http: httpx.AsyncClient, pool: Pool, outbox: Outbox, stack: Stack
) -> None:
    await receive(pool, outbox)
    [listed] = (await http.get(TICKETS)).json()["tickets"]
    other = agent(stack, OTHER)
    assert (await http.get(TICKETS, headers=other)).json()["tickets"] == []
    assert (await http.get(f"{TICKETS}/{listed['id']}", headers=other)).status_code == 404
    assert (await http.get(STATUS, headers=other)).json() == silent(OTHER)
    assert (await http.get(TICKETS, headers={"X-Tenant-Id": OTHER})).status_code == 404
    assert (await http.get(f"{TICKETS}/{uuid4()}")).status_code == 404


async def test_the_status_says_how_a_tenant_is_polled(http: httpx.AsyncClient, pool: Pool) -> None:
    assert (await http.get(STATUS)).json() == silent(TENANT)
    await schedule(pool, interval_seconds=300)
    [found] = (await http.get(STATUS)).json()["schedules"]
    assert datetime.fromisoformat(found.pop("nextDue")) <= datetime.now(UTC)
    assert found == {
        "marketplace": "AMAZON",
        "intervalSeconds": 300,
        "running": False,
        "failures": 0,
        "lastSuccessAt": None,
        "lastError": None,
        "rejectedAt": None,
        "disconnectedAt": None,
    }


async def test_the_status_says_since_when_an_account_is_disconnected_and_a_run_that_it_is_not_polled(
    http: httpx.AsyncClient, pool: Pool
) -> None:
    await schedule(pool)
    await disconnect(pool)
    [found] = (await http.get(STATUS)).json()["schedules"]
    assert abs(datetime.fromisoformat(found["disconnectedAt"]) - datetime.now(UTC)) < timedelta(minutes=1)
    answer = await http.post(RUN)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_scheduled")
    assert "account is disconnected" in answer.json()["detail"]
    await schedule(pool)
    [found] = (await http.get(STATUS)).json()["schedules"]
    assert found["disconnectedAt"] is None
    assert (await http.post(RUN)).status_code == 200


async def test_the_status_says_that_a_tenant_is_archived_and_a_run_that_it_is_not_polled(
    http: httpx.AsyncClient, pool: Pool
) -> None:
    await schedule(pool)
    await follow(pool, status="ARCHIVED")
    body = (await http.get(STATUS)).json()
    assert (body["archived"], len(body["schedules"])) == (True, 1)
    answer = await http.post(RUN)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_scheduled")
    assert "The tenant is archived" in answer.json()["detail"]


async def test_a_run_answers_what_it_brought(http: httpx.AsyncClient, pool: Pool) -> None:
    await schedule(pool)
    answers = [await http.post(RUN) for _ in range(2)]
    assert [(answer.status_code, answer.json()) for answer in answers] == [
        (200, {"fetched": 3, "stored": 3}),
        (200, {"fetched": 3, "stored": 0}),
    ]


async def test_of_two_runs_at_once_one_polls_and_the_other_is_409(
    stack: Stack, pool: Pool, outbox: Outbox, settings: PollerSettings
) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: Lease) -> Found:
        entered.set()
        await go_on.wait()
        return Found([message()])

    await schedule(pool)
    dependencies = {"pool": pool, "outbox": outbox, "source": slow}
    async with serving("poller", ROUTES, settings, dependencies) as http, asyncio.TaskGroup() as group:
        http.headers.update(agent(stack, TENANT))
        first = group.create_task(http.post(RUN))
        await entered.wait()
        [found] = (await http.get(STATUS)).json()["schedules"]
        assert found["running"] is True
        second = await http.post(RUN)
        go_on.set()
        assert (second.status_code, second.json()["code"]) == (409, "poll_running")
        assert int(second.headers["Retry-After"]) >= 1
        assert ((await first).status_code, (await first).json()) == (200, {"fetched": 1, "stored": 1})


async def test_the_status_says_since_when_credentials_are_refused_and_a_run_asks_again(
    stack: Stack, pool: Pool, outbox: Outbox, settings: PollerSettings, http: httpx.AsyncClient
) -> None:
    async def refused(_: Lease) -> Found:
        raise AuthorizationRevokedError("The seller withdrew the authorization.")

    await schedule(pool)
    async with serving("poller", ROUTES, settings, {"pool": pool, "outbox": outbox, "source": refused}) as refusing:
        refusing.headers.update(agent(stack, TENANT))
        answer = await refusing.post(RUN)
    assert (answer.status_code, answer.json()["code"]) == (400, "authorization_revoked")
    [found] = (await http.get(STATUS)).json()["schedules"]
    assert datetime.now(UTC) - datetime.fromisoformat(found["rejectedAt"]) < timedelta(minutes=1)
    assert (found["lastError"], found["failures"]) == ("The seller withdrew the authorization.", 1)
    assert (await http.post(RUN)).status_code == 200
    [found] = (await http.get(STATUS)).json()["schedules"]
    assert (found["rejectedAt"], found["lastError"], found["lastSuccessAt"] is None) == (None, None, False)


async def test_a_run_of_a_tenant_that_is_not_polled_is_404(http: httpx.AsyncClient, pool: Pool) -> None:
    await schedule(pool, OTHER)
    answer = await http.post(RUN)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_scheduled")


async def test_a_run_beside_another_one_is_409(http: httpx.AsyncClient, pool: Pool) -> None:
    await schedule(pool)
    await claim(pool)
    answer = await http.post(RUN)
    assert (answer.status_code, answer.json()["code"]) == (409, "poll_running")
    assert int(answer.headers["Retry-After"]) >= 1


async def test_without_credentials_nothing_is_answered(http: httpx.AsyncClient) -> None:
    del http.headers["Authorization"]
    answers = [await http.get(TICKETS), await http.get(STATUS), await http.post(RUN)]
    assert [answer.status_code for answer in answers] == [401, 401, 401]
