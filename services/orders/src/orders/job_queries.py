"""The SQL of backfills: jobs and their windows. What is stored is counted in the windows alone.

Whoever works on a job holds its row first (hold_job): what was cancelled or lost to another worker is then written
nothing more for. A job is claimed by one worker at a time, so that its windows need no lease of their own.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg

from shared.db import Conn, Pool
from shared.events import AMAZON

from . import planning
from .domain import UNFINISHED, Job, JobState, Lease, LeaseLostError, Waiting
from .planning import Span, Window, WindowKind

_UNFINISHED = "({})".format(", ".join(f"'{state}'" for state in UNFINISHED))
_STALE = "next_token_at <= clock_timestamp() - interval '23 hours'"
"""A page token lives for 24 hours."""


async def insert_job(conn: Conn, tenant_id: str, days: int) -> UUID | None:
    """A new backfill of the tenant's account, as one window of pages; None where one is unfinished. It ends three
    minutes ago: Amazon refuses the last two, by a clock that is not ours.
    """
    job_id: UUID | None = await conn.fetchval(
        f"""
        INSERT INTO backfill_jobs (tenant_id, marketplace, days, window_from, window_to, seller_id)
        VALUES ($1, $2, $3, date_trunc('second', clock_timestamp()) - make_interval(days => $3),
                date_trunc('second', clock_timestamp()) - interval '3 minutes',
                (SELECT seller_id FROM connections WHERE tenant_id = $1 AND marketplace = $2))
        ON CONFLICT (tenant_id, marketplace) WHERE state IN {_UNFINISHED} DO NOTHING RETURNING id
        """,  # noqa: S608 - constants
        tenant_id,
        AMAZON,
        days,
    )
    if job_id is not None:
        await conn.execute(
            "INSERT INTO backfill_windows (job_id, kind, from_at, to_at, rest_from, rest_to)"
            " SELECT id, 'PAGES', window_from, window_to, window_from, window_to FROM backfill_jobs WHERE id = $1",
            job_id,
        )
    return job_id


async def get_unfinished_job(conn: Conn | Pool, tenant_id: str) -> Job | None:
    job_id = await conn.fetchval(
        f"SELECT id FROM backfill_jobs WHERE tenant_id = $1 AND marketplace = $2 AND state IN {_UNFINISHED}",  # noqa: S608
        tenant_id,
        AMAZON,
    )
    return await get_job(conn, tenant_id, job_id) if job_id else None


async def resume_job(
    conn: Conn, tenant_id: str, seller_id: str, codes: Sequence[str], *, within: timedelta, days: int
) -> UUID | None:
    """The tenant's last backfill goes on, and up to three minutes ago, where it was of the same seller and of so many
    days at least, and one of these errors ended it, no longer ago than that.
    """
    row = await conn.fetchrow(
        """
        UPDATE backfill_jobs
           SET state = 'REQUESTED', window_to = date_trunc('second', clock_timestamp()) - interval '3 minutes',
               finished_at = NULL, error_code = NULL, error = NULL, attempts = 0, next_attempt_at = clock_timestamp()
         WHERE id = (SELECT id FROM backfill_jobs WHERE tenant_id = $1 AND marketplace = $2
                      ORDER BY created_at DESC LIMIT 1)
           AND state IN ('FAILED', 'CANCELLED') AND seller_id = $3 AND error_code = ANY ($4)
           AND finished_at > clock_timestamp() - $5::interval AND days >= $6
        RETURNING id, old.window_to AS covered_to, new.window_to
        """,
        tenant_id,
        AMAZON,
        seller_id,
        codes,
        within,
        days,
    )
    if row is None:
        return None
    await conn.execute(
        "UPDATE backfill_windows SET next_attempt_at = clock_timestamp() WHERE job_id = $1 AND done_at IS NULL",
        row["id"],
    )
    newer = Span(row["covered_to"], row["window_to"])
    await insert_windows(conn, row["id"], WindowKind.PAGES, [newer])
    job_id: UUID = row["id"]
    return job_id


async def get_job(conn: Conn | Pool, tenant_id: str, job_id: UUID) -> Job | None:
    row = await conn.fetchrow(
        "SELECT id, tenant_id, marketplace, days, window_from, window_to, state, waiting_for, calls, notice,"
        " error_code, error, next_attempt_at, created_at, finished_at, audited_at, days_checked, missing, unlisted,"
        " clock_timestamp() AS now, quota_waited_seconds"
        " + CASE WHEN waiting_for = 'QUOTA' THEN extract(epoch FROM clock_timestamp() - waiting_since) ELSE 0 END"
        " AS quota_waited_seconds FROM backfill_jobs WHERE tenant_id = $1 AND id = $2",
        tenant_id,
        job_id,
    )
    return _job(row, await list_windows(conn, job_id)) if row else None


async def list_windows(conn: Conn | Pool, job_id: UUID, *, audits: bool = False) -> list[Window]:
    """The newest first; those of its audit, or those of the backfill itself."""
    rows = await conn.fetch(
        f"SELECT id, kind, from_at, to_at, rest_from, rest_to, next_token, coalesce({_STALE}, false) AS token_is_stale,"  # noqa: S608
        " pages_only, report_id, asked_at, document_id, ready_at, troubles, orders, items, pages, next_attempt_at,"
        " done_at, clock_timestamp() AS now FROM backfill_windows WHERE job_id = $1 AND (kind = 'AUDIT') = $2"
        " ORDER BY from_at DESC, id",
        job_id,
        audits,
    )
    return [_window(row) for row in rows]


async def claim_job(pool: Pool, lease: timedelta) -> Lease | None:
    """The job that has been due longest, of whichever tenant that is not archived, for the time of the lease."""
    row = await pool.fetchrow(
        f"""
        UPDATE backfill_jobs
           SET state = 'RUNNING', lease_token = lease_token + 1, leased_until = clock_timestamp() + $1,
               quota_waited_seconds = quota_waited_seconds + CASE WHEN waiting_for = 'QUOTA'
                   THEN extract(epoch FROM clock_timestamp() - waiting_since) ELSE 0 END,
               waiting_for = NULL, waiting_since = NULL
         WHERE id = (SELECT id FROM backfill_jobs
                      WHERE state IN {_UNFINISHED} AND next_attempt_at <= clock_timestamp()
                        AND (leased_until IS NULL OR leased_until < clock_timestamp())
                        AND NOT EXISTS (SELECT FROM tenants t WHERE t.id = tenant_id AND t.archived)
                      ORDER BY next_attempt_at LIMIT 1 FOR UPDATE SKIP LOCKED)
        RETURNING id, tenant_id, lease_token, attempts
        """,  # noqa: S608 - constants
        lease,
    )
    return Lease(row["id"], row["tenant_id"], row["lease_token"], row["attempts"]) if row else None


async def renew_job(pool: Pool, lease: Lease, extend: timedelta) -> None:
    """Keep a lease that is still ours."""
    await pool.execute(
        "UPDATE backfill_jobs SET leased_until = clock_timestamp() + $3"
        " WHERE id = $1 AND lease_token = $2 AND state = 'RUNNING'",
        lease.job_id,
        lease.token,
        extend,
    )


async def hold_job(conn: Conn, lease: Lease, extend: timedelta, *, calls: int) -> None:
    """The first statement of whatever is written for a job, with the calls that were made for it: the row stays ours
    until the transaction ends. LeaseLostError.
    """
    held = await conn.fetchval(
        "UPDATE backfill_jobs SET leased_until = clock_timestamp() + $3, calls = calls + $4"
        " WHERE id = $1 AND lease_token = $2 AND state = 'RUNNING' RETURNING true",
        lease.job_id,
        lease.token,
        extend,
        calls,
    )
    if held is None:
        raise LeaseLostError("The backfill is over or another worker's.")


async def note_progress(conn: Conn, job_id: UUID, every: timedelta) -> bool:
    """What hindered the job does so no more; whether to tell of it, at most so often."""
    tell: bool = await conn.fetchval(
        """
        UPDATE backfill_jobs SET attempts = 0, error_code = NULL, error = NULL,
               told_at = CASE WHEN told_at > clock_timestamp() - $2::interval THEN told_at ELSE clock_timestamp() END
         WHERE id = $1 RETURNING new.told_at IS DISTINCT FROM old.told_at
        """,
        job_id,
        every,
    )
    return tell


async def set_notice(conn: Conn, job_id: UUID, notice: str) -> None:
    await conn.execute("UPDATE backfill_jobs SET notice = $2 WHERE id = $1", job_id, notice)


async def insert_windows(
    conn: Conn, job_id: UUID, kind: WindowKind, spans: Sequence[Span], *, pages_only: bool = False
) -> None:
    await conn.execute(
        "INSERT INTO backfill_windows (job_id, kind, from_at, to_at, rest_from, rest_to, pages_only)"
        " SELECT $1, $2, from_at, to_at, from_at, to_at, $5"
        "   FROM unnest($3::timestamptz[], $4::timestamptz[]) AS t (from_at, to_at)",
        job_id,
        kind,
        [span.start for span in spans],
        [span.end for span in spans],
        pages_only,
    )


async def delete_window(conn: Conn, window_id: UUID) -> None:
    """Others take its place."""
    await conn.execute("DELETE FROM backfill_windows WHERE id = $1", window_id)


async def advance_window(
    conn: Conn,
    window_id: UUID,
    *,
    orders: int,
    items: int,
    pages: int = 0,
    rest: Span | None = None,
    next_token: str | None = None,
) -> None:
    """Count what was stored; of a page, what it left and where it goes on."""
    await conn.execute(
        "UPDATE backfill_windows SET orders = orders + $2, items = items + $3, pages = pages + $4,"
        " rest_from = coalesce($5, rest_from), rest_to = coalesce($6, rest_to),"
        " next_token = $7, next_token_at = clock_timestamp() WHERE id = $1",
        window_id,
        orders,
        items,
        pages,
        rest.start if rest else None,
        rest.end if rest else None,
        next_token,
    )


async def begin_document(conn: Conn, window_id: UUID) -> None:
    """Its orders are counted from none."""
    await conn.execute("UPDATE backfill_windows SET orders = 0, items = 0 WHERE id = $1", window_id)


async def finish_window(conn: Conn, window_id: UUID) -> None:
    await conn.execute(
        "UPDATE backfill_windows SET done_at = clock_timestamp(), next_token = NULL WHERE id = $1", window_id
    )


async def cut_window(conn: Conn, window_id: UUID, covered: Span) -> None:
    """What is covered is done; the rest is another window's."""
    await conn.execute(
        "UPDATE backfill_windows SET from_at = $2, to_at = $3, rest_from = $3, rest_to = $3, next_token = NULL,"
        " done_at = clock_timestamp() WHERE id = $1",
        window_id,
        covered.start,
        covered.end,
    )


