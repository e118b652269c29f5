"""The two kinds of error that have a name; everything else is a bug or an outage and rises."""

from typing import ClassVar


class PermanentError(Exception):
    """Trying again will not cure it: a 4xx answer over HTTP, the dead letters for an event.
    The message is one full sentence that says what happened and what to do.
    """

    code: ClassVar[str] = "invalid"
    status: ClassVar[int] = 400

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class NotFoundError(PermanentError):
    """It is not there, or it belongs to another tenant: the caller cannot tell which."""

    code = "not_found"
    status = 404


class UnauthorizedError(PermanentError):
    """No valid credentials came with the request."""

    code = "unauthorized"
    status = 401


class RetryLaterError(Exception):
    """Trying again later may cure it: 503 with Retry-After over HTTP, a redelivery for an event."""

    code: ClassVar[str] = "try_again_later"
    status: ClassVar[int] = 503
    patient: ClassVar[bool] = False
    """True where the cause is no event's fault: events wait for its end, however many deliveries it takes."""

    def __init__(self, message: str, *, delay_seconds: float | None = None) -> None:
        super().__init__(message)
        self.delay_seconds = delay_seconds
        """When to come back, where the cause says so."""


class UnavailableError(RetryLaterError):
    """A server that we need is away."""

    code = "unavailable"
    patient = True
