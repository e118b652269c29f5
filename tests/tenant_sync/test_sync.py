"""The bulk sync: what it does, says and leaves alone, in pages, dry, killed and beside others."""

import asyncio
import io
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import structlog.testing

from shared.db import LOST
from tenant_sync import product, queries, sync
from tenant_sync.domain import Counts, SyncRunningError
from tests.builders import connected
from tests.tenant_sync.conftest import Databases, Service

STORY = ["ecomlg-001", "kbz-001", "kbz-002", "kbz-003", "kbz-004", "tenant_test_dev"]
UNFIT = ["", " ", "-kbz", "a" * 65, "a/b", "a.b", "kbz 1", "kbz-1\n", "é", "日本"]
Change = Callable[[Databases], Awaitable[object]]


def shown(outcome: sync.Outcome) -> dict[str, Any]:
    """The outcome, its lists in one order."""
    lists = {name: sorted(getattr(outcome.results, name)) for name in outcome.results.__struct_fields__}
    return {"counts": outcome.counts, **lists}


async def equal(databases: Databases) -> bool:
    """Every fit tenant of the product is here as it is there."""
    theirs = await databases.product.fetch(
        "SELECT id, coalesce(name, '') AS name, upper(coalesce(plan, '')) AS plan,"
        " upper(coalesce(status, '')) AS status FROM tenants WHERE id ~ '^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$'"
    )
    ours = await databases.pool.fetch("SELECT id, name, plan, status FROM tenants WHERE deleted_at IS NULL")
    return {tuple(row) for row in theirs} == {tuple(row) for row in ours}


async def test_new_changed_and_equal_tenants_are_told_apart(databases: Databases, service: Service) -> None:
    for tenant_id in STORY[:4]:
        await service.created(tenant_id)
    await databases.put("kbz-001", name="Renamed")
    await databases.put("kbz-002", status="archived")
    before = len(await databases.announced())
    outcome = await service.sync_all()
    assert shown(outcome) == {
        "counts": Counts(created=2, updated=2, skipped=2),
        "created": ["kbz-004", "tenant_test_dev"],
        "updated": ["kbz-001", "kbz-002"],
        "skipped": ["ecomlg-001", "kbz-003"],
        "errors": [],
    }
    assert outcome.counts.total == 6
    assert await equal(databases)
    assert await databases.statuses("kbz-002") == {"FR": "DISABLED"}
    told = (await databases.announced())[before:]
    assert sorted(event.tenant_id for event in told) == ["kbz-001", "kbz-002", "kbz-004", "tenant_test_dev"]
    assert {event.tenant_id: [each.status for each in event.inbound_addresses] for event in told} == {
        "kbz-001": ["PENDING"],
        "kbz-002": ["DISABLED"],
        "kbz-004": ["PENDING"],
        "tenant_test_dev": ["PENDING"],
    }


async def test_what_is_equal_is_not_written_at_all(databases: Databases, service: Service) -> None:
    await databases.put("kbz-002", status="archived")
    await databases.put("kbz-003", plan="unheard-of")
    await databases.put("no/id")
    await service.sync_all()
    before = await databases.dump("touched")
    outcome = await service.sync_all()
    after = await databases.dump("touched")
    runs = [len(dumped.pop("sync_runs")) for dumped in (before, after)]
    assert after == before
    assert runs == [1, 2]
    assert outcome.counts == Counts(skipped=6, errors=1)


