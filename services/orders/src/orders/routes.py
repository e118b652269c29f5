"""HTTP in."""

import re
from datetime import UTC, datetime
from typing import Annotated, TypeAlias
from uuid import UUID

import msgspec
import xxhash
from litestar import Request, get, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, FromQuery, HeaderParameter, JSONBody, QueryParameter
from litestar.response import ServerSentEvent
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp
from msgspec import Meta, Struct

from shared.auth import Caller, tenant_of
from shared.cursor import decode_cursor, encode_cursor
from shared.db import Pool
from shared.errors import PermanentError
from shared.outbox import Outbox
from shared.web import json_body

from . import backfill, search_queries, upkeep_queries, watching
from .details import Looks
from .domain import (
    DeliveryStatus,
    Detail,
    Freshness,
    Item,
    Job,
    OrderNotFoundError,
    OrderStatus,
    Search,
    SlaStatus,
    Sort,
    StoredOrder,
)

MAX_PAGE = 200
MIN_Q = 2
_TAG = re.compile(r'"[^"]*"')

CallerRequest: TypeAlias = Request[Caller, None, State]
MarketplaceId: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z0-9]{1,32}$")]
FromIfNoneMatch: TypeAlias = Annotated[str | None, HeaderParameter(name="If-None-Match")]

Days = Annotated[int, Meta(ge=1, le=730, description="Amazon keeps two years")]


class OrdersAnswer(Struct, frozen=True, rename="camel"):
    orders: list[StoredOrder]
    next_cursor: str | None


class OrderAnswer(StoredOrder, frozen=True, rename="camel"):
    items: list[Item]


class FreshnessAnswer(Struct, frozen=True):
    accounts: list[Freshness]


class BackfillRequest(Struct, frozen=True, forbid_unknown_fields=True):
    days: Days = 90


@get("/api/v1/orders", responses={200: ResponseSpec(OrdersAnswer)}, summary="A tenant's orders, the newest first")
async def list_orders(
    request: CallerRequest,
    pool: NamedDependency[Pool],
    limit: Annotated[int, QueryParameter(ge=1, le=MAX_PAGE)] = 50,
    cursor: FromQuery[str | None] = None,
    sort: FromQuery[Sort] = Sort.NEWEST,
    order_status: Annotated[list[OrderStatus] | None, QueryParameter(name="orderStatus")] = None,
    delivery_status: Annotated[list[DeliveryStatus] | None, QueryParameter(name="deliveryStatus")] = None,
    sla_status: Annotated[list[SlaStatus] | None, QueryParameter(name="slaStatus")] = None,
    marketplace_id: Annotated[list[MarketplaceId] | None, QueryParameter(name="marketplaceId")] = None,
    from_: Annotated[datetime | None, QueryParameter(name="from", description="The earliest order date")] = None,
    to: Annotated[datetime | None, QueryParameter(description="Order dates before it")] = None,
    external_order_id: Annotated[
        str | None, QueryParameter(name="externalOrderId", pattern=r"^[A-Za-z0-9-]{1,64}$", max_length=64)
    ] = None,
    q: Annotated[
        str | None,
        QueryParameter(
            min_length=MIN_Q,
            max_length=100,
            pattern=r"^[^\x00-\x1f]*$",
            description="The beginning of an order's id, its ref, or the beginnings of words of the customer's name or"
            " of the mail address",
        ),
    ] = None,
    if_none_match: FromIfNoneMatch = None,
) -> ASGIApp:
    search = Search(
        sort,
        frozenset(order_status or ()),
        frozenset(delivery_status or ()),
        frozenset(sla_status or ()),
        frozenset(marketplace_id or ()),
        _utc("from", from_),
        _utc("to", to),
        external_order_id,
        q.strip() if q else None,
    )
    if search.q is not None and len(search.q) < MIN_Q:
        raise PermanentError(f"A search takes {MIN_Q} characters at least.", field="q")
    if search.ordered_from and search.ordered_to and search.ordered_from >= search.ordered_to:
        raise PermanentError("The time that `to` names is not after the one that `from` names.", field="to")
    after = decode_cursor(cursor, asked=search) if cursor else None
    tenant_id = await tenant_of(
        request
    )  # not as a dependency: for two of them Litestar starts tasks, at twice the time
    orders = await search_queries.list_orders(pool, tenant_id, search, limit=limit + 1, after=after)
    page, more = orders[:limit], None
    if len(orders) > limit:
        more = encode_cursor(getattr(page[-1], sort.column), page[-1].id, asked=search)
    return _answer(OrdersAnswer(page, more), if_none_match)


