"""What compose.yaml needs and no repository may hold: passwords, certificates and keys, made once per folder."""

from pathlib import Path

from . import certificates, endpoints, servers
from . import secrets as secrets_
from .permissions import password_variable
from .ports import PREFERRED, PortOf, choose
from .sandbox import mails
from .secrets import Secrets, seal_key
from .state import write_private

# The addresses inside of compose's networks; a browser and the redirect come from outside.
SANDBOX_URL = "http://sandbox:8000"
OPENBAO_NAMES = ("openbao", "127.0.0.1", "localhost")
MAIL_NAMES = ("sandbox", "127.0.0.1", "localhost")
UNPUBLISHED = {"openbao-cluster"}


def prepare(folder: Path) -> Path:
    """Write what is missing into the folder, keep what is there; the environment file that compose reads."""
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    ports = choose(folder)
    secrets = secrets_.load(folder)
    cacert = servers.cacert(folder)
    certificates.ensure(cacert, folder / "tls" / "cert.pem", folder / "tls" / "key.pem", OPENBAO_NAMES)
    if not (folder / "seal.key").exists():
        write_private(folder / "seal.key", seal_key())
    tls = endpoints.mail_tls(folder)
    certificates.ensure(tls / "ca.pem", tls / "cert.pem", tls / "key.pem", MAIL_NAMES)
    # Containers see these files through a mount, as users of their own; on this machine the folder closes them.
    for mounted in (cacert, *(folder / "tls").iterdir(), *tls.iterdir(), folder / "seal.key"):
        mounted.chmod(0o444)
    endpoints.write(folder, endpoints.describe(folder, ports, secrets, cacert))
    file = folder / ".env"
    lines = [f"{name}={value}" for name, value in environment(folder, ports, secrets).items()]
    write_private(file, "\n".join(["# Made by: python -m devstack compose-secrets", *lines, ""]).encode())
    return file


def environment(folder: Path, ports: PortOf, secrets: Secrets) -> dict[str, str]:
    """Every variable of compose.yaml."""
    variables = {
        "COMPOSE_PROFILES": "sandbox",
        "KEYBUZZ_STATE": str(folder),
        "JWT_SECRET": secrets.jwt_secret,
        "KEYBUZZ_INTERNAL_KEY": secrets.internal_key,
        "AMAZON_CLIENT_ID": secrets.amazon.client_id,
        "AMAZON_CLIENT_SECRET": secrets.amazon.client_secret,
        "AMAZON_APPLICATION_ID": secrets.amazon.application_id,
        "AMAZON_REDIRECT_URI": servers.redirect_uri(ports),
        "SANDBOX_LOGIN_URI": servers.login_uri(ports),
        "AMAZON_LWA_URL": SANDBOX_URL,
        "AMAZON_SPAPI_URL": SANDBOX_URL,
        "AMAZON_SELLER_CENTRAL_URL": f"http://{endpoints.HOST}:{ports['sandbox']}",
        "MAILBOXES": endpoints.MAILBOX,
        "MAIL_AUTHSERV_ID": mails.SERVER,
        "MAILBOX_CACERT": "/etc/keybuzz/mail-ca.pem",
        "MAILBOX_NAME": endpoints.MAILBOX,
        "MAILBOX_PASSWORD": secrets.mailbox_password,
    }
    for name in PREFERRED:
        if name not in UNPUBLISHED:
            variables[f"PORT_{name.replace('-', '_').upper()}"] = str(ports[name])
    variables |= {password_variable(user): password for user, password in secrets.nats.items()}
    variables |= {f"POSTGRES_{role.upper()}_PASSWORD": password for role, password in secrets.postgres.items()}
    for name, role in secrets.vault.items():
        variables |= {f"{name.upper()}_ROLE_ID": role.role_id, f"{name.upper()}_SECRET_ID": role.secret_id}
    return variables
