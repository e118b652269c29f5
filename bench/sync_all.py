"""A bulk sync of 100,000 tenants, all new, all unchanged and 1 % changed, beside the plain SQL that does the same
between two databases of one server: COPY out, COPY in, one statement. And its peak of memory from 10,000 to 1,000,000
tenants.

Both copy the tenants, make their addresses and write the announcements; the plain one needs no pages, no resuming, no
check of ids, and answers nothing.
"""

import asyncio
import io
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import msgspec
from rich.console import Console
from rich.table import Table

from devstack import endpoints
from devstack.endpoints import Endpoints
from devstack.stack import Stack
from shared.db import open_pool
from shared.outbox import Outbox
from shared.settings import load
from shared.telemetry import configure_logging
from tenant_sync import sync
from tenant_sync.settings import TenantSyncSettings

TENANTS = 100_000
ROUNDS = 5
GOAL = 2.0
SIZES = (10_000, 100_000, 1_000_000)
RESULT = Path(__file__).parent / "results" / "sync_all.json"

PLAIN = """
WITH merged AS (
    MERGE INTO tenants t USING plain_incoming i ON t.id = i.id
     WHEN MATCHED AND t.product_updated_at < i.updated_at
          AND (t.name, t.plan, t.status) IS DISTINCT FROM (i.name, i.plan, i.status) THEN
          UPDATE SET name = i.name, plan = i.plan, status = i.status, product_updated_at = i.updated_at,
                     updated_at = clock_timestamp()
     WHEN NOT MATCHED THEN
          INSERT (id, name, plan, status, product_updated_at) VALUES (i.id, i.name, i.plan, i.status, i.updated_at)
    RETURNING t.id, t.name, t.plan, t.status, merge_action() AS action
), addresses AS (
    INSERT INTO inbound_addresses (tenant_id, marketplace, country, email, status)
    SELECT id, 'AMAZON', 'FR',
           'amazon.' || id || '.fr.' || substr(md5(random()::text), 1, 6) || '@inbound.keybuzz.io', 'PENDING'
      FROM merged WHERE action = 'INSERT' RETURNING tenant_id, email
)
INSERT INTO outbox (subject, key, payload)
SELECT 'tenant.synced', m.id, convert_to(json_build_object(
           'tenantId', m.id, 'name', m.name, 'plan', m.plan, 'status', m.status,
           'inboundAddresses', json_build_array(json_build_object('marketplace', 'AMAZON', 'country', 'FR', 'email',
                coalesce(a.email, old.email), 'status', 'PENDING')))::text, 'UTF8')
  FROM merged m LEFT JOIN addresses a ON a.tenant_id = m.id LEFT JOIN inbound_addresses old ON old.tenant_id = m.id
"""


def _environment(described: Endpoints) -> dict[str, str]:
    return {
        "DATABASE_URL": described.postgres.dsns["tenant_sync"],
        "PRODUCT_DATABASE_URL": described.postgres.dsns["product_reader"],
        "NATS_URL": described.nats.users["tenant-sync"].url,
        "KEYBUZZ_INTERNAL_KEY": described.tokens.internal_key,
    }


class Bench:
    """The two databases, and both ways from one to the other."""

    def __init__(self, stack: Stack) -> None:
        self.dsns = stack.endpoints.postgres.dsns
        self.settings = load(TenantSyncSettings, _environment(stack.endpoints))

    async def open(self) -> None:
        self.product = await open_pool(self.dsns["product_reader"], "bench", size=2)
        self.pool = await open_pool(self.dsns["tenant_sync"], "bench", size=4)
        self.owner = await asyncpg.connect(self.dsns["product"])
        self.admin = await asyncpg.connect(self.dsns["admin"].rsplit("/", 1)[0] + "/keybuzz_backend")
        self.outbox = Outbox("bench", self.dsns["tenant_sync"])

    async def close(self) -> None:
        await self.product.close()
        await self.pool.close()
        await self.owner.close()
        await self.admin.close()

    async def seed(self, tenants: int) -> None:
        await self.owner.execute("TRUNCATE tenants")
        await self.owner.execute(
            "INSERT INTO tenants (id, name, plan, status, updated_at)"
            " SELECT 'tenant-' || lpad(n::text, 9, '0'), 'Tenant number ' || n, 'pro', 'active',"
            " clock_timestamp() - interval '1 day' FROM generate_series(1, $1::int) n",
            tenants,
            timeout=300,
        )
        await self.owner.execute("VACUUM ANALYZE tenants")

    async def change_one_percent(self) -> None:
        await self.owner.execute(
            "UPDATE tenants SET name = name || '!', updated_at = clock_timestamp() WHERE right(id, 2) = '07'"
        )

    async def empty(self) -> None:
        await self.admin.execute(
            "TRUNCATE tenant_sync.tenants, tenant_sync.inbound_addresses, tenant_sync.outbox, tenant_sync.sync_runs"
        )

    async def settle(self) -> None:
        """What is left over of one measurement must not cost the next one."""
        await self.admin.execute("DELETE FROM tenant_sync.outbox", timeout=300)
        await self.admin.execute(
            "VACUUM ANALYZE tenant_sync.tenants, tenant_sync.inbound_addresses, tenant_sync.outbox"
        )
        await self.admin.execute("CHECKPOINT")

    async def ours(self) -> None:
        await sync.sync_all(self.product, self.pool, self.outbox, self.settings)

    async def plain(self) -> None:
        page = io.BytesIO()
        await self.product.copy_from_query(
            "SELECT id, name, upper(plan), upper(status), updated_at FROM tenants", output=page, format="binary"
        )
        page.seek(0)
        async with self.pool.acquire() as conn, conn.transaction():
            await conn.execute("SET LOCAL statement_timeout = 0")
            await conn.execute(
                "CREATE TEMPORARY TABLE IF NOT EXISTS plain_incoming"
                " (id text, name text, plan text, status text, updated_at timestamptz) ON COMMIT DELETE ROWS"
            )
            await conn.copy_to_table("plain_incoming", source=page, format="binary")
            await conn.execute(PLAIN, timeout=300)

    async def timed(self, way: Callable[[], Awaitable[None]]) -> float:
        await self.settle()
        began = time.perf_counter()
        await way()
        return time.perf_counter() - began


