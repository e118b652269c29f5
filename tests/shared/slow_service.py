"""A service of the kit that takes its time, as a process for test_service.py: python slow_service.py"""

import asyncio

from litestar import get

from shared.events import TenantCreated
from shared.requests import Asked
from shared.service import Service, run
from shared.settings import Settings, load
from shared.telemetry import log

SLOW_SECONDS = 0.8


@get("/slow", opt={"public": True})
async def slow() -> dict[str, bool]:
    log.info("answering")
    await asyncio.sleep(SLOW_SECONDS * 1.5)  # longer than the handler, whose end is waited for too
    return {"done": True}


class Nap(Asked, frozen=True):
    seconds: float


async def nap(asked: Nap) -> dict[str, bool]:
    log.info("napping")
    await asyncio.sleep(asked.seconds)
    return {"done": True}


async def handle_slowly(event: TenantCreated, _: str) -> None:
    log.info("handling", tenant_id=event.tenant_id)
    await asyncio.sleep(SLOW_SECONDS)
    log.info("handled", tenant_id=event.tenant_id)


async def fail() -> None:
    raise ValueError("a bug in a loop")


async def main() -> None:
    async with Service("tenant-sync", load(Settings)) as service:
        service.handle("sync_tenant", handle_slowly)
        service.loop("failing", fail)
        await service.serve([slow], {"nap": nap})


if __name__ == "__main__":
    run(main)
