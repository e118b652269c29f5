"""The consent page: Seller Central's part of the authorization workflow.

developer-docs.amazon.com/sp-api/docs/website-authorization-workflow and /authorization-errors.
"""

import secrets
from collections.abc import Mapping
from html import escape
from typing import Annotated
from urllib.parse import urlencode, urlsplit, urlunsplit

from litestar import get, post
from litestar.enums import RequestEncodingType
from litestar.params import Body
from litestar.response import Response

from .http import HttpRequest
from .marketplaces import MARKETPLACES
from .state import Code, Sandbox, digest, log

PATH = "/apps/authorize/consent"
CODE_SECONDS = 300
_KEPT_FIELDS = ("application_id", "state", "redirect_uri", "version")
_STYLE = """
body{margin:0;background:#f3f3f3;color:#16191f;font:16px/1.5 system-ui,sans-serif}
main{max-width:34rem;margin:3rem auto;padding:2rem;background:#fff;border:1px solid #d5dbdb;border-radius:8px}
h1{margin:0 0 .5rem;font-size:1.4rem} code{overflow-wrap:anywhere}
.sandbox{display:inline-block;padding:.1rem .6rem;border-radius:1rem;background:#ffe8b3;font-size:.8rem}
fieldset{margin:1rem 0;padding:.5rem 1rem;border:1px solid #d5dbdb;border-radius:8px}
label{display:block;padding:.4rem 0} small{color:#545b64}
button{padding:.6rem 1.4rem;border:1px solid #545b64;border-radius:6px;background:#fff;font:inherit}
button.approve{border-color:#c77700;background:#f90;font-weight:600}
button:focus-visible,input:focus-visible{outline:3px solid #00a1c9;outline-offset:2px}
"""


@get(PATH, sync_to_thread=False)
def consent_page(request: HttpRequest, sandbox: Sandbox) -> Response[str]:
    fields = {name: request.query_params.get(name, "") for name in _KEPT_FIELDS}
    refused = _refusal(sandbox, fields)
    return refused if refused is not None else _page("Authorize application", _form(sandbox, fields))


@post(PATH, sync_to_thread=False)
def consent_decision(
    data: Annotated[dict[str, str], Body(media_type=RequestEncodingType.URL_ENCODED)],
    sandbox: Sandbox,
) -> Response[str]:
    """Approve sends the browser back with a code. Amazon documents no callback for Cancel: none is made."""
    fields = {name: data.get(name, "") for name in _KEPT_FIELDS}
    refused = _refusal(sandbox, fields)
    if refused is not None:
        return refused
    if data.get("decision") == "cancel":
        return _page(
            "You left without authorizing",
            "<p>The application was not authorized and has not been told. You can close this window.</p>",
        )
    seller = sandbox.seller(data.get("seller_id", ""))
    if seller is None:
        return _error("SPDC8001", "This selling partner is not known here. Go back and choose one.")
    redirect_uri = fields["redirect_uri"] or sandbox.settings.redirect_uris[0]
    code = "RH" + secrets.token_urlsafe(18)
    now = sandbox.clock.seconds()
    for key in [key for key, old in sandbox.kept.codes.items() if old.expires_at < now]:
        del sandbox.kept.codes[key]
    sandbox.kept.codes[digest(code)] = Code(seller.seller_id, redirect_uri, now + CODE_SECONDS)
    sandbox.save()
    log.info("consent given: %s", seller.seller_id)
    answer = {"state": fields["state"], "selling_partner_id": seller.seller_id, "spapi_oauth_code": code}
    target = urlsplit(redirect_uri)
    query = f"{target.query}&{urlencode(answer)}" if target.query else urlencode(answer)
    location = urlunsplit(target._replace(query=query))
    return Response("", status_code=302, headers={"location": location, **_HEADERS})


def _refusal(sandbox: Sandbox, fields: Mapping[str, str]) -> Response[str] | None:
    if fields["application_id"] != sandbox.settings.application_id:
        return _error("MD1000", "There is no application with this application_id.")
    if not fields["state"]:
        return _error("MD1000", "The parameter state is missing.")
    if fields["redirect_uri"] and fields["redirect_uri"] not in sandbox.settings.redirect_uris:
        return _error("MD5101", "The redirect_uri is not one of those registered for the application.")
    return None


def _form(sandbox: Sandbox, fields: Mapping[str, str]) -> str:
    hidden = "".join(
        f'<input type="hidden" name="{name}" value="{escape(value)}">' for name, value in fields.items() if value
    )
    sellers = []
    for number, seller in enumerate(sandbox.sellers()):
        places = ", ".join(MARKETPLACES[one].name for one in seller.marketplace_ids)
        checked = " checked" if number == 0 else ""
        name = escape(seller.seller_id)
        sellers.append(
            f'<label><input type="radio" name="seller_id" value="{name}"{checked} required> {name}'
            f"<br><small>{escape(places)} · {seller.orders} orders</small></label>"
        )
    target = fields["redirect_uri"] or sandbox.settings.redirect_uris[0]
    return (
        f"<p>The application <code>{escape(fields['application_id'])}</code> asks for access to your selling "
        f"partner data. If you approve, you return to <code>{escape(target)}</code>.</p>"
        f'<form method="post" action="{PATH}">{hidden}'
        f"<fieldset><legend>Selling partner</legend>{''.join(sellers)}</fieldset>"
        '<button class="approve" name="decision" value="approve">Approve</button> '
        '<button name="decision" value="cancel">Cancel</button></form>'
    )


def _error(code: str, sentence: str) -> Response[str]:
    body = f"<p>{escape(sentence)}</p><p>Error code: <strong>{code}</strong></p>"
    return _page("We cannot process this request", body, status_code=400)


def _page(title: str, body: str, *, status_code: int = 200) -> Response[str]:
    return Response(
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        f'<span class="sandbox">Amazon sandbox</span><h1>{escape(title)}</h1>{body}</main></body></html>',
        status_code=status_code,
        media_type="text/html",
        headers=_HEADERS,
    )


_HEADERS = {
    # No form-action here: browsers apply it to the redirect that follows the form too.
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
