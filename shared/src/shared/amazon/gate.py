"""The gate before Amazon: no call goes out beyond the seller's usage plan, however many replicas of however many
services call. A token bucket per application, seller, region and operation is one row in PostgreSQL, whose clock is
the only one that counts. Source: "Usage plans and rate limits"; the bucket is the generic cell rate algorithm (GCRA).

The row holds when the calls so far would be over if they came one an interval (1 / rate): a call may go when that is
at most burst - 1 intervals ahead, and puts it one interval further.
"""

import asyncio
import time
from datetime import timedelta
from enum import StrEnum
from http import HTTPStatus

import httpx
from msgspec import Struct
from prometheus_client import Counter

from shared.db import Pool

from .errors import QuotaWaitError

WAITED = Counter("amazon_quota_waited_seconds", "Time that calls waited for the usage plan", ["operation", "lane"])
REFUSED = Counter("amazon_quota_refused", "Calls not made: the wait was longer than allowed", ["operation", "lane"])

SLACK_SECONDS = 0.25
"""What a wait is longer than the bucket asks for: the calls before may have been that much slower on their way."""
LEARNED_FOR = timedelta(hours=1)
SLOWEST, FASTEST = 0.1, 100
"""What is taken for a rate, in multiples of the published one."""
RETRY_AFTER_AT_MOST_SECONDS = 3_600.0


class Operation(Struct, frozen=True):
    """An operation and its published usage plan: calls a second, and how many may come at once."""

    name: str
    rate: float
    burst: int


class Lane(StrEnum):
    """For whom a call is. Nothing is held back for either: a backfill may use up the whole burst."""

    LIVE = "live"
    """A person or an event waits: books its place in the row before it waits, so that it gets the next token."""
    BACKFILL = "backfill"
    """Takes what is there and books nothing ahead; when there is nothing, it asks again after the wait."""


class Bucket(Struct, frozen=True):
    """Whose calls to what: a row's key."""

    seller_id: str
    region: str
    operation: Operation


class Left(Struct, frozen=True):
    """What is left of a usage plan now: how many calls may go at once, and after how many seconds each there is one
    more.
    """

    calls: int
    interval_seconds: float


