"""Calls to the Selling Partner API: hosts, headers, tokens, and its errors told apart.
Sources: "SP-API endpoints", "Connect to the SP-API", "Usage plans and rate limits".
"""

import asyncio
import platform
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from http import HTTPStatus
from itertools import takewhile
from typing import Any, TypeVar

import httpx
import msgspec
from msgspec import Struct

from shared.settings import AmazonSettings, SettingsError
from shared.vault import Vault

from .breaker import Breaker
from .credentials import AppCredentials, TenantCredentials, read_app, read_tenant
from .errors import (
    AccessDeniedError,
    AmazonNotFoundError,
    AmazonUnavailableError,
    AppCredentialsError,
    AuthorizationRevokedError,
    BadRequestError,
    NotConnectedError,
    QuotaExceededError,
)
from .gate import Bucket, Gate, Lane, Left, Operation
from .lwa import Lwa, Tokens
from .marketplaces import API_HOSTS, Region

USER_AGENT = f"KeyBuzz/0.1.0 (Language=Python/{platform.python_version()}; Platform={platform.system()})"
APP_SECONDS = 60
TENANT_SECONDS = 60
TIMEOUT = httpx.Timeout(30, connect=5)
T = TypeVar("T")


class _Error(Struct, frozen=True):
    code: str = ""
    message: str = ""
    details: str | None = None


class _Errors(Struct, frozen=True):
    errors: list[_Error] = []


class _Request(Struct, frozen=True):
    """What is sent, whoever sends it."""

    method: str
    path: str
    params: Mapping[str, str] = {}
    body: bytes | None = None


class _Kept(Struct, frozen=True):
    """A tenant's credentials, and of which connection they are."""

    credentials: TenantCredentials
    connected_at: datetime
    until: float


