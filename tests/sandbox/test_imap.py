"""The sandbox's mailbox, as a mail program reads it: imaplib, over TLS."""

import asyncio
import imaplib
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from devstack import certificates
from devstack.ports import free_port
from devstack.sandbox import imap
from devstack.sandbox.mails import SORTS, generate
from devstack.sandbox.seed import STORY
from devstack.sandbox.settings import MailServer
from tests.sandbox.conftest import Server

PASSWORD = 'odd "and" \\ quoted'
ADDRESS = "amazon.kbz-001.fr.abc123@inbound.test"
ORDERS = [pin.order_id for pin in STORY.values() if pin.order_id]


class Mailbox:
    """The mailbox of a sandbox, and the sandbox's control."""

    def __init__(self, server: Server, port: int, authority: Path) -> None:
        self.server = server
        self.port = port
        self.control = httpx.Client(base_url=f"{server.url}/sandbox", trust_env=False, timeout=10)
        self._context = ssl.create_default_context(cafile=authority)

    def connect(self) -> imaplib.IMAP4_SSL:
        return imaplib.IMAP4_SSL("127.0.0.1", self.port, ssl_context=self._context, timeout=10)

    def open(self) -> imaplib.IMAP4_SSL:
        client = self.connect()
        client.login("inbound", PASSWORD)
        assert client.select("INBOX", readonly=True)[0] == "OK"
        return client

    def write(self, **wanted: Any) -> list[dict[str, Any]]:
        answer = self.control.post("/mails", json={"recipient": ADDRESS, **wanted})
        assert answer.status_code == 201, answer.text
        return list(answer.json()["mails"])

    def read(self) -> list[bytes]:
        """Every mail, whole."""
        client = self.open()
        found = client.uid("FETCH", "1:*", "(UID BODY.PEEK[])")[1]
        client.logout()
        return [each[1] for each in found if isinstance(each, tuple)]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mailbox]:
    folder = tmp_path_factory.mktemp("mailbox")
    authority, certificate, key = (folder / name for name in ("ca.pem", "cert.pem", "key.pem"))
    certificates.ensure(authority, certificate, key)
    port = free_port()
    server = Server(
        folder,
        SANDBOX_MAIL_PORT=str(port),
        SANDBOX_MAIL_PASSWORD=PASSWORD,
        SANDBOX_MAIL_CERTIFICATE_FILE=str(certificate),
        SANDBOX_MAIL_KEY_FILE=str(key),
    )
    server.start()
    made = Mailbox(server, port, authority)
    yield made
    made.control.close()
    server.end()


@pytest.fixture
def mailbox(box: Mailbox) -> Mailbox:
    """Empty."""
    assert box.control.delete("/mails").status_code == 204
    return box


def test_every_mail_arrives_as_it_was_written_and_in_order(mailbox: Mailbox) -> None:
    made = mailbox.write(count=40, sorts=["buyer", "files", "no From"], seed=7)
    uids = [mail["uid"] for mail in made]
    assert uids == sorted(set(uids))
    wanted = list(generate(7, 40, recipient=ADDRESS, order_ids=ORDERS, sorts=("buyer", "files", "no From")))
    assert mailbox.read() == [mail.raw for mail in wanted]
    assert [(mail["sort"], mail["messageId"], mail["orderId"]) for mail in made] == [
        (mail.sort, mail.expected.message_id, mail.expected.order_id) for mail in wanted
    ]


def test_a_mail_of_ones_own_arrives_byte_by_byte(mailbox: Mailbox) -> None:
    raw = b"From: a\r\n\r\n" + bytes(range(256)) + b") a1 OK\r\n"
    assert mailbox.control.post("/mails/raw", content=raw).status_code == 201
    assert mailbox.read() == [raw]


def test_without_a_seed_other_mails_are_written_each_time(mailbox: Mailbox) -> None:
    assert mailbox.write(count=3)[0]["messageId"] != mailbox.write(count=3)[0]["messageId"]


def test_every_sort_can_be_written(mailbox: Mailbox) -> None:
    made = mailbox.write(count=len(SORTS), sorts=list(SORTS))
    assert [mail["sort"] for mail in made] == list(SORTS)
    assert len(mailbox.read()) == len(SORTS)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"sorts": ["nothing like it"]}, "There are: buyer, answer"),
        ({"count": 0}, "count"),
        ({"recipient": "a@b.test\r\nBcc: c@d.test"}, "recipient"),
        ({"orderIds": ["1\r\nX: y"]}, "orderIds"),
    ],
)
def test_what_cannot_be_written_is_refused(mailbox: Mailbox, wanted: dict[str, Any], said: str) -> None:
    answer = mailbox.control.post("/mails", json={"recipient": ADDRESS, **wanted})
    assert answer.status_code == 400
    assert said in answer.text
    assert mailbox.read() == []


@pytest.mark.parametrize(("user", "password"), [("inbound", "wrong"), ("other", PASSWORD), ("inbound", "")])
def test_nothing_is_read_without_the_password(mailbox: Mailbox, user: str, password: str) -> None:
    client = mailbox.connect()
    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        client.login(user, password)
    client.send(b"a1 EXAMINE INBOX\r\na2 IDLE\r\na3 UID FETCH 1:* (UID)\r\n")
    assert [client.readline().split()[:2] for _ in range(3)] == [[b"a1", b"BAD"], [b"a2", b"BAD"], [b"a3", b"BAD"]]
    client.logout()


