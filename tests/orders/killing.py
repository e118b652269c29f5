"""orders as processes that are killed and started anew, and what has to be true of each seller's orders afterwards."""

import asyncio
import signal
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

from devstack.outside import Outside, eventually
from devstack.servers import answers
from devstack.stack import Stack
from shared.amazon.spapi import SpApi
from shared.db import Pool
from shared.settings import AmazonSettings
from tests.builders import Amazon, agent, connected, new_id, oauth_vault, settings_of

DYING = Path(__file__).parent / "dying.py"
ORDERS = 300
CALLS_LEFT = 1
"""Of searchOrders' burst after the first page: the rest of the orders is left to reports."""
LEASES_ARE_OVER = """
WITH turns AS (UPDATE orders.upkeep SET leased_until = clock_timestamp() WHERE leased_until IS NOT NULL)
UPDATE orders.backfill_jobs SET leased_until = clock_timestamp() WHERE leased_until IS NOT NULL
"""


class System:
    """A stack whose orders comes and goes, in one process or two."""

    def __init__(self, stack: Stack, outside: Outside, pool: Pool) -> None:
        self.stack, self.outside, self.pool = stack, outside, pool
        self.amazon = Amazon(stack, outside.http)
        self.api = SpApi(settings_of(AmazonSettings, stack, "oauth"), oauth_vault(stack), outside.http, gate=None)

    async def start(self, point: str = "never", times: int = 1) -> None:
        """A process that ends at a point, or never by itself."""
        await self._start("orders", {}, point, times)

    async def start_second(self) -> None:
        """A second replica."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        await self._start("orders-2", {"PORT": str(port)}, "never", 1)

    async def _start(self, name: str, settings: dict[str, str], point: str, times: int) -> None:
        program = self.stack._service("orders", settings)
        command = [sys.executable, str(DYING), point, str(times)]
        ready = partial(answers, self.stack._client, f"http://127.0.0.1:{program.environment['PORT']}/readyz")
        changed = msgspec.structs.replace(program, name=name, command=command, ready=ready)
        await self.stack._supervisor.start(changed)

    async def kill(self, name: str = "orders") -> None:
        await self.stack.kill(name)
        await self.dead(name)

    async def dead(self, name: str = "orders") -> None:
        """Return when the process has ended, which it may have done by SIGKILL only."""
        async with asyncio.timeout(40):
            code = await self.stack._supervisor._child(name).process.wait()
        assert code == -signal.SIGKILL
        await self.pool.execute(LEASES_ARE_OVER)

    def running(self, name: str = "orders") -> bool:
        return name in self.stack._supervisor.running()

    def said(self) -> str:
        return (self.stack.logs / "orders.log").read_text()

    async def account(self, orders: int, **spec: object) -> tuple[str, str]:
        """A tenant and its seller's id, connected."""
        tenant_id = new_id()
        seller_id = await self.amazon.seller(orders, reports={"seconds": 0.3, "secondsPerRow": 0}, **spec)
        await self.amazon.authorize(self.api, oauth_vault(self.stack), tenant_id, seller_id)
        event = connected(tenant_id=tenant_id, seller_id=seller_id, connection_id=uuid4())
        await self.pool.execute(
            "INSERT INTO orders.connections (tenant_id, marketplace, connection_id, seller_id, region,"
            " marketplace_ids, connected_at) VALUES ($1, $2, $3, $4, $5, $6, $7)",
            event.tenant_id,
            event.marketplace,
            event.connection_id,
            event.seller_id,
            event.region,
            event.marketplace_ids,
            event.connected_at,
        )
        return tenant_id, seller_id

    async def seller(self) -> tuple[str, str]:
        """An account with more orders than there are calls left for."""
        tenant_id, seller_id = await self.account(ORDERS)
        await self.pool.execute(
            "INSERT INTO amazon.request_buckets (application, seller_id, region, operation, arrives_at)"
            " VALUES ('external_test', $1, 'eu', 'searchOrders', clock_timestamp() + make_interval(secs => $2))",
            seller_id,
            (19 - CALLS_LEFT) / 0.0056,
        )
        return tenant_id, seller_id

    async def ask(self, tenant_id: str) -> str:
        url = f"{self.stack.endpoints.services['orders']}/api/v1/orders/backfill"
        answer = await self.outside.http.post(url, json={}, headers=agent(self.stack, tenant_id))
        return str(answer.raise_for_status().json()["id"])

    async def whole(self, tenant_id: str, seller_id: str) -> Any:
        """Return the job when it is complete: every order and item once, counted once, told once."""
        job = await eventually("the end of the backfill", lambda: self._job(tenant_id), _is_over)
        assert (job["state"], job["error"]) == ("COMPLETED", None)
        truth = await self.amazon.all_orders_of(seller_id)
        stored = await self.pool.fetch(
            "SELECT external_order_id, (SELECT count(*) FROM orders.order_items WHERE order_id = id)"
            "  FROM orders.orders WHERE tenant_id = $1 ORDER BY 1",
            tenant_id,
        )
        true = sorted((order["orderId"], len(order["orderItems"])) for order in truth)
        assert [tuple(row) for row in stored] == true
        counted = await self.pool.fetchrow(
            "SELECT sum(orders) AS orders, sum(items) AS items, bool_and(done_at IS NOT NULL) AS done"
            "  FROM orders.backfill_windows WHERE job_id = $1",
            job["id"],
        )
        assert tuple(counted or ()) == (len(true), sum(items for _, items in true), True)
        told = await self.pool.fetch(
            "SELECT subject FROM orders.outbox WHERE key = $1 AND subject <> 'backfill.progressed' ORDER BY seq",
            tenant_id,
        )
        assert [row["subject"] for row in told] == ["backfill.requested", "backfill.completed"]
        return job

    async def repeated(self, seller_id: str, job_id: Any) -> int:
        """How many calls more than needed Amazon was asked, but for looks."""
        windows = await self.pool.fetch("SELECT kind, pages FROM orders.backfill_windows WHERE job_id = $1", job_id)
        reports = sum(window["kind"] == "REPORT" for window in windows)
        needed = sum(window["pages"] for window in windows) + 2 * reports
        calls = [
            await self.amazon.calls(name, seller_id) for name in ("searchOrders", "createReport", "getReportDocument")
        ]
        return sum(sum(counts.values()) for counts in calls) - int(needed)

    async def _job(self, tenant_id: str) -> Any:
        return await self.pool.fetchrow("SELECT * FROM orders.backfill_jobs WHERE tenant_id = $1", tenant_id)


def _is_over(job: Any) -> bool:
    return job is not None and job["state"] not in {"REQUESTED", "RUNNING", "WAITING"}
