"""Login with Amazon: a code becomes a refresh token, a refresh token becomes access tokens.
Source: the SP-API guide "Authorize applications", and LWA's error codes.
"""

import asyncio
import hashlib
import time

import httpx
import msgspec
from msgspec import Struct

from .credentials import AppCredentials
from .errors import AmazonUnavailableError, AppCredentialsError, AuthorizationRevokedError, CodeRejectedError

CACHE_SHARE = 11 / 12
"""Of a token's life, 3,300 of its 3,600 s; the rest is room for the call that carries it."""
CACHED_AT_MOST = 50_000


class Tokens(Struct, frozen=True):
    access_token: str
    expires_in: int
    refresh_token: str | None = None

    def __repr__(self) -> str:
        return "Tokens(hidden)"


class _Refusal(Struct, frozen=True):
    error: str = "unknown"
    error_description: str = ""


class Lwa:
    """The token endpoint. Access tokens are kept for their life and asked for once, however many wait."""

    def __init__(self, http: httpx.AsyncClient, base_url: str) -> None:
        self._http = http
        self._url = f"{base_url.rstrip('/')}/auth/o2/token"
        self._tokens: dict[bytes, tuple[float, str]] = {}
        self._locks: dict[bytes, asyncio.Lock] = {}

    async def exchange(self, app: AppCredentials, code: str) -> Tokens:
        """Within five minutes of the consent, once.
        CodeRejectedError, AppCredentialsError or AmazonUnavailableError.
        """
        tokens = await self._post(
            app, {"grant_type": "authorization_code", "code": code, "redirect_uri": app.redirect_uri}
        )
        if not tokens.refresh_token:
            raise CodeRejectedError("Amazon took the code and answered without a refresh token: start again.")
        self._keep(_key(app, tokens.refresh_token), tokens)
        return tokens

    async def access_token(self, app: AppCredentials, refresh_token: str, *, fresh: bool = False) -> str:
        """A usable access token, from the cache where there is one; a fresh one proves that the authorization stands.
        AuthorizationRevokedError, AppCredentialsError or AmazonUnavailableError.
        """
        key = _key(app, refresh_token)
        async with self._locks.setdefault(key, asyncio.Lock()):
            until, token = self._tokens.get(key, (0.0, ""))
            if time.monotonic() < until and not fresh:
                return token
            try:
                tokens = await self._post(app, {"grant_type": "refresh_token", "refresh_token": refresh_token})
            except AuthorizationRevokedError:
                self._tokens.pop(key, None)
                raise
            self._keep(key, tokens)
            return tokens.access_token

    def _keep(self, key: bytes, tokens: Tokens) -> None:
        now = time.monotonic()
        self._tokens[key] = (now + tokens.expires_in * CACHE_SHARE, tokens.access_token)
        if len(self._tokens) > CACHED_AT_MOST:
            self._tokens = {each: kept for each, kept in self._tokens.items() if kept[0] > now}
            self._locks = {each: lock for each, lock in self._locks.items() if each in self._tokens or lock.locked()}

    def forget(self, access_token: str) -> None:
        """Amazon says that this token has expired: ask for another one the next time."""
        for key, (_, token) in list(self._tokens.items()):
            if token == access_token:
                del self._tokens[key]

    async def _post(self, app: AppCredentials, form: dict[str, str]) -> Tokens:
        try:
            answer = await self._http.post(
                self._url, data=form | {"client_id": app.client_id, "client_secret": app.client_secret}
            )
        except httpx.HTTPError as error:
            raise AmazonUnavailableError(f"Login with Amazon did not answer ({type(error).__name__}).") from error
        try:
            if answer.is_success:
                return msgspec.json.decode(answer.content, type=Tokens)
            refusal = msgspec.json.decode(answer.content, type=_Refusal)
        except msgspec.MsgspecError as error:
            raise AmazonUnavailableError(f"{_told(answer)} with something that is no token.") from error
        raise _error_of(f"{_told(answer)}: {refusal.error}", refusal.error, form["grant_type"])


def _key(app: AppCredentials, refresh_token: str) -> bytes:
    return hashlib.sha256(f"{app.client_id} {refresh_token}".encode()).digest()


def _told(answer: httpx.Response) -> str:
    request_id = answer.headers.get("x-amzn-RequestId", "none")
    return f"Login with Amazon answered {answer.status_code} (request id {request_id})"


def _error_of(told: str, error: str, grant_type: str) -> Exception:
    """What an error means depends on what was asked: of a refresh, only invalid_grant speaks of the seller."""
    refreshing = grant_type == "refresh_token"
    match error:
        case "invalid_grant" if refreshing:
            return AuthorizationRevokedError(
                f"{told}: the seller has withdrawn the authorization, or it has run out. Connect the account again."
            )
        case "invalid_grant" | "invalid_request" | "access_denied" if not refreshing:
            return CodeRejectedError(f"{told}: the authorization code is used, too old or not ours. Start again.")
        case "invalid_client":
            return AppCredentialsError(f"{told}: the application's client_id or client_secret is wrong or has expired.")
        case "unauthorized_client":
            return AppCredentialsError(
                f"{told}: the authorization is for another application than the one whose credentials Vault holds."
            )
        case "invalid_request" | "access_denied" | "invalid_scope" | "unsupported_grant_type":
            return AppCredentialsError(
                f"{told}: check the application's credentials in Vault, and the application at Amazon."
            )
    return AmazonUnavailableError(f"{told}: try again later.")
