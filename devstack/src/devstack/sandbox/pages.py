"""What a seller sees at Seller Central: the frame of every page, its errors, the choice of a seller, the way out."""

from collections.abc import Mapping
from html import escape
from urllib.parse import urlencode, urlsplit, urlunsplit

from litestar.response import Response

from .marketplaces import MARKETPLACES
from .state import Sandbox

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
_HEADERS = {
    # No form-action here: browsers apply it to the redirect that follows the form too.
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def page(title: str, body: str, *, status_code: int = 200) -> Response[str]:
    return Response(
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        f'<span class="sandbox">Amazon sandbox</span><h1>{escape(title)}</h1>{body}</main></body></html>',
        status_code=status_code,
        media_type="text/html",
        headers=_HEADERS,
    )


def error(code: str, sentence: str) -> Response[str]:
    body = f"<p>{escape(sentence)}</p><p>Error code: <strong>{code}</strong></p>"
    return page("We cannot process this request", body, status_code=400)


def unknown_seller() -> Response[str]:
    return error("SPDC8001", "This selling partner is not known here. Go back and choose one.")


def redirect(address: str, query: Mapping[str, str]) -> Response[str]:
    """The address keeps the query that it has."""
    target = urlsplit(address)
    together = f"{target.query}&{urlencode(query)}" if target.query else urlencode(query)
    location = urlunsplit(target._replace(query=together))
    return Response("", status_code=302, headers={"location": location, **_HEADERS})


def choice(legend: str, name: str, options: Mapping[str, str]) -> str:
    """Radio buttons, the first one chosen: each value with what is said about it."""
    labels = [
        f'<label><input type="radio" name="{name}" value="{escape(value)}"{" checked" if number == 0 else ""} required>'
        f" {escape(value)}<br><small>{escape(about)}</small></label>"
        for number, (value, about) in enumerate(options.items())
    ]
    return f"<fieldset><legend>{escape(legend)}</legend>{''.join(labels)}</fieldset>"


def seller_choice(sandbox: Sandbox) -> str:
    return choice(
        "Selling partner",
        "seller_id",
        {
            seller.seller_id: f"{', '.join(MARKETPLACES[one].name for one in seller.marketplace_ids)}"
            f" · {seller.orders} orders"
            for seller in sandbox.sellers()
        },
    )
