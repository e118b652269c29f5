"""The person at the consent page, for tests and the demo."""

from html.parser import HTMLParser
from urllib.parse import urljoin

import httpx


class ConsentError(Exception):
    """The page refused, or did not send the browser back."""


async def approve(http: httpx.AsyncClient, consent_url: str, seller_id: str) -> str:
    """Open the page, choose the seller, press Approve; return the address one is sent to, not opened."""
    page = await http.get(consent_url)
    form = _Form(page.text)
    if page.status_code != httpx.codes.OK or form.action is None:
        raise ConsentError(f"The consent page answered {page.status_code}: {form.text}")
    answer = await http.post(
        urljoin(str(page.url), form.action),
        data={**form.hidden, "seller_id": seller_id, "decision": "approve"},
        follow_redirects=False,
    )
    if not answer.is_redirect:
        raise ConsentError(f"The consent form answered {answer.status_code}: {_Form(answer.text).text}")
    return answer.headers["location"]


class _Form(HTMLParser):
    """The page's form as a browser sees it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.action: str | None = None
        self.hidden: dict[str, str] = {}
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
        elif tag == "input" and values.get("type") == "hidden":
            self.hidden[values["name"]] = values["value"]

    def handle_data(self, data: str) -> None:
        if data.strip() and not self._in_style:
            self._texts.append(data.strip())
