"""compose.yaml and the Dockerfile: what the real parser makes of them, and, where a Docker engine answers, the
whole stack in containers.
"""

import asyncio
import json
import re
import ssl
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from testcontainers.compose import DockerCompose

from devstack import compose, endpoints
from devstack.endpoints import Endpoints
from devstack.outside import Outside, eventually
from devstack.ports import Ports
from devstack.sandbox import imap, mails
from shared.topology import SERVICES

ROOT = Path(__file__).parents[2]
COMPOSE = Path(sysconfig.get_path("scripts")) / "docker-compose"
PINNED = re.compile(r"[a-z./-]+:\d+\.\d+[\w.-]*")
REQUIRED = r"\$\{[A-Z_]+:\?[^}]+\}"
AMAZON_SERVICES = {"oauth", "poller", "orders"}
HANDED_ON = {
    "AMAZON_SPAPI_APP_SOURCE": AMAZON_SERVICES,
    "AMAZON_SPAPI_APP_PATH_EXTERNAL_TEST": AMAZON_SERVICES,
    "AMAZON_SPAPI_APP_PATH_KEYBUZZ": AMAZON_SERVICES,
    "AMAZON_READ_MESSAGES": {"poller"},
    "AMAZON_APP_DRAFT": {"oauth"},
    "PRODUCT_LOGIN_URL": {"oauth"},
    "RETURN_ORIGINS": {"oauth"},
    "REQUESTS_PER_MINUTE": {"oauth"},
    "CHECK_SECONDS": {"oauth"},
    "VERIFY_SECONDS": {"oauth"},
    "FORWARDED_ALLOW_IPS": {"oauth"},
    "ACTIVE_COUNTRIES": {"tenant-sync"},
    "RECONCILE_SECONDS": {"tenant-sync"},
}
"""What an operator may set, and who reads it."""
SECRET_NAME = re.compile(r"(PASSWORD|SECRET|_KEY|_SECRET_ID|_ROLE_ID|CLIENT_ID|APPLICATION_ID)$")


