"""Failures on request: the next answers of an operation, for one seller or for all."""

from collections.abc import MutableSequence
from typing import Annotated, Literal, get_args

import msgspec

LOGIN = "token"
"""Login with Amazon, among the operations."""

LwaErrorCode = Literal[
    "access_denied",
    "invalid_client",
    "invalid_grant",
    "invalid_request",
    "invalid_scope",
    "server_error",
    "temporarily_unavailable",
    "unauthorized_client",
    "unsupported_grant_type",
]
"""LwaExceptionErrorCode of Amazon's client libraries, and the one of RFC 6749 that they leave out."""
Oddity = Literal["not_json", "no_refresh_token", "cut"]
Status = Literal[200, 429, 500, 503, "timeout"] | LwaErrorCode | Oddity


class Fault(msgspec.Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """`200` answers as always, only later. `not_json` is a page with status 200; `no_refresh_token` a success that
    lacks it; `cut` a connection that ends without an answer. These three and the names of errors are of `token`
    alone. But for 200 and `no_refresh_token`, nothing is done: a code stays good.
    """

    operation: str
    """An operation of the Selling Partner API, or `token` for Login with Amazon."""
    status: Status
    seller_id: str | None = None
    times: Annotated[int, msgspec.Meta(ge=1)] = 1
    delay_seconds: Annotated[float, msgspec.Meta(ge=0)] | None = None
    """Wait before the answer, in real seconds; a timeout waits a minute unless told otherwise. The work of a success
    is done before the wait: a caller who goes away has lost the answer.
    """

    def __post_init__(self) -> None:
        if self.operation != LOGIN and self.status in (*get_args(LwaErrorCode), *get_args(Oddity)):
            raise ValueError(f"only {LOGIN} answers {self.status}")
        if self.status == 200 and not self.delay_seconds:  # noqa: PLR2004
            raise ValueError("status 200 needs delaySeconds")

    @property
    def code(self) -> int:
        """The status at last, for a caller who waits longer than a timeout takes."""
        return self.status if isinstance(self.status, int) else 503


def draw(faults: MutableSequence[Fault], operation: str, seller_id: str) -> Fault | None:
    """Take the first fault that applies; it is gone once it was drawn as often as it said."""
    for fault in faults:
        if fault.operation == operation and fault.seller_id in (None, seller_id):
            fault.times -= 1
            if fault.times == 0:
                faults.remove(fault)
            return fault
    return None


def seconds(fault: Fault | None) -> float:
    if fault is None:
        return 0.0
    if fault.delay_seconds is not None:
        return fault.delay_seconds
    return 60.0 if fault.status == "timeout" else 0.0
