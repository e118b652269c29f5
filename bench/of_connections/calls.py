"""What a request costs oauth, for bench/connections.py: which calls it makes, and what each costs alone."""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import hvac

from devstack.endpoints import HOST, Endpoints
from oauth import queries
from oauth.domain import ConsentState
from oauth.lifecycle import Parts
from oauth.routes import API
from oauth.settings import OauthSettings
from shared.amazon.credentials import tenant_path
from shared.amazon.spapi import SpApi
from shared.db import open_pool
from shared.outbox import Outbox
from shared.vault import Found, Vault

from .client import Seller
from .limit import wired

CALLS = (
    "Vault read",
    "Vault write",
    "PostgreSQL statement",
    "PostgreSQL commit",
    "Amazon token call",
    "Amazon other call",
)


class CountedVault(Vault):
    calls: Counter[str]

    async def look(self, path: str) -> Found:
        self.calls["Vault read"] += 1
        return await super().look(path)

    async def write(self, path: str, secret: dict[str, Any], *, replacing: int | None = None) -> int:
        self.calls["Vault write"] += 1
        return await super().write(path, secret, replacing=replacing)


WRITES = ("INSERT", "UPDATE", "WITH")


async def count_calls(settings: OauthSettings, endpoints: Endpoints) -> dict[str, Counter[str]]:
    """What each request makes, the second time: what is kept for a minute or an hour is there then."""
    calls: Counter[str] = Counter()
    in_transaction = False

    def note_statement(logged: asyncpg.connection.LoggedQuery) -> None:
        nonlocal in_transaction
        verb = logged.query.split(maxsplit=1)[0].rstrip(";")
        in_transaction = verb == "BEGIN" or (in_transaction and verb != "COMMIT")
        calls["PostgreSQL statement"] += 1
        calls["PostgreSQL commit"] += verb == "COMMIT" or (verb in WRITES and not in_transaction)

    async def note_amazon(request: httpx.Request) -> None:
        calls["Amazon token call" if request.method == "POST" else "Amazon other call"] += 1

    vault = CountedVault(settings)
    vault.calls = calls
    pool = await open_pool(endpoints.postgres.dsns["oauth"], "bench", size=1)
    async with pool.acquire() as conn:
        conn.add_query_logger(note_statement)
    counted = {}
    async with httpx.AsyncClient(event_hooks={"request": [note_amazon]}) as outside:
        parts = Parts(pool, Outbox("bench", ""), SpApi(settings, vault, outside, gate=None), vault, settings)
        transport = httpx.ASGITransport(wired(parts))  # type: ignore[arg-type] # the same protocol, typed more closely
        async with httpx.AsyncClient(transport=transport, base_url="http://oauth") as http:
            for _ in range(2):
                [seller] = Seller.some(1, endpoints.tokens.jwt_secret)
                signed_in = {"Authorization": f"Bearer {seller.token}"}
                started = b""
                for name in ("start", "callback", "status"):
                    calls.clear()
                    if name == "start":
                        answer = await http.post(f"{API}/oauth/start", json={}, headers=signed_in)
                        started = answer.content
                    elif name == "callback":
                        path = seller.callback(started).split(b" ", 2)[1].decode()
                        answer = await http.get(path)
                    else:
                        answer = await http.get(f"{API}/status", headers=signed_in)
                    if not answer.is_success:
                        raise SystemExit(answer.text)
                    counted[name] = Counter(calls)
    await pool.close()
    return counted


class Bare:
    """The calls that oauth makes, one by one and with nothing around them."""

    def __init__(self, settings: OauthSettings, endpoints: Endpoints, http: httpx.AsyncClient, amazon: int) -> None:
        self.settings, self.dsn, self.http = settings, endpoints.postgres.dsns["oauth"], http
        self.amazon = f"http://{HOST}:{amazon}"
        self.path = tenant_path(f"bench-{uuid4().hex}")
        self.vault = Vault(settings)
        self.kv = hvac.Client(url=settings.vault_addr, verify=settings.vault_cacert)

    async def open(self) -> None:
        secret_id = self.settings.vault_secret_id
        self.kv.auth.approle.login(self.settings.vault_role_id, secret_id.reveal() if secret_id else "")
        self.pool = await open_pool(self.dsn, "bench", size=1)

    async def close(self) -> None:
        await self.pool.close()

    async def milliseconds(self, times: int) -> dict[str, float]:
        """The median of each."""
        return {
            "Vault write": await self._timed(times, self._write),
            "Vault read": await self._timed(times, self._read),
            "PostgreSQL statement": await self._timed(times, self._select),
            "PostgreSQL commit": await self._timed(times, self._commit),
            "Amazon token call": await self._timed(times, self._token),
            "Amazon other call": await self._timed(times, self._get),
        }

    async def reads_per_second(self, times: int, at_once: int) -> float:
        """What comes through our client of Vault from one process."""
        waiting = iter(range(times))

        async def worker() -> None:
            for _ in waiting:
                await self.vault.look(self.path)

        began = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(at_once)))
        return times / (time.perf_counter() - began)

    @staticmethod
    async def _timed(times: int, call: Callable[[], Awaitable[object]]) -> float:
        taken = []
        for _ in range(times):
            began = time.perf_counter()
            await call()
            taken.append((time.perf_counter() - began) * 1_000)
        return statistics.median(taken)

    async def _write(self) -> None:
        secret = dict.fromkeys(("refresh_token", "seller_id", "marketplace_id", "region", "created_at"), "x" * 40)
        self.kv.secrets.kv.v2.create_or_update_secret(self.path, secret, mount_point="secret")

    async def _read(self) -> None:
        self.kv.secrets.kv.v2.read_secret_version(self.path, mount_point="secret", raise_on_deleted_version=True)

    async def _select(self) -> None:
        await queries.get_connection(self.pool, "nobody")

    async def _commit(self) -> None:
        """A row that is gone with the next tidy-up."""
        async with self.pool.acquire() as conn:
            await queries.insert_state(conn, uuid4().bytes, ConsentState("nobody", None, "FR"), timedelta(days=-2))

    async def _token(self) -> None:
        form = {
            "grant_type": "authorization_code",
            "code": "c",
            "redirect_uri": "r",
            "client_id": "i",
            "client_secret": "s",
        }
        await self.http.post(f"{self.amazon}/auth/o2/token", data=form)

    async def _get(self) -> None:
        await self.http.get(f"{self.amazon}/sellers/v1/marketplaceParticipations", headers={"x-amz-access-token": "t"})
