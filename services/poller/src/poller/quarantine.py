"""What a person decides about a mail that is held back: taken in after all, or dropped. Once; who and when is kept,
the mail itself is not.
"""

from uuid import UUID

from msgspec import Struct

from shared.cursor import decode_cursor, encode_cursor
from shared.db import Conn, Pool
from shared.events import AMAZON
from shared.outbox import Outbox
from shared.telemetry import log

from . import intake, mail_queries, queries
from .domain import (
    Address,
    HeldMail,
    NotReleasableError,
    Quarantined,
    QuarantineDecidedError,
    QuarantinedNotFoundError,
    QuarantineState,
    TenantNotFoundError,
)
from .mail import read_mail

NO_SUCH_MAIL = "There is no such mail: its id is in the list of the quarantine."


class QuarantineAnswer(Struct, frozen=True, rename="camel"):
    """A page of mails; the cursor leads to the next one."""

    mails: list[Quarantined]
    next_cursor: str | None


async def list_page(
    pool: Pool,
    *,
    limit: int,
    cursor: str | None,
    state: QuarantineState | None,
    mailbox: str | None,
    tenant_id: str | None,
) -> QuarantineAnswer:
    """The latest first."""
    before = decode_cursor(cursor) if cursor else None
    mails = await mail_queries.list_quarantined(
        pool, limit=limit + 1, before=before, state=state, mailbox=mailbox, tenant_id=tenant_id
    )
    page = mails[:limit]
    more = encode_cursor(page[-1].created_at, page[-1].id) if len(mails) > limit else None
    return QuarantineAnswer(page, more)


async def show(pool: Pool, quarantined_id: UUID) -> Quarantined:
    """Where a mail comes from and what became of it, never what it says."""
    mail = await mail_queries.get_quarantined(pool, quarantined_id)
    if mail is None:
        raise QuarantinedNotFoundError(NO_SUCH_MAIL)
    return mail


async def release(pool: Pool, outbox: Outbox, quarantined_id: UUID, tenant_id: str | None, by: str) -> Quarantined:
    """Take the mail in as the addresses are now, or for the tenant that the person names; whether it is Amazon's is
    the person's word. NotReleasableError says what is still in the way.
    """
    try:
        async with pool.acquire() as conn, conn.transaction():
            held = await _held(conn, quarantined_id)
            if held.raw is None:
                raise NotReleasableError("The mail was too large: only its headers were kept. Read it in the mailbox.")
            mail = read_mail(held.raw, "")
            address = await _address(conn, mail.recipients, tenant_id)
            await intake.accept(conn, outbox, [(address, mail, held.received_at)])
            decided = await mail_queries.decide_quarantined(
                conn, quarantined_id, QuarantineState.RELEASED, address.tenant_id, by
            )
    except intake.OF_A_MAIL as error:
        raise NotReleasableError("The database does not take this mail: drop it.") from error
    log.info("quarantined_mail_released", id=str(quarantined_id), tenant_id=decided.tenant_id, by=by)
    return decided


async def drop(pool: Pool, quarantined_id: UUID, by: str) -> Quarantined:
    """Delete the mail; its headers stay, to tell why nothing came of it."""
    async with pool.acquire() as conn, conn.transaction():
        await _held(conn, quarantined_id)
        decided = await mail_queries.decide_quarantined(conn, quarantined_id, QuarantineState.DROPPED, None, by)
    log.info("quarantined_mail_dropped", id=str(quarantined_id), by=by)
    return decided


async def _held(conn: Conn, quarantined_id: UUID) -> HeldMail:
    held = await mail_queries.lock_quarantined(conn, quarantined_id)
    if held is None:
        raise QuarantinedNotFoundError(NO_SUCH_MAIL)
    if held.state != QuarantineState.HELD:
        raise QuarantineDecidedError(f"The mail was decided on already: it is {held.state}.")
    return held


async def _address(conn: Conn, recipients: list[str], tenant_id: str | None) -> Address:
    """Whose the mail is. A person may say so where no address does, never against one."""
    address = intake.address_of(recipients, await queries.list_addresses(conn, recipients))
    if tenant_id is None:
        if address is None:
            raise NotReleasableError("Its address is still nobody's: say whose the mail is (tenantId).")
        if not address.enabled:
            raise NotReleasableError(
                f"Its address is still disabled: activate the tenant {address.tenant_id} in the product, or say that"
                " it is meant (tenantId)."
            )
        return address
    if address is not None and address.tenant_id != tenant_id:
        raise NotReleasableError(f"Its address belongs to the tenant {address.tenant_id}, not to this one.")
    archived = await queries.get_tenant_archived(conn, tenant_id)
    if archived is None:
        raise TenantNotFoundError("There is no such tenant.")
    if archived:
        raise NotReleasableError("The tenant is archived: activate it in the product first.")
    return address or Address(None, tenant_id, AMAZON, enabled=True, verified=True)
