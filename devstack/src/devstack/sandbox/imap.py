"""The mailbox that buyers' mails arrive in, as a mail server offers it: IMAP4rev1 (RFC 3501) with IDLE (RFC 2177) over
TLS, as much of it as a reader needs that leaves the mailbox as it is.
"""

import asyncio
import contextlib
import re
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from secrets import compare_digest

import msgspec

from .settings import MailServer

USER = "inbound"
_ARGUMENT = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')
_ITEM = re.compile(r"UID|RFC822\.SIZE|INTERNALDATE|BODY\.PEEK\[(HEADER)?\](?:<0\.([0-9]{1,9})>)?", re.IGNORECASE)
_SET = re.compile(r"[0-9]{1,9}(:([0-9]{1,9}|\*))?(,[0-9]{1,9}(:([0-9]{1,9}|\*))?)*")


class Mail(msgspec.Struct, frozen=True):
    raw: bytes
    received_at: datetime


class Mailbox:
    """Mails by their UID, oldest first; gone with the process, and the UIDVALIDITY of the next one says so."""

    def __init__(self) -> None:
        self.uid_validity = int(time.time())
        self.mails: dict[int, Mail] = {}
        self.sessions: set[Session] = set()
        self._last_uid = 0

    def deliver(self, raw: bytes) -> int:
        """The mail's UID."""
        self._last_uid += 1
        self.mails[self._last_uid] = Mail(raw, datetime.now(UTC))
        self._tell()
        return self._last_uid

    def clear(self) -> None:
        self.mails.clear()
        self._tell()

    def _tell(self) -> None:
        for session in self.sessions:
            session.news.set()


class RefusedError(Exception):
    """A command that is not carried out: the word that begins the answer, and why."""


