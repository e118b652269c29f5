"""The schema from nothing, by the role that owns it, and compared with what is expected."""

import importlib.util
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import msgspec
import pytest

import orders
from devstack.stack import Stack
from shared.migrate import GATE, MigrationError, migrate, package_of
from shared.topology import SERVICES

EXPECTED = Path(__file__).parent / "schemas"
COLUMNS = """
SELECT table_name, column_name, data_type || CASE WHEN is_nullable = 'NO' THEN ' not null' ELSE '' END AS type
  FROM information_schema.columns
 WHERE table_schema = $1 AND table_name <> 'schema_migrations'
 ORDER BY table_name, ordinal_position
"""


class Empty:
    """A database with the roles and schemas of deploy/postgres/roles.sql and no table."""

    def __init__(self, stack: Stack, name: str) -> None:
        self._stack = stack
        self.name = name

    def dsn(self, role: str) -> str:
        return urlunsplit(urlsplit(self._stack.endpoints.postgres.dsns[role])._replace(path=f"/{self.name}"))

    async def columns(self, service: str, role: str | None = None) -> dict[str, dict[str, str]]:
        conn = await asyncpg.connect(self.dsn(role or package_of(service)))
        try:
            found: dict[str, dict[str, str]] = {}
            for row in await conn.fetch(COLUMNS, package_of(service)):
                found.setdefault(row["table_name"], {})[row["column_name"]] = row["type"]
            return found
        finally:
            await conn.close()


@pytest.fixture
async def empty(stack: Stack) -> AsyncIterator[Empty]:
    admin = await asyncpg.connect(stack.endpoints.postgres.dsns["admin"])
    database = Empty(stack, f"test_{uuid4().hex}")
    await admin.execute(f'CREATE DATABASE "{database.name}"')
    inside = await asyncpg.connect(database.dsn("admin"))
    try:
        for service in SERVICES:
            schema = package_of(service)
            await inside.execute(
                f"CREATE SCHEMA {schema} AUTHORIZATION {schema}_owner; GRANT USAGE ON SCHEMA {schema} TO {schema};"
                f"ALTER DEFAULT PRIVILEGES FOR ROLE {schema}_owner IN SCHEMA {schema}"
                f" GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {schema};"
            )
        await inside.execute(f"CREATE SCHEMA {GATE} AUTHORIZATION {GATE}_owner")
        yield database
    finally:
        await inside.close()
        await admin.execute(f'DROP DATABASE "{database.name}" WITH (FORCE)')
        await admin.close()


@pytest.mark.parametrize("service", SERVICES)
async def test_the_tables_of_a_service_made_from_nothing_are_the_expected_ones(empty: Empty, service: str) -> None:
    assert await empty.columns(service) == {}
    await migrate(service, empty.dsn(f"{package_of(service)}_owner"))
    made = await empty.columns(service)
    assert made == msgspec.json.decode((EXPECTED / f"{service}.json").read_bytes())

    await migrate(service, empty.dsn(f"{package_of(service)}_owner"))
    assert await empty.columns(service) == made
    for other in SERVICES:
        if other != service:
            assert await empty.columns(other) == {}


async def test_the_gate_before_amazon_has_a_schema_of_its_own(empty: Empty) -> None:
    await migrate(GATE, empty.dsn(f"{GATE}_owner"))
    made = await empty.columns(GATE, "admin")
    assert made == msgspec.json.decode((EXPECTED / f"{GATE}.json").read_bytes())
    await migrate(GATE, empty.dsn(f"{GATE}_owner"))
    assert await empty.columns(GATE, "admin") == made
    for service in SERVICES:
        assert await empty.columns(service) == {}


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_reads_and_writes_its_tables_and_changes_none(empty: Empty, service: str) -> None:
    await migrate(service, empty.dsn(f"{package_of(service)}_owner"))
    conn = await asyncpg.connect(empty.dsn(package_of(service)))
    try:
        await conn.execute("INSERT INTO inbox (handler, event_id) VALUES ('h', 'e')")
        await conn.execute("INSERT INTO outbox (subject, key, payload) VALUES ('s', 'k', '{}')")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute("ALTER TABLE outbox ADD COLUMN other text")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute(f"CREATE TABLE {package_of(service)}.other ()")
    finally:
        await conn.close()


class Package(msgspec.Struct):
    origin: str


@pytest.fixture
def invoices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The migrations of a service that is made up for the test."""
    folder = tmp_path / "invoices" / "migrations"
    folder.mkdir(parents=True)
    found = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> Any:
        return Package(str(tmp_path / "invoices" / "__init__.py")) if name == "invoices" else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    return folder


async def test_a_broken_migration_is_refused_in_the_tools_words_and_what_came_before_stays(
    empty: Empty, invoices: Path
) -> None:
    admin = await asyncpg.connect(empty.dsn("admin"))
    await admin.execute("CREATE SCHEMA invoices")
    (invoices / "20260101000000_good.sql").write_text("-- migrate:up\ncreate table good ();\n-- migrate:down\n")
    (invoices / "20260101000001_bad.sql").write_text("-- migrate:up\ncreate tabel bad ();\n-- migrate:down\n")
    try:
        with pytest.raises(MigrationError, match='syntax error at or near "tabel"') as refused:
            await migrate("invoices", empty.dsn("admin"))
        assert "invoices" in str(refused.value)
        tables = await admin.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'invoices'")
    finally:
        await admin.close()
    assert {row["tablename"] for row in tables} == {"good", "outbox", "inbox", "schema_migrations"}


async def test_a_service_that_is_not_there_is_refused(empty: Empty) -> None:
    with pytest.raises(MigrationError, match="no service 'invoicing'"):
        await migrate("invoicing", empty.dsn("orders_owner"))


BEFORE_UPKEEP = """
INSERT INTO orders.connections
       (tenant_id, marketplace, connection_id, seller_id, region, marketplace_ids, connected_at, disconnected_at)
