"""Calls entered at the gate before Amazon, beside `SELECT 1` and a plain UPDATE of one row, each committed: by one
caller after the other on one row, and by eight at once, each on a row of its own and all on the same one.
"""

import asyncio
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

from devstack.stack import Stack
from shared.amazon.gate import Bucket, Gate, Lane, Operation
from shared.db import Pool, open_pool

ROUNDS = 7
CALLS = 1_500
CALLERS = {"one": 1, "eight, a row each": 8, "eight, one row": 8}
OPERATION = Operation("bench", 1e6, 1_000_000)
RESULT = Path(__file__).parent / "results" / "gate.json"

Call = Callable[[int], Awaitable[object]]


def ways(pool: Pool) -> dict[str, Call]:
    """What is measured: one call, for a row by its number."""
    gate = Gate(pool, "bench")
    return {
        "gate": lambda row: gate.take(Bucket(f"A{row}", "eu", OPERATION), Lane.LIVE),
        "SELECT 1": lambda _: pool.fetchval("SELECT 1"),
        "UPDATE": lambda row: pool.execute("UPDATE bench_rows SET at = clock_timestamp() WHERE id = $1", row),
    }


async def measure(call: Call, callers: int, *, one_row: bool) -> float:
    """Calls a second."""

    async def repeat(row: int) -> None:
        for _ in range(CALLS // callers):
            await call(row)

    began = time.perf_counter()
    await asyncio.gather(*(repeat(0 if one_row else number) for number in range(callers)))
    return CALLS / (time.perf_counter() - began)


async def rounds(stack: Stack) -> dict[str, dict[str, list[float]]]:
    dsns = stack.endpoints.postgres.dsns
    owner = await asyncpg.connect(dsns["poller_owner"])
    await owner.execute("CREATE TABLE bench_rows (id int PRIMARY KEY, at timestamptz) WITH (fillfactor = 50)")
    await owner.execute("INSERT INTO bench_rows SELECT generate_series(0, 7)")
    await owner.close()
    pool = await open_pool(dsns["poller"], "bench", size=8)
    figures: dict[str, dict[str, list[float]]] = {name: {way: [] for way in ways(pool)} for name in CALLERS}
    for number in range(ROUNDS + 1):
        for name, callers in CALLERS.items():
            for way, call in list(ways(pool).items())[:: 1 if number % 2 else -1]:
                rate = await measure(call, callers, one_row=name == "eight, one row")
                if number:  # the first is to warm up
                    figures[name][way].append(rate)
    await pool.close()
    return figures


async def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        async with Stack(Path(folder) / "state", services=()) as stack:
            figures = await rounds(stack)
    medians = {
        name: {way: round(statistics.median(each)) for way, each in found.items()} for name, found in figures.items()
    }
    ratios = {
        name: {
            limit: round(
                statistics.median(ours / floor for ours, floor in zip(found["gate"], found[limit], strict=True)), 2
            )
            for limit in ("SELECT 1", "UPDATE")
        }
        for name, found in figures.items()
    }
    table = Table("callers", "gate", "UPDATE", "SELECT 1", "of UPDATE", "of SELECT 1", title="calls a second, medians")
    for name, found in medians.items():
        cells = (f"{found[way]:,}" for way in ("gate", "UPDATE", "SELECT 1"))
        table.add_row(name, *cells, *(f"{ratios[name][limit]:.2f}" for limit in ("UPDATE", "SELECT 1")))
    Console().print(table)
    result = {"rounds": ROUNDS, "calls": CALLS, "perSecond": medians, "ratios": ratios}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
