"""Bringing our copy of the tenants in line with the product's: one for an event or a request, all of them in bulk."""

import contextlib
from collections.abc import AsyncIterator, Sequence

from msgspec import Struct
from prometheus_client import Counter, Gauge

from shared.db import LOST, Conn, Pool
from shared.outbox import Outbox
from shared.telemetry import log

from . import product, queries
from .domain import (
    KNOWN_PLANS,
    KNOWN_STATUSES,
    Change,
    Counts,
    ProductTenant,
    Run,
    SyncRunningError,
    Tenant,
    new_email,
)
from .settings import TenantSyncSettings

PAGE = 20_000
LISTED = 1_000
"""Ids of each kind that an answer names; the counts are always whole."""
VANISHED_AT_MOST = 0.2
VANISHED_FREE = 10
"""More tenants gone from the product than this many and this share of ours look like a wrong database, not like
deletions: they are reported and not archived.
"""

DRIFT = Gauge("tenants_drift", "Tenants that the last bulk sync found different from the product", ["kind"])
UNKNOWN = Counter("tenants_unknown_values_total", "Plans and statuses of the product that we do not know", ["field"])


class Results(Struct):
    """The ids of a bulk sync by what happened to them, up to a bound."""

    created: list[str]
    updated: list[str]
    skipped: list[str]
    errors: list[str]

    def add(
        self, *, created: Sequence[str], updated: Sequence[str], skipped: Sequence[str], errors: Sequence[str]
    ) -> None:
        self.created += created[: LISTED - len(self.created)]
        self.updated += updated[: LISTED - len(self.updated)]
        self.skipped += skipped[: LISTED - len(self.skipped)]
        self.errors += errors[: LISTED - len(self.errors)]


class Outcome(Struct):
    """What a bulk sync did, or would do."""

    results: Results
    counts: Counts


class _DryRunError(Exception):
    """Ends a transaction that only looked at what it would do."""


@contextlib.asynccontextmanager
async def transaction(conn: Conn, *, dry: bool) -> AsyncIterator[None]:
    """A transaction that leaves nothing behind when it is a dry one."""
    with contextlib.suppress(_DryRunError):
        async with conn.transaction():
            yield
            if dry:
                raise _DryRunError


async def sync_one(
    conn: Conn, outbox: Outbox, tenant: ProductTenant, settings: TenantSyncSettings, *, countries: Sequence[str]
) -> Tenant:
    """Copy the tenant, give it its addresses for the countries and for its connection's, and announce what is new."""
    change = await queries.upsert_tenant(conn, tenant)
    await queries.lock_tenants(conn, [tenant.id])
    if change is not Change.SKIPPED:
        _report_unknown([(tenant.id, tenant.our_plan, tenant.our_status)])
        await queries.settle_addresses(conn, [tenant.id])
    if await give_addresses(conn, settings, [tenant.id], countries) or change is not Change.SKIPPED:
        await queries.announce(conn, [tenant.id])
        outbox.wake()
        log.info("tenant_synced", tenant_id=tenant.id, change=change)
    ours = await queries.get_tenant(conn, tenant.id)
    if ours is None:
        raise RuntimeError(f"the tenant {tenant.id} is gone within its own transaction")
    return ours


async def archive_one(conn: Conn, outbox: Outbox, tenant_id: str) -> None:
    """The product has deleted a tenant that we know."""
    await _archive(conn, [tenant_id])
    outbox.wake()


async def give_addresses(
    conn: Conn, settings: TenantSyncSettings, tenant_ids: Sequence[str], countries: Sequence[str]
) -> set[str]:
    """Make the addresses that tenants lack, whose rows are locked; who got one."""
    missing = await queries.list_missing_addresses(conn, countries, tenant_ids)
    await queries.insert_addresses(
        conn,
        [
            (tenant_id, country, new_email(tenant_id, country, settings.inbound_domain))
            for tenant_id, country in missing
        ],
    )
    return {tenant_id for tenant_id, _ in missing}


