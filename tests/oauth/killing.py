"""oauth as a process that is killed and started anew, the sellers on their way through it, and what has to be true of
each of them afterwards.
"""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import msgspec
from msgspec import Struct

from devstack.outside import Outside, eventually
from devstack.sandbox.client import approve
from devstack.stack import Stack
from shared.amazon.credentials import Held, look_tenant, tenant_path
from shared.amazon.errors import AuthorizationRevokedError
from shared.amazon.spapi import SpApi
from shared.db import Pool
from shared.settings import AmazonSettings
from tests.builders import Amazon, agent, new_id, oauth_vault, settings_of

API = "/api/v1/marketplaces/amazon"
DYING = Path(__file__).parent / "dying.py"
MANY_REQUESTS = {"REQUESTS_PER_MINUTE": "1000000"}
LOST = timedelta(seconds=61)
"""After so long without an outcome a callback counts as dead; a lease on a connection ends, too."""


class Told(Struct, frozen=True, rename="camel"):
    """What is read of an event about a connection."""

    tenant_id: str
    connection_id: UUID
    connected_at: datetime | None = None


class Victim(Struct):
    """A seller whose request a kill interrupts."""

    tenant_id: str
    seller_id: str
    callback: str = ""
    """Where Amazon has sent the browser back to, not opened yet."""
    before: Any = None
    """The connection as it was."""


