"""What a client, a test or a person needs to use a running stack: <state>/endpoints.json."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import msgspec
from msgspec import Struct

from shared.topology import SERVICES

from .ports import PortOf
from .sandbox import imap, mails
from .secrets import AppRole, Secrets
from .state import write_private

HOST = "127.0.0.1"
MAILBOX = "inbound"
PRODUCT_ROLES = ("product", "product_reader")
TENANTS = ("kbz-001", "kbz-002", "kbz-003", "kbz-004", "ecomlg-001", "tenant_test_dev")


class NatsUser(Struct, frozen=True, kw_only=True):
    user: str
    password: str
    url: str


class Nats(Struct, frozen=True, kw_only=True):
    url: str
    monitor: str
    users: dict[str, NatsUser]


class Postgres(Struct, frozen=True, kw_only=True):
    host: str
    port: int
    dsns: dict[str, str]
    """By role; "admin" is the superuser."""


class Vault(Struct, frozen=True, kw_only=True):
    addr: str
    cacert: str
    roles: dict[str, AppRole]


class AmazonApplication(Struct, frozen=True, kw_only=True, rename="camel"):
    client_id: str
    application_id: str


class Amazon(Struct, frozen=True, kw_only=True, rename="camel"):
    url: str
    client_id: str
    application_id: str
    applications: dict[str, AmazonApplication]
    """By source; the first one's ids stand above too."""


class Mailbox(Struct, frozen=True, kw_only=True, rename="camel"):
    """Where buyers' mails arrive: IMAP over TLS."""

    name: str
    host: str
    port: int
    user: str
    password: str
    cacert: str
    authserv_id: str


class Tokens(Struct, frozen=True, kw_only=True, rename="camel"):
    internal_key: str
    jwt_secret: str
    admin: str
    tenants: dict[str, str]
    """An agent's token for each tenant of the story."""


class Endpoints(Struct, frozen=True, kw_only=True):
    state: str
    nats: Nats
    postgres: Postgres
    vault: Vault
    amazon: Amazon
    mailbox: Mailbox
    services: dict[str, str]
    tokens: Tokens


def describe(state: Path, ports: PortOf, secrets: Secrets, cacert: Path) -> Endpoints:
    nats = f"{HOST}:{ports['nats']}"
    return Endpoints(
        state=str(state),
        nats=Nats(
            url=f"nats://{nats}",
            monitor=f"http://{HOST}:{ports['nats-monitor']}",
            users={
                user: NatsUser(user=user, password=password, url=f"nats://{user}:{password}@{nats}")
                for user, password in secrets.nats.items()
            },
        ),
        postgres=Postgres(
            host=HOST,
            port=ports["postgres"],
            dsns={
                "admin" if role == "postgres" else role: (
                    f"postgresql://{role}:{password}@{HOST}:{ports['postgres']}/{_database(role)}"
                )
                for role, password in secrets.postgres.items()
            },
        ),
        vault=Vault(addr=f"https://{HOST}:{ports['openbao']}", cacert=str(cacert), roles=secrets.vault),
        amazon=Amazon(
            url=f"http://{HOST}:{ports['sandbox']}",
            client_id=secrets.amazon.client_id,
            application_id=secrets.amazon.application_id,
            applications={
                source: AmazonApplication(client_id=app.client_id, application_id=app.application_id)
                for source, app in secrets.amazon_apps().items()
            },
        ),
        mailbox=Mailbox(
            name=MAILBOX,
            host=HOST,
            port=ports["sandbox-mail"],
            user=imap.USER,
            password=secrets.mailbox_password,
            cacert=str(mail_tls(state) / "ca.pem"),
            authserv_id=mails.SERVER,
        ),
        services={service: f"http://{HOST}:{ports[service]}" for service in SERVICES},
        tokens=_tokens(secrets),
    )


def mail_tls(state: Path) -> Path:
    """The certificate of the mail server, and of the authority that issued it."""
    return state / "mail-tls"


def write(state: Path, endpoints: Endpoints) -> None:
    write_private(state / "endpoints.json", msgspec.json.format(msgspec.json.encode(endpoints)))


def remove(state: Path) -> None:
    """The file is there while the stack is ready, and only then."""
    (state / "endpoints.json").unlink(missing_ok=True)


def read(state: Path) -> Endpoints:
    return msgspec.json.decode((state / "endpoints.json").read_bytes(), type=Endpoints)


def _database(role: str) -> str:
    if role == "postgres":
        return "postgres"
    return "keybuzz" if role in PRODUCT_ROLES else "keybuzz_backend"


def _tokens(secrets: Secrets) -> Tokens:
    expires = datetime.now(UTC) + timedelta(days=365)

    def token(subject: str, role: str, tenant: str | None = None) -> str:
        claims: dict[str, object] = {"sub": subject, "role": role, "exp": expires}
        if tenant is not None:
            claims["tenantId"] = tenant
        return jwt.encode(claims, secrets.jwt_secret, algorithm="HS256")

    return Tokens(
        internal_key=secrets.internal_key,
        jwt_secret=secrets.jwt_secret,
        admin=token("admin", "admin"),
        tenants={tenant: token(f"agent-{tenant}", "agent", tenant) for tenant in TENANTS},
    )
