"""From an event published to the tenant's row committed, at 200 events a second: tenant-sync as it runs, beside a bare
consumer that fetches, writes one row and acknowledges. Times of commit are PostgreSQL's own.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path
from uuid import uuid4

import asyncpg
import msgspec
import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import api
from rich.console import Console
from rich.table import Table

from devstack.stack import Stack
from shared.db import open_pool

RATE = 200
EVENTS = 1_000
ROUNDS = 5
BARE_FETCH = 64
RESULT = Path(__file__).parent / "results" / "tenant_events.json"


async def publish(connection: Client, subject: str, ids: list[str]) -> dict[str, float]:
    """When each was published, at the rate of the bench whatever the consumer does."""
    began = time.perf_counter()
    at = {}
    for number, tenant_id in enumerate(ids):
        await asyncio.sleep(max(0.0, began + number / RATE - time.perf_counter()))
        at[tenant_id] = time.time()
        await connection.publish(subject, b'{"tenantId":"%s"}' % tenant_id.encode())
    await connection.flush()
    return at


async def committed(admin: asyncpg.Connection, table: str, ids: list[str]) -> dict[str, float]:
    """When each row was committed, once all of them are."""
    while True:
        rows = await admin.fetch(
            f"SELECT id, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 AS at FROM {table}"  # noqa: S608
            " WHERE id = ANY ($1::text[])",
            ids,
        )
        if len(rows) == len(ids):
            return {row["id"]: row["at"] for row in rows}
        await asyncio.sleep(0.5)


async def bare(nats_url: str, dsn: str) -> None:
    """In a process of its own, as tenant-sync is."""
    connection = await nats.connect(nats_url)
    pool = await open_pool(dsn, "bare", size=8)
    subscription = await connection.jetstream().pull_subscribe_bind("bare", "BENCH")

    async def handle(message: Msg) -> None:
        event: dict[str, str] = msgspec.json.decode(message.data)
        await pool.execute("INSERT INTO bare VALUES ($1) ON CONFLICT DO NOTHING", event["tenantId"])
        await message.ack()

    print("ready", flush=True)
    while True:
        try:
            messages = await subscription.fetch(BARE_FETCH, timeout=0.5)
        except (nats.errors.TimeoutError, TimeoutError):
            continue
        await asyncio.gather(*map(handle, messages))


def percentiles(published: dict[str, float], done: dict[str, float]) -> tuple[float, float]:
    """p50 and p99 in milliseconds."""
    latencies = sorted((done[tenant_id] - at) * 1000 for tenant_id, at in published.items())
    return latencies[len(latencies) // 2], latencies[len(latencies) * 99 // 100]


async def measure(stack: Stack) -> dict[str, list[tuple[float, float]]]:
    endpoints = stack.endpoints
    product = await asyncpg.connect(endpoints.postgres.dsns["product"])
    admin = await asyncpg.connect(endpoints.postgres.dsns["admin"].rsplit("/", 1)[0] + "/keybuzz_backend")
    operator = await nats.connect(endpoints.nats.users["operator"].url)
    js = operator.jetstream()
    await admin.execute("CREATE TABLE tenant_sync.bare (id text PRIMARY KEY)")
    await admin.execute("GRANT SELECT, INSERT ON tenant_sync.bare TO tenant_sync")
    await js.add_stream(api.StreamConfig(name="BENCH", subjects=["bench.>"]))
    await js.add_consumer("BENCH", api.ConsumerConfig(durable_name="bare", ack_policy=api.AckPolicy.EXPLICIT))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        "--bare",
        endpoints.nats.users["operator"].url,
        endpoints.postgres.dsns["tenant_sync"],
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None  # noqa: S101 - it was asked for
    await process.stdout.readline()
    figures: dict[str, list[tuple[float, float]]] = {"tenant-sync": [], "bare": []}
    try:
        for number in range(ROUNDS):
            ways = [("tenant-sync", "tenant.updated", "tenant_sync.tenants"), ("bare", "bench.x", "tenant_sync.bare")]
            for name, subject, table in ways if number % 2 else reversed(ways):
                ids = [f"bench-{uuid4().hex}" for _ in range(EVENTS)]
                await product.execute(
                    "INSERT INTO tenants (id, name, plan, status)"
                    " SELECT id, id, 'pro', 'active' FROM unnest($1::text[]) AS id",
                    ids,
                )
                await admin.execute("CHECKPOINT")
                published = await publish(operator, subject, ids)
                figures[name].append(percentiles(published, await committed(admin, table, ids)))
            print(f"round {number + 1} of {ROUNDS} done")
    finally:
        process.terminate()
        await process.wait()
        await operator.close()
        await product.close()
        await admin.close()
    return figures


async def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        async with Stack(Path(folder) / "state", services=()) as stack:
            admin = await asyncpg.connect(stack.endpoints.postgres.dsns["admin"])
            await admin.execute("ALTER SYSTEM SET track_commit_timestamp = on")
            await admin.close()
            await stack.stop("postgres")
            await stack.start("postgres")
            await stack.start("tenant-sync")
            figures = await measure(stack)
    table = Table("", "p50", "p99", title=f"event to committed row at {RATE}/s, medians of {ROUNDS} rounds")
    medians = {
        name: [round(statistics.median(each[place] for each in rounds), 2) for place in (0, 1)]
        for name, rounds in figures.items()
    }
    for name, (half, most) in medians.items():
        table.add_row(name, f"{half:.1f} ms", f"{most:.1f} ms")
    ratios = [round(ours / floor, 2) for ours, floor in zip(medians["tenant-sync"], medians["bare"], strict=True)]
    table.add_row("ratio", *(f"{ratio:.1f}" for ratio in ratios))
    Console().print(table)
    result = {
        "eventsPerSecond": RATE,
        "rounds": ROUNDS,
        "milliseconds": {name: {"p50": half, "p99": most} for name, (half, most) in medians.items()},
        "ratios": {"p50": ratios[0], "p99": ratios[1]},
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--bare"]:
        asyncio.run(bare(sys.argv[2], sys.argv[3]))
    else:
        sys.exit(asyncio.run(main()))