@get(
    "/api/v1/orders/{order_id:uuid}",
    responses={200: ResponseSpec(OrderAnswer)},
    summary="One order with its items",
)
async def get_order(
    order_id: FromPath[UUID],
    request: CallerRequest,
    pool: NamedDependency[Pool],
    looks: NamedDependency[Looks],
    if_none_match: FromIfNoneMatch = None,
) -> ASGIApp:
    """What is there; details that are lacking are asked for, and come with order.stored."""
    tenant_id = await tenant_of(request)
    found = await search_queries.get_order(pool, tenant_id, order_id)
    if found is None:
        raise OrderNotFoundError("There is no such order.")
    order, items = found
    if order.detail is not Detail.FULL:
        looks.ask(tenant_id, order.external_order_id)
    return _answer(OrderAnswer(**msgspec.structs.asdict(order), items=items), if_none_match)


def _utc(field: str, at: datetime | None) -> datetime | None:
    """PostgreSQL's client reads it so, and some times have no place there."""
    if at is not None and at.tzinfo is None:
        raise PermanentError("The time says no zone: end it with Z, or with an offset like +01:00.", field=field)
    try:
        return at.astimezone(UTC) if at else None
    except OverflowError as error:
        raise PermanentError("The time is not one that an order can have.", field=field) from error


def _answer(body: Struct, if_none_match: str | None) -> ASGIResponse:
    """With an entity tag of the very bytes: an SLA status changes by time alone, and nothing else tells of it. 304
    when the caller has them. It is what Litestar makes of a Response, at a fraction of the time.
    """
    content = json_body(body)
    tag = f'"{xxhash.xxh3_128_hexdigest(content)}"'
    headers = {"etag": tag, "cache-control": "private, no-cache"}
    if if_none_match and (if_none_match.strip() == "*" or tag in _TAG.findall(if_none_match)):
        return ASGIResponse(status_code=304, headers=headers)
    return ASGIResponse(body=content, headers=headers)


@get(
    "/api/v1/orders/freshness",
    summary="How true a tenant's orders are: until when changes are stored, and what hinders",
)
async def get_freshness(tenant_id: NamedDependency[str], pool: NamedDependency[Pool]) -> FreshnessAnswer:
    return FreshnessAnswer(await upkeep_queries.get_freshness(pool, tenant_id))


@post("/api/v1/orders/backfill", status_code=202, summary="Fetch past orders; names the backfill that runs already")
async def start_backfill(
    data: JSONBody[BackfillRequest],
    tenant_id: NamedDependency[str],
    pool: NamedDependency[Pool],
    outbox: NamedDependency[Outbox],
) -> Job:
    return await queue_backfill(pool, outbox, tenant_id, data.days)


async def queue_backfill(pool: Pool, outbox: Outbox, tenant_id: str, days: int) -> Job:
    async with pool.acquire() as conn, conn.transaction():
        job, _ = await backfill.request(conn, outbox, tenant_id, days)
    return job


@get("/api/v1/orders/backfills/{job_id:uuid}", summary="How far a backfill is")
async def get_backfill(job_id: FromPath[UUID], tenant_id: NamedDependency[str], pool: NamedDependency[Pool]) -> Job:
    return await backfill.get(pool, tenant_id, job_id)


@post(
    "/api/v1/orders/backfills/{job_id:uuid}/cancel",
    status_code=200,
    summary="Call a backfill off; what it has stored stays",
)
async def cancel_backfill(
    job_id: FromPath[UUID],
    tenant_id: NamedDependency[str],
    pool: NamedDependency[Pool],
    outbox: NamedDependency[Outbox],
) -> Job:
    async with pool.acquire() as conn, conn.transaction():
        return await backfill.cancel(conn, outbox, tenant_id, job_id)


@get(
    "/api/v1/orders/backfills/{job_id:uuid}/events",
    media_type="text/event-stream",
    responses={200: ResponseSpec(Job, media_type="text/event-stream")},
    summary="The same as server-sent events, until the backfill is over",
)
async def watch_backfill(
    job_id: FromPath[UUID], tenant_id: NamedDependency[str], pool: NamedDependency[Pool]
) -> ServerSentEvent:
    """`progress` with each change, `over` at last; it ends after an hour in any case: ask again."""
    return ServerSentEvent(await watching.watch(pool, tenant_id, job_id))


ROUTES = [list_orders, get_order, get_freshness, start_backfill, get_backfill, cancel_backfill, watch_backfill]
