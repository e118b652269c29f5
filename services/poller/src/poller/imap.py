"""A mailbox over IMAP (RFC 3501, IDLE: RFC 2177), read and left as it is: EXAMINE and BODY.PEEK only.

aioimaplib parses and keeps the commands in order. What it lacks stands here: a command ends when the connection does,
EXAMINE selects, and an EXISTS is heard whichever command it comes with.
"""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from aioimaplib import aioimaplib
from msgspec import Meta, Struct

from shared.errors import RetryLaterError

from . import mime
from .domain import Fetched

ANSWER_SECONDS = 20.0
"""Until the server has connected, or answered a command."""
SILENCE_SECONDS = 20.0
"""Without a byte in the middle of a fetch."""
FETCH_SECONDS = 180.0
IDLE_SECONDS = 300.0
"""Servers may end an IDLE after 30 minutes, and what lies between forgets a silent connection sooner."""
POLL_SECONDS = 20.0
"""Between two looks at a server without IDLE."""

_EXISTS = re.compile(rb"\* \d+ EXISTS\b", re.IGNORECASE)
_BYE = re.compile(rb"\* BYE\b", re.IGNORECASE)
_FETCH = re.compile(rb"\d+ FETCH \(", re.IGNORECASE)
_UID = re.compile(rb"\bUID (\d+)", re.IGNORECASE)
_SIZE = re.compile(rb"\bRFC822\.SIZE (\d+)", re.IGNORECASE)
_DATE = re.compile(rb'\bINTERNALDATE "([^"]+)"', re.IGNORECASE)
_EMPTY = re.compile(rb'\bBODY\[[^\]]*\](?:<0>)? ""', re.IGNORECASE)
_UID_VALIDITY = re.compile(rb"\[UIDVALIDITY (\d+)\]", re.IGNORECASE)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_UNREADABLE = (aioimaplib.AioImapException, ValueError, LookupError, RecursionError)
"""What aioimaplib raises over an answer; it takes a stack frame for each line."""

T = TypeVar("T")
Text = Annotated[str, Meta(pattern=r"\A[^\x00\r\n]+\Z")]


class MailboxError(RetryLaterError):
    """The mailbox cannot be read now. The message says why, without what the server said."""

    code = "mailbox_unreadable"


class Account(Struct, frozen=True):
    """Where a mailbox is, and what opens it."""

    host: Text
    user: Text
    password: Text
    port: Annotated[int, Meta(ge=1, le=65_535)] = 993
    folder: Text = "INBOX"

    def __repr__(self) -> str:
        return f"Account(host={self.host!r}, port={self.port})"


class Listed(Struct, frozen=True):
    """A mail before it is fetched."""

    uid: int
    size: int
    received_at: datetime


