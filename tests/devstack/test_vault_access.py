"""What each AppRole can and cannot do, on a real OpenBao."""

import ssl
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from devstack.stack import Stack

APP = "secret/data/keybuzz/amazon_spapi/app"
APP_KEYBUZZ = "secret/data/keybuzz/amazon_spapi/app_keybuzz"
OLD_APP = "secret/data/keybuzz/ai/amazon_spapi_app"
TENANT = "secret/data/keybuzz/tenants/kbz-001/amazon_spapi"
TENANT_METADATA = "secret/metadata/keybuzz/tenants/kbz-001/amazon_spapi"
TENANT_DESTROY = "secret/destroy/keybuzz/tenants/kbz-001/amazon_spapi"
TENANTS = "secret/metadata/keybuzz/tenants"
NOBODYS = (
    "secret/data/keybuzz/something/else",
    "secret/data/keybuzz/tenants/kbz-001/another",
    "secret/data/keybuzz/tenants/kbz-001/deeper/amazon_spapi",
    "secret/delete/keybuzz/tenants/kbz-001/amazon_spapi",
    "secret/undelete/keybuzz/tenants/kbz-001/amazon_spapi",
    "secret/metadata/keybuzz",
    "secret/metadata/keybuzz/tenants/kbz-001",
    "secret/metadata/keybuzz/amazon_spapi",
    "secret/metadata/keybuzz/amazon_spapi/app",
    "secret/destroy/keybuzz/amazon_spapi/app",
    "secret/delete/keybuzz/amazon_spapi/app_keybuzz",
    "secret/config",
)
NO_VERSION = 1_000_000


@pytest.fixture
async def vault(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    context = ssl.create_default_context(cafile=stack.endpoints.vault.cacert)
    async with httpx.AsyncClient(
        base_url=f"{stack.endpoints.vault.addr}/v1/", verify=context, trust_env=False
    ) as client:
        yield client


async def _login(stack: Stack, vault: httpx.AsyncClient, name: str) -> dict[str, Any]:
    role = stack.endpoints.vault.roles[name]
    answer = await vault.post("auth/approle/login", json={"role_id": role.role_id, "secret_id": role.secret_id})
    auth: dict[str, Any] = answer.raise_for_status().json()["auth"]
    return auth


async def _ask(vault: httpx.AsyncClient, token: str, action: str, path: str) -> int:
    """A POST would replace a version that there is not, or destroy it, and so changes nothing where it is allowed."""
    body = {"data": {"probe": "1"}, "options": {"cas": NO_VERSION}, "versions": [NO_VERSION]}
    answer = await vault.request(
        action, path, json=body if action == "POST" else None, headers={"X-Vault-Token": token}
    )
    return answer.status_code


READS = {("GET", TENANT), ("GET", APP), ("GET", APP_KEYBUZZ), ("GET", OLD_APP)}
ALLOWED = {
    "oauth": READS
    | {
        ("POST", TENANT),
        ("POST", TENANT_DESTROY),
        ("GET", TENANT_METADATA),
        ("LIST", TENANTS),
    },
    "poller": READS,
    "orders": READS,
    "operator": (READS - {("GET", TENANT)}) | {("POST", APP), ("POST", APP_KEYBUZZ), ("POST", OLD_APP)},
}


@pytest.mark.parametrize("role", ALLOWED)
async def test_a_role_does_what_its_policy_says_and_nothing_else(
    stack: Stack, vault: httpx.AsyncClient, role: str
) -> None:
    oauth, token = [(await _login(stack, vault, name))["client_token"] for name in ("oauth", role)]
    await vault.post(TENANT, json={"data": {"probe": "1"}}, headers={"X-Vault-Token": oauth})
    somebodys = {path for allowed in ALLOWED.values() for _, path in allowed}
    for path in (*sorted(somebodys), *NOBODYS):
        for action in ("GET", "LIST", "POST", "DELETE"):
            status = await _ask(vault, token, action, path)
            if (action, path) in ALLOWED[role]:
                assert status in {200, 204, 400, 404}, (action, path)
            else:
                assert status == 403, (action, path)
    assert await _ask(vault, token, "LIST", f"{TENANTS}/") == (200 if role == "oauth" else 403)


@pytest.mark.parametrize("role", ALLOWED)
async def test_no_role_manages_the_server(stack: Stack, vault: httpx.AsyncClient, role: str) -> None:
    token = (await _login(stack, vault, role))["client_token"]
    for path in (
        "sys/policies/acl/oauth",
        "sys/mounts",
        "auth/approle/role/oauth/role-id",
        "auth/token/accessors",
    ):
        assert await _ask(vault, token, "GET", path) == 403, path


async def test_tokens_last_an_hour_and_are_renewable(stack: Stack, vault: httpx.AsyncClient) -> None:
    auth = await _login(stack, vault, "oauth")
    assert (auth["lease_duration"], auth["renewable"]) == (3600, True)


async def test_the_apps_credentials_are_there(stack: Stack, vault: httpx.AsyncClient) -> None:
    token = (await _login(stack, vault, "orders"))["client_token"]
    data = (await vault.get(APP, headers={"X-Vault-Token": token})).raise_for_status().json()["data"]["data"]
    assert data["client_id"] == stack.endpoints.amazon.client_id
    assert data["application_id"] == stack.endpoints.amazon.application_id
    assert data["redirect_uri"] == (f"{stack.endpoints.services['oauth']}/api/v1/marketplaces/amazon/oauth/callback")
    assert (data["region"], bool(data["client_secret"])) == ("eu", True)


async def test_another_roles_secret_id_is_refused(stack: Stack, vault: httpx.AsyncClient) -> None:
    roles = stack.endpoints.vault.roles
    answer = await vault.post(
        "auth/approle/login", json={"role_id": roles["oauth"].role_id, "secret_id": roles["poller"].secret_id}
    )
    assert answer.status_code == 400


async def test_a_client_that_does_not_know_the_authority_refuses_the_server(stack: Stack) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await client.get(f"{stack.endpoints.vault.addr}/v1/sys/health")
