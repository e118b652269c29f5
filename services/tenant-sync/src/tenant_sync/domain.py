"""Tenants as both databases have them, and the form of an inbound address."""

import secrets
import string
from datetime import datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from msgspec import Meta, Struct

from shared.errors import NotFoundError, PermanentError, RetryLaterError

TOKEN_LENGTH = 6
TOKEN_ALPHABET = string.ascii_lowercase + string.digits
ARCHIVED = "ARCHIVED"

KNOWN_PLANS = frozenset({"FREE", "STARTER", "PRO", "BUSINESS", "ENTERPRISE"})
KNOWN_STATUSES = frozenset({"TRIALING", "ACTIVE", "PAST_DUE", "SUSPENDED", "CANCELLED", ARCHIVED})
"""What we know of the product's plans and statuses; another value is copied all the same, and reported."""

Country = Annotated[str, Meta(pattern=r"^[A-Z]{2}\Z", description="Two capital letters, as FR")]


class TenantNotInProductError(NotFoundError):
    """Nothing is stored for a tenant that the product does not have."""

    code = "tenant_not_found"


class TenantNotVisibleYetError(RetryLaterError):
    """The event came before the product's own commit could be read."""

    code = "tenant_not_visible_yet"


class SyncRunningError(PermanentError):
    """One bulk sync at a time."""

    code = "sync_running"
    status = 409


class Change(StrEnum):
    """What a sync did to our copy of a tenant."""

    CREATED = "created"
    UPDATED = "updated"
    SKIPPED = "skipped"


class ProductTenant(Struct, frozen=True):
    """A tenant as the product has it, with the plan and status that our copy of it has."""

    id: str
    name: str
    plan: str | None
    status: str | None
    our_plan: str
    our_status: str
    updated_at: datetime

    def as_ours(self) -> "Tenant":
        return Tenant(self.id, self.name, self.our_plan, self.our_status)


class Tenant(Struct, frozen=True):
    """A tenant as the marketplace side has it."""

    id: str
    name: str
    plan: str
    status: str


class Address(Struct, frozen=True):
    """A mail address for one marketplace and country of a tenant."""

    marketplace: str
    country: str
    email: str
    status: str


class Connection(Struct, frozen=True, rename="camel"):
    """A marketplace account of a tenant."""

    marketplace: str
    connection_id: UUID
    seller_id: str
    status: str


class Counts(Struct, rename="camel"):
    """How many tenants a bulk sync has dealt with, by what it did to them. The archived ones, which the product
    does not have any more, are among the updated.
    """

    created: int = 0
    updated: int = 0
    archived: int = 0
    skipped: int = 0
    errors: int = 0

    @property
    def total(self) -> int:
        return self.created + self.updated + self.skipped + self.errors


class Run(Struct, frozen=True, rename="camel"):
    """A bulk sync as it is answered: how far it is."""

    id: UUID
    state: str
    after_id: str
    created: int
    updated: int
    archived: int
    skipped: int
    errors: int
    started_at: datetime
    updated_at: datetime
    finished_at: datetime | None


def new_email(tenant_id: str, country: str, domain: str) -> str:
    """An address that nobody can guess from the tenant and country alone."""
    number = int.from_bytes(secrets.token_bytes(8))
    token = []
    for _ in range(TOKEN_LENGTH):
        number, digit = divmod(number, len(TOKEN_ALPHABET))
        token.append(TOKEN_ALPHABET[digit])
    return f"amazon.{tenant_id}.{country}.{''.join(token)}@{domain}".lower()
