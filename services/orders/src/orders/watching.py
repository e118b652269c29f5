"""A backfill's progress as server-sent events."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

from litestar.response import ServerSentEventMessage

from shared.db import Pool
from shared.errors import RetryLaterError
from shared.web import json_body

from . import backfill
from .domain import Job

AT_ONCE = 200
"""Watchers of one process; each is a query a second."""
PAUSE_SECONDS = 1.0
HEARTBEAT_SECONDS = 15.0
LONGEST_SECONDS = 3_600.0

_places = asyncio.Semaphore(AT_ONCE)


class TooManyWatchersError(RetryLaterError):
    """The progress can be asked for without a stream, too."""

    code = "too_many_watchers"


async def watch(pool: Pool, tenant_id: str, job_id: UUID) -> AsyncIterator[ServerSentEventMessage]:
    """`progress` whenever something changed and `over` at last, each with the job; between them comments, so that
    nobody takes the line for dead. BackfillNotFoundError or TooManyWatchersError before the first.
    """
    job = await backfill.get(pool, tenant_id, job_id)
    if _places.locked():
        raise TooManyWatchersError(f"{AT_ONCE} backfills are watched here already: ask for the backfill itself.")
    return _changes(pool, job)


async def _changes(pool: Pool, job: Job) -> AsyncIterator[ServerSentEventMessage]:
    now = asyncio.get_running_loop().time
    async with _places:
        until, said, said_at = now() + LONGEST_SECONDS, None, now()
        while job.is_unfinished and now() < until:
            if job != said:
                said, said_at = job, now()
                yield _message("progress", job)
            elif now() - said_at > HEARTBEAT_SECONDS:
                said_at = now()
                yield ServerSentEventMessage(data=None, comment="still here")
            await asyncio.sleep(PAUSE_SECONDS)
            job = await backfill.get(pool, job.tenant_id, job.id)
        if not job.is_unfinished:
            yield _message("over", job)


def _message(event: str, job: Job) -> ServerSentEventMessage:
    return ServerSentEventMessage(event=event, data=json_body(job))
