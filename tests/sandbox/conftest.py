"""A sandbox as a process of its own, and what a caller of Amazon does with it."""

import itertools
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import msgspec
import pytest

from devstack.sandbox.client import approve

CALLBACK = "http://127.0.0.1:9/oauth/callback"
OTHER_CALLBACK = "http://127.0.0.1:9/other?kept=1"
LOGIN = "http://127.0.0.1:9/oauth/login?kept=1"
APPLICATION = "amzn1.sp.solution.test"
KEYBUZZ = "amzn1.sp.solution.keybuzz"
MODELS = Path(__file__).parents[3] / "shared" / "amazon-models"

REPORTS = "/reports/2021-06-30"
BY_ORDER_DATE = "GET_FLAT_FILE_ALL_ORDERS_DATA_BY_ORDER_DATE_GENERAL"
BY_LAST_UPDATE = "GET_FLAT_FILE_ALL_ORDERS_DATA_BY_LAST_UPDATE_GENERAL"

Answer = dict[str, Any]


def query_of(address: str) -> dict[str, str]:
    """Each parameter of an address, which has it once."""
    return {name: value for name, (value,) in parse_qs(urlsplit(address).query).items()}


class Tokens(msgspec.Struct, frozen=True):
    access: str
    refresh: str


class Server:
    """A process that can be killed and started again on the same state."""

    def __init__(self, state: Path, **environment: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{port}"
        self.secret = "the-" + secrets.token_hex(8)
        self.keybuzz_secret = "another-" + secrets.token_hex(8)
        self.log = state / "log"
        self.environment = {
            "SANDBOX_PORT": str(port),
            "SANDBOX_STATE": str(state),
            "SANDBOX_CLIENT_ID": "amzn1.application-oa2-client.test",
            "SANDBOX_CLIENT_SECRET": self.secret,
            "SANDBOX_APPLICATION_ID": APPLICATION,
            "SANDBOX_KEYBUZZ_CLIENT_ID": "amzn1.application-oa2-client.keybuzz",
            "SANDBOX_KEYBUZZ_CLIENT_SECRET": self.keybuzz_secret,
            "SANDBOX_KEYBUZZ_APPLICATION_ID": KEYBUZZ,
            "SANDBOX_REDIRECT_URIS": f"{CALLBACK}, {OTHER_CALLBACK}",
            "SANDBOX_LOGIN_URI": LOGIN,
            **environment,
        }

    def start(self) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SANDBOX_")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "devstack.sandbox"], env={**clean, **self.environment}, stderr=log
            )
        deadline = time.monotonic() + 20
        with httpx.Client(base_url=self.url, trust_env=False) as http:
            while time.monotonic() < deadline and self.process.poll() is None:
                try:
                    if http.get("/health").status_code == 200:
                        return
                except httpx.TransportError:
                    time.sleep(0.02)
        raise AssertionError(f"The sandbox did not start: {self.log.read_text()}")

    def end(self, how: signal.Signals = signal.SIGTERM) -> float:
        """Seconds until it was gone."""
        began = time.monotonic()
        self.process.send_signal(how)
        self.process.wait(10)
        return time.monotonic() - began


