"""What all routes share: the request's type, JSON answers, and an end without one."""

import asyncio
import secrets
from collections.abc import Mapping

import msgspec
from litestar import Request
from litestar.datastructures import State
from litestar.response import Response
from uvicorn.protocols.http.h11_impl import H11Protocol

HttpRequest = Request[None, None, State]


def json_response(content: object, status_code: int = 200, headers: Mapping[str, str] | None = None) -> Response[bytes]:
    return Response(
        msgspec.json.encode(content), status_code=status_code, media_type="application/json", headers=headers
    )


def request_id() -> dict[str, str]:
    """The header by which Amazon finds a call again."""
    return {"x-amzn-RequestId": secrets.token_hex(16)}


class Connection(H11Protocol):
    """A connection that its requests can reach."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


def hang_up(request: HttpRequest) -> None:
    """End the connection; the answer that follows reaches nobody."""
    transport: asyncio.Transport = request.scope["state"]["transport"]
    transport.abort()
