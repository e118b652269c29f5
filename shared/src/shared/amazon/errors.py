"""What Amazon can answer, told apart by what has to happen next."""

from shared.errors import NotFoundError, PermanentError, RetryLaterError, UnavailableError


class AuthorizationRevokedError(PermanentError):
    """The seller withdrew the authorization or it ran out: the seller has to connect again."""

    code = "authorization_revoked"


class CodeRejectedError(PermanentError):
    """The authorization code is used, too old (5 minutes) or not ours: the seller has to start again."""

    code = "authorization_code_rejected"


class AppCredentialsError(RetryLaterError):
    """Amazon refuses our application, or its credentials are missing: an operator has to act, no tenant is at fault."""

    code = "app_credentials_rejected"
    patient = True


class NotConnectedError(PermanentError):
    """The tenant has no credentials: nobody has connected an account, or they were deleted."""

    code = "not_connected"
    status = 409


CREDENTIALS_REFUSED = (AuthorizationRevokedError, NotConnectedError)
"""What oauth is told of with connection.rejected."""


class AccessDeniedError(PermanentError):
    """The application lacks a role that the operation needs, or the seller did not grant it."""

    code = "access_denied"
    status = 403


class QuotaExceededError(RetryLaterError):
    """The usage plan is used up; delay_seconds is when one call more fits into it."""

    code = "quota_exceeded"
    status = 429
    patient = True


class QuotaWaitError(RetryLaterError):
    """The usage plan is used up, and the caller does not wait that long: Amazon was not asked. delay_seconds is when
    the next call can go.
    """

    code = "quota_wait"
    status = 429
    patient = True


class BadRequestError(PermanentError):
    """Amazon refuses the request as such."""

    code = "amazon_bad_request"
    status = 502


class AmazonNotFoundError(NotFoundError):
    """Amazon does not have it, or not for this seller."""

    code = "amazon_not_found"


class AmazonUnavailableError(UnavailableError):
    """Amazon failed or did not answer in time."""

    code = "amazon_unavailable"
