"""Failures on request: the next answers of an operation, for one seller or for all."""

from collections.abc import MutableSequence
from typing import Annotated, Literal

import msgspec


class Fault(msgspec.Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    operation: str
    """An operation of the Selling Partner API, or `token` for Login with Amazon."""
    status: Literal[429, 500, 503, "timeout"]
    seller_id: str | None = None
    times: Annotated[int, msgspec.Meta(ge=1)] = 1
    delay_seconds: Annotated[float, msgspec.Meta(ge=0)] | None = None
    """Wait before the answer, in real seconds; a timeout waits a minute unless told otherwise."""

    @property
    def code(self) -> Literal[429, 500, 503]:
        """The status at last, for a caller who waits longer than a timeout takes."""
        return 503 if self.status == "timeout" else self.status


def draw(faults: MutableSequence[Fault], operation: str, seller_id: str) -> Fault | None:
    """Take the first fault that applies; it is gone once it was drawn as often as it said."""
    for fault in faults:
        if fault.operation == operation and fault.seller_id in (None, seller_id):
            fault.times -= 1
            if fault.times == 0:
                faults.remove(fault)
            return fault
    return None


def seconds(fault: Fault) -> float:
    if fault.delay_seconds is not None:
        return fault.delay_seconds
    return 60.0 if fault.status == "timeout" else 0.0
