"""What the sandbox is told when it starts, read once from the environment."""

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from .clock import MAX_SPEED

ORDERS_MODEL = "orders_2026-01-01.json"


class SettingsError(Exception):
    """A variable of the environment is missing or wrong; the message names it."""


class Application(msgspec.Struct, frozen=True, kw_only=True):
    """An application as it is registered at Amazon; `source` is the name that its owner has for it."""

    source: str
    client_id: str
    client_secret: str
    application_id: str

    def __repr__(self) -> str:
        return f"Application({self.source!r})"


class MailServer(msgspec.Struct, frozen=True, kw_only=True):
    """Where the mailbox is read, over TLS, and what opens it."""

    port: int
    password: str
    certificate: Path
    key: Path

    def __repr__(self) -> str:
        return f"MailServer(port={self.port})"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    port: int
    state: Path
    applications: tuple[Application, ...]
    redirect_uris: tuple[str, ...]
    """Of each application, as the Login URI is."""
    login_uri: str | None = None
    """Where Amazon sends a seller who authorizes or renews from its side."""
    host: str = "127.0.0.1"
    clock_speed: float | None = None
    """None keeps the speed of the kept state, 1 when there is none."""
    mail: MailServer | None = None
    models: Path | None = None
    """Folder of Amazon's official models, whose example orders an extra seller then serves."""

    def application(self, application_id: str) -> Application | None:
        return next((one for one in self.applications if one.application_id == application_id), None)

    def __repr__(self) -> str:
        return f"Settings(host={self.host!r}, port={self.port}, state={str(self.state)!r})"


def from_environment(environment: Mapping[str, str]) -> Settings:
    """Raise SettingsError with every missing variable, so that one start finds them all."""
    required = ("PORT", "STATE", "CLIENT_ID", "CLIENT_SECRET", "APPLICATION_ID", "REDIRECT_URIS")
    values = {
        name.removeprefix("SANDBOX_"): value.strip()
        for name, value in environment.items()
        if name.startswith("SANDBOX_") and value.strip()
    }
    missing = [f"SANDBOX_{name}" for name in required if name not in values]
    if missing:
        raise SettingsError(f"Not set: {', '.join(missing)}.")
    redirect_uris = tuple(uri.strip() for uri in values["REDIRECT_URIS"].split(",") if uri.strip())
    if not redirect_uris:
        raise SettingsError("SANDBOX_REDIRECT_URIS names no address.")
    speed = values.get("CLOCK_SPEED")
    models = Path(values["MODELS"]) if "MODELS" in values else None
    if models is not None and not (models / ORDERS_MODEL).is_file():
        raise SettingsError(f"SANDBOX_MODELS: there is no {ORDERS_MODEL} in {models}.")
    return Settings(
        host=values.get("HOST", "127.0.0.1"),
        port=int(_number("SANDBOX_PORT", values["PORT"], r"[0-9]{1,5}", 65_535)),
        state=Path(values["STATE"]),
        applications=_applications(values),
        redirect_uris=redirect_uris,
        login_uri=values.get("LOGIN_URI"),
        clock_speed=None if speed is None else _number("SANDBOX_CLOCK_SPEED", speed, r"[0-9.]+", MAX_SPEED),
        mail=_mail_server(values),
        models=models,
    )


def _mail_server(values: Mapping[str, str]) -> MailServer | None:
    """SANDBOX_MAIL_…, all of them or none."""
    names = ("MAIL_PORT", "MAIL_PASSWORD", "MAIL_CERTIFICATE_FILE", "MAIL_KEY_FILE")
    missing = [f"SANDBOX_{name}" for name in names if name not in values]
    if len(missing) == len(names):
        return None
    if missing:
        raise SettingsError(f"Not set: {', '.join(missing)}.")
    return MailServer(
        port=int(_number("SANDBOX_MAIL_PORT", values["MAIL_PORT"], r"[0-9]{1,5}", 65_535)),
        password=values["MAIL_PASSWORD"],
        certificate=Path(values["MAIL_CERTIFICATE_FILE"]),
        key=Path(values["MAIL_KEY_FILE"]),
    )


def _applications(values: Mapping[str, str]) -> tuple[Application, ...]:
    """SANDBOX_… is the application of external tests; SANDBOX_KEYBUZZ_…, all of them or none, is KeyBuzz's own."""
    prefixes = {"external_test": "", "keybuzz": "KEYBUZZ_"}
    if not any(name.startswith("KEYBUZZ_") for name in values):
        del prefixes["keybuzz"]
    fields = ("client_id", "client_secret", "application_id")
    missing = [
        f"SANDBOX_{prefix}{field.upper()}"
        for prefix in prefixes.values()
        for field in fields
        if prefix + field.upper() not in values
    ]
    if missing:
        raise SettingsError(f"Not set: {', '.join(missing)}.")
    for field in ("CLIENT_ID", "APPLICATION_ID"):
        if values[field] == values.get(f"KEYBUZZ_{field}"):
            raise SettingsError(f"SANDBOX_KEYBUZZ_{field} is the other application's too.")
    return tuple(
        Application(source=source, **{field: values[prefix + field.upper()] for field in fields})
        for source, prefix in prefixes.items()
    )


def _number(name: str, text: str, form: str, most: float) -> float:
    try:
        value = float(text) if re.fullmatch(form, text) else most + 1
    except ValueError:
        value = most + 1
    if value > most:
        raise SettingsError(f"{name} is no number from 0 to {most}: {text!r}.")
    return value
