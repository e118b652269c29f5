"""The person at Amazon's pages, for tests and the demo."""

from html.parser import HTMLParser
from urllib.parse import urljoin

import httpx


class ConsentError(Exception):
    """The page refused, or did not send the browser back."""


async def approve(http: httpx.AsyncClient, consent_url: str, seller_id: str) -> str:
    """Open the page, choose the seller, press Approve; return the address one is sent to, not opened."""
    return await _submit(http, consent_url, seller_id=seller_id, decision="approve")


async def renew(http: httpx.AsyncClient, sandbox_url: str, seller_id: str, application_id: str | None = None) -> str:
    """Open Manage Your Apps, choose the seller and the application (the page's first one unless told), press Renew;
    return the address at the application's Login URI that one is sent to, not opened.
    """
    chosen = {} if application_id is None else {"application_id": application_id}
    return await _submit(http, f"{sandbox_url}/apps/manage", seller_id=seller_id, **chosen)


async def confirm(http: httpx.AsyncClient, callback_url: str) -> str:
    """Open the address at Amazon that the application sends the browser to after its Login URI; return the one that
    Amazon sends it back to, not opened.
    """
    return _location(await http.get(callback_url, follow_redirects=False))


async def _submit(http: httpx.AsyncClient, url: str, **choices: str) -> str:
    page = await http.get(url)
    form = _Form(page.text)
    if page.status_code != httpx.codes.OK or form.action is None:
        raise ConsentError(f"Amazon's page answered {page.status_code}: {form.text}")
    address = urljoin(str(page.url), form.action)
    return _location(await http.post(address, data={**form.fields, **choices}, follow_redirects=False))


def _location(answer: httpx.Response) -> str:
    if not answer.is_redirect:
        raise ConsentError(f"Amazon answered {answer.status_code}: {_Form(answer.text).text}")
    return answer.headers["location"]


class _Form(HTMLParser):
    """The page's form as a browser sees it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.action: str | None = None
        self.fields: dict[str, str] = {}
        """What is hidden, and what is chosen before one chooses."""
        self._texts: list[str] = []
        self._in_style = False
        self.feed(page)

    @property
    def text(self) -> str:
        return " ".join(self._texts)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self._in_style = tag == "style"
        if tag == "form":
            self.action = values.get("action", "")
        elif tag == "input" and (values.get("type") == "hidden" or "checked" in values):
            self.fields[values["name"]] = values["value"]

    def handle_data(self, data: str) -> None:
        if data.strip() and not self._in_style:
            self._texts.append(data.strip())
