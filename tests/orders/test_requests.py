"""What operators ask of orders over NATS: what the product asks over HTTP, answered alike."""

from collections.abc import AsyncIterator
from uuid import uuid4

import httpx
import pytest

from devstack.stack import Stack
from orders import upkeep_queries
from orders.requests import OPERATIONS
from shared.db import Pool
from tests.builders import Operator, answering
from tests.conftest import Told
from tests.orders.conftest import Disconnect, Follow, connect

TENANT, OTHER = "kbz-001", "kbz-002"
BACKFILL, STATUS, CANCEL, FRESHNESS = (
    f"orders.{each}" for each in ("backfill", "backfill.status", "backfill.cancel", "freshness")
)
ORDERS = "/api/v1/orders"


@pytest.fixture
async def operator(stack: Stack, dependencies: dict[str, object]) -> AsyncIterator[Operator]:
    async with answering(stack, "orders", OPERATIONS, dependencies) as asker:
        yield asker


async def test_a_backfill_is_asked_for_followed_and_called_off(
    operator: Operator, http: httpx.AsyncClient, pool: Pool, told: Told
) -> None:
    await connect(pool, TENANT)
    job = await operator.ask(BACKFILL, tenantId=TENANT)
    assert (job["tenantId"], job["days"], job["state"]) == (TENANT, 90, "REQUESTED")
    path = f"{ORDERS}/backfills/{job['id']}"
    assert await operator.ask(BACKFILL, tenantId=TENANT, days=30) == job
    assert await operator.ask(STATUS, tenantId=TENANT, id=job["id"]) == job == (await http.get(path)).json()
    ended = await operator.ask(CANCEL, tenantId=TENANT, id=job["id"])
    assert (ended["id"], ended["state"], ended["errorCode"]) == (job["id"], "CANCELLED", "backfill_cancelled")
    assert await operator.ask(CANCEL, tenantId=TENANT, id=job["id"]) == ended, "once more changes nothing"
    assert (await http.post(f"{path}/cancel")).json() == ended == (await http.get(path)).json()
    assert [subject for subject, _ in await told(pool)] == ["backfill.requested", "backfill.failed"]
    later = await operator.ask(BACKFILL, tenantId=TENANT, days=30)
    assert await operator.ask(CANCEL, tenantId=TENANT, id=job["id"]) == ended, "the one that is named, and no other"
    assert await operator.ask(STATUS, tenantId=TENANT, id=later["id"]) == later


async def test_what_a_route_refuses_an_operation_refuses_in_the_same_words(
    operator: Operator, http: httpx.AsyncClient, pool: Pool, told: Told, disconnect: Disconnect, follow: Follow
) -> None:
    await connect(pool, OTHER)
    anothers = (await operator.ask(BACKFILL, tenantId=OTHER))["id"]
    for job_id in (anothers, str(uuid4())):
        path = f"{ORDERS}/backfills/{job_id}"
        for subject, refused in ((STATUS, await http.get(path)), (CANCEL, await http.post(f"{path}/cancel"))):
            problem = await operator.ask(subject, tenantId=TENANT, id=job_id)
            assert problem == refused.json()
            assert (problem["status"], problem["code"]) == (404, "backfill_not_found")
    assert (await operator.ask(STATUS, tenantId=OTHER, id=anothers))["state"] == "REQUESTED"
    await connect(pool, TENANT)
    for code, happen in (("tenant_archived", follow(status="ARCHIVED")), ("tenant_not_connected", disconnect())):
        await happen
        problem = await operator.ask(BACKFILL, tenantId=TENANT)
        assert problem == (await http.post(f"{ORDERS}/backfill", json={})).json()
        assert (problem["status"], problem["code"]) == (409, code)
    assert [subject for subject, _ in await told(pool)] == ["backfill.requested"]


async def test_how_fresh_orders_are_is_told_of_each_account(
    operator: Operator, http: httpx.AsyncClient, pool: Pool
) -> None:
    assert await operator.ask(FRESHNESS, tenantId=TENANT) == {"accounts": []}
    for tenant_id in (TENANT, OTHER):
        await connect(pool, tenant_id)
        async with pool.acquire() as conn, conn.transaction():
            await upkeep_queries.upsert_upkeep(conn, tenant_id, "ASELLER", 600)
    await pool.execute(
        "UPDATE upkeep SET failures = 2, error_code = 'amazon_unavailable', last_error = 'It is away.'"
        " WHERE tenant_id = $1",
        TENANT,
    )
    told = await operator.ask(FRESHNESS, tenantId=TENANT)
    assert told == (await http.get(f"{ORDERS}/freshness")).json()
    [account] = told["accounts"]
    assert (account["marketplace"], account["failures"], account["errorCode"], account["lastError"]) == (
        *("AMAZON", 2, "amazon_unavailable", "It is away."),
    )
    assert account["freshUntil"] < account["nextDue"]
    [others] = (await operator.ask(FRESHNESS, tenantId=OTHER))["accounts"]
    assert (others["failures"], others["errorCode"]) == (0, None)


@pytest.mark.parametrize(
    ("subject", "asked", "field"),
    [
        (BACKFILL, {"tenantId": TENANT, "days": 0}, "days"),
        (BACKFILL, {"tenantId": TENANT, "days": 731}, "days"),
        (STATUS, {"tenantId": TENANT, "id": "1"}, "id"),
        (STATUS, {"tenantId": TENANT}, "id"),
        (CANCEL, {"tenantId": TENANT, "id": "1"}, "id"),
        (CANCEL, {"tenantId": TENANT}, "id"),
        (CANCEL, {"id": str(uuid4())}, "tenantId"),
        (CANCEL, {"tenantId": TENANT, "id": str(uuid4()), "days": 1}, "days"),
        (FRESHNESS, {}, "tenantId"),
        (FRESHNESS, {"tenantId": "not a tenant"}, "tenantId"),
    ],
)
async def test_a_wrong_field_is_named(operator: Operator, subject: str, asked: dict[str, object], field: str) -> None:
    problem = await operator.ask(subject, **asked)
    assert problem["status"] == 400
    assert [each["field"] for each in problem["errors"]] == [field]
