"""Events that are committed with the state they tell of, and the relay that publishes them.

The order of an aggregate is kept: a transaction changes the aggregate's row before it adds the event, one relay
is active (advisory lock), and a message whose predecessor of the same key is not stored yet waits. Trouble with
the broker makes the relay wait; it never skips and never gives up.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias
from uuid import uuid4

import asyncpg
import msgspec
import nats.errors
from nats.aio.client import Client
from nats.js.errors import Error as JetStreamError

from .db import LOST, Conn, Pool
from .events import Event
from .telemetry import PUBLISHED, UNPUBLISHED, log
from .topology import stream_of

BATCH_ROWS = 500
"""Rows per round; an atomic batch holds 1,000 messages at most."""
BATCH_FROM = 8
"""Fewer messages than this go one by one: an atomic batch costs one round trip more."""
HEADER_BYTES = 1_024
"""Room for the headers of an event."""
IDLE_SECONDS = 0.2
KEEP_DAYS = 7
INBOX_KEEP_DAYS = 30
"""Longer than any stream keeps its messages (topology.py), so that no redelivery finds its claim gone."""
PRUNE_SECONDS = 3_600
PUBLISH_TIMEOUT_SECONDS = 5

Row: TypeAlias = asyncpg.Record


class Outbox:
    """add() within your transaction; run() is the relay, in every replica, active in one."""

    def __init__(self, service: str, database_url: str) -> None:
        self._service = service
        self._url = database_url
        self._wake = asyncio.Event()
        self.leading = False

    async def add(self, conn: Conn, *events: Event, key: str | None = None) -> None:
        """Store events in the caller's transaction, in this order. The key is the aggregate whose events keep
        their order; by default the tenant.
        """
        await conn.execute(
            "INSERT INTO outbox (subject, key, payload)"
            " SELECT subject, key, payload"
            " FROM unnest($1::text[], $2::text[], $3::bytea[]) WITH ORDINALITY AS e (subject, key, payload, n)"
            " ORDER BY n",
            [event.SUBJECT for event in events],
            [key or event.key for event in events],
            [msgspec.json.encode(event) for event in events],
        )
        self.wake()

    def wake(self) -> None:
        """Rows were added by a statement of the caller's own: let the relay look."""
        self._wake.set()

    async def unpublished(self, pool: Pool) -> int:
        """How many events wait for the relay."""
        count: int = await pool.fetchval("SELECT count(*) FROM outbox WHERE published_at IS NULL")
        return count

    async def run(self, connection: Client) -> None:
        """Publish until cancelled; a lost database or broker is waited for."""
        while True:
            try:
                await self._lead(connection)
            except LOST as error:
                log.warning("outbox_relay_waits_for_database", error=type(error).__name__)
            finally:
                self.leading = False
            await asyncio.sleep(0.5)

    async def _lead(self, connection: Client) -> None:
        conn = await asyncpg.connect(
            self._url,
            timeout=5,
            command_timeout=10,
            server_settings={"application_name": f"{self._service} relay"},
        )
        try:
            while not await conn.fetchval(  # noqa: ASYNC110 - the lock is the database's
                "SELECT pg_try_advisory_lock(hashtextextended($1, 0))", f"outbox {self._service}"
            ):
                await asyncio.sleep(1)
            self.leading = True
            loop = asyncio.get_running_loop()
            next_prune = loop.time()
            pauses = _pauses()
            while True:
                if loop.time() >= next_prune:
                    next_prune = loop.time() + PRUNE_SECONDS
                    await prune(conn)
                found, published = await self._round(conn, connection)
                if published < found:
                    await asyncio.sleep(0.5)
                elif found < BATCH_ROWS:
                    # add() wakes before its transaction commits, so look again soon, then less and less often.
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._wake.wait(), next(pauses))
                        self._wake.clear()
                        pauses = _pauses()
        finally:
            # An error of its own would take the place of the cancellation, and the relay would run on.
            with contextlib.suppress(*LOST):
                await conn.close(timeout=1)

    async def _round(self, conn: Conn, connection: Client) -> tuple[int, int]:
        rows = await conn.fetch(
            "SELECT seq, id, subject, key, payload, created_at FROM outbox"
            " WHERE published_at IS NULL ORDER BY seq LIMIT $1",
            BATCH_ROWS,
        )
        UNPUBLISHED.set(len(rows))
        if not rows:
            return 0, 0
        done = await self._publish(connection, rows)
        if done:
            await conn.execute(
                "UPDATE outbox SET published_at = clock_timestamp() WHERE seq = ANY ($1::bigint[])", done
            )
        return len(rows), len(done)

    async def _publish(self, connection: Client, rows: Sequence[Row]) -> list[int]:
        """The sequence numbers of the rows that JetStream has stored."""
        done: list[int] = []
        by_stream = sorted(rows, key=lambda row: (stream_of(row["subject"]), row["seq"]))
        for stream, group in itertools.groupby(by_stream, key=lambda row: stream_of(row["subject"])):
            of_stream = list(group)
            try:
                if len(of_stream) < BATCH_FROM or not await self._publish_batch(connection, of_stream):
                    stored = await self._publish_singly(connection, stream, of_stream)
                else:
                    stored = of_stream
            except (nats.errors.Error, JetStreamError) as error:
                log.warning("outbox_relay_waits_for_broker", stream=stream, error=repr(error))
                continue
            for row in stored:
                PUBLISHED.labels(row["subject"]).inc()
                done.append(row["seq"])
        return done

    async def _publish_batch(self, connection: Client, rows: Sequence[Row]) -> bool:
        """Store all rows or none in one atomic batch (NATS 2.12; headers Nats-Batch-*), with one fsync for all.
        False when the server refused it: it refuses a batch that holds one message it already has.
        """
        if any(_too_large(connection, row) for row in rows):  # one by one it holds up its own key only
            return False
        batch_id = uuid4().hex
        for number, row in enumerate(rows, 1):
            headers = self._headers(row) | {"Nats-Batch-Id": batch_id, "Nats-Batch-Sequence": str(number)}
            if number == len(rows):
                headers["Nats-Batch-Commit"] = "1"
            if 1 < number < len(rows):
                await connection.publish(row["subject"], row["payload"], headers=headers)
                continue
            reply = await connection.request(
                row["subject"], row["payload"], timeout=PUBLISH_TIMEOUT_SECONDS, headers=headers
            )
            answer: dict[str, Any] = msgspec.json.decode(reply.data) if reply.data else {}
            if "error" in answer:
                log.info("outbox_batch_refused", reason=answer["error"].get("description"), rows=len(rows))
                return False
        return answer.get("count") == len(rows)

    async def _publish_singly(self, connection: Client, stream: str, rows: Sequence[Row]) -> list[Row]:
        """Waves with one message per key in flight: a failed one can never be overtaken by a later of its key."""
        js = connection.jetstream(timeout=PUBLISH_TIMEOUT_SECONDS)

        async def publish(row: Row) -> bool:
            if _too_large(connection, row):
                log.error("outbox_event_too_large", subject=row["subject"], id=row["id"], bytes=len(row["payload"]))
                return False
            try:
                await js.publish(row["subject"], row["payload"], stream=stream, headers=self._headers(row))
            except (nats.errors.Error, JetStreamError) as error:
                log.warning("outbox_publish_failed", subject=row["subject"], error=repr(error))
                return False
            return True

        stored: list[Row] = []
        blocked: set[str] = set()
        for wave in _waves(rows):
            going = [row for row in wave if row["key"] not in blocked]
            for row, ok in zip(going, await asyncio.gather(*map(publish, going)), strict=True):
                if ok:
                    stored.append(row)
                else:
                    blocked.add(row["key"])
        return stored

    def _headers(self, row: Row) -> dict[str, str]:
        """CloudEvents 1.0, binary content mode; JetStream drops a second message of the same id."""
        return {
            "Nats-Msg-Id": str(row["id"]),
            "Content-Type": "application/json",
            "ce-specversion": "1.0",
            "ce-id": str(row["id"]),
            "ce-type": row["subject"],
            "ce-source": f"/keybuzz/{self._service}",
            "ce-time": row["created_at"].astimezone(UTC).isoformat().replace("+00:00", "Z"),
        }


