"""Mail in, on real PostgreSQL: whose it is, what speaks against it, and a batch stored as one with its place."""

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from poller import ticket_queries
from poller.domain import Fetched, MailboxLease, MailboxLostError
from poller.intake import Intake, take_batch
from poller.mail import MAX_ATTACHMENT_BYTES
from shared.db import Pool
from shared.outbox import Outbox
from tests.conftest import OpenPool, Told
from tests.poller.conftest import MINUTE, NOW, TENANT, follow
from tests.poller.mails import ADDRESS, ORDER, SERVER, address, fetched, lease, raw


@pytest.fixture
async def intake(pool: Pool, outbox: Outbox) -> Intake:
    """The tenant has its address."""
    await follow(pool, inbound_addresses=[address()], synced_at=NOW)
    return Intake(pool, outbox, SERVER)


@pytest.fixture
async def owner(pool_of: OpenPool) -> Pool:
    """For what only the owner of the tables may do."""
    return await pool_of("poller_owner")


async def place(pool: Pool, name: str = "main") -> tuple[Any, ...]:
    row = await pool.fetchrow("SELECT uid_validity, last_uid FROM mailboxes WHERE name = $1", name)
    return tuple(row)


async def counted(pool: Pool) -> tuple[int, ...]:
    """Messages, tickets, mails in quarantine, events."""
    tables = ("external_messages", "tickets", "quarantined_mails", "outbox")
    return tuple([await pool.fetchval(f"SELECT count(*) FROM {table}") for table in tables])  # noqa: S608 - constants


async def reasons(pool: Pool) -> list[tuple[str, str | None]]:
    rows = await pool.fetch("SELECT reason, tenant_id FROM quarantined_mails ORDER BY received_at, reason")
    return [(row["reason"], row["tenant_id"]) for row in rows]


async def test_a_mail_becomes_a_message_and_the_mailbox_moves_on(intake: Intake, pool: Pool, told: Told) -> None:
    files = (
        b"--x\r\nContent-Type: text/plain\r\n\r\nHello\r\n--x\r\nContent-Type: application/pdf\r\n"
        b'Content-Disposition: attachment; filename="a.pdf"\r\nContent-Transfer-Encoding: base64\r\n\r\n'
        b"cGRm\r\n--x--\r\n"
    )
    mail = raw().split(b"Content-Type")[0] + b"Content-Type: multipart/mixed; boundary=x\r\n\r\n" + files
    await take_batch(intake, await lease(pool), 7, [fetched(5, mail)])
    assert await place(pool) == (7, 5)
    [ticket] = await ticket_queries.list_tickets(pool, TENANT, limit=10)
    assert (ticket.channel, ticket.external_order_id, ticket.status) == ("email", ORDER, "OPEN")
    assert ticket.reply_by == NOW + timedelta(days=1)
    found = await ticket_queries.get_ticket(pool, TENANT, ticket.id)
    assert found is not None
    [message] = found[1]
    [file] = message.attachments
    assert (message.body, message.sent_at) == ("Hello", NOW)
    assert (file.name, file.media_type, file.size_bytes) == ("a.pdf", "application/pdf", 3)
    assert file.sha256 == hashlib.sha256(b"pdf").hexdigest()
    [(_, event)] = await told(pool)
    assert (event["inboundAddress"], event["source"], event["externalId"]) == (ADDRESS, "email", "m-1")
    for personal in ("secret", "alias", "jean"):
        assert personal not in str(event).lower()


async def test_the_buyer_is_the_alias_without_what_changes_with_every_mail(intake: Intake, pool: Pool) -> None:
    mails = [
        fetched(uid, raw(f"m-{uid}", sender=sender, subject="No order"))
        for uid, sender in enumerate(("a+1@marketplace.amazon.fr", "a+2@marketplace.amazon.fr"), 1)
    ]
    await take_batch(intake, await lease(pool), 7, mails)
    assert [row["buyer"] for row in await pool.fetch("SELECT buyer FROM tickets")] == ["a@marketplace.amazon.fr"]


async def test_the_messages_of_a_batch_are_told_in_their_order(intake: Intake, pool: Pool, told: Told) -> None:
    await take_batch(intake, await lease(pool), 7, [fetched(uid) for uid in range(1, 6)])
    assert [event["externalId"] for _, event in await told(pool)] == [f"m-{uid}" for uid in range(1, 6)]
    assert await counted(pool) == (5, 1, 0, 5)


async def test_the_same_mail_from_two_mailboxes_or_twice_is_one_message(intake: Intake, pool: Pool) -> None:
    main, other = await lease(pool), await lease(pool, "other")
    await take_batch(intake, main, 7, [fetched(), fetched()])
    await take_batch(intake, main, 8, [fetched()])
    await take_batch(intake, other, 7, [Fetched(9, NOW, raw("m-1", headers="X-Other: 1\r\n"))])
    assert await counted(pool) == (1, 1, 0, 1)
    assert (await place(pool), await place(pool, "other")) == ((8, 1), (7, 9))


