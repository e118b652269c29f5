"""What the seller reads in the browser after Amazon has sent them back."""

from html import escape

from litestar import MediaType, Response

_HEADERS = {
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
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
</style>
</head>
<body><main><h1>{title}</h1><p>{text}</p>{reason}</main></body>
</html>
"""


def success(title: str, text: str) -> Response[str]:
    return _page(200, title, text, None, "#1a7f4b")


def failure(status: int, title: str, text: str, reason: str) -> Response[str]:
    """The reason is for whoever the seller asks for help."""
    return _page(status, title, text, reason, "#b42318")


def _page(status: int, title: str, text: str, reason: str | None, color: str) -> Response[str]:
    told = f'<p class="reason">{escape(reason)}</p>' if reason else ""
    return Response(
        _PAGE.format(title=escape(title), text=escape(text), reason=told, color=color),
        status_code=status,
        media_type=MediaType.HTML,
        headers=_HEADERS,
    )
