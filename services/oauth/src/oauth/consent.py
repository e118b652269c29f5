"""The consent at Seller Central: the address to send the seller to, and what the callback makes of its answer."""

import asyncio
import random
from datetime import datetime

from msgspec import Struct
from prometheus_client import Counter

from shared.amazon import credentials
from shared.amazon.credentials import TenantCredentials
from shared.amazon.errors import AmazonUnavailableError, AppCredentialsError
from shared.amazon.lwa import Tokens
from shared.amazon.marketplaces import BY_COUNTRY
from shared.amazon.spapi import SpApi
from shared.auth import Caller
from shared.errors import PermanentError, RetryLaterError, UnavailableError

from . import lifecycle, queries
from .domain import (
    CALLBACK_SECONDS,
    SELLER_ID,
    STATE_LIFE,
    Connection,
    ConsentRefusedError,
    ConsentState,
    SpentState,
    StateForeignError,
    StateRefusedError,
    TenantArchivedError,
    checked_return_url,
    new_state,
    seller_central_of,
    state_hash,
    with_query,
)
from .lifecycle import Parts

CONSENTS = Counter("consents_total", "Consents begun, and what their callbacks came to", ["outcome"])
EXCHANGES_AT_MOST = 3

_FATES = {
    queries.StateFate.UNKNOWN: "Invalid state: this page was not opened from a connection that was begun here.",
    queries.StateFate.USED: "Invalid state: this link was used before; each one works once.",
    queries.StateFate.EXPIRED: (
        "Invalid state: more than 15 minutes have passed since the connection was begun, or it was given up."
    ),
}


class Wish(Struct, frozen=True):
    """What the product asks for when a seller wants to connect."""

    tenant_id: str
    user_id: str | None
    country: str
    return_url: str | None = None
    amazon_callback_uri: str | None = None
    """Where Amazon wants the seller back, who came from there: from the Appstore, or to renew."""
    amazon_state: str | None = None


async def begin(parts: Parts, wish: Wish) -> tuple[str, datetime]:
    """The address of Amazon's consent page for this tenant, and when it stops working.
    AddressRefusedError, TenantArchivedError, AppCredentialsError, or what Vault raises.
    """
    settings = parts.settings
    marketplace = BY_COUNTRY[wish.country]
    stand_in = settings.amazon_seller_central_url
    address = f"{(stand_in or f'https://{marketplace.seller_central}').rstrip('/')}/apps/authorize/consent"
    if wish.amazon_callback_uri is not None:
        address = wish.amazon_callback_uri
        marketplace = seller_central_of(address, wish.country, stand_in)
    if wish.return_url is not None:
        checked_return_url(wish.return_url, settings.return_origins)
    app = await parts.api.app()
    if not app.application_id:  # the older paths in Vault have none; Amazon would answer the seller with MD1000
        raise AppCredentialsError(
            f"The application's credentials at secret/{settings.app_path} are incomplete: application_id is missing."
        )
    state = new_state()
    async with parts.pool.acquire() as conn, conn.transaction():
        if await queries.lock_tenant(conn, wish.tenant_id):
            raise TenantArchivedError(
                "The tenant is archived: it can connect an account once the product activates it."
            )
        expires_at = await queries.insert_state(
            conn,
            state_hash(state),
            ConsentState(wish.tenant_id, wish.user_id, marketplace.country, wish.return_url),
            STATE_LIFE,
        )
        await queries.insert_pending(
            conn,
            wish.tenant_id,
            marketplace.region,
            settings.amazon_spapi_app_source,
            credentials.tenant_path(wish.tenant_id),
            expires_at,
        )
    query = {"state": state, "redirect_uri": app.redirect_uri}
    if wish.amazon_callback_uri is None:
        query["application_id"] = app.application_id
    if wish.amazon_state is not None:
        query["amazon_state"] = wish.amazon_state
    if settings.amazon_app_draft:
        query["version"] = "beta"
    CONSENTS.labels("begun").inc()
    return with_query(address, query), expires_at


async def complete(
    parts: Parts, *, state: str, code: str | None, seller_id: str | None, caller: Caller | None
) -> Connection:
    """Turn Amazon's answer into a connection: the code becomes a refresh token, that goes to Vault, and only then
    the database says CONNECTED and the event tells the others. A caller who is known has to be who began it.
    StateRefusedError, ConsentRefusedError, CodeRejectedError, or a RetryLaterError; from what reached Vault before
    one of these, the reconciler makes a connection.
    """
    if not code or not seller_id:
        raise ConsentRefusedError("Amazon sent no authorization: it was cancelled or refused there.")
    if not SELLER_ID.fullmatch(seller_id):
        raise ConsentRefusedError("What came back as the seller's id is none: the address was changed on its way.")
    owner = caller if caller is not None and not caller.chooses_tenant else None
    spent = await queries.spend_state(
        parts.pool,
        state_hash(state),
        tenant_id=owner.tenant_id if owner else None,
        user_id=owner.user if owner else None,
    )
    if spent is queries.StateFate.FOREIGN:
        raise StateForeignError("Invalid state: this connection was begun by somebody else than who is signed in.")
    if isinstance(spent, queries.StateFate):
        raise StateRefusedError(_FATES[spent])
    try:
        async with asyncio.timeout(CALLBACK_SECONDS):
            return await _connect(parts, spent, code, seller_id)
    except (PermanentError, RetryLaterError) as error:
        await lifecycle.fail_consent(parts, spent.owner.tenant_id, state_hash(state), error.code, str(error))
        raise
    except TimeoutError as error:
        raise UnavailableError("The connection took too long: whatever was reached is completed by itself.") from error


async def _connect(parts: Parts, spent: SpentState, code: str, seller_id: str) -> Connection:
    tenant_id, marketplace = spent.owner.tenant_id, spent.owner.marketplace
    held = await credentials.look_tenant(parts.vault, tenant_id)  # a code works once: not before Vault is there
    tokens = await _exchange(parts.api, code)
    given = TenantCredentials(
        refresh_token=tokens.refresh_token or "",
        seller_id=seller_id,
        marketplace_id=marketplace.id,
        region=marketplace.region,
        created_at=spent.spent_at,
        app_source=parts.settings.amazon_spapi_app_source,
    )
    await credentials.store_tenant(parts.vault, tenant_id, given, held)
    connection = await lifecycle.settle(parts, tenant_id, verify=False, trusted=given.created_at)
    if connection is None or not connection.has(given.created_at):
        raise ConsentRefusedError("The account was disconnected while it was being connected.")
    return connection


async def _exchange(api: SpApi, code: str) -> Tokens:
    """Within the five minutes that the code lives, also when Amazon fails for a moment."""
    for attempt in range(1, EXCHANGES_AT_MOST):
        try:
            return await api.exchange(code)
        except AmazonUnavailableError:
            await asyncio.sleep(attempt * random.uniform(0.2, 0.6))  # noqa: S311 - no secret hangs on it
    return await api.exchange(code)
