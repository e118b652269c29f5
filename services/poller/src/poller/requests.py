"""NATS in: for operators."""

from typing import Annotated
from uuid import UUID

from msgspec import Meta

from shared.db import Pool
from shared.events import TenantId
from shared.outbox import Outbox
from shared.requests import OPERATOR, Asked, OfTenant, Operation

from . import polling, quarantine
from .domain import Polled, Quarantined, QuarantineState
from .quarantine import QuarantineAnswer
from .routes import MAX_PAGE, StatusAnswer, status_of


class Page(Asked, frozen=True):
    state: QuarantineState | None = None
    mailbox: str | None = None
    tenant_id: TenantId | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 20
    cursor: str | None = None


class OfMail(Asked, frozen=True):
    id: UUID


class Release(OfMail, frozen=True):
    tenant_id: TenantId | None = None


async def list_quarantine(asked: Page, pool: Pool) -> QuarantineAnswer:
    """Mails that are, or were, held back, the latest first."""
    return await quarantine.list_page(
        pool,
        limit=asked.limit,
        cursor=asked.cursor,
        state=asked.state,
        mailbox=asked.mailbox,
        tenant_id=asked.tenant_id,
    )


async def show_mail(asked: OfMail, pool: Pool) -> Quarantined:
    """One mail: where it comes from, and what became of it."""
    return await quarantine.show(pool, asked.id)


async def release_mail(asked: Release, pool: Pool, outbox: Outbox) -> Quarantined:
    """Take a mail in after all."""
    return await quarantine.release(pool, outbox, asked.id, asked.tenant_id, OPERATOR)


async def drop_mail(asked: OfMail, pool: Pool) -> Quarantined:
    """Delete a mail that is held back."""
    return await quarantine.drop(pool, asked.id, OPERATOR)


async def run_poll(asked: OfTenant, pool: Pool, outbox: Outbox, source: polling.Source) -> Polled:
    """Poll a tenant now."""
    return await polling.poll_now(pool, outbox, source, asked.tenant_id)


async def poller_status(asked: OfTenant, pool: Pool) -> StatusAnswer:
    """How a tenant is polled, and since when nothing was heard; when each mailbox was read."""
    return await status_of(pool, asked.tenant_id, for_admin=True)


OPERATIONS: dict[str, Operation] = {
    "quarantine.list": list_quarantine,
    "quarantine.show": show_mail,
    "quarantine.release": release_mail,
    "quarantine.drop": drop_mail,
    "run": run_poll,
    "status": poller_status,
}
