"""The whole story with all its failures at LOG_LEVEL=DEBUG, and then the search: no secret is anywhere but in Vault,
no personal data in what is logged or published.
"""

import asyncio
import base64
import json
import re
import secrets
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, quote, quote_plus, urlsplit

import asyncpg
import httpx
import jwt
import msgspec
import pytest

from devstack.errors import StackError
from devstack.outside import SELLER, Outside, eventually
from devstack.sandbox.client import approve
from devstack.sandbox.mails import SERVER
from devstack.stack import Stack
from poller import mock
from poller.domain import Lease
from shared.topology import SERVICES, STREAMS
from tests.builders import APP_PATH, Amazon, oauth_vault, operator_vault
from tests.journeys.leaks import Hidden, Wire, tapped

TENANT, OTHER = "ecomlg-001", "kbz-001"
API = "/api/v1/marketplaces/amazon"
PAGES = ("/metrics", "/schema/openapi.json", "/asyncapi.json", "/readyz", "/health", "/livez")
SETTINGS = {
    "LOG_LEVEL": "DEBUG",
    "MAX_DELIVERIES": "3",
    "RETRY_BASE_SECONDS": "0.1",
    "REQUESTS_PER_MINUTE": "1000",
    "CHECK_SECONDS": "2",
}
Places = dict[str, list[tuple[str, str]]]
"""By kind of place, where something stands and its text."""


class Run:
    """The story as it was told: what was secret in it, and what was answered."""

    def __init__(self, stack: Stack, outside: Outside) -> None:
        self.stack, self.outside = stack, outside
        self.secrets, self.personal = Hidden(), Hidden()
        self.mails, self.held = Hidden(), Hidden()
        """What the mails say that became tickets, and what those say that nobody let in."""
        self.answers: list[tuple[str, str]] = []
        self.sellers = {TENANT: SELLER}
        self.wires: dict[str, Wire] = {}
        self.variables: dict[str, str] = {}
        self.amazon = Amazon(stack, httpx.AsyncClient(trust_env=False, timeout=10))
        self.callbacks = f"{stack.endpoints.services['oauth']}{API}/oauth/callback"
        self._vault = oauth_vault(stack)
        outside.http.event_hooks = {"request": [self._sent], "response": [self._answered]}

    async def start(self, service: str, **variables: str) -> None:
        await self.stack.start(service, SETTINGS | self.variables | variables)

    async def page(self, **parameters: str) -> httpx.Response:
        """Come back from Amazon with these."""
        return await self.outside.http.get(self.callbacks, params=parameters)

    async def consented(self, tenant_id: str) -> dict[str, str]:
        """What Amazon sends back with the seller who has approved."""
        location = await approve(self.amazon.http, await self.outside.begin_consent(tenant_id), self.sellers[tenant_id])
        query = {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}
        self.secrets.add("authorization code", query["spapi_oauth_code"])
        return query

    async def connect(self, tenant_id: str, status: int = 200) -> dict[str, str]:
        query = await self.consented(tenant_id)
        page = await self.page(**query)
        assert page.status_code == status, page.text
        await self.look(tenant_id)
        return query

    async def look(self, tenant_id: str) -> None:
        """Learn the refresh token that Vault holds now."""
        held = await self._vault.read(f"keybuzz/tenants/{tenant_id}/amazon_spapi")
        if held is not None:
            self.secrets.add("refresh token", held["refresh_token"])

    async def status(self, tenant_id: str) -> str:
        return str((await self.outside.connection(tenant_id))["status"])

    async def _sent(self, request: httpx.Request) -> None:
        for header, kind in (("authorization", "web token"), ("x-internal-key", "internal key")):
            if value := request.headers.get(header):
                self.secrets.add(kind, value)

    async def _answered(self, answer: httpx.Response) -> None:
        """All of it, but for the state that /oauth/start is asked for."""
        text = f"{answer.status_code} {answer.headers!r}\n{(await answer.aread()).decode()}"
        if answer.request.url.path.endswith("/oauth/start") and answer.is_success:
            (state,) = parse_qs(urlsplit(answer.json()["authUrl"]).query)["state"]
            self.secrets.add("state", state)
            text = text.replace(state, "")
        self.answers.append((f"{answer.request.method} {answer.request.url.copy_with(query=None)}", text))

    def listen(self) -> None:
        """Learn what went over the wires."""
        for pattern, kind in (
            (rb"Atza\|[\w.-]+", "access token"),
            (rb"Atzr\|[\w.-]+", "refresh token"),
            (rb"(?i)x-vault-token: *(\S+)", "token of Vault"),
            (rb'"client_token": *"([^"]+)"', "token of Vault"),
        ):
            for wire in self.wires.values():
                for heard in wire.heard:
                    for found in re.findall(pattern, heard):
                        self.secrets.add(kind, found.decode())

    async def places(self) -> Places:
        return {
            "logs": self._logs(),
            "streams": await self._streams(),
            "rows": await self._rows(),
            "answers": self.answers,
        }

    def _logs(self) -> list[tuple[str, str]]:
        """The sandbox, which is Amazon's stand-in, has its own."""
        logs = sorted(self.stack.logs.glob("*.log*"))
        return [(log.name, log.read_text(errors="replace")) for log in logs if log.name != "sandbox.log"]

    async def _streams(self) -> list[tuple[str, str]]:
        return [
            (f"{stream.name} {subject}", f"{subject} {headers} {body.decode(errors='replace')}")
            for stream in STREAMS
            for subject, headers, body in await self.outside.messages(stream.name)
        ]

    async def _rows(self) -> list[tuple[str, str]]:
        """As text, as JSON, and what is bytes as what it says."""
        conn = await backend(self.stack)
        tables = await conn.fetch(
            "SELECT format('%I.%I', schemaname, relname) AS name FROM pg_stat_user_tables ORDER BY 1"
        )
        found = []
        for (table,) in tables:
            for row in await conn.fetch(f"SELECT t::text AS a, to_jsonb(t)::text AS b, t.* FROM {table} t"):  # noqa: S608
                texts = [value.decode(errors="replace") for value in row.values() if isinstance(value, bytes)]
                found.append((table, "\n".join([row["a"], row["b"], *texts])))
        await conn.close()
        return found


