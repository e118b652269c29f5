"""What is made up once per state folder: every password, id and key of the stack."""

import secrets
from pathlib import Path
from uuid import uuid4

import msgspec
from msgspec import Struct

from .credentials import AppSource
from .permissions import USERS
from .state import write_private

POSTGRES_ROLES = (
    "postgres",
    "product",
    "product_reader",
    "oauth",
    "oauth_owner",
    "poller",
    "poller_owner",
    "orders",
    "orders_owner",
    "tenant_sync",
    "tenant_sync_owner",
    "amazon_owner",
)
VAULT_ROLES = ("oauth", "poller", "orders", "operator")


def _password() -> str:
    """Letters and digits, safe in a URL; a letter first, because nats.conf reads other values as numbers."""
    return "k" + secrets.token_hex(24)


class AppRole(Struct, frozen=True, kw_only=True, rename="camel"):
    role_id: str = msgspec.field(default_factory=lambda: str(uuid4()))
    secret_id: str = msgspec.field(default_factory=_password)


class AmazonApp(Struct, frozen=True, kw_only=True, rename="camel"):
    """An application that the sandbox knows."""

    client_id: str = msgspec.field(default_factory=lambda: "amzn1.application-oa2-client." + secrets.token_hex(16))
    client_secret: str = msgspec.field(default_factory=lambda: "amzn1.oa2-cs.v1." + secrets.token_hex(32))
    application_id: str = msgspec.field(default_factory=lambda: f"amzn1.sp.solution.{uuid4()}")


class Secrets(Struct, frozen=True, kw_only=True, rename="camel"):
    nats: dict[str, str] = {}
    postgres: dict[str, str] = {}
    vault: dict[str, AppRole] = {}
    amazon: AmazonApp = msgspec.field(default_factory=AmazonApp)
    amazon_keybuzz: AmazonApp = msgspec.field(default_factory=AmazonApp)
    jwt_secret: str = msgspec.field(default_factory=lambda: secrets.token_hex(32))
    internal_key: str = msgspec.field(default_factory=_password)
    mailbox_password: str = msgspec.field(default_factory=_password)

    def amazon_apps(self) -> dict[AppSource, AmazonApp]:
        return {"external_test": self.amazon, "keybuzz": self.amazon_keybuzz}


def load(state: Path) -> Secrets:
    """Those of the folder; what a newer version of the stack asks for on top is added."""
    file = state / "secrets.json"
    held = msgspec.json.decode(file.read_bytes(), type=Secrets) if file.exists() else Secrets()
    for user in USERS:
        held.nats.setdefault(user, _password())
    for role in POSTGRES_ROLES:
        held.postgres.setdefault(role, _password())
    for name in VAULT_ROLES:
        held.vault.setdefault(name, AppRole())
    write_private(file, msgspec.json.format(msgspec.json.encode(held)))
    return held


def seal_key() -> bytes:
    return secrets.token_bytes(32)
