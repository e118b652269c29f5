"""HTTP in."""

from typing import Annotated, Literal
from uuid import UUID

from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, QueryParameter
from msgspec import Struct

from shared.cursor import decode_cursor, encode_cursor
from shared.db import Pool
from shared.outbox import Outbox

from . import polling, queries
from .domain import Polled, Schedule, Ticket, TicketMessage, TicketNotFoundError

MAX_PAGE = 200


class TicketsAnswer(Struct, frozen=True, rename="camel"):
    tickets: list[Ticket]
    next_cursor: str | None


class TicketAnswer(Ticket, frozen=True, rename="camel"):
    messages: list[TicketMessage]


class StatusAnswer(Struct, frozen=True, rename="camel"):
    tenant_id: str
    archived: bool
    schedules: list[Schedule]


@get("/api/v1/tickets", summary="A tenant's tickets, the latest first")
async def list_tickets(
    tenant_id: NamedDependency[str],
    pool: NamedDependency[Pool],
    limit: Annotated[int, QueryParameter(ge=1, le=MAX_PAGE)] = 50,
    cursor: FromQuery[str | None] = None,
    status: FromQuery[Literal["OPEN", "CLOSED"] | None] = None,
) -> TicketsAnswer:
    tickets = await queries.list_tickets(
        pool, tenant_id, limit=limit + 1, before=decode_cursor(cursor) if cursor else None, status=status
    )
    page = tickets[:limit]
    more = encode_cursor(page[-1].last_message_at, page[-1].id) if len(tickets) > limit else None
    return TicketsAnswer(page, more)


@get("/api/v1/tickets/{ticket_id:uuid}", summary="One ticket with its messages")
async def get_ticket(
    ticket_id: FromPath[UUID], tenant_id: NamedDependency[str], pool: NamedDependency[Pool]
) -> TicketAnswer:
    found = await queries.get_ticket(pool, tenant_id, ticket_id)
    if found is None:
        raise TicketNotFoundError("There is no such ticket.")
    ticket, messages = found
    return TicketAnswer(**{field: getattr(ticket, field) for field in ticket.__struct_fields__}, messages=messages)


@get("/api/v1/poller/status", summary="How a tenant is polled")
async def poller_status(tenant_id: NamedDependency[str], pool: NamedDependency[Pool]) -> StatusAnswer:
    archived = await queries.is_archived(pool, tenant_id)
    return StatusAnswer(tenant_id, archived, await queries.list_schedules(pool, tenant_id))


@post("/api/v1/poller/run", status_code=200, summary="Poll a tenant now")
async def run_poll(
    tenant_id: NamedDependency[str],
    pool: NamedDependency[Pool],
    outbox: NamedDependency[Outbox],
    source: NamedDependency[polling.Source],
) -> Polled:
    return await polling.poll_now(pool, outbox, source, tenant_id)


ROUTES = [list_tickets, get_ticket, poller_status, run_poll]