async def backend(stack: Stack) -> asyncpg.Connection:
    return await asyncpg.connect(stack.endpoints.postgres.dsns["admin"].rsplit("/", 1)[0] + "/keybuzz_backend")


@pytest.fixture(scope="module")
async def told(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Run]:
    async with AsyncExitStack() as undo:
        folder = tmp_path_factory.mktemp("secrets") / "state"
        stack = await undo.enter_async_context(Stack(folder, services=(), restart=False))
        outside = await undo.enter_async_context(Outside(stack.endpoints))
        run = Run(stack, outside)
        undo.push_async_callback(run.amazon.http.aclose)
        await _tap(run, undo)
        for service in SERVICES:
            await run.start(service)
            undo.push_async_callback(stack.stop, service)
        _know_the_secrets_of(run)
        await _tell(run)
        run.listen()
        yield run


async def _tap(run: Run, undo: AsyncExitStack) -> None:
    """Between the services and Amazon, and between them and Vault, with the certificate that Vault itself has."""
    stack = run.stack
    listener = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls = stack.folder / "openbao" / "tls"
    listener.load_cert_chain(tls / "cert.pem", tls / "key.pem")
    onward = ssl.create_default_context(cafile=stack.endpoints.vault.cacert)
    amazon = await undo.enter_async_context(tapped(stack._ports["sandbox"]))
    vault = await undo.enter_async_context(tapped(stack._ports["openbao"], listener, onward))
    run.wires = {"amazon": amazon, "vault": vault}
    run.variables = {
        "AMAZON_LWA_URL": f"http://127.0.0.1:{amazon.port}",
        "AMAZON_SPAPI_URL": f"http://127.0.0.1:{amazon.port}",
        "VAULT_ADDR": f"https://127.0.0.1:{vault.port}",
    }