async def sync_all(
    product_pool: Pool, pool: Pool, outbox: Outbox, settings: TenantSyncSettings, *, dry: bool = False
) -> Outcome:
    """Every tenant, page by page: each page is one transaction with the note of how far the run is, so that a run
    that was killed goes on where it was. One run at a time: SyncRunningError.
    """
    async with pool.acquire() as conn:
        if not await queries.try_lock_runs(conn):
            raise SyncRunningError(
                "A sync of all tenants runs already: GET /api/v1/tenants/sync-all says how far it is."
            )
        bulk = _Bulk(conn, product_pool, outbox, settings, dry=dry)
        try:
            await queries.make_stage(conn)
            await bulk.run()
        finally:
            await _unlock(conn)
    return Outcome(bulk.results, bulk.counts)


async def _unlock(conn: Conn) -> None:
    """A connection that cannot give the lock back is ended, and the lock with it: in the pool it would keep it."""
    unlocked = False
    try:
        with contextlib.suppress(*LOST):
            unlocked = await queries.unlock_runs(conn)
    finally:
        if not unlocked:
            conn.terminate()


class _Bulk:
    """One run over all tenants, on one connection, which holds the lock."""

    def __init__(
        self, conn: Conn, product_pool: Pool, outbox: Outbox, settings: TenantSyncSettings, *, dry: bool
    ) -> None:
        self.conn = conn
        self.product = product_pool
        self.outbox = outbox
        self.settings = settings
        self.dry = dry
        self.results = Results([], [], [], [])
        self.counts = Counts()
        self.note: Run | None = None

    async def run(self) -> None:
        after = await self._begin()
        async for page in product.pages(self.product, after, PAGE):
            async with transaction(self.conn, dry=self.dry):
                await self._merge(await queries.stage_page(self.conn, page.content))
                after = page.last
                await self._advance(after)
            self.outbox.wake()
            log.info("tenants_syncing", after=after, dry=self.dry, **_fields(self.counts))
        vanished = await self._archive_deleted(after)
        if not await queries.has_completed_with(self.conn, self.settings.countries):
            await self._complete_addresses(after)
        # Counted last: a run that goes on from here after a kill finds them again.
        self.counts.errors += len(vanished)
        self.results.add(created=[], updated=[], skipped=[], errors=vanished)
        async with transaction(self.conn, dry=self.dry):
            await self._advance(after, finished=True)
        if not self.dry:
            DRIFT.labels("missing").set(self.counts.created)
            DRIFT.labels("different").set(self.counts.updated - self.counts.archived)
            DRIFT.labels("deleted").set(self.counts.archived)
        log.info("tenants_synced", dry=self.dry, **_fields(self.counts))

    async def _begin(self) -> str:
        """Where to begin: behind what an unfinished run did, which died, or we would not have the lock."""
        if self.dry:
            return ""
        last = await queries.get_run(self.conn)
        self.note = (
            last if last and last.state == "RUNNING" else await queries.insert_run(self.conn, self.settings.countries)
        )
        self.counts = Counts(
            self.note.created, self.note.updated, self.note.archived, self.note.skipped, self.note.errors
        )
        return self.note.after_id

    async def _advance(self, after: str, *, finished: bool = False) -> None:
        if self.note is not None:
            await queries.advance_run(self.conn, self.note.id, after, self.counts, finished=finished)

    async def _merge(self, staged: queries.Staged) -> None:
        unfit = await queries.drop_unfit(self.conn)
        changed = await queries.merge_page(self.conn, staged)
        ids = [tenant_id for tenant_id, _, _, _ in changed]
        if ids:
            _report_unknown([(tenant_id, plan, status) for tenant_id, _, plan, status in changed])
            updated = [tenant_id for tenant_id, created, _, _ in changed if not created]
            if updated:
                await queries.settle_addresses(self.conn, updated)
            await give_addresses(self.conn, self.settings, ids, self.settings.countries)
            await queries.announce(self.conn, ids)
        if unfit:
            log.error("tenants_unfit", ids=unfit[:LISTED], reason="not an id that an address can be made of")
        skipped_count = staged.tenants - len(ids) - len(unfit)
        room = LISTED - len(self.results.skipped)
        skipped = await queries.list_page(self.conn, without=ids, limit=room) if room and skipped_count else []
        created_count = sum(created for _, created, _, _ in changed)
        self.counts.created += created_count
        self.counts.updated += len(ids) - created_count
        self.counts.errors += len(unfit)
        self.counts.skipped += skipped_count
        self.results.add(
            created=[tenant_id for tenant_id, created, _, _ in changed if created],
            updated=[tenant_id for tenant_id, created, _, _ in changed if not created],
            skipped=skipped,
            errors=unfit,
        )

    async def _archive_deleted(self, after: str) -> list[str]:
        """What we have and the product has not; those of it that are too many to be believed. Equal numbers tell that
        there is nothing to look for: every tenant of the product is in ours by now, but for the unfit ones.
        """
        if not self.dry and await queries.count_live(self.conn) == await product.count(self.product) - (
            self.counts.errors
        ):
            return []
        gone = [
            tenant_id
            async for page in self._live_pages()
            for tenant_id in await product.list_absent(self.product, page)
        ]
        # Of those that we had before this run: what a wrong database has created must not make them look few.
        had = self.counts.updated + self.counts.skipped + len(gone)
        if len(gone) > max(VANISHED_FREE, had * VANISHED_AT_MOST):
            log.error("too_many_tenants_vanished", vanished=len(gone), of=had, reason="is this the product's database?")
            return gone
        for start in range(0, len(gone), PAGE):
            async with transaction(self.conn, dry=self.dry):
                archived = await _archive(self.conn, gone[start : start + PAGE])
                self.counts.updated += len(archived)
                self.counts.archived += len(archived)
                await self._advance(after)
            self.results.add(created=[], updated=archived, skipped=[], errors=[])
            self.outbox.wake()
        return []

    async def _live_pages(self) -> AsyncIterator[list[str]]:
        """Read before the product is asked: what it has in between it had when we copied it."""
        after = ""
        while page := await queries.list_live(self.conn, after, PAGE):
            after = page[-1]
            yield page

    async def _complete_addresses(self, after: str) -> None:
        """For a country that was added to the settings."""
        while ids := await queries.list_without_address(self.conn, self.settings.countries, PAGE):
            async with transaction(self.conn, dry=self.dry):
                await queries.lock_tenants(self.conn, ids)
                got = await give_addresses(self.conn, self.settings, ids, self.settings.countries)
                await queries.announce(self.conn, sorted(got))
                await self._advance(after)
            self.outbox.wake()
            if self.dry:  # nothing was kept, so the same tenants would come again
                return


async def _archive(conn: Conn, tenant_ids: Sequence[str]) -> list[str]:
    archived = await queries.archive_deleted(conn, tenant_ids)
    if archived:
        await queries.settle_addresses(conn, archived)
        await queries.announce(conn, archived)
        log.info("tenants_archived", tenants=len(archived), reason="the product does not have them any more")
    return archived


def _report_unknown(tenants: Sequence[tuple[str, str, str]]) -> None:
    """A value that we do not know is kept, and somebody should hear of it."""
    for field, known, values in (
        ("plan", KNOWN_PLANS, {plan for _, plan, _ in tenants}),
        ("status", KNOWN_STATUSES, {status for _, _, status in tenants}),
    ):
        for value in values - known:
            UNKNOWN.labels(field).inc()
            log.warning("tenant_value_unknown", field=field, value=value)


def _fields(counts: Counts) -> dict[str, int]:
    return {field: getattr(counts, field) for field in counts.__struct_fields__}