async def test_what_is_nobodys_is_held_once_with_its_headers_only(intake: Intake, pool: Pool) -> None:
    mail = raw(to="amazon.kbz-999.fr@inbound.keybuzz.test")
    for _ in range(2):
        await take_batch(intake, await lease(pool), 7, [fetched(1, mail)])
        await pool.execute("UPDATE mailboxes SET leased_until = NULL")
    assert await counted(pool) == (0, 0, 1, 0)
    row = await pool.fetchrow("SELECT reason, tenant_id, headers, raw, received_at FROM quarantined_mails")
    assert row is not None
    reason, tenant_id, headers, kept, received_at = row
    assert (reason, tenant_id, kept, received_at) == ("UNKNOWN_RECIPIENT", None, mail, NOW)
    assert set(headers) == {"From", "To", "Delivered-To", "Message-ID", "Authentication-Results"}
    assert "secret" not in str(headers)
    assert await place(pool) == (7, 1)


FORGED = f"Authentication-Results: {SERVER}; dkim=fail header.d=marketplace.amazon.fr\r\n"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"results": FORGED}, "NOT_FROM_AMAZON"),
        ({"results": ""}, "NOT_FROM_AMAZON"),
        ({"results": "Authentication-Results: evil; dkim=pass header.d=marketplace.amazon.fr\r\n"}, "NOT_FROM_AMAZON"),
        ({"domain": "marketplace.amazon.fr.evil.example"}, "NOT_FROM_AMAZON"),
    ],
)
async def test_what_may_not_be_amazons_is_held(
    intake: Intake, pool: Pool, changes: dict[str, Any], reason: str
) -> None:
    await take_batch(intake, await lease(pool), 7, [fetched(1, raw(**changes))])
    assert await reasons(pool) == [(reason, TENANT)]
    assert await counted(pool) == (0, 0, 1, 0)


async def test_what_is_too_large_is_held_with_its_head(intake: Intake, pool: Pool) -> None:
    await take_batch(intake, await lease(pool), 7, [Fetched(1, NOW, None, raw().split(b"\r\n\r\n")[0])])
    assert await reasons(pool) == [("TOO_LARGE", None)]
    row = await pool.fetchrow("SELECT headers->'From'->>0, raw FROM quarantined_mails")
    assert row is not None
    assert tuple(row) == ("Jean - Amazon Marketplace <alias+f3a@marketplace.amazon.fr>", None)


@pytest.mark.parametrize(
    ("change", "taken"),
    [
        pytest.param({"status": "ARCHIVED", "inbound_addresses": [address()]}, False, id="archived"),
        pytest.param({"inbound_addresses": []}, False, id="not named any more"),
        pytest.param({"inbound_addresses": [address(status="DISABLED")]}, False, id="disabled"),
        pytest.param({"inbound_addresses": [address(), address(ADDRESS.upper())]}, True, id="twice"),
        pytest.param({"inbound_addresses": [], "synced_at": NOW - MINUTE}, True, id="older than what we know"),
    ],
)
async def test_mail_goes_where_the_latest_addresses_say(
    intake: Intake, pool: Pool, change: dict[str, Any], taken: bool
) -> None:
    await follow(pool, **({"synced_at": NOW + MINUTE} | change))
    await take_batch(intake, await lease(pool), 7, [fetched()])
    assert await reasons(pool) == ([] if taken else [("DISABLED_RECIPIENT", TENANT)])
    assert (await counted(pool))[:2] == ((1, 1) if taken else (0, 0))


async def test_a_mail_that_the_database_refuses_is_held_alone(intake: Intake, pool: Pool, owner: Pool) -> None:
    await owner.execute("ALTER TABLE external_messages ADD CHECK (subject <> 'refused')")
    mails = [fetched(1), fetched(2, raw("m-2", subject="refused"), NOW + MINUTE), fetched(3)]
    await take_batch(intake, await lease(pool), 7, mails)
    assert await reasons(pool) == [("UNREADABLE", None)]
    rows = await pool.fetch("SELECT external_id FROM external_messages ORDER BY external_id")
    assert [row["external_id"] for row in rows] == ["m-1", "m-3"]
    assert (await place(pool), await counted(pool)) == ((7, 3), (2, 1, 1, 2))


async def test_nothing_in_a_header_is_refused_by_the_quarantine(intake: Intake, pool: Pool) -> None:
    odd = raw(to="nobody@elsewhere.test", sender="=?utf-8?q?a=00b?= =?utf-7?q?+2AA-?= <x@y.test>")
    await take_batch(intake, await lease(pool), 7, [fetched(1, odd)])
    assert await reasons(pool) == [("UNKNOWN_RECIPIENT", None)]