class SpApi:
    """Calls for a tenant, with the tenant's credentials from Vault.

    gate: what the calls pass before they go out; None for a service that calls a few times in an account's life, and
    has no right to the gate's rows: its lanes and waits count for nothing.
    """

    def __init__(self, settings: AmazonSettings, vault: Vault, http: httpx.AsyncClient, gate: Gate | None) -> None:
        self._settings = settings
        self._vault = vault
        self._http = http
        self._gate = gate
        self._breakers = {region: Breaker(region) for region in Region}
        self._lwa = Lwa(http, settings.amazon_lwa_url)
        self._app: AppCredentials | None = None
        self._app_until = 0.0
        self._reading_app = asyncio.Lock()
        self._sign = _signature() if settings.amazon_sigv4 else None
        self._tenants: dict[str, _Kept] = {}
        """What was read first comes first."""

    async def app(self, *, fresh: bool = False) -> AppCredentials:
        """Our application's credentials: asked for once a minute, or when Amazon has refused the ones we knew.
        AppCredentialsError, or what Vault raises.
        """
        async with self._reading_app:
            if self._app is None or fresh or time.monotonic() >= self._app_until:
                self._app = await read_app(self._vault, self._settings.app_path)
                self._app_until = time.monotonic() + APP_SECONDS
            return self._app

    async def exchange(self, code: str) -> Tokens:
        """As Lwa.exchange(), as our application."""
        return await self._as_app(lambda app: self._lwa.exchange(app, code))

    async def verify(self, tenant: TenantCredentials) -> None:
        """Does the authorization stand? Asks Amazon for a new token. AuthorizationRevokedError when it does not;
        AppCredentialsError or AmazonUnavailableError when nobody can say.
        """
        await self._token(tenant, fresh=True)

    async def _token(self, tenant: TenantCredentials, *, fresh: bool = False) -> str:
        return await self._as_app(lambda app: self._lwa.access_token(app, tenant.refresh_token, fresh=fresh))

    async def _as_app(self, call: Callable[[AppCredentials], Awaitable[T]]) -> T:
        """A client secret that was changed in Vault is read the moment that Amazon refuses the old one."""
        app = await self.app()
        try:
            return await call(app)
        except AppCredentialsError:
            changed = await self.app(fresh=True)
            if changed == app:
                raise
            return await call(changed)

    async def get(
        self,
        tenant_id: str,
        operation: Operation,
        path: str,
        params: Mapping[str, str],
        type_: type[T],
        *,
        lane: Lane = Lane.LIVE,
        wait_seconds: float = 0,
        connected_at: datetime | None = None,
    ) -> T:
        """Call as the tenant's seller, after a wait for the usage plan of at most wait_seconds. QuotaWaitError where
        it would be longer; NotConnectedError, AuthorizationRevokedError, AppCredentialsError, AccessDeniedError,
        QuotaExceededError, AmazonNotFoundError, BadRequestError or AmazonUnavailableError.

        connected_at: of the connection that the caller has just seen to stand. Vault is asked for its credentials once
        a minute, or when Amazon has refused the ones we knew; without it with each call.
        """
        request = _Request("GET", path, params)
        tenant = await self._tenant(tenant_id, connected_at)
        try:
            return await self._call(tenant, operation, request, type_, lane, wait_seconds)
        except AuthorizationRevokedError:
            changed = await self._tenant(tenant_id, connected_at, fresh=True)
            if changed == tenant:
                raise
            return await self._call(changed, operation, request, type_, lane, wait_seconds)

    async def get_as(
        self,
        tenant: TenantCredentials,
        operation: Operation,
        path: str,
        params: Mapping[str, str],
        type_: type[T],
        *,
        lane: Lane = Lane.LIVE,
        wait_seconds: float = 0,
    ) -> T:
        """As get(), with credentials in hand. A token that expired on the way is replaced once."""
        return await self._call(tenant, operation, _Request("GET", path, params), type_, lane, wait_seconds)

    async def post(
        self,
        tenant_id: str,
        operation: Operation,
        path: str,
        body: Struct,
        type_: type[T],
        *,
        lane: Lane = Lane.LIVE,
        wait_seconds: float = 0,
    ) -> T:
        """As get(). After an AmazonUnavailableError nobody knows whether it was done."""
        tenant = await self._tenant(tenant_id)
        request = _Request("POST", path, body=msgspec.json.encode(body))
        return await self._call(tenant, operation, request, type_, lane, wait_seconds)

    async def left(self, tenant_id: str, operation: Operation) -> Left:
        """What is left of the seller's usage plan for the operation; NotConnectedError. It needs a gate."""
        tenant = await self._tenant(tenant_id)
        if self._gate is None:
            raise TypeError("Nobody counts the calls of a service without a gate.")
        return await self._gate.left(Bucket(tenant.seller_id, tenant.region, operation))

    async def _tenant(
        self, tenant_id: str, connected_at: datetime | None = None, *, fresh: bool = False
    ) -> TenantCredentials:
        """As get() has it. What is a minute old is forgotten, whoever asks."""
        now = time.monotonic()
        for each in list(takewhile(lambda each: self._tenants[each].until <= now, self._tenants)):
            del self._tenants[each]
        known = self._tenants.get(tenant_id)
        if known is not None and known.connected_at == connected_at and now < known.until and not fresh:
            return known.credentials
        self._tenants.pop(tenant_id, None)
        tenant = await read_tenant(self._vault, tenant_id)
        if tenant.app_source not in {"", self._settings.amazon_spapi_app_source}:
            raise NotConnectedError(
                f"The seller of tenant {tenant_id} has authorized the application {tenant.app_source}, and"
                f" {self._settings.amazon_spapi_app_source} is in use: the account has to be connected again."
            )
        if connected_at is not None:
            self._tenants[tenant_id] = _Kept(tenant, connected_at, now + TENANT_SECONDS)
        return tenant

    async def _call(
        self,
        tenant: TenantCredentials,
        operation: Operation,
        request: _Request,
        type_: type[T],
        lane: Lane,
        wait_seconds: float,
    ) -> T:
        bucket = Bucket(tenant.seller_id, tenant.region, operation)
        token = await self._token(tenant)
        answer = await self._send(bucket, request, token, lane, wait_seconds)
        if _told_expired(answer):
            self._lwa.forget(token)
            token = await self._token(tenant)
            answer = await self._send(bucket, request, token, lane, wait_seconds)
        if not answer.is_success:
            raise _error_of(operation, answer)
        try:
            return decode(answer.content, type_)
        except msgspec.MsgspecError as error:
            raise BadRequestError(f"{_told(operation, answer)}, which is not as the model says: {error}.") from error

    async def _send(
        self, bucket: Bucket, request: _Request, token: str, lane: Lane, wait_seconds: float
    ) -> httpx.Response:
        region = Region(bucket.region)
        base = self._settings.amazon_spapi_url or API_HOSTS[region]
        headers = {"x-amz-access-token": token, "user-agent": USER_AGENT}
        if request.body is not None:
            headers["content-type"] = "application/json"
        auth = self._sign(await self.app(), region) if self._sign else None
        breaker = self._breakers[region]
        if self._gate is not None:
            breaker.check()  # before a call is taken; whoever waits for one must not be the probe meanwhile
            await self._gate.take(bucket, lane, wait_seconds)
        with breaker.watch():
            try:
                answer = await self._http.request(
                    request.method,
                    f"{base.rstrip('/')}{request.path}",
                    params=request.params,
                    content=request.body,
                    headers=headers,
                    auth=auth,
                )
            except httpx.HTTPError as error:
                breaker.failed()
                raise AmazonUnavailableError(
                    f"Amazon did not answer {bucket.operation.name} ({type(error).__name__})."
                ) from error
            if answer.is_server_error:
                breaker.failed()
            else:
                breaker.succeeded()
        if self._gate is not None:
            await self._gate.heed(bucket, answer)
        return answer


