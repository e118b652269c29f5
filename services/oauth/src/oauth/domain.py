"""Connections and the states of a consent."""

import hashlib
import re
import secrets
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from msgspec import Struct

from shared.errors import PermanentError

SELLER_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""It comes in an address that anybody can change, and is stored, shown and told."""
STATE_LIFE = timedelta(minutes=15)
AUTHORIZATION_LIFE = timedelta(days=365)
"""Amazon ends a public application's authorization after a year ("Renew authorizations")."""


class StateRefusedError(PermanentError):
    """The callback does not belong to a consent that we began and that is still open."""

    code = "invalid_state"


class ConsentRefusedError(PermanentError):
    """Amazon sent the seller back without an authorization code."""

    code = "consent_refused"


class Status(StrEnum):
    NOT_CONNECTED = "NOT_CONNECTED"
    PENDING = "PENDING"
    CONNECTED = "CONNECTED"
    ERROR = "ERROR"


class ConsentState(Struct, frozen=True):
    """Who began a consent, and for which marketplace."""

    tenant_id: str
    user_id: str | None
    country: str


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
    connected_at: datetime | None
    reauthorize_by: datetime | None
    last_error: str | None


def new_state() -> str:
    """256 random bits."""
    return secrets.token_urlsafe(32)


def state_hash(state: str) -> bytes:
    return hashlib.sha256(state.encode()).digest()


def display_name(seller_id: str) -> str:
    return f"Amazon Seller {seller_id}"
