"""What all routes share: the request's type, and JSON answers."""

from collections.abc import Mapping

import msgspec
from litestar import Request
from litestar.datastructures import State
from litestar.response import Response

HttpRequest = Request[None, None, State]


def json_response(content: object, status_code: int = 200, headers: Mapping[str, str] | None = None) -> Response[bytes]:
    return Response(
        msgspec.json.encode(content), status_code=status_code, media_type="application/json", headers=headers
    )