VALUES ('kbz-1', 'AMAZON', gen_random_uuid(), 'ABACKFILLED', 'eu', '{}', now(), NULL),
       ('kbz-2', 'AMAZON', gen_random_uuid(), 'ANEVER', 'eu', '{}', now(), NULL),
       ('kbz-3', 'AMAZON', gen_random_uuid(), 'AGONE', 'eu', '{}', now(), now());
INSERT INTO orders.backfill_jobs (tenant_id, marketplace, days, window_from, window_to, state)
VALUES ('kbz-1', 'AMAZON', 90, '2026-01-01Z', '2026-03-01Z', 'COMPLETED'),
       ('kbz-1', 'AMAZON', 30, '2026-04-01Z', '2026-05-01Z', 'COMPLETED'),
       ('kbz-1', 'AMAZON', 30, '2026-06-01Z', '2026-07-01Z', 'RUNNING'),
       ('kbz-4', 'AMAZON', 30, '2020-01-01Z', '2020-02-01Z', 'FAILED');
"""


async def test_accounts_of_before_their_upkeep_get_it_from_where_their_first_backfill_ends(
    empty: Empty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(orders.__file__).parent / "migrations"
    (upkeep,) = folder.glob("*_upkeep.sql")
    old = tmp_path / "orders" / "migrations"
    old.mkdir(parents=True)
    for file in folder.iterdir():
        if file.name < upkeep.name:
            shutil.copy(file, old)
    with monkeypatch.context() as patch:
        patch.setattr(orders.__spec__, "origin", str(old.parent / "__init__.py"))
        await migrate("orders", empty.dsn("orders_owner"))
    conn = await asyncpg.connect(empty.dsn("orders"))
    try:
        await conn.execute(BEFORE_UPKEEP)
        await migrate("orders", empty.dsn("orders_owner"))
        rows = await conn.fetch(
            "SELECT tenant_id, task, seller_id, cursor_at, next_due <= now() AND leased_until IS NULL AS is_due,"
            " cursor_at BETWEEN now() - interval '10 minutes' AND now() - interval '3 minutes' AS is_lately"
            "  FROM orders.upkeep ORDER BY 1, 2"
        )
        assert [(row["tenant_id"], row["task"], row["seller_id"]) for row in rows] == [
            (tenant_id, task, seller_id)
            for tenant_id, seller_id in (("kbz-1", "ABACKFILLED"), ("kbz-2", "ANEVER"), ("kbz-3", "AGONE"))
            for task in ("AUDIT", "DELTA", "DETAILS")
        ]
        assert all(row["is_due"] for row in rows)
        assert {row["cursor_at"] for row in rows[:3]} == {datetime(2026, 3, 1, tzinfo=UTC)}
        assert [row["is_lately"] for row in rows] == [False] * 3 + [True] * 6
        audited = await conn.fetch("SELECT state, audited_at IS NOT NULL AS is_audited FROM orders.backfill_jobs")
        assert {(row["state"], row["is_audited"]) for row in audited} == {
            ("COMPLETED", True),
            ("RUNNING", False),
            ("FAILED", False),
        }
    finally:
        await conn.close()


@pytest.mark.parametrize("password", ["p@ss/w:rd é", "a%20b?c#d&e=f", "'\"\\$HOME"])
async def test_a_password_with_special_characters_works(empty: Empty, invoices: Path, password: str) -> None:
    (invoices / "20260101000000_good.sql").write_text("-- migrate:up\ncreate table good ();\n-- migrate:down\n")
    admin = await asyncpg.connect(empty.dsn("admin"))
    role = f"invoices_{uuid4().hex}"
    quoted = await admin.fetchval("SELECT quote_literal($1)", password)
    await admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD {quoted}; CREATE SCHEMA invoices AUTHORIZATION {role}")
    parts = urlsplit(empty.dsn("orders_owner"))
    location = f"{role}:{quote(password, safe='')}@{parts.hostname}:{parts.port}"
    try:
        await migrate("invoices", urlunsplit(parts._replace(netloc=location)))
        assert await admin.fetchval("SELECT to_regclass('invoices.good') IS NOT NULL")
    finally:
        await admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        await admin.close()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://orders_owner:secretpart@127.0.0.1:port/keybuzz_backend",
        "postgresql://orders_owner:secretpart@127.0.0.1:1/keybuzz_backend",
        "postgresql://orders_owner:secret%part@127.0.0.1:1/keybuzz_backend",
        "postgresql://orders_owner:secretpart@[127.0.0.1/keybuzz_backend",
        "secretpart",
        "mysql://orders_owner:secretpart@127.0.0.1/keybuzz_backend",
    ],
)
async def test_an_address_that_is_wrong_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(MigrationError) as refused:
        await migrate("orders", url)
    assert "secretpart" not in str(refused.value)
    assert "secret%part" not in str(refused.value)
