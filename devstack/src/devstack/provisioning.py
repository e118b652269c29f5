"""What a service needs in the servers: databases, roles, tables, streams, the applications' credentials."""

import asyncio
from pathlib import Path
from typing import Any

import httpx

from shared import migrate, provision
from shared.settings import Secret

from . import credentials
from .endpoints import Endpoints
from .errors import StackError
from .secrets import Secrets
from .servers import DEPLOY, postgres_binary
from .services import role_of
from .supervisor import run


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
    """The tables of each service and of the gate before Amazon, made by the owner of their schema."""
    try:
        await asyncio.gather(
            *(
                migrate.migrate(name, endpoints.postgres.dsns[f"{role_of(name)}_owner"])
                for name in (*services, migrate.GATE)
            )
        )
    except migrate.MigrationError as error:
        raise StackError(str(error)) from error


async def streams(endpoints: Endpoints) -> None:
    await provision.provision(endpoints.nats.users["provisioner"].url)


async def mailbox_account(endpoints: Endpoints, client: httpx.AsyncClient) -> None:
    """What poller opens the mailbox with."""
    mailbox = endpoints.mailbox
    await credentials.bring_mailbox(
        client,
        credentials.MailboxAccount(
            **_operator(endpoints),
            mailbox_name=mailbox.name,
            mailbox_host=mailbox.host,
            mailbox_port=str(mailbox.port),
            mailbox_user=mailbox.user,
            mailbox_password=Secret(mailbox.password),
        ),
    )


async def app_credentials(endpoints: Endpoints, secrets: Secrets, redirect_uri: str, client: httpx.AsyncClient) -> None:
    for source, app in secrets.amazon_apps().items():
        await credentials.bring(
            client,
            credentials.Credentials(
                **_operator(endpoints),
                amazon_client_id=app.client_id,
                amazon_client_secret=Secret(app.client_secret),
                amazon_application_id=app.application_id,
                amazon_redirect_uri=redirect_uri,
                amazon_spapi_app_source=source,
            ),
        )


def _operator(endpoints: Endpoints) -> dict[str, Any]:
    """Where OpenBao is and the operator's role in it, as credentials.Access has them."""
    role = endpoints.vault.roles["operator"]
    return {
        "vault_addr": endpoints.vault.addr,
        "vault_cacert": endpoints.vault.cacert,
        "vault_role_id": role.role_id,
        "vault_secret_id": Secret(role.secret_id),
    }
