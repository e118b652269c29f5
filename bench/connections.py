"""How many accounts oauth connects in a second (start, and then the callback), and how many status reads it answers,
each with its look into Vault; beside the same handlers with neither Vault nor database nor Amazon, in a process of
their own: all that HTTP, Litestar and our own code cost. Then where the time goes: how many calls each request makes,
and what such a call costs alone.

Amazon is a bare server here (AMAZON_LWA_URL and AMAZON_SPAPI_URL lead to it), which answers at once and writes nothing:
the sandbox would be a part of the figure. Each seller comes from an address of its own, as sellers do.

ARGS=--short takes half a minute and keeps no result.
"""

import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from devstack.endpoints import HOST
from devstack.stack import Stack
from oauth.settings import OauthSettings
from of_connections.calls import CALLS, Bare, count_calls
from of_connections.client import connect_and_read, drive, token_requests
from of_connections.limit import process
from shared.amazon.credentials import AppCredentials
from shared.amazon.spapi import SpApi
from shared.service import run
from shared.settings import load
from shared.telemetry import configure_logging

WIDTH = 110
AT_ONCE = 16
ROUNDS, CONNECTIONS, READS, ALONE = 7, 200, 800, 30
SHORT_ROUNDS, SHORT_CONNECTIONS, SHORT_READS, SHORT_ALONE = 2, 40, 100, 10
RESULT = Path(__file__).parent / "results" / "connections.json"
WHAT = {"start": "start", "callback": "callback", "connection": "both", "status": "status read"}


class Figures(Struct):
    """A figure of each round, by its name."""

    rounds: dict[str, list[float]] = msgspec.field(default_factory=dict)

    def note(self, name: str, figure: float) -> None:
        self.rounds.setdefault(name, []).append(figure)

    def median(self, name: str) -> float:
        return statistics.median(self.rounds[name])

    def spread(self, name: str) -> float:
        """From the least to the most, as a part of the median."""
        return (max(self.rounds[name]) - min(self.rounds[name])) / self.median(name)