def _too_large(connection: Client, row: Row) -> bool:
    """The server closes the connection of who sends more, headers included, and nats-py does not count those."""
    return len(row["payload"]) + HEADER_BYTES > connection.max_payload


def _waves(rows: Sequence[Row]) -> list[list[Row]]:
    waves: list[list[Row]] = []
    depth: dict[str, int] = {}
    for row in rows:
        wave = depth.get(row["key"], 0)
        depth[row["key"]] = wave + 1
        if wave == len(waves):
            waves.append([])
        waves[wave].append(row)
    return waves


def _pauses() -> Iterator[float]:
    """0.5 ms, doubled up to the idle pause, which then stays."""
    return itertools.chain(
        itertools.takewhile(lambda pause: pause < IDLE_SECONDS, (0.0005 * 2**n for n in itertools.count())),
        itertools.repeat(IDLE_SECONDS),
    )


async def prune(conn: Conn, now: datetime | None = None) -> None:
    """Delete what was published long ago, and the claims of events that no stream holds any more."""
    now = now or datetime.now(UTC)
    await conn.execute(
        "DELETE FROM outbox WHERE published_at < $1::timestamptz - make_interval(days => $2)", now, KEEP_DAYS
    )
    await conn.execute(
        "DELETE FROM inbox WHERE claimed_at < $1::timestamptz - make_interval(days => $2)",
        now,
        INBOX_KEEP_DAYS,
    )
