"""HTTP in."""

from datetime import datetime
from typing import Annotated

from litestar import Request, Response, get, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import JSONBody, QueryParameter
from msgspec import Struct

from shared.amazon.errors import AppCredentialsError
from shared.amazon.marketplaces import BY_COUNTRY
from shared.amazon.spapi import SpApi
from shared.auth import Caller
from shared.db import Pool
from shared.errors import PermanentError, RetryLaterError
from shared.events import AMAZON
from shared.outbox import Outbox
from shared.vault import Vault

from . import consent, pages, queries
from .domain import ConsentRefusedError, StateRefusedError, Status, display_name
from .settings import OauthSettings

AGAIN = "Go back to KeyBuzz, open Settings, Marketplaces, and click Connect to start again."
MAX_PARAMETER = 2_048


class StartRequest(Struct, frozen=True, forbid_unknown_fields=True):
    country: str | None = None
    """The marketplace whose consent page the seller knows, as FR; by default the installation's."""


class StartAnswer(Struct, frozen=True, rename="camel"):
    auth_url: str
    expires_at: datetime
    message: str


class StatusAnswer(Struct, frozen=True, rename="camel"):
    tenant_id: str
    marketplace: str
    status: Status
    display_name: str | None = None
    connection_id: str | None = None
    seller_id: str | None = None
    marketplace_ids: list[str] = []
    region: str | None = None
    app_source: str | None = None
    connected_at: datetime | None = None
    reauthorize_by: datetime | None = None
    last_error: str | None = None


@post("/api/v1/marketplaces/amazon/oauth/start", status_code=200, summary="Begin to connect an Amazon account")
async def start(
    request: Request[Caller, None, State],
    tenant_id: NamedDependency[str],
    pool: NamedDependency[Pool],
    api: NamedDependency[SpApi],
    settings: NamedDependency[OauthSettings],
    data: JSONBody[StartRequest | None] = None,
) -> StartAnswer:
    country = (data.country if data else None) or settings.default_country
    if country not in BY_COUNTRY:
        raise PermanentError(f"country has to be one of {', '.join(sorted(BY_COUNTRY))}.", field="country")
    auth_url, expires_at = await consent.begin(
        pool, api, settings, tenant_id=tenant_id, user_id=request.user.user, country=country
    )
    return StartAnswer(auth_url, expires_at, "Redirect the user to authUrl: Amazon asks there for the consent.")


@get(
    "/api/v1/marketplaces/amazon/oauth/callback",
    opt={"public": True},
    summary="Where Amazon sends the seller back to; a page for people",
)
async def callback(
    pool: NamedDependency[Pool],
    outbox: NamedDependency[Outbox],
    api: NamedDependency[SpApi],
    vault: NamedDependency[Vault],
    settings: NamedDependency[OauthSettings],
    state_parameter: Annotated[str | None, QueryParameter(name="state", max_length=MAX_PARAMETER)] = None,
    spapi_oauth_code: Annotated[str | None, QueryParameter(max_length=MAX_PARAMETER)] = None,
    selling_partner_id: Annotated[str | None, QueryParameter(max_length=MAX_PARAMETER)] = None,
) -> Response[str]:
    try:
        connection = await consent.complete(
            pool,
            outbox,
            api,
            vault,
            settings,
            state=state_parameter or "",
            code=spapi_oauth_code,
            seller_id=selling_partner_id,
        )
    except StateRefusedError as error:
        return pages.failure(400, "This link does not work any more", AGAIN, str(error))
    except ConsentRefusedError as error:
        return pages.failure(400, "Your account was not connected", AGAIN, str(error))
    except AppCredentialsError as error:
        text = "KeyBuzz has a problem with its own access to Amazon. You have done nothing wrong; please tell us."
        return pages.failure(502, "Your account could not be connected", text, f"Token exchange failed: {error}")
    except PermanentError as error:
        return pages.failure(400, "Amazon did not accept the connection", AGAIN, f"Token exchange failed: {error}")
    except RetryLaterError as error:
        text = f"Something between KeyBuzz and Amazon is away at the moment. Wait some minutes. {AGAIN}"
        return pages.failure(503, "Your account could not be connected yet", text, str(error))
    return pages.success(
        "Your Amazon account is connected",
        f"{display_name(connection.seller_id or '')} now works with KeyBuzz: your orders of the last weeks are being"
        " fetched, and new messages arrive as tickets. You can close this window.",
    )


@get("/api/v1/marketplaces/amazon/status", summary="Is a tenant's Amazon account connected, and if not, why")
async def status(tenant_id: NamedDependency[str], pool: NamedDependency[Pool]) -> StatusAnswer:
    connection = await queries.get_connection(pool, tenant_id)
    if connection is None:
        return StatusAnswer(tenant_id, AMAZON, Status.NOT_CONNECTED)
    return StatusAnswer(
        tenant_id=tenant_id,
        marketplace=connection.marketplace,
        status=connection.status,
        display_name=display_name(connection.seller_id) if connection.seller_id else None,
        connection_id=str(connection.id),
        seller_id=connection.seller_id,
        marketplace_ids=connection.marketplace_ids,
        region=connection.region,
        app_source=connection.app_source,
        connected_at=connection.connected_at,
        reauthorize_by=connection.reauthorize_by,
        last_error=connection.last_error,
    )


ROUTES = [start, callback, status]