def percentile(milliseconds: Sequence[float], part: int) -> float:
    return sorted(milliseconds)[len(milliseconds) * part // 100]


@contextmanager
def stopwatch(text: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"{text}: {time.monotonic() - began:.0f} s")


class Bench:
    """Everything that runs, and what was measured of it."""

    def __init__(self, stack: Stack, bare: Bare, ports: dict[str, int], *, short: bool) -> None:
        self.endpoints, self.bare, self.ports, self.short = stack.endpoints, bare, ports, short
        self.figures = Figures()
        self.latencies: dict[str, list[float]] = {}

    async def run(self, admin: asyncpg.Connection, credentials: AppCredentials) -> None:
        connections = SHORT_CONNECTIONS if self.short else CONNECTIONS
        reads = SHORT_READS if self.short else READS
        alone = SHORT_ALONE if self.short else ALONE
        rounds = SHORT_ROUNDS if self.short else ROUNDS
        for name in ("ours", "limit"):
            await self._one_way(name, AT_ONCE, AT_ONCE, alone=1)  # warms every connection and cache
        self.figures, self.latencies = Figures(), {}
        for number in range(rounds):
            with stopwatch(f"round {number + 1} of {rounds}"):
                ways = ("ours", "limit") if number % 2 else ("limit", "ours")
                for name in ways:
                    await self._settle(admin)
                    await self._one_way(name, connections, reads, alone)
                await self._bare_calls(alone * 5, credentials)

    async def _settle(self, admin: asyncpg.Connection) -> None:
        """What is left over of one measurement must not cost the next one, nor the reconciler's look at each
        connection a minute after its callback.
        """
        await admin.execute(
            "UPDATE oauth.marketplace_connections SET next_check_at = clock_timestamp() + interval '1 day'"
        )
        await admin.execute("CHECKPOINT")

    async def _one_way(self, name: str, connections: int, reads: int, alone: int) -> None:
        port, secret = self.ports[name], self.endpoints.tokens.jwt_secret
        together = await connect_and_read(port, secret, connections, reads, AT_ONCE)
        one_by_one = await connect_and_read(port, secret, alone, alone, 1)
        for what, driven in together.items():
            self.figures.note(f"{name} {what}", driven.rate)
            self.latencies.setdefault(f"{name} {what}", []).extend(driven.milliseconds)
            self.figures.note(f"{name} {what} alone", percentile(one_by_one[what].milliseconds, 50))
        self.figures.note(
            f"{name} connection", connections / (together["start"].seconds + together["callback"].seconds)
        )
        waited = [
            sum(pair) for pair in zip(*(together[each].milliseconds for each in ("start", "callback")), strict=True)
        ]
        self.latencies.setdefault(f"{name} connection", []).extend(waited)
        both = sum(percentile(one_by_one[each].milliseconds, 50) for each in ("start", "callback"))
        self.figures.note(f"{name} connection alone", both)

    async def _bare_calls(self, times: int, credentials: AppCredentials) -> None:
        for name, milliseconds in (await self.bare.milliseconds(times)).items():
            self.figures.note(name, milliseconds)
        self.figures.note("Vault reads a second", await self.bare.reads_per_second(times * 4, AT_ONCE))
        form = {"grant_type": "client_credentials", "scope": "sellingpartnerapi::notifications"}
        form |= {"client_id": credentials.client_id, "client_secret": credentials.client_secret}
        for name in ("bare Amazon", "sandbox"):
            driven = await drive(self.ports[name], token_requests(times * 4, form), AT_ONCE)
            self.figures.note(f"tokens a second of {name}", driven.rate)

    def show(self, counted: dict[str, Counter[str]]) -> dict[str, Any]:
        """Print the tables; the same as a result."""
        figures, rates = self.figures, {}
        title = f"oauth, {AT_ONCE} requests at once, medians of {len(figures.rounds['ours start'])} rounds"
        table = Table("", "ours", "limit", "ours / limit", "spread of ours", "p50", "p99", "p50 alone", title=title)
        for what, words in WHAT.items():
            ours, floor = figures.median(f"ours {what}"), figures.median(f"limit {what}")
            waited = self.latencies[f"ours {what}"]
            rates[what] = {
                "perSecond": round(ours, 1),
                "limitPerSecond": round(floor, 1),
                "ratio": round(ours / floor, 3),
                "spread": round(figures.spread(f"ours {what}"), 2),
                "limitSpread": round(figures.spread(f"limit {what}"), 2),
                "p50Milliseconds": round(percentile(waited, 50), 2),
                "p99Milliseconds": round(percentile(waited, 99), 2),
                "p50AloneMilliseconds": round(figures.median(f"ours {what} alone"), 2),
                "limitP50AloneMilliseconds": round(figures.median(f"limit {what} alone"), 2),
            }
            table.add_row(
                *(words, f"{ours:,.0f}/s", f"{floor:,.0f}/s", f"{ours / floor:.2f}"),
                *(
                    f"{rates[what]['spread']:.0%}",
                    f"{percentile(waited, 50):.1f} ms",
                    f"{percentile(waited, 99):.1f} ms",
                ),
                f"{rates[what]['p50AloneMilliseconds']:.1f} ms",
            )
        Console(width=WIDTH).print(table)
        return {"rates": rates, "timeOfOneAlone": self._show_time(counted), "others": self._show_others()}

    def _show_time(self, counted: dict[str, Counter[str]]) -> dict[str, Any]:
        costs = {name: self.figures.median(name) for name in CALLS}
        costs["PostgreSQL commit"] -= costs["PostgreSQL statement"]  # the statement itself is counted as one
        title = "where the time of one alone goes: calls x what such a call costs bare"
        table = Table("", "bare", *(words for what, words in WHAT.items() if what != "connection"), title=title)
        times: dict[str, Any] = {what: {"calls": dict(calls)} for what, calls in counted.items()}
        for name in CALLS:
            spent = {what: calls[name] * costs[name] for what, calls in counted.items()}
            cells = (
                f"{calls[name]} x = {spent[what]:.1f} ms" if calls[name] else "" for what, calls in counted.items()
            )
            table.add_row(name, f"{costs[name]:.2f} ms", *cells)
            for what in counted:
                times[what].setdefault("milliseconds", {})[name] = round(spent[what], 2)
        for what in counted:
            times[what]["milliseconds"]["handlers"] = round(self.figures.median(f"limit {what} alone"), 2)
        table.add_row(
            "HTTP and handlers", "", *(f"{each['milliseconds']['handlers']:.1f} ms" for each in times.values())
        )
        together = (sum(each["milliseconds"].values()) for each in times.values())
        measured = (self.figures.median(f"ours {what} alone") for what in counted)
        table.add_row(
            "together, and measured", "", *(f"{a:.1f}, {b:.1f} ms" for a, b in zip(together, measured, strict=True))
        )
        Console(width=WIDTH).print(table)
        return {"bareMilliseconds": {name: round(cost, 3) for name, cost in costs.items()}, **times}

    def _show_others(self) -> dict[str, float]:
        names = ("Vault reads a second", "tokens a second of bare Amazon", "tokens a second of sandbox")
        for name in names:
            print(f"{name}, {AT_ONCE} at once: {self.figures.median(name):,.0f}")
        return {name: round(self.figures.median(name), 1) for name in names}


async def main() -> None:
    short = "--short" in sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        async with process("amazon") as amazon_port, httpx.AsyncClient(trust_env=False) as http:
            url = f"http://{HOST}:{amazon_port}"
            changed = {"AMAZON_LWA_URL": url, "AMAZON_SPAPI_URL": url, "LOG_LEVEL": "WARNING"}
            async with (
                Stack(Path(folder) / "state", services=("oauth",), settings=changed) as stack,
                process("limit", JWT_SECRET=stack.endpoints.tokens.jwt_secret) as limit_port,
            ):
                result = await measure(
                    stack, changed, {"limit": limit_port, "bare Amazon": amazon_port}, http, short=short
                )
    if not short:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")


async def measure(
    stack: Stack, changed: dict[str, str], ports: dict[str, int], http: httpx.AsyncClient, *, short: bool
) -> dict[str, Any]:
    endpoints = stack.endpoints
    role = endpoints.vault.roles["oauth"]
    variables = {
        "DATABASE_URL": endpoints.postgres.dsns["oauth"],
        "NATS_URL": endpoints.nats.users["oauth"].url,
        "KEYBUZZ_INTERNAL_KEY": endpoints.tokens.internal_key,
        "JWT_SECRET": endpoints.tokens.jwt_secret,
        "VAULT_ADDR": endpoints.vault.addr,
        "VAULT_CACERT": endpoints.vault.cacert,
        "VAULT_ROLE_ID": role.role_id,
        "VAULT_SECRET_ID": role.secret_id,
    }
    settings = load(OauthSettings, variables | changed)
    bare = Bare(settings, endpoints, http, ports["bare Amazon"])
    await bare.open()
    admin = await asyncpg.connect(endpoints.postgres.dsns["admin"].rsplit("/", 1)[0] + "/keybuzz_backend")
    at = {
        name: urlsplit(url).port or 0
        for name, url in (("ours", endpoints.services["oauth"]), ("sandbox", endpoints.amazon.url))
    }
    bench = Bench(stack, bare, ports | at, short=short)
    credentials = await SpApi(settings, bare.vault, http, gate=None).app()
    counted = await count_calls(settings, endpoints)
    await bench.run(admin, credentials)
    await admin.close()
    await bare.close()
    shown = bench.show(counted)
    return {"rounds": ROUNDS, "atOnce": AT_ONCE, "connections": CONNECTIONS, "reads": READS} | shown


if __name__ == "__main__":
    configure_logging("bench", "WARNING")
    run(main)
