"""Connections, what may become of them, and the states of a consent."""

import hashlib
import re
import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit, urlunsplit
from uuid import UUID

from msgspec import Struct

from shared.amazon.marketplaces import BY_COUNTRY, MARKETPLACES, Marketplace
from shared.errors import NotFoundError, PermanentError

SELLER_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""It comes in an address that anybody can change, and is stored, shown and told."""
STATE_LIFE = timedelta(minutes=15)
CALLBACK_SECONDS = 45
"""A callback that takes longer is given up."""
CALLBACK_LOST = timedelta(seconds=60)
"""A state spent so long ago and without an outcome is one whose callback died."""
AUTHORIZATION_LIFE = timedelta(days=365)
"""Amazon ends a public application's authorization after a year ("Renew authorizations")."""
SECRET_LIFE = timedelta(days=180)
"""Amazon's rule for client secrets ("Rotating your app's LWA credentials")."""
REMINDER_DAYS = (30, 7, 1)


class StateRefusedError(PermanentError):
    """The callback does not belong to a consent that we began and that is still open."""

    code = "invalid_state"


class StateForeignError(StateRefusedError):
    """The state belongs to another tenant or user than the one who is signed in."""

    status = 403


class ConsentRefusedError(PermanentError):
    """Amazon sent the seller back without an authorization code."""

    code = "consent_refused"


class AddressRefusedError(PermanentError):
    """A browser would be sent to a place that we do not know."""

    code = "address_refused"


class TenantArchivedError(PermanentError):
    """An archived tenant connects nothing."""

    code = "tenant_archived"
    status = 409


class NoConnectionError(NotFoundError):
    """The tenant has never begun to connect an account."""

    code = "no_connection"


class Status(StrEnum):
    """NOT_CONNECTED is a tenant without a connection, the others are states of one."""

    NOT_CONNECTED = "NOT_CONNECTED"
    PENDING = "PENDING"
    """The seller is on the way to Amazon for the first time."""
    CONNECTED = "CONNECTED"
    ERROR = "ERROR"
    """It did not work, or works no more, and a new consent cures it; last_error says why."""
    REVOKED = "REVOKED"
    """The seller withdrew the authorization at Amazon, or it ran out."""
    RECONNECT_REQUIRED = "RECONNECT_REQUIRED"
    """The authorization is for the application that we used before."""
    DISCONNECTED = "DISCONNECTED"
    """Ended by the tenant, or with it."""


TRANSITIONS: Mapping[Status, frozenset[Status]] = {
    Status.NOT_CONNECTED: frozenset({Status.PENDING, Status.CONNECTED, Status.RECONNECT_REQUIRED}),
    Status.PENDING: frozenset(
        {Status.CONNECTED, Status.ERROR, Status.REVOKED, Status.RECONNECT_REQUIRED, Status.DISCONNECTED}
    ),
    Status.CONNECTED: frozenset(
        {Status.CONNECTED, Status.ERROR, Status.REVOKED, Status.RECONNECT_REQUIRED, Status.DISCONNECTED}
    ),
    Status.ERROR: frozenset(
        {Status.CONNECTED, Status.ERROR, Status.REVOKED, Status.RECONNECT_REQUIRED, Status.DISCONNECTED}
    ),
    Status.REVOKED: frozenset({Status.CONNECTED, Status.DISCONNECTED}),
    Status.RECONNECT_REQUIRED: frozenset({Status.CONNECTED, Status.REVOKED, Status.DISCONNECTED}),
    Status.DISCONNECTED: frozenset({Status.CONNECTED}),
}
"""What a connection may become; every change goes through queries.move_connection, which refuses any other.
CONNECTED again is an authorization given anew.
"""


class ConsentState(Struct, frozen=True):
    """Who began a consent, for which marketplace, and where the seller is led back to."""

    tenant_id: str
    user_id: str | None
    country: str
    return_url: str | None = None

    @property
    def marketplace(self) -> Marketplace:
        return BY_COUNTRY[self.country]


