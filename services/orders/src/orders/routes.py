"""HTTP in."""

from typing import Annotated
from uuid import UUID

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from litestar.response import ServerSentEvent
from msgspec import Meta, Struct

from shared.cursor import decode_cursor, encode_cursor
from shared.db import Pool
from shared.outbox import Outbox
from shared.web import json_response

from . import backfill, order_queries, upkeep_queries, watching
from .details import Looks
from .domain import Detail, Freshness, Item, Job, OrderNotFoundError, StoredOrder

MAX_PAGE = 200


class OrdersAnswer(Struct, frozen=True, rename="camel"):
    orders: list[StoredOrder]
    next_cursor: str | None


class OrderAnswer(StoredOrder, frozen=True, rename="camel"):
    items: list[Item]


class FreshnessAnswer(Struct, frozen=True):
    accounts: list[Freshness]


class BackfillRequest(Struct, frozen=True, forbid_unknown_fields=True):
    days: Annotated[int, Meta(ge=1, le=730, description="Amazon keeps two years")] = 90


@get("/api/v1/orders", responses={200: ResponseSpec(OrdersAnswer)}, summary="A tenant's orders, the newest first")
async def list_orders(
    tenant_id: NamedDependency[str],
    pool: NamedDependency[Pool],
    limit: Annotated[int, QueryParameter(ge=1, le=MAX_PAGE)] = 50,
    cursor: FromQuery[str | None] = None,
    external_order_id: Annotated[
        str | None, QueryParameter(name="externalOrderId", pattern=r"^[A-Za-z0-9-]{1,64}$", max_length=64)
    ] = None,
) -> Response[bytes]:
    orders = await order_queries.list_orders(
        pool,
        tenant_id,
        limit=limit + 1,
        before=decode_cursor(cursor) if cursor else None,
        external_order_id=external_order_id,
    )
    page = orders[:limit]
    more = encode_cursor(page[-1].order_date, page[-1].id) if len(orders) > limit else None
    return json_response(OrdersAnswer(page, more))


@get(
    "/api/v1/orders/{order_id:uuid}",
    responses={200: ResponseSpec(OrderAnswer)},
    summary="One order with its items",
)
async def get_order(
    order_id: FromPath[UUID],
    tenant_id: NamedDependency[str],
    pool: NamedDependency[Pool],
    looks: NamedDependency[Looks],
) -> Response[bytes]:
    """What is there; details that are lacking are asked for, and come with order.stored."""
    found = await order_queries.get_order(pool, tenant_id, order_id)
    if found is None:
        raise OrderNotFoundError("There is no such order.")
    order, items = found
    if order.detail is not Detail.FULL:
        looks.ask(tenant_id, order.external_order_id)
    columns = {field: getattr(order, field) for field in order.__struct_fields__}
    return json_response(OrderAnswer(**columns, items=items))


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
    async with pool.acquire() as conn, conn.transaction():
        job, _ = await backfill.request(conn, outbox, tenant_id, data.days)
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