class Amazon:
    """A caller: the person at the consent page, the application, and the one who controls the sandbox."""

    _numbers = itertools.count(1)

    def __init__(self, server: Server, http: httpx.AsyncClient) -> None:
        self.server = server
        self.http = http

    async def control(self, method: str, path: str, body: object = None) -> Any:
        answer = await self.http.request(method, f"/sandbox/{path}", json=body)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    async def seller(self, orders: int = 3, **spec: object) -> str:
        seller_id = f"ATEST{next(self._numbers):06}"
        await self.control("PUT", f"sellers/{seller_id}", {"orders": orders, **spec})
        return seller_id

    async def truth(self, seller_id: str) -> list[Answer]:
        """All orders, complete, oldest first."""
        found: list[Answer] = []
        while True:
            page = await self.control("GET", f"sellers/{seller_id}/orders?limit=1000&offset={len(found)}")
            found += page["orders"]
            if len(found) == page["total"]:
                return found

    async def anchor(self, seller_id: str) -> float:
        sellers = (await self.control("GET", "sellers"))["sellers"]
        return next(float(one["anchor"]) for one in sellers if one["sellerId"] == seller_id)

    async def advance(self, seconds: float) -> None:
        await self.control("POST", "clock", {"advanceSeconds": seconds})

    def consent_url(self, **changes: str) -> str:
        fields = {"application_id": APPLICATION, "state": "a-state", "version": "beta", **changes}
        return f"{self.server.url}/apps/authorize/consent?{urlencode(fields)}"

    async def code(self, seller_id: str, redirect_uri: str = CALLBACK, application_id: str = APPLICATION) -> str:
        url = self.consent_url(redirect_uri=redirect_uri, application_id=application_id)
        return query_of(await approve(self.http, url, seller_id))["spapi_oauth_code"]

    def keybuzz(self, **changes: str) -> dict[str, str]:
        """How the other application authenticates, for token()."""
        client_id = self.server.environment["SANDBOX_KEYBUZZ_CLIENT_ID"]
        return {"client_id": client_id, "client_secret": self.server.keybuzz_secret, **changes}

    async def fail(self, operation: str, status: int | str, seller_id: str | None = None, **more: object) -> None:
        fault = {"operation": operation, "status": status, "sellerId": seller_id, **more}
        await self.control("POST", "faults", fault)

    async def calls(self, operation: str, seller_id: str) -> dict[str, int]:
        counted: dict[str, int] = (await self.control("GET", "calls"))[operation].get(seller_id, {})
        return counted

    async def token(self, grant_type: str, /, **changes: str) -> httpx.Response:
        fields = {
            "grant_type": grant_type,
            "client_id": self.server.environment["SANDBOX_CLIENT_ID"],
            "client_secret": self.server.secret,
            **changes,
        }
        form = {name: value for name, value in fields.items() if value}
        return await self.http.post("/auth/o2/token", data=form)

    async def connect(self, seller_id: str, application_id: str = APPLICATION) -> Tokens:
        code = await self.code(seller_id, application_id=application_id)
        client = self.keybuzz() if application_id == KEYBUZZ else {}
        answer = await self.token("authorization_code", code=code, redirect_uri=CALLBACK, **client)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        return Tokens(body["access_token"], body["refresh_token"])

    async def search(self, tokens: Tokens, **parameters: str | int | list[str]) -> httpx.Response:
        if not parameters.keys() & {"createdAfter", "lastUpdatedAfter"}:
            parameters["createdAfter"] = "2020-01-01T00:00:00Z"
        return await self.get("/orders/2026-01-01/orders", tokens, parameters)

    async def search_all(self, tokens: Tokens, **parameters: str | int | list[str]) -> list[Answer]:
        """All pages; the clock jumps ahead when the burst is used up."""
        found: list[Answer] = []
        while True:
            answer = await self.search(tokens, **parameters)
            if answer.status_code == 429:
                await self.advance(180)
                continue
            assert answer.status_code == 200, answer.text
            body = answer.json()
            found += body["orders"]
            if "pagination" not in body:
                return found
            parameters["paginationToken"] = body["pagination"]["nextToken"]

    async def report(self, tokens: Tokens, **changes: object) -> httpx.Response:
        """Asked for; of the last 30 days by date of order, unless told otherwise."""
        now = datetime.fromisoformat((await self.control("GET", "clock"))["now"])
        body = {
            "reportType": BY_ORDER_DATE,
            "marketplaceIds": ["A13V1IB3VIYZZH"],
            "dataStartTime": (now - timedelta(days=30)).isoformat(),
            "dataEndTime": now.isoformat(),
            **changes,
        }
        headers = {"x-amz-access-token": tokens.access}
        return await self.http.post(f"{REPORTS}/reports", json=body, headers=headers)

    async def done(self, tokens: Tokens, report_id: str) -> Answer:
        """What became of a report; the clock jumps ahead until something did."""
        while True:
            answer = await self.get(f"{REPORTS}/reports/{report_id}", tokens)
            assert answer.status_code in {200, 429}, answer.text
            if answer.status_code == 200 and not answer.json()["processingStatus"].startswith("IN_"):
                told: Answer = answer.json()
                return told
            await self.advance(20)

    async def document(self, tokens: Tokens, report_id: str) -> tuple[Answer, httpx.Response]:
        """Of a report that is done: where it is said to be, and the download."""
        told = await self.done(tokens, report_id)
        assert told["processingStatus"] == "DONE", told
        answer = await self.get(f"{REPORTS}/documents/{told['reportDocumentId']}", tokens)
        assert answer.status_code == 200, answer.text
        return answer.json(), await self.http.get(answer.json()["url"])

    async def get(
        self, path: str, tokens: Tokens | None, parameters: Mapping[str, str | int | list[str]] | None = None
    ) -> httpx.Response:
        headers = {"x-amz-access-token": tokens.access} if tokens is not None else {}
        return await self.http.get(path, params=parameters, headers=headers)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = {"SANDBOX_MODELS": str(MODELS)} if MODELS.is_dir() else {}
    server = Server(tmp_path_factory.mktemp("sandbox"), **models)
    server.start()
    yield server
    server.end()


@pytest.fixture(scope="session")
async def http(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=10) as http:
        yield http


@pytest.fixture
async def amazon(server: Server, http: httpx.AsyncClient) -> AsyncIterator[Amazon]:
    yield Amazon(server, http)
    await http.delete("/sandbox/faults")
    await http.put("/sandbox/applications/keybuzz", json={"draft": False})
    await http.post("/sandbox/clock", json={"speed": 1})


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[Amazon]:
    """A sandbox that the test may kill."""
    server = Server(tmp_path / "state")
    server.log = tmp_path / "log"
    server.start()
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=10) as http:
        yield Amazon(server, http)
    if server.process.poll() is None:
        server.end()
