"""The SQL of what is done for accounts again and again. An account that is disconnected, or whose tenant is archived,
rests: its tasks are not claimed, and one in hand writes nothing more.
"""

from datetime import datetime, timedelta

from shared.db import Conn, Pool
from shared.events import AMAZON

from .domain import Freshness, LeaseLostError, Task, Turn

_USABLE = (
    "EXISTS (SELECT FROM connections c WHERE (c.tenant_id, c.marketplace) = (u.tenant_id, u.marketplace)"
    " AND c.disconnected_at IS NULL) AND NOT EXISTS (SELECT FROM tenants t WHERE t.id = u.tenant_id AND t.archived)"
)
_HELD = f"(u.tenant_id, u.marketplace, u.task, u.lease_token) = ($1, $2, $3, $4) AND {_USABLE}"


async def upsert_upkeep(conn: Conn, tenant_id: str, seller_id: str, delta_interval_seconds: int) -> None:
    """An account was connected: each task is due at once, for anybody, but for the first delta, which would only repeat
    what the backfill finds. What changes from now on is the delta's, three minutes earlier to be sure; it goes on where
    it was when the seller is the same.
    """
    await conn.execute(
        """
        INSERT INTO upkeep AS u (tenant_id, marketplace, task, seller_id, cursor_at, next_due)
        SELECT $1, $2, task, $3, clock_timestamp() - interval '3 minutes',
               CASE task WHEN 'DELTA' THEN next_slot($1, $5, clock_timestamp() + interval '1 minute')
                         ELSE clock_timestamp() END
          FROM unnest($4::text[]) t (task)
        ON CONFLICT (tenant_id, marketplace, task) DO UPDATE
           SET next_due = clock_timestamp(), lease_token = u.lease_token + 1, leased_until = NULL, failures = 0,
               error_code = NULL, last_error = NULL, rejected_at = NULL, seller_id = excluded.seller_id,
               cursor_at = CASE WHEN u.seller_id = excluded.seller_id THEN u.cursor_at ELSE excluded.cursor_at END,
               next_token = CASE WHEN u.seller_id = excluded.seller_id THEN u.next_token END
        """,
        tenant_id,
        AMAZON,
        seller_id,
        sorted(Task),  # the order in which an audit locks them, too
        delta_interval_seconds,
    )


async def claim(pool: Pool, task: Task, lease: timedelta) -> Turn | None:
    """The account for which the task has been due longest, for the time of the lease."""
    # now() and not clock_timestamp(), which no index can be searched by.
    row = await pool.fetchrow(
        f"""
        UPDATE upkeep u SET leased_until = clock_timestamp() + $2, lease_token = lease_token + 1
         WHERE (tenant_id, marketplace, task) IN (
               SELECT tenant_id, marketplace, task FROM upkeep u
                WHERE task = $1 AND greatest(next_due, leased_until) <= now() AND {_USABLE}
                ORDER BY greatest(next_due, leased_until) LIMIT 1 FOR UPDATE SKIP LOCKED)
        RETURNING tenant_id, marketplace, task, lease_token AS token, cursor_at, read_to, next_token,
                  coalesce(next_token_at <= clock_timestamp() - interval '23 hours', false) AS token_is_stale,
                  clock_timestamp() AS now
        """,  # noqa: S608 - constants
        task,
        lease,
    )
    return Turn(**dict(row) | {"task": task}) if row else None


async def hold(conn: Conn | Pool, turn: Turn, extend: timedelta) -> None:
    """The first statement of whatever is written in a turn. LeaseLostError."""
    held = await conn.fetchval(
        f"UPDATE upkeep u SET leased_until = clock_timestamp() + $5 WHERE {_HELD} RETURNING true",  # noqa: S608
        *turn.key,
        extend,
    )
    if held is None:
        raise LeaseLostError("The account's turn is another worker's, or the account rests.")


async def release(pool: Pool, turn: Turn) -> None:
    """The turn was given up: it is due again at once, for anybody."""
    await pool.execute(f"UPDATE upkeep u SET leased_until = NULL WHERE {_HELD}", *turn.key)  # noqa: S608 - a constant


async def note_page(conn: Conn, turn: Turn, read_to: datetime | None, next_token: str | None) -> None:
    """Where a turn that is held goes on."""
    await conn.execute(
        f"UPDATE upkeep u SET read_to = $5, next_token = $6, next_token_at = clock_timestamp() WHERE {_HELD}",  # noqa: S608
        *turn.key,
        read_to,
        next_token,
    )