def _know_the_secrets_of(run: Run) -> None:
    made = run.stack._secrets
    kinds: Mapping[str, Mapping[str, str]] = {
        "password of NATS": made.nats,
        "password of PostgreSQL": made.postgres,
        "secret id of Vault": {name: role.secret_id for name, role in made.vault.items()},
        "client secret": {source: app.client_secret for source, app in made.amazon_apps().items()},
        "JWT secret": {"": made.jwt_secret},
        "internal key": {"": made.internal_key},
        "password of the mailbox": {"": made.mailbox_password},
    }
    for kind, values in kinds.items():
        for value in values.values():
            run.secrets.add(kind, value)


async def _tell(run: Run) -> None:
    """All that the services do, and all that goes wrong with it."""
    await _tenants(run)
    await _learn_personal_data(run)
    await _consents(run)
    await _orders_and_messages(run)
    await _mails(run)
    await _wrong_client_secret(run)
    await _bad_credentials(run)
    await _servers_away(run)
    await _wrong_passwords(run)
    await _ends(run)
    await eventually("every event handled", run.outside.waiting, lambda waiting: waiting == 0)
    for service in SERVICES:
        for page in PAGES:
            answer = await run.outside.http.get(run.outside.endpoints.services[service] + page)
            assert answer.status_code == 200, (service, page, answer.text)


async def _tenants(run: Run) -> None:
    await run.outside.publish("tenant.created", {"tenantId": TENANT})
    await run.outside.publish("tenant.created", b"{not json")
    await run.outside.publish("tenant.updated", {"tenantId": "nobody-knows-it"})
    body = {"tenantId": OTHER, "createInboundAddress": True}
    assert (await run.outside.ask("tenant-sync", "POST", "/api/v1/tenants/sync", json=body)).status_code == 200
    assert (await run.outside.ask("tenant-sync", "POST", "/api/v1/tenants/sync-all")).status_code == 200
    assert (await run.outside.ask("tenant-sync", "GET", f"/api/v1/tenants/status/{TENANT}")).status_code == 200


async def _learn_personal_data(run: Run) -> None:
    for order in await run.amazon.orders_of(SELLER):
        address = order["recipient"]["deliveryAddress"]
        for kind, value in (
            ("buyer's name", order["buyer"]["buyerName"]),
            ("buyer's address of mail", order["buyer"].get("buyerEmail")),
            ("street", address.get("addressLine1")),
            ("telephone number", address.get("phone")),
        ):
            if value is not None:
                run.personal.add(kind, value, fragments=False)
    for message in (await mock.fetch(Lease("", "", 0))).messages:
        assert message.buyer is not None
        run.personal.add("buyer's address of mail", message.buyer, fragments=False)
        run.personal.add("subject of a message", message.subject, fragments=False)
        run.personal.add("text of a message", message.body)


async def _consents(run: Run) -> None:
    """Those that come to nothing, each in its way, then one that does not, and two more of the same tenant."""
    run.sellers[OTHER] = await run.amazon.seller()
    used = await run.connect(OTHER)
    assert (await run.page(**used)).status_code == 200  # as a browser that goes back
    foreign = {"Authorization": f"Bearer {run.outside.endpoints.tokens.tenants['kbz-002']}"}
    query = await run.consented(TENANT)
    assert (await run.outside.http.get(run.callbacks, params=query, headers=foreign)).status_code == 403
    forged = query | {"state": secrets.token_urlsafe(32)}
    run.secrets.add("state", forged["state"])
    assert (await run.page(**forged)).status_code == 400
    assert (await run.page(**query | {"spapi_oauth_code": used["spapi_oauth_code"]})).status_code == 400
    assert (await run.page(state=(await run.consented(TENANT))["state"], error="access_denied")).status_code == 400
    await run.amazon.fail("token", 500, SELLER, times=3)
    await run.connect(TENANT, 503)
    await run.amazon.fail("getMarketplaceParticipations", 500, SELLER)
    for _ in range(2):
        await run.connect(TENANT)


async def _orders_and_messages(run: Run) -> None:
    outside = run.outside
    (order, *_) = await eventually("orders", lambda: outside.orders(TENANT), lambda orders: len(orders) >= 94)
    (ticket, *_) = await eventually("tickets", lambda: outside.tickets(TENANT), lambda tickets: len(tickets) == 3)
    await run.amazon.fail("searchOrders", 500, SELLER)
    for service, method, path, body in (
        ("orders", "POST", "/api/v1/orders/backfill", {"days": 30}),
        ("orders", "GET", f"/api/v1/orders/{order['id']}", None),
        ("poller", "GET", f"/api/v1/tickets/{ticket['id']}", None),
        ("poller", "POST", "/api/v1/poller/run", None),
        ("poller", "GET", "/api/v1/poller/status", None),
        ("oauth", "GET", f"{API}/history", None),
    ):
        assert (await outside.ask(service, method, path, tenant=TENANT, json=body)).is_success


