"""A process that calls as often as it may, for test_gate.py: python taking.py DSN LANE CALLS
Prints when each call went out, in seconds since 1970.
"""

import asyncio
import sys
import time

from shared.amazon.gate import Bucket, Gate, Lane, Operation
from shared.db import open_pool

BUCKET = Bucket("AKIT", "eu", Operation("getThings", 20, 10))
PATIENCE_SECONDS = 60


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def main(dsn: str, lane: Lane, calls: int) -> None:
    pool = await open_pool(dsn, "poller", size=2)
    gate = Gate(pool, "external_test")
    say("ready")
    sys.stdin.readline()
    for _ in range(calls):
        await gate.take(BUCKET, lane, PATIENCE_SECONDS)
        say(str(time.time()))
    await pool.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Lane(sys.argv[2]), int(sys.argv[3])))
