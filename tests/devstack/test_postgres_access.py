"""What each role of PostgreSQL can and cannot do, on a real server."""

import asyncpg
import pytest

from devstack.services import role_of
from devstack.stack import Stack
from shared.topology import SERVICES

ROLES = tuple(role_of(service) for service in SERVICES)
DENIED = asyncpg.InsufficientPrivilegeError


async def _connect(stack: Stack, role: str) -> asyncpg.Connection:
    return await asyncpg.connect(stack.endpoints.postgres.dsns[role], timeout=30)


@pytest.mark.parametrize("role", ROLES)
async def test_a_service_uses_its_own_tables_and_changes_none(stack: Stack, role: str) -> None:
    owner = await _connect(stack, f"{role}_owner")
    await owner.execute("CREATE TABLE probe (id bigint GENERATED ALWAYS AS IDENTITY, value text)")
    await owner.close()
    service = await _connect(stack, role)
    try:
        assert await service.fetchval("SELECT current_schema()") == role
        assert await service.fetchval("INSERT INTO probe (value) VALUES ('a') RETURNING id") == 1
        assert await service.execute("UPDATE probe SET value = 'b'") == "UPDATE 1"
        assert await service.execute("DELETE FROM probe") == "DELETE 1"
        assert await service.fetchval("SELECT count(*) FROM outbox") == 0
        for statement in (
            "DROP TABLE probe",
            "TRUNCATE probe",
            f"CREATE TABLE {role}.mine (id int)",
            "CREATE TABLE public.mine (id int)",
            "CREATE SCHEMA mine",
        ):
            with pytest.raises(asyncpg.PostgresError, match=r"permission denied|must be owner"):
                await service.execute(statement)
    finally:
        await service.close()


async def test_tenant_sync_alone_makes_temporary_tables_for_its_pages(stack: Stack) -> None:
    for role in ROLES:
        service = await _connect(stack, role)
        try:
            if role == "tenant_sync":
                await service.execute("CREATE TEMPORARY TABLE mine (id int)")
            else:
                with pytest.raises(DENIED):
                    await service.execute("CREATE TEMPORARY TABLE mine (id int)")
        finally:
            await service.close()


@pytest.mark.parametrize("role", ROLES)
async def test_no_service_reads_another_services_schema(stack: Stack, role: str) -> None:
    connection = await _connect(stack, role)
    try:
        for other in ROLES:
            if other != role:
                with pytest.raises(DENIED):
                    await connection.fetch(f"SELECT * FROM {other}.outbox")  # noqa: S608
    finally:
        await connection.close()


@pytest.mark.parametrize("role", ROLES)
async def test_who_uses_up_amazons_quota_takes_from_the_gate_and_changes_nothing_of_it(stack: Stack, role: str) -> None:
    connection = await _connect(stack, role)
    entered = f"INSERT INTO amazon.request_buckets VALUES ('a', '{role}', 'eu', 'o', now())"  # noqa: S608
    try:
        if role not in {"poller", "orders"}:
            with pytest.raises(DENIED):
                await connection.execute(entered)
            with pytest.raises(DENIED):
                await connection.fetch("SELECT * FROM amazon.request_buckets")
            return
        transaction = connection.transaction()
        await transaction.start()
        assert await connection.execute(entered) == "INSERT 0 1"
        assert await connection.execute("UPDATE amazon.request_buckets SET rate = 1") == "UPDATE 1"
        await transaction.rollback()
        for statement in (
            "DELETE FROM amazon.request_buckets",
            "TRUNCATE amazon.request_buckets",
            "DROP TABLE amazon.request_buckets",
            "CREATE TABLE amazon.mine (id int)",
            "INSERT INTO amazon.schema_migrations VALUES ('1')",
            "SELECT * FROM amazon.schema_migrations",
        ):
            with pytest.raises(asyncpg.PostgresError, match=r"permission denied|must be owner"):
                await connection.execute(statement)
    finally:
        await connection.close()


@pytest.mark.parametrize("role", ROLES)
async def test_a_service_has_limits_that_end_what_hangs(stack: Stack, role: str) -> None:
    connection = await _connect(stack, role)
    try:
        assert await connection.fetchval("SHOW statement_timeout") == "30s"
        assert await connection.fetchval("SHOW idle_in_transaction_session_timeout") == "1min"
    finally:
        await connection.close()


async def test_the_products_reader_reads_tenants_and_writes_nothing(stack: Stack) -> None:
    reader = await _connect(stack, "product_reader")
    try:
        rows = await reader.fetch("SELECT id, plan, status FROM tenants ORDER BY id")
        assert [row["id"] for row in rows] == sorted(stack.endpoints.tokens.tenants)
        assert {row["status"] for row in rows} == {"active", "trialing"}
        await reader.execute("SET default_transaction_read_only = off")
        for statement in (
            "INSERT INTO tenants VALUES ('x', 'x', 'pro', 'active')",
            "UPDATE tenants SET plan = 'free'",
            "DELETE FROM tenants",
            "CREATE TABLE mine (id int)",
        ):
            with pytest.raises(DENIED):
                await reader.execute(statement)
    finally:
        await reader.close()


async def test_the_product_changes_its_tenants(stack: Stack) -> None:
    product = await _connect(stack, "product")
    try:
        async with product.transaction():
            await product.execute("INSERT INTO tenants VALUES ('kbz-900', 'Probe', 'pro', 'active')")
            assert await product.execute("DELETE FROM tenants WHERE id = 'kbz-900'") == "DELETE 1"
    finally:
        await product.close()


@pytest.mark.parametrize(
    ("role", "database"),
    [(role, "keybuzz") for role in ROLES]
    + [("product", "keybuzz_backend"), ("product_reader", "keybuzz_backend"), ("oauth", "postgres")],
)
async def test_a_role_enters_its_own_database_only(stack: Stack, role: str, database: str) -> None:
    dsn = stack.endpoints.postgres.dsns[role].rpartition("/")[0]
    with pytest.raises(DENIED):
        await asyncpg.connect(f"{dsn}/{database}", timeout=30)


async def test_no_role_enters_without_its_password(stack: Stack) -> None:
    postgres = stack.endpoints.postgres
    for role in ("postgres", "product", *ROLES):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(
                host=postgres.host, port=postgres.port, user=role, password="wrong", database="postgres"
            )