def _mail(run: Run, to: str, known_to: Hidden, *, server: str = SERVER) -> tuple[str, bytes]:
    """A mail in which every word is its own: its Message-ID, and all of it. What it says is known to the personal data
    and to those; who sends it to the personal data only, since the quarantine shows it.
    """
    words = {kind: secrets.token_hex(12) for kind in ("name", "alias", "subject", "text", "HTML", "file name", "file")}
    for kind, word in words.items():
        for hidden in (run.personal,) if kind in {"name", "alias"} else (run.personal, known_to):
            hidden.add(f"{kind} of a mail", word)
    message_id = f"{secrets.token_hex(6)}@mail.test"
    return message_id, (
        f"Delivered-To: {to}\r\nAuthentication-Results: {server}; dkim=pass header.d=marketplace.amazon.fr\r\n"
        f"From: {words['name']} <{words['alias']}@marketplace.amazon.fr>\r\nTo: <{to}>\r\n"
        f"Subject: {words['subject']}\r\nMessage-ID: <{message_id}>\r\n"
        "X-Space-Notification-Type: BBC_MESSAGE_SENT_TO_MERCHANT\r\n"
        "Content-Type: multipart/mixed; boundary=b\r\n\r\n"
        "--b\r\nContent-Type: multipart/alternative; boundary=c\r\n\r\n"
        f"--c\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{words['text']}\r\n"
        f"--c\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>{words['HTML']}</p>\r\n--c--\r\n--b\r\n"
        f'Content-Type: application/pdf\r\nContent-Disposition: attachment; filename="{words["file name"]}.pdf"\r\n'
        f"Content-Transfer-Encoding: base64\r\n\r\n{base64.b64encode(words['file'].encode()).decode()}\r\n--b--\r\n"
    ).encode()


async def _mails(run: Run) -> None:
    """Taken in, held back, refused by the database, let in after all, dropped; and a mailbox that does not open."""
    outside, address = run.outside, (await run.outside.inbound_address(TENANT))["email"]
    taken = [_mail(run, address, run.mails), _mail(run, address, run.mails)]
    refused = _mail(run, address, run.held)
    forged = _mail(run, address, run.held, server="mx.forged.test")
    let_in, dropped = _mail(run, "nobody@inbound.test", run.mails), _mail(run, "nobody@inbound.test", run.held)
    conn = await asyncpg.connect(run.stack.endpoints.postgres.dsns["poller_owner"])
    await conn.execute(f"ALTER TABLE external_messages ADD CONSTRAINT planted CHECK (external_id <> '{refused[0]}')")
    for _, raw in (taken[0], refused, forged, let_in, dropped, taken[1]):
        await outside.deliver_mail(raw)

    async def arrived() -> list[dict[str, Any]]:
        return await outside.tickets(TENANT, channel="email")

    await eventually("two tickets", arrived, lambda tickets: len(tickets) == 2)
    await conn.execute("ALTER TABLE external_messages DROP CONSTRAINT planted")
    await conn.close()
    admin = {"Authorization": f"Bearer {outside.endpoints.tokens.admin}", "X-Tenant-Id": TENANT}
    quarantine = f"{outside.endpoints.services['poller']}/api/v1/quarantine"
    held = {
        mail["headers"]["Message-ID"][0]: mail
        for mail in (await outside.http.get(quarantine, headers=admin)).json()["mails"]
    }
    assert {message_id.strip("<>"): mail["reason"] for message_id, mail in held.items()} == {
        refused[0]: "UNREADABLE",
        forged[0]: "NOT_FROM_AMAZON",
        let_in[0]: "UNKNOWN_RECIPIENT",
        dropped[0]: "UNKNOWN_RECIPIENT",
    }
    for (message_id, _), decision, body, status in (
        (let_in, "release", None, 409),
        (let_in, "release", {"tenantId": TENANT}, 200),
        (dropped, "drop", None, 200),
        (dropped, "release", None, 409),
    ):
        url = f"{quarantine}/{held[f'<{message_id}>']['id']}/{decision}"
        answer = await outside.http.post(url, headers=admin, json=body)
        assert answer.status_code == status, answer.text
    tickets = await eventually("three tickets", arrived, lambda tickets: len(tickets) == 3)
    await _mailbox_does_not_open(run, admin)
    for ticket in tickets:
        path = f"/api/v1/tickets/{ticket['id']}"
        [message] = (await outside.ask("poller", "GET", path, tenant=TENANT)).json()["messages"]
        [file] = message["attachments"]
        assert (await outside.ask("poller", "GET", f"{path}/attachments/{file['id']}", tenant=TENANT)).is_success


