"""Ten thousand tenants every five minutes, for ten minutes or as many seconds as are asked for: two pollers, one of
which is killed at half time with leases in hand. How late polls begin, whether each slot took effect once, what the
processes take. Then what one poller carries at most, beside as many updates of one row each on as many connections.
Times of commit are PostgreSQL's own, and what took effect is what a trigger saw.
"""

import argparse
import asyncio
import os
import signal
import statistics
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import msgspec
import uvloop
from rich.console import Console
from rich.table import Table

from devstack.memory import children, rss_megabytes
from devstack.services import environment
from devstack.stack import Stack
from devstack.supervisor import spawn
from poller.polling import LEASE
from shared.db import open_pool

TENANTS = 10_000
INTERVAL_SECONDS = 300
SECONDS = 600
ROUNDS = 5
CONNECTIONS = 10
"""Of a service's pool."""
RESULT = Path(__file__).parent / "results" / "schedules.json"
TICK = os.sysconf("SC_CLK_TCK")

SEEN = """
CREATE TABLE poller.seen (what text, replica text, tenant_id text, slot timestamptz, token bigint);
CREATE UNIQUE INDEX ON poller.seen (tenant_id, token, what);
CREATE FUNCTION poller.see() RETURNS trigger SECURITY DEFINER LANGUAGE plpgsql AS $$
BEGIN
    IF new.last_success_at IS DISTINCT FROM old.last_success_at THEN
        INSERT INTO poller.seen VALUES ('effect', session_user, old.tenant_id, old.next_due, new.lease_token);
    ELSIF new.lease_token > old.lease_token THEN
        INSERT INTO poller.seen VALUES ('claim', session_user, old.tenant_id, old.next_due, new.lease_token);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER see AFTER UPDATE ON poller.poll_schedules FOR EACH ROW EXECUTE FUNCTION poller.see();
"""
HELD = """
SELECT tenant_id, next_due AS slot FROM poller.poll_schedules s JOIN poller.seen c USING (tenant_id)
 WHERE s.leased_until > now() AND c.token = s.lease_token AND c.what = 'claim' AND c.replica = $1
"""
SLOTS = """
SELECT count(wanted.slot) AS wanted, count(*) FILTER (WHERE times = 1 AND wanted.slot IS NOT NULL) AS once,
       count(*) FILTER (WHERE times IS NULL) AS never, count(*) FILTER (WHERE times > 1) AS twice,
       count(*) FILTER (WHERE wanted.slot IS NULL) AS unwanted
  FROM (SELECT tenant_id, generate_series(poller.next_slot(tenant_id, interval_seconds, $1), $2,
                                          make_interval(secs => interval_seconds)) AS slot
          FROM poller.poll_schedules) wanted
  FULL JOIN (SELECT tenant_id, slot, count(*) AS times FROM poller.seen WHERE what = 'effect' AND slot <= $2
              GROUP BY tenant_id, slot) effects USING (tenant_id, slot)
"""
LATE = """
SELECT tenant_id, c.slot, extract(epoch FROM pg_xact_commit_timestamp(c.xmin) - c.slot)::float8 AS begun,
       extract(epoch FROM pg_xact_commit_timestamp(e.xmin) - c.slot)::float8 AS done
  FROM poller.seen c JOIN poller.seen e USING (tenant_id, token)
 WHERE c.what = 'claim' AND e.what = 'effect' AND c.slot <= $1
"""


class Replica:
    """A poller in a process and with a role of its own, so that its transactions can be told from the other's."""

    def __init__(self, stack: Stack, role: str) -> None:
        self.role = role
        self._stack = stack
        self._log = stack.logs / f"{role}.log"

    async def start(self) -> None:
        dsn = urlsplit(self._stack.endpoints.postgres.dsns["poller"])
        host = dsn.netloc.rpartition("@")[2]
        variables = {
            "DATABASE_URL": urlunsplit(dsn._replace(netloc=f"{self.role}:bench@{host}")),
            "PORT": "0",
        }
        begun = self._log.stat().st_size if self._log.exists() else 0
        self.process: Process = await spawn(
            [sys.executable, "-m", "poller.app"],
            environment("poller", self._stack.endpoints, self._stack._ports) | variables,  # noqa: SLF001 - as tests do
            log=self._log,
        )
        while b'"started"' not in self._log.read_bytes()[begun:]:  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(0.1)

    @property
    def pid(self) -> int:
        return self.process.pid

    async def end(self, how: signal.Signals) -> None:
        self.process.send_signal(how)
        await self.process.wait()


