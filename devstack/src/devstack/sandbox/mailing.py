"""The control API of the mailbox: buyers write, or somebody empties it."""

import secrets
from typing import Annotated

import msgspec
from litestar import delete, post
from litestar.exceptions import ClientException
from litestar.response import Response

from .http import HttpRequest, json_response
from .mails import SORTS, generate
from .seed import STORY
from .state import Sandbox, log

Text = Annotated[str, msgspec.Meta(pattern=r"\A[!-~]{1,200}\Z")]


class Writing(msgspec.Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Which mails are written: the same seed writes the same ones."""

    recipient: Text
    count: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1
    sorts: tuple[str, ...] = ("buyer",)
    """In turns."""
    seed: int | None = None
    order_ids: tuple[Text, ...] = tuple(pin.order_id for pin in STORY.values() if pin.order_id)
    """Orders that they may be about."""


@post("/sandbox/mails", sync_to_thread=False)
def write_mails(data: Writing, sandbox: Sandbox) -> Response[bytes]:
    """Generated mails arrive in the mailbox, in their order."""
    if unknown := sorted(set(data.sorts) - SORTS.keys()):
        raise ClientException(f"No mail is called {unknown[0]!r}. There are: {', '.join(SORTS)}.")
    seed = secrets.randbelow(1 << 32) if data.seed is None else data.seed
    mails = [
        {
            "uid": sandbox.mailbox.deliver(made.raw),
            "sort": made.sort,
            "messageId": made.expected.message_id,
            "orderId": made.expected.order_id,
        }
        for made in generate(
            seed, data.count, recipient=data.recipient, order_ids=data.order_ids, sorts=data.sorts or tuple(SORTS)
        )
    ]
    log.info("mails written: %s, seed %s", len(mails), seed)
    return json_response({"seed": seed, "mails": mails}, 201)


@post("/sandbox/mails/raw")
async def deliver_mail(request: HttpRequest, sandbox: Sandbox) -> Response[bytes]:
    """A mail of the caller's own arrives as it is: the body of the request."""
    uid = sandbox.mailbox.deliver(await request.body())
    log.info("mail delivered: %s", uid)
    return json_response({"uid": uid}, 201)


@delete("/sandbox/mails", status_code=204, sync_to_thread=False)
def clear_mails(sandbox: Sandbox) -> None:
    sandbox.mailbox.clear()


ROUTES = (write_mails, deliver_mail, clear_mails)