async def _mailbox_does_not_open(run: Run, admin: dict[str, str]) -> None:
    operator, mailbox = operator_vault(run.stack), run.stack.endpoints.mailbox
    path = f"keybuzz/mailboxes/{mailbox.name}"
    right = await operator.read(path)
    assert right is not None
    wrong = right | {"password": f"k{secrets.token_hex(24)}"}
    run.secrets.add("password of the mailbox", wrong["password"])
    url = f"{run.outside.endpoints.services['poller']}/api/v1/poller/status"

    async def opens() -> bool:
        [state] = (await run.outside.http.get(url, headers=admin)).json()["mailboxes"]
        return state["lastError"] is None

    async def refuses() -> bool:
        return not await opens()

    for account, expected in ((wrong, refuses), (right, opens)):
        await operator.write(path, account)
        await run.stack.stop("poller")
        await run.start("poller")
        await eventually("the mailbox's state", expected)


async def _wrong_client_secret(run: Run) -> None:
    """In Vault for a moment, which is when oauth starts."""
    operator = operator_vault(run.stack)
    right = await operator.read(APP_PATH)
    assert right is not None
    wrong = right | {"client_secret": f"amzn1.oa2-cs.v1.{secrets.token_hex(32)}"}
    run.secrets.add("client secret", wrong["client_secret"])
    await operator.write(APP_PATH, wrong)
    await run.stack.stop("oauth")
    await run.start("oauth")
    await run.connect(OTHER, 502)
    await operator.write(APP_PATH, right)
    await run.connect(OTHER)


async def _bad_credentials(run: Run) -> None:
    claims = {"sub": "agent", "role": "admin", "tenantId": TENANT}
    later, before = datetime.now(UTC) + timedelta(hours=1), datetime.now(UTC) - timedelta(hours=1)
    signed = run.stack.endpoints.tokens.jwt_secret
    tokens = [
        jwt.encode(claims | {"exp": later}, secrets.token_hex(32), "HS256"),
        jwt.encode(claims | {"exp": before}, signed, "HS256"),
        jwt.encode({"sub": "nobody", "exp": later}, signed, "HS256"),
    ]
    for token in tokens:
        run.secrets.add("web token", token)
    for service, path in (
        ("oauth", f"{API}/status"),
        ("poller", "/api/v1/tickets"),
        ("orders", "/api/v1/orders"),
        ("tenant-sync", f"/api/v1/tenants/status/{TENANT}"),
    ):
        url = run.outside.endpoints.services[service] + path
        bad = [{"Authorization": f"Bearer {token}"} for token in tokens]
        for headers in [*bad, {"X-Internal-Key": secrets.token_hex(24)}, {"X-Internal-Key": signed}]:
            assert (await run.outside.http.get(url, headers=headers)).status_code == 401
        answer = await run.outside.http.get(url, params={"token": tokens[0], "state": secrets.token_hex(8)})
        assert answer.status_code == 401
    for strange in (f"{run.callbacks}/{quote(tokens[0])}", f"{run.callbacks}?code={tokens[0]}"):
        assert (await run.outside.http.post(strange)).status_code in {404, 405}


