"""Failures on request: the next answers of an operation or a share of them, for one seller or for all."""

import secrets
from collections.abc import Collection, MutableSequence
from typing import Annotated, Literal, get_args

import msgspec

LOGIN = "token"
"""Login with Amazon, among the operations."""
DOWNLOAD = "download"
"""A report's document, at the address that getReportDocument tells."""

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
Refusal = Literal["access_token_expired", "access_token_revoked", "role_missing", "pagination_token_expired"]
Outcome = Literal["FATAL", "CANCELLED", "error_text"]
DocumentOddity = Literal["url_expired", "cut", "wrong_gzip"]
Status = Literal[200, 429, 500, 503, "timeout"] | LwaErrorCode | Oddity | Refusal | Outcome | DocumentOddity

OUTCOMES: tuple[Status, ...] = get_args(Outcome)
DOCUMENT_ODDITIES: tuple[Status, ...] = get_args(DocumentOddity)
_COMMON: tuple[Status, ...] = (200, 429, 500, 503, "timeout")
_REFUSALS: tuple[Status, ...] = get_args(Refusal)
ANSWERS: tuple[Status, ...] = (*_COMMON, *_REFUSALS)
"""What stands in place of an operation's own answer, or delays it."""
_ALONE: dict[str, tuple[Status, ...]] = {
    LOGIN: (*_COMMON, *get_args(LwaErrorCode), *get_args(Oddity)),
    DOWNLOAD: (200, 500, 503, "timeout"),
    "createReport": (*ANSWERS, *OUTCOMES),
    "getReportDocument": (*ANSWERS, *DOCUMENT_ODDITIES),
}
"""What an operation can be told to answer, where that is not what all of the Selling Partner API can."""


class Fault(msgspec.Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """`200` answers as always, only later. Of `token` alone: the names of errors; `not_json`, a page with status 200;
    `no_refresh_token`, a success that lacks it; `cut`, a connection that ends without an answer. But for 200 and
    `no_refresh_token`, nothing is done: a code stays good.

    Of the Selling Partner API: an access token that has expired or is revoked, a role that the application lacks (403
    that says no more), and a pagination token that has expired, which waits for a call that brings one. createReport
    can be told what becomes of the report: `FATAL`, `CANCELLED`, or `error_text`, a document that holds a sentence.
    getReportDocument can be told what the document's address gives: `url_expired`, `cut` in the middle, `wrong_gzip`.
    """

    operation: str
    """An operation of the Selling Partner API, `token` for Login with Amazon, or `download` for report documents."""
    status: Status
    seller_id: str | None = None
    times: Annotated[int, msgspec.Meta(ge=1)] = 1
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    """Of the calls, by chance, until it is called off; `times` is of no meaning then."""
    delay_seconds: Annotated[float, msgspec.Meta(ge=0)] | None = None
    """Wait before the answer, in real seconds; a timeout waits a minute unless told otherwise. The work of a success
    is done before the wait: a caller who goes away has lost the answer.
    """

    def __post_init__(self) -> None:
        if self.status not in _ALONE.get(self.operation, ANSWERS):
            raise ValueError(f"{self.operation} never answers {self.status}")
        if self.delay_seconds and self.status in (*OUTCOMES, *DOCUMENT_ODDITIES) and self.operation != LOGIN:
            raise ValueError(f"{self.status} comes without delaySeconds")
        if self.status == 200 and not self.delay_seconds:  # noqa: PLR2004
            raise ValueError("status 200 needs delaySeconds")

    @property
    def code(self) -> int:
        """The status at last, for a caller who waits longer than a timeout takes."""
        return self.status if isinstance(self.status, int) else 503


def draw(
    faults: MutableSequence[Fault], operation: str, seller_id: str, *, but: Collection[Status] = ()
) -> Fault | None:
    """Take the first fault that applies; it is gone once it was drawn as often as it said."""
    for fault in faults:
        if fault.operation != operation or fault.seller_id not in (None, seller_id) or fault.status in but:
            continue
        if fault.share is not None:
            if secrets.randbelow(1_000_000) < fault.share * 1_000_000:
                return fault
            continue
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
