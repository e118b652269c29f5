"""The consent at Seller Central: the address to send the seller to, and what the callback makes of its answer."""

from datetime import UTC, datetime
from urllib.parse import urlencode

from shared.amazon import credentials, sellers
from shared.amazon.credentials import TenantCredentials
from shared.amazon.errors import AccessDeniedError, AppCredentialsError
from shared.amazon.marketplaces import BY_COUNTRY, Marketplace
from shared.amazon.spapi import SpApi
from shared.db import Pool
from shared.errors import PermanentError, RetryLaterError
from shared.events import AMAZON, ConnectionConnected
from shared.outbox import Outbox
from shared.telemetry import log
from shared.vault import Vault

from . import queries
from .domain import (
    SELLER_ID,
    STATE_LIFE,
    Connection,
    ConsentRefusedError,
    ConsentState,
    StateRefusedError,
    new_state,
    state_hash,
)
from .settings import OauthSettings

_FATES = {
    queries.StateFate.UNKNOWN: "Invalid state: this page was not opened from a connection that was begun here.",
    queries.StateFate.USED: (
        "Invalid state: this link was used before; each one works once."
        " If it said then that your account is connected, nothing is left to do."
    ),
    queries.StateFate.EXPIRED: "Invalid state: more than 15 minutes have passed since the connection was begun.",
}


async def begin(
    pool: Pool, api: SpApi, settings: OauthSettings, *, tenant_id: str, user_id: str | None, country: str
) -> tuple[str, datetime]:
    """The address of Amazon's consent page for this tenant, and when it stops working.
    AppCredentialsError or UnavailableError when our application's credentials cannot be read.
    """
    marketplace = BY_COUNTRY[country]
    app = await api.app()
    if not app.application_id:  # the older paths in Vault have none; Amazon would answer the seller with MD1000
        raise AppCredentialsError(
            f"The application's credentials at secret/{settings.amazon_spapi_app_path} are incomplete: application_id"
            " is missing."
        )
    state = new_state()
    async with pool.acquire() as conn, conn.transaction():
        expires_at = await queries.insert_state(
            conn, state_hash(state), ConsentState(tenant_id, user_id, country), STATE_LIFE
        )
        await queries.insert_pending(
            conn,
            tenant_id,
            marketplace.region,
            settings.amazon_spapi_app_source,
            credentials.tenant_path(tenant_id),
        )
    query = {"application_id": app.application_id, "state": state, "redirect_uri": app.redirect_uri}
    if settings.amazon_app_draft:
        query["version"] = "beta"
    return f"{_seller_central(settings, marketplace)}/apps/authorize/consent?{urlencode(query)}", expires_at


def _seller_central(settings: OauthSettings, marketplace: Marketplace) -> str:
    return (settings.amazon_seller_central_url or f"https://{marketplace.seller_central}").rstrip("/")


async def complete(
    pool: Pool,
    outbox: Outbox,
    api: SpApi,
    vault: Vault,
    settings: OauthSettings,
    *,
    state: str,
    code: str | None,
    seller_id: str | None,
) -> Connection:
    """Turn Amazon's answer into a connection: the code becomes a refresh token, that goes to Vault, and only then
    the database says CONNECTED and the event tells the others.
    StateRefusedError, ConsentRefusedError, CodeRejectedError, AppCredentialsError or UnavailableError.
    """
    if not code or not seller_id:
        raise ConsentRefusedError("Amazon sent no authorization: it was cancelled or refused there.")
    if not SELLER_ID.fullmatch(seller_id):
        raise ConsentRefusedError("What came back as the seller's id is none: the address was changed on its way.")
    owner = await queries.spend_state(pool, state_hash(state))
    if isinstance(owner, queries.StateFate):
        raise StateRefusedError(_FATES[owner])
    try:
        return await _connect(pool, outbox, api, vault, settings, owner, code, seller_id)
    except (PermanentError, RetryLaterError) as error:
        log.warning("connection_failed", tenant_id=owner.tenant_id, reason=error.code, error=str(error))
        await queries.note_error(pool, owner.tenant_id, str(error))
        raise


async def _connect(
    pool: Pool,
    outbox: Outbox,
    api: SpApi,
    vault: Vault,
    settings: OauthSettings,
    owner: ConsentState,
    code: str,
    seller_id: str,
) -> Connection:
    marketplace = BY_COUNTRY[owner.country]
    app = await api.app()
    tokens = await api.lwa.exchange(app, code)
    tenant = TenantCredentials(
        refresh_token=tokens.refresh_token or "",
        seller_id=seller_id,
        marketplace_id=marketplace.id,
        region=marketplace.region,
        created_at=datetime.now(UTC),
    )
    await credentials.store_tenant(vault, owner.tenant_id, tenant)
    try:
        marketplace_ids = await sellers.marketplace_ids(api, app, tenant)
    except (RetryLaterError, AccessDeniedError) as error:
        # The authorization is good all the same, also for an application without the role for the Sellers API; the
        # marketplace of the consent is certain.
        log.warning("marketplaces_not_known", tenant_id=owner.tenant_id, reason=error.code)
        marketplace_ids = [marketplace.id]
    async with pool.acquire() as conn, conn.transaction():
        connection = await queries.upsert_connected(
            conn,
            owner.tenant_id,
            seller_id=seller_id,
            marketplace_ids=marketplace_ids,
            region=marketplace.region,
            app_source=settings.amazon_spapi_app_source,
            vault_path=credentials.tenant_path(owner.tenant_id),
        )
        if connection.connected_at is None or connection.reauthorize_by is None:
            raise RuntimeError("a connected connection has its dates")
        await outbox.add(
            conn,
            ConnectionConnected(
                tenant_id=owner.tenant_id,
                marketplace=AMAZON,
                connection_id=connection.id,
                seller_id=seller_id,
                marketplace_ids=marketplace_ids,
                region=connection.region,
                app_source=connection.app_source,
                connected_at=connection.connected_at,
                reauthorize_by=connection.reauthorize_by,
            ),
        )
    log.info("connection_connected", tenant_id=owner.tenant_id, seller_id=seller_id)
    return connection
