"""poller, wired. `poller --once` polls what is due, publishes what that brought, and ends: for a CronJob."""

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import httpx

from shared import tls
from shared.amazon.gate import Gate
from shared.amazon.spapi import TIMEOUT, SpApi
from shared.service import Service, run
from shared.settings import load
from shared.telemetry import log
from shared.vault import Vault

from . import handlers, mailbox, mock, polling, queries, silence, spapi
from .intake import Intake
from .requests import OPERATIONS
from .routes import ROUTES
from .settings import PollerSettings


@asynccontextmanager
async def source_of(service: Service, settings: PollerSettings, vault: Vault) -> AsyncIterator[polling.Source]:
    """What is polled."""
    if not settings.amazon_read_messages:
        yield mock.fetch if settings.amazon_use_mock else polling.nothing
        return
    log.warning(
        "messages_are_read_from_a_stand_in",
        reason="Amazon's published API has no operation that reads buyers' messages: AMAZON_SPAPI_URL has to name a"
        " stand-in that does.",
    )
    service.checks["vault"] = vault.not_ready
    async with httpx.AsyncClient(timeout=TIMEOUT) as http:
        api = SpApi(settings, vault, http, Gate(service.pool, settings.amazon_spapi_app_source))
        yield partial(spapi.fetch, service.pool, api)


async def serve() -> None:
    settings = load(PollerSettings)
    vault = Vault(settings)
    async with Service("poller", settings) as service, source_of(service, settings, vault) as source:
        service.handle("follow_tenant", partial(handlers.follow_tenant, pool=service.pool))
        service.handle("start_polling", partial(handlers.start_polling, pool=service.pool, settings=settings))
        service.handle("stop_polling", partial(handlers.stop_polling, pool=service.pool, settings=settings))
        if settings.is_polling:
            service.loop("polling", partial(polling.run, service.pool, service.outbox, source))
        service.loop("silence", partial(silence.run, service.pool, polls=settings.is_polling))
        if settings.mail_authserv_id and settings.mailbox_names:
            intake = Intake(service.pool, service.outbox, settings.mail_authserv_id)
            service.checks["vault"] = vault.not_ready
            context = tls.context(settings.mailbox_cacert, "MAILBOX_CACERT")
            for name in settings.mailbox_names:
                service.loop(f"mailbox {name}", partial(mailbox.read, intake, vault, name, context))
        await service.serve(ROUTES, OPERATIONS, dependencies={"source": source})


async def once() -> None:
    settings = load(PollerSettings)
    async with Service("poller", settings) as service, source_of(service, settings, Vault(settings)) as source:
        polled = 0
        if settings.is_polling:
            due_by = await queries.get_now(service.pool)
            polled = await polling.poll_due(service.pool, service.outbox, source, due_by)
        await service.publish_outbox()
        log.info("polled_once", tenants=polled)


def main() -> None:
    parser = argparse.ArgumentParser(prog="poller", description="Bring buyers' messages in as tickets.")
    parser.add_argument("--once", action="store_true", help="poll what is due now, then end")
    run(once if parser.parse_args().once else serve)


if __name__ == "__main__":
    main()
