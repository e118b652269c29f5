"""Where the secrets are in Vault: the application's, and each tenant's. The database holds none of them."""

from datetime import datetime

import msgspec
from msgspec import Struct

from shared.vault import Vault

from .errors import AppCredentialsError, NotConnectedError
from .marketplaces import Region


class AppCredentials(Struct, frozen=True):
    """Our application as Amazon knows it."""

    client_id: str
    client_secret: str
    redirect_uri: str
    application_id: str = ""
    region: str = "eu"

    def __repr__(self) -> str:
        return f"AppCredentials(client_id={self.client_id!r})"


class TenantCredentials(Struct, frozen=True):
    """A seller's authorization for our application."""

    refresh_token: str
    seller_id: str
    marketplace_id: str
    region: str
    created_at: datetime

    def __post_init__(self) -> None:
        if self.region not in set(Region):
            raise ValueError(f"the region {self.region!r} is none of {', '.join(Region)}")

    def __repr__(self) -> str:
        return f"TenantCredentials(seller_id={self.seller_id!r})"


def tenant_path(tenant_id: str) -> str:
    return f"keybuzz/tenants/{tenant_id}/amazon_spapi"


async def read_app(vault: Vault, path: str) -> AppCredentials:
    """AppCredentialsError names what is missing."""
    found = await vault.read(path)
    if found is None:
        raise AppCredentialsError(
            f"No credentials found: Vault has nothing at secret/{path}. Put the application's client_id,"
            " client_secret, application_id and redirect_uri there."
        )
    try:
        return msgspec.convert(found, AppCredentials)
    except msgspec.ValidationError as error:
        raise AppCredentialsError(f"The application's credentials at secret/{path} are incomplete: {error}.") from error


async def read_tenant(vault: Vault, tenant_id: str) -> TenantCredentials:
    """NotConnectedError when there are none."""
    found = await vault.read(tenant_path(tenant_id))
    if found is None:
        raise NotConnectedError(
            f"No credentials found for tenant {tenant_id}: its Amazon account has to be connected first."
        )
    try:
        return msgspec.convert(found, TenantCredentials)
    except msgspec.ValidationError as error:
        raise NotConnectedError(f"The credentials of tenant {tenant_id} in Vault are incomplete: {error}.") from error


async def store_tenant(vault: Vault, tenant_id: str, credentials: TenantCredentials) -> None:
    await vault.write(tenant_path(tenant_id), msgspec.to_builtins(credentials))
