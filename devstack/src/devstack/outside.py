"""The system as its users reach it: events as the product app publishes them, HTTP as a seller's browser and an
agent send it, the counts that an operator reads. The demo and the journey tests tell their story through it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import asyncpg
import httpx
import msgspec
import nats
from nats.js.errors import NotFoundError

from shared.topology import CONSUMERS, SERVICES, STREAMS, stream_of

from .endpoints import Endpoints
from .sandbox.client import approve

T = TypeVar("T")
SELLER = "A12BCIS2R7HD4D"
TABLES = ("poller.external_messages", "poller.tickets", "poller.ticket_messages", "orders.orders", "orders.order_items")


_UNPUBLISHED = tuple(
    f"SELECT seq FROM {service.replace('-', '_')}.outbox WHERE published_at IS NULL"  # noqa: S608 - known names
    for service in SERVICES
)


class Outside:
    """async with Outside(stack.endpoints) as outside: …"""

    def __init__(self, endpoints: Endpoints) -> None:
        self.endpoints = endpoints
        self.http = httpx.AsyncClient(timeout=30, trust_env=False)

    async def __aenter__(self) -> Self:
        users = self.endpoints.nats.users
        self._product = await nats.connect(users["product"].url, inbox_prefix=b"_INBOX_product")
        self._operator = await nats.connect(users["operator"].url)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._product.close()
        await self._operator.close()
        await self.http.aclose()

    async def publish(self, subject: str, body: Any, headers: dict[str, str] | None = None) -> None:
        """As the product app, or anybody with the NATS CLI, publishes: no answer is waited for."""
        payload = body if isinstance(body, bytes) else msgspec.json.encode(body)
        await self._product.publish(subject, payload, headers=headers)
        await self._product.flush()

    async def publish_as_operator(self, subject: str, body: Any, headers: dict[str, str] | None = None) -> None:
        """Subjects that only a service may publish, as an operator who repairs something would."""
        payload = body if isinstance(body, bytes) else msgspec.json.encode(body)
        await self._operator.jetstream().publish(subject, payload, headers=headers)

    async def ask(
        self, service: str, method: str, path: str, *, tenant: str | None = None, json: Any = None
    ) -> httpx.Response:
        """As an agent of the tenant; without one, as the product's server with the internal key."""
        tokens = self.endpoints.tokens
        headers = (
            {"Authorization": f"Bearer {tokens.tenants[tenant]}"}
            if tenant is not None
            else {"X-Internal-Key": tokens.internal_key}
        )
        return await self.http.request(method, self.endpoints.services[service] + path, headers=headers, json=json)

    async def begin_consent(self, tenant: str, country: str = "FR") -> str:
        """The address of Amazon's consent page."""
        answer = await self.ask(
            "oauth", "POST", "/api/v1/marketplaces/amazon/oauth/start", tenant=tenant, json={"country": country}
        )
        auth_url: str = answer.raise_for_status().json()["authUrl"]
        return auth_url

    async def connect(self, tenant: str, seller: str = SELLER, country: str = "FR") -> httpx.Response:
        """Click Connect, approve at Amazon, come back: the page that the seller reads."""
        callback = await approve(self.http, await self.begin_consent(tenant, country), seller)
        return await self.http.get(callback)

    async def connection(self, tenant: str) -> dict[str, Any]:
        answer = await self.ask("oauth", "GET", "/api/v1/marketplaces/amazon/status", tenant=tenant)
        return dict(answer.raise_for_status().json())

    async def orders(self, tenant: str) -> list[dict[str, Any]]:
        """Every order, page by page."""
        orders: list[dict[str, Any]] = []
        cursor = ""
        while True:
            path = f"/api/v1/orders?limit=200{f'&cursor={cursor}' if cursor else ''}"
            page = (await self.ask("orders", "GET", path, tenant=tenant)).raise_for_status().json()
            orders += page["orders"]
            cursor = page["nextCursor"] or ""
            if not cursor:
                return orders

    async def tickets(self, tenant: str, **filters: str) -> list[dict[str, Any]]:
        query = "".join(f"&{name}={value}" for name, value in filters.items())
        answer = await self.ask("poller", "GET", f"/api/v1/tickets?limit=200{query}", tenant=tenant)
        return list(answer.raise_for_status().json()["tickets"])

    async def inbound_address(self, tenant: str, country: str = "FR") -> dict[str, Any]:
        """Where mails to a tenant go: email, and whether one has arrived (status); empty while there is none."""
        answer = await self.ask("tenant-sync", "GET", f"/api/v1/tenants/status/{tenant}")
        addresses: list[dict[str, Any]] = answer.raise_for_status().json()["inboundAddresses"]
        return next((address for address in addresses if address["country"] == country), {})

    async def write_mails(self, recipient: str, **wanted: Any) -> list[dict[str, Any]]:
        """Buyers write to an address: mails of the sandbox arrive in the mailbox (devstack/sandbox/mailing.py)."""
        answer = await self.http.post(
            f"{self.endpoints.amazon.url}/sandbox/mails", json={"recipient": recipient, **wanted}
        )
        return list(answer.raise_for_status().json()["mails"])

    async def deliver_mail(self, raw: bytes) -> None:
        """This very mail arrives in the mailbox."""
        (await self.http.post(f"{self.endpoints.amazon.url}/sandbox/mails/raw", content=raw)).raise_for_status()

    async def calls(self, operation: str, seller: str = SELLER) -> int:
        """How often Amazon was asked, whatever it answered."""
        counted: Mapping[str, Any] = (await self.http.get(f"{self.endpoints.amazon.url}/sandbox/calls")).json()
        return sum(counted.get(operation, {}).get(seller, {}).values())

    async def events_by_subject(self) -> dict[str, int]:
        """How many events each stream holds; dead letters too."""
        js = self._operator.jetstream()
        counts: dict[str, int] = {}
        for stream in STREAMS:
            if stream.name != "ADVISORY":
                info = await js.stream_info(stream.name, subjects_filter=">")
                counts |= info.state.subjects or {}
        return dict(sorted(counts.items()))

    async def last_event(self, subject: str) -> dict[str, Any] | None:
        try:
            message = await self._operator.jetstream().get_last_msg(stream_of(subject), subject)
        except NotFoundError:
            return None
        return dict(msgspec.json.decode(message.data or b"{}"))

    async def dead_letters(self) -> list[tuple[str, dict[str, str], bytes]]:
        """Subject, headers and body of each, oldest first."""
        return await self.messages("DLQ")

    async def messages(self, stream: str, *, after: int = 0) -> list[tuple[str, dict[str, str], bytes]]:
        """Subject, headers and body of what a stream holds, oldest first; after: but for so many of the oldest."""
        js = self._operator.jetstream()
        state = (await js.stream_info(stream)).state
        found = []
        for sequence in range(max(state.first_seq, after + 1), state.last_seq + 1) if state.messages else ():
            message = await js.get_msg(stream, sequence)
            found.append((message.subject or "", dict(message.headers or {}), message.data or b""))
        return found

    async def waiting(self) -> int:
        """Events on their way: in an outbox, not delivered yet, or in a handler's hands."""
        js = self._operator.jetstream()
        infos = [await js.consumer_info(consumer.stream, consumer.durable) for consumer in CONSUMERS]
        in_outboxes = await self._fetch(" UNION ALL ".join(_UNPUBLISHED))
        return sum((info.num_pending or 0) + (info.num_ack_pending or 0) for info in infos) + len(in_outboxes)

    async def count_rows(self) -> dict[str, int]:
        """Rows of the tables that the story fills, as an operator counts them."""
        counted = " UNION ALL ".join(f"SELECT '{table}' AS name, count(*) AS n FROM {table}" for table in TABLES)  # noqa: S608
        return {row["name"]: row["n"] for row in await self._fetch(counted)}

    async def _fetch(self, statement: str) -> list[asyncpg.Record]:
        conn = await asyncpg.connect(self.endpoints.postgres.dsns["admin"].rsplit("/", 1)[0] + "/keybuzz_backend")
        try:
            rows: list[asyncpg.Record] = await conn.fetch(statement)
        finally:
            await conn.close()
        return rows


async def eventually(
    what: str, probe: Callable[[], Awaitable[T]], wanted: Callable[[T], bool] = bool, *, seconds: float = 60
) -> T:
    """Ask again and again until the answer is as wanted; TimeoutError says what was waited for and what came."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        came: object
        try:
            came = answer = await probe()
            if wanted(answer):
                return answer
        except httpx.TransportError as error:
            came = error  # a service that was killed a moment ago is about to be back
        if asyncio.get_running_loop().time() > deadline:
            raise TimeoutError(f"{what} did not happen within {seconds} s; the last answer was {came!r}")
        await asyncio.sleep(0.05)