class SpentState(Struct, frozen=True):
    """A state in the hands of its one callback."""

    owner: ConsentState
    spent_at: datetime
    """The authorization counts from here: by one clock, the database's, whoever answers the callback."""


class Connection(Struct, frozen=True):
    """A tenant's authorization at a marketplace."""

    id: UUID
    tenant_id: str
    marketplace: str
    status: Status
    seller_id: str | None
    marketplace_ids: list[str]
    region: str
    app_source: str
    authorized_at: datetime | None
    connected_at: datetime | None
    reauthorize_by: datetime | None
    void_until: datetime | None
    verified_at: datetime | None
    last_error: str | None
    last_error_code: str | None

    def may_become(self, status: Status) -> bool:
        return status in TRANSITIONS[self.status]

    def has(self, authorized_at: datetime) -> bool:
        """Is it connected by an authorization given then, or by a later one?"""
        return (
            self.status is Status.CONNECTED and self.authorized_at is not None and self.authorized_at >= authorized_at
        )

    def voids(self, authorized_at: datetime) -> bool:
        """Is an authorization given then over?"""
        return self.void_until is not None and authorized_at <= self.void_until


class Change(Struct, frozen=True, rename="camel"):
    """A step in the life of a connection."""

    at: datetime
    connection_id: UUID
    from_status: Status | None
    to_status: Status
    code: str | None
    reason: str | None


class Due(NamedTuple):
    """A connection to be looked at, and whether Amazon has to be asked."""

    tenant_id: str
    verify: bool


def check_transition(before: Status, after: Status) -> None:
    """ValueError when TRANSITIONS does not have it: a bug here, never a user's fault."""
    if after not in TRANSITIONS[before]:
        raise ValueError(f"a connection that is {before} does not become {after}")


def new_state() -> str:
    """256 random bits."""
    return secrets.token_urlsafe(32)


def state_hash(state: str) -> bytes:
    return hashlib.sha256(state.encode()).digest()


def display_name(seller_id: str) -> str:
    return f"Amazon Seller {seller_id}"


def seller_central_of(address: str, default_country: str, stand_in: str | None = None) -> Marketplace:
    """The marketplace whose Seller Central an address belongs to; where several share a host, the default country's
    if it is one of them. AddressRefusedError when it is no address of Seller Central, or of its stand-in.
    """
    default = BY_COUNTRY[default_country]
    parts = _split(address)
    if stand_in is not None and parts is not None and _origin(parts) == _origin(urlsplit(stand_in)):
        return default
    if parts is not None and parts.scheme == "https":
        found = [each for each in MARKETPLACES if each.seller_central == parts.netloc]
        if found:
            return default if default in found else found[0]
    raise AddressRefusedError("amazonCallbackUri is no address of Amazon's Seller Central.", field="amazonCallbackUri")


def checked_return_url(address: str, origins: str | None) -> str:
    """AddressRefusedError unless its origin is one of the allowed ones."""
    parts = _split(address)
    if parts is None or _origin(parts) not in (origins or "").split(","):
        raise AddressRefusedError(
            "returnUrl is not allowed: RETURN_ORIGINS of this service has to name its origin.", field="returnUrl"
        )
    return address


def with_query(address: str, added: Mapping[str, str]) -> str:
    """The address with these parameters, in place of those of the same name."""
    parts = urlsplit(address)
    kept = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] not in added]
    return urlunsplit(parts._replace(query=urlencode([*kept, *added.items()])))


def _split(address: str) -> SplitResult | None:
    """None for what a browser may read otherwise than we do."""
    if not address.isascii() or not address.isprintable() or any(each in address for each in ' \\"<>@'):
        return None
    try:
        return urlsplit(address)
    except ValueError:
        return None


def _origin(parts: SplitResult) -> str:
    return f"{parts.scheme}://{parts.netloc}"
