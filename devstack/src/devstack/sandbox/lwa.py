"""Login with Amazon: the token endpoint, its errors, and the access tokens that it signs.

Bodies and errors as in the SP-API developer guide and Amazon's client libraries (LwaExceptionErrorCode).
"""

import asyncio
import secrets
from collections.abc import Mapping
from urllib.parse import parse_qsl

import msgspec
from litestar import post
from litestar.response import Response

from . import faults
from .faults import Status
from .http import HttpRequest, hang_up, json_response, request_id
from .settings import Application
from .signing import SignatureError, seal, unseal
from .state import Grant, Sandbox, digest

TOKEN_SECONDS = 3600
SCOPES = ("sellingpartnerapi::notifications", "sellingpartnerapi::client_credential:rotation")
_UNAVAILABLE = "temporarily_unavailable"
_TOLD = {
    429: (_UNAVAILABLE, 429),
    500: ("server_error", 500),
    503: (_UNAVAILABLE, 503),
    "timeout": (_UNAVAILABLE, 503),
    "cut": (_UNAVAILABLE, 503),
    "invalid_client": ("invalid_client", 401),
    "server_error": ("server_error", 500),
    "temporarily_unavailable": (_UNAVAILABLE, 503),
}
"""What a fault answers; errors that are not here are 400 (RFC 6749, section 5.2)."""
_PAGE = b"<!doctype html><title>Amazon Sign-In</title>"
_HEADERS = {"cache-control": "no-store", "pragma": "no-cache"}
_NO_REFRESH = (
    "The request has an invalid grant parameter : refresh_token. User may have revoked or didn't grant the permission."
)


class LwaError(Exception):
    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(description)
        self.error, self.description, self.status = error, description, status


class AccessToken(msgspec.Struct, frozen=True):
    """What an access token says; `grant` is empty for one without a seller (client_credentials)."""

    expires_at: float
    grant: str = ""
    seller_id: str = ""
    nonce: str = ""
    """No two tokens are the same."""


@post("/auth/o2/token")
async def token(request: HttpRequest, sandbox: Sandbox) -> Response[bytes]:
    form = dict(parse_qsl((await request.body()).decode(errors="replace"), keep_blank_values=True))
    seller_id = _seller(sandbox, form)
    fault = faults.draw(sandbox.faults, faults.LOGIN, seller_id)
    status = fault.status if fault is not None else 200
    code, body = _respond(sandbox, form, status)
    # Before the wait: the caller may not stay.
    sandbox.count(faults.LOGIN, seller_id, status if status in {"cut", "timeout"} else code)
    await asyncio.sleep(faults.seconds(fault))
    if status == "cut":
        hang_up(request)
    headers = _HEADERS | request_id()
    if status == "not_json":
        return Response(_PAGE, status_code=code, media_type="text/html", headers=headers)
    return json_response(body, code, headers)


def _respond(sandbox: Sandbox, form: Mapping[str, str], status: Status) -> tuple[int, dict[str, object]]:
    """HTTP status and body of what the status asks for; 200 is the true answer."""
    if status == "not_json":
        return 200, {}
    try:
        if status not in {200, "no_refresh_token"}:
            raise _told(status)
        body = _answer(sandbox, form)
    except LwaError as error:
        return error.status, {"error": error.error, "error_description": error.description}
    if status == "no_refresh_token":
        body.pop("refresh_token", None)
    return 200, body


def _told(status: Status) -> LwaError:
    error, code = _TOLD.get(status, (str(status), 400))
    return LwaError(error, "The sandbox was told to fail.", code)


def read_access_token(sandbox: Sandbox, text: str) -> AccessToken | None:
    """None for what was not issued here or has been revoked; expiry is the caller's to judge."""
    try:
        content = unseal(sandbox.kept.key, "access", text.removeprefix("Atza|"), AccessToken)
    except SignatureError:
        return None
    return content if not content.grant or content.grant in sandbox.kept.grants else None


def _answer(sandbox: Sandbox, form: Mapping[str, str]) -> dict[str, object]:
    grant_type = _required(form, "grant_type")
    if grant_type not in {"authorization_code", "refresh_token", "client_credentials"}:
        raise LwaError("unsupported_grant_type", "The authorization grant type is not supported.")
    application = _authenticate(sandbox, _required(form, "client_id"), _required(form, "client_secret"))
    if grant_type == "authorization_code":
        return _exchange(sandbox, application, _required(form, "code"), _required(form, "redirect_uri"))
    if grant_type == "refresh_token":
        return _refresh(sandbox, application, _required(form, "refresh_token"))
    scope = _required(form, "scope")
    if not set(scope.split()) <= set(SCOPES):
        raise LwaError("invalid_scope", f"An unknown scope was requested: only {' and '.join(SCOPES)} exist.")
    return _tokens(sandbox, scope=scope)


def _exchange(sandbox: Sandbox, application: Application, code: str, redirect_uri: str) -> dict[str, object]:
    kept = sandbox.kept.codes.get(digest(code))
    if kept is None or kept.client_id != application.client_id or kept.expires_at <= sandbox.clock.seconds():
        raise LwaError("invalid_grant", "The request has an invalid grant parameter : code")
    if kept.redirect_uri != redirect_uri:
        raise LwaError("invalid_grant", "The request has an invalid grant parameter : redirect_uri")
    del sandbox.kept.codes[digest(code)]
    refresh_token = "Atzr|" + secrets.token_urlsafe(96)
    sandbox.kept.grants[digest(refresh_token)] = Grant(kept.seller_id, kept.client_id)
    sandbox.save()
    return _tokens(sandbox, refresh_token=refresh_token)


def _refresh(sandbox: Sandbox, application: Application, refresh_token: str) -> dict[str, object]:
    grant = sandbox.kept.grants.get(digest(refresh_token))
    if grant is None:
        raise LwaError("invalid_grant", _NO_REFRESH)
    if grant.client_id != application.client_id:
        raise LwaError("unauthorized_client", "Not authorized for requested operation")
    return _tokens(sandbox, refresh_token=refresh_token)


def _tokens(sandbox: Sandbox, *, refresh_token: str = "", scope: str = "") -> dict[str, object]:
    grant = digest(refresh_token) if refresh_token else ""
    content = AccessToken(
        expires_at=sandbox.clock.seconds() + TOKEN_SECONDS,
        grant=grant,
        seller_id=sandbox.kept.grants[grant].seller_id if grant else "",
        nonce=secrets.token_urlsafe(9),
    )
    answer: dict[str, object] = {
        "access_token": "Atza|" + seal(sandbox.kept.key, "access", content),
        "token_type": "bearer",
        "expires_in": TOKEN_SECONDS,
    }
    if refresh_token:
        answer["refresh_token"] = refresh_token
    if scope:
        answer["scope"] = scope
    return answer


def _authenticate(sandbox: Sandbox, client_id: str, client_secret: str) -> Application:
    for application in sandbox.settings.applications:
        if application.client_id == client_id and sandbox.is_secret(application, client_secret):
            return application
    raise LwaError("invalid_client", "Client authentication failed", 401)


def _required(form: Mapping[str, str], name: str) -> str:
    value = form.get(name, "")
    if not value:
        raise LwaError("invalid_request", f"The request is missing a required parameter : {name}")
    return value


def _seller(sandbox: Sandbox, form: Mapping[str, str]) -> str:
    """Whose token this is about, as far as one can tell."""
    code = sandbox.kept.codes.get(digest(form.get("code", "")))
    grant = sandbox.kept.grants.get(digest(form.get("refresh_token", "")))
    known = code or grant
    return known.seller_id if known is not None else "-"
