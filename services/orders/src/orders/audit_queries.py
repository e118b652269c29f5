"""The SQL of the audits of completed backfills. Their windows are a job's, of the kind AUDIT; what counts them is here
alone.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from shared.db import Conn, Pool
from shared.events import AMAZON

from .domain import Audit

_UNDER_AUDIT = "state = 'COMPLETED' AND audited_at IS NULL"


async def get_audit(pool: Pool, tenant_id: str) -> Audit | None:
    """The tenant's latest completed backfill that is not audited to its end; None while another one is unfinished: that
    one needs the usage plans more.
    """
    row = await pool.fetchrow(
        f"""
        SELECT id AS job_id, window_from, window_to,
               EXISTS (SELECT FROM backfill_windows WHERE job_id = j.id AND kind = 'AUDIT') AS has_begun
          FROM backfill_jobs j
         WHERE tenant_id = $1 AND marketplace = $2 AND {_UNDER_AUDIT}
           AND NOT EXISTS (SELECT FROM backfill_jobs o WHERE (o.tenant_id, o.marketplace) = ($1, $2)
                              AND o.state IN ('REQUESTED', 'RUNNING', 'WAITING'))
         ORDER BY finished_at DESC LIMIT 1
        """,  # noqa: S608 - a constant
        tenant_id,
        AMAZON,
    )
    return Audit(**row) if row else None


async def count_found(conn: Conn, job_id: UUID, window_id: UUID, missing: int) -> None:
    await conn.execute("UPDATE backfill_windows SET orders = orders + $2 WHERE id = $1", window_id, missing)
    await conn.execute("UPDATE backfill_jobs SET missing = missing + $2 WHERE id = $1", job_id, missing)


async def count_checked(conn: Conn, job_id: UUID, days: int, unlisted: int) -> None:
    await conn.execute(
        "UPDATE backfill_jobs SET days_checked = days_checked + $2, unlisted = unlisted + $3 WHERE id = $1",
        job_id,
        days,
        unlisted,
    )


async def end_audit(conn: Conn, job_id: UUID) -> None:
    await conn.execute("UPDATE backfill_jobs SET audited_at = clock_timestamp() WHERE id = $1", job_id)


async def count_unlisted(
    pool: Pool, tenant_id: str, start: datetime, end: datetime, external_order_ids: Sequence[str]
) -> int:
    """How many orders of these dates are stored that the list does not name; those of messages alone have no date."""
    count: int = await pool.fetchval(
        "SELECT count(*) FROM orders o WHERE tenant_id = $1 AND marketplace = $2 AND detail <> 'PLACEHOLDER'"
        " AND order_date >= $3 AND order_date < $4"
        " AND NOT EXISTS (SELECT FROM unnest($5::text[]) AS t (id) WHERE t.id = o.external_order_id)",
        tenant_id,
        AMAZON,
        start,
        end,
        external_order_ids,
    )
    return count
