"""Who may call, and about which tenant."""

import asyncio
import base64
import contextlib
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jwt
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from litestar import get
from litestar.di import NamedDependency

from shared import web
from shared.auth import Caller, Keys
from shared.errors import UnauthorizedError
from shared.settings import Settings, load

SECRET = "the-jwt-secret-of-32-or-more-bytes"
OTHER_SECRET = "another-secret-of-32-or-more-bytes"
KEYS = Keys("the-internal-key", SECRET, dev_mode=False)
WITHOUT_JWT = Keys("the-internal-key", None, dev_mode=False)
DEV = Keys("the-internal-key", SECRET, dev_mode=True)
ROTATING = Keys("the-internal-key", SECRET, dev_mode=False, previous_internal_key="the-key-before")


@get("/mine")
async def mine(tenant_id: NamedDependency[str]) -> dict[str, str]:
    return {"tenantId": tenant_id}


async def ask(headers: dict[str, str], keys: Keys = KEYS) -> httpx.Response:
    app = web.create_app("orders", [mine], keys=keys, dependencies={}, checks={}, asyncapi={})
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type] # Litestar types its scopes more narrowly
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        return await client.get("/mine", headers=headers)


def in_an_hour() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)


def bearer(secret: str = SECRET, **changes: Any) -> dict[str, str]:
    claims = {"sub": "agent-7", "role": "agent", "tenantId": "kbz-001", "exp": in_an_hour()} | changes
    given = {name: value for name, value in claims.items() if value is not None}
    return {"Authorization": f"Bearer {jwt.encode(given, secret, algorithm='HS256')}"}


def unsigned() -> dict[str, str]:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(msgspec.json.encode(value)).decode().rstrip("=")

    claims = {"role": "admin", "tenantId": "kbz-001", "exp": 4_000_000_000}
    return {"Authorization": f"Bearer {part({'alg': 'none', 'typ': 'JWT'})}.{part(claims)}."}


def refused(answer: httpx.Response, status: int, code: str) -> str:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    detail: str = answer.json()["detail"]
    return detail


async def ask_forever(authorization: str) -> None:
    while KEYS.caller(authorization, None):  # noqa: ASYNC110 - only time ends it
        await asyncio.sleep(0.05)


async def test_a_token_that_was_good_expires_at_its_time() -> None:
    expires_at = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=3)
    authorization = bearer(exp=expires_at)["Authorization"]
    assert KEYS.caller(authorization, None).tenant_id == "kbz-001"
    with pytest.raises(UnauthorizedError, match="expired"):
        await asyncio.wait_for(ask_forever(authorization), 30)
    assert datetime.now(UTC) >= expires_at


async def test_an_agents_token_answers_for_the_agents_tenant() -> None:
    assert (await ask(bearer())).json() == {"tenantId": "kbz-001"}
    assert (await ask(bearer(tenantId=None, tenant="kbz-002"))).json() == {"tenantId": "kbz-002"}
    assert (await ask(bearer() | {"X-Tenant-Id": "kbz-001"})).json() == {"tenantId": "kbz-001"}


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "has no credentials"),
        ({"Authorization": ""}, "not of the form"),
        ({"Authorization": "Bearer"}, "not of the form"),
        ({"Authorization": "Bearer "}, "not of the form"),
        ({"Authorization": "Basic dXNlcjpwYXNz"}, "not of the form"),
        ({"Authorization": "Bearer nonsense"}, "not valid"),
        ({"Authorization": "Bearer a.b.c"}, "not valid"),
        (bearer(OTHER_SECRET), "not valid"),
        (unsigned(), "not valid"),
        (bearer(exp=datetime(2020, 1, 1, tzinfo=UTC)), "expired"),
        (bearer(exp=None), "not valid"),
        (bearer(exp=float("inf")), "not valid"),
        (bearer(role=None), "not valid"),
        (bearer(role=7), "not valid"),
        (bearer(tenantId=None), "names no tenant"),
        (bearer(tenantId="../oauth"), "not valid"),
        (bearer(tenantId="kbz-001\n"), "not valid"),
        (bearer(nbf=datetime(2100, 1, 1, tzinfo=UTC)), "not valid"),
        ({"X-Internal-Key": "another"}, "not the one"),
        ({"X-Internal-Key": ""}, "not the one"),
        ({"X-Internal-Key": "another"} | bearer(), "not the one"),
    ],
)
async def test_credentials_that_are_not_valid_are_refused_with_the_reason(headers: dict[str, str], reason: str) -> None:
    answer = await ask(headers)
    assert reason in refused(answer, 401, "unauthorized")
    for value in headers.values():
        assert len(value) < len("Bearer a") or value not in answer.text


async def test_a_token_signed_with_another_algorithm_is_refused() -> None:
    token = jwt.encode({"role": "admin", "exp": in_an_hour()}, SECRET * 2, algorithm="HS512")
    refused(await ask({"Authorization": f"Bearer {token}"}), 401, "unauthorized")


async def test_another_tenant_than_ones_own_is_not_found() -> None:
    refused(await ask(bearer() | {"X-Tenant-Id": "kbz-002"}), 404, "not_found")


async def test_an_admin_chooses_the_tenant_and_has_to() -> None:
    admin = bearer(role="admin", tenantId=None)
    assert (await ask(admin | {"X-Tenant-Id": "kbz-002"})).json() == {"tenantId": "kbz-002"}
    refused(await ask(admin), 400, "invalid")
    assert (await ask(bearer(role="admin"))).json() == {"tenantId": "kbz-001"}
    assert (await ask(bearer(role="admin") | {"X-Tenant-Id": "kbz-002"})).json() == {"tenantId": "kbz-002"}


