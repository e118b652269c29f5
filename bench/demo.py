"""How long the whole story takes from nothing, and how much memory each service keeps, beside what cannot be had for
less: the start of the bare servers, and a Python process that has imported the same libraries and does nothing.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from devstack.demo import GOAL_SECONDS, Report, Told, tell
from devstack.memory import rss_megabytes
from devstack.outside import Outside
from devstack.stack import Stack
from shared.topology import SERVICES

ROUNDS = 5
LIBRARIES = "import asyncpg, faststream.nats, httpx, hvac, litestar, msgspec, structlog, uvicorn, uvloop"
RESULT = Path(__file__).parent / "results" / "demo.json"


async def servers_alone() -> float:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        async with Stack(Path(folder) / "state", services=()):
            return time.monotonic() - began


async def whole_story() -> Report:
    with tempfile.TemporaryDirectory() as folder:
        told = Told(Console(quiet=True))
        async with Stack(Path(folder) / "state") as stack, Outside(stack.endpoints) as outside:
            told.steps["start"] = told.seconds
            return await tell(told, stack, outside)


async def libraries_alone() -> float:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        f"{LIBRARIES}; print('ready', flush=True); input()",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None  # noqa: S101 - it was asked for
    await process.stdout.readline()
    size = rss_megabytes(process.pid)
    await process.communicate(b"\n")
    return size or 0.0


async def main() -> int:
    servers, stories, libraries = [], [], []
    for number in range(ROUNDS):
        servers.append(await servers_alone())
        stories.append(await whole_story())
        libraries.append(await libraries_alone())
        print(f"round {number + 1} of {ROUNDS}: {stories[-1].seconds} s, held: {stories[-1].held}")
    seconds = statistics.median(story.seconds for story in stories)
    floor_seconds = statistics.median(servers)
    floor_megabytes = statistics.median(libraries)
    memory = {
        service: statistics.median(story.rss_megabytes[service] or 0 for story in stories) for service in SERVICES
    }
    table = Table("figure", "measured", "limit", "ratio", title=f"demo: medians of {ROUNDS} rounds")
    table.add_row("story from nothing", f"{seconds:.1f} s", f"{floor_seconds:.1f} s", f"{seconds / floor_seconds:.2f}")
    for service, size in memory.items():
        table.add_row(
            f"memory of {service}", f"{size:.0f} MB", f"{floor_megabytes:.0f} MB", f"{size / floor_megabytes:.2f}"
        )
    Console().print(table)
    print("limit: the servers' own start, provisioned and migrated; a process that has imported the libraries")
    result = {
        "rounds": ROUNDS,
        "held": all(story.held for story in stories),
        "seconds": round(seconds, 2),
        "secondsOfServersAlone": round(floor_seconds, 2),
        "ratioToServersAlone": round(seconds / floor_seconds, 2),
        "goalSeconds": GOAL_SECONDS,
        "rssMegabytes": {service: round(size, 1) for service, size in memory.items()},
        "rssMegabytesOfLibrariesAlone": round(floor_megabytes, 1),
        "rssRatios": {service: round(size / floor_megabytes, 2) for service, size in memory.items()},
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    return 0 if result["held"] else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
