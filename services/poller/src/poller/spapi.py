"""The source `spapi`: GET /messaging/v1/orders/{orderId}/messages for the orders that have changed since the last poll.
Amazon's published Messaging model has no operation that reads buyers' messages: this one works against a stand-in only,
such as the sandbox, whose form it has.
"""

import time
from datetime import datetime, timedelta
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from shared.amazon.errors import AmazonNotFoundError, BadRequestError
from shared.amazon.gate import Operation
from shared.amazon.orders import search_changed_orders
from shared.amazon.spapi import SpApi
from shared.db import Pool
from shared.errors import PermanentError, RetryLaterError
from shared.events import MessageSource
from shared.telemetry import log

from . import queries
from .domain import Cursor, Found, IncomingMessage, Lease

GET_MESSAGES = Operation("getMessages", 1, 5)
PAGE_SIZE = 100
FIRST_WINDOW = timedelta(days=2)
OVERLAP = timedelta(minutes=10)
"""What is asked about twice, as a change may show late."""
POLL_SECONDS = 240.0
"""Less than the interval of polls: what is left goes on with the next one. A search may wait for the plan of
searchOrders for as long: a backfill of the same seller leaves it the next token, which comes within 179 s.
"""


class _Message(Struct, frozen=True, rename="camel"):
    message_id: Annotated[str, Meta(min_length=1)]
    order_id: str
    subject: str
    body: str
    created_time: Annotated[datetime, Meta(tz=True)]


class _Pagination(Struct, frozen=True, rename="camel"):
    next_token: str | None = None


class _Page(Struct, frozen=True):
    messages: list[_Message]
    pagination: _Pagination = _Pagination()


async def fetch(pool: Pool, api: SpApi, lease: Lease) -> Found:
    """What buyers wrote about orders that have changed, as far as the time and Amazon's plan allow. An error after
    something was found ends the poll with what there is, and rises in the next one if it is still there then; errors
    as SpApi.get().
    """
    ends_at = time.monotonic() + POLL_SECONDS
    kept, now = await queries.get_cursor(pool, lease)
    begun = cursor = kept or Cursor(until=now - FIRST_WINDOW)
    messages: list[IncomingMessage] = []
    try:
        while (left := ends_at - time.monotonic()) > 0:
            if cursor.orders:
                messages += await _ask(api, lease.tenant_id, cursor.orders[0], left)
                cursor = msgspec.structs.replace(cursor, orders=cursor.orders[1:])
            elif cursor.found_until is None or cursor.next_page:
                cursor = await _search(api, lease.tenant_id, cursor, left)
            else:
                return Found(messages, Cursor(until=cursor.found_until))
    except (PermanentError, RetryLaterError) as error:
        if cursor == begun:
            raise
        log.info("poll_goes_on_next_time", tenant_id=lease.tenant_id, orders_left=len(cursor.orders), code=error.code)
    return Found(messages, cursor)


async def _search(api: SpApi, tenant_id: str, cursor: Cursor, wait_seconds: float) -> Cursor:
    """The next page of the search, or its first one again where Amazon does not take the page's token any more."""
    after = cursor.until - OVERLAP
    try:
        page = await search_changed_orders(
            api, tenant_id, after, token=cursor.next_page, included_data="", wait_seconds=wait_seconds
        )
    except BadRequestError:
        if cursor.next_page is None:
            raise
        return Cursor(until=cursor.until)
    return Cursor(
        until=cursor.until,
        found_until=cursor.found_until or page.last_updated_before or cursor.until,
        next_page=page.next_token,
        orders=tuple(order.order_id for order in page.orders),
    )


async def _ask(api: SpApi, tenant_id: str, order_id: str, wait_seconds: float) -> list[IncomingMessage]:
    """All messages of an order; none where Amazon does not know the order any more."""
    params = {"pageSize": str(PAGE_SIZE)}
    path = f"/messaging/v1/orders/{order_id}/messages"
    messages: list[IncomingMessage] = []
    while True:
        try:
            page = await api.get(tenant_id, GET_MESSAGES, path, params, _Page, wait_seconds=wait_seconds)
        except AmazonNotFoundError:
            return messages
        messages += [_incoming(message) for message in page.messages]
        if page.pagination.next_token is None:
            return messages
        params["nextToken"] = page.pagination.next_token


def _incoming(message: _Message) -> IncomingMessage:
    """A sender's name is no address: conversations are told apart by the order."""
    return IncomingMessage(
        external_id=message.message_id,
        external_order_id=message.order_id,
        buyer=None,
        subject=message.subject,
        body=message.body,
        received_at=message.created_time,
        source=MessageSource.SPAPI,
    )
