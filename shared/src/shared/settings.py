"""Settings from the environment: one frozen struct per service, read once in main()."""

import os
from collections.abc import Container, Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta


class Secret:
    """A value that does not print: reveal() is the only way to it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(hidden)"


class SettingsError(Exception):
    """What is wrong with the environment, every variable of it in one message."""


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """What load() reads: each field is the environment variable of the same name in upper case."""

    @classmethod
    def missing_together(cls, given: Container[str]) -> list[str]:  # noqa: ARG003 - for those that override it
        """Sentences about variables that are needed one for another; given has the fields that are set."""
        return []


class Settings(Environment, frozen=True, kw_only=True):
    """What every service reads."""

    database_url: Secret
    nats_url: Secret
    nats_cacert: str | None = None
    jwt_secret: Secret | None = None
    keybuzz_internal_key: Secret
    keybuzz_internal_key_previous: Secret | None = None
    """Valid too, while a rotation lasts."""
    keybuzz_dev_mode: bool = False
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8000
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    max_deliveries: Annotated[int, Meta(ge=1)] = 12
    """Deliveries of an event before it goes to the dead letters."""
    retry_base_seconds: Annotated[float, Meta(gt=0)] = 1.0
    """The first delay of a retry; each next one doubles, up to five minutes."""


class AmazonSettings(Settings, frozen=True, kw_only=True):
    """What a service reads that talks to Amazon: Vault, where the credentials are, and Amazon's addresses."""

    jwt_secret: Secret
    vault_addr: str
    vault_cacert: str | None = None
    vault_role_id: str | None = None
    vault_secret_id: Secret | None = None
    vault_token: Secret | None = None
    """A developer's token, in place of the AppRole."""
    amazon_spapi_app_source: Literal["external_test", "keybuzz"] = "external_test"
    """Which of our two applications at Amazon the sellers authorize."""
    amazon_spapi_app_path_external_test: str = "keybuzz/amazon_spapi/app"
    amazon_spapi_app_path_keybuzz: str = "keybuzz/amazon_spapi/app_keybuzz"
    """Where in Vault each application's credentials are; older installations have them elsewhere."""
    amazon_lwa_url: str = "https://api.amazon.com"
    amazon_spapi_url: str | None = None
    """One address for every region, for a stand-in; None asks Amazon's own regional hosts."""
    amazon_sigv4: bool = False
    """Sign calls (shared.amazon.signing), which Amazon has not needed since October 2023."""

    @property
    def app_path(self) -> str:
        """Where the credentials of the application in use are."""
        if self.amazon_spapi_app_source == "keybuzz":
            return self.amazon_spapi_app_path_keybuzz
        return self.amazon_spapi_app_path_external_test

    @classmethod
    def missing_together(cls, given: Container[str]) -> list[str]:
        if "vault_token" in given or ("vault_role_id" in given and "vault_secret_id" in given):
            return []
        return ["VAULT_ROLE_ID and VAULT_SECRET_ID are missing (or, for a developer, VAULT_TOKEN)"]


T = TypeVar("T", bound=Environment)


def load(cls: type[T], environ: Mapping[str, str] = os.environ) -> T:
    """Read the struct from the environment; an empty variable counts as missing.
    SettingsError names every variable that is missing or wrong, and no value of a secret.
    """
    raw: dict[str, str] = {}
    problems: list[str] = []
    for field in msgspec.structs.fields(cls):
        variable = field.name.upper()
        value = environ.get(variable, "")
        if not value:
            if field.required:
                problems.append(f"{variable} is missing")
            continue
        try:
            msgspec.convert(value, field.type, strict=False, dec_hook=_decode)
        except msgspec.ValidationError as error:
            problems.append(f"{variable} is wrong: {error}")
        raw[field.name] = value
    problems += cls.missing_together(raw)
    if not problems:
        try:
            return msgspec.convert(raw, cls, strict=False, dec_hook=_decode)
        except msgspec.ValidationError as error:
            problems.append(str(error))
    raise SettingsError("The environment is not complete: " + "; ".join(problems) + ".")


def _decode(type_: type[Any], value: Any) -> Any:
    if type_ is Secret:
        return Secret(value)
    # As msgspec wants it of a dec_hook: a field of settings of a type that nobody taught it is a bug of ours.
    raise NotImplementedError(f"no way to read a {type_} from the environment")
