"""What should be heard and is not: tenants that nobody polls, mailboxes that nobody reads, overdue answers, mail that
waits for a person.
"""

import asyncio
from datetime import UTC, datetime

from prometheus_client import Gauge

from shared.db import Pool

from . import mail_queries, queries

MAILBOX_AGE = Gauge(
    "mailbox_seconds_since_read", "Since each mailbox was read to its end; +Inf when never", ["mailbox"]
)
NOT_POLLED = Gauge("tenants_not_polled", "Connected accounts whose poll is overdue by a whole interval")
OVERDUE = Gauge("tickets_overdue", "Open tickets whose answer is overdue")
HELD = Gauge("mails_held", "Mails in quarantine that wait for a decision")
MEASURE_SECONDS = 30


async def run(pool: Pool, *, polls: bool) -> None:
    """Measure, for as long as the service runs. polls: whether there is a source to ask at all."""
    while True:
        await measure(pool, polls=polls)
        await asyncio.sleep(MEASURE_SECONDS)


async def measure(pool: Pool, *, polls: bool) -> None:
    if polls:
        NOT_POLLED.set(await queries.count_not_polled(pool))
    now = datetime.now(UTC)
    for mailbox in await mail_queries.list_mailboxes(pool):
        age = (now - mailbox.last_read_at).total_seconds() if mailbox.last_read_at else float("inf")
        MAILBOX_AGE.labels(mailbox.name).set(age)
    overdue, held = await mail_queries.count_waiting(pool)
    OVERDUE.set(overdue)
    HELD.set(held)
