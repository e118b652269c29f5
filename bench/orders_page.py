"""How many pages of 50 orders the service answers in a second, of a seller with a million among many small ones; beside
a bare ASGI application that makes the same rows into the same JSON, with neither credentials nor validation nor entity
tags, on the same uvicorn and the same server. Then what the deepest page, a filtered one and one that the caller has
already cost beside the first.

ARGS=--short takes a minute, with fewer orders, and keeps no result.
"""

import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import asyncpg
import httpx
import jwt
import msgspec
from rich.console import Console
from rich.table import Table

from devstack.endpoints import HOST
from devstack.many_orders import BIG, fill
from devstack.stack import Stack
from of_connections.client import drive
from of_connections.limit import serve
from orders.domain import Search, StoredOrder
from orders.search_queries import select_orders
from shared.cursor import encode_cursor
from shared.db import open_pool
from shared.service import run
from shared.telemetry import configure_logging

PAGE = 50
AT_ONCE = 8
ROUNDS, REQUESTS, ALONE, ORDERS = 41, 160, 60, 1_000_000
SHORT_ROUNDS, SHORT_REQUESTS, SHORT_ALONE, SHORT_ORDERS = 5, 80, 30, 100_000
"""Short rounds and many: what else the machine does in them is the same for all."""
RAW = "raw ASGI"
PAGES = ("first", "deepest", "filtered", "search", "unchanged")
RESULT = Path(__file__).parent / "results" / "orders_page.json"


async def raw() -> None:
    """The limit, in a process of its own: whatever is asked, the first page."""
    pool = await open_pool(os.environ["DATABASE_URL"], "raw")
    encoder = msgspec.json.Encoder(decimal_format="number")
    statement, arguments = select_orders(BIG, Search(), limit=PAGE + 1)

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        orders = [StoredOrder(*row) for row in await pool.fetch(statement, *arguments)]
        cursor = encode_cursor(orders[PAGE - 1].order_date, orders[PAGE - 1].id, asked=Search())
        body = encoder.encode({"orders": orders[:PAGE], "nextCursor": cursor})
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    await serve(app)


@asynccontextmanager
async def serving_raw(dsn: str) -> AsyncIterator[tuple[int, int]]:
    """Its port and its process."""
    running = await asyncio.create_subprocess_exec(
        sys.executable, __file__, RAW, env={**os.environ, "DATABASE_URL": dsn}, stdout=asyncio.subprocess.PIPE
    )
    assert running.stdout is not None  # noqa: S101 - it was asked for
    try:
        yield int(await running.stdout.readline()), running.pid
    finally:
        running.terminate()
        await running.wait()


def request(token: str, query: dict[str, Any], tag: str = "") -> bytes:
    lines = [f"GET /api/v1/orders?{urlencode(query)} HTTP/1.1", f"Host: {HOST}", f"Authorization: Bearer {token}"]
    return "\r\n".join([*lines, *([f"If-None-Match: {tag}"] if tag else []), "", ""]).encode()


def cpu_seconds(pids: Sequence[int]) -> float:
    """What the processes have used of the processor; other load of the machine does not count."""
    stats = (Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split() for pid in pids)
    return sum(int(fields[11]) + int(fields[12]) for fields in stats) / os.sysconf("SC_CLK_TCK")


async def with_backends(conn: asyncpg.Connection, pid: int, name: str) -> list[int]:
    """A service's process, and PostgreSQL's that work for it."""
    rows = await conn.fetch("SELECT pid FROM pg_stat_activity WHERE application_name = $1", name)
    return [pid, *(row["pid"] for row in rows)]


async def first_tag(port: int, token: str) -> str:
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"http://{HOST}:{port}/api/v1/orders", headers={"Authorization": f"Bearer {token}"})
    return str(answer.headers["etag"])


async def deepest_cursor(conn: asyncpg.Connection) -> str:
    row = await conn.fetchrow(
        "SELECT order_date, id FROM orders.orders WHERE tenant_id = $1 ORDER BY order_date, id OFFSET $2 LIMIT 1",
        BIG,
        PAGE,
    )
    return encode_cursor(row["order_date"], row["id"], asked=Search())