async def _servers_away(run: Run) -> None:
    """Each for a moment, while somebody connects."""
    for server, statuses in (("openbao", {503}), ("postgres", {503}), ("nats", {200})):
        query = await run.consented(OTHER)
        await run.stack.kill(server)
        page = await run.page(**query)
        assert page.status_code in statuses, (server, page.status_code, page.text)
        for service in SERVICES:
            await run.outside.http.get(f"{run.outside.endpoints.services[service]}/readyz")
        await asyncio.sleep(0.5)
        await run.stack.start(server)
        await eventually("everybody ready", lambda: _all_ready(run))
        await run.look(OTHER)


async def _all_ready(run: Run) -> bool:
    urls = [f"{run.outside.endpoints.services[service]}/readyz" for service in SERVICES]
    return all([(await run.outside.http.get(url)).status_code == 200 for url in urls])


async def _wrong_passwords(run: Run) -> None:
    """A service that is not let in says so and ends, or says so and waits."""
    password = f"k{secrets.token_hex(24)}"
    run.secrets.add("password that is wrong", password)
    endpoints = run.stack.endpoints
    await run.stack.stop("oauth")
    for variable, right in (
        ("DATABASE_URL", endpoints.postgres.dsns["oauth"]),
        ("NATS_URL", endpoints.nats.users["oauth"].url),
    ):
        before, _, after = right.rpartition("@")
        wrong = f"{before.rpartition(':')[0]}:{password}@{after}"
        with pytest.raises(StackError) as refused:
            await run.start("oauth", **{variable: wrong})
        run.answers.append((f"a start with a wrong {variable}", str(refused.value)))
    with pytest.raises(StackError) as refused:
        await run.start("oauth", PORT=password)
    run.answers.append(("a start with a wrong PORT", str(refused.value)))
    await run.start("oauth")


async def _ends(run: Run) -> None:
    """Revoked at Amazon, connected anew, disconnected; Vault loses one tenant's credentials on the way."""
    await run.amazon.revoke(SELLER)
    backfill = await run.outside.ask("orders", "POST", "/api/v1/orders/backfill", tenant=TENANT, json={"days": 7})
    assert backfill.is_success
    await eventually("the revocation", lambda: run.status(TENANT), lambda status: status == "REVOKED")
    await run.connect(TENANT)
    await run.connect(OTHER)
    for tenant_id in (TENANT, OTHER):
        answer = await run.outside.ask("oauth", "POST", f"{API}/disconnect", tenant=tenant_id)
        assert answer.json()["status"] == "DISCONNECTED"


@pytest.mark.parametrize(
    ("kind", "at_least"),
    [
        ("refresh token", 6),
        ("access token", 8),
        ("token of Vault", 3),
        ("authorization code", 10),
        ("state", 12),
        ("client secret", 3),
        ("secret id of Vault", 4),
        ("web token", 6),
        ("JWT secret", 1),
        ("internal key", 5),
        ("password of PostgreSQL", 11),
        ("password of NATS", 7),
        ("password of the mailbox", 2),
    ],
)
def test_the_run_used_secrets_of_every_kind(told: Run, kind: str, at_least: int) -> None:
    assert len(told.secrets.of_kind[kind]) >= at_least


@pytest.mark.parametrize("place", ["logs", "streams", "rows", "answers"])
async def test_no_secret_is_in(told: Run, place: str) -> None:
    assert found(told.secrets, (await told.places())[place]) == set()


@pytest.mark.parametrize("place", ["logs", "streams"])
async def test_no_personal_data_is_in(told: Run, place: str) -> None:
    assert found(told.personal, (await told.places())[place]) == set()


async def test_what_a_mail_says_is_told_by_its_ticket_only(told: Run) -> None:
    by_tickets = [answer for answer in told.answers if "/api/v1/tickets" in answer[0]]
    kinds = {kind for _, kind in found(told.mails, by_tickets)}
    assert kinds == {f"{kind} of a mail" for kind in ("subject", "text", "file name", "file")}
    assert found(told.mails, [answer for answer in told.answers if answer not in by_tickets]) == set()


async def test_what_a_held_mail_says_is_told_by_nobody(told: Run) -> None:
    assert found(told.held, told.answers) == set()
    by_quarantine = [answer for answer in told.answers if "/api/v1/quarantine" in answer[0]]
    assert {kind for _, kind in found(told.personal, by_quarantine)} == {"name of a mail", "alias of a mail"}