@pytest.mark.parametrize("page", [1, 2, 3, 7, 100])
async def test_pages_of_any_size_lose_and_double_nothing(
    databases: Databases, service: Service, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(sync, "PAGE", page)
    for tenant_id in ("Zed", "zed", "0", "_unfit", "KBZ-001", "kbz_001"):
        await databases.put(tenant_id)
    outcome = await service.sync_all()
    assert outcome.counts == Counts(created=11, errors=1)
    assert sorted(outcome.results.created) == sorted([*STORY, "Zed", "zed", "0", "KBZ-001", "kbz_001"])
    assert len(await databases.announced()) == 11
    again = await service.sync_all()
    assert again.counts == Counts(skipped=11, errors=1)
    assert sorted(again.results.skipped) == sorted(outcome.results.created)
    await databases.remove("zed", "0", "KBZ-001")
    assert (await service.sync_all()).counts == Counts(updated=3, archived=3, skipped=8, errors=1)
    assert len(await databases.announced()) == 14
    assert await equal(databases)


async def test_a_product_that_sorts_ids_in_another_way_loses_none(
    databases: Databases, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As en_US.UTF-8 does, which the servers of the tests do not have: capitals beside their small letters."""

    async def copy_page(pool: Any, after: str, limit: int) -> product.Page | None:
        rows = await pool.fetch(
            "SELECT id FROM tenants WHERE (lower(id), id) > (lower($1), $1) ORDER BY lower(id), id LIMIT $2",
            *(after, limit),
        )
        if not rows:
            return None
        page = io.BytesIO()
        await pool.copy_from_query(
            "SELECT id, name, upper(plan), upper(status), updated_at FROM tenants WHERE id = ANY ($1::text[])",
            [row["id"] for row in rows],
            output=page,
            format="binary",
        )
        return product.Page(page.getvalue(), rows[-1]["id"])

    monkeypatch.setattr(product, "_copy_page", copy_page)
    monkeypatch.setattr(sync, "PAGE", 2)
    for tenant_id in ("a1", "B1", "c1", "D1", "Zed", "a-b", "A-B"):
        await databases.put(tenant_id)
    async with asyncio.timeout(20):
        outcome = await service.sync_all()
    assert outcome.counts == Counts(created=13)
    assert len(outcome.results.created) == len(set(outcome.results.created)) == 13
    assert await equal(databases)


async def test_lists_are_bounded_and_counts_are_whole(
    databases: Databases, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "PAGE", 4)
    monkeypatch.setattr(sync, "LISTED", 5)
    many = await databases.put_many(30)
    await databases.product.executemany(
        "INSERT INTO tenants VALUES ($1, '', 'pro', 'active')", [(f"no/{number}",) for number in range(9)]
    )

    def lengths(outcome: sync.Outcome) -> list[int]:
        return [len(getattr(outcome.results, name)) for name in ("created", "updated", "skipped", "errors")]

    first = await service.sync_all()
    assert (first.counts, lengths(first)) == (Counts(created=36, errors=9), [5, 0, 0, 5])
    second = await service.sync_all()
    assert (second.counts, lengths(second)) == (Counts(skipped=36, errors=9), [0, 0, 5, 5])
    await databases.product.execute("UPDATE tenants SET plan = 'free', updated_at = clock_timestamp()")
    await databases.remove(*many[:3])
    third = await service.sync_all()
    assert (third.counts, lengths(third)) == (Counts(updated=36, archived=3, errors=9), [0, 5, 0, 5])


async def test_ids_that_are_not_fit_are_reported_and_do_not_stop_the_rest(
    databases: Databases, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "PAGE", 3)
    for tenant_id in UNFIT:
        await databases.put(tenant_id)
    with structlog.testing.capture_logs() as logs:
        outcome = await service.sync_all()
    # COPY begins behind the empty id, as behind nothing: "" alone is never seen.
    unfit = sorted(each for each in UNFIT if each)
    assert shown(outcome) == {
        "counts": Counts(created=6, errors=len(unfit)),
        "created": STORY,
        "updated": [],
        "skipped": [],
        "errors": unfit,
    }
    assert sorted(id_ for line in logs if line["event"] == "tenants_unfit" for id_ in line["ids"]) == unfit
    assert await equal(databases)


async def test_what_the_product_leaves_empty_is_kept_empty(databases: Databases, service: Service) -> None:
    await databases.product.execute(
        "ALTER TABLE tenants ALTER name DROP NOT NULL, ALTER plan DROP NOT NULL, ALTER status DROP NOT NULL"
    )
    for number, column in enumerate(("name", "plan", "status"), 1):
        await databases.product.execute(f"UPDATE tenants SET {column} = NULL WHERE id = 'kbz-00{number}'")  # noqa: S608
    assert (await service.sync_all()).counts == Counts(created=6)
    assert await equal(databases)
    before = await databases.dump("written")
    for number in (1, 2, 3):
        await service.updated(f"kbz-00{number}")
    after = await databases.dump("written")
    del before["inbox"], after["inbox"]
    assert after == before
    assert (await service.sync_all()).counts == Counts(skipped=6)


def unknown(field: str) -> float:
    value: float = sync.UNKNOWN.labels(field)._value.get()
    return value


@pytest.mark.parametrize("by", ["event", "bulk"])
async def test_an_unknown_plan_or_status_is_kept_and_reported_and_does_not_stop_the_rest(
    databases: Databases, service: Service, by: str
) -> None:
    await databases.put("kbz-001", plan="Platinum")
    await databases.put("kbz-002", status="frozen")
    before = unknown("plan"), unknown("status")
    with structlog.testing.capture_logs() as logs:
        if by == "bulk":
            assert (await service.sync_all()).counts == Counts(created=6)
        else:
            await service.created("kbz-001")
            await service.created("kbz-002")
    assert (unknown("plan"), unknown("status")) == (before[0] + 1, before[1] + 1)
    said = sorted((line["field"], line["value"]) for line in logs if line["event"] == "tenant_value_unknown")
    assert said == [("plan", "PLATINUM"), ("status", "FROZEN")]
    kept = {row["id"]: (row["plan"], row["status"]) for row in await databases.rows("tenants")}
    assert (kept["kbz-001"], kept["kbz-002"]) == (("PLATINUM", "ACTIVE"), ("PRO", "FROZEN"))
    assert await databases.statuses("kbz-002") == {"FR": "PENDING"}


async def test_a_deleted_tenant_is_archived_once_and_is_back_when_the_product_has_it_again(
    databases: Databases, service: Service
) -> None:
    await service.sync_all()
    await databases.remove("kbz-001", "kbz-002")
    outcome = await service.sync_all()
    assert outcome.counts == Counts(updated=2, archived=2, skipped=4)
    assert sorted(outcome.results.updated) == ["kbz-001", "kbz-002"]
    assert [event.status for event in await databases.announced("kbz-001")] == ["ACTIVE", "ARCHIVED"]
    assert await databases.statuses("kbz-001") == {"FR": "DISABLED"}
    assert (await service.sync_all()).counts == Counts(skipped=4)
    await databases.put("kbz-001")
    assert (await service.sync_all()).counts == Counts(updated=1, skipped=4)
    assert await databases.statuses("kbz-001") == {"FR": "PENDING"}


async def test_a_tenant_deleted_while_another_came_is_found_by_the_next_run_at_the_latest(
    databases: Databases, service: Service
) -> None:
    """The numbers of both sides are equal then."""
    await service.sync_all()
    await databases.remove("kbz-001")
    await databases.put("kbz-900")
    assert (await service.sync_all()).counts == Counts(created=1, updated=1, archived=1, skipped=5)


@pytest.mark.parametrize(
    ("ours", "vanished", "believed"),
    [(10, 10, True), (11, 11, False), (50, 10, True), (50, 11, False), (100, 20, True), (100, 21, False)],
)
async def test_too_many_vanished_tenants_look_like_a_wrong_database(
    databases: Databases, service: Service, ours: int, vanished: int, believed: bool
) -> None:
    await databases.remove(*STORY)
    many = await databases.put_many(ours)
    await service.sync_all()
    await databases.remove(*many[:vanished])
    outcome = await service.sync_all()
    if believed:
        assert outcome.counts == Counts(updated=vanished, archived=vanished, skipped=ours - vanished)
    else:
        assert outcome.counts == Counts(skipped=ours - vanished, errors=vanished)
        assert sorted(outcome.results.errors) == many[:vanished]
        run = await queries.get_run(databases.pool)
        assert run is not None
        assert (run.state, run.errors, run.archived) == ("COMPLETED", vanished, 0)
    archived = await databases.pool.fetchval("SELECT count(*) FROM tenants WHERE status = 'ARCHIVED'")
    assert archived == (vanished if believed else 0)


async def test_a_wrong_database_that_is_larger_than_ours_archives_nothing(
    databases: Databases, service: Service
) -> None:
    await databases.put_many(30)
    await service.sync_all()
    await databases.product.execute("DELETE FROM tenants")
    await databases.put_many(300, "other-")
    dry = await service.sync_all(dry=True)
    outcome = await service.sync_all()
    assert outcome.counts == dry.counts == Counts(created=300, errors=36)
    assert await databases.pool.fetchval("SELECT count(*) FROM tenants WHERE status = 'ARCHIVED'") == 0


async def test_an_empty_product_database_archives_nothing_and_a_small_one_of_ours_all(
    databases: Databases, service: Service
) -> None:
    await databases.product.execute("DELETE FROM tenants")
    assert (await service.sync_all()).counts == Counts()
    many = await databases.put_many(11)
    await service.sync_all()
    await databases.remove(*many)
    assert (await service.sync_all()).counts == Counts(errors=11)
    await databases.put(many[0])
    assert (await service.sync_all()).counts == Counts(updated=11, archived=10)


async def test_a_new_country_gives_everybody_the_address_and_announces_it(
    databases: Databases, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "PAGE", 4)
    await databases.put("kbz-001", status="archived")
    await service.hear(connected(tenant_id="kbz-002", marketplace_ids=["A1RKKUPIHCS9HS"]))
    await service.sync_all()
    emails = {row["email"] for row in await databases.rows("inbound_addresses")}
    before = len(await databases.announced())
    outcome = await service.with_countries("DE,FR").sync_all()
    assert outcome.counts == Counts(skipped=6)
    assert await databases.statuses("kbz-001") == {}
    assert set(await databases.statuses("kbz-002")) == {"DE", "ES", "FR"}
    assert set(await databases.statuses("kbz-003")) == {"DE", "FR"}
    assert emails < {row["email"] for row in await databases.rows("inbound_addresses")}
    told = (await databases.announced())[before:]
    assert sorted(event.tenant_id for event in told) == sorted(set(STORY) - {"kbz-001"})
    assert all("DE" in [each.country for each in event.inbound_addresses] for event in told)
    await service.with_countries("DE,FR").sync_all()
    assert len(await databases.announced()) == before + 5


async def nothing(_: Databases) -> None:
    pass


async def changes(databases: Databases) -> None:
    await databases.put("kbz-001", name="Renamed")
    await databases.put("kbz-002", status="archived")
    await databases.put("kbz-900")
    await databases.put("archived-before", status="archived")


async def deletions(databases: Databases) -> None:
    await databases.remove("kbz-001", "gone-and-back")
    await databases.put("kbz-003", plan="unheard-of", status="frozen")


async def unfit_ones(databases: Databases) -> None:
    for tenant_id in UNFIT:
        await databases.put(tenant_id)


async def vanished_ones(databases: Databases) -> None:
    await databases.product.execute("DELETE FROM tenants WHERE id LIKE 'many-%'")
    await databases.put_many(80, "other-")


@pytest.mark.parametrize("change", [nothing, changes, deletions, unfit_ones, vanished_ones])
@pytest.mark.parametrize("countries", ["FR", "DE,FR"])
async def test_a_dry_run_leaves_every_row_as_it_is_and_says_what_the_real_one_then_does(
    databases: Databases, service: Service, monkeypatch: pytest.MonkeyPatch, change: Change, countries: str
) -> None:
    monkeypatch.setattr(sync, "PAGE", 7)
    await databases.put_many(20)
    await service.sync_all()
    await change(databases)
    changed = service.with_countries(countries)
    before = await databases.dump("written")
    dry = await changed.sync_all(dry=True)
    assert await databases.dump("written") == before
    assert shown(dry) == shown(await changed.sync_all())


async def test_a_dry_run_into_an_empty_database_leaves_it_empty(databases: Databases, service: Service) -> None:
    dry = await service.sync_all(dry=True)
    assert all(rows == [] for rows in (await databases.dump()).values())
    assert shown(dry) == shown(await service.sync_all())


async def fails_at_page(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The product's database is lost when the page of this number is asked for, once."""
    copy, asked = product._copy_page, 0

    async def copy_page(pool: Any, after: str, limit: int) -> product.Page | None:
        nonlocal asked
        asked += 1
        if asked == number:
            raise ConnectionResetError
        return await copy(pool, after, limit)

    monkeypatch.setattr(product, "_copy_page", copy_page)


@pytest.mark.parametrize("page", [1, 2, 3, 4])
async def test_a_run_that_failed_between_pages_goes_on_where_it_was(
    databases: Databases, service: Service, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(sync, "PAGE", 3)
    for tenant_id in ("kbz-001", "kbz-004"):
        await service.created(tenant_id)
    await databases.put("kbz-004", plan="free")
    await databases.put("a/b")
    await databases.put_many(2)
    await fails_at_page(monkeypatch, page)
    with pytest.raises(ConnectionResetError):
        await service.sync_all()
    halfway = await queries.get_run(databases.pool)
    assert halfway is not None
    assert halfway.state == "RUNNING"
    outcome = await service.sync_all()
    assert outcome.counts == Counts(created=6, updated=1, skipped=1, errors=1)
    done = await queries.get_run(databases.pool)
    assert done is not None
    assert (done.id, done.state, done.created, done.updated) == (halfway.id, "COMPLETED", 6, 1)
    assert len(await databases.announced()) == 9
    assert await equal(databases)
    assert (await service.sync_all()).counts == Counts(skipped=8, errors=1)
    assert len(await databases.rows("sync_runs")) == 2


@pytest.mark.parametrize("step", ["list_absent", "archive_deleted", "list_missing_addresses"])
async def test_a_run_that_failed_behind_its_last_page_counts_nothing_twice(
    databases: Databases, service: Service, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Whole pages are the case: the last one that is asked for is empty."""
    monkeypatch.setattr(sync, "PAGE", 3)
    await databases.put("kbz-005")
    await databases.put("no/id")
    await service.sync_all()
    await databases.remove("kbz-001", "kbz-002")
    await databases.put("kbz-003", plan="free")
    await databases.put("kbz-900")
    module: Any = product if step == "list_absent" else queries
    working = getattr(module, step)
    calls = 0

    async def fail_once(*args: Any, **options: Any) -> Any:
        nonlocal calls
        if step == "list_missing_addresses" and options.get("tenant_ids") is not None:
            return await working(*args, **options)
        calls += 1
        if calls == 1:
            raise ConnectionResetError
        return await working(*args, **options)

    monkeypatch.setattr(module, step, fail_once)
    with pytest.raises(ConnectionResetError):
        await service.sync_all()
    assert (await service.sync_all()).counts == Counts(created=1, updated=3, archived=2, skipped=4, errors=1)
    assert len(await databases.announced()) == 7 + 4


async def test_vanished_tenants_are_counted_once_by_a_run_that_goes_on(
    databases: Databases, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = await databases.put_many(20)
    await service.sync_all()
    await databases.remove(*many)
    working = queries.has_completed_with
    calls = 0

    async def fail_behind(conn: Any, countries: Any) -> bool:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ConnectionResetError
        return await working(conn, countries)

    monkeypatch.setattr(queries, "has_completed_with", fail_behind)
    with pytest.raises(ConnectionResetError):
        await service.sync_all()
    outcome = await service.sync_all()
    assert outcome.counts == Counts(skipped=6, errors=20)


async def test_a_run_that_is_cancelled_in_the_middle_of_a_page_goes_on_behind_the_page_before(
    databases: Databases, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "PAGE", 2)
    async with databases.pool.acquire() as conn, conn.transaction():
        # The third page's first tenant is held by another, which does not end.
        await conn.execute(
            "INSERT INTO tenants (id, name, plan, status, product_updated_at) VALUES ('kbz-004', '', '', '', now())"
        )
        running = asyncio.create_task(service.sync_all())
        await databases.blocked()
        halfway = await queries.get_run(databases.pool)
        assert halfway is not None
        assert (halfway.after_id, halfway.created, halfway.state) == ("kbz-003", 4, "RUNNING")
        with pytest.raises(SyncRunningError):
            await service.sync_all()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await conn.execute("DELETE FROM tenants WHERE id = 'kbz-004'")
    assert (await service.sync_all()).counts == Counts(created=6)
    assert len(await databases.announced()) == 6


async def test_of_two_at_once_one_runs_and_the_other_is_refused(databases: Databases, service: Service) -> None:
    outcomes = await asyncio.gather(*(service.sync_all() for _ in range(5)), return_exceptions=True)
    ran = [outcome for outcome in outcomes if isinstance(outcome, sync.Outcome)]
    assert all(isinstance(outcome, (sync.Outcome, SyncRunningError)) for outcome in outcomes)
    assert ran[0].counts == Counts(created=6)
    assert len(await databases.announced()) == 6
    assert (await service.sync_all()).counts == Counts(skipped=6)


async def test_the_lock_is_gone_with_the_connection_that_held_it(databases: Databases, service: Service) -> None:
    async with databases.pool.acquire() as conn, conn.transaction():
        await conn.execute("LOCK TABLE tenants IN ACCESS EXCLUSIVE MODE")
        running = asyncio.create_task(service.sync_all())
        pid = await databases.blocked()
        with pytest.raises(SyncRunningError):
            await service.sync_all()
        await conn.execute("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises(LOST):
            await running
    assert (await service.sync_all()).counts == Counts(created=6)


async def test_a_lock_that_cannot_be_given_back_ends_its_connection(
    databases: Databases, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:

        async def hang(_: Any) -> bool:
            raise TimeoutError

        broken.setattr(queries, "unlock_runs", hang)
        await service.sync_all()
    held = (
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    async with asyncio.timeout(60):
        while await databases.pool.fetchval(held):  # noqa: ASYNC110 - the database knows
            await asyncio.sleep(0.01)
    assert (await service.sync_all()).counts == Counts(skipped=6)


async def test_changes_that_an_event_brings_during_a_run_are_not_overwritten(
    databases: Databases, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    await service.sync_all()
    await databases.put("kbz-001", plan="free")
    copy = product._copy_page

    async def copy_then_change(pool: Any, after: str, limit: int) -> product.Page | None:
        page = await copy(pool, after, limit)
        await databases.put("kbz-001", plan="business")
        await service.updated("kbz-001")
        return page

    monkeypatch.setattr(product, "_copy_page", copy_then_change)
    assert (await service.sync_all()).counts == Counts(skipped=6)
    assert await equal(databases)
    assert [event.plan for event in await databases.announced("kbz-001")] == ["STARTER", "BUSINESS"]


async def test_a_deleted_tenant_that_comes_back_is_like_any_other_and_can_be_deleted_again(
    databases: Databases, service: Service
) -> None:
    await service.sync_all()
    for _ in range(2):
        await databases.remove("kbz-001")
        assert (await service.sync_all()).counts == Counts(updated=1, archived=1, skipped=5)
        await databases.put("kbz-001", name="Back")
        assert (await service.sync_all()).counts == Counts(updated=1, skipped=5)
        assert (await service.sync_all()).counts == Counts(skipped=6)
        assert await equal(databases)


async def test_two_who_ask_for_one_address_at_the_same_time_get_the_same(
    databases: Databases, service: Service
) -> None:
    """Nothing of the tenant itself changes, so only the lock on its row keeps the second from making one too."""
    tenant = await product.get_tenant(databases.product_pool, "kbz-001")
    assert tenant is not None
    ask = partial(sync.sync_one, outbox=service.outbox, tenant=tenant, settings=service.settings)
    async with databases.pool.acquire() as conn, conn.transaction():
        await ask(conn, countries=[])
    waits = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND usename = current_user AND wait_event_type = 'Lock'"
    )

    async def second() -> None:
        async with databases.pool.acquire() as conn, conn.transaction():
            await ask(conn, countries=["DE"])

    async with databases.pool.acquire() as conn, conn.transaction():
        await ask(conn, countries=["DE"])
        other = asyncio.create_task(second())
        async with asyncio.timeout(60):
            while not await databases.pool.fetchval(waits):  # noqa: ASYNC110 - the database knows
                await asyncio.sleep(0.01)
    await other
    assert await databases.statuses("kbz-001") == {"DE": "PENDING"}
    assert len(await databases.announced("kbz-001")) == 2
