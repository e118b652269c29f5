"""What the seller reads in the browser after Amazon has sent them back."""

from html import escape

from litestar import MediaType, Response
from msgspec import Struct

NO_REFERRER = {"Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
_HEADERS = NO_REFERRER | {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} - KeyBuzz</title>
<style>
body {{ font: 1.05rem/1.6 system-ui, sans-serif; color: #1c2530; background: #f3f5f8; margin: 0; }}
main {{ max-width: 34rem; margin: 12vh auto; padding: 2.5rem; background: #fff; border-radius: 12px;
  border-top: 6px solid {color}; box-shadow: 0 2px 18px #0001; }}
h1 {{ font-size: 1.5rem; margin: 0 0 1rem; }}
.reason {{ color: #55606e; font-size: .95rem; }}
.back {{ display: inline-block; margin-top: .6rem; padding: .6rem 1.4rem; border-radius: 8px; background: #1c2530;
  color: #fff; text-decoration: none; }}
.back:focus-visible {{ outline: 3px solid #00a1c9; outline-offset: 2px; }}
</style>
</head>
<body><main><h1>{title}</h1><p>{text}</p>{reason}{back}</main></body>
</html>
"""


class Page(Struct, frozen=True):
    """What it says; the reason is for whoever the seller asks for help, the code for the product."""

    status: int
    title: str
    text: str
    code: str
    reason: str | None = None
    retry_after_seconds: int | None = None

    @property
    def worked(self) -> bool:
        return self.status == 200  # noqa: PLR2004 - OK


def render(page: Page, back: str | None = None) -> Response[str]:
    """With a way back to the product, where there is one."""
    later = {"Retry-After": str(page.retry_after_seconds)} if page.retry_after_seconds else {}
    return Response(
        _PAGE.format(
            title=escape(page.title),
            text=escape(page.text),
            reason=f'<p class="reason">{escape(page.reason)}</p>' if page.reason else "",
            back=f'<a class="back" href="{escape(back)}">Back to KeyBuzz</a>' if back else "",
            color="#1a7f4b" if page.worked else "#b42318",
        ),
        status_code=page.status,
        media_type=MediaType.HTML,
        headers=_HEADERS | later,
    )
