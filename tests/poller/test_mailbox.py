"""Mailboxes on real servers, over TLS: Dovecot, the sandbox's, and the test server of aioimaplib."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from devstack import dovecot
from devstack.sandbox import imap as sandbox
from devstack.stack import Stack
from poller import imap, mail_queries, mailbox
from poller.intake import Intake
from shared.db import Pool
from shared.outbox import Outbox
from shared.settings import AmazonSettings
from shared.vault import Vault
from tests.builders import new_id, operator_vault, settings_of
from tests.poller.conftest import TENANT, eventually

if TYPE_CHECKING:
    from tests.poller.imap_servers import Server, Wire

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ADDRESS = "kbz-001.fr@inbound.keybuzz.io"


def mail(number: int, padding: int = 0) -> bytes:
    return (
        (
            "Authentication-Results: mx.test; dkim=pass header.d=marketplace.amazon.fr\r\n"
            f"From: Claire - Amazon Marketplace <buyer{number}@marketplace.amazon.fr>\r\n"
            f"To: {ADDRESS}\r\nMessage-ID: <{number}@mail.test>\r\nSubject: Mail {number}\r\n"
            f"Content-Type: text/plain; charset=utf-8\r\n\r\nWhere is it (no. {number})?\r\n" + "x" * 70 * (padding > 0)
        ).encode()
        + b"\r\n".join([b"y" * 70] * (padding // 72))
        + b"\r\n"
    )


class Reading:
    """Readers of one mailbox, as replicas run them, and what they took."""

    def __init__(self, stack: Stack, pool: Pool, outbox: Outbox, server: "Server", wire: "Wire") -> None:
        self.server, self.wire, self.pool = server, wire, pool
        self.name = new_id("box")
        self.taken: list[tuple[int, int]] = []
        self.notes: list[str] = []
        """What stood in the mailbox's row as its error, one after another."""
        self._intake = Intake(pool, outbox, "mx.test")
        self._stack = stack
        self._vault = Vault(settings_of(AmazonSettings, stack, "poller"))
        self._context: ssl.SSLContext | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def store(self, authority: trustme.CA | None, **changes: str | None) -> None:
        user, password = dovecot.USER, dovecot.PASSWORD
        secret = {"host": "127.0.0.1", "port": str(self.wire.port), "user": user, "password": password} | changes
        secret = {key: value for key, value in secret.items() if value is not None}
        await operator_vault(self._stack).write(f"keybuzz/mailboxes/{self.name}", secret)
        if authority:
            self._context = ssl.create_default_context()
            authority.configure_trust(self._context)

    def start(self) -> asyncio.Task[None]:
        self._tasks.append(asyncio.create_task(mailbox.read(self._intake, self._vault, self.name, self._context)))
        return self._tasks[-1]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._tasks.clear()

    async def stored(self) -> list[str]:
        rows = await self.pool.fetch("SELECT external_id FROM external_messages ORDER BY id")
        return [row["external_id"] for row in rows]

    async def has(self, *numbers: int) -> None:
        """Exactly these come to be stored, in this order."""

        async def holds() -> bool:
            return len(await self.stored()) >= len(numbers)

        await eventually(holds)
        assert await self.stored() == [f"{number}@mail.test" for number in numbers]

    async def row(self) -> Any:
        return await self.pool.fetchrow("SELECT * FROM mailboxes WHERE name = $1", self.name)

    async def idle(self) -> None:
        """All is read, and the row says so."""

        async def holds() -> bool:
            row = await self.row()
            return row is not None and row["last_read_at"] is not None and row["last_error"] is None

        await eventually(holds)

    async def failing(self, words: str) -> None:
        """Its row says so, or has said so."""

        async def holds() -> bool:
            return any(words in note for note in self.notes)

        await eventually(holds)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(params=["dovecot", "sandbox", "aioimaplib"])
