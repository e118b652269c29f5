"""HTTP in."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal
from urllib.parse import quote
from uuid import UUID

from litestar import Request, Response, get, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from msgspec import Struct

from shared.auth import INTERNAL, Caller
from shared.cursor import decode_cursor, encode_cursor
from shared.db import Pool
from shared.events import MessageSource, TenantId
from shared.outbox import Outbox

from . import mail_queries, polling, quarantine, queries, ticket_queries
from .domain import (
    AttachmentNotFoundError,
    ForbiddenError,
    MailboxState,
    Polled,
    Quarantined,
    QuarantineState,
    Schedule,
    Ticket,
    TicketMessage,
    TicketNotFoundError,
)
from .quarantine import QuarantineAnswer

MAX_PAGE = 200
TICKETS, QUARANTINE = "/api/v1/tickets", "/api/v1/quarantine"
_HOUR = timedelta(hours=1)
_UNSAFE_IN_NAMES = frozenset('/\\:*?"<>|')

Limit = Annotated[int, QueryParameter(ge=1, le=MAX_PAGE)]
CallerRequest = Request[Caller, None, State]


class TicketsAnswer(Struct, frozen=True, rename="camel"):
    tickets: list[Ticket]
    next_cursor: str | None


class TicketAnswer(Ticket, frozen=True, rename="camel"):
    messages: list[TicketMessage]


class StatusAnswer(Struct, frozen=True, rename="camel"):
    tenant_id: str
    archived: bool
    schedules: list[Schedule]
    last_message_at: datetime | None
    last_message_source: MessageSource | None
    silent_hours: float | None
    mailboxes: list[MailboxState] | None
    """For an admin: they are every tenant's."""


class ReleaseRequest(Struct, frozen=True, rename="camel"):
    tenant_id: TenantId | None = None


@get(TICKETS, summary="A tenant's tickets, the latest first")
async def list_tickets(
    tenant_id: NamedDependency[str],
    pool: NamedDependency[Pool],
    limit: Limit = 50,
    cursor: FromQuery[str | None] = None,
    status: FromQuery[Literal["OPEN", "ANSWERED", "CLOSED"] | None] = None,
    overdue: FromQuery[bool | None] = None,
    order: Annotated[str | None, QueryParameter(max_length=64)] = None,
    channel: FromQuery[MessageSource | None] = None,
) -> TicketsAnswer:
    tickets = await ticket_queries.list_tickets(
        pool,
        tenant_id,
        limit=limit + 1,
        before=decode_cursor(cursor) if cursor else None,
        status=status,
        overdue=overdue,
        order=order,
        channel=channel,
    )
    page = tickets[:limit]
    more = encode_cursor(page[-1].last_message_at, page[-1].id) if len(tickets) > limit else None
    return TicketsAnswer(page, more)


@get(f"{TICKETS}/{{ticket_id:uuid}}", summary="One ticket with its messages")
async def get_ticket(
    ticket_id: FromPath[UUID], tenant_id: NamedDependency[str], pool: NamedDependency[Pool]
) -> TicketAnswer:
    found = await ticket_queries.get_ticket(pool, tenant_id, ticket_id)
    if found is None:
        raise TicketNotFoundError("There is no such ticket.")
    ticket, messages = found
    return TicketAnswer(**{field: getattr(ticket, field) for field in ticket.__struct_fields__}, messages=messages)


@get(f"{TICKETS}/{{ticket_id:uuid}}/attachments/{{attachment_id:uuid}}", summary="A file of a ticket's message")
async def get_attachment(
    ticket_id: FromPath[UUID],
    attachment_id: FromPath[UUID],
    tenant_id: NamedDependency[str],
    pool: NamedDependency[Pool],
) -> Response[bytes]:
    """Whatever it says it is, a browser stores it and does not show it."""
    found = await ticket_queries.get_attachment(pool, tenant_id, ticket_id, attachment_id)
    if found is None:
        raise AttachmentNotFoundError("There is no such attachment.")
    if found.content is None:
        raise AttachmentNotFoundError("The attachment was too large to be kept: it is in Seller Central.")
    headers = {
        "Content-Disposition": disposition(found.name),
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Cache-Control": "private, no-store",
    }
    return Response(found.content, media_type="application/octet-stream", headers=headers)