async def note_report(conn: Conn, window_id: UUID, report_id: str | None, look_after: timedelta) -> None:
    """The report was asked for; None where another has to be."""
    await conn.execute(
        """
        UPDATE backfill_windows
           SET report_id = $2, asked_at = CASE WHEN $2::text IS NOT NULL THEN clock_timestamp() END,
               document_id = NULL, ready_at = NULL, next_attempt_at = clock_timestamp() + $3
         WHERE id = $1
        """,
        window_id,
        report_id,
        look_after,
    )


async def note_document(conn: Conn, window_id: UUID, document_id: str) -> None:
    await conn.execute(
        "UPDATE backfill_windows SET document_id = $2, ready_at = clock_timestamp() WHERE id = $1",
        window_id,
        document_id,
    )


async def note_trouble(conn: Conn, window_id: UUID) -> None:
    await conn.execute("UPDATE backfill_windows SET troubles = troubles + 1 WHERE id = $1", window_id)


async def postpone_windows(conn: Conn, window_ids: Sequence[UUID], delay: timedelta) -> None:
    await conn.execute(
        "UPDATE backfill_windows SET next_attempt_at = greatest(next_attempt_at, clock_timestamp() + $2)"
        " WHERE id = ANY ($1::uuid[])",
        window_ids,
        delay,
    )