def parse(*arguments: str, env_file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own arguments
        [COMPOSE, "--env-file", env_file, "-f", ROOT / "compose.yaml", "config", *arguments],
        env={"PATH": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """As compose would start them, all variables in place."""
    answer = parse("--format", "json", env_file=compose.prepare(tmp_path_factory.mktemp("compose")))
    assert answer.returncode == 0, answer.stderr
    return dict(json.loads(answer.stdout)["services"])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """As the file has them, each variable by its name."""
    empty = tmp_path_factory.mktemp("empty") / ".env"
    empty.touch()
    answer = parse("--no-interpolate", "--format", "json", env_file=empty)
    assert answer.returncode == 0, answer.stderr
    return dict(json.loads(answer.stdout)["services"])


def test_a_missing_variable_is_named_and_nothing_starts(tmp_path: Path) -> None:
    (tmp_path / ".env").touch()
    answer = parse("--quiet", env_file=tmp_path / ".env")
    assert answer.returncode != 0
    assert "required variable JWT_SECRET is missing a value: run make compose" in answer.stderr


def test_what_is_made_once_stays_and_is_closed_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    made = compose.prepare(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".json"}
    compose.prepare(folder)
    assert {path: path.read_bytes() for path in before} == before
    assert folder.stat().st_mode & 0o777 == 0o700
    assert made.stat().st_mode & 0o777 == 0o600


def test_every_foreign_image_is_pinned_to_a_version(services: dict[str, Any]) -> None:
    foreign = {service["image"] for service in services.values() if not service["image"].startswith("keybuzz-")}
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    foreign |= {image for image in re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE) if ":" in image}
    assert len(foreign) == 4
    assert [image for image in foreign if not PINNED.fullmatch(image)] == []


def test_every_image_of_ours_has_a_tag_and_somebody_builds_it(services: dict[str, Any]) -> None:
    ours = {service["image"] for service in services.values() if service["image"].startswith("keybuzz-")}
    built = {service["image"] for service in services.values() if "build" in service}
    assert ours == built == {f"keybuzz-{name}:dev" for name in (*SERVICES, "sandbox")}


def test_ports_are_published_on_loopback_only(services: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert set(SERVICES) <= set(published)
    for name, ports in published.items():
        assert {port.get("host_ip") for port in ports} == {"127.0.0.1"}, name


def test_every_container_is_hardened(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert int(service["mem_limit"]) <= 1 << 30, name
        assert "/tmp" in service["tmpfs"], name  # noqa: S108
        assert not {"privileged", "cap_add", "network_mode", "pid"} & set(service), name


def test_every_service_waits_for_what_it_needs_and_says_when_it_is_ready(services: dict[str, Any]) -> None:
    for name in SERVICES:
        service = services[name]
        assert "/readyz" in str(service["healthcheck"]["test"]), name
        assert service["restart"] == "unless-stopped", name
        waits = {needed: wait["condition"] for needed, wait in service["depends_on"].items()}
        for server in ("nats", "postgres"):
            assert waits[server] == "service_healthy", name
        gate = ["migrate-amazon"] if name in {"poller", "orders"} else []
        for job in ("streams", f"migrate-{name}", *gate):
            assert waits[job] == "service_completed_successfully", name
        # Amazon's stand-in is a profile: nothing may need it.
        assert "sandbox" not in waits, name
        for needed in waits:
            assert "healthcheck" in services[needed] or services[needed]["restart"] == "no", needed


def test_every_secret_comes_from_outside(written: dict[str, Any]) -> None:
    for name, service in written.items():
        for variable, value in service.get("environment", {}).items():
            if SECRET_NAME.search(variable):
                assert re.fullmatch(REQUIRED, value), f"{name}: {variable}"
            if "@" in value:
                assert re.fullmatch(rf"\w+://[\w-]+:{REQUIRED}@\w+(/\w+)?", value), f"{name}: {variable}"


def test_a_setting_reaches_those_who_read_it_and_without_one_the_default_holds(
    services: dict[str, Any], tmp_path: Path
) -> None:
    made = compose.prepare(tmp_path)
    with made.open("a") as file:
        file.writelines(f"{variable}=given-{variable}\n" for variable in HANDED_ON)
    answer = parse("--format", "json", env_file=made)
    assert answer.returncode == 0, answer.stderr
    given = json.loads(answer.stdout)["services"]
    for variable, readers in HANDED_ON.items():
        for name in SERVICES:
            wanted = f"given-{variable}" if name in readers else None
            assert given[name]["environment"].get(variable) == wanted, f"{name}: {variable}"
    defaults = {
        services["oauth"]["environment"][variable] for variable, readers in HANDED_ON.items() if "oauth" in readers
    }
    assert defaults == {"", "external_test", "127.0.0.1"}


def test_nothing_that_looks_like_a_secret_is_in_a_file() -> None:
    looks_random = re.compile(r"\b(?=[A-Za-z]*\d)[A-Za-z0-9]{20,}\b")
    files = [ROOT / "compose.yaml", *(path for path in (ROOT / "deploy").rglob("*") if path.is_file())]
    for file in files:
        assert looks_random.findall(file.read_text()) == [], file


def test_the_services_and_the_credentials_are_of_the_same_application(tmp_path: Path) -> None:
    made = compose.prepare(tmp_path)
    for line, source in (("", "external_test"), ("AMAZON_SPAPI_APP_SOURCE=keybuzz\n", "keybuzz")):
        made.write_text(made.read_text() + line)
        services = json.loads(parse("--format", "json", env_file=made).stdout)["services"]
        sources = {name: services[name]["environment"]["AMAZON_SPAPI_APP_SOURCE"] for name in ("oauth", "orders")}
        job = services["amazon-credentials"]["environment"]["AMAZON_SPAPI_APP_SOURCE"]
        assert {*sources.values(), job} == {source}


def test_the_sandboxs_image_runs_modules_that_ask_for_no_checkout() -> None:
    """Others look for deploy/ beside the source, which the image does not have."""
    names = "name.split('.')[1] for name in sys.modules if name.startswith('devstack.')"
    code = f"import sys, devstack.credentials, devstack.sandbox.__main__; print(*sorted({{{names}}}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert loaded.stdout.split() == ["credentials", "errors", "sandbox"]


def test_amazons_stand_in_sends_sellers_to_oauth(services: dict[str, Any]) -> None:
    environment = services["sandbox"]["environment"]
    port = services["oauth"]["ports"][0]["published"]
    assert environment["SANDBOX_REDIRECT_URIS"] == f"http://127.0.0.1:{port}/api/v1/marketplaces/amazon/oauth/callback"
    assert environment["SANDBOX_LOGIN_URI"] == f"http://127.0.0.1:{port}/api/v1/marketplaces/amazon/oauth/login"


async def test_poller_reads_the_mailbox_of_amazons_stand_in(services: dict[str, Any]) -> None:
    poller, sandbox, job = (services[name]["environment"] for name in ("poller", "sandbox", "amazon-credentials"))
    assert poller["MAILBOXES"] == job["MAILBOX_NAME"] == "inbound"
    assert poller["MAIL_AUTHSERV_ID"] == mails.SERVER
    assert (job["MAILBOX_HOST"], job["MAILBOX_USER"]) == ("sandbox", imap.USER)
    assert (job["MAILBOX_PORT"], job["MAILBOX_PASSWORD"]) == (
        sandbox["SANDBOX_MAIL_PORT"],
        sandbox["SANDBOX_MAIL_PASSWORD"],
    )
    mounted = {
        volume["target"]: volume["source"] for name in ("poller", "sandbox") for volume in services[name]["volumes"]
    }
    listener = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    files = (mounted[sandbox[f"SANDBOX_MAIL_{name}_FILE"]] for name in ("CERTIFICATE", "KEY"))
    listener.load_cert_chain(*files)
    trusting = ssl.create_default_context(cafile=mounted[poller["MAILBOX_CACERT"]])
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=listener)
    async with server:
        _, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=trusting, server_hostname=job["MAILBOX_HOST"]
        )
        writer.close()


def test_a_service_gets_the_passwords_of_its_own_users_only(written: dict[str, Any]) -> None:
    for name in SERVICES:
        own = name.replace("-", "_").upper()
        text = json.dumps(written[name]["environment"])
        variables = set(re.findall(r"(?:NATS|POSTGRES)_(\w+)_PASSWORD|(\w+)_(?:ROLE|SECRET)_ID:", text))
        users = {user for pair in variables for user in pair if user}
        assert users <= {own, "PRODUCT_READER"} if name == "tenant-sync" else users == {own}, name


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    """The whole stack under a name and on ports of its own, built, ready, and gone afterwards with its data."""
    try:
        engine = subprocess.run(["docker", "version"], capture_output=True, text=True, check=False, timeout=10)  # noqa: S607
    except FileNotFoundError:
        pytest.skip("no Docker engine: there is no docker command")
    if engine.returncode:
        pytest.skip(f"no Docker engine answers: {engine.stderr.strip()}")
    folder = tmp_path_factory.mktemp("docker")
    ports = Ports(folder)  # held until the end: other tests' stacks look for free ports meanwhile
    made = compose.prepare(folder)
    name = folder / "name.env"
    name.write_text(f"COMPOSE_PROJECT_NAME=keybuzz-test-{made.stat().st_ino}\n")
    with DockerCompose(ROOT, compose_file_name="compose.yaml", build=True, env_file=[str(made), str(name)]):
        yield endpoints.read(folder)
    ports.release()


@pytest.mark.docker
async def test_in_containers_all_services_are_ready_and_the_story_holds(running: Endpoints) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        for url in running.services.values():
            answer = await client.get(f"{url}/readyz")
            assert answer.status_code == 200, answer.text
    async with Outside(running) as outside:
        await outside.publish("tenant.created", {"tenantId": "ecomlg-001"})
        await eventually(
            "the tenant in step",
            lambda: outside.ask("tenant-sync", "GET", "/api/v1/tenants/status/ecomlg-001"),
            lambda answer: answer.is_success and answer.json()["inSync"],
        )
        page = await outside.connect("ecomlg-001")
        assert "is connected" in page.text
        await eventually("95 orders", lambda: outside.orders("ecomlg-001"), lambda orders: len(orders) == 95)
        await eventually("3 tickets", lambda: outside.tickets("ecomlg-001"), lambda tickets: len(tickets) == 3)
        await outside.write_mails((await outside.inbound_address("ecomlg-001"))["email"], orderIds=[])
        await eventually("a ticket by mail", lambda: outside.tickets("ecomlg-001", channel="email"))