def disposition(name: str | None) -> str:
    """To be stored under a name that is only a name: no folder, no control or turned character, no dot at its ends.
    Source: RFC 6266.
    """
    kept = "".join("_" if each in _UNSAFE_IN_NAMES or not each.isprintable() else each for each in name or "")
    kept = kept.strip(". ")[:150] or "attachment"
    plain = "".join(each if each.isascii() else "_" for each in kept)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(kept, safe='')}"


@post(f"{TICKETS}/{{ticket_id:uuid}}/close", status_code=200, summary="A ticket needs no answer (any more)")
async def close_ticket(
    ticket_id: FromPath[UUID], tenant_id: NamedDependency[str], pool: NamedDependency[Pool]
) -> Ticket:
    """A new message opens it again."""
    closed = await ticket_queries.close_ticket(pool, tenant_id, ticket_id)
    if closed is None:
        raise TicketNotFoundError("There is no such ticket.")
    return closed


@get("/api/v1/poller/status", summary="How a tenant is polled, and since when nothing was heard")
async def poller_status(
    request: CallerRequest, tenant_id: NamedDependency[str], pool: NamedDependency[Pool]
) -> StatusAnswer:
    return await status_of(pool, tenant_id, for_admin=request.user.chooses_tenant)


async def status_of(pool: Pool, tenant_id: str, *, for_admin: bool) -> StatusAnswer:
    at, source = await ticket_queries.get_last_message(pool, tenant_id) or (None, None)
    return StatusAnswer(
        tenant_id=tenant_id,
        archived=await queries.is_archived(pool, tenant_id),
        schedules=await queries.list_schedules(pool, tenant_id),
        last_message_at=at,
        last_message_source=source,
        silent_hours=round(max(0.0, (datetime.now(UTC) - at) / _HOUR), 1) if at else None,
        mailboxes=await mail_queries.list_mailboxes(pool) if for_admin else None,
    )


@post("/api/v1/poller/run", status_code=200, summary="Poll a tenant now")
async def run_poll(
    tenant_id: NamedDependency[str],
    pool: NamedDependency[Pool],
    outbox: NamedDependency[Outbox],
    source: NamedDependency[polling.Source],
) -> Polled:
    return await polling.poll_now(pool, outbox, source, tenant_id)


def person(request: CallerRequest) -> str:
    """Who decides; ForbiddenError unless it is an admin or the product's server."""
    caller = request.user
    if not caller.chooses_tenant:
        raise ForbiddenError("The quarantine is for an admin.")
    return INTERNAL if caller.by_key else caller.user or caller.role


@get(QUARANTINE, summary="Mails that are, or were, held back, the latest first")
async def list_quarantine(
    request: CallerRequest,
    pool: NamedDependency[Pool],
    limit: Limit = 50,
    cursor: FromQuery[str | None] = None,
    in_state: Annotated[QuarantineState | None, QueryParameter(name="state")] = None,
    mailbox: FromQuery[str | None] = None,
    tenant: FromQuery[str | None] = None,
) -> QuarantineAnswer:
    person(request)
    return await quarantine.list_page(
        pool, limit=limit, cursor=cursor, state=in_state, mailbox=mailbox, tenant_id=tenant
    )


@get(f"{QUARANTINE}/{{mail_id:uuid}}", summary="One mail: where it comes from, and what became of it")
async def show_mail(request: CallerRequest, mail_id: FromPath[UUID], pool: NamedDependency[Pool]) -> Quarantined:
    person(request)
    return await quarantine.show(pool, mail_id)


@post(f"{QUARANTINE}/{{mail_id:uuid}}/release", status_code=200, summary="Take a mail in after all")
async def release_mail(
    request: CallerRequest,
    mail_id: FromPath[UUID],
    pool: NamedDependency[Pool],
    outbox: NamedDependency[Outbox],
    data: JSONBody[ReleaseRequest | None] = None,
) -> Quarantined:
    by = person(request)
    return await quarantine.release(pool, outbox, mail_id, data.tenant_id if data else None, by)


@post(f"{QUARANTINE}/{{mail_id:uuid}}/drop", status_code=200, summary="Delete a mail that is held back")
async def drop_mail(request: CallerRequest, mail_id: FromPath[UUID], pool: NamedDependency[Pool]) -> Quarantined:
    return await quarantine.drop(pool, mail_id, person(request))


ROUTES = [
    list_tickets,
    get_ticket,
    get_attachment,
    close_ticket,
    poller_status,
    run_poll,
    list_quarantine,
    show_mail,
    release_mail,
    drop_mail,
]
