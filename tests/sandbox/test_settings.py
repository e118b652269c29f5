from pathlib import Path

import msgspec
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
    assert settings.login_uri is None
    assert [one.source for one in settings.applications] == ["external_test"]
    assert settings.clock_speed is None
    assert settings.models is None


KEYBUZZ = {
    "SANDBOX_KEYBUZZ_CLIENT_ID": "id-2",
    "SANDBOX_KEYBUZZ_CLIENT_SECRET": "a-secret-2",
    "SANDBOX_KEYBUZZ_APPLICATION_ID": "app-2",
}


def test_a_second_application_can_be_given() -> None:
    first, second = from_environment({**GIVEN, **KEYBUZZ}).applications
    assert msgspec.structs.astuple(first) == ("external_test", "id", "a-secret", "app")
    assert msgspec.structs.astuple(second) == ("keybuzz", "id-2", "a-secret-2", "app-2")


@pytest.mark.parametrize("name", KEYBUZZ)
def test_a_second_application_is_given_whole(name: str) -> None:
    with pytest.raises(SettingsError, match=f"Not set: {name}."):
        from_environment({**GIVEN, **KEYBUZZ, name: ""})


@pytest.mark.parametrize("field", ["CLIENT_ID", "APPLICATION_ID"])
def test_two_applications_are_not_the_same(field: str) -> None:
    same = {f"SANDBOX_KEYBUZZ_{field}": GIVEN[f"SANDBOX_{field}"]}
    with pytest.raises(SettingsError, match=f"SANDBOX_KEYBUZZ_{field}"):
        from_environment({**GIVEN, **KEYBUZZ, **same})


def test_no_secret_prints() -> None:
    settings = from_environment({**GIVEN, **KEYBUZZ})
    for thing in (settings, *settings.applications):
        assert "a-secret" not in repr(thing)
        assert "a-secret" not in str(thing)


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


MAIL = {
    "SANDBOX_MAIL_PORT": "8993",
    "SANDBOX_MAIL_PASSWORD": "a-secret-3",
    "SANDBOX_MAIL_CERTIFICATE_FILE": "cert.pem",
    "SANDBOX_MAIL_KEY_FILE": "key.pem",
}


def test_a_mail_server_is_given_whole_or_not_at_all() -> None:
    assert from_environment(GIVEN).mail is None
    mail = from_environment({**GIVEN, **MAIL}).mail
    assert mail is not None
    assert msgspec.structs.astuple(mail) == (8993, "a-secret-3", Path("cert.pem"), Path("key.pem"))
    assert "a-secret" not in f"{mail} {mail!r}"
    for name in MAIL:
        with pytest.raises(SettingsError, match=f"Not set: {name}."):
            from_environment({**GIVEN, **MAIL, name: ""})
