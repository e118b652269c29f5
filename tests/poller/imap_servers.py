"""The sandbox's mailbox alone, and the test server of aioimaplib with what it lacks; and a wire to cut."""

import asyncio
import contextlib
import email
import re
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import trustme
from aioimaplib import imap_testing_server as mock

from devstack.dovecot import PASSWORD, USER
from devstack.ports import free_port
from devstack.sandbox import imap
from devstack.sandbox.settings import MailServer

# Its own knows neither the comma of a set nor a partial fetch.
mock.command_re = re.compile(rb"((DONE)|(?P<tag>\w+) (?P<cmd>\w+)( .*)?$)")


class Server(Protocol):
    """A mailbox that tests fill."""

    port: int

    def deliver(self, raw: bytes, received_at: datetime | None = None) -> None: ...
    def empty(self) -> None: ...
    async def renumber(self) -> None:
        """Another UIDVALIDITY, while nobody reads."""

    def seen(self) -> bool: ...
    def kept(self) -> int: ...


class _Connection(mock.ImapProtocol):  # type: ignore[misc] # it has no types
    """As RFC 3501 has EXAMINE, SEARCH and FETCH; and who begins to wait hears of what has come by then."""

    def examine(self, tag: str, *args: str) -> None:
        self.user_mailbox = args[0].strip('"')
        self.uidvalidity = self.server_state.uid_validity
        super().examine(tag, self.user_mailbox)
        self.state = mock.SELECTED

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error and None)

    def idle(self, tag: str, *args: str) -> None:
        super().idle(tag, *args)
        while self.state_to_send:
            self.send_untagged_line(self.state_to_send.pop(0))

    def _mails(self) -> list[Any]:
        return list(self.server_state.get_mailbox_messages(self.user_login, self.user_mailbox))

    def search(self, tag: str, *args: str) -> None:
        mails = self._mails()
        uids = [mail.uid for mail in mails]
        if args[1].upper() == "UID":
            uids = [uid for uid in uids if uid in _set(args[2], max(uids, default=0))]
        else:
            assert args[1].upper() == "SINCE"
            day = datetime.strptime(args[2], "%d-%b-%Y").replace(tzinfo=UTC)
            uids = [mail.uid for mail in mails if mail.date >= day]
        self.send_untagged_line("SEARCH " + " ".join(map(str, uids)))
        self.send_tagged_line(tag, "OK SEARCH completed")

    def fetch(self, tag: str, *args: str) -> None:
        wanted, items = _set(args[1], 0), " ".join(args[2:])
        for mail in self._mails():
            if mail.uid in wanted:
                raw = mail.as_bytes()
                told = f"{mail.id} FETCH (UID {mail.uid}".encode()
                if "RFC822.SIZE" in items:
                    told += mail.date.strftime(f' RFC822.SIZE {len(raw)} INTERNALDATE "%d-%b-%Y %H:%M:%S %z"').encode()
                if "BODY[]" in items:
                    mail.flags.append(r"\Seen")
                if "BODY.PEEK[]" in items:
                    told += b" BODY[] {%d}\r\n%b" % (len(raw), raw)
                if "BODY.PEEK[HEADER]" in items:
                    head = raw.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
                    told += b" BODY[HEADER]<0> {%d}\r\n%b" % (len(head), head)
                self.send_raw_untagged_line(told + b")")
        self.send_tagged_line(tag, "OK FETCH completed.")


def _set(text: str, last: int) -> set[int]:
    """A range with * has the last mail always."""
    found: set[int] = set()
    for each in text.split(","):
        start, _, end = each.partition(":")
        if end == "*":
            found |= {*range(int(start), last + 1), last}
        else:
            found |= set(range(int(start), int(end or start) + 1))
    return found


class _Mail(mock.Mail):  # type: ignore[misc] # it has no types
    def __init__(self, raw: bytes, received_at: datetime) -> None:
        super().__init__(email.message_from_bytes(raw), received_at)
        self.raw = raw

    def as_bytes(self) -> bytes:
        return self.raw


