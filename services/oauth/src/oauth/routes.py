"""HTTP in."""

import asyncio
import ipaddress
import math
from datetime import datetime
from typing import Annotated, Any

from litestar import Request, Response, get, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.middleware import DefineMiddleware
from litestar.middleware.rate_limit import RateLimitConfig
from litestar.params import JSONBody, QueryParameter
from litestar.response import Redirect
from litestar.stores.memory import MemoryStore
from msgspec import Meta, Struct

from shared.amazon import credentials
from shared.amazon.errors import AppCredentialsError
from shared.amazon.marketplaces import BY_COUNTRY
from shared.auth import Caller, Keys
from shared.db import LOST
from shared.errors import PermanentError, RetryLaterError, UnavailableError
from shared.events import AMAZON
from shared.telemetry import log

from . import consent, lifecycle, queries
from .domain import (
    AddressRefusedError,
    Change,
    ConsentRefusedError,
    StateRefusedError,
    Status,
    display_name,
    seller_central_of,
    state_hash,
    with_query,
)
from .lifecycle import Parts
from .pages import NO_REFERRER, Page, render

API = "/api/v1/marketplaces/amazon"
AGAIN = "Go back to KeyBuzz, open Settings, Marketplaces, and click Connect to start again."
MAX_PARAMETER = 2_048
IPV6_PREFIX = 64
VAULT_SECONDS = 3
FORGET_SECONDS = 60
LIMITED = {"limited": True}

Text = Annotated[str, Meta(max_length=MAX_PARAMETER)]
Parameter = Annotated[str | None, QueryParameter(max_length=MAX_PARAMETER)]


