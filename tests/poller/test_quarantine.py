"""What a person decides about held mail, and what says that nothing is heard."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prometheus_client import REGISTRY

from devstack.stack import Stack
from poller import mail_queries, mock, silence
from poller.domain import Fetched
from poller.intake import Intake, take_batch
from poller.routes import ROUTES
from poller.settings import PollerSettings
from shared.db import Pool
from shared.outbox import Outbox
from tests.builders import agent, internal, serving
from tests.conftest import OpenPool, Told
from tests.poller.conftest import MINUTE, NOW, TENANT, follow
from tests.poller.mails import ADDRESS, SERVER, address, fetched, lease, raw

QUARANTINE, STATUS = "/api/v1/quarantine", "/api/v1/poller/status"
LOST = "amazon.lost.fr@inbound.keybuzz.test"


@pytest.fixture
async def http(stack: Stack, pool: Pool, outbox: Outbox, settings: PollerSettings) -> AsyncIterator[httpx.AsyncClient]:
    dependencies = {"pool": pool, "outbox": outbox, "source": mock.fetch}
    async with serving("poller", ROUTES, settings, dependencies) as client:
        client.headers.update(agent(stack, TENANT, "admin"))
        yield client


@pytest.fixture
async def intake(pool: Pool, outbox: Outbox) -> Intake:
    await follow(pool, inbound_addresses=[address()], synced_at=NOW)
    return Intake(pool, outbox, SERVER)


async def hold(intake: Intake, *mails: bytes | Fetched) -> None:
    """Give mails to a mailbox; the tests give such as are held back."""
    held = await lease(intake.pool)
    given = [each if isinstance(each, Fetched) else fetched(uid, each) for uid, each in enumerate(mails, 1)]
    await take_batch(intake, held, 7, given)
    await mail_queries.release_mailbox(intake.pool, held)


async def listed(http: httpx.AsyncClient, **parameters: Any) -> list[dict[str, Any]]:
    answer = await http.get(QUARANTINE, params=parameters)
    assert answer.status_code == 200, answer.text
    mails: list[dict[str, Any]] = answer.json()["mails"]
    return mails


async def decide(http: httpx.AsyncClient, decision: str, **body: str) -> httpx.Response:
    """About the only mail that there is."""
    [mail] = await listed(http)
    return await http.post(f"{QUARANTINE}/{mail['id']}/{decision}", json=body or None)


async def test_the_list_shows_where_a_mail_comes_from_and_nothing_of_what_it_says(
    http: httpx.AsyncClient, intake: Intake
) -> None:
    await hold(intake, raw(to=LOST))
    answer = await http.get(QUARANTINE)
    [mail] = answer.json()["mails"]
    assert mail.pop("id")
    assert mail.pop("createdAt")
    headers = mail.pop("headers")
    assert headers["Delivered-To"] == [LOST]
    assert mail == {
        "reason": "UNKNOWN_RECIPIENT",
        "state": "HELD",
        "mailbox": "main",
        "tenantId": None,
        "receivedAt": "2026-01-10T12:00:00Z",
        "decidedAt": None,
        "decidedBy": None,
    }
    assert "secret" not in answer.text
    assert "raw" not in answer.text


async def test_the_pages_join_up_and_a_state_is_found(http: httpx.AsyncClient, intake: Intake) -> None:
    await hold(intake, *(raw(f"m-{number}", to=LOST) for number in range(5)))
    first = (await http.get(QUARANTINE, params={"limit": 3})).json()
    second = (await http.get(QUARANTINE, params={"limit": 3, "cursor": first["nextCursor"]})).json()
    seen = [each["id"] for each in first["mails"] + second["mails"]]
    assert (len(set(seen)), len(first["mails"]), second["nextCursor"]) == (5, 3, None)
    assert (await http.post(f"{QUARANTINE}/{seen[1]}/drop")).status_code == 200
    assert [each["id"] for each in await listed(http, state="DROPPED")] == [seen[1]]
    assert [each["id"] for each in await listed(http, state="HELD")] == [seen[0], *seen[2:]]
    assert (await http.get(QUARANTINE, params={"state": "held"})).status_code == 400


async def test_one_mail_is_shown_and_the_list_narrowed_by_mailbox_and_tenant(
    http: httpx.AsyncClient, intake: Intake
) -> None:
    await hold(intake, raw("m-1", to=LOST), raw("m-2", results=""))
    known, lost = await listed(http)
    assert (await http.get(f"{QUARANTINE}/{lost['id']}")).json() == lost
    assert await listed(http, tenant=TENANT) == await listed(http, tenant=TENANT, mailbox="main") == [known]
    assert await listed(http, mailbox="spare") == []
    answer = await http.get(f"{QUARANTINE}/{uuid4()}")
    assert (answer.status_code, answer.json()["code"]) == (404, "quarantined_mail_not_found")


async def test_the_quarantine_is_for_an_admin_and_the_products_server(
    http: httpx.AsyncClient, intake: Intake, stack: Stack
) -> None:
    await hold(intake, raw(to=LOST))
    [mail] = await listed(http)
    del http.headers["Authorization"]
    for headers, status in ((agent(stack, TENANT), 403), (agent(stack, TENANT, "internal"), 403), ({}, 401)):
        answers = [
            await http.get(QUARANTINE, headers=headers),
            await http.get(f"{QUARANTINE}/{mail['id']}", headers=headers),
            await http.post(f"{QUARANTINE}/{mail['id']}/release", headers=headers, json={"tenantId": TENANT}),
            await http.post(f"{QUARANTINE}/{mail['id']}/drop", headers=headers),
        ]
        assert [answer.status_code for answer in answers] == [status] * 4
    answer = await http.get(QUARANTINE, headers=internal(stack))
    assert [each["state"] for each in answer.json()["mails"]] == ["HELD"]


async def test_what_is_still_nobodys_stays_until_it_is_somebodys(
    http: httpx.AsyncClient, intake: Intake, pool: Pool, told: Told
) -> None:
    await hold(intake, raw(to=LOST))
    answer = await decide(http, "release")
    assert (answer.status_code, answer.json()["code"]) == (409, "not_releasable")
    assert "still nobody's" in answer.json()["detail"]
    await follow(pool, inbound_addresses=[address(LOST, "DISABLED")], synced_at=NOW + MINUTE)
    assert "still disabled" in (await decide(http, "release")).json()["detail"]
    assert [each["state"] for each in await listed(http)] == ["HELD"]
    await follow(pool, inbound_addresses=[address(LOST)], synced_at=NOW + 2 * MINUTE)
    answer = await decide(http, "release")
    assert (answer.status_code, answer.json()["state"], answer.json()["tenantId"]) == (200, "RELEASED", TENANT)
    assert answer.json()["decidedBy"] == "agent-1"
    assert abs(datetime.fromisoformat(answer.json()["decidedAt"]) - datetime.now(UTC)) < MINUTE
    [(subject, event)] = await told(pool)
    assert (subject, event["inboundAddress"], event["receivedAt"]) == ("message.received", LOST, "2026-01-10T12:00:00Z")
    assert await pool.fetchval("SELECT raw FROM quarantined_mails") is None


async def test_what_may_not_be_amazons_is_released_by_the_persons_word(
    http: httpx.AsyncClient, intake: Intake, pool: Pool, stack: Stack
) -> None:
    await hold(intake, raw(results=""))
    http.headers.update(internal(stack))
    answer = await decide(http, "release")
    assert (answer.status_code, answer.json()["decidedBy"]) == (200, "internal")
    assert await pool.fetchval("SELECT count(*) FROM tickets") == 1


async def test_a_person_says_whose_a_mail_is_but_not_against_its_address(
    http: httpx.AsyncClient, intake: Intake, pool: Pool, told: Told
) -> None:
    await follow(pool, tenant_id="other", inbound_addresses=[], synced_at=NOW)
    await follow(pool, tenant_id="gone", status="ARCHIVED", synced_at=NOW)
    await hold(intake, raw(to=LOST))
    for tenant_id, status, why in (("unheard", 404, "no such tenant"), ("gone", 409, "archived")):
        answer = await decide(http, "release", tenantId=tenant_id)
        assert answer.status_code == status
        assert why in answer.json()["detail"]
    assert (await decide(http, "release", tenantId="not a tenant")).status_code == 400
    answer = await decide(http, "release", tenantId="other")
    assert (answer.status_code, answer.json()["tenantId"]) == (200, "other")
    [(_, event)] = await told(pool)
    assert (event["tenantId"], event["inboundAddress"]) == ("other", None)
    await pool.execute("DELETE FROM quarantined_mails")
    await hold(intake, raw("m-2", to=ADDRESS, results=""))
    answer = await decide(http, "release", tenantId="other")
    assert (answer.status_code, f"belongs to the tenant {TENANT}" in answer.json()["detail"]) == (409, True)
    assert len(await told(pool)) == 1


async def test_a_mail_is_decided_on_once(http: httpx.AsyncClient, intake: Intake, pool: Pool, told: Told) -> None:
    await hold(intake, raw(results=""))
    answers = await asyncio.gather(*(decide(http, "release") for _ in range(4)), decide(http, "drop"))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409, 409]
    assert {answer.json().get("code") for answer in answers} == {None, "already_decided"}
    [mail] = await listed(http)
    assert len(await told(pool)) == (1 if mail["state"] == "RELEASED" else 0)
    assert (await http.post(f"{QUARANTINE}/{uuid4()}/drop")).status_code == 404


async def test_a_dropped_mail_is_gone_and_is_not_held_again(
    http: httpx.AsyncClient, intake: Intake, pool: Pool, told: Told
) -> None:
    await hold(intake, raw(to=LOST))
    answer = await decide(http, "drop")
    assert (answer.status_code, answer.json()["state"], answer.json()["decidedBy"]) == (200, "DROPPED", "agent-1")
    assert await pool.fetchval("SELECT raw FROM quarantined_mails") is None
    await hold(intake, raw(to=LOST))
    assert [each["state"] for each in await listed(http)] == ["DROPPED"]
    assert (await decide(http, "release", tenantId=TENANT)).status_code == 409
    assert await told(pool) == []


async def test_what_cannot_be_taken_in_stays_and_says_why(
    http: httpx.AsyncClient, intake: Intake, pool_of: OpenPool, pool: Pool
) -> None:
    owner = await pool_of("poller_owner")
    await owner.execute("ALTER TABLE external_messages ADD CHECK (subject <> 'refused')")
    await hold(intake, raw(subject="refused"))
    assert "database does not take" in (await decide(http, "release")).json()["detail"]
    assert [(each["reason"], each["state"]) for each in await listed(http)] == [("UNREADABLE", "HELD")]
    await pool.execute("DELETE FROM quarantined_mails")
    await hold(intake, Fetched(1, NOW, None, raw().split(b"\r\n\r\n", maxsplit=1)[0]))
    answer = await decide(http, "release")
    assert (answer.status_code, "only its headers were kept" in answer.json()["detail"]) == (409, True)


async def test_the_status_says_since_when_nothing_came_and_an_admin_sees_the_mailboxes(
    http: httpx.AsyncClient, intake: Intake, stack: Stack
) -> None:
    await take_batch(
        intake, await lease(intake.pool), 7, [fetched(1, received_at=datetime.now(UTC) - timedelta(hours=30))]
    )
    body = (await http.get(STATUS)).json()
    assert (body["lastMessageSource"], round(body["silentHours"])) == ("email", 30)
    assert datetime.now(UTC) - datetime.fromisoformat(body["lastMessageAt"]) > timedelta(hours=29)
    [mailbox] = body["mailboxes"]
    assert mailbox.pop("lastMailAt")
    assert mailbox == {"name": "main", "lastReadAt": None, "lastError": None}
    body = (await http.get(STATUS, headers=agent(stack, TENANT))).json()
    assert (body["mailboxes"], body["lastMessageSource"]) == (None, "email")
    body = (await http.get(STATUS, headers=agent(stack, "kbz-002"))).json()
    assert (body["lastMessageAt"], body["silentHours"]) == (None, None)


async def test_the_metrics_say_what_is_not_heard(intake: Intake, pool: Pool) -> None:
    await hold(intake, raw("m-1"), raw("m-2", to=LOST), raw("m-3", to=LOST))
    await silence.measure(pool, polls=False)
    assert REGISTRY.get_sample_value("mailbox_seconds_since_read", {"mailbox": "main"}) == float("inf")
    assert REGISTRY.get_sample_value("tickets_overdue") == 1
    assert REGISTRY.get_sample_value("mails_held") == 2
    held = await lease(pool)
    await mail_queries.renew_mailbox(pool, held, MINUTE)
    await pool.execute("UPDATE mailboxes SET last_read_at = last_read_at - interval '1 hour'")
    await silence.measure(pool, polls=False)
    since = REGISTRY.get_sample_value("mailbox_seconds_since_read", {"mailbox": "main"})
    assert since is not None
    assert 3600 <= since < 3660