class Mock:
    def __init__(self) -> None:
        self.server = mock.MockImapServer(loop=asyncio.get_running_loop())
        self.port = 0
        self.connections: list[_Connection] = []
        self.state = self.server._server_state
        self.state.uid_validity = 1
        self.user = f'"{USER}"'

    def connect(self) -> _Connection:
        self.connections.append(
            _Connection(self.state, capabilities=self.server.capabilities, loop=asyncio.get_running_loop())
        )
        return self.connections[-1]

    def _mails(self) -> list[Any]:
        found: list[Any] = self.state.mailboxes.get(self.user, {}).get("INBOX", [])
        return found

    def deliver(self, raw: bytes, received_at: datetime | None = None) -> None:
        self.state.add_mail(self.user, _Mail(raw, received_at or datetime.now(UTC)))
        for connection in self.connections:
            if connection.transport and not connection.transport.is_closing():
                connection.notify_new_mail(len(self._mails()))

    def empty(self) -> None:
        self._mails().clear()

    async def renumber(self) -> None:
        self.state.uid_validity += 1

    def seen(self) -> bool:
        return any(r"\Seen" in mail.flags for mail in self._mails())

    def kept(self) -> int:
        return len(self._mails())


@asynccontextmanager
async def aioimaplib_server(authority: trustme.CA) -> AsyncIterator[Server]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    made = Mock()
    listening = await asyncio.get_running_loop().create_server(made.connect, "127.0.0.1", 0, ssl=context)
    made.port = listening.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        listening.close()
        for connection in made.connections:
            if connection.transport:
                connection.transport.abort()
        await listening.wait_closed()


class Sandbox:
    def __init__(self, port: int) -> None:
        self.port = port
        self.mailbox = imap.Mailbox()

    def deliver(self, raw: bytes, received_at: datetime | None = None) -> None:
        uid = self.mailbox.deliver(raw)
        if received_at:
            self.mailbox.mails[uid] = imap.Mail(raw, received_at)

    def empty(self) -> None:
        self.mailbox.clear()

    async def renumber(self) -> None:
        self.mailbox.uid_validity += 1

    def seen(self) -> bool:
        """There are no flags."""
        return False

    def kept(self) -> int:
        return len(self.mailbox.mails)


@asynccontextmanager
async def sandbox(authority: trustme.CA) -> AsyncIterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        key, certificate = Path(folder) / "key.pem", Path(folder) / "cert.pem"
        issued = authority.issue_cert("127.0.0.1")
        issued.private_key_pem.write_to_path(key)
        issued.cert_chain_pems[0].write_to_path(certificate)
        made = Sandbox(free_port())
        settings = MailServer(port=made.port, password=PASSWORD, certificate=certificate, key=key)
        async with imap.serving(made.mailbox, "127.0.0.1", settings):
            yield made


class Wire:
    """What lies between: it can be cut after some bytes more, or fall silent, then or at once."""

    def __init__(self, to_port: int) -> None:
        self.to_port = to_port
        self.port = 0
        self.cut_after: int | None = None
        self.silent_after: int | None = None
        self.connections = 0
        self.cuts = 0
        self.flows = asyncio.Event()
        self.flows.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.to_port)
            pumps = [
                asyncio.create_task(self._pump(reader, server_writer, counted=False)),
                asyncio.create_task(self._pump(server_reader, writer, counted=True)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:  # without a pause before all is given up: close() may interrupt this too
                server_writer.transport.abort()
                writer.transport.abort()
                for pump in pumps:
                    pump.cancel()
                await asyncio.wait(pumps)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(4096):
                if counted and self.silent_after is not None:
                    self.silent_after -= len(data)
                    if self.silent_after <= 0:
                        self.silent_after = None
                        self.flows.clear()
                await self.flows.wait()
                if counted and self.cut_after is not None:
                    self.cut_after -= len(data)
                    if self.cut_after <= 0:
                        self.cut_after = None
                        self.cuts += 1
                        return
                writer.write(data)
                await writer.drain()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


@asynccontextmanager
async def wire(to_port: int) -> AsyncIterator[Wire]:
    made = Wire(to_port)
    listening = await asyncio.start_server(made.accept, "127.0.0.1", 0)
    made.port = listening.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        listening.close()
        await made.close()
        await listening.wait_closed()
