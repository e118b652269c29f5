"""What operators ask of the poller over NATS."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from devstack.stack import Stack
from poller import mock
from poller.intake import Intake, take_batch
from poller.requests import OPERATIONS
from shared.db import Pool
from shared.outbox import Outbox
from tests.builders import Operator, answering
from tests.conftest import Told
from tests.poller.conftest import NOW, TENANT, disconnect, follow, schedule
from tests.poller.mails import ADDRESS, SERVER, address, fetched, lease, raw

LOST = "amazon.lost.fr@inbound.keybuzz.test"
LIST, SHOW, RELEASE, DROP = (f"poller.quarantine.{each}" for each in ("list", "show", "release", "drop"))


@pytest.fixture
async def operator(stack: Stack, pool: Pool, outbox: Outbox) -> AsyncIterator[Operator]:
    dependencies = {"pool": pool, "outbox": outbox, "source": mock.fetch}
    async with answering(stack, "poller", OPERATIONS, dependencies) as asker:
        yield asker


@pytest.fixture
async def held(pool: Pool, outbox: Outbox) -> None:
    """In main: one whose address is nobody's, one that may not be Amazon's; in spare: one that may not be either."""
    await follow(pool, inbound_addresses=[address()], synced_at=NOW)
    intake = Intake(pool, outbox, SERVER)
    mails = {"main": [raw("m-1", to=LOST), raw("m-2", results="")], "spare": [raw("m-3", results="")]}
    for mailbox, given in mails.items():
        mailbox_lease = await lease(pool, mailbox)
        await take_batch(intake, mailbox_lease, 7, [fetched(uid, mail) for uid, mail in enumerate(given, 1)])


async def listed(operator: Operator, **asked: object) -> list[tuple[str, str]]:
    """Mailbox and reason of each, the latest first."""
    return [(mail["mailbox"], mail["reason"]) for mail in (await operator.ask(LIST, **asked))["mails"]]


@pytest.mark.usefixtures("held")
async def test_the_list_is_narrowed_by_state_mailbox_and_tenant_and_its_pages_join_up(operator: Operator) -> None:
    whole = [("spare", "NOT_FROM_AMAZON"), ("main", "NOT_FROM_AMAZON"), ("main", "UNKNOWN_RECIPIENT")]
    assert await listed(operator) == await listed(operator, state="HELD") == whole
    assert await listed(operator, state="DROPPED") == []
    assert await listed(operator, mailbox="main") == whole[1:]
    assert await listed(operator, tenantId=TENANT) == whole[:2]
    assert await listed(operator, tenantId=TENANT, mailbox="main") == whole[1:2]
    first = await operator.ask(LIST, limit=2)
    assert await listed(operator, limit=2, cursor=first["nextCursor"]) == whole[2:]


@pytest.mark.usefixtures("held")
async def test_a_mail_is_shown_by_its_headers_only(operator: Operator) -> None:
    [found] = (await operator.ask(LIST, limit=1, mailbox="main"))["mails"]
    shown = await operator.ask(SHOW, id=found["id"])
    assert shown == found
    assert shown["headers"]["Delivered-To"] == [ADDRESS]
    assert "secret" not in str(shown)


@pytest.mark.usefixtures("held")
async def test_an_operator_decides_once_and_it_is_written_down_who(operator: Operator, pool: Pool, told: Told) -> None:
    forged, lost = (mail["id"] for mail in (await operator.ask(LIST, mailbox="main"))["mails"])
    refused = await operator.ask(RELEASE, id=lost)
    assert (refused["code"], refused["status"]) == ("not_releasable", 409)
    assert "still nobody's" in refused["detail"]
    released = await operator.ask(RELEASE, id=lost, tenantId=TENANT)
    assert (released["state"], released["tenantId"], released["decidedBy"]) == ("RELEASED", TENANT, "operator")
    assert [subject for subject, _ in await told(pool)] == ["message.received"]
    dropped = await operator.ask(DROP, id=forged)
    assert (dropped["state"], dropped["decidedBy"]) == ("DROPPED", "operator")
    for subject in (RELEASE, DROP):
        assert await operator.code(subject, id=forged) == "already_decided"
    assert await listed(operator, state="HELD") == [("spare", "NOT_FROM_AMAZON")]


@pytest.mark.parametrize("subject", [SHOW, RELEASE, DROP])
async def test_a_mail_that_is_not_there_is_not_found(operator: Operator, subject: str) -> None:
    assert await operator.code(subject, id=str(uuid4())) == "quarantined_mail_not_found"


@pytest.mark.parametrize(
    ("subject", "asked", "field"),
    [
        (LIST, {"state": "held"}, "state"),
        (LIST, {"limit": 201}, "limit"),
        (LIST, {"tenantId": "not a tenant"}, "tenantId"),
        (LIST, {"cursor": "x"}, "cursor"),
        (SHOW, {"id": "1"}, "id"),
        (RELEASE, {"id": str(uuid4()), "tenantId": ""}, "tenantId"),
        (DROP, {"id": str(uuid4()), "tenantId": TENANT}, "tenantId"),
        ("poller.run", {"tenant": TENANT}, "tenant"),
    ],
)
async def test_a_wrong_field_is_named(operator: Operator, subject: str, asked: dict[str, object], field: str) -> None:
    problem = await operator.ask(subject, **asked)
    assert problem["status"] == 400
    assert [each["field"] for each in problem["errors"]] == [field]


async def test_a_tenant_is_polled_now_and_its_status_told(operator: Operator, pool: Pool) -> None:
    assert await operator.code("poller.run", tenantId=TENANT) == "not_scheduled"
    await schedule(pool)
    assert await operator.ask("poller.run", tenantId=TENANT) == {"fetched": 3, "stored": 3}
    status = await operator.ask("poller.status", tenantId=TENANT)
    assert (status["tenantId"], status["lastMessageSource"], status["mailboxes"]) == (TENANT, "mock", [])
    assert status["schedules"][0]["lastSuccessAt"]
    await disconnect(pool)
    assert "Connect it again" in (await operator.ask("poller.run", tenantId=TENANT))["detail"]
