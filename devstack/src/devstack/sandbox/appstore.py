"""Authorizing from Amazon's side: Manage Your Apps, where sellers renew after 365 days, and the way through the
application's Login URI back to Amazon.

Parameters: SP-API developer guide, "Marketplace Appstore workflow"; the page: developer-docs.amazon.com/sp-api/docs/
renew-authorizations.
"""

import secrets
from html import escape
from typing import Annotated
from urllib.parse import quote

from litestar import get, post
from litestar.enums import RequestEncodingType
from litestar.params import Body
from litestar.response import Response

from . import consent, pages
from .http import HttpRequest
from .settings import Application
from .state import Renewal, Sandbox, digest, log

MANAGE = "/apps/manage"
CONFIRM = "/apps/authorize/confirm"
RENEWAL_SECONDS = 1_800
"""Ours: Amazon documents no life of an amazon_state."""


@get(MANAGE, sync_to_thread=False)
def manage_page(sandbox: Sandbox) -> Response[str]:
    if sandbox.settings.login_uri is None:
        return _no_login_uri(200)
    applications = {
        one.application_id: f"{one.source} · {'draft' if sandbox.is_draft(one) else 'published'}"
        for one in sandbox.settings.applications
    }
    return pages.page(
        "Manage your apps",
        "<p>Authorize an application, or renew what you authorized before: that is due every 365 days. You sign in at"
        f" the application, at <code>{escape(sandbox.settings.login_uri)}</code>, and come back.</p>"
        f'<form method="post" action="{MANAGE}">{pages.choice("Application", "application_id", applications)}'
        f'{pages.seller_choice(sandbox)}<button class="approve">Renew / Authorize</button></form>',
    )


@post(MANAGE, sync_to_thread=False)
def renew(
    data: Annotated[dict[str, str], Body(media_type=RequestEncodingType.URL_ENCODED)],
    request: HttpRequest,
    sandbox: Sandbox,
) -> Response[str]:
    """To the application's Login URI. A draft's seller carries version=beta."""
    if sandbox.settings.login_uri is None:
        return _no_login_uri(400)
    application = sandbox.settings.application(data.get("application_id", ""))
    if application is None:
        return pages.error("MD1000", "There is no application with this application_id.")
    seller = sandbox.seller(data.get("seller_id", ""))
    if seller is None:
        return pages.unknown_seller()
    amazon_state = secrets.token_urlsafe(24)
    now = sandbox.clock.seconds()
    for key in [key for key, old in sandbox.kept.renewals.items() if old.expires_at < now]:
        del sandbox.kept.renewals[key]
    sandbox.kept.renewals[digest(amazon_state)] = Renewal(
        seller.seller_id, application.client_id, now + RENEWAL_SECONDS
    )
    sandbox.save()
    log.info("sent to the Login URI: %s for %s", seller.seller_id, application.source)
    here = f"{request.url.scheme}://{request.url.netloc}"
    query = {
        "amazon_callback_uri": f"{here}{CONFIRM}/{quote(application.application_id, safe='')}",
        "amazon_state": amazon_state,
        "selling_partner_id": seller.seller_id,
    }
    if sandbox.is_draft(application):
        query["version"] = "beta"
    return pages.redirect(sandbox.settings.login_uri, query)


@get(CONFIRM + "/{application_id:str}", sync_to_thread=False)
def confirm(application_id: str, request: HttpRequest, sandbox: Sandbox) -> Response[str]:
    """Back from the Login URI: an amazon_state that is good, once, sends the browser on as a consent does.
    What is wrong with it is MD1000, as sellers get it at this address (selling-partner-api-docs, issue 1489).
    """
    parameters = request.query_params
    fields = {name: parameters.get(name, "") for name in ("state", "redirect_uri", "version")}
    fields["application_id"] = application_id
    application = consent.admit(sandbox, fields)
    if not isinstance(application, Application):
        return application
    key = digest(parameters.get("amazon_state", ""))
    renewal = sandbox.kept.renewals.get(key)
    if renewal is None or renewal.client_id != application.client_id:
        return pages.error("MD1000", "The amazon_state was not given out for this application, or was used before.")
    if renewal.expires_at <= sandbox.clock.seconds():
        return pages.error("MD1000", "The amazon_state is too old. Start again at Manage your apps.")
    del sandbox.kept.renewals[key]
    return consent.send_back(sandbox, application, renewal.seller_id, fields)


def _no_login_uri(status_code: int) -> Response[str]:
    sentence = "<p>The application has no Login URI (SANDBOX_LOGIN_URI): authorize it from its own page.</p>"
    return pages.page("Manage your apps", sentence, status_code=status_code)