async def measure(
    conn: asyncpg.Connection, ports: dict[str, int], pids: dict[str, int], asked: dict[str, bytes], *, short: bool
) -> dict[str, Any]:
    requests, alone = (SHORT_REQUESTS, SHORT_ALONE) if short else (REQUESTS, ALONE)
    rates: dict[str, list[float]] = {page: [] for page in (RAW, *PAGES)}
    medians: dict[str, list[float]] = {page: [] for page in (RAW, *PAGES)}
    cpu: dict[str, float] = dict.fromkeys((RAW, *PAGES), 0)
    rounds = SHORT_ROUNDS if short else ROUNDS
    for number in range(-1, rounds):  # the first one warms up
        for page in random.sample(list(rates), len(rates)):
            who, one = ("raw", asked["first"]) if page == RAW else ("orders", asked[page])
            processes = await with_backends(conn, pids[who], who)
            used = cpu_seconds(processes)
            together = await drive(ports[who], [one] * requests, AT_ONCE)
            one_by_one = await drive(ports[who], [one] * alone, 1)
            if number >= 0:
                cpu[page] += cpu_seconds(processes) - used
                rates[page].append(together.rate)
                medians[page].append(statistics.median(one_by_one.milliseconds))
    return {
        page: {
            "perSecond": round(statistics.median(rates[page]), 1),
            "ofRaw": round(statistics.median(a / b for a, b in zip(rates[page], rates[RAW], strict=True)), 3),
            "spread": round((max(rates[page]) - min(rates[page])) / statistics.median(rates[page]), 2),
            "cpuMilliseconds": round(cpu[page] / rounds / (requests + alone) * 1_000, 3),
            "cpuOfRaw": round(cpu[page] / cpu[RAW], 3),
            "aloneMilliseconds": round(statistics.median(medians[page]), 3),
            "aloneOfFirst": round(
                statistics.median(a / b for a, b in zip(medians[page], medians["first"], strict=True)), 3
            ),
        }
        for page in rates
    }


async def main() -> None:
    short = "--short" in sys.argv[1:]
    count = SHORT_ORDERS if short else ORDERS
    with tempfile.TemporaryDirectory() as folder:
        async with Stack(Path(folder) / "state", services=("orders",), settings={"LOG_LEVEL": "WARNING"}) as stack:
            endpoints = stack.endpoints
            admin = await asyncpg.connect(endpoints.postgres.dsns["admin"].rsplit("/", 1)[0] + "/keybuzz_backend")
            began = time.monotonic()
            await fill(admin, count)
            print(f"{count:,} orders stored: {time.monotonic() - began:.0f} s")
            claims = {"sub": "agent", "role": "agent", "tenantId": BIG, "exp": time.time() + 7_200}
            token = jwt.encode(claims, endpoints.tokens.jwt_secret, algorithm="HS256")
            asked = {
                "first": request(token, {}),
                "deepest": request(token, {"cursor": await deepest_cursor(admin)}),
                "filtered": request(token, {"orderStatus": "SHIPPED", "slaStatus": "BREACHED"}),
                "search": request(token, {"q": "#123456"}),
            }
            async with serving_raw(endpoints.postgres.dsns["orders"]) as (port, pid):
                ports = {"raw": port, "orders": urlsplit(endpoints.services["orders"]).port or 0}
                result = await compare(
                    admin, ports, {"raw": pid, "orders": stack.pid("orders")}, asked, token, short=short
                )
    if not short:
        RESULT.write_bytes(msgspec.json.format(msgspec.json.encode(result | {"orders": count})) + b"\n")


async def compare(
    conn: asyncpg.Connection,
    ports: dict[str, int],
    pids: dict[str, int],
    asked: dict[str, bytes],
    token: str,
    *,
    short: bool,
) -> dict[str, Any]:
    """Print the table; the same as a result."""
    [ours], [theirs] = [(await drive(ports[name], [asked["first"]], 1)).bodies for name in ("orders", "raw")]
    if ours != theirs:
        raise SystemExit("The two do not answer the same.")
    pages = await measure(
        conn,
        ports,
        pids,
        asked | {"unchanged": request(token, {}, await first_tag(ports["orders"], token))},
        short=short,
    )
    title = f"pages of {PAGE} orders ({len(ours) / 1000:.0f} kB), {AT_ONCE} requests at once, medians of the rounds"
    table = Table("", "a second", "/ raw", "spread", "CPU", "/ raw", "one alone", "/ first", title=title)
    for page, figures in pages.items():
        table.add_row(
            *(page, f"{figures['perSecond']:,.0f}", f"{figures['ofRaw']:.2f}", f"{figures['spread']:.0%}"),
            *(f"{figures['cpuMilliseconds']:.2f} ms", f"{figures['cpuOfRaw']:.2f}"),
            *(f"{figures['aloneMilliseconds']:.2f} ms", f"{figures['aloneOfFirst']:.2f}"),
        )
    Console(width=100).print(table)
    return {"rounds": ROUNDS, "requests": REQUESTS, "atOnce": AT_ONCE, "bytes": len(ours), "pages": pages}


if __name__ == "__main__":
    configure_logging("bench", "WARNING")
    run(raw if RAW in sys.argv[1:] else main)