class Gate:
    """What a service's calls to Amazon pass, as one of our applications. Its role needs the grant of the migration."""

    def __init__(self, pool: Pool, application: str) -> None:
        self._pool = pool
        self._application = application

    async def take(self, bucket: Bucket, lane: Lane, wait_seconds: float = 0) -> None:
        """Return when the call may go out, after at most wait_seconds. QuotaWaitError at once, with nothing taken,
        when it would be later; its delay_seconds says how much.
        """
        labels = (bucket.operation.name, lane.value)
        until = time.monotonic() + wait_seconds
        while True:
            left = max(0.0, until - time.monotonic())
            is_taken, wait = await self._take(bucket, left if lane is Lane.LIVE else 0)
            if not is_taken and (lane is Lane.LIVE or wait > left):
                REFUSED.labels(*labels).inc()
                raise QuotaWaitError(
                    f"Amazon's usage plan for {bucket.operation.name} is used up: the seller's next call can go in"
                    f" {wait:.1f} s.",
                    delay_seconds=wait,
                )
            if wait:
                WAITED.labels(*labels).inc(wait)
                await asyncio.sleep(wait)
            if is_taken:
                return

    async def _take(self, bucket: Bucket, ahead_seconds: float) -> tuple[bool, float]:
        """Whether a call was entered, at most ahead_seconds before it may go, and the seconds until one may."""
        operation = bucket.operation
        row = await self._pool.fetchrow(
            """
            INSERT INTO amazon.request_buckets AS b (application, seller_id, region, operation, arrives_at)
            VALUES ($1, $2, $3, $4, clock_timestamp() + make_interval(secs => 1 / $5::float8))
            ON CONFLICT (application, seller_id, region, operation) DO UPDATE SET arrives_at =
                CASE WHEN b.arrives_at <= clock_timestamp() + make_interval(secs => $7::float8)
                          + make_interval(secs => 1 / coalesce(b.rate, $5)) * ($6::integer - 1)
                     THEN greatest(b.arrives_at, clock_timestamp()) + make_interval(secs => 1 / coalesce(b.rate, $5))
                     ELSE b.arrives_at END
            RETURNING coalesce(new.arrives_at > old.arrives_at, true) AS is_taken,
                      extract(epoch FROM new.arrives_at - clock_timestamp()
                          - make_interval(secs => 1 / coalesce(new.rate, $5))
                            * ($6 - 1 + coalesce(new.arrives_at > old.arrives_at, true)::integer))::float8 AS wait
            """,
            *self._key(bucket),
            operation.rate,
            operation.burst,
            max(0.0, ahead_seconds - SLACK_SECONDS),
        )
        return row["is_taken"], row["wait"] + SLACK_SECONDS if row["wait"] > 0 else 0.0

    async def left(self, bucket: Bucket) -> Left:
        """A look, which takes nothing: another caller may be faster."""
        operation = bucket.operation
        row = await self._pool.fetchrow(
            """
            SELECT coalesce(rate, $5) AS rate,
                   extract(epoch FROM greatest(arrives_at - clock_timestamp(), '0'))::float8 AS arrives_in
              FROM amazon.request_buckets WHERE (application, seller_id, region, operation) = ($1, $2, $3, $4)
            """,
            *self._key(bucket),
            operation.rate,
        )
        if row is None:
            return Left(operation.burst, 1 / operation.rate)
        return Left(max(0, int(operation.burst - row["arrives_in"] * row["rate"])), 1 / row["rate"])

    async def heed(self, bucket: Bucket, answer: httpx.Response) -> None:
        """Keep what an answer says of the plan: the seller's own rate, or, with 429, that nothing is left of it. The
        next rate that is told corrects the one before; one that no answer has confirmed for LEARNED_FOR is forgotten
        with the next answer that tells none, and one above the published plan with a 429.
        """
        if answer.status_code == HTTPStatus.TOO_MANY_REQUESTS:
            await self._push_back(bucket, _seconds(answer.headers.get("Retry-After")))
        else:
            await self._learn(bucket, _rate(answer.headers.get("x-amzn-RateLimit-Limit"), bucket.operation))

    async def _learn(self, bucket: Bucket, rate: float | None) -> None:
        """The calls that are entered stay as many: they last longer or shorter. No write where nothing changes."""
        await self._pool.execute(
            """
            UPDATE amazon.request_buckets
               SET rate = $6::float8, learned_at = clock_timestamp(),
                   arrives_at = clock_timestamp() + make_interval(secs =>
                       greatest(0, extract(epoch FROM arrives_at - clock_timestamp())::float8)
                       * coalesce(rate, $5::float8) / coalesce($6::float8, $5::float8))
             WHERE (application, seller_id, region, operation) = ($1, $2, $3, $4)
               AND CASE WHEN $6::float8 IS NULL
                        THEN rate IS NOT NULL AND learned_at < clock_timestamp() - $7::interval
                        ELSE coalesce(rate, $5::float8) <> $6::float8
                             OR learned_at < clock_timestamp() - $7::interval / 2 END
            """,
            *self._key(bucket),
            bucket.operation.rate,
            rate,
            LEARNED_FOR,
        )

    async def _push_back(self, bucket: Bucket, retry_after_seconds: float) -> None:
        """The next call goes an interval from now, or when Amazon says; calls that wait already keep their place."""
        await self._pool.execute(
            """
            UPDATE amazon.request_buckets
               SET rate = CASE WHEN rate < $5::float8 THEN rate END,
                   arrives_at = greatest(arrives_at, clock_timestamp() + make_interval(secs =>
                       ($6::integer - 1) / least(rate, $5) + greatest(1 / least(rate, $5), $7::float8)))
             WHERE (application, seller_id, region, operation) = ($1, $2, $3, $4)
            """,
            *self._key(bucket),
            bucket.operation.rate,
            bucket.operation.burst,
            retry_after_seconds,
        )

    def _key(self, bucket: Bucket) -> tuple[str, str, str, str]:
        return self._application, bucket.seller_id, bucket.region, bucket.operation.name


def _rate(told: str | None, operation: Operation) -> float | None:
    """None where an answer says nothing that can be true."""
    rate = _number(told)
    return rate if SLOWEST * operation.rate <= rate <= FASTEST * operation.rate else None


def _seconds(told: str | None) -> float:
    """Retry-After, which Amazon does not document; a date in it is left alone."""
    seconds = _number(told)
    return min(seconds, RETRY_AFTER_AT_MOST_SECONDS) if seconds > 0 else 0.0


def _number(told: str | None) -> float:
    """Not a number (NaN) where it is none: no comparison with it is true."""
    try:
        return float(told or "nan")
    except ValueError:
        return float("nan")