def found(hidden: Hidden, texts: list[tuple[str, str]]) -> set[tuple[str, str]]:
    """Which kind of secret stands where."""
    return {(where, kind) for where, text in texts for kind in hidden.found_in(text)}


SECRET = 'kK2/+ü"J9xQvW7zL0pRb TnYs4Eg&'


@pytest.mark.parametrize(
    "written",
    [
        SECRET,
        SECRET[5:21],
        quote(SECRET),
        quote_plus(SECRET),
        json.dumps({"reason": SECRET}),
        msgspec.json.encode({"reason": SECRET}).decode(),
        json.dumps({"headers": json.dumps({"token": SECRET})}),
        base64.b64encode(SECRET.encode()).decode(),
        base64.b64encode(f"a:{SECRET}:b".encode()).decode(),
        base64.b64encode(f"ab:{SECRET}".encode()).decode(),
        base64.urlsafe_b64encode(SECRET.encode()).decode(),
        SECRET.encode().hex(),
    ],
)
def test_the_search_finds_every_form(written: str) -> None:
    hidden = Hidden()
    hidden.add("refresh token", f"Atzr|{SECRET}")
    assert hidden.found_in(f"before {written} after") == {"refresh token"}
    assert hidden.found_in("before Atzr| and much text that tells nothing after") == set()


def test_the_search_knows_what_went_over_the_wires(told: Run) -> None:
    heard = [("a wire", bytes(each).decode(errors="replace")) for wire in told.wires.values() for each in wire.heard]
    kinds = {kind for _, kind in found(told.secrets, heard)}
    assert kinds == {
        "access token",
        "authorization code",
        "client secret",
        "password of the mailbox",
        "refresh token",
        "secret id of Vault",
        "token of Vault",
    }


async def test_the_search_finds_what_is_planted_in_every_place(told: Run) -> None:
    planted = Hidden()
    secret = secrets.token_urlsafe(32)
    planted.add("planted", secret)
    assert [found(planted, texts) for texts in (await told.places()).values()] == [set()] * 4

    with (told.stack.logs / "orders.log").open("a") as log:
        log.write(f'{{"event":"planted {secret}"}}\n')
    await told.outside.publish_as_operator("order.planted", {"reason": secret})
    await told.outside.publish_as_operator("tenant.planted", {}, {"reason": quote(secret)})
    conn = await backend(told.stack)
    await conn.execute("INSERT INTO orders.inbox (handler, event_id) VALUES ('planted', $1)", secret)
    await conn.execute(
        "INSERT INTO poller.outbox (subject, key, payload, published_at) VALUES ('planted', 'planted', $1, now())",
        secret[4:24].encode(),
    )
    await conn.close()
    seller = await told.outside.http.get(f"{told.amazon.url}/sandbox/sellers/{secret}/orders")
    assert seller.status_code == 404

    places = {place: {where for where, _ in found(planted, texts)} for place, texts in (await told.places()).items()}
    assert places == {
        "logs": {"orders.log"},
        "streams": {"ORDER order.planted", "TENANT tenant.planted"},
        "rows": {"orders.inbox", "poller.outbox"},
        "answers": {f"GET {seller.request.url}"},
    }


async def test_the_search_finds_what_of_a_mail_is_planted(told: Run) -> None:
    word, other = (min(told.held.of_kind[f"{kind} of a mail"]) for kind in ("subject", "text"))
    with (told.stack.logs / "poller.log").open("a") as log:
        log.write(f'{{"event":"planted","headers":"Subject: {word}"}}\n')
    await told.outside.publish_as_operator("message.planted", {"text": other[2:20]})
    seller = await told.outside.http.get(f"{told.amazon.url}/sandbox/sellers/{word}/orders")
    assert seller.status_code == 404
    places = await told.places()
    assert found(told.personal, places["logs"]) == {("poller.log", "subject of a mail")}
    assert found(told.personal, places["streams"]) == {("MESSAGE message.planted", "text of a mail")}
    assert found(told.held, places["answers"]) == {(f"GET {seller.request.url}", "subject of a mail")}
