"""What a service needs in the servers: databases, roles, tables, streams, the application's credentials."""

import asyncio
import time
from pathlib import Path

import httpx

from shared import migrate, provision

from .endpoints import Endpoints
from .errors import StackError
from .secrets import Secrets
from .servers import DEPLOY, postgres_binary
from .services import role_of
from .supervisor import run

APP_PATH = "/v1/secret/data/keybuzz/amazon_spapi/app"
VAULT_SECONDS = 10.0


async def roles(endpoints: Endpoints, secrets: Secrets, logs: Path) -> None:
    """Databases, roles and rights, then the tenants of the story where the product has none yet."""
    connection = {
        "PGHOST": endpoints.postgres.host,
        "PGPORT": str(endpoints.postgres.port),
        "PGUSER": "postgres",
        "PGPASSWORD": secrets.postgres["postgres"],
        **{f"POSTGRES_{role.upper()}_PASSWORD": password for role, password in secrets.postgres.items()},
    }
    for script, database in (("roles.sql", "postgres"), ("story.sql", "keybuzz")):
        await run(
            [
                *(postgres_binary("psql"), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"),
                *(f"--dbname={database}", f"--file={DEPLOY / 'postgres' / script}"),
            ],
            connection,
            log=logs / "provisioning.log",
        )


async def migrations(services: tuple[str, ...], endpoints: Endpoints) -> None:
    """Each service's tables, made by the owner of its schema."""
    try:
        await asyncio.gather(
            *(migrate.migrate(service, endpoints.postgres.dsns[f"{role_of(service)}_owner"]) for service in services)
        )
    except migrate.MigrationError as error:
        raise StackError(str(error)) from error


async def streams(endpoints: Endpoints) -> None:
    await provision.provision(endpoints.nats.users["provisioner"].url)


async def app_credentials(endpoints: Endpoints, secrets: Secrets, redirect_uri: str, client: httpx.AsyncClient) -> None:
    """The application's credentials, written by the operator's role; no new version when they are there."""
    wanted = {
        "client_id": secrets.amazon.client_id,
        "client_secret": secrets.amazon.client_secret,
        "application_id": secrets.amazon.application_id,
        "redirect_uri": redirect_uri,
        "region": "eu",
    }
    operator = secrets.vault["operator"]
    login = await _vault(
        client,
        "POST",
        endpoints.vault.addr + "/v1/auth/approle/login",
        json={"role_id": operator.role_id, "secret_id": operator.secret_id},
    )
    token = {"X-Vault-Token": login.json()["auth"]["client_token"]}
    app = endpoints.vault.addr + APP_PATH
    held = await _vault(client, "GET", app, headers=token)
    if held.status_code == httpx.codes.NOT_FOUND or held.json()["data"]["data"] != wanted:
        await _vault(client, "POST", app, headers=token, json={"data": wanted})
    await _vault(client, "POST", endpoints.vault.addr + "/v1/auth/token/revoke-self", headers=token)


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
