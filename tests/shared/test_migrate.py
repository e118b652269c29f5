"""The schema from nothing, by the role that owns it, and compared with what is expected."""

import importlib.util
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import msgspec
import pytest

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
