"""What is wrong with a request, in the same words over HTTP and over NATS."""

import math
from collections.abc import Sequence
from http import HTTPStatus

from msgspec import Struct

from .errors import PermanentError, RetryLaterError


class FieldProblem(Struct, frozen=True):
    """One field of a request that is wrong, and why."""

    field: str
    message: str


class Problem(Struct, frozen=True, omit_defaults=True):
    """RFC 9457 problem details; code is for programs, detail for people."""

    title: str
    status: int
    detail: str
    code: str
    type: str = "about:blank"
    errors: list[FieldProblem] = []


def problem(status: int, code: str, detail: str, errors: Sequence[FieldProblem] = ()) -> Problem:
    return Problem(HTTPStatus(status).phrase, status, detail, code, errors=list(errors))


def of_error(error: PermanentError | RetryLaterError) -> Problem:
    field = error.field if isinstance(error, PermanentError) else None
    return problem(error.status, error.code, str(error), [FieldProblem(field, str(error))] if field else [])


def of_fields(found: Sequence[FieldProblem]) -> Problem:
    detail = "; ".join(f"{each.field}: {each.message}" for each in found)
    return problem(400, "invalid_request", f"The request is not as it should be: {detail}.", found)


def of_json(detail: str) -> Problem:
    return problem(400, "invalid_json", f"The body is not valid JSON: {detail}.", [FieldProblem("body", detail)])


def of_bug() -> Problem:
    detail = "Something went wrong here; it is logged. Try again, and tell us if it stays so."
    return problem(500, "internal_error", detail)


def retry_after(error: RetryLaterError) -> dict[str, str]:
    """The header that says in how many seconds to come back."""
    return {"Retry-After": str(max(1, math.ceil(error.delay_seconds or 5)))}