def cpu_seconds(pid: int) -> float:
    """Of a process and its children, those that have ended too."""
    own, *living = [
        [int(each) for each in Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()[11:15]]
        for each in (pid, *children(pid))
    ]
    return (sum(own) + sum(sum(each[:2]) for each in living)) / TICK


def busy_seconds() -> float:
    """Of all the machine's cores."""
    user, nice, system, _idle, _wait, irq, soft, *_ = map(int, Path("/proc/stat").read_text().split()[1:11])
    return (user + nice + system + irq + soft) / TICK


class Watch:
    """What processes take, from time to time."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids
        self._last: dict[str, float] = {}
        self.cores: dict[str, list[float]] = {}
        self.megabytes: dict[str, list[float]] = {}
        self.load: list[float] = []

    def leave(self, name: str) -> None:
        del self._pids[name]

    async def run(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        now, took = loop.time(), self._took()
        while True:
            await asyncio.sleep(seconds)
            before, took_before = now, took
            now, took = loop.time(), self._took()
            for name in took_before.keys() & took.keys():
                share = (took[name] - took_before[name]) / (now - before)
                self.cores.setdefault(name, []).append(share)
            for name, pid in self._pids.items():
                self.megabytes.setdefault(name, []).append(rss_megabytes(pid) or 0.0)
            self.load.append(os.getloadavg()[0])

    def _took(self) -> dict[str, float]:
        took = {name: cpu_seconds(pid) for name, pid in self._pids.items()}
        return took | {"everything": busy_seconds()}

    def averages(self) -> dict[str, float]:
        return {name: round(statistics.mean(shares), 3) for name, shares in sorted(self.cores.items())}

    def growth(self) -> dict[str, dict[str, float]]:
        """The median of the first quarter and of the last."""
        found = {}
        for name, each in sorted(self.megabytes.items()):
            quarter = max(1, len(each) // 4)
            found[name] = {
                "first": round(statistics.median(each[:quarter]), 1),
                "last": round(statistics.median(each[-quarter:]), 1),
            }
        return found


@asynccontextmanager
async def watching(pids: dict[str, int], seconds: float) -> AsyncIterator[Watch]:
    watch = Watch(pids)
    running = asyncio.create_task(watch.run(seconds))
    try:
        yield watch
    finally:
        running.cancel()


async def seed(admin: asyncpg.Connection, roles: Sequence[str]) -> None:
    """Connected accounts whose messages are known; none is polled yet."""
    await admin.execute(SEEN)
    for role in roles:
        await admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'bench' IN ROLE poller")
        await admin.execute(f"ALTER ROLE {role} SET search_path = poller")
    await admin.execute(
        """
        INSERT INTO poller.poll_schedules
               (tenant_id, marketplace, connection_id, connected_at, interval_seconds, disconnected_at)
        SELECT 'tenant-' || n, 'AMAZON', gen_random_uuid(), now(), $2, now() FROM generate_series(1, $1) n
        """,
        TENANTS,
        INTERVAL_SECONDS,
    )
    await admin.execute("INSERT INTO poller.tenants SELECT tenant_id, false, now() FROM poller.poll_schedules")
    await admin.execute(
        """
        INSERT INTO poller.external_messages
               (tenant_id, marketplace, external_id, source, kind, buyer, subject, body, received_at)
        SELECT tenant_id, marketplace, 'mock-00' || n, 'mock', 'BUYER_MESSAGE', 'buyer', 'subject', 'body', now()
          FROM poller.poll_schedules, generate_series(1, 3) n
        """
    )
    await admin.execute("CREATE TABLE poller.floor (id int PRIMARY KEY, n int NOT NULL)")
    await admin.execute("INSERT INTO poller.floor SELECT n, 0 FROM generate_series(1, $1) n", TENANTS)
    await admin.execute("GRANT SELECT, UPDATE ON poller.floor TO poller")
    await admin.execute("VACUUM ANALYZE")
    await admin.execute("CHECKPOINT")


async def kill_with_leases(admin: asyncpg.Connection, replica: Replica) -> list[asyncpg.Record]:
    """Killed at a moment when it has polls in hand: which those are."""
    while True:
        if await admin.fetch(HELD, replica.role):
            replica.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(0.02)  # what it has sent is done
            held: list[asyncpg.Record] = await admin.fetch(HELD, replica.role)
            if held:
                await replica.end(signal.SIGKILL)
                return held
            replica.process.send_signal(signal.SIGCONT)
        await asyncio.sleep(0.005)


async def measure_time(stack: Stack, admin: asyncpg.Connection, seconds: int) -> dict[str, Any]:
    replicas = first, second = Replica(stack, "poller_1"), Replica(stack, "poller_2")
    await asyncio.gather(*(replica.start() for replica in replicas))
    pids = {replica.role: replica.pid for replica in replicas}
    pids |= {name: stack.pid(name) for name in ("postgres", "nats")}
    begin: datetime = await admin.fetchval("SELECT now() + interval '2 seconds'")
    await admin.execute(
        "UPDATE poller.poll_schedules"
        " SET disconnected_at = NULL, next_due = poller.next_slot(tenant_id, interval_seconds, $1)",
        begin,
    )
    until = begin + timedelta(seconds=seconds)
    async with watching(pids, seconds / 60) as watch:
        await asyncio.sleep(seconds / 2)
        watch.leave(first.role)
        held = await kill_with_leases(admin, first)
        killed_at = await admin.fetchval("SELECT now()")
        print(f"{first.role} is killed with {len(held)} leases in hand")
        while await admin.fetchval("SELECT now() < $1 OR min(next_due) <= $1 FROM poller.poll_schedules", until):  # noqa: ASYNC110
            await asyncio.sleep(1)
    await second.end(signal.SIGTERM)
    slots = dict(await admin.fetchrow(SLOTS, begin, until))
    late = await admin.fetch(LATE, until)
    of_killed = {(row["tenant_id"], row["slot"]) for row in held}
    after = [row for row in late if row["slot"] > killed_at]
    taken_over = [row["begun"] for row in late if (row["tenant_id"], row["slot"]) in of_killed]
    return {
        "seconds": seconds,
        "slots": slots,
        "lateMilliseconds": percentiles([row["begun"] for row in late]),
        "lateMillisecondsOneReplica": percentiles([row["begun"] for row in after]),
        "doneMilliseconds": percentiles([row["done"] for row in late]),
        "killed": {"leases": len(held), "lateSeconds": [round(each, 2) for each in sorted(taken_over)]},
        "cores": watch.averages(),
        "megabytes": watch.growth(),
        "load": {"mean": round(statistics.mean(watch.load), 2), "most": round(max(watch.load), 2)},
    }


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    places = {"p50": len(ordered) // 2, "p99": len(ordered) * 99 // 100, "most": len(ordered) - 1}
    return {name: round(ordered[place] * 1000) for name, place in places.items()}


async def carried(admin: asyncpg.Connection) -> float:
    """Polls a second where all are due at once."""
    begin = await admin.fetchval("UPDATE poller.poll_schedules SET next_due = now() RETURNING now()")
    while await admin.fetchval("SELECT count(*) FROM poller.poll_schedules WHERE last_success_at < $1", begin):  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    took = await admin.fetchval(
        "SELECT extract(epoch FROM max(last_success_at) - $1) FROM poller.poll_schedules", begin
    )
    return TENANTS / float(took)


async def floor(dsn: str) -> None:
    """In a process of its own, as the poller is: updates of one row each, a second."""
    pool = await open_pool(dsn, "floor", size=CONNECTIONS)
    ids = iter(range(1, TENANTS + 1))

    async def update() -> None:
        for each in ids:
            await pool.execute("UPDATE poller.floor SET n = n + 1 WHERE id = $1", each)

    loop = asyncio.get_running_loop()
    await asyncio.gather(*(update() for _ in range(CONNECTIONS)))  # its connections are open and know the statement
    ids = iter(range(1, TENANTS + 1))
    begun = loop.time()
    await asyncio.gather(*(update() for _ in range(CONNECTIONS)))
    print(TENANTS / (loop.time() - begun))
    await pool.close()


async def floor_beside(dsn: str) -> float:
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--floor", dsn, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    return float(said)


async def measure_most(stack: Stack, admin: asyncpg.Connection) -> dict[str, Any]:
    await admin.execute("DROP TRIGGER see ON poller.poll_schedules")
    replica = Replica(stack, "poller_1")
    await replica.start()
    pids = {"poller": replica.pid, "postgres": stack.pid("postgres")}
    committed = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
    polls, updates, cores, commits = [], [], [], []
    for _ in range(ROUNDS):
        updates.append(await floor_beside(stack.endpoints.postgres.dsns["poller"]))
        await admin.execute("VACUUM ANALYZE poller.poll_schedules")
        await admin.execute("CHECKPOINT")
        before = await admin.fetchval(committed)
        async with watching(dict(pids), 1) as watch:
            polls.append(await carried(admin))
        cores.append(watch.averages())
        await asyncio.sleep(2)  # sessions tell what they did once a second
        commits.append((await admin.fetchval(committed) - before) / TENANTS)
        print(f"{polls[-1]:.0f} polls/s, {updates[-1]:.0f} updates/s")
    await replica.end(signal.SIGTERM)
    most, limit = statistics.median(polls), statistics.median(updates)
    return {
        "rounds": ROUNDS,
        "pollsPerSecond": round(most),
        "updatesPerSecond": round(limit),
        "ratio": round(most / limit, 2),
        "transactionsPerPoll": round(statistics.median(commits), 2),
        "cores": {name: round(statistics.median(each[name] for each in cores), 2) for name in cores[0]},
    }


async def main(seconds: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        async with Stack(Path(folder) / "state", services=()) as stack:
            superuser = stack.endpoints.postgres.dsns["admin"]
            admin = await asyncpg.connect(superuser)
            await admin.execute("ALTER SYSTEM SET track_commit_timestamp = on")
            await admin.close()
            await stack.stop("postgres")
            await stack.start("postgres")
            admin = await asyncpg.connect(superuser.rsplit("/", 1)[0] + "/keybuzz_backend")
            await seed(admin, ("poller_1", "poller_2"))
            steady = await measure_time(stack, admin, seconds)
            most = await measure_most(stack, admin)
            await admin.close()
    result: dict[str, Any] = {
        "tenants": TENANTS,
        "intervalSeconds": INTERVAL_SECONDS,
        "leaseSeconds": LEASE.total_seconds(),
    }
    result |= {"steady": steady, "most": most}
    show(steady, most)
    RESULT.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    slots = steady["slots"]
    return int(slots["once"] != slots["wanted"] or slots["twice"] > 0 or slots["unwanted"] > 0)


def show(steady: dict[str, Any], most: dict[str, Any]) -> None:
    table = Table("", "", title=f"{TENANTS} tenants every {INTERVAL_SECONDS} s, {steady['seconds']} s long")
    slots, killed = steady["slots"], steady["killed"]
    table.add_row("slots", ", ".join(f"{name} {count}" for name, count in slots.items()))
    for name, key in (
        ("begun after its slot", "lateMilliseconds"),
        ("… with one replica left", "lateMillisecondsOneReplica"),
        ("done after its slot", "doneMilliseconds"),
    ):
        table.add_row(name, ", ".join(f"{place} {each} ms" for place, each in steady[key].items()))
    table.add_row(
        f"{killed['leases']} slots of the killed one", ", ".join(f"{each} s" for each in killed["lateSeconds"])
    )
    table.add_row("cores", ", ".join(f"{name} {each}" for name, each in steady["cores"].items()))
    table.add_row(
        "MB", ", ".join(f"{name} {each['first']} to {each['last']}" for name, each in steady["megabytes"].items())
    )
    table.add_row("load of the machine", f"mean {steady['load']['mean']}, most {steady['load']['most']}")
    table.add_row(
        "most of one replica", f"{most['pollsPerSecond']} polls/s, {most['transactionsPerPoll']} transactions each"
    )
    table.add_row("updates of one row", f"{most['updatesPerSecond']}/s, ratio {most['ratio']}")
    table.add_row("cores at most", ", ".join(f"{name} {each}" for name, each in most["cores"].items()))
    Console(width=120).print(table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--floor"]:
        uvloop.run(floor(sys.argv[2]))
    else:
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("seconds", nargs="?", type=int, default=SECONDS)
        sys.exit(asyncio.run(main(parser.parse_args().seconds)))
