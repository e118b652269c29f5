"""A tenant's life with oauth in steps, each by the code that takes it in production, and what shows of it after."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import httpx
import hvac.exceptions
import msgspec

from oauth import consent, handlers, lifecycle, reconcile
from oauth.domain import TRANSITIONS, Connection, Due, Status
from oauth.lifecycle import Parts
from oauth.queries import claim_due, get_connection
from oauth.routes import API
from oauth.settings import OauthSettings
from shared.amazon import credentials
from shared.amazon.credentials import TENANTS, TenantCredentials, tenant_path
from shared.amazon.errors import CodeRejectedError
from shared.vault import Found, Vault
from tests.builders import new_id, synced

if TYPE_CHECKING:
    from tests.oauth.conftest import Oauth

Around = Callable[[str], Awaitable[None]]
"""What happens around Vault's operations; it is told which: "before look", "after write", and so on."""
NOBODY = "https://127.0.0.1:9"
"""An address that nobody listens at."""


class KilledError(Exception):
    """The process ends here."""


class WatchedVault(Vault):
    def __init__(self, settings: OauthSettings, around: Around) -> None:
        super().__init__(settings)
        self._around = around

    async def look(self, path: str) -> Found:
        await self._around("before look")
        found = await super().look(path)
        await self._around("after look")
        return found

    async def write(self, path: str, secret: dict[str, Any], *, replacing: int | None = None) -> int:
        await self._around("before write")
        version = await super().write(path, secret, replacing=replacing)
        await self._around("after write")
        return version

    async def destroy(self, path: str, *, up_to: int) -> None:
        await self._around("before destroy")
        await super().destroy(path, up_to=up_to)
        await self._around("after destroy")


def watched(parts: Parts, around: Around) -> Parts:
    return msgspec.structs.replace(parts, vault=WatchedVault(parts.settings, around))


def killed_at(parts: Parts, point: str) -> Parts:
    """A process that comes so far and no further."""

    async def die(where: str) -> None:
        if where == point:
            raise KilledError

    return watched(parts, die)