@pytest.mark.parametrize("role", ["internal", "Admin", "administrator", ""])
async def test_no_other_role_of_a_token_chooses_the_tenant(role: str) -> None:
    refused(await ask(bearer(role=role) | {"X-Tenant-Id": "kbz-002"}), 404, "not_found")
    refused(await ask(bearer(role=role, tenantId=None) | {"X-Tenant-Id": "kbz-002"}), 401, "unauthorized")


async def test_the_internal_key_chooses_the_tenant_and_has_to() -> None:
    key = {"X-Internal-Key": "the-internal-key"}
    assert (await ask(key | {"X-Tenant-Id": "kbz-002"})).json() == {"tenantId": "kbz-002"}
    refused(await ask(key), 400, "invalid")


@pytest.mark.parametrize(
    ("keys", "sent", "opens"),
    [
        (ROTATING, "the-internal-key", True),
        (ROTATING, "the-key-before", True),
        (ROTATING, "neither", False),
        (ROTATING, "the-internal-key the-key-before", False),
        (ROTATING, "", False),
        (KEYS, "the-internal-key", True),
        (KEYS, "the-key-before", False),
        (KEYS, "None", False),
        (KEYS, "", False),
    ],
)
def test_while_a_rotation_lasts_either_key_opens_and_after_it_the_new_one_only(
    keys: Keys, sent: str, opens: bool
) -> None:
    if opens:
        assert keys.caller(None, sent) == Caller("internal", by_key=True)
    else:
        with pytest.raises(UnauthorizedError, match="not the one"):
            keys.caller(None, sent)


@pytest.mark.parametrize("keys", [KEYS, ROTATING])
@pytest.mark.parametrize("sent", ["the-internal-key", "the-key-before", "neither"])
def test_every_key_is_compared_in_constant_time_and_twice_whichever_it_is(
    monkeypatch: pytest.MonkeyPatch, keys: Keys, sent: str
) -> None:
    compared: list[bytes] = []
    compare = secrets.compare_digest

    def remember(given: bytes, known: bytes) -> bool:
        compared.append(known)
        return compare(given, known)

    monkeypatch.setattr(secrets, "compare_digest", remember)
    with contextlib.suppress(UnauthorizedError):
        keys.caller(None, sent)
    assert compared == [b"the-internal-key", (keys.previous_internal_key or keys.internal_key).encode()]


@pytest.mark.parametrize("previous", ["the-key-before", ""])
def test_the_previous_key_is_a_setting_that_may_be_absent(previous: str) -> None:
    environ = {
        "DATABASE_URL": "postgresql://x",
        "NATS_URL": "nats://x",
        "KEYBUZZ_INTERNAL_KEY": "the-internal-key",
        "KEYBUZZ_INTERNAL_KEY_PREVIOUS": previous,
    }
    settings = load(Settings, environ)
    assert Keys.of(settings).previous_internal_key == (previous or None)
    assert "the-key" not in repr(settings)


@pytest.mark.parametrize("role", ["internal", "INTERNAL", "admin", "agent"])
@pytest.mark.parametrize("keys", [KEYS, ROTATING, DEV])
def test_no_role_of_a_token_counts_as_the_internal_key(keys: Keys, role: str) -> None:
    assert not keys.caller(bearer(role=role)["Authorization"], None).by_key


def test_dev_mode_waives_the_internal_key() -> None:
    assert DEV.caller(None, None).by_key


@pytest.mark.parametrize("tenant_id", ["", "../oauth", "a b", "-kbz", "a" * 65, "kbz.1"])
@pytest.mark.parametrize("caller", [{"X-Internal-Key": "the-internal-key"}, bearer()], ids=["internal", "agent"])
async def test_what_is_no_tenant_id_is_refused(tenant_id: str, caller: dict[str, str]) -> None:
    answer = await ask(caller | {"X-Tenant-Id": tenant_id})
    refused(answer, 400, "invalid")
    assert answer.json()["errors"][0]["field"] == "X-Tenant-Id"


async def test_a_service_without_a_jwt_secret_takes_no_token_and_says_what_it_takes() -> None:
    assert "X-Internal-Key" in refused(await ask(bearer(), WITHOUT_JWT), 401, "unauthorized")
    assert "X-Internal-Key" in refused(await ask({}, WITHOUT_JWT), 401, "unauthorized")
    key = {"X-Internal-Key": "the-internal-key", "X-Tenant-Id": "kbz-002"}
    assert (await ask(key, WITHOUT_JWT)).json() == {"tenantId": "kbz-002"}


async def test_dev_mode_waives_the_key_but_believes_no_wrong_credentials() -> None:
    assert (await ask({"X-Tenant-Id": "kbz-002"}, DEV)).json() == {"tenantId": "kbz-002"}
    refused(await ask({}, DEV), 400, "invalid")
    refused(await ask({"X-Internal-Key": "another"}, DEV), 401, "unauthorized")
    refused(await ask(bearer(OTHER_SECRET), DEV), 401, "unauthorized")
    refused(await ask(bearer() | {"X-Tenant-Id": "kbz-002"}, DEV), 404, "not_found")


@given(authorization=st.text(), internal_key=st.none() | st.text())
def test_whatever_is_sent_is_refused_and_nothing_else_happens(authorization: str, internal_key: str | None) -> None:
    for sent in (authorization, f"Bearer {authorization}", f"Bearer a.{authorization}.c"):
        with pytest.raises(UnauthorizedError):
            KEYS.caller(sent, internal_key)
