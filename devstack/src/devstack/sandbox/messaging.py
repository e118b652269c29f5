"""getMessages: the messages of an order's buyer, made up with the order or written by the control API.

Of our own design. Amazon's published Messaging model has no operation that reads buyers' messages.
"""

import re

import msgspec
from litestar import get
from litestar.datastructures import MultiDict
from litestar.response import Response

from .http import HttpRequest
from .orderbook import Json
from .quota import GET_MESSAGES
from .signing import SignatureError, seal, unseal
from .spapi import answer, invalid_input, not_found
from .state import Sandbox, Seller

PAGE = 10
MAX_PAGE = 100


class MessagesToken(msgspec.Struct, frozen=True):
    seller_id: str
    order_id: str
    start: int


@get("/messaging/v1/orders/{order_id:str}/messages")
async def get_messages(request: HttpRequest, sandbox: Sandbox, order_id: str) -> Response[bytes]:
    return await answer(
        request,
        sandbox,
        GET_MESSAGES,
        lambda seller: _messages(sandbox, seller, order_id, request.query_params),
    )


def _messages(sandbox: Sandbox, seller: Seller, order_id: str, parameters: MultiDict[str]) -> Json:
    book = sandbox.book(seller)
    index = book.find(order_id)
    if index is None:
        raise not_found(f"There is no order {order_id}.")
    size = parameters.get("pageSize", str(PAGE))
    if not re.fullmatch(r"[0-9]{1,3}", size) or not 1 <= int(size) <= MAX_PAGE:
        raise invalid_input("pageSize", f"must be a number from 1 to {MAX_PAGE}.")
    start = _start(sandbox, seller, order_id, parameters.get("nextToken"))
    end = start + int(size)
    messages = [*book.messages(index), *sandbox.written.get((seller.seller_id, order_id), ())]
    pagination: Json = {}
    if end < len(messages):
        token = MessagesToken(seller.seller_id, order_id, end)
        pagination["nextToken"] = seal(sandbox.kept.key, "getMessages", token)
    return {"messages": messages[start:end], "pagination": pagination}


def _start(sandbox: Sandbox, seller: Seller, order_id: str, text: str | None) -> int:
    if text is None:
        return 0
    try:
        token = unseal(sandbox.kept.key, "getMessages", text, MessagesToken)
    except SignatureError:
        raise invalid_input("nextToken", "is not a token of this operation.") from None
    if (token.seller_id, token.order_id) != (seller.seller_id, order_id):
        raise invalid_input("nextToken", "belongs to another order.")
    return token.start