async def set_error(conn: Conn, job_id: UUID, code: str, error: str) -> None:
    """What hinders the job now."""
    await conn.execute("UPDATE backfill_jobs SET error_code = $2, error = $3 WHERE id = $1", job_id, code, error)


async def give_back(conn: Conn, job_id: UUID, until: datetime, waiting_for: Waiting | None) -> None:
    """Let whoever comes take the job then; RUNNING where only Amazon's work is waited for."""
    await conn.execute(
        "UPDATE backfill_jobs SET leased_until = NULL, next_attempt_at = $2, waiting_for = $3,"
        " state = CASE WHEN $3::text IS NULL THEN 'RUNNING' ELSE 'WAITING' END,"
        " waiting_since = CASE WHEN $3::text IS NOT NULL THEN clock_timestamp() END WHERE id = $1",
        job_id,
        until,
        waiting_for,
    )


async def postpone_job(conn: Conn, job_id: UUID, delay: timedelta, code: str, error: str) -> None:
    """Let the job wait for the end of an outage, and say of which."""
    await conn.execute(
        "UPDATE backfill_jobs SET state = 'WAITING', leased_until = NULL, attempts = attempts + 1,"
        " waiting_for = 'OUTAGE', waiting_since = clock_timestamp(), next_attempt_at = clock_timestamp() + $2,"
        " error_code = $3, error = $4 WHERE id = $1",
        job_id,
        delay,
        code,
        error,
    )


