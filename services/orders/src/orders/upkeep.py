"""What is done for every account again and again, whatever it is: taken when it is due, by one replica at a time, given
back in any case, and tried again after longer and longer where it fails.
"""

import asyncio
import traceback
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import asyncpg
from msgspec import Struct
from prometheus_client import Counter, Gauge

from shared.amazon.errors import CREDENTIALS_REFUSED, QuotaExceededError, QuotaWaitError
from shared.db import Pool
from shared.errors import PermanentError, RetryLaterError
from shared.telemetry import log

from . import backfill, upkeep_queries
from .domain import LeaseLostError, Task, Turn
from .windows import LEASE, Parts

IDLE_SECONDS = 0.5
MEASURE_SECONDS = 30

FAILED = Counter("upkeep_failed_total", "Turns that failed, by the error's code", ["task", "code"])
OVERDUE = Gauge("upkeep_overdue", "Accounts whose turn is overdue by an hour", ["task"])
OLDEST_CURSOR = Gauge("orders_delta_oldest_seconds", "Since the account was up to date that is so least")

Work = Callable[[Parts, Turn], Coroutine[Any, Any, None]]


class Duty(Struct, frozen=True):
    """A task, the least time between two tries, and how it is done: work() gives the turn back by
    upkeep_queries.finish().
    """

    task: Task
    interval_seconds: int
    work: Work


async def run(parts: Parts, duty: Duty, lock: asyncio.Lock) -> None:
    """Take one turn after the other for as long as the service runs; lock: one of a process looks for the next."""
    while True:
        async with lock:
            while (turn := await upkeep_queries.claim(parts.pool, duty.task, LEASE)) is None:  # noqa: ASYNC110
                await asyncio.sleep(IDLE_SECONDS)
        await take(parts, duty, turn)


async def measure(pool: Pool) -> None:
    """Keep the figures for operators; every replica measures all accounts."""
    while True:
        overdue, oldest_seconds = await upkeep_queries.measure(pool)
        for task, number in overdue.items():
            OVERDUE.labels(task).set(number)
        OLDEST_CURSOR.set(oldest_seconds)
        await asyncio.sleep(MEASURE_SECONDS)


async def take(parts: Parts, duty: Duty, turn: Turn) -> None:
    """Do what is to be done for an account; an error is noted with it."""
    about = {"tenant_id": turn.tenant_id, "task": turn.task.value}
    renewing = asyncio.create_task(_renew(parts.pool, turn))
    try:
        await duty.work(parts, turn)
    except asyncio.CancelledError:
        await upkeep_queries.release(parts.pool, turn)
        raise
    except LeaseLostError:
        log.warning("upkeep_lease_lost", **about)
    except (QuotaWaitError, QuotaExceededError) as error:
        delay = timedelta(seconds=error.delay_seconds or 1)
        log.info("upkeep_waits_for_quota", **about, seconds=delay.total_seconds(), code=error.code)
        await upkeep_queries.postpone(parts.pool, turn, delay, error.code, str(error))
    except (PermanentError, RetryLaterError) as error:
        log.warning("upkeep_failed", **about, code=error.code, error=str(error))
        await _fail(parts, duty, turn, error.code, error)
    except Exception as error:  # noqa: BLE001 - the guard of every turn: one account's must not stop the others'
        where = traceback.format_tb(error.__traceback__)  # what it says may be a buyer's words
        log.error("upkeep_failed", **about, code="unexpected", error=type(error).__name__, where=where)
        await _fail(parts, duty, turn, "unexpected", error)
    finally:
        renewing.cancel()


async def _fail(parts: Parts, duty: Duty, turn: Turn, code: str, error: Exception) -> None:
    """Credentials that are refused are told by the delta, once until they work again."""
    FAILED.labels(turn.task, code).inc()
    said = str(error)
    if code == "unexpected":
        said = f"It failed as nobody expected ({type(error).__name__}): the log says where."
    rejected = isinstance(error, CREDENTIALS_REFUSED)
    async with parts.pool.acquire() as conn, conn.transaction():
        newly_rejected = await upkeep_queries.fail(conn, turn, duty.interval_seconds, code, said, rejected=rejected)
        if newly_rejected and turn.task is Task.DELTA and isinstance(error, PermanentError):
            await backfill.reject(conn, parts.outbox, turn.tenant_id, error)


async def _renew(pool: Pool, turn: Turn) -> None:
    while True:
        await asyncio.sleep(LEASE.total_seconds() / 3)
        try:
            await upkeep_queries.hold(pool, turn, LEASE)
        except LeaseLostError:
            return
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            log.warning("upkeep_lease_not_renewed", tenant_id=turn.tenant_id, error=repr(error))
