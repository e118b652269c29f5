"""Mail in: whose it is, whether it is Amazon's, and then into its conversation, or into quarantine. A batch and the
place of the mailbox up to which it reaches are one transaction.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime

import asyncpg
from msgspec import Struct
from prometheus_client import Counter

from shared.db import Conn, Pool
from shared.events import MessageSource, TenantAddressVerified
from shared.outbox import Outbox
from shared.telemetry import log

from . import mail_queries, mime, queries, tickets
from .domain import (
    Address,
    Fetched,
    Incoming,
    IncomingMessage,
    MailboxLease,
    MailboxLostError,
    QuarantineReason,
    buyer_of,
)
from .mail import Mail, read_mail
from .wording import Kind

MAILS = Counter("mails_total", "Mails read from a mailbox, and what became of them", ["outcome"])
MAX_MAIL_BYTES = 26 << 20
"""Attachments of 10 MB, as Base64, twice over; Amazon sends no larger ones."""
OF_A_MAIL = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)
"""What the database says of a value that it does not take: the mail's fault, not an outage."""
SHOWN_HEADERS = ("From", "To", "Delivered-To", "Date", "Message-ID", "Authentication-Results", "Received")


class Intake(Struct, frozen=True):
    """What takes mail in."""

    pool: Pool
    outbox: Outbox
    trusted: str
    """The receiving server, whose Authentication-Results are believed."""


async def take_batch(intake: Intake, lease: MailboxLease, uid_validity: int, mails: Sequence[Fetched]) -> None:
    """Store mails, in the order of the mailbox, and move on behind them. When one of them fails in a way that nobody
    foresaw, each goes on its own, and that one to quarantine. MailboxLostError when somebody else has the mailbox.
    """
    if not mails:
        return
    try:
        await _take(intake, lease, uid_validity, mails)
    except OF_A_MAIL as error:
        log.warning("mail_batch_failed", mailbox=lease.name, mails=len(mails), error=type(error).__name__)
        for mail in mails:
            await _take_or_quarantine(intake, lease, uid_validity, mail)


async def _take_or_quarantine(intake: Intake, lease: MailboxLease, uid_validity: int, mail: Fetched) -> None:
    try:
        await _take(intake, lease, uid_validity, [mail])
    except OF_A_MAIL as error:
        log.error("mail_not_stored", mailbox=lease.name, uid=mail.uid, error=type(error).__name__)
        async with intake.pool.acquire() as conn, conn.transaction():
            await _move_on(conn, lease, uid_validity, mail.uid)
            await _quarantine(conn, lease.name, mail, QuarantineReason.UNREADABLE)


async def _take(intake: Intake, lease: MailboxLease, uid_validity: int, mails: Sequence[Fetched]) -> None:
    read = [(each, read_mail(each.raw, intake.trusted) if each.raw is not None else None) for each in mails]
    recipients = {address for _, mail in read if mail for address in mail.recipients}
    async with intake.pool.acquire() as conn, conn.transaction():
        await _move_on(conn, lease, uid_validity, mails[-1].uid)
        addresses = await queries.list_addresses(conn, sorted(recipients))
        judged = [(each, mail, *_judge(mail, addresses)) for each, mail in read]
        # In one order for all who take mail in, since each row and conversation is locked: what is held back first.
        for each, _, address, reason in sorted(judged, key=lambda found: _digest(found[0])):
            if reason is not None:
                await _quarantine(conn, lease.name, each, reason, address.tenant_id if address else None)
        taken = [(address, mail, each) for each, mail, address, reason in judged if address and mail and not reason]
        if taken:
            await accept(conn, intake.outbox, [(address, mail, each.received_at) for address, mail, each in taken])


def _judge(mail: Mail | None, addresses: dict[str, Address]) -> tuple[Address | None, QuarantineReason | None]:
    """Whose a mail is, and what speaks against it."""
    if mail is None:
        return None, QuarantineReason.TOO_LARGE
    address = address_of(mail.recipients, addresses)
    if address is None:
        return None, QuarantineReason.UNKNOWN_RECIPIENT
    if not address.enabled:
        return address, QuarantineReason.DISABLED_RECIPIENT
    if not mail.is_from_amazon:
        return address, QuarantineReason.NOT_FROM_AMAZON
    return address, None


def address_of(recipients: Sequence[str], addresses: dict[str, Address]) -> Address | None:
    """The nearest recipient that is one of ours."""
    return next((addresses[each] for each in recipients if each in addresses), None)


async def accept(conn: Conn, outbox: Outbox, mails: Sequence[tuple[Address, Mail, datetime]]) -> None:
    """Mails that are what they should be, as messages: whose each is, and when it was received. The first to an address
    verifies it.
    """
    await _verify(conn, outbox, [address for address, _, _ in mails])
    incoming = [
        Incoming(address.tenant_id, address.marketplace, _message(address, mail, received_at))
        for address, mail, received_at in mails
    ]
    for is_new in await tickets.take_all(conn, outbox, incoming):
        MAILS.labels("new" if is_new else "joined_or_known").inc()


async def _verify(conn: Conn, outbox: Outbox, addresses: Sequence[Address]) -> None:
    unproven = {address.email: address for address in addresses if address.email and not address.verified}
    for email in sorted(unproven):
        if at := await queries.verify_address(conn, email):
            address = unproven[email]
            await outbox.add(
                conn,
                TenantAddressVerified(
                    tenant_id=address.tenant_id, marketplace=address.marketplace, inbound_address=email, at=at
                ),
            )


def _message(address: Address, mail: Mail, received_at: datetime) -> IncomingMessage:
    return IncomingMessage(
        external_id=mail.message_id,
        external_order_id=mail.order_id,
        buyer=buyer_of(mail.sender) if mail.kind is Kind.BUYER_MESSAGE and mail.sender else None,
        subject=mail.subject,
        body=mail.text,
        received_at=received_at,
        source=MessageSource.EMAIL,
        kind=mail.kind,
        language=mail.language,
        replies_to=tuple(dict.fromkeys(([mail.in_reply_to] if mail.in_reply_to else []) + mail.references[::-1])),
        inbound_address=address.email,
        attachments=tuple(mail.attachments),
    )


async def _move_on(conn: Conn, lease: MailboxLease, uid_validity: int, uid: int) -> None:
    """The mailbox's row first: who has lost the lease must not store mail either."""
    if not await mail_queries.advance_mailbox(conn, lease, uid_validity, uid):
        raise MailboxLostError("The mailbox is in somebody else's hands now.")


async def _quarantine(
    conn: Conn, mailbox: str, mail: Fetched, reason: QuarantineReason, tenant_id: str | None = None
) -> None:
    """Keep it with the headers that show where it comes from; its subject and text are for nobody's eyes."""
    found = mime.read(_kept(mail)[: mime.MAX_HEADER_BYTES]).headers
    headers = {name: found[name.lower()] for name in SHOWN_HEADERS if name.lower() in found}
    if await mail_queries.insert_quarantined(conn, _digest(mail), mailbox, reason, tenant_id, headers, mail):
        MAILS.labels(reason.value).inc()
        log.warning("mail_quarantined", mailbox=mailbox, uid=mail.uid, reason=reason.value)


def _kept(mail: Fetched) -> bytes:
    return mail.head if mail.raw is None else mail.raw


def _digest(mail: Fetched) -> bytes:
    return hashlib.sha256(_kept(mail)).digest()
