"""An Amazon application's credentials and the account of a mailbox, brought into OpenBao with the operator's role. The
local stack calls it for each of its two applications; under compose it is a job for the one that the services use, and
for the mailbox where MAILBOX_NAME is set: python -m devstack.credentials
"""

import asyncio
import os
import ssl
import sys
import time
from collections.abc import Mapping
from typing import Literal

import httpx

from shared.settings import Environment, Secret, SettingsError, load

from .errors import StackError

AppSource = Literal["external_test", "keybuzz"]
PATHS: dict[AppSource, str] = {
    "external_test": "/v1/secret/data/keybuzz/amazon_spapi/app",
    "keybuzz": "/v1/secret/data/keybuzz/amazon_spapi/app_keybuzz",
}
VAULT_SECONDS = 10.0


class Access(Environment, frozen=True, kw_only=True):
    """Where OpenBao is, and the operator's role in it."""

    vault_addr: str
    vault_cacert: str
    vault_role_id: str
    vault_secret_id: Secret


class Credentials(Access, frozen=True, kw_only=True):
    """What to bring, and where to."""

    amazon_client_id: str
    amazon_client_secret: Secret
    amazon_application_id: str
    amazon_redirect_uri: str
    amazon_region: str = "eu"
    amazon_spapi_app_source: AppSource = "external_test"


class MailboxAccount(Access, frozen=True, kw_only=True):
    """What opens a mailbox."""

    mailbox_name: str
    mailbox_host: str
    mailbox_port: str
    mailbox_user: str
    mailbox_password: Secret


async def bring(client: httpx.AsyncClient, credentials: Credentials) -> None:
    wanted = {
        "client_id": credentials.amazon_client_id,
        "client_secret": credentials.amazon_client_secret.reveal(),
        "application_id": credentials.amazon_application_id,
        "redirect_uri": credentials.amazon_redirect_uri,
        "region": credentials.amazon_region,
    }
    await _put(client, credentials, PATHS[credentials.amazon_spapi_app_source], wanted)


async def bring_mailbox(client: httpx.AsyncClient, account: MailboxAccount) -> None:
    wanted = {
        "host": account.mailbox_host,
        "port": account.mailbox_port,
        "user": account.mailbox_user,
        "password": account.mailbox_password.reveal(),
    }
    await _put(client, account, f"/v1/secret/data/keybuzz/mailboxes/{account.mailbox_name}", wanted)


async def _put(client: httpx.AsyncClient, access: Access, path: str, wanted: Mapping[str, str]) -> None:
    """Make a secret what it should be; no new version when it is that already."""
    addr = access.vault_addr
    login = await _vault(
        client,
        "POST",
        addr + "/v1/auth/approle/login",
        json={"role_id": access.vault_role_id, "secret_id": access.vault_secret_id.reveal()},
    )
    token = {"X-Vault-Token": login.json()["auth"]["client_token"]}
    held = await _vault(client, "GET", addr + path, headers=token)
    if held.status_code == httpx.codes.NOT_FOUND or held.json()["data"]["data"] != wanted:
        await _vault(client, "POST", addr + path, headers=token, json={"data": wanted})
    await _vault(client, "POST", addr + "/v1/auth/token/revoke-self", headers=token)


async def _vault(
    client: httpx.AsyncClient,
    method: str,
    url: str,
    *,
    headers: dict[str, str] | None = None,
    json: object = None,
) -> httpx.Response:
    """Ask again while the server, just started, still sets up its engines; 404 is an answer."""
    deadline = time.monotonic() + VAULT_SECONDS
    while True:
        response = await client.request(method, url, headers=headers, json=json)
        if response.is_success or response.status_code == httpx.codes.NOT_FOUND:
            return response
        if time.monotonic() > deadline:
            raise StackError(f"OpenBao refused {method} {url} with {response.status_code}: {response.text[:300]}")
        await asyncio.sleep(0.1)


async def _main() -> None:
    credentials = load(Credentials)
    context = ssl.create_default_context(cafile=credentials.vault_cacert)
    async with httpx.AsyncClient(verify=context, trust_env=False, timeout=5) as client:
        await bring(client, credentials)
        if os.environ.get("MAILBOX_NAME"):
            await bring_mailbox(client, load(MailboxAccount))


if __name__ == "__main__":
    try:
        asyncio.run(_main())
    except (SettingsError, StackError, httpx.HTTPError) as error:
        sys.exit(f"The application's credentials are not in OpenBao. {type(error).__name__}: {error}")
