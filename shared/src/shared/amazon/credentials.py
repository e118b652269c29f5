"""Where the secrets are in Vault: the applications', and each tenant's. The database holds none of them."""

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from shared.vault import Vault, VaultConflictError

from .errors import AppCredentialsError, NotConnectedError
from .marketplaces import Region

TENANTS = "keybuzz/tenants"
WRITES_AT_MOST = 5
"""Each one lost to another writer means that somebody else's got through."""


class AppCredentials(Struct, frozen=True):
    """One of our applications as Amazon knows it."""

    client_id: str
    client_secret: str
    redirect_uri: str
    application_id: str = ""
    region: str = "eu"
    client_secret_created_at: Annotated[datetime, Meta(tz=True)] | None = None
    """Where the secret does not say, when this version of it came to Vault."""
    aws_access_key_id: str = ""
    aws_secret_access_key: str = ""
    """For signatures only, where something between us and Amazon asks for them."""

    def __repr__(self) -> str:
        return f"AppCredentials(client_id={self.client_id!r})"


class TenantCredentials(Struct, frozen=True):
    """A seller's authorization for one of our applications."""

    refresh_token: Annotated[str, Meta(min_length=1)]
    seller_id: str
    marketplace_id: str
    region: str
    created_at: Annotated[datetime, Meta(tz=True)]
    """When the authorization was given; of two, the later one counts."""
    app_source: str = ""
    """Which application it is for; older installations did not say."""

    def __post_init__(self) -> None:
        if self.region not in set(Region):
            raise ValueError(f"the region {self.region!r} is none of {', '.join(Region)}")

    def __repr__(self) -> str:
        return f"TenantCredentials(seller_id={self.seller_id!r})"


class Held(Struct, frozen=True):
    """What Vault holds of a tenant now: credentials, or why there are none that can be used."""

    credentials: TenantCredentials | None
    version: int
    problem: str = ""


def tenant_path(tenant_id: str) -> str:
    return f"{TENANTS}/{tenant_id}/amazon_spapi"


async def read_app(vault: Vault, path: str) -> AppCredentials:
    """AppCredentialsError names what is missing."""
    found = await vault.look(path)
    if found.secret is None:
        raise AppCredentialsError(
            f"No credentials found: Vault has nothing at secret/{path}. Put the application's client_id,"
            " client_secret, application_id and redirect_uri there."
        )
    try:
        return msgspec.convert({"client_secret_created_at": found.created_at} | found.secret, AppCredentials)
    except msgspec.ValidationError as error:
        raise AppCredentialsError(f"The application's credentials at secret/{path} are incomplete: {error}.") from error


async def look_tenant(vault: Vault, tenant_id: str) -> Held:
    found = await vault.look(tenant_path(tenant_id))
    if found.secret is None:
        problem = f"No credentials found for tenant {tenant_id}: its Amazon account has to be connected first."
        return Held(None, found.version, problem)
    try:
        return Held(msgspec.convert(found.secret, TenantCredentials), found.version)
    except msgspec.ValidationError as error:
        return Held(None, found.version, f"The credentials of tenant {tenant_id} in Vault are incomplete: {error}.")


async def read_tenant(vault: Vault, tenant_id: str) -> TenantCredentials:
    """NotConnectedError when there are none that can be used."""
    held = await look_tenant(vault, tenant_id)
    if held.credentials is None:
        raise NotConnectedError(held.problem)
    return held.credentials


async def store_tenant(vault: Vault, tenant_id: str, credentials: TenantCredentials, held: Held | None = None) -> bool:
    """False, and nothing is written, where Vault has the same authorization or a later one: so what Vault holds is
    the latest one, however many are given at once. held: what was seen there before, if it was. VaultConflictError
    when others were faster again and again.
    """
    for attempt in range(WRITES_AT_MOST):
        if held is None or attempt:
            held = await look_tenant(vault, tenant_id)
        if held.credentials is not None and held.credentials.created_at >= credentials.created_at:
            return False
        try:
            await vault.write(tenant_path(tenant_id), msgspec.to_builtins(credentials), replacing=held.version)
        except VaultConflictError:
            continue
        return True
    raise VaultConflictError("The tenant's credentials were changed by others at the same time: try again.")


async def destroy_tenant(vault: Vault, tenant_id: str, held: Held) -> None:
    """For good, with every version before; what came after it was looked at stays."""
    await vault.destroy(tenant_path(tenant_id), up_to=held.version)
