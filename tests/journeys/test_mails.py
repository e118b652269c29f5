"""From a buyer's mail in the mailbox to a ticket, over real processes, TLS and the account in Vault."""

import asyncio
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import msgspec

from devstack.outside import SELLER, Outside, eventually
from devstack.sandbox.mails import Generated, generate
from devstack.stack import Stack
from tests.builders import internal, new_id, operator_vault

TENANT, OTHER, THIRD = "kbz-001", "kbz-002", "kbz-003"
ORDER = "407-8949262-6149120"


async def begin(outside: Outside, tenant: str, seller: str = SELLER) -> str:
    """The tenant is connected, and has an address that no mail has come to yet."""
    await outside.publish("tenant.created", {"tenantId": tenant})
    page = await eventually(
        "a connected account", lambda: outside.connect(tenant, seller), lambda page: page.is_success
    )
    assert "is connected" in page.text
    address = await eventually("the address", lambda: outside.inbound_address(tenant))
    assert address["status"] == "PENDING"
    email: str = address["email"]
    return email


def written(recipient: str, seed: int, count: int, sorts: Sequence[str]) -> list[Generated]:
    """What the sandbox writes, with what has to be found in it."""
    return list(generate(seed, count, recipient=recipient, order_ids=[ORDER], sorts=sorts))


async def told_of(outside: Outside, external_id: str | None) -> list[dict[str, Any]]:
    """The events message.received of a mail."""
    bodies = [msgspec.json.decode(body, type=dict[str, Any]) for _, _, body in await outside.messages("MESSAGE")]
    return [body for body in bodies if body["externalId"] == external_id]


async def _next_second() -> None:
    """Mailboxes date mails to the second."""
    second = int(time.time())

    async def passed() -> bool:
        return int(time.time()) > second

    await eventually("the next second", passed)


async def test_a_buyers_mail_becomes_a_ticket_and_its_address_is_in_use(outside: Outside) -> None:
    email = await begin(outside, TENANT)
    wanted = {"sorts": ["files"], "orderIds": [ORDER], "seed": 11}
    await outside.write_mails(email, **wanted)
    [mail] = written(email, 11, 1, ["files"])

    [ticket] = await eventually("the ticket", lambda: outside.tickets(TENANT, channel="email"))
    assert (ticket["subject"], ticket["status"]) == (mail.expected.subject, "OPEN")
    assert ticket["externalOrderId"] == mail.expected.order_id
    shown = (await outside.ask("poller", "GET", f"/api/v1/tickets/{ticket['id']}", tenant=TENANT)).json()
    [message] = shown["messages"]
    assert (message["kind"], message["body"]) == ("BUYER_MESSAGE", mail.expected.text)
    files = [(each["name"], each["sha256"]) for each in message["attachments"]]
    assert files == [(each.name, each.sha256) for each in mail.expected.attachments]

    [event] = await eventually("the event", lambda: told_of(outside, mail.expected.message_id))
    assert (event["tenantId"], event["ticketId"], event["source"]) == (TENANT, ticket["id"], "email")
    assert event["inboundAddress"] == email
    known = {mail.expected.message_id, mail.expected.order_id, email, TENANT}
    said = msgspec.json.encode({name: value for name, value in event.items() if value not in known}).decode()
    personal = {mail.expected.sender.partition("@")[0], *mail.expected.subject.split(), *mail.expected.text.split()}
    assert [word for word in personal if len(word) > 3 and word in said] == []
    await eventually(
        "the address in use", lambda: outside.inbound_address(TENANT), lambda address: address["status"] == "ACTIVE"
    )

    await outside.write_mails(email, **wanted)
    last = written(email, 12, 1, ["buyer"])[0].expected.message_id
    await outside.write_mails(email, sorts=["buyer"], orderIds=[ORDER], seed=12)
    await eventually("the mail behind it", lambda: told_of(outside, last))
    assert len(await told_of(outside, mail.expected.message_id)) == 1
    assert len(await outside.tickets(TENANT, channel="email")) == 2


async def test_the_sellers_reply_answers_and_the_buyer_opens_the_ticket_again(outside: Outside) -> None:
    email = await begin(outside, OTHER)
    for count, status in ((1, "OPEN"), (2, "ANSWERED"), (3, "OPEN")):
        await outside.write_mails(email, sorts=["buyer", "copy", "follow-up"], orderIds=[ORDER], seed=21, count=count)

        async def tickets(status: str = status) -> list[dict[str, Any]]:
            return await outside.tickets(OTHER, channel="email", status=status)

        [ticket] = await eventually(f"the ticket {status}", tickets)
        shown = (await outside.ask("poller", "GET", f"/api/v1/tickets/{ticket['id']}", tenant=OTHER)).json()
        mails = written(email, 21, count, ["buyer", "copy", "follow-up"])
        assert [message["body"] for message in shown["messages"]] == [mail.expected.text for mail in mails]
        await _next_second()


