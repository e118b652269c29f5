"""poller, wired. `poller --once` polls what is due, publishes what that brought, and ends: for a CronJob."""

import argparse
from functools import partial

from shared import tls
from shared.service import Service, run
from shared.settings import load
from shared.telemetry import log
from shared.vault import Vault

from . import handlers, mailbox, mock, polling, queries, silence
from .intake import Intake
from .requests import OPERATIONS
from .routes import ROUTES
from .settings import PollerSettings


async def serve() -> None:
    settings = load(PollerSettings)
    source = mock.fetch if settings.amazon_use_mock else polling.nothing
    async with Service("poller", settings) as service:
        service.handle("follow_tenant", partial(handlers.follow_tenant, pool=service.pool))
        service.handle("start_polling", partial(handlers.start_polling, pool=service.pool, settings=settings))
        service.handle("stop_polling", partial(handlers.stop_polling, pool=service.pool, settings=settings))
        if settings.amazon_use_mock:
            service.loop("polling", partial(polling.run, service.pool, service.outbox, source))
        service.loop("silence", partial(silence.run, service.pool, polls=settings.amazon_use_mock))
        if settings.mail_authserv_id and settings.mailbox_names:
            intake = Intake(service.pool, service.outbox, settings.mail_authserv_id)
            vault = Vault(settings)
            service.checks["vault"] = vault.not_ready
            context = tls.context(settings.mailbox_cacert, "MAILBOX_CACERT")
            for name in settings.mailbox_names:
                service.loop(f"mailbox {name}", partial(mailbox.read, intake, vault, name, context))
        await service.serve(ROUTES, OPERATIONS, dependencies={"source": source})


async def once() -> None:
    settings = load(PollerSettings)
    async with Service("poller", settings) as service:
        polled = 0
        if settings.amazon_use_mock:
            due_by = await queries.get_now(service.pool)
            polled = await polling.poll_due(service.pool, service.outbox, mock.fetch, due_by)
        await service.publish_outbox()
        log.info("polled_once", tenants=polled)


def main() -> None:
    parser = argparse.ArgumentParser(prog="poller", description="Bring buyers' messages in as tickets.")
    parser.add_argument("--once", action="store_true", help="poll what is due now, then end")
    run(once if parser.parse_args().once else serve)


if __name__ == "__main__":
    main()