async def test_an_outage_in_a_batch_stores_nothing_of_it_and_does_not_move_on(
    intake: Intake, pool: Pool, owner: Pool
) -> None:
    held = await lease(pool)
    await take_batch(intake, held, 7, [fetched(1)])
    await owner.execute("REVOKE INSERT ON outbox FROM poller")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await take_batch(intake, held, 7, [fetched(2), fetched(3)])
    assert (await place(pool), await counted(pool)) == ((7, 1), (1, 1, 0, 1))


@pytest.mark.parametrize("mail", [raw(), raw(to="nobody@elsewhere.test")], ids=["taken", "held back"])
async def test_who_has_lost_the_mailbox_writes_nothing(intake: Intake, pool: Pool, mail: bytes) -> None:
    lost = await lease(pool)
    await pool.execute("UPDATE mailboxes SET leased_until = clock_timestamp() - interval '1 second'")
    held = await lease(pool)
    with pytest.raises(MailboxLostError):
        await take_batch(intake, lost, 7, [fetched(4, mail)])
    assert (await place(pool), await counted(pool)) == ((None, 0), (0, 0, 0, 0))
    await take_batch(intake, held, 7, [fetched(4, mail)])
    assert await place(pool) == (7, 4)


async def test_an_empty_batch_is_nothing(intake: Intake, pool: Pool) -> None:
    await take_batch(intake, await lease(pool), 7, [])
    assert await place(pool) == (None, 0)


async def test_replicas_with_many_tenants_in_opposite_orders_do_not_stop_each_other(intake: Intake, pool: Pool) -> None:
    """Half of the mails are held back, the same in all mailboxes."""
    for number in range(20):
        email = f"amazon.t-{number}.fr@inbound.keybuzz.test"
        await follow(pool, tenant_id=f"t-{number}", inbound_addresses=[address(email)], synced_at=datetime.now(UTC))
    mails = [raw(f"m-{number}", to=f"amazon.t-{number}.fr@inbound.keybuzz.test") for number in range(40)]
    leases = [await lease(pool, f"box-{number}") for number in range(6)]

    async def read(number: int, held: MailboxLease) -> None:
        order = mails if number % 2 else mails[::-1]
        await take_batch(intake, held, 7, [fetched(uid, mail) for uid, mail in enumerate(order, 1)])

    for _ in range(3):
        for table in ("ticket_messages", "tickets", "external_messages", "quarantined_mails", "outbox"):
            await pool.execute(f"DELETE FROM {table}")  # noqa: S608 - constants
        await asyncio.gather(*(read(number, held) for number, held in enumerate(leases)))
        assert await counted(pool) == (20, 20, 20, 20)


@pytest.mark.parametrize("kind", ["BBC_MESSAGE_SENT_TO_MERCHANT", "BBC_MESSAGE_CONFIRMATION_TO_MERCHANT", "OTHER"])
async def test_the_first_good_mail_of_any_kind_verifies_its_address_once(
    pool: Pool, outbox: Outbox, told: Told, kind: str
) -> None:
    await follow(pool, inbound_addresses=[address(status="PENDING")], synced_at=NOW)
    intake = Intake(pool, outbox, SERVER)
    held = await lease(pool)
    await take_batch(intake, held, 7, [fetched(1, raw(results=""))])
    assert await told(pool) == []
    mails = [fetched(uid, raw(f"m-{uid}", kind=kind)) for uid in (2, 3)]
    await take_batch(intake, held, 7, mails)
    await follow(pool, inbound_addresses=[address(status="PENDING")], synced_at=NOW + MINUTE)
    await take_batch(intake, held, 7, [fetched(4, raw("m-4", kind=kind))])
    verified = [event for subject, event in await told(pool) if subject == "tenant.address_verified"]
    assert [(event["tenantId"], event["inboundAddress"]) for event in verified] == [(TENANT, ADDRESS)]


async def test_an_address_that_goes_to_another_tenant_is_verified_anew(intake: Intake, pool: Pool, told: Told) -> None:
    await follow(pool, tenant_id="kbz-002", inbound_addresses=[address(status="PENDING")], synced_at=NOW)
    await take_batch(intake, await lease(pool), 7, [fetched()])
    assert [(subject, event["tenantId"]) for subject, event in await told(pool)] == [
        ("tenant.address_verified", "kbz-002"),
        ("message.received", "kbz-002"),
    ]


async def test_a_file_that_is_too_large_is_noted_without_its_content(intake: Intake, pool: Pool) -> None:
    start = raw().split(b"Content-Type")[0] + b"Content-Type: application/zip\r\n\r\n"
    await take_batch(intake, await lease(pool), 7, [fetched(1, start + b"z" * (MAX_ATTACHMENT_BYTES + 1))])
    assert await reasons(pool) == []
    [ticket] = await ticket_queries.list_tickets(pool, TENANT, limit=10)
    found = await ticket_queries.get_ticket(pool, TENANT, ticket.id)
    assert found is not None
    [file] = found[1][0].attachments
    assert (file.media_type, file.size_bytes, file.sha256) == ("application/zip", MAX_ATTACHMENT_BYTES + 1, None)
