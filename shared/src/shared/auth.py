"""Who calls: the product's signed token, or the product's server with the internal key."""

import secrets
import time
from functools import lru_cache
from typing import Any

import jwt
import msgspec
from litestar.connection import ASGIConnection, Request
from litestar.datastructures import State
from litestar.middleware import AbstractAuthenticationMiddleware, AuthenticationResult
from litestar.types import ASGIApp
from msgspec import Struct

from .errors import NotFoundError, PermanentError, UnauthorizedError
from .events import TenantId
from .settings import Settings

ADMIN = "admin"
INTERNAL = "internal"


class Caller(Struct, frozen=True):
    """Whoever sent the request. Without a tenant of its own it may choose one."""

    role: str
    tenant_id: str | None = None
    user: str | None = None
    by_key: bool = False
    """By the internal key, or where dev mode waives it; whatever role a token claims, it is not."""

    @property
    def chooses_tenant(self) -> bool:
        return self.by_key or self.role == ADMIN


class Keys(Struct, frozen=True):
    """What opens a service. Without a JWT secret it takes the internal key only."""

    internal_key: str
    jwt_secret: str | None
    dev_mode: bool
    previous_internal_key: str | None = None

    @classmethod
    def of(cls, settings: Settings) -> "Keys":
        secret, previous = settings.jwt_secret, settings.keybuzz_internal_key_previous
        return cls(
            settings.keybuzz_internal_key.reveal(),
            secret.reveal() if secret else None,
            settings.keybuzz_dev_mode,
            previous.reveal() if previous else None,
        )

    def caller(self, authorization: str | None, internal_key: str | None) -> Caller:
        """UnauthorizedError says what is wrong with the credentials, never what they were."""
        if internal_key is not None:
            if self._is_internal(internal_key):
                return Caller(INTERNAL, by_key=True)
            raise UnauthorizedError("The X-Internal-Key is not the one that this service knows.")
        if authorization is not None and self.jwt_secret is not None:
            return self._bearer(authorization, self.jwt_secret)
        if self.dev_mode:
            return Caller(INTERNAL, by_key=True)
        wanted = "an X-Internal-Key" if self.jwt_secret is None else "Authorization: Bearer <token>"
        raise UnauthorizedError(f"The request has no credentials: send {wanted}.")

    def _is_internal(self, given: str) -> bool:
        """Compares with both keys, always: the time that it takes tells neither which one it is nor whether there are
        two.
        """
        current = secrets.compare_digest(given.encode(), self.internal_key.encode())
        previous = secrets.compare_digest(given.encode(), (self.previous_internal_key or self.internal_key).encode())
        return current or previous

    def _bearer(self, authorization: str, secret: str) -> Caller:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise UnauthorizedError("The Authorization header is not of the form: Bearer <token>.")
        try:
            claims, expires_at = _verified(token, secret)
            if expires_at <= time.time():
                raise jwt.ExpiredSignatureError  # noqa: TRY301 - as for one that comes for the first time
        except jwt.ExpiredSignatureError as error:
            raise UnauthorizedError("The token has expired: sign in again.") from error
        except (jwt.InvalidTokenError, msgspec.ValidationError) as error:
            raise UnauthorizedError("The token is not valid: its signature or its claims are wrong.") from error
        caller = Caller(claims.role, claims.tenant_id or claims.tenant, claims.sub)
        if caller.tenant_id is None and not caller.chooses_tenant:
            raise UnauthorizedError("The token names no tenant: its claim tenantId is missing.")
        return caller


class _Claims(Struct, rename="camel"):
    """The product's claims; tenant is another spelling of tenantId."""

    role: str
    sub: str | None = None
    tenant_id: TenantId | None = None
    tenant: TenantId | None = None


@lru_cache(maxsize=1024)
def _verified(token: str, secret: str) -> tuple[_Claims, int]:
    """What a token claims, and until when: verifying takes longer than the rest of what a request needs of us, and a
    person sends the same one for an hour.
    """
    payload = jwt.decode(token, secret, algorithms=["HS256"], options={"require": ["exp"]})
    return msgspec.convert(payload, _Claims), int(payload["exp"])


class Authenticate(AbstractAuthenticationMiddleware):
    """Every route asks for credentials, but those that say opt={"public": True}."""

    def __init__(self, app: ASGIApp, keys: Keys, **options: Any) -> None:
        super().__init__(app, **options)
        self._keys = keys

    async def authenticate_request(self, connection: ASGIConnection[Any, Any, Any, Any]) -> AuthenticationResult:
        headers = connection.headers
        caller = self._keys.caller(headers.get("authorization"), headers.get("x-internal-key"))
        return AuthenticationResult(user=caller, auth=None)


async def tenant_of(request: Request[Caller, Any, State]) -> str:
    """The tenant that a request is about: the token's, or the one that X-Tenant-Id names for those who may
    choose. Another tenant than one's own is not found.
    """
    caller: Caller = request.user
    chosen = request.headers.get("x-tenant-id")
    if chosen is not None:
        try:
            msgspec.convert(chosen, TenantId)
        except msgspec.ValidationError as error:
            raise PermanentError("X-Tenant-Id is not a tenant id.", field="X-Tenant-Id") from error
    if caller.chooses_tenant:
        if chosen is None and caller.tenant_id is None:
            raise PermanentError("Say which tenant: send X-Tenant-Id.", field="X-Tenant-Id")
        return chosen or str(caller.tenant_id)
    if chosen not in {None, caller.tenant_id}:
        raise NotFoundError("There is no such tenant.")
    return str(caller.tenant_id)
