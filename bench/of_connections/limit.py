"""The limit of bench/connections.py: oauth's own handlers and HTTP with neither Vault nor database nor Amazon, and the
bare Amazon that the measured oauth talks to. Each runs as a process of its own, by `process()`, and prints its port.
"""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import uuid4

import httpx
import msgspec
import uvicorn
from litestar import Litestar
from litestar.stores.memory import MemoryStore

from devstack.endpoints import HOST
from oauth import queries
from oauth.domain import AUTHORIZATION_LIFE, Connection, ConsentState, SpentState, Status
from oauth.lifecycle import Parts
from oauth.routes import ROUTES, limit_requests
from oauth.settings import OauthSettings
from shared.amazon.credentials import AppCredentials, TenantCredentials
from shared.amazon.lwa import Tokens
from shared.amazon.spapi import SpApi
from shared.auth import Keys
from shared.db import Conn, Pool
from shared.events import Event
from shared.outbox import Outbox
from shared.service import run
from shared.settings import load
from shared.telemetry import configure_logging
from shared.vault import Found, Vault
from shared.web import create_app

FR = "A13V1IB3VIYZZH"


class Memory:
    """Takes the place of oauth's queries, by their names."""

    def __init__(self) -> None:
        self.states: dict[bytes, ConsentState] = {}
        self.connections: dict[str, Connection] = {}

    async def lock_tenant(self, _conn: Conn, _tenant_id: str) -> bool:
        return False

    async def is_archived(self, _pool: Pool, _tenant_id: str) -> bool:
        return False

    async def insert_state(self, _conn: Conn, state_hash: bytes, state: ConsentState, life: timedelta) -> datetime:
        self.states[state_hash] = state
        return datetime.now(UTC) + life

    async def insert_pending(self, *_: object) -> None:
        pass

    async def spend_state(self, _pool: Pool, state_hash: bytes, **_: object) -> SpentState:
        return SpentState(self.states[state_hash], datetime.now(UTC))

    async def finish_states(self, *_: object, **__: object) -> None:
        pass

    async def get_return_url(self, _pool: Pool, _state_hash: bytes) -> tuple[str | None, bool]:
        return None, True

    async def get_rotate_by(self, *_: object) -> datetime:
        return datetime.now(UTC)

    async def get_connection(self, _conn: object, tenant_id: str) -> Connection | None:
        return self.connections.get(tenant_id)

    async def connect(
        self, _conn: Conn, _known: Connection | None, tenant_id: str, *, authorized_at: datetime, **given: Any
    ) -> Connection:
        del given["vault_path"]
        connected = Connection(
            id=uuid4(),
            tenant_id=tenant_id,
            marketplace="AMAZON",
            status=Status.CONNECTED,
            authorized_at=authorized_at,
            connected_at=authorized_at,
            verified_at=authorized_at,
            reauthorize_by=authorized_at + AUTHORIZATION_LIFE,
            void_until=None,
            last_error=None,
            last_error_code=None,
            **given,
        )
        self.connections[tenant_id] = connected
        return connected


class NoPool:
    """Hands out itself as the connection, whose transactions are nothing."""

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator["NoPool"]:
        yield self

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        yield


class NoOutbox(Outbox):
    async def add(self, conn: Conn, *events: Event, key: str | None = None) -> None:
        pass


class NoVault(Vault):
    def __init__(self) -> None:
        self.secrets: dict[str, dict[str, Any]] = {}

    async def look(self, path: str) -> Found:
        secret = self.secrets.get(path)
        return Found(secret, 1 if secret else 0, None)

    async def write(self, path: str, secret: dict[str, Any], *, replacing: int | None = None) -> int:
        self.secrets[path] = secret
        return (replacing or 0) + 1


class NoAmazon(SpApi):
    async def app(self, *, fresh: bool = False) -> AppCredentials:  # noqa: ARG002 - SpApi's
        return AppCredentials(client_id="c", client_secret="s", redirect_uri="http://r", application_id="a")  # noqa: S106

    async def exchange(self, code: str) -> Tokens:
        return Tokens("access", 3_600, f"Atzr|{code}")

    async def get_as(self, tenant: TenantCredentials, *call: Any, **_: Any) -> Any:
        marketplace = {"marketplace": {"id": tenant.marketplace_id, "countryCode": "FR"}}
        return msgspec.convert({"payload": [marketplace | {"participation": {"isParticipating": True}}]}, call[-1])


async def serve(app: Any) -> None:
    """As Service.serve() does, on a port that is printed."""
    listening = socket.create_server((HOST, 0), backlog=1024)
    print(listening.getsockname()[1], flush=True)
    config = uvicorn.Config(app, access_log=False, log_config=None, lifespan="off", server_header=False)
    await uvicorn.Server(config).serve(sockets=[listening])


async def limit() -> None:
    """In a process of its own."""
    needless = ("DATABASE_URL", "NATS_URL", "KEYBUZZ_INTERNAL_KEY", "VAULT_ADDR", "VAULT_TOKEN")
    settings = load(OauthSettings, dict.fromkeys(needless, "none") | {"JWT_SECRET": os.environ["JWT_SECRET"]})
    memory, vault = Memory(), NoVault()
    for name in vars(Memory):
        if not name.startswith("_"):
            setattr(queries, name, getattr(memory, name))
    async with httpx.AsyncClient() as http:
        api = NoAmazon(settings, vault, http, gate=None)
        await serve(wired(Parts(cast("Pool", NoPool()), NoOutbox("none", "none"), api, vault, settings)))


def wired(parts: Parts) -> Litestar:
    """Oauth's HTTP, as its app has it."""
    return create_app(
        "oauth",
        ROUTES,
        keys=Keys.of(parts.settings),
        dependencies={"parts": parts, "keys": Keys.of(parts.settings)},
        checks={},
        asyncapi={},
        middleware=[limit_requests(parts.settings.requests_per_minute)],
        stores={"rate_limit": MemoryStore()},
    )


async def amazon() -> None:
    """In a process of its own: a token for everything, one marketplace for everybody."""
    participations = (
        b'{"payload":[{"marketplace":{"id":"%s","countryCode":"FR"},"participation":{"isParticipating":true}}]}'
        % FR.encode()
    )

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = participations
        if scope["method"] == "POST":
            while (await receive()).get("more_body"):
                pass
            body = b'{"access_token":"Atza|%s","expires_in":3600,"refresh_token":"Atzr|%s"}' % (
                (uuid4().hex.encode(),) * 2
            )
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    await serve(app)


@asynccontextmanager
async def process(part: str, **variables: str) -> AsyncIterator[int]:
    """Limit or amazon, running; its port."""
    running = await asyncio.create_subprocess_exec(
        sys.executable, __file__, part, env={**os.environ, **variables}, stdout=asyncio.subprocess.PIPE
    )
    assert running.stdout is not None  # noqa: S101 - it was asked for
    try:
        yield int(await running.stdout.readline())
    finally:
        running.terminate()
        await running.wait()


if __name__ == "__main__":
    configure_logging("bench", "WARNING")
    run({"limit": limit, "amazon": amazon}[sys.argv[1]])
