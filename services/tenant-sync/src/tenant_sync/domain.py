"""Tenants as both databases have them, and the form of an inbound address."""

import secrets
import string
from datetime import datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from msgspec import Meta, Struct

from shared.errors import NotFoundError, RetryLaterError

TOKEN_LENGTH = 6
TOKEN_ALPHABET = string.ascii_lowercase + string.digits

Country = Annotated[str, Meta(pattern=r"^[A-Z]{2}$", max_length=2, description="Two capital letters, as FR")]
"""The length too: to Python's regular expressions a line break after the end still matches."""


class TenantNotInProductError(NotFoundError):
    """Nothing is stored for a tenant that the product does not have."""

    code = "tenant_not_found"


class TenantNotVisibleYetError(RetryLaterError):
    """The event came before the product's own commit could be read."""

    code = "tenant_not_visible_yet"


class Change(StrEnum):
    """What a sync did to our copy of a tenant."""

    CREATED = "created"
    UPDATED = "updated"
    SKIPPED = "skipped"


class ProductTenant(Struct, frozen=True):
    """A tenant as the product has it."""

    id: str
    name: str
    plan: str
    status: str
    updated_at: datetime


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


def copied(product: ProductTenant) -> Tenant:
    """The one mapping between the two databases: plan and status in upper case, whatever their values."""
    return Tenant(product.id, product.name, product.plan.upper(), product.status.upper())


def new_email(tenant_id: str, country: str, domain: str) -> str:
    """An address that nobody can guess from the tenant and country alone."""
    token = "".join(secrets.choice(TOKEN_ALPHABET) for _ in range(TOKEN_LENGTH))
    return f"amazon.{tenant_id}.{country}.{token}@{domain}".lower()