class _Protocol(aioimaplib.IMAP4ClientProtocol):  # type: ignore[misc] # it has no types
    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = loop.create_future()
        self.news = asyncio.Event()
        super().__init__(loop, self._end)

    def _end(self, _: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except _UNREADABLE:
            self.transport.abort()

    async def welcome(self, command: bytes) -> None:
        try:
            await super().welcome(command)
        except _UNREADABLE:
            self.transport.abort()

    def _untagged_response(self, line: bytes) -> Any:
        if _EXISTS.match(line):
            self.news.set()
        if _BYE.match(line):  # a server may say it and not hang up
            self.transport.abort()
        return super()._untagged_response(line)


class Session:
    """A connection with a mailbox open. Every method raises MailboxError."""

    uid_validity: int

    def __init__(self, protocol: _Protocol) -> None:
        self._protocol = protocol
        self._has_idle = False

    async def open(self, account: Account) -> None:
        protocol = self._protocol
        await self._answer(protocol.wait("AUTH|NONAUTH"))
        if protocol.state == aioimaplib.NONAUTH:
            login = await self._answer(protocol.login(aioimaplib.quoted(account.user), account.password))
            if login.result != "OK":
                raise MailboxError("The mail server refused the login: check user and password.")
        self._has_idle = "IDLE" in protocol.capabilities
        if not self._has_idle:
            await self._answer(protocol.capability())
            self._has_idle = "IDLE" in protocol.capabilities
        examined = await self._answer(protocol.simple_command("EXAMINE", aioimaplib.quoted(account.folder)))
        found = [each for line in examined.lines if (each := _UID_VALIDITY.search(line))]
        if examined.result != "OK" or not found:
            raise MailboxError("The mail server does not open the folder: check its name.")
        self.uid_validity = int(found[-1][1])
        protocol.state = aioimaplib.SELECTED

    async def search(self, *, after: int) -> list[int]:
        """The UIDs above this one, ascending: `n:*` itself always has the last mail."""
        return await self._search(f"UID {after + 1}:*", after)

    async def search_since(self, day: datetime) -> list[int]:
        return await self._search(f"SINCE {day.day}-{_MONTHS[day.month - 1]}-{day.year}", 0)

    async def _search(self, criterion: str, after: int) -> list[int]:
        self._protocol.news.clear()
        found = await self._answer(self._protocol.search(criterion, charset=None, by_uid=True))
        if found.result != "OK":
            raise MailboxError("The mail server refused a search.")
        try:
            uids = {int(uid) for line in found.lines[:-1] for uid in line.split()}
        except ValueError as error:
            raise MailboxError("The mail server answered a search with something else.") from error
        return sorted(uid for uid in uids if uid > after)

    async def list_mails(self, uids: Sequence[int]) -> list[Listed]:
        """Those that are still there, in the order asked for."""
        found: dict[int, Listed] = {}
        for text, _ in await self._fetch(uids, "(UID RFC822.SIZE INTERNALDATE)"):
            uid, size, date = _UID.search(text), _SIZE.search(text), _DATE.search(text)
            if uid and size and date:
                found[int(uid[1])] = Listed(int(uid[1]), int(size[1]), _parse_date(date[1]))
        return [found[uid] for uid in uids if uid in found]

    async def fetch(self, mails: Sequence[Listed]) -> list[Fetched]:
        """Those that are still there, in the order asked for."""
        found = await self._fetch_bodies(mails, "(UID BODY.PEEK[])")
        return [Fetched(each.uid, each.received_at, found[each.uid]) for each in mails if each.uid in found]

    async def fetch_head(self, mail: Listed) -> list[Fetched]:
        found = await self._fetch_bodies([mail], f"(UID BODY.PEEK[HEADER]<0.{mime.MAX_HEADER_BYTES}>)")
        return [Fetched(mail.uid, mail.received_at, None, found[mail.uid])] if mail.uid in found else []

    async def _fetch_bodies(self, mails: Sequence[Listed], items: str) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        for text, literals in await self._fetch([each.uid for each in mails], items):
            uid = _UID.search(text)
            if uid and (literals or _EMPTY.search(text)):
                found[int(uid[1])] = literals[0] if literals else b""
        return found

    async def _fetch(self, uids: Sequence[int], items: str) -> list[tuple[bytes, list[bytes]]]:
        """Whatever came; a server says NO when some of the mails are gone."""
        numbers = ",".join(map(str, uids))
        fetching = self._protocol.fetch(numbers, items, by_uid=True, timeout=SILENCE_SECONDS)
        fetched = await self._answer(fetching, FETCH_SECONDS)
        return list(_responses(fetched.lines[:-1]))

    async def list_left(self, uids: Sequence[int]) -> list[int]:
        """Which of them are there still, after the server has told what is gone."""
        await self._answer(self._protocol.simple_command("NOOP"))
        news = self._protocol.news.is_set()
        left = await self._search("UID " + ",".join(map(str, uids)), 0)
        if news:
            self._protocol.news.set()
        return left

    async def wait(self) -> None:
        """Until a mail may have come, or some time has passed. What came since the last search ends it at once."""
        protocol = self._protocol
        if protocol.news.is_set():
            return
        if not self._has_idle:
            await self._pause(POLL_SECONDS)
            await self._answer(protocol.simple_command("NOOP"))
            return
        idle = asyncio.ensure_future(protocol.idle())
        news = asyncio.ensure_future(protocol.news.wait())
        try:
            await self._answer(protocol.wait_for_idle_response())
            waited: set[asyncio.Future[Any]] = {idle, news, protocol.lost}
            await asyncio.wait(waited, timeout=IDLE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if idle.done():
                raise MailboxError("The mail server ended an IDLE by itself.")
            protocol.idle_done()
            await self._answer(idle)
        finally:
            idle.cancel()
            news.cancel()

    async def _pause(self, seconds: float) -> None:
        await asyncio.wait({self._protocol.lost}, timeout=seconds)

    async def _answer(self, asked: Coroutine[Any, Any, T] | asyncio.Future[T], seconds: float | None = None) -> T:
        task, lost = asyncio.ensure_future(asked), self._protocol.lost
        try:
            waited: set[asyncio.Future[Any]] = {task, lost}
            await asyncio.wait(waited, timeout=seconds or ANSWER_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
        except aioimaplib.CommandTimeout:
            pass  # its own text has the command
        except _UNREADABLE as error:
            raise MailboxError(f"The mail server answered what nobody understands ({type(error).__name__}).") from None
        finally:
            task.cancel()
        if lost.done():
            raise MailboxError("The mail server ended the connection.")
        raise MailboxError("The mail server did not answer in time.")


@asynccontextmanager
async def connect(account: Account, context: ssl.SSLContext) -> AsyncIterator[Session]:
    """A session with the account's folder open, over TLS."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            transport, protocol = await loop.create_connection(_Protocol, account.host, account.port, ssl=context)
    except ssl.SSLError as error:
        raise MailboxError(
            f"The mail server is not trusted ({error.reason}): check its host, and MAILBOX_CACERT."
        ) from error
    except OSError as error:  # TimeoutError too
        raise MailboxError(f"The mail server cannot be reached ({type(error).__name__}).") from error
    try:
        session = Session(protocol)
        await session.open(account)
        yield session
    finally:
        transport.abort()


def _responses(lines: Sequence[bytes | bytearray]) -> Iterator[tuple[bytes, list[bytes]]]:
    """Each FETCH response, its text without its literals, and these."""
    text, literals = b"", list[bytes]()
    for line in lines:
        if isinstance(line, bytearray):
            literals.append(bytes(line))
        elif _FETCH.match(line):
            if text:
                yield text, literals
            text, literals = bytes(line), []
        else:
            text += b" " + line
    if text:
        yield text, literals


def _parse_date(value: bytes) -> datetime:
    try:
        date, time, zone = value.decode("ascii").split()
        day, month, year = date.split("-")
        number = _MONTHS.index(month.title()) + 1
        return datetime.fromisoformat(f"{year}-{number:02}-{int(day):02}T{time}{zone}").astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise MailboxError("The mail server dates a mail as nobody can read.") from error