class Session:
    """One connection."""

    def __init__(
        self, mailbox: Mailbox, password: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.news = asyncio.Event()
        self.writer = writer
        self._mailbox = mailbox
        self._password = password
        self._reader = reader
        self._told: list[int] | None = None
        """The UIDs that the reader knows of, once it has opened the folder."""
        self._let_in = False

    async def run(self) -> None:
        """Until the reader leaves."""
        self._say("* OK The sandbox's mailbox is ready")
        leaves = False
        while not leaves and (line := await self._read()) is not None:
            tag, _, command = line.partition(" ")
            leaves = command.upper() == "LOGOUT"
            try:
                done = await self._answer(command)
            except RefusedError as refused:
                done = str(refused)
            self._tell_news()
            self._say(f"{tag} {done}")
            await self.writer.drain()

    async def _read(self) -> str | None:
        line = await self._reader.readline()
        return line.decode("utf-8", "replace").strip() if line.endswith(b"\n") else None

    def _say(self, *parts: str | bytes) -> None:
        self.writer.write(b"".join(part if isinstance(part, bytes) else part.encode() for part in parts) + b"\r\n")

    async def _answer(self, line: str) -> str:
        """Carry a command out; how it went."""
        name, _, rest = line.partition(" ")
        command = name.upper()
        match command:
            case "CAPABILITY":
                self._say("* CAPABILITY IMAP4rev1 IDLE")
            case "LOGIN":
                self._login(rest)
            case "LOGOUT":
                self._say("* BYE")
            case "EXAMINE" if self._let_in:
                self._examine(rest)
                return "OK [READ-ONLY] EXAMINE is done"
            case "UID" if self._told is not None:
                command, _, rest = rest.partition(" ")
                self._uid(command.upper(), rest)
            case "IDLE" if self._told is not None:
                await self._idle()
            case "NOOP":
                pass
            case _:
                raise RefusedError("BAD The mailbox does not know this command, or not yet")
        return f"OK {command.upper()} is done"

    def _login(self, rest: str) -> None:
        given, wanted = "\0".join(_arguments(rest)), f"{USER}\0{self._password}"
        if not compare_digest(given.encode(), wanted.encode()):
            raise RefusedError("NO [AUTHENTICATIONFAILED] User and password do not open the mailbox")
        self._let_in = True

    def _examine(self, rest: str) -> None:
        if [folder.upper() for folder in _arguments(rest)] != ["INBOX"]:
            raise RefusedError("NO There is INBOX and nothing else")
        self._mailbox.sessions.add(self)
        self._told = list(self._mailbox.mails)
        self._say(f"* {len(self._told)} EXISTS\r\n* 0 RECENT\r\n* FLAGS ()")
        self._say(f"* OK [UIDVALIDITY {self._mailbox.uid_validity}] Valid until the sandbox ends")

    def _uid(self, command: str, rest: str) -> None:
        if command == "SEARCH":
            self._say(" ".join(["* SEARCH", *map(str, self._search(rest))]))
        elif command == "FETCH":
            numbers, _, items = rest.partition(" ")
            self._fetch(self._wanted(numbers), items.strip("()").split())
        else:
            raise RefusedError("BAD Only SEARCH and FETCH go by UID")

    def _search(self, rest: str) -> list[int]:
        match rest.upper().split():
            case ["ALL"]:
                return list(self._mailbox.mails)
            case ["UID", numbers]:
                return self._wanted(numbers)
            case ["SINCE", day]:
                with contextlib.suppress(ValueError):
                    since = datetime.strptime(day, "%d-%b-%Y").replace(tzinfo=UTC)
                    return [uid for uid, mail in self._mailbox.mails.items() if mail.received_at >= since]
        raise RefusedError("BAD A search is ALL, UID with numbers, or SINCE with a day")

    def _wanted(self, numbers: str) -> list[int]:
        """The mails of a sequence set; a range up to * has the last one always."""
        if not _SET.fullmatch(numbers):
            raise RefusedError("BAD These are no numbers")
        there = self._mailbox.mails
        last = max(there, default=0)
        found: set[int] = set()
        for each in numbers.split(","):
            first, _, end = each.partition(":")
            low, high = sorted((int(first), last if end == "*" else int(end or first)))
            found.update(uid for uid in there if low <= uid <= high)
        return sorted(found)

    def _fetch(self, uids: Sequence[int], items: Sequence[str]) -> None:
        wanted = [found for item in items if (found := _ITEM.fullmatch(item))]
        if len(wanted) < max(1, len(items)):
            raise RefusedError("BAD Fetch UID, RFC822.SIZE, INTERNALDATE, BODY.PEEK[] or BODY.PEEK[HEADER]")
        numbers = {uid: number for number, uid in enumerate(self._told or [], 1)}
        for uid in uids:
            if uid in numbers:  # the reader has been told that it is there
                mail = self._mailbox.mails[uid]
                self._say(f"* {numbers[uid]} FETCH (", b" ".join(_item(each, uid, mail) for each in wanted), ")")

    def _tell_news(self) -> None:
        """What has gone and what has come since the reader heard of it."""
        self.news.clear()
        if self._told is None or self._told == (there := list(self._mailbox.mails)):
            return
        for place in range(len(self._told), 0, -1):
            if self._told[place - 1] not in self._mailbox.mails:
                self._say(f"* {place} EXPUNGE")
        self._told = there
        self._say(f"* {len(there)} EXISTS")

    async def _idle(self) -> None:
        """Tell of news until the reader has had enough."""
        self._say("+ idling")
        reading = asyncio.ensure_future(self._read())
        try:
            while not reading.done():
                self._tell_news()
                await self.writer.drain()
                news = asyncio.ensure_future(self.news.wait())
                try:
                    await asyncio.wait({reading, news}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    news.cancel()
        finally:
            reading.cancel()
        if (reading.result() or "").upper() != "DONE":
            raise RefusedError("BAD An IDLE ends with DONE")


def _item(item: re.Match[str], uid: int, mail: Mail) -> bytes:
    name = item[0].upper()
    if name == "UID":
        return b"UID %d" % uid
    if name == "RFC822.SIZE":
        return b"RFC822.SIZE %d" % len(mail.raw)
    if name == "INTERNALDATE":
        return mail.received_at.strftime('INTERNALDATE "%d-%b-%Y %H:%M:%S %z"').encode()
    section = (item[1] or "").upper()
    text = mail.raw.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if section else mail.raw
    start = ""
    if item[2]:
        text, start = text[: int(item[2])], "<0>"
    return f"BODY[{section}]{start} {{{len(text)}}}\r\n".encode() + text


def _arguments(text: str) -> list[str]:
    return [
        re.sub(r"\\(.)", r"\1", found[1]) if found[1] is not None else found[2] for found in _ARGUMENT.finditer(text)
    ]


@asynccontextmanager
async def serving(mailbox: Mailbox, host: str, settings: MailServer) -> AsyncIterator[None]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(settings.certificate, settings.key)
    connected: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        connected.add(task)
        session = Session(mailbox, settings.password, reader, writer)
        try:
            await session.run()
        except (OSError, ValueError, asyncio.CancelledError):
            pass  # a connection that ends, or a line without end
        finally:
            mailbox.sessions.discard(session)
            connected.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, host, settings.port, ssl=context)
    try:
        yield
    finally:
        server.close()
        for task in connected:
            task.cancel()
        if connected:
            await asyncio.wait(connected)
