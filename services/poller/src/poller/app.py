"""poller, wired. `poller --once` polls what is due, publishes what that brought, and ends: for a CronJob."""

import argparse
from functools import partial

from shared.service import Service, run
from shared.settings import load
from shared.telemetry import log

from . import handlers, mock, polling, silence
from .routes import ROUTES
from .settings import PollerSettings


async def serve() -> None:
    settings = load(PollerSettings)
    async with Service("poller", settings) as service:
        service.handle("follow_tenant", partial(handlers.follow_tenant, pool=service.pool))
        service.handle("start_polling", partial(handlers.start_polling, pool=service.pool, settings=settings))
        service.handle("stop_polling", partial(handlers.stop_polling, pool=service.pool, settings=settings))
        service.loop("polling", partial(polling.run, service.pool, service.outbox, mock.fetch))
        service.loop("silence", partial(silence.run, service.pool))
        await service.serve(ROUTES, dependencies={"source": mock.fetch})


async def once() -> None:
    async with Service("poller", load(PollerSettings)) as service:
        polled = 0
        while count := await polling.poll_due(service.pool, service.outbox, mock.fetch):
            polled += count
        await service.publish_outbox()
        log.info("polled_once", tenants=polled)


def main() -> None:
    parser = argparse.ArgumentParser(prog="poller", description="Bring buyers' messages in as tickets.")
    parser.add_argument("--once", action="store_true", help="poll what is due now, then end")
    run(once if parser.parse_args().once else serve)


if __name__ == "__main__":
    main()