async def finish_job(
    conn: Conn, job_id: UUID, state: JobState, code: str | None = None, error: str | None = None
) -> None:
    """End a job that is held."""
    await conn.execute(
        "UPDATE backfill_jobs SET state = $2, leased_until = NULL, finished_at = clock_timestamp(), error_code = $3,"
        " error = $4 WHERE id = $1",
        job_id,
        state,
        code,
        error,
    )


async def cancel_jobs(conn: Conn, tenant_id: str, code: str, error: str, job_id: UUID | None = None) -> list[Job]:
    """End what is unfinished of a tenant, whoever has it in hand; or that one alone."""
    rows = await conn.fetch(
        f"UPDATE backfill_jobs SET state = 'CANCELLED', leased_until = NULL, finished_at = clock_timestamp(),"  # noqa: S608
        f" waiting_for = NULL, error_code = $2, error = $3"
        f" WHERE tenant_id = $1 AND state IN {_UNFINISHED} AND ($4::uuid IS NULL OR id = $4) RETURNING id",
        tenant_id,
        code,
        error,
        job_id,
    )
    return [job for row in rows if (job := await get_job(conn, tenant_id, row["id"])) is not None]


async def count_jobs(pool: Pool) -> tuple[dict[str, int], float]:
    """How many unfinished jobs are in which state, and for how many seconds the one has waited that does so longest."""
    rows = await pool.fetch(
        f"""
        SELECT state, count(*) AS jobs,
               extract(epoch FROM clock_timestamp() - min(coalesce(waiting_since, created_at))
                   FILTER (WHERE state IN ('REQUESTED', 'WAITING')))::float8 AS seconds
          FROM backfill_jobs WHERE state IN {_UNFINISHED} GROUP BY state
        """  # noqa: S608 - constants
    )
    counts = dict.fromkeys(UNFINISHED, 0) | {row["state"]: row["jobs"] for row in rows}
    return {str(state): number for state, number in counts.items()}, max([0.0, *(row["seconds"] or 0 for row in rows)])


def _job(row: asyncpg.Record, windows: Sequence[Window]) -> Job:
    columns = dict(row)
    now = columns.pop("now")
    state = JobState(columns["state"])
    waiting = Waiting(columns["waiting_for"]) if columns["waiting_for"] else None
    wait = (columns["next_attempt_at"] - now).total_seconds() if waiting is Waiting.QUOTA else None
    return Job(
        **columns
        | {
            "state": state,
            "waiting_for": waiting,
            "quota_waited_seconds": round(float(columns["quota_waited_seconds"]), 1),
        },
        orders_stored=sum(window.orders for window in windows),
        items_stored=sum(window.items for window in windows),
        pages=sum(window.pages for window in windows),
        windows_done=sum(window.done_at is not None for window in windows),
        windows_total=len(windows),
        eta_seconds=planning.eta_seconds(windows, quota_wait_seconds=wait) if state in UNFINISHED else None,
    )


def _window(row: asyncpg.Record) -> Window:
    columns = dict(row)
    kind, span, rest = (
        WindowKind(columns.pop("kind")),
        Span(columns.pop("from_at"), columns.pop("to_at")),
        Span(columns.pop("rest_from"), columns.pop("rest_to")),
    )
    return Window(**columns, kind=kind, span=span, rest=rest)
