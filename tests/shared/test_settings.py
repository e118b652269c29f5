"""What a service says about its environment."""

import pytest

from shared.settings import AmazonSettings, Secret, Settings, SettingsError, load

COMPLETE = {
    "DATABASE_URL": "postgresql://orders:pg-secret@db/keybuzz",
    "NATS_URL": "nats://orders:nats-secret@nats",
    "KEYBUZZ_INTERNAL_KEY": "the-internal-key",
}
AMAZON = COMPLETE | {
    "JWT_SECRET": "the-jwt-secret",
    "VAULT_ADDR": "https://vault",
    "VAULT_ROLE_ID": "the-role",
    "VAULT_SECRET_ID": "the-secret-id",
}
SECRETS = ("pg-secret", "nats-secret", "the-internal-key", "the-jwt-secret", "the-secret-id")


def without(environ: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name not in names}


def test_a_complete_environment_is_read_and_the_rest_has_defaults() -> None:
    settings = load(Settings, COMPLETE | {"PORT": "8080", "KEYBUZZ_DEV_MODE": "true", "RETRY_BASE_SECONDS": "0.5"})
    assert settings.database_url.reveal() == COMPLETE["DATABASE_URL"]
    assert (settings.port, settings.keybuzz_dev_mode, settings.retry_base_seconds) == (8080, True, 0.5)
    assert (settings.host, settings.jwt_secret, settings.log_level) == ("127.0.0.1", None, "INFO")


def test_everything_that_is_missing_or_wrong_is_named_in_one_message() -> None:
    environ = without(AMAZON, "DATABASE_URL", "JWT_SECRET", "VAULT_ADDR", "VAULT_SECRET_ID")
    environ |= {"PORT": "many", "KEYBUZZ_DEV_MODE": "perhaps", "MAX_DELIVERIES": "1.5"}
    with pytest.raises(SettingsError) as refused:
        load(AmazonSettings, environ)
    message = str(refused.value)
    for name in ("DATABASE_URL", "JWT_SECRET", "VAULT_ADDR"):
        assert f"{name} is missing" in message
    assert "VAULT_SECRET_ID are missing" in message
    for name in ("PORT", "KEYBUZZ_DEV_MODE", "MAX_DELIVERIES"):
        assert f"{name} is wrong" in message
    assert "NATS_URL" not in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("LOG_LEVEL", "LOUD"),
        ("MAX_DELIVERIES", "0"),
        ("RETRY_BASE_SECONDS", "0"),
        ("RETRY_BASE_SECONDS", "-1"),
    ],
)
def test_a_value_that_no_service_could_run_with_is_refused(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is wrong"):
        load(Settings, COMPLETE | {name: value})


@pytest.mark.parametrize("name", COMPLETE)
def test_an_empty_variable_counts_as_missing(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is missing"):
        load(Settings, COMPLETE | {name: ""})


def test_an_empty_optional_variable_leaves_the_default() -> None:
    assert load(Settings, COMPLETE | {"PORT": "", "JWT_SECRET": ""}).port == 8000


def test_a_secret_does_not_print_and_is_in_no_error() -> None:
    settings = load(AmazonSettings, AMAZON)
    shown = f"{settings!r} {settings} {settings.jwt_secret!r} {settings.jwt_secret}"
    with pytest.raises(SettingsError) as refused:
        load(AmazonSettings, without(AMAZON, "VAULT_ADDR") | {"PORT": "the-port"})
    for secret in SECRETS:
        assert secret not in shown
        assert secret not in str(refused.value)
    assert str(Secret("pg-secret")) == "Secret(hidden)"


@pytest.mark.parametrize("missing", [("VAULT_ROLE_ID",), ("VAULT_SECRET_ID",), ("VAULT_ROLE_ID", "VAULT_SECRET_ID")])
def test_half_an_approle_is_none_and_a_developers_token_stands_in_for_it(missing: tuple[str, ...]) -> None:
    environ = without(AMAZON, *missing)
    with pytest.raises(SettingsError, match="VAULT_ROLE_ID and VAULT_SECRET_ID are missing"):
        load(AmazonSettings, environ)
    settings = load(AmazonSettings, environ | {"VAULT_TOKEN": "a-token"})
    assert settings.vault_token is not None
    assert settings.vault_token.reveal() == "a-token"
    assert "a-token" not in repr(settings)