class StartRequest(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    country: str | None = None
    """The marketplace whose consent page the seller knows, as FR; by default the installation's."""
    return_url: Text | None = None
    """Where the seller is led back to; RETURN_ORIGINS has to have its origin."""
    amazon_callback_uri: Text | None = None
    amazon_state: Text | None = None
    """What Amazon gave a seller who comes from there: the product's sign-in got both from /oauth/login."""


class StartAnswer(Struct, frozen=True, rename="camel"):
    auth_url: str
    expires_at: datetime
    message: str


class StatusAnswer(Struct, frozen=True, rename="camel"):
    """credentialsPresent: does Vault hold credentials at this moment; null when Vault cannot say, and
    credentialsError says why.
    """

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
    verified_at: datetime | None = None
    last_error: str | None = None
    last_error_code: str | None = None
    credentials_present: bool | None = None
    credentials_error: str | None = None
    client_secret_rotate_by: datetime | None = None


class History(Struct, frozen=True):
    items: list[Change]


@post(f"{API}/oauth/start", status_code=200, summary="Begin to connect an Amazon account", opt=LIMITED)
async def start(
    request: Request[Caller, None, State],
    tenant_id: NamedDependency[str],
    parts: NamedDependency[Parts],
    data: JSONBody[StartRequest | None] = None,
) -> Response[StartAnswer]:
    asked = data or StartRequest()
    country = asked.country or parts.settings.default_country
    if country not in BY_COUNTRY:
        raise PermanentError(f"country has to be one of {', '.join(sorted(BY_COUNTRY))}.", field="country")
    if (asked.amazon_callback_uri is None) is not (asked.amazon_state is None):
        missing = "amazonState" if asked.amazon_state is None else "amazonCallbackUri"
        raise PermanentError(f"{missing} is missing: amazonCallbackUri and amazonState go together.", field=missing)
    wish = consent.Wish(
        tenant_id=tenant_id,
        user_id=request.user.user,
        country=country,
        return_url=asked.return_url,
        amazon_callback_uri=asked.amazon_callback_uri,
        amazon_state=asked.amazon_state,
    )
    auth_url, expires_at = await consent.begin(parts, wish)
    message = "Redirect the user to authUrl: Amazon asks there for the consent."
    return Response(StartAnswer(auth_url, expires_at, message), headers=NO_REFERRER)


@get(
    f"{API}/oauth/login",
    opt={"public": True, **LIMITED},
    summary="Amazon's Login URI: a seller comes from the Appstore, or to renew",
)
async def login(
    parts: NamedDependency[Parts],
    amazon_callback_uri: Parameter = None,
    amazon_state: Parameter = None,
    selling_partner_id: Parameter = None,
) -> Response[Any]:
    """Leads to the product's sign-in, which then asks start for the way back to Amazon."""
    settings = parts.settings
    title = "This link is not from Amazon"
    if not amazon_callback_uri or not amazon_state:
        reason = "amazon_callback_uri or amazon_state is missing."
        return render(Page(400, title, AGAIN, AddressRefusedError.code, reason))
    try:
        seller_central_of(amazon_callback_uri, settings.default_country, settings.amazon_seller_central_url)
    except AddressRefusedError as error:
        return render(Page(400, title, AGAIN, error.code, str(error)))
    if settings.product_login_url is None:
        text = f"To connect your Amazon account, sign in to KeyBuzz first. {AGAIN}"
        return render(Page(200, "Sign in to KeyBuzz", text, "sign_in"))
    passed = {"amazon_callback_uri": amazon_callback_uri, "amazon_state": amazon_state}
    if selling_partner_id:
        passed["selling_partner_id"] = selling_partner_id
    return Redirect(with_query(settings.product_login_url, passed), status_code=302, headers=NO_REFERRER)


@get(
    f"{API}/oauth/callback",
    opt={"public": True, **LIMITED},
    summary="Where Amazon sends the seller back to; a page for people",
)
async def callback(
    request: Request[Any, None, State],
    parts: NamedDependency[Parts],
    keys: NamedDependency[Keys],
    state_parameter: Annotated[str | None, QueryParameter(name="state", max_length=MAX_PARAMETER)] = None,
    spapi_oauth_code: Parameter = None,
    selling_partner_id: Parameter = None,
) -> Response[str]:
    """Public, as the browser comes from Amazon; whoever does send credentials has to be who began it."""
    headers = request.headers
    given = headers.get("authorization") or None, headers.get("x-internal-key")
    caller = keys.caller(*given) if any(given) else None
    state = state_parameter or ""
    return_url, connected = None, False
    try:
        page = await _completed(parts, state, spapi_oauth_code, selling_partner_id, caller)
        return_url, connected = await queries.get_return_url(parts.pool, state_hash(state))
    except LOST as error:
        log.error("callback_without_database", error=type(error).__name__)
        page = _failed(UnavailableError("The database is away."))
    if page.code == StateRefusedError.code and connected and caller is None:  # the browser has opened it once more
        page = Page(200, "Your Amazon account was connected with this link", "Nothing is left to do here.", "connected")
    consent.CONSENTS.labels(page.code).inc()
    outcome = {"amazon": "connected"} if page.worked else {"amazon": "failed", "reason": page.code}
    return render(page, with_query(return_url, outcome) if return_url else None)


async def _completed(parts: Parts, state: str, code: str | None, seller_id: str | None, caller: Caller | None) -> Page:
    try:
        connection = await consent.complete(parts, state=state, code=code, seller_id=seller_id, caller=caller)
    except (PermanentError, RetryLaterError) as error:
        return _failed(error)
    return Page(
        200,
        "Your Amazon account is connected",
        f"{display_name(connection.seller_id or '')} now works with KeyBuzz: your orders of the last weeks are being"
        " fetched, and new messages arrive as tickets. You can close this window.",
        "connected",
    )


def _failed(error: PermanentError | RetryLaterError) -> Page:
    if isinstance(error, StateRefusedError):
        return Page(error.status, "This link does not work any more", AGAIN, error.code, str(error))
    if isinstance(error, ConsentRefusedError):
        return Page(400, "Your account was not connected", AGAIN, error.code, str(error))
    if isinstance(error, AppCredentialsError):
        text = "KeyBuzz has a problem with its own access to Amazon. You have done nothing wrong; please tell us."
        title = "Your account could not be connected"
        return Page(502, title, text, error.code, f"Token exchange failed: {error}")
    if isinstance(error, PermanentError):
        title = "Amazon did not accept the connection"
        return Page(400, title, AGAIN, error.code, f"Token exchange failed: {error}")
    text = (
        "Something between KeyBuzz and Amazon is away at the moment. Wait some minutes and look in KeyBuzz, Settings,"
        " Marketplaces: where your account does not show as connected by itself, click Connect to start again."
    )
    seconds = max(1, math.ceil(error.delay_seconds or 5))
    return Page(503, "Your account could not be connected yet", text, error.code, str(error), seconds)


@get(f"{API}/status", summary="Is a tenant's Amazon account connected, and if not, why")
async def status(tenant_id: NamedDependency[str], parts: NamedDependency[Parts]) -> StatusAnswer:
    return await status_of(parts, tenant_id)


async def status_of(parts: Parts, tenant_id: str) -> StatusAnswer:
    connection = await queries.get_connection(parts.pool, tenant_id)
    if connection is None:
        return StatusAnswer(tenant_id, AMAZON, Status.NOT_CONNECTED)
    present, trouble = None, None
    try:
        async with asyncio.timeout(VAULT_SECONDS):
            present = (await credentials.look_tenant(parts.vault, tenant_id)).credentials is not None
            if connection.status is Status.CONNECTED and not present:
                connection = await lifecycle.settle(parts, tenant_id, verify=False) or connection
    except RetryLaterError as error:
        trouble = str(error)
    except TimeoutError:
        trouble = "Vault does not answer in time."
    if connection.status is Status.CONNECTED and connection.app_source != parts.settings.amazon_spapi_app_source:
        connection = lifecycle.switched(connection)
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
        verified_at=connection.verified_at,
        last_error=connection.last_error,
        last_error_code=connection.last_error_code,
        credentials_present=present,
        credentials_error=trouble,
        client_secret_rotate_by=await queries.get_rotate_by(parts.pool, connection.app_source),
    )


