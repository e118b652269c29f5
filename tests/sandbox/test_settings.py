from pathlib import Path

import pytest

from devstack.sandbox.settings import SettingsError, from_environment

GIVEN = {
    "SANDBOX_PORT": "8080",
    "SANDBOX_STATE": "state",
    "SANDBOX_CLIENT_ID": "id",
    "SANDBOX_CLIENT_SECRET": "a-secret",
    "SANDBOX_APPLICATION_ID": "app",
    "SANDBOX_REDIRECT_URIS": "http://a.test/cb, http://b.test/cb",
}


def test_what_is_not_given_has_a_default() -> None:
    settings = from_environment(GIVEN)
    assert settings.host == "127.0.0.1"
    assert settings.port == 8080
    assert settings.state == Path("state")
    assert settings.redirect_uris == ("http://a.test/cb", "http://b.test/cb")
    assert settings.clock_speed is None
    assert settings.models is None


def test_the_secret_does_not_print() -> None:
    assert "a-secret" not in repr(from_environment(GIVEN))
    assert "a-secret" not in str(from_environment(GIVEN))


@pytest.mark.parametrize("name", GIVEN)
@pytest.mark.parametrize("value", [None, "", " "])
def test_a_missing_variable_names_itself(name: str, value: str | None) -> None:
    environment = {**GIVEN, name: value or ""}
    if value is None:
        del environment[name]
    with pytest.raises(SettingsError, match=name):
        from_environment(environment)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SANDBOX_PORT", "http"),
        ("SANDBOX_PORT", "80.5"),
        ("SANDBOX_PORT", "70000"),
        ("SANDBOX_CLOCK_SPEED", "fast"),
        ("SANDBOX_CLOCK_SPEED", "-1"),
        ("SANDBOX_CLOCK_SPEED", "nan"),
        ("SANDBOX_REDIRECT_URIS", ","),
        ("SANDBOX_MODELS", "/nowhere"),
    ],
)
def test_a_wrong_value_names_its_variable(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        from_environment({**GIVEN, name: value})
