"""The four services: what each gets in its environment, and nothing else."""

import sys
from collections.abc import Mapping

import httpx

from .endpoints import HOST, Endpoints
from .ports import Ports
from .servers import answers
from .supervisor import Program

AMAZON_SERVICES = ("oauth", "poller", "orders")
PRODUCT_APP = "http://localhost:3000"
"""Where developers of the product app usually run it."""


def service(
    name: str,
    endpoints: Endpoints,
    ports: Ports,
    client: httpx.AsyncClient,
    settings: Mapping[str, str],
) -> Program:
    return Program(
        name=name,
        command=[sys.executable, "-m", f"{role_of(name)}.app"],
        environment=environment(name, endpoints, ports) | dict(settings),
        ready=lambda: answers(client, f"{endpoints.services[name]}/readyz"),
    )


def role_of(service: str) -> str:
    """Its PostgreSQL role, its schema and its Python package: tenant-sync is tenant_sync."""
    return service.replace("-", "_")


def environment(name: str, endpoints: Endpoints, ports: Ports) -> dict[str, str]:
    variables = {
        "DATABASE_URL": endpoints.postgres.dsns[role_of(name)],
        "NATS_URL": endpoints.nats.users[name].url,
        "KEYBUZZ_INTERNAL_KEY": endpoints.tokens.internal_key,
        "HOST": HOST,
        "PORT": str(ports[name]),
        "LOG_LEVEL": "INFO",
    }
    if name == "tenant-sync":
        variables["PRODUCT_DATABASE_URL"] = endpoints.postgres.dsns["product_reader"]
    if name in AMAZON_SERVICES:
        role = endpoints.vault.roles[name]
        variables |= {
            "JWT_SECRET": endpoints.tokens.jwt_secret,
            "VAULT_ADDR": endpoints.vault.addr,
            "VAULT_CACERT": endpoints.vault.cacert,
            "VAULT_ROLE_ID": role.role_id,
            "VAULT_SECRET_ID": role.secret_id,
            "AMAZON_LWA_URL": endpoints.amazon.url,
            "AMAZON_SPAPI_URL": endpoints.amazon.url,
            "AMAZON_SELLER_CENTRAL_URL": endpoints.amazon.url,
            "AMAZON_SPAPI_APP_SOURCE": "external_test",
        }
    if name == "oauth":
        variables |= {"PRODUCT_LOGIN_URL": f"{PRODUCT_APP}/amazon/login", "RETURN_ORIGINS": PRODUCT_APP}
    if name == "poller":
        mailbox = endpoints.mailbox
        variables |= {
            "AMAZON_USE_MOCK": "true",
            "MAILBOXES": mailbox.name,
            "MAIL_AUTHSERV_ID": mailbox.authserv_id,
            "MAILBOX_CACERT": mailbox.cacert,
        }
    return variables