def test_what_it_does_not_know_is_refused_and_the_connection_goes_on(mailbox: Mailbox) -> None:
    client = mailbox.open()
    for command in (
        ("STORE", "1", "+FLAGS", r"(\Deleted)"),
        ("SEARCH", "FROM", "a"),
        ("SEARCH", "SINCE", "31-Feb-2026"),
        ("FETCH", "x", "(UID)"),
        ("FETCH", "1", "(UID BODY[])"),
        ("FETCH", "1", "()"),
    ):
        with pytest.raises(imaplib.IMAP4.error, match="BAD"):
            client.uid(*command)
    assert client._simple_command("EXAMINE", "Sent")[0] == "NO"
    assert client.noop()[0] == "OK"
    client.logout()


def test_a_search_finds_by_uid_and_by_day(mailbox: Mailbox) -> None:
    uids = [mail["uid"] for mail in mailbox.write(count=3)]
    client = mailbox.open()

    def search(*criterion: str) -> list[int]:
        [found] = client.uid("SEARCH", *criterion)[1]
        return [int(uid) for uid in found.split()]

    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert search("ALL") == search("UID", "1:*") == search("SINCE", "5-Jan-2026") == uids
    assert search("SINCE", tomorrow.strftime("%d-%b-%Y")) == []
    assert search("UID", f"{uids[0]},{uids[2]}:{uids[2]}") == [uids[0], uids[2]]
    assert search("UID", f"{uids[2] + 5}:*") == [uids[2]], "a range to * has the last mail always (RFC 3501, 6.4.8)"
    client.logout()


def test_the_head_and_the_size_of_a_mail_can_be_had_alone(mailbox: Mailbox) -> None:
    [mail] = generate(3, 1, recipient=ADDRESS, order_ids=ORDERS, sorts=("buyer",))
    mailbox.write(seed=3)
    client = mailbox.open()
    head = mail.raw[: mail.raw.index(b"\r\n\r\n") + 4]
    for size in (20, len(mail.raw)):
        [found, _] = client.uid("FETCH", "1:*", f"(UID BODY.PEEK[HEADER]<0.{size}>)")[1]
        assert isinstance(found, tuple)
        assert found[1] == head[:size]
        assert b"BODY[HEADER]<0>" in found[0]
    [told] = client.uid("FETCH", "1:*", "(UID RFC822.SIZE INTERNALDATE)")[1]
    assert isinstance(told, bytes)
    assert b"RFC822.SIZE %d" % len(mail.raw) in told
    arrived = imaplib.Internaldate2tuple(told)
    assert arrived is not None
    client.logout()


def test_who_waits_hears_at_once_of_what_comes_and_what_goes(mailbox: Mailbox) -> None:
    client = mailbox.open()
    client.send(b"a1 IDLE\r\n")
    assert client.readline() == b"+ idling\r\n"
    mailbox.write(count=2)
    assert client.readline() == b"* 2 EXISTS\r\n"
    mailbox.control.delete("/mails")
    assert [client.readline() for _ in range(3)] == [b"* 2 EXPUNGE\r\n", b"* 1 EXPUNGE\r\n", b"* 0 EXISTS\r\n"]
    client.send(b"DONE\r\n")
    assert client.readline().startswith(b"a1 OK")
    mailbox.write()
    client.noop()
    assert client.untagged_responses["EXISTS"][-1] == b"1"
    client.logout()


def test_a_line_without_end_ends_the_connection_only(mailbox: Mailbox) -> None:
    client = mailbox.connect()
    with pytest.raises((imaplib.IMAP4.abort, OSError)):
        client.login("inbound", "x" * 200_000)
    client.shutdown()
    assert mailbox.read() == []


def test_a_restart_makes_the_mailbox_anew_even_while_somebody_waits(mailbox: Mailbox) -> None:
    mailbox.write()
    client = mailbox.open()
    before = client.untagged_responses["UIDVALIDITY"]
    client.send(b"a1 IDLE\r\n")
    client.readline()
    reading = threading.Thread(target=client.readline)
    reading.start()
    assert mailbox.server.end() < 5
    reading.join(5)
    assert not reading.is_alive()
    client.shutdown()
    mailbox.server.start()
    assert mailbox.read() == []
    again = mailbox.open()
    assert again.untagged_responses["UIDVALIDITY"] > before
    again.logout()


async def test_a_mailbox_that_ends_leaves_nothing_of_who_waits_for_mail(tmp_path: Path) -> None:
    authority, certificate, key = (tmp_path / name for name in ("ca.pem", "cert.pem", "key.pem"))
    certificates.ensure(authority, certificate, key)
    told = MailServer(port=free_port(), password="plain", certificate=certificate, key=key)
    context = ssl.create_default_context(cafile=authority)
    before = asyncio.all_tasks()
    async with imap.serving(imap.Mailbox(), "127.0.0.1", told):
        reader, writer = await asyncio.open_connection("127.0.0.1", told.port, ssl=context)
        writer.write(b"a1 LOGIN inbound plain\r\na2 EXAMINE INBOX\r\na3 IDLE\r\n")
        await reader.readuntil(b"+ idling\r\n")
    writer.transport.abort()
    async with asyncio.timeout(30):
        while left := asyncio.all_tasks() - before:
            await asyncio.wait(left)
