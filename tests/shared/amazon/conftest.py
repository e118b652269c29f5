"""The Amazon sandbox of the shared stack, and servers that answer what Amazon never should."""

import asyncio
import itertools
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest

from devstack.sandbox.client import approve
from devstack.stack import Stack
from shared.amazon.credentials import AppCredentials, TenantCredentials, read_app
from shared.amazon.lwa import Lwa
from shared.amazon.spapi import SpApi
from shared.settings import AmazonSettings, load
from shared.vault import Vault


class Amazon:
    """The application at the sandbox, and the one who controls it."""

    _numbers = itertools.count(1)

    def __init__(self, settings: AmazonSettings, app: AppCredentials, http: httpx.AsyncClient) -> None:
        self.settings = settings
        self.app = app
        self.http = http
        self.lwa = Lwa(http, settings.amazon_lwa_url)
        self.api = SpApi(settings, Vault(settings), http, gate=None)

    async def control(self, method: str, path: str, body: object = None) -> Any:
        answer = await self.http.request(method, f"{self.settings.amazon_lwa_url}/sandbox/{path}", json=body)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    async def fail(self, operation: str, status: int | str, seller_id: str | None = None, times: int = 1) -> None:
        await self.control(
            "POST", "faults", {"operation": operation, "status": status, "sellerId": seller_id, "times": times}
        )

    async def seller(self, orders: int = 3) -> str:
        seller_id = f"AKIT{next(self._numbers):06}"
        await self.control("PUT", f"sellers/{seller_id}", {"orders": orders})
        return seller_id

    async def code(self, seller_id: str) -> str:
        fields = {
            "application_id": self.app.application_id,
            "state": "a-state",
            "version": "beta",
            "redirect_uri": self.app.redirect_uri,
        }
        url = f"{self.settings.amazon_lwa_url}/apps/authorize/consent?{urlencode(fields)}"
        location = await approve(self.http, url, seller_id)
        return parse_qs(urlsplit(location).query)["spapi_oauth_code"][0]

    async def connect(self, seller_id: str) -> TenantCredentials:
        elsewhere = Lwa(self.http, self.settings.amazon_lwa_url)  # ours does not know the access token of the exchange
        tokens = await elsewhere.exchange(self.app, await self.code(seller_id))
        assert tokens.refresh_token is not None
        return TenantCredentials(tokens.refresh_token, seller_id, "A13V1IB3VIYZZH", "eu", datetime.now(UTC))

    async def calls(self, operation: str, seller_id: str) -> dict[str, int]:
        """How often each status was answered."""
        found: dict[str, int] = (await self.control("GET", "calls")).get(operation, {}).get(seller_id, {})
        return found

    async def order_ids(self, seller_id: str) -> list[str]:
        found = await self.control("GET", f"sellers/{seller_id}/orders")
        return [order["orderId"] for order in found["orders"]]


def settings_of(stack: Stack, **changes: str) -> AmazonSettings:
    role = stack.endpoints.vault.roles["oauth"]
    environ = {
        "DATABASE_URL": "unused",
        "NATS_URL": "unused",
        "KEYBUZZ_INTERNAL_KEY": "unused",
        "JWT_SECRET": "unused",
        "VAULT_ADDR": stack.endpoints.vault.addr,
        "VAULT_CACERT": stack.endpoints.vault.cacert,
        "VAULT_ROLE_ID": role.role_id,
        "VAULT_SECRET_ID": role.secret_id,
        "AMAZON_LWA_URL": stack.endpoints.amazon.url,
        "AMAZON_SPAPI_URL": stack.endpoints.amazon.url,
    }
    return load(AmazonSettings, environ | changes)


@pytest.fixture
async def amazon(stack: Stack) -> AsyncIterator[Amazon]:
    settings = settings_of(stack)
    app = await read_app(Vault(settings), settings.app_path)
    async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
        amazon = Amazon(settings, app, http)
        await amazon.control("DELETE", "calls")
        yield amazon
        await amazon.control("DELETE", "faults")


Odd = Callable[[bytes], AbstractAsyncContextManager[str]]


@pytest.fixture
def answering() -> Odd:
    """A server that answers every connection with the same bytes, and its address."""

    @asynccontextmanager
    async def serve(answer: bytes) -> AsyncIterator[str]:
        async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            await reader.readexactly(int(length[1]) if length else 0)  # else the connection ends in a reset
            writer.write(answer)
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        with socket.create_server(("127.0.0.1", 0)) as listening:
            server = await asyncio.start_server(reply, sock=listening)
            async with server:
                yield f"http://127.0.0.1:{listening.getsockname()[1]}"

    return serve