class System:
    """A stack whose oauth comes and goes."""

    def __init__(self, stack: Stack, outside: Outside, pool: Pool) -> None:
        self.stack, self.outside, self.pool = stack, outside, pool
        self.http = outside.http
        self.amazon = Amazon(stack, self.http)
        self.vault = oauth_vault(stack)
        self.api = SpApi(settings_of(AmazonSettings, stack, "oauth"), self.vault, self.http, gate=None)
        self.dying = False
        """What runs, or ran last, is to end at a point."""
        self._read = 0
        self._told: dict[str, list[tuple[str, Told]]] = {}

    async def start(self) -> None:
        await self.stack.start("oauth", MANY_REQUESTS)
        self.dying = False

    async def start_dying(self, point: str, victims: Sequence[Victim], *, reconciling: bool = False) -> None:
        """As start(), but to end when all of them have reached the point, by a request or in the reconciler, which has
        nobody else to look after meanwhile.
        """
        self.dying = True
        await self.pool.execute(
            "UPDATE oauth.marketplace_connections SET next_check_at = clock_timestamp() + interval '1 day'"
            " WHERE tenant_id <> ALL ($1)",
            [victim.tenant_id for victim in victims],
        )
        program = self.stack._service("oauth", MANY_REQUESTS)
        who = "reconciling" if reconciling else "requested"
        command = [sys.executable, DYING, point, str(len(victims)), who]
        await self.stack._supervisor.start(msgspec.structs.replace(program, command=command))

    async def kill(self) -> None:
        await self.stack.kill("oauth")
        await self.dead()

    async def dead(self) -> None:
        """Return when the process has ended, which it may have done by SIGKILL only."""
        async with asyncio.timeout(20):
            code = await self.stack._supervisor._child("oauth").process.wait()
        assert code == -signal.SIGKILL

    def said(self) -> list[str]:
        """What is logged, and the last words of those who died at a point."""
        return (self.stack.logs / "oauth.log").read_text().splitlines()

    async def new(self) -> Victim:
        """Whoever comes back from Amazon for the first time."""
        return await self._consented(Victim(new_id(), await self.amazon.seller(0)))

    async def again(self) -> Victim:
        """Whoever comes back with a new authorization for a connected account."""
        return await self._consented(await self.connected())

    async def other_account(self) -> Victim:
        """Whoever is connected and comes back with another account."""
        victim = await self.connected()
        victim.seller_id = await self.amazon.seller(0)
        return await self._consented(victim)

    async def connected(self) -> Victim:
        victim = await self._consented(Victim(new_id(), await self.amazon.seller(0)))
        page = await self.http.get(victim.callback)
        assert page.status_code == 200, page.text
        return Victim(victim.tenant_id, victim.seller_id, before=await self.row(victim))

    async def connect_again(self, victim: Victim) -> None:
        """What everybody can do who was interrupted: click Connect again."""
        page = await self.http.get((await self._consented(victim)).callback)
        assert page.status_code == 200, page.text
        assert (await self.row(victim))["status"] == "CONNECTED"

    async def come_back(self, victim: Victim) -> httpx.Response:
        return await self.http.get(victim.callback)

    async def disconnect(self, victim: Victim) -> httpx.Response:
        return await self.http.post(self._url("/disconnect"), headers=agent(self.stack, victim.tenant_id))

    async def pass_time(self, victims: Iterable[Victim], time: timedelta) -> None:
        """For the database, so much time passes for these tenants."""
        tenants = [victim.tenant_id for victim in victims]
        async with self.pool.acquire() as conn, conn.transaction():
            await conn.execute("SELECT FROM oauth.tenants WHERE id = ANY ($1) ORDER BY id FOR UPDATE", tenants)
            await conn.execute(
                "UPDATE oauth.oauth_states SET created_at = created_at - $2::interval, used_at = used_at - $2,"
                " expires_at = expires_at - $2 WHERE tenant_id = ANY ($1)",
                tenants,
                time,
            )
            await conn.execute(
                "UPDATE oauth.marketplace_connections SET next_check_at = next_check_at - $2::interval,"
                " verified_at = verified_at - $2 WHERE tenant_id = ANY ($1)",
                tenants,
                time,
            )

    async def row(self, victim: Victim) -> Any:
        return await self.pool.fetchrow(
            "SELECT * FROM oauth.marketplace_connections WHERE tenant_id = $1", victim.tenant_id
        )

    async def held(self, victim: Victim) -> Held:
        return await look_tenant(self.vault, victim.tenant_id)

    async def whole(self, victims: Sequence[Victim]) -> None:
        """Return when nothing is wrong with any of them."""

        async def wrongs() -> list[str]:
            await self._listen()
            return [wrong for victim in victims for wrong in await self._wrongs(victim)]

        await eventually("a state that is nowhere half done", wrongs, lambda wrongs: not wrongs)

    async def _wrongs(self, victim: Victim) -> list[str]:
        row, held = await self.row(victim), await self.held(victim)
        states = await self.pool.fetch(
            "SELECT used_at, outcome, expires_at < clock_timestamp() AS expired FROM oauth.oauth_states"
            " WHERE tenant_id = $1",
            victim.tenant_id,
        )
        told = self._told.get(victim.tenant_id, [])
        wrongs = []
        if row["status"] == "CONNECTED":
            if held.credentials is None or held.credentials.created_at != row["authorized_at"]:
                wrongs.append("CONNECTED, and Vault does not hold this authorization")
            elif not await self._stands(held):
                wrongs.append("CONNECTED, and Amazon does not know the authorization")
            if [event.connected_at for _, event in told].count(row["connected_at"]) != 1:
                wrongs.append(f"CONNECTED, and not told once: {told}")
        else:
            if await self._versions_left(victim):
                wrongs.append(f"{row['status']}, and Vault holds versions that are not destroyed")
            if not row["last_error"] and row["status"] != "PENDING":
                wrongs.append(f"{row['status']} without a reason")
            if row["status"] == "PENDING" and any(state["used_at"] for state in states):
                wrongs.append("PENDING, and the seller has come back")
        if [(subject, event.connection_id) for subject, event in told] != await self._to_be_told(victim):
            wrongs.append(f"the events are not the changes: {told}")
        if any(state["outcome"] is None and (state["used_at"] or state["expired"]) for state in states):
            wrongs.append("a consent is over and has no outcome")
        return [f"{victim.tenant_id}: {wrong}" for wrong in wrongs]

    async def _to_be_told(self, victim: Victim) -> list[tuple[str, UUID]]:
        """The events that follow from what the connection went through."""
        changes = await self.pool.fetch(
            "SELECT connection_id, to_status FROM oauth.connection_changes WHERE tenant_id = $1 ORDER BY id",
            victim.tenant_id,
        )
        events: list[tuple[str, UUID]] = []
        connected: UUID | None = None
        for change in changes:
            ends = change["to_status"] != "CONNECTED" or change["connection_id"] != connected
            if connected is not None and ends:
                events.append(("connection.disconnected", connected))
            connected = change["connection_id"] if change["to_status"] == "CONNECTED" else None
            if connected is not None:
                events.append(("connection.connected", connected))
        return events

    async def _listen(self) -> None:
        """Read what the stream has got since; the oldest first."""
        for subject, _, body in await self.outside.messages("CONNECTION", after=self._read):
            self._read += 1
            event = msgspec.json.decode(body, type=Told)
            self._told.setdefault(event.tenant_id, []).append((subject, event))

    async def _stands(self, held: Held) -> bool:
        assert held.credentials is not None
        try:
            await self.api.verify(held.credentials)
        except AuthorizationRevokedError:
            return False
        return True

    async def _versions_left(self, victim: Victim) -> list[str]:
        read = partial(self.vault._kv.read_secret_metadata, tenant_path(victim.tenant_id), mount_point="secret")
        found = await self.vault._ask(read)
        versions = found["data"]["versions"] if found else {}
        return [number for number, version in versions.items() if not version["destroyed"]]

    async def _consented(self, victim: Victim) -> Victim:
        answer = await self.http.post(self._url("/oauth/start"), json={}, headers=agent(self.stack, victim.tenant_id))
        auth_url = answer.raise_for_status().json()["authUrl"]
        return Victim(
            victim.tenant_id, victim.seller_id, await approve(self.http, auth_url, victim.seller_id), victim.before
        )

    def _url(self, path: str) -> str:
        return f"{self.stack.endpoints.services['oauth']}{API}{path}"


async def answer_or_none(request: Awaitable[httpx.Response]) -> httpx.Response | None:
    """None where the process died before it answered."""
    try:
        return await request
    except httpx.TransportError:
        return None
