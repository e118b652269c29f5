"""A mailbox, read by one replica at a time and left as it is. How far it is read moves with what was stored, in one
transaction: whatever fails, reading begins again behind the last mail that is in the database.
"""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from msgspec import Struct

from shared.errors import PermanentError, RetryLaterError
from shared.telemetry import log
from shared.vault import Vault

from . import imap, mail_queries
from .domain import Fetched, MailboxLease, MailboxLostError
from .imap import Account, Listed, MailboxError, Session
from .intake import MAX_MAIL_BYTES, Intake, take_batch

LEASE = timedelta(seconds=30)
RENEW_SECONDS = 10.0
LOOK_AGAIN_SECONDS = 3.0
"""Between two looks whether a mailbox has become free."""
RESCAN = timedelta(days=14)
AT_ONCE = 50
AT_ONCE_BYTES = 8 << 20
BACK_OFF_SECONDS = 1.0
MAX_BACK_OFF_SECONDS = 60.0
NONE = 1 << 32
"""Above every UID."""
NOT_YET = "Not all of it has been read yet."


class _Place(Struct):
    """Where the reader is, for the one that renews."""

    uid_validity: int | None
    last_uid: int
    error: str | None = NOT_YET
    """What keeps us from having read all; None when nothing does."""
    failures: int = 0


async def read(intake: Intake, vault: Vault, name: str, context: ssl.SSLContext | None = None) -> None:
    """Take in what comes to a mailbox, for as long as the service runs; while another replica does, wait for its end.
    The context verifies the server; None is the machine's CAs.
    """
    context = context or ssl.create_default_context()
    while True:
        lease = await mail_queries.claim_mailbox(intake.pool, name, LEASE)
        if lease is not None:
            try:
                await _hold(intake, vault, lease, context)
            except MailboxLostError as error:
                log.warning("mailbox_lost", mailbox=name, code=error.code)
        await asyncio.sleep(_about(LOOK_AGAIN_SECONDS))


async def _hold(intake: Intake, vault: Vault, lease: MailboxLease, context: ssl.SSLContext) -> None:
    """Read and renew; the first of the two to fail ends the other."""
    place = _Place(lease.uid_validity, lease.last_uid)
    tasks = {
        asyncio.create_task(_renew(intake, lease, place), name=f"renew {lease.name}"),
        asyncio.create_task(_read(intake, vault, lease, place, context), name=f"read {lease.name}"),
    }
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        left = tasks
        while left:  # as in Service: a cancellation may get lost
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=1)
        await mail_queries.release_mailbox(intake.pool, lease)


async def _renew(intake: Intake, lease: MailboxLease, place: _Place) -> None:
    while True:
        await asyncio.sleep(RENEW_SECONDS)
        await _note(intake, lease, place.error)


async def _note(intake: Intake, lease: MailboxLease, error: str | None) -> None:
    if not await mail_queries.renew_mailbox(intake.pool, lease, LEASE, error):
        raise MailboxLostError("The mailbox is in somebody else's hands now.")


async def _read(intake: Intake, vault: Vault, lease: MailboxLease, place: _Place, context: ssl.SSLContext) -> None:
    """Connect and follow, and after a failure anew, with more and more patience."""
    while True:
        try:
            account = await read_account(vault, lease.name)
            async with imap.connect(account, context) as session:
                log.info("mailbox_opened", mailbox=lease.name)
                await _follow(intake, lease, place, session)
        except MailboxLostError:
            raise
        except (PermanentError, RetryLaterError) as error:
            place.error = str(error)
            place.failures += 1
            log.warning("mailbox_failed", mailbox=lease.name, code=error.code, error=place.error)
        await _note(intake, lease, place.error)
        await asyncio.sleep(_about(min(BACK_OFF_SECONDS * 2 ** min(place.failures - 1, 10), MAX_BACK_OFF_SECONDS)))


async def _follow(intake: Intake, lease: MailboxLease, place: _Place, session: Session) -> None:
    while True:
        uids = await _list_new(place, session)
        for some in _chunks(uids):
            async for mails in _batches(session, some):
                await _take(intake, lease, place, session.uid_validity, mails)
        if not uids:
            if place.error is not None:
                place.error, place.failures = None, 0
                await _note(intake, lease, None)
            await session.wait()


async def _take(
    intake: Intake, lease: MailboxLease, place: _Place, uid_validity: int, mails: Sequence[Fetched]
) -> None:
    if mails:
        await take_batch(intake, lease, uid_validity, mails)
        place.uid_validity, place.last_uid = uid_validity, mails[-1].uid
        log.info("mails_read", mailbox=lease.name, mails=len(mails), last_uid=place.last_uid)


async def _list_new(place: _Place, session: Session) -> list[int]:
    """What came after the last one; of a mailbox that is new to us, or was made anew, what is not too old: mails that
    we have are known by their Message-ID.
    """
    if place.uid_validity == session.uid_validity:
        return await session.search(after=place.last_uid)
    return await session.search_since(datetime.now(UTC) - RESCAN)


async def _batches(session: Session, uids: Sequence[int]) -> AsyncIterator[list[Fetched]]:
    """The mails, in their order. One that is not there any more is left out; behind one that is there and does not
    come, nothing is read: MailboxError.
    """
    listed = await session.list_mails(uids)
    withheld = await _withheld(session, uids, [each.uid for each in listed])
    for some in _loads([each for each in listed if each.uid < withheld]):
        too_large = some[0].size > MAX_MAIL_BYTES
        fetched = await session.fetch_head(some[0]) if too_large else await session.fetch(some)
        withheld = min(withheld, await _withheld(session, [each.uid for each in some], [each.uid for each in fetched]))
        yield [each for each in fetched if each.uid < withheld]
        if some[-1].uid >= withheld:
            break
    if withheld < NONE:
        raise MailboxError(f"The mail server lists the mail {withheld}, and does not give it.")


async def _withheld(session: Session, asked: Sequence[int], came: Sequence[int]) -> int:
    """The first that did not come though it is there; NONE when all that is there came."""
    missing = sorted(set(asked) - set(came))
    left = await session.list_left(missing) if missing else []
    return min(set(left) & set(missing), default=NONE)


def _chunks(uids: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(uids), AT_ONCE):
        yield uids[start : start + AT_ONCE]


def _loads(listed: Sequence[Listed]) -> Iterator[list[Listed]]:
    """What is fetched at once; one that is too large comes alone."""
    load: list[Listed] = []
    for each in listed:
        if load and sum(other.size for other in load) + each.size > AT_ONCE_BYTES:
            yield load
            load = []
        load.append(each)
    if load:
        yield load


async def read_account(vault: Vault, name: str) -> Account:
    """MailboxError when there is none, or it lacks something."""
    path = f"keybuzz/mailboxes/{name}"
    secret = await vault.read(path)
    if secret is None:
        raise MailboxError(f"No mailbox is stored in Vault at {path}: write host, user and password there.")
    try:
        return msgspec.convert(secret, Account, strict=False)
    except msgspec.ValidationError as error:
        raise MailboxError(f"The mailbox in Vault at {path} is not complete: {error}.") from None


def _about(seconds: float) -> float:
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311 - no secret hangs on it