@get(f"{API}/history", summary="What a tenant's connection went through, the latest first")
async def history(
    tenant_id: NamedDependency[str],
    parts: NamedDependency[Parts],
    limit: Annotated[int, QueryParameter(ge=1, le=200)] = 50,
) -> History:
    return History(await queries.list_changes(parts.pool, tenant_id, limit))


class Disconnected(Struct, frozen=True, rename="camel"):
    tenant_id: str
    status: Status
    message: str


@post(f"{API}/disconnect", status_code=200, summary="End the connection and destroy its credentials")
async def disconnect(tenant_id: NamedDependency[str], parts: NamedDependency[Parts]) -> Disconnected:
    return await end_connection(parts, tenant_id)


async def end_connection(parts: Parts, tenant_id: str) -> Disconnected:
    destroyed = await lifecycle.disconnect(parts, tenant_id)
    credentials_are = "are destroyed" if destroyed else "will be destroyed as soon as Vault is back"
    message = (
        f"The account is disconnected and its credentials {credentials_are}. To withdraw the authorization at Amazon"
        " too: Seller Central, Manage your apps."
    )
    return Disconnected(tenant_id, Status.DISCONNECTED, message)


def limit_requests(requests_per_minute: int) -> DefineMiddleware:
    """For the routes that anybody can reach, by address: an IPv6 one counts as its network, which is one caller's. The
    product's server, whose requests are everybody's, goes free.
    """
    return RateLimitConfig(
        ("minute", requests_per_minute), identifier_for_request=_address, check_throttle_handler=_is_limited
    ).middleware


async def forget_addresses(store: MemoryStore) -> None:
    """Litestar keeps each address for good otherwise."""
    while True:
        await asyncio.sleep(FORGET_SECONDS)
        await store.delete_expired()


def _is_limited(request: Request[Any, Any, Any]) -> bool:
    caller = request.scope.get("user")
    return bool(request.route_handler.opt.get("limited")) and not (isinstance(caller, Caller) and caller.by_key)


def _address(request: Request[Any, Any, Any]) -> str:
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    return str(address.ipv4_mapped or ipaddress.ip_network((address, IPV6_PREFIX), strict=False))


ROUTES = [start, login, callback, status, history, disconnect]