async def move_cursor(conn: Conn, turn: Turn, cursor_at: datetime) -> None:
    await conn.execute(
        f"UPDATE upkeep u SET cursor_at = greatest(cursor_at, $5), read_to = NULL, next_token = NULL WHERE {_HELD}",  # noqa: S608
        *turn.key,
        cursor_at,
    )


async def wake(conn: Conn, tenant_id: str, task: Task) -> None:
    """There is something to do: the task is due now, or once more where it is in hand. What failed keeps its pause."""
    await conn.execute(
        "UPDATE upkeep SET next_due = clock_timestamp()"
        " WHERE (tenant_id, marketplace, task) = ($1, $2, $3) AND failures = 0",
        tenant_id,
        AMAZON,
        task,
    )


async def finish(conn: Conn | Pool, turn: Turn, interval_seconds: int, due_in: timedelta | None = None) -> None:
    """Give a turn back that is held: the next is after the time that is said, at once where the task was woken
    meanwhile, or in the next slot to come.
    """
    await conn.execute(
        f"""
        UPDATE upkeep u
           SET leased_until = NULL, failures = 0, rejected_at = NULL, last_success_at = clock_timestamp(),
               error_code = NULL, last_error = NULL,
               next_due = coalesce(clock_timestamp() + $6::interval, CASE WHEN next_due > $7 THEN next_due END,
                                   next_slot(tenant_id, $5, clock_timestamp()))
         WHERE {_HELD}
        """,  # noqa: S608 - a constant
        *turn.key,
        interval_seconds,
        due_in,
        turn.now,
    )


async def postpone(pool: Pool, turn: Turn, delay: timedelta, code: str, error: str) -> None:
    """Give a turn back that waits for the usage plan."""
    await pool.execute(
        f"UPDATE upkeep u SET leased_until = NULL, next_due = clock_timestamp() + $5, error_code = $6, last_error = $7"  # noqa: S608
        f" WHERE {_HELD}",
        *turn.key,
        delay,
        code,
        error,
    )


async def fail(conn: Conn, turn: Turn, interval_seconds: int, code: str, error: str, *, rejected: bool) -> bool:
    """Try again in a slot after a delay that grows with the failures, up to an hour, and is an hour where credentials
    were rejected; whether they were so for the first time since they last worked.
    """
    newly_rejected = await conn.fetchval(
        f"""
        UPDATE upkeep u
           SET leased_until = NULL, failures = failures + 1, error_code = $6, last_error = $7,
               rejected_at = CASE WHEN $8 THEN coalesce(rejected_at, clock_timestamp()) ELSE rejected_at END,
               next_due = next_slot(tenant_id, $5::integer, clock_timestamp() + make_interval(secs => greatest(0,
                   CASE WHEN $8 THEN 3600 ELSE least(3600, $5::integer * 2 ^ least(failures, 10)) END - $5::integer)))
         WHERE {_HELD} RETURNING $8 AND old.rejected_at IS NULL
        """,  # noqa: S608 - a constant
        *turn.key,
        interval_seconds,
        code,
        error,
        rejected,
    )
    return bool(newly_rejected)


async def get_freshness(pool: Pool, tenant_id: str) -> list[Freshness]:
    """Of each account of the tenant."""
    rows = await pool.fetch(
        """
        SELECT u.marketplace, u.cursor_at AS fresh_until, u.last_success_at, u.next_due,
               coalesce(u.leased_until > clock_timestamp(), false) AS running, u.failures, u.error_code, u.last_error,
               u.rejected_at, c.disconnected_at
          FROM upkeep u LEFT JOIN connections c USING (tenant_id, marketplace)
         WHERE u.tenant_id = $1 AND u.task = 'DELTA' ORDER BY u.marketplace
        """,
        tenant_id,
    )
    return [Freshness(**row) for row in rows]


async def measure(pool: Pool) -> tuple[dict[Task, int], float]:
    """How many tasks of accounts in use are overdue by an hour, and how many seconds ago the oldest cursor is."""
    rows = await pool.fetch(
        f"""
        SELECT task, count(*) FILTER (WHERE next_due < clock_timestamp() - interval '1 hour') AS overdue,
               extract(epoch FROM clock_timestamp() - min(cursor_at))::float8 AS age
          FROM upkeep u WHERE {_USABLE} GROUP BY task
        """  # noqa: S608 - a constant
    )
    overdue = dict.fromkeys(Task, 0) | {Task(row["task"]): row["overdue"] for row in rows}
    return overdue, max([0.0, *(row["age"] for row in rows if row["task"] == Task.DELTA)])
