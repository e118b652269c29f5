"""The consent page: Seller Central's part of the authorization workflow.

developer-docs.amazon.com/sp-api/docs/website-authorization-workflow and /authorization-errors.
"""

import secrets
from collections.abc import Mapping
from html import escape
from typing import Annotated

from litestar import get, post
from litestar.enums import RequestEncodingType
from litestar.params import Body
from litestar.response import Response

from . import pages
from .http import HttpRequest
from .settings import Application
from .state import Code, Sandbox, digest, log

PATH = "/apps/authorize/consent"
CODE_SECONDS = 300
_KEPT_FIELDS = ("application_id", "state", "redirect_uri", "version")


@get(PATH, sync_to_thread=False)
def consent_page(request: HttpRequest, sandbox: Sandbox) -> Response[str]:
    fields = {name: request.query_params.get(name, "") for name in _KEPT_FIELDS}
    application = admit(sandbox, fields)
    if not isinstance(application, Application):
        return application
    return pages.page("Authorize application", _form(sandbox, fields))


@post(PATH, sync_to_thread=False)
def consent_decision(
    data: Annotated[dict[str, str], Body(media_type=RequestEncodingType.URL_ENCODED)],
    sandbox: Sandbox,
) -> Response[str]:
    """Approve sends the browser back with a code. Amazon documents no callback for Cancel: none is made."""
    fields = {name: data.get(name, "") for name in _KEPT_FIELDS}
    application = admit(sandbox, fields)
    if not isinstance(application, Application):
        return application
    if data.get("decision") == "cancel":
        return pages.page(
            "You left without authorizing",
            "<p>The application was not authorized and has not been told. You can close this window.</p>",
        )
    seller = sandbox.seller(data.get("seller_id", ""))
    if seller is None:
        return pages.unknown_seller()
    return send_back(sandbox, application, seller.seller_id, fields)


def admit(sandbox: Sandbox, fields: Mapping[str, str]) -> Application | Response[str]:
    """The application that asks, or the page that refuses it."""
    application = sandbox.settings.application(fields["application_id"])
    if application is None:
        return pages.error("MD1000", "There is no application with this application_id.")
    if sandbox.is_draft(application) and fields["version"] != "beta":
        return pages.error("MD1000", "The application is a draft, and the parameter version=beta is missing.")
    if not fields["state"]:
        return pages.error("MD1000", "The parameter state is missing.")
    if fields["redirect_uri"] and fields["redirect_uri"] not in sandbox.settings.redirect_uris:
        return pages.error("MD5101", "The redirect_uri is not one of those registered for the application.")
    return application


def send_back(sandbox: Sandbox, application: Application, seller_id: str, fields: Mapping[str, str]) -> Response[str]:
    """To the application, with a code that it exchanges for the seller's refresh token."""
    redirect_uri = fields["redirect_uri"] or sandbox.settings.redirect_uris[0]
    code = "RH" + secrets.token_urlsafe(18)
    now = sandbox.clock.seconds()
    for key in [key for key, old in sandbox.kept.codes.items() if old.expires_at < now]:
        del sandbox.kept.codes[key]
    sandbox.kept.codes[digest(code)] = Code(seller_id, redirect_uri, now + CODE_SECONDS, application.client_id)
    sandbox.save()
    log.info("consent given: %s to %s", seller_id, application.source)
    answer = {"state": fields["state"], "selling_partner_id": seller_id, "spapi_oauth_code": code}
    return pages.redirect(redirect_uri, answer)


def _form(sandbox: Sandbox, fields: Mapping[str, str]) -> str:
    hidden = "".join(
        f'<input type="hidden" name="{name}" value="{escape(value)}">' for name, value in fields.items() if value
    )
    target = fields["redirect_uri"] or sandbox.settings.redirect_uris[0]
    return (
        f"<p>The application <code>{escape(fields['application_id'])}</code> asks for access to your selling "
        f"partner data. If you approve, you return to <code>{escape(target)}</code>.</p>"
        f'<form method="post" action="{PATH}">{hidden}{pages.seller_choice(sandbox)}'
        '<button class="approve" name="decision" value="approve">Approve</button> '
        '<button name="decision" value="cancel">Cancel</button></form>'
    )