async def speed(bench: Bench) -> dict[str, dict[str, float]]:
    seconds: dict[str, dict[str, list[float]]] = {}
    for number in range(ROUNDS):
        ways = [("ours", bench.ours), ("plain SQL", bench.plain)]
        for name, way in ways if number % 2 else reversed(ways):
            await bench.seed(TENANTS)
            await bench.empty()
            for case in ("all new", "all unchanged", "1 % changed"):
                if case == "1 % changed":
                    await bench.change_one_percent()
                seconds.setdefault(case, {}).setdefault(name, []).append(await bench.timed(way))
        print(f"round {number + 1} of {ROUNDS} done")
    return {case: {name: statistics.median(each) for name, each in ways.items()} for case, ways in seconds.items()}


async def memory(state: Path, tenants: int) -> None:
    """In a process of its own: the peak of its resident memory goes to standard output, in megabytes."""
    described = endpoints.read(state)
    settings = load(TenantSyncSettings, _environment(described))
    product = await open_pool(described.postgres.dsns["product_reader"], "bench", size=2)
    pool = await open_pool(described.postgres.dsns["tenant_sync"], "bench", size=4)
    outcome = await sync.sync_all(product, pool, Outbox("bench", ""), settings)
    assert outcome.counts.created == tenants, outcome.counts  # noqa: S101 - a bench of half the work says nothing
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


async def peak(bench: Bench, state: Path, tenants: int) -> float:
    await bench.seed(tenants)
    await bench.empty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--memory", str(state), str(tenants), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise SystemExit(f"the sync of {tenants} tenants failed")
    return float(output.split()[-1])


async def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        async with Stack(state, services=()) as stack:
            bench = Bench(stack)
            await bench.open()
            seconds = await speed(bench)
            peaks = {tenants: await peak(bench, state, tenants) for tenants in SIZES}
            await bench.close()
    table = Table("case", "ours", "plain SQL", "ratio", title=f"sync-all of {TENANTS:,} tenants, medians of {ROUNDS}")
    ratios = {}
    for case, ways in seconds.items():
        ratios[case] = round(ways["ours"] / ways["plain SQL"], 2)
        table.add_row(case, f"{ways['ours']:.2f} s", f"{ways['plain SQL']:.2f} s", f"{ratios[case]:.2f}")
    Console().print(table)
    for tenants, megabytes in peaks.items():
        print(f"peak memory with {tenants:>9,} new tenants: {megabytes:.0f} MB")
    result = {
        "tenants": TENANTS,
        "rounds": ROUNDS,
        "seconds": {case: {name: round(each, 3) for name, each in ways.items()} for case, ways in seconds.items()},
        "ratios": ratios,
        "goalRatio": GOAL,
        "peakMegabytes": {str(tenants): round(megabytes, 1) for tenants, megabytes in peaks.items()},
        "peakRatioLargestToSmallest": round(peaks[SIZES[-1]] / peaks[SIZES[0]], 2),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    return 0


if __name__ == "__main__":
    configure_logging("bench", "WARNING")
    if sys.argv[1:2] == ["--memory"]:
        asyncio.run(memory(Path(sys.argv[2]), int(sys.argv[3])))
    else:
        sys.exit(asyncio.run(main()))
