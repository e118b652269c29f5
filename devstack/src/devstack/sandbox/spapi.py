"""What stands before every operation of the Selling Partner API: token, quota, faults, headers, counts.

`x-amzn-RateLimit-Limit` is in calls per real second: the plan's rate times the clock's speed (at speed 0, the plan's
rate). So a client that follows it keeps to the plan under a fast clock too.
"""

import asyncio
import secrets
from collections.abc import Callable

from litestar.response import Response

from . import faults
from .faults import Fault
from .http import HttpRequest, json_response
from .lwa import read_access_token
from .quota import Plan
from .state import Sandbox, Seller

_EXPIRED = "The access token you provided has expired."
_REVOKED = "The access token you provided is revoked, malformed or invalid."
_PAGE_TOKENS = ("paginationToken", "NextToken", "nextToken")
_FAILURES = {
    429: ("QuotaExceeded", "You exceeded your quota for the requested resource."),
    500: ("InternalFailure", "We encountered an internal error. Please try again."),
    503: ("ServiceUnavailable", "Service is temporarily unavailable. Please try again."),
}


class ApiError(Exception):
    """An answer other than success, in the models' ErrorList."""

    def __init__(self, status: int, code: str, message: str, details: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.details = status, code, message, details

    def body(self) -> object:
        return {"errors": [{"code": self.code, "message": self.message, "details": self.details}]}


def invalid_input(parameter: str, sentence: str) -> ApiError:
    """The message is the models' own; the details name the parameter."""
    return ApiError(400, "InvalidInput", "Invalid Input", f"{parameter}: {sentence}")


def not_found(sentence: str) -> ApiError:
    return ApiError(404, "NotFound", "The resource specified does not exist.", sentence)


async def answer(
    request: HttpRequest, sandbox: Sandbox, plan: Plan, operation: Callable[[Seller], object], success: int = 200
) -> Response[bytes]:
    """The operation's answer for the seller whose token it is; without a body when the operation has none to give."""
    caller = _authorize(sandbox, request.headers.get("x-amz-access-token", ""))
    if isinstance(caller, ApiError):
        sandbox.count(plan.operation, "-", caller.status)
        return _response(sandbox, plan, caller, caller.status)
    seller, client_id = caller
    seller_id = seller.seller_id
    page_token = next((name for name in _PAGE_TOKENS if name in request.query_params), None)
    others = (*faults.OUTCOMES, *faults.DOCUMENT_ODDITIES, *(() if page_token else ("pagination_token_expired",)))
    fault = faults.draw(sandbox.faults, plan.operation, seller_id, but=others)
    if fault is not None and fault.status != 200:  # noqa: PLR2004
        sandbox.count(plan.operation, seller_id, fault.status)  # before the wait: the caller may not stay
        await asyncio.sleep(faults.seconds(fault))
        failure = _failure(fault, page_token or "")
        return _response(sandbox, plan, failure, failure.status)
    allowed = sandbox.buckets.take(plan, client_id, seller_id, sandbox.clock.seconds())
    outcome = _outcome(operation, seller) if allowed else ApiError(429, *_FAILURES[429])
    status = outcome.status if isinstance(outcome, ApiError) else success
    sandbox.count(plan.operation, seller_id, status)
    await asyncio.sleep(faults.seconds(fault))
    return _response(sandbox, plan, outcome, status)


def _failure(fault: Fault, page_token: str) -> ApiError:
    if fault.status == "pagination_token_expired":
        return invalid_input(page_token, "has expired.")
    details = {"access_token_expired": _EXPIRED, "access_token_revoked": _REVOKED, "role_missing": ""}
    if fault.status in details:
        return _unauthorized(details[str(fault.status)])
    return ApiError(fault.code, *_FAILURES[fault.code])


def _outcome(operation: Callable[[Seller], object], seller: Seller) -> object:
    try:
        return operation(seller)
    except ApiError as error:
        return error


def _response(sandbox: Sandbox, plan: Plan, outcome: object, status: int) -> Response[bytes]:
    headers = request_id()
    if status in {200, 202, 400, 404}:  # "best effort": not with a 403, and never with a 429
        headers["x-amzn-RateLimit-Limit"] = f"{plan.rate * (sandbox.clock.speed or 1):.6g}"
    if outcome is None:
        return Response(b"", status_code=status, media_type="application/json", headers=headers)
    return json_response(outcome.body() if isinstance(outcome, ApiError) else outcome, status, headers)


def request_id() -> dict[str, str]:
    return {"x-amzn-RequestId": secrets.token_hex(16)}


def _authorize(sandbox: Sandbox, token: str) -> tuple[Seller, str] | ApiError:
    """The seller, and the client id of the application that calls for it."""
    if not token:
        return _unauthorized("Access token is missing in the request header.")
    content = read_access_token(sandbox, token)
    seller = sandbox.seller(content.seller_id) if content is not None else None
    if content is None or seller is None:
        return _unauthorized(_REVOKED)
    if content.expires_at <= sandbox.clock.seconds():
        return _unauthorized(_EXPIRED)
    return seller, sandbox.kept.grants[content.grant].client_id


def _unauthorized(details: str) -> ApiError:
    return ApiError(403, "Unauthorized", "Access to requested resource is denied.", details)