async def test_an_order_that_only_the_text_of_a_mail_names_is_fetched(running: Stack, outside: Outside) -> None:
    seller = f"{running.endpoints.amazon.url}/sandbox/sellers/ATEXT"
    (await outside.http.put(seller, json={"orders": 4, "days": 400})).raise_for_status()
    oldest = (await outside.http.get(f"{seller}/orders")).json()["orders"][0]
    email = await begin(outside, THIRD, "ATEXT")
    mail = f"""\
Authentication-Results: mx.inbound.test 1; spf=pass smtp.mailfrom=bounces.amazon.fr
Date: {datetime.now(UTC):%a, %d %b %Y %H:%M:%S} +0000
From: Camille <dv9z1ciloodacb@marketplace.amazon.fr>
To: <{email}>
Delivered-To: {email}
Message-ID: <text@bounces.amazon.fr>
Subject: Demande
Content-Type: text/plain; charset=utf-8

Bonjour, ma commande n\u00b0{oldest["orderId"]}, est-elle partie ?
"""
    control = f"{running.endpoints.amazon.url}/sandbox/mails/raw"
    (await outside.http.post(control, content=mail.encode())).raise_for_status()
    [ticket] = await eventually("the ticket", lambda: outside.tickets(THIRD, channel="email"))
    assert ticket["externalOrderId"] == oldest["orderId"]

    async def named() -> list[dict[str, Any]]:
        path = f"/api/v1/orders?externalOrderId={oldest['orderId']}"
        return list((await outside.ask("orders", "GET", path, tenant=THIRD)).json()["orders"])

    [order] = await eventually("the order", named, lambda found: bool(found) and found[0]["detail"] == "FULL")
    assert datetime.fromisoformat(order["orderDate"]) == datetime.fromisoformat(oldest["createdTime"])
    assert datetime.now(UTC) - datetime.fromisoformat(order["orderDate"]) > timedelta(days=300), "no backfill reads it"


async def test_an_account_that_is_missing_or_refused_is_said_and_cured_without_a_restart(
    running: Stack, outside: Outside
) -> None:
    name = new_id("box")
    await running.stop("poller")
    await running.start("poller", {"MAILBOXES": name})
    pid = running.pid("poller")

    async def state() -> dict[str, Any]:
        url = f"{running.endpoints.services['poller']}/api/v1/poller/status"
        answer = await outside.http.get(url, headers=internal(running, TENANT))
        found: list[dict[str, Any]] = answer.raise_for_status().json()["mailboxes"]
        return next((each for each in found if each["name"] == name), {"lastError": None, "lastReadAt": None})

    async def says(words: str) -> None:
        told = await eventually(f"{words!r} in the status", state, lambda told: words in (told["lastError"] or ""))
        assert told["lastReadAt"] is None
        assert name in (running.logs / "poller.log").read_text()

    await says(f"No mailbox is stored in Vault at keybuzz/mailboxes/{name}")
    mailbox, vault = running.endpoints.mailbox, operator_vault(running)
    account = {"host": mailbox.host, "port": str(mailbox.port), "user": mailbox.user}
    await vault.write(f"keybuzz/mailboxes/{name}", account | {"password": "not-the-right-one"})
    await says("refused the login: check user and password")
    await vault.write(f"keybuzz/mailboxes/{name}", account | {"password": mailbox.password})
    healed = await eventually("the mailbox read", state, lambda told: told["lastReadAt"] is not None)
    assert healed["lastError"] is None

    email = (await outside.inbound_address(TENANT))["email"]
    await outside.write_mails(email, sorts=["buyer"], orderIds=[ORDER], seed=31)
    [mail] = written(email, 31, 1, ["buyer"])
    [_] = await eventually("its event", lambda: told_of(outside, mail.expected.message_id))
    assert running.pid("poller") == pid
    said = (running.logs / "poller.log").read_text()
    assert [secret for secret in ("not-the-right-one", mailbox.password) if secret in said] == []


async def test_while_vault_is_away_poller_is_not_ready_and_goes_on_with_mails_afterwards(
    running: Stack, outside: Outside
) -> None:
    await running.stop("poller")
    await running.start("poller")
    email = (await outside.inbound_address(TENANT))["email"]
    await running.kill("openbao")

    async def missing() -> list[str]:
        answer = await outside.http.get(f"{running.endpoints.services['poller']}/readyz")
        return list(answer.json()["missing"])

    await eventually("poller misses Vault", missing, lambda missing: missing == ["vault"])
    await outside.write_mails(email, sorts=["buyer"], orderIds=[ORDER], seed=41)
    [mail] = written(email, 41, 1, ["buyer"])
    [_] = await eventually("its event", lambda: told_of(outside, mail.expected.message_id))
    await running.start("openbao")
    await eventually("poller ready", missing, lambda missing: missing == [])


async def test_a_person_lets_buyers_write_by_a_command(running: Stack, outside: Outside) -> None:
    async def command(*arguments: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "devstack", "mails", *arguments, "--state", str(running.folder)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        return process.returncode, said.decode()

    email = (await outside.inbound_address(TENANT))["email"]
    code, said = await command(TENANT, "--count", "2", "--sort", "buyer", "--sort", "files", "--seed", "51")
    *lines, last = said.splitlines()
    assert (code, [line.split()[1] for line in lines], last) == (0, ["buyer", "files"], f"2 to {email}")
    for line in lines:
        [_] = await eventually("its event", partial(told_of, outside, line.split()[-1]))

    code, said = await command("kbz-004")
    assert (code, "kbz-004 has no address" in said) == (1, True)
    code, said = await command(TENANT, "--sort", "nothing like it")
    assert (code, "html only" in said) == (2, True)