async def reading(
    request: pytest.FixtureRequest,
    stack: Stack,
    pool: Pool,
    outbox: Outbox,
    authority: trustme.CA,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> AsyncIterator[Reading]:
    """At the end, whatever went wrong, no log has anything that a mail says."""
    # The test server looks for an event loop when it is imported: here is one.
    from tests.poller import imap_servers  # noqa: PLC0415

    if request.param == "dovecot" and (reason := dovecot.why_not()):
        pytest.skip(reason)
    monkeypatch.setattr(mailbox, "LOOK_AGAIN_SECONDS", 0.1)
    monkeypatch.setattr(mailbox, "BACK_OFF_SECONDS", 0.05)
    monkeypatch.setattr(mailbox, "MAX_BACK_OFF_SECONDS", 0.2)
    await pool.execute(
        "INSERT INTO inbound_addresses (email, tenant_id, marketplace, country, enabled, verified)"
        " VALUES ($1, $2, 'AMAZON', 'FR', true, true)",
        ADDRESS,
        TENANT,
    )
    servers = {
        "dovecot": dovecot.serving,
        "sandbox": imap_servers.sandbox,
        "aioimaplib": imap_servers.aioimaplib_server,
    }
    async with servers[request.param](authority) as server, imap_servers.wire(server.port) as wire:
        made = Reading(stack, pool, outbox, server, wire)
        take_batch = vars(mailbox)["take_batch"]

        async def take(intake: Intake, lease: Any, uid_validity: int, mails: Any) -> None:
            await take_batch(intake, lease, uid_validity, mails)
            made.taken.extend((uid_validity, each.uid) for each in mails)

        noting = vars(mailbox)["_note"]

        async def note(intake: Intake, lease: Any, error: str | None) -> None:
            await noting(intake, lease, error)
            made.notes.append((await made.row())["last_error"] or "")

        monkeypatch.setattr(mailbox, "take_batch", take)
        monkeypatch.setattr(mailbox, "_note", note)
        await made.store(authority)
        yield made
        await made.stop()
    logged = "".join(capsys.readouterr()) + caplog.text
    assert [words for words in ("Where is it", "Mail ", "buyer", "Claire", "yyyy") if words in logged] == []


async def test_mails_from_before_and_during_idle_are_taken_in_order_and_left_as_they_are(reading: Reading) -> None:
    for number in range(60):
        reading.server.deliver(mail(number))
    reading.start()
    await reading.has(*range(60))
    await reading.idle()
    for number in (60, 61, 62):
        reading.server.deliver(mail(number))
        await reading.has(*range(number + 1))
    assert len(set(reading.taken)) == len(reading.taken) == 63
    assert reading.wire.connections == 1
    assert not reading.server.seen()
    assert reading.server.kept() == 63


async def test_a_mail_that_the_server_told_of_before_the_idle_does_not_wait_for_its_end(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = imap.Session.wait

    async def told_then_wait(session: imap.Session) -> None:
        monkeypatch.setattr(imap.Session, "wait", wait)
        reading.server.deliver(mail(1))
        while not session._protocol.news.is_set():
            await session._answer(session._protocol.simple_command("NOOP"))
        await wait(session)

    monkeypatch.setattr(imap.Session, "wait", told_then_wait)
    reading.start()
    await reading.has(1)


async def test_a_restart_goes_on_behind_the_last_mail(reading: Reading) -> None:
    reading.server.deliver(mail(1))
    reading.start()
    await reading.has(1)
    await reading.stop()
    assert (await reading.row())["leased_until"] is None
    reading.server.deliver(mail(2))
    reading.start()
    await reading.has(1, 2)
    assert len(reading.taken) == 2


async def test_a_mailbox_made_anew_is_read_again_and_nothing_is_stored_twice(reading: Reading) -> None:
    for number in range(3):
        reading.server.deliver(mail(number))
    reading.start()
    await reading.has(0, 1, 2)
    await reading.stop()
    before = (await reading.row())["uid_validity"]
    await reading.server.renumber()
    reading.server.deliver(mail(3))
    reading.start()
    await reading.has(0, 1, 2, 3)
    row = await reading.row()
    assert row["uid_validity"] != before
    assert row["last_uid"] == 4
    assert [validity for validity, _ in reading.taken] == [before] * 3 + [row["uid_validity"]] * 4


async def test_a_connection_cut_in_a_mail_loses_nothing(reading: Reading) -> None:
    for number in range(4):
        reading.server.deliver(mail(number, padding=300_000))
    reading.wire.cut_after = 700_000
    reading.start()
    await reading.has(*range(4))
    assert reading.wire.cuts == 1
    assert reading.wire.connections == 2
    assert len(reading.taken) == 4


async def test_a_batch_is_stored_before_the_connection_breaks_in_the_next(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox, "AT_ONCE_BYTES", 350_000)
    for number in range(4):
        reading.server.deliver(mail(number, padding=300_000))
    reading.wire.cut_after = 700_000
    reading.start()
    await reading.has(*range(4))
    assert (reading.wire.cuts, len(reading.taken)) == (1, 4)


async def test_a_server_that_falls_silent_in_a_mail_is_left_and_nothing_is_lost(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imap, "SILENCE_SECONDS", 0.5)
    for number in range(4):
        reading.server.deliver(mail(number, padding=300_000))
    reading.wire.silent_after = 700_000
    reading.start()
    await reading.failing("did not answer in time")
    monkeypatch.setattr(imap, "SILENCE_SECONDS", 20)
    reading.wire.flows.set()
    await reading.has(*range(4))
    assert reading.wire.connections >= 2
    assert len(reading.taken) == 4


async def test_the_first_look_goes_back_fourteen_days(reading: Reading) -> None:
    now = datetime.now(UTC)
    for number, age in enumerate((30 * DAY, 15 * DAY, 14 * DAY - HOUR, DAY, HOUR)):
        reading.server.deliver(mail(number), now - age)
    reading.start()
    await reading.has(2, 3, 4)
    reading.server.deliver(mail(5), now - 30 * DAY)
    await reading.has(2, 3, 4, 5)


@pytest.mark.parametrize("reading", ["sandbox"], indirect=True)
@pytest.mark.parametrize("hangs_up", [True, False])
async def test_a_server_that_says_goodbye_is_left_at_once(reading: Reading, hangs_up: bool) -> None:
    reading.server.deliver(mail(1))
    reading.start()
    await reading.has(1)
    await reading.idle()
    server: Any = reading.server
    [session] = server.mailbox.sessions
    session.writer.write(b"* BYE going down\r\n")
    if hangs_up:
        session.writer.close()
    await reading.failing("ended the connection")
    reading.server.deliver(mail(2))
    await reading.has(1, 2)
    assert reading.wire.connections == 2


@pytest.mark.parametrize("reading", ["sandbox"], indirect=True)
async def test_a_server_that_greets_with_goodbye_is_asked_again(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = sandbox.Session.run

    async def refuse(session: sandbox.Session) -> None:
        monkeypatch.setattr(sandbox.Session, "run", run)
        session.writer.write(b"* BYE too many connections\r\n")
        await session.writer.drain()

    monkeypatch.setattr(sandbox.Session, "run", refuse)
    reading.server.deliver(mail(1))
    reading.start()
    await reading.has(1)
    assert reading.wire.connections == 2


@pytest.mark.parametrize("reading", ["sandbox"], indirect=True)
async def test_a_server_that_ends_an_idle_by_itself_is_asked_again(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle = sandbox.Session._idle

    async def end(session: sandbox.Session) -> None:
        monkeypatch.setattr(sandbox.Session, "_idle", idle)
        session.writer.write(b"+ idling\r\n")

    monkeypatch.setattr(sandbox.Session, "_idle", end)
    reading.start()
    await reading.failing("ended an IDLE by itself")
    reading.server.deliver(mail(1))
    await reading.has(1)
    assert reading.wire.connections == 2


async def test_a_mailbox_emptied_while_it_is_read_is_no_failure(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_mails = imap.Session.list_mails

    async def list_and_empty(session: imap.Session, uids: list[int]) -> list[imap.Listed]:
        listed = await list_mails(session, uids)
        reading.server.empty()
        monkeypatch.setattr(imap.Session, "list_mails", list_mails)
        return listed

    monkeypatch.setattr(imap.Session, "list_mails", list_and_empty)
    for number in range(3):
        reading.server.deliver(mail(number))
    reading.start()
    await reading.idle()
    assert await reading.stored() == []
    reading.server.deliver(mail(9))
    await reading.has(9)
    assert reading.wire.connections == 1


async def test_a_mail_that_is_too_large_is_kept_by_its_header(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox, "MAX_MAIL_BYTES", 100_000)
    monkeypatch.setattr(mailbox, "AT_ONCE_BYTES", 90_000)
    reading.server.deliver(mail(1))
    reading.server.deliver(mail(2, padding=200_000))
    reading.server.deliver(mail(3))
    reading.start()
    await reading.has(1, 3)
    [held] = await reading.pool.fetch("SELECT reason, raw, headers FROM quarantined_mails")
    assert (held["reason"], held["raw"]) == ("TOO_LARGE", None)
    assert held["headers"]["Message-ID"] == ["<2@mail.test>"]


async def test_another_replica_takes_over_from_one_that_hangs(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging, goes_on = asyncio.Event(), asyncio.Event()
    taking = vars(mailbox)["take_batch"]

    async def take(intake: Intake, lease: Any, uid_validity: int, mails: Any) -> None:
        if not hanging.is_set():
            hanging.set()
            await goes_on.wait()
        await taking(intake, lease, uid_validity, mails)

    monkeypatch.setattr(mailbox, "take_batch", take)
    for number in range(3):
        reading.server.deliver(mail(number))
    reading.start()
    await hanging.wait()
    reading.start()
    await reading.pool.execute("UPDATE mailboxes SET leased_until = clock_timestamp() - interval '1 s'")
    await reading.has(0, 1, 2)
    goes_on.set()
    reading.server.deliver(mail(3))
    await reading.has(0, 1, 2, 3)
    assert len(reading.taken) == 4


async def test_while_one_reads_the_other_does_not_connect(reading: Reading) -> None:
    reading.start()
    await reading.idle()
    reading.start()
    for number in range(3):
        reading.server.deliver(mail(number))
    await reading.has(0, 1, 2)
    assert reading.wire.connections == 1


async def test_the_lease_is_renewed_while_nothing_comes(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "RENEW_SECONDS", 0.05)
    reading.start()
    await reading.idle()
    first = (await reading.row())["leased_until"]

    async def holds() -> bool:
        return bool((await reading.row())["leased_until"] > first)

    await eventually(holds)


async def test_a_silent_server_is_left_and_asked_anew(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imap, "ANSWER_SECONDS", 0.5)
    reading.wire.flows.clear()
    reading.start()
    await reading.failing("cannot be reached")
    reading.server.deliver(mail(1))
    reading.wire.flows.set()
    await reading.has(1)


async def test_a_server_without_idle_is_asked_from_time_to_time(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imap, "POLL_SECONDS", 0.1)
    opening = imap.Session.open

    async def open_without(session: imap.Session, account: imap.Account) -> None:
        await opening(session, account)
        session._has_idle = False

    monkeypatch.setattr(imap.Session, "open", open_without)
    reading.start()
    await reading.idle()
    reading.server.deliver(mail(1))
    await reading.has(1)
    assert reading.wire.connections == 1


async def test_a_server_that_nobody_vouches_for_gets_no_password(reading: Reading) -> None:
    reading._context = None
    reading.start()
    await reading.failing("CERTIFICATE_VERIFY_FAILED")


async def test_a_missing_or_incomplete_account_names_its_path(reading: Reading) -> None:
    await reading.store(None, password=None)
    reading.start()
    await reading.failing(f"keybuzz/mailboxes/{reading.name} is not complete")
    await reading.failing("`password`")
    await reading.stop()
    reading.name = new_id("box")
    reading.start()
    await reading.failing(f"in Vault at keybuzz/mailboxes/{reading.name}")


@pytest.mark.parametrize("reading", ["dovecot", "sandbox"], indirect=True)  # aioimaplib's takes any password
async def test_a_refused_login_is_said_and_the_right_password_cures_it(
    reading: Reading, authority: trustme.CA, capsys: pytest.CaptureFixture[str]
) -> None:
    reading.server.deliver(mail(1))
    await reading.store(authority, password="wrong-password")
    reading.start()
    await reading.failing("refused the login")
    await reading.store(authority)
    await reading.has(1)
    said = capsys.readouterr()
    assert "wrong-password" not in said.out + said.err


def test_an_account_does_not_print_its_password() -> None:
    account = imap.Account(host="mail.test", user="who", password="hidden-thing")
    assert "hidden-thing" not in f"{account} {account!r}"


async def test_the_row_of_a_mailbox_is_made_by_its_first_lease(pool: Pool) -> None:
    lease = await mail_queries.claim_mailbox(pool, "inbound", mailbox.LEASE)
    assert lease is not None
    assert (lease.uid_validity, lease.last_uid) == (None, 0)


async def test_a_mail_that_comes_just_before_the_wait_does_not_wait_for_its_end(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = imap.Session.wait

    async def deliver_and_wait(session: imap.Session) -> None:
        monkeypatch.setattr(imap.Session, "wait", wait)
        reading.server.deliver(mail(1))
        await wait(session)

    monkeypatch.setattr(imap.Session, "wait", deliver_and_wait)
    reading.start()
    await reading.has(1)
    assert reading.wire.connections == 1
