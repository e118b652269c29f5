"""What each AppRole can and cannot do, on a real OpenBao."""

import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from devstack.sandbox.client import renew
from devstack.stack import Stack

APP = "secret/data/keybuzz/amazon_spapi/app"
APP_KEYBUZZ = "secret/data/keybuzz/amazon_spapi/app_keybuzz"
OLD_APP = "secret/data/keybuzz/ai/amazon_spapi_app"
MAILBOX = "secret/data/keybuzz/mailboxes/inbound"
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
    "poller": READS | {("GET", MAILBOX)},
    "orders": READS,
    "operator": (READS - {("GET", TENANT)})
    | {("POST", APP), ("POST", APP_KEYBUZZ), ("POST", OLD_APP), ("GET", MAILBOX), ("POST", MAILBOX)},
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


async def _credentials(stack: Stack, vault: httpx.AsyncClient, path: str) -> dict[str, str]:
    token = (await _login(stack, vault, "orders"))["client_token"]
    data: dict[str, str] = (
        (await vault.get(path, headers={"X-Vault-Token": token})).raise_for_status().json()["data"]["data"]
    )
    return data


@pytest.mark.parametrize(("source", "path"), [("external_test", APP), ("keybuzz", APP_KEYBUZZ)])
async def test_each_apps_credentials_are_there_and_amazon_takes_them(
    stack: Stack, vault: httpx.AsyncClient, source: str, path: str
) -> None:
    data = await _credentials(stack, vault, path)
    amazon = stack.endpoints.amazon
    assert data["client_id"] == amazon.applications[source].client_id
    assert data["application_id"] == amazon.applications[source].application_id
    assert data["redirect_uri"] == (f"{stack.endpoints.services['oauth']}/api/v1/marketplaces/amazon/oauth/callback")
    assert data["region"] == "eu"
    form = {
        "grant_type": "client_credentials",
        "scope": "sellingpartnerapi::notifications",
        "client_id": data["client_id"],
        "client_secret": data["client_secret"],
    }
    query = {"application_id": data["application_id"], "state": "s", "redirect_uri": data["redirect_uri"]}
    async with httpx.AsyncClient(base_url=amazon.url, trust_env=False) as client:
        assert (await client.post("/auth/o2/token", data=form)).status_code == 200
        assert (await client.get("/apps/authorize/consent", params=query)).status_code == 200


def test_the_first_application_stands_where_it_stood(stack: Stack) -> None:
    amazon = stack.endpoints.amazon
    assert list(amazon.applications) == ["external_test", "keybuzz"]
    first, second = amazon.applications.values()
    assert (amazon.client_id, amazon.application_id) == (first.client_id, first.application_id)
    assert {first.client_id, first.application_id}.isdisjoint({second.client_id, second.application_id})


async def test_amazon_knows_the_login_uri(stack: Stack) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        location = await renew(client, stack.endpoints.amazon.url, "A12BCIS2R7HD4D")
    assert location.startswith(f"{stack.endpoints.services['oauth']}/api/v1/marketplaces/amazon/oauth/login?")


def _job(stack: Stack, **changes: str) -> subprocess.CompletedProcess[str]:
    """The job of compose, for the second application, with what it finds in its environment."""
    operator = stack.endpoints.vault.roles["operator"]
    app = stack._secrets.amazon_keybuzz
    environment = {
        "VAULT_ADDR": stack.endpoints.vault.addr,
        "VAULT_CACERT": stack.endpoints.vault.cacert,
        "VAULT_ROLE_ID": operator.role_id,
        "VAULT_SECRET_ID": operator.secret_id,
        "AMAZON_CLIENT_ID": app.client_id,
        "AMAZON_CLIENT_SECRET": app.client_secret,
        "AMAZON_APPLICATION_ID": app.application_id,
        "AMAZON_REDIRECT_URI": f"{stack.endpoints.services['oauth']}/api/v1/marketplaces/amazon/oauth/callback",
        "AMAZON_SPAPI_APP_SOURCE": "keybuzz",
        **changes,
    }
    return subprocess.run(
        [sys.executable, "-m", "devstack.credentials"], env=environment, capture_output=True, text=True, check=False
    )


async def test_the_job_brings_an_application_to_the_place_of_its_source(stack: Stack, vault: httpx.AsyncClient) -> None:
    first, second = [await _credentials(stack, vault, path) for path in (APP, APP_KEYBUZZ)]
    changed = _job(stack, AMAZON_REGION="na")
    assert (changed.returncode, changed.stderr) == (0, "")
    assert await _credentials(stack, vault, APP_KEYBUZZ) == {**second, "region": "na"}
    assert await _credentials(stack, vault, APP) == first
    assert _job(stack).returncode == 0
    assert await _credentials(stack, vault, APP_KEYBUZZ) == second


def test_the_job_refuses_a_source_that_does_not_exist(stack: Stack) -> None:
    ended = _job(stack, AMAZON_SPAPI_APP_SOURCE="keybuz")
    assert ended.returncode == 1
    assert "AMAZON_SPAPI_APP_SOURCE is wrong" in ended.stderr
    assert stack._secrets.amazon_keybuzz.client_secret not in ended.stderr


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