class Life:
    """One tenant, connected and not, by its own seller unless another one is named."""

    def __init__(self, oauth: "Oauth", parts: Parts, seller_id: str, tenant_id: str | None = None) -> None:
        self.oauth, self.parts, self.seller_id = oauth, parts, seller_id
        self.tenant_id = tenant_id or oauth.tenant_id
        self.path = tenant_path(self.tenant_id)

    def on(self, parts: Parts) -> "Life":
        """The same tenant, served by another process."""
        return Life(self.oauth, parts, self.seller_id, self.tenant_id)

    @property
    def other(self) -> Parts:
        """The parts of an installation that was switched to our other application."""
        return self.oauth.parts(AMAZON_SPAPI_APP_SOURCE="keybuzz")

    # What the tenant, its seller and the product do

    async def begin(self) -> str:
        wish = consent.Wish(self.tenant_id, "agent-1", "FR")
        return (await consent.begin(self.parts, wish))[0]

    async def approve(self, auth_url: str, seller_id: str | None = None) -> dict[str, str]:
        """What the seller comes back with."""
        location = await self.oauth.amazon.approve(auth_url, seller_id or self.seller_id)
        query = {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}
        return {"state": query["state"], "code": query["spapi_oauth_code"], "seller_id": query["selling_partner_id"]}

    async def consented(self, seller_id: str | None = None) -> dict[str, str]:
        return await self.approve(await self.begin(), seller_id)

    async def come_back(self, back: dict[str, str], parts: Parts | None = None) -> Connection:
        given = {"code": back["code"], "seller_id": back["seller_id"]}
        return await consent.complete(parts or self.parts, state=back["state"], caller=None, **given)

    async def connect(self, seller_id: str | None = None) -> Connection:
        return await self.come_back(await self.consented(seller_id))

    async def fail(self) -> None:
        """A consent whose code Amazon does not take."""
        with suppress(CodeRejectedError):
            await self.come_back(await self.consented() | {"code": "wrong"})

    async def die(self, point: str, seller_id: str | None = None) -> dict[str, str]:
        """A consent whose callback is killed at a point of its way through Vault."""
        back = await self.consented(seller_id)
        with suppress(KilledError):
            await self.come_back(back, killed_at(self.parts, point))
        return back

    async def disconnect(self) -> bool:
        return await lifecycle.disconnect(self.parts, self.tenant_id)

    async def follow(self, status: str, synced_at: datetime | None = None) -> None:
        event = synced(tenant_id=self.tenant_id, status=status, synced_at=synced_at or datetime.now(UTC))
        await handlers.follow_tenant(event, new_id("event"), parts=self.parts)

    async def revoke(self) -> None:
        """At Amazon, which tells nobody."""
        await self.oauth.amazon.control("POST", f"sellers/{self.seller_id}/revoke")

    async def check(self, parts: Parts | None = None, *, verify: bool = True) -> Connection | None:
        await reconcile.check(parts or self.parts, self.tenant_id, verify=verify)
        return await self.connection()

    # What Vault holds, and who changes it behind our back

    async def held(self) -> TenantCredentials | None:
        return (await credentials.look_tenant(self.parts.vault, self.tenant_id)).credentials

    async def secret(self) -> dict[str, Any] | None:
        return await self.parts.vault.read(self.path)

    async def write(self, secret: dict[str, Any]) -> None:
        await self.parts.vault.write(self.path, secret)

    async def destroy(self) -> dict[str, Any] | None:
        """Somebody destroys the credentials in Vault; what they were."""
        found = await self.parts.vault.look(self.path)
        await self.parts.vault.destroy(self.path, up_to=found.version)
        return found.secret

    async def version(self, number: int) -> dict[str, Any] | None:
        """The data of one version; None when it is gone."""
        read = self.parts.vault._client.secrets.kv.v2.read_secret_version
        try:
            answer = await asyncio.to_thread(
                read, self.path, version=number, mount_point="secret", raise_on_deleted_version=True
            )
        except hvac.exceptions.InvalidPath:
            return None
        data: dict[str, Any] = answer["data"]["data"]
        return data

    async def authorize(self, seller_id: str | None = None) -> None:
        """Only Vault knows of it, as after a restore of the database."""
        vault = self.parts.vault
        await self.oauth.amazon.authorize(self.parts.api, vault, self.tenant_id, seller_id or self.seller_id)

    async def authorize_other(self) -> None:
        """The same, for our other application."""
        given = TenantCredentials("Atzr|x", self.seller_id, "A13V1IB3VIYZZH", "eu", datetime.now(UTC), "keybuzz")
        await self.write(msgspec.to_builtins(given))

    # What shows

    async def connection(self) -> Connection | None:
        return await get_connection(self.oauth.pool, self.tenant_id)

    async def known(self) -> Connection:
        connection = await self.connection()
        assert connection is not None
        return connection

    async def status(self) -> Status:
        connection = await self.connection()
        return connection.status if connection else Status.NOT_CONNECTED

    async def error(self) -> tuple[Status, str | None, str]:
        """The status, and what was the matter last."""
        connection = await self.known()
        return connection.status, connection.last_error_code, connection.last_error or ""

    async def changes(self) -> list[tuple[str | None, str, str | None]]:
        """From what to what and why, the first one first."""
        rows = await self.oauth.pool.fetch(
            "SELECT from_status, to_status, code FROM connection_changes WHERE tenant_id = $1 ORDER BY id",
            self.tenant_id,
        )
        return [(row["from_status"], row["to_status"], row["code"]) for row in rows]

    async def history(self, http: httpx.AsyncClient) -> list[dict[str, Any]]:
        """As GET /history tells it."""
        answer = await http.get(f"{API}/history", params={"limit": 200})
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    async def told(self) -> list[tuple[str, dict[str, Any]]]:
        """The events about the tenant, in their order."""
        rows = await self.oauth.pool.fetch(
            "SELECT subject, payload FROM outbox WHERE key = $1 ORDER BY seq", self.tenant_id
        )
        return [(row["subject"], msgspec.json.decode(row["payload"])) for row in rows]

    async def ends(self) -> list[str]:
        """Of the events: "connected", or the reason of an end."""
        return [body.get("reason", "connected") for _, body in await self.told()]

    async def due(self) -> list[Due]:
        """The connections that the reconciler would look at now."""
        return await claim_due(self.oauth.pool, 10, timedelta(seconds=60), timedelta(days=1))

    async def values(self, query: str) -> list[Any]:
        return [row[0] for row in await self.oauth.pool.fetch(query)]

    async def outcomes(self) -> list[str | None]:
        rows = await self.oauth.pool.fetch(
            "SELECT outcome FROM oauth_states WHERE tenant_id = $1 ORDER BY created_at", self.tenant_id
        )
        return [row["outcome"] for row in rows]

    async def age_states(self, interval: str) -> None:
        """So much time passes for the tenant's consents."""
        await self.oauth.pool.execute(
            "UPDATE oauth_states SET used_at = used_at - $2::text::interval,"
            " expires_at = expires_at - $2::text::interval WHERE tenant_id = $1",
            self.tenant_id,
            interval,
        )

    # What always holds

    async def agrees(self) -> None:
        """CONNECTED is what Vault holds credentials of, and the others know of."""
        connection, held = await self.connection(), await self.held()
        alive = connection is not None and connection.status is Status.CONNECTED
        assert alive is (held is not None), (connection, held)
        if connection is not None and held is not None:
            assert (connection.seller_id, connection.authorized_at) == (held.seller_id, held.created_at)
        await self.is_told_in_order()

    async def is_told_in_order(self) -> None:
        """Each connection begins before it ends, none is within another one, and all that is known came of a change
        that the table has.
        """
        connection, alive, last = await self.connection(), None, ""
        for subject, body in await self.told():
            at = str(body.get("connectedAt") or body["at"])
            assert last < at
            last = at
            if subject == "connection.connected":
                assert alive in {None, body["connectionId"]}
                alive = body["connectionId"]
            else:
                assert alive == body["connectionId"]
                alive = None
        is_connected = connection is not None and connection.status is Status.CONNECTED
        assert alive == (str(connection.id) if connection is not None and is_connected else None)
        before = None
        for first, then, _ in await self.changes():
            assert first == before
            assert Status(then) in TRANSITIONS[Status(first or Status.NOT_CONNECTED)]
            before = then
        assert before == (connection.status if connection is not None else None)


class OwnNames(Vault):
    """Knows the names of one test's tenants alone: Vault is everybody's."""

    def __init__(self, settings: OauthSettings, names: list[str]) -> None:
        super().__init__(settings)
        self._names = names

    async def list_keys(self, path: str) -> list[str]:
        assert path == TENANTS
        return [name for name in await super().list_keys(path) if name in self._names]


def seeing(parts: Parts, *names: str) -> Parts:
    return msgspec.structs.replace(parts, vault=OwnNames(parts.settings, list(names)))