def _signature() -> Callable[[AppCredentials, Region], httpx.Auth]:
    """SettingsError where the extra is not installed."""
    try:
        from .signing import Signature  # noqa: PLC0415 - what it needs is an extra
    except ImportError as error:
        raise SettingsError(
            "AMAZON_SIGV4 needs botocore: install requirements/sigv4.txt, or turn it off: Amazon needs no signatures."
        ) from error
    return Signature


def decode(content: bytes, type_: type[T]) -> T:
    """An answer as its struct; a NUL in a text, which PostgreSQL cannot hold, is left out. msgspec.MsgspecError."""
    if b"\\u0000" not in content:
        return msgspec.json.decode(content, type=type_)
    return msgspec.convert(_without_nul(msgspec.json.decode(content)), type_)


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, list):
        return [_without_nul(each) for each in value]
    if isinstance(value, dict):
        return {_without_nul(key): _without_nul(each) for key, each in value.items()}
    return value


def _errors(answer: httpx.Response) -> list[_Error]:
    try:
        return msgspec.json.decode(answer.content, type=_Errors).errors
    except msgspec.MsgspecError:
        return []


def _told_expired(answer: httpx.Response) -> bool:
    return answer.status_code == HTTPStatus.FORBIDDEN and any(
        "expired" in (error.details or "") for error in _errors(answer)
    )


def _told(operation: Operation, answer: httpx.Response) -> str:
    request_id = answer.headers.get("x-amzn-RequestId", "none")
    return f"Amazon answered {operation.name} with {answer.status_code} (request id {request_id})"


def _error_of(operation: Operation, answer: httpx.Response) -> Exception:
    errors = _errors(answer)
    told = f"{_told(operation, answer)}: {errors[0].code} {errors[0].message}" if errors else _told(operation, answer)
    status = answer.status_code
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return QuotaExceededError(f"{told}.", delay_seconds=1 / operation.rate)
    if status == HTTPStatus.FORBIDDEN:
        if any("revoked" in (error.details or "") for error in errors):
            return AuthorizationRevokedError(f"{told}: the seller has to connect the account again.")
        return AccessDeniedError(f"{told}: the application lacks a role for it.")
    if status == HTTPStatus.NOT_FOUND:
        return AmazonNotFoundError(f"{told}.")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return AmazonUnavailableError(f"{told}: try again later.")
    return BadRequestError(f"{told}.")
