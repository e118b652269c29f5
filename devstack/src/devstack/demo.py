"""The whole story on a new local stack, told as it happens, and whether all of it held."""

import argparse
import asyncio
import contextlib
import shutil
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from shared.topology import SERVICES

from . import endpoints, terminal
from .outside import SELLER, Outside, eventually
from .stack import Stack
from .state import write_private

KNOWN = ("kbz-001", "kbz-002", "ecomlg-001", "tenant_test_dev")
TENANT = "ecomlg-001"
ORDER = "407-8949262-6149120"
OLD_ORDER = "171-3125066-7920325"
MAIL_SEED = 1
BACKFILLED = 94
GOAL_SECONDS = 20


class SyncAll(Struct, rename="camel"):
    created: list[str]
    skipped: list[str]


class Orders(Struct, rename="camel"):
    stored: int
    items: int
    search_calls: int
    fetched_for_messages: int


class Report(Struct, rename="camel"):
    """What demo.json holds."""

    held: bool
    failed: list[str]
    sync_all: SyncAll
    connection: dict[str, Any]
    orders: Orders
    external_messages: int
    tickets: int
    ticket_messages: int
    tickets_by_mail: int
    """Beside those."""
    events_by_subject: dict[str, int]
    seconds: float
    """From nothing to the end of the story, installation apart."""
    steps_seconds: dict[str, float]
    rss_megabytes: dict[str, float | None]


class Told:
    """The steps as they happen, with their times, and what did not hold."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.began = time.monotonic()
        self.steps: dict[str, float] = {}
        self.failed: list[str] = []

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.steps[text] = round(time.monotonic() - began, 2)
        self.console.print(f"[dim]{self.seconds:6.2f} s[/]  {text}")

    def check(self, what: str, held: bool) -> None:
        if not held:
            self.failed.append(what)
            self.console.print(f"          [red]did not hold:[/] {what}")

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


def run(args: argparse.Namespace) -> int:
    """0 when all held. The state is new each time, in a folder of its own: what `make up` keeps is not touched."""
    with contextlib.suppress(asyncio.CancelledError):
        return asyncio.run(_run(args.state.absolute(), ends=args.exit))
    return 0


async def _run(folder: Path, *, ends: bool) -> int:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in a task
    for signal_ in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signal_, task.cancel)
    console = Console(highlight=False, soft_wrap=True)
    shutil.rmtree(folder / "demo", ignore_errors=True)
    told = Told(console)
    console.print(
        "The story of KeyBuzz on real servers: NATS, PostgreSQL, OpenBao, four services, and Amazon's sandbox."
    )
    async with Stack(folder / "demo") as stack, Outside(stack.endpoints) as outside:
        told.steps["start"] = round(told.seconds, 2)
        console.print(f"[dim]{told.seconds:6.2f} s[/]  Servers provisioned, schemas migrated, four services ready")
        report = await tell(told, stack, outside)
        write_private(folder / "demo.json", msgspec.json.format(msgspec.json.encode(report)))
        _show(console, report, stack, ends=ends)
        if not ends:
            with _endpoints_in(folder, stack):
                terminal.show(console, stack.endpoints, told.steps["start"])
                await stack.wait()
    return 0 if report.held else 1


async def tell(told: Told, stack: Stack, outside: Outside) -> Report:
    """The story, from the first tenant to the first ticket."""
    with told.step(f"tenant.created for {', '.join(KNOWN)}: tenants copied, inbound addresses made"):
        for tenant in KNOWN:
            await outside.publish("tenant.created", {"tenantId": tenant})
        for tenant in KNOWN:
            probe = partial(outside.ask, "tenant-sync", "GET", f"/api/v1/tenants/status/{tenant}")
            await eventually(f"the tenant {tenant} in step", probe, _in_step)
    with told.step("sync-all: what no event told is found"):
        sync_all = (await outside.ask("tenant-sync", "POST", "/api/v1/tenants/sync-all")).json()
    results = sync_all["results"]
    told.check("sync-all created kbz-003 and kbz-004", results["created"] == ["kbz-003", "kbz-004"])
    told.check("sync-all skipped the four that were known", results["skipped"] == sorted(KNOWN))

    with told.step(f"{TENANT} clicks Connect and approves on Amazon's consent page"):
        page = await outside.connect(TENANT)
        connection = await outside.connection(TENANT)
    told.check("the seller's page says that it worked", page.is_success and "is connected" in page.text)
    told.check("the connection is CONNECTED", connection["status"] == "CONNECTED")

    with told.step("connection.connected: 90 days of orders backfilled"):
        completed = await eventually("the backfill", lambda: outside.last_event("backfill.completed")) or {}
        search_calls = await outside.calls("searchOrders")
    told.check(f"{BACKFILLED} orders are stored", completed.get("ordersStored") == BACKFILLED)
    told.check("one searchOrders call was enough", search_calls == 1)

    with told.step("connection.connected: buyers' messages polled and made tickets"):
        rows = await eventually(
            "three tickets",
            outside.count_rows,
            lambda rows: rows["poller.ticket_messages"] >= 3,  # noqa: PLR2004
        )
    with told.step(f"message.received: the order it names, {OLD_ORDER}, was never seen and is fetched"):
        orders = await eventually(
            "the order that a message names",
            lambda: outside.orders(TENANT),
            lambda orders: OLD_ORDER in {order["externalOrderId"] for order in orders},
        )
    found = {order["externalOrderId"]: order for order in orders}
    told.check(f"{ORDER} shows #149120", found.get(ORDER, {}).get("orderRef") == "#149120")

    with told.step("Polled once more: nothing comes twice"):
        polled = (await outside.ask("poller", "POST", "/api/v1/poller/run", tenant=TENANT)).json()
        rows = await outside.count_rows()
    told.check("polling again stores nothing", polled.get("stored") == 0)
    counts = [rows["poller.external_messages"], rows["poller.tickets"], rows["poller.ticket_messages"]]
    told.check("3 external messages, 3 tickets, 3 ticket messages", counts == [3, 3, 3])
    events = await outside.events_by_subject()
    told.check("nothing is in the dead letters", not any(subject.startswith("dlq.") for subject in events))

    address = (await outside.inbound_address(TENANT))["email"]
    with told.step(f"A buyer's mail arrives for {address}: read over IMAP, and a ticket"):
        [mail] = await outside.write_mails(address, sorts=["buyer in fr"], orderIds=[ORDER], seed=MAIL_SEED)
        by_mail = await eventually("the ticket of the mail", lambda: outside.tickets(TENANT, channel="email"))
        await eventually("the address in use", lambda: outside.inbound_address(TENANT), _in_use)
    told.check("the mail is one ticket, about its order", [t["externalOrderId"] for t in by_mail] == [mail["orderId"]])
    dead = await outside.dead_letters()
    told.check("nothing is in the dead letters after the mail", not dead)

    return Report(
        held=not told.failed,
        failed=told.failed,
        sync_all=SyncAll(results["created"], results["skipped"]),
        connection=connection,
        orders=Orders(
            stored=completed.get("ordersStored", 0),
            items=completed.get("itemsStored", 0),
            search_calls=search_calls,
            fetched_for_messages=len(orders) - completed.get("ordersStored", 0),
        ),
        external_messages=counts[0],
        tickets=counts[1],
        ticket_messages=counts[2],
        tickets_by_mail=len(by_mail),
        events_by_subject=events,
        seconds=round(told.seconds, 2),
        steps_seconds=told.steps,
        rss_megabytes={name: size for name, size in stack.rss_megabytes().items() if name in SERVICES},
    )


def _in_step(answer: httpx.Response) -> bool:
    return answer.is_success and bool(answer.json()["inSync"] and answer.json()["inboundAddresses"])


def _in_use(address: dict[str, Any]) -> bool:
    return bool(address["status"] == "ACTIVE")


def _show(console: Console, report: Report, stack: Stack, *, ends: bool) -> None:
    table = Table(title="What is there now", title_justify="left", show_header=False)
    tenants = f"{', '.join(report.sync_all.skipped)} by event; {', '.join(report.sync_all.created)} by sync-all"
    table.add_row("Tenants", tenants)
    table.add_row("Connection", f"{report.connection.get('displayName')}: {report.connection.get('status')}")
    table.add_row(
        "Orders",
        f"{report.orders.stored} with {report.orders.items} items by {report.orders.search_calls} searchOrders call,"
        f" {report.orders.fetched_for_messages} for a message",
    )
    table.add_row(
        "Tickets", f"{report.tickets}, of {report.external_messages} messages; {report.tickets_by_mail} by mail"
    )
    table.add_row("Events", "\n".join(f"{count:>3}  {subject}" for subject, count in report.events_by_subject.items()))
    memory = ", ".join(f"{name} {size or 0:.0f} MB" for name, size in report.rss_megabytes.items())
    table.add_row("Memory", memory)
    table.add_row(
        "Time", f"{report.seconds:.1f} s from nothing, installation apart (goal: {GOAL_SECONDS} s on two cores)"
    )
    if not ends:
        services = stack.endpoints.services
        table.add_row(
            "To try",
            "\n".join(
                [
                    f"{services['orders']}/schema   (the API; likewise on the other services)",
                    f"TOKEN=$(.venv/bin/python -m devstack token {TENANT})",
                    f'curl -H "Authorization: Bearer $TOKEN" {services["orders"]}/api/v1/orders',
                    f'curl -H "Authorization: Bearer $TOKEN" {services["poller"]}/api/v1/tickets',
                    f".venv/bin/python -m devstack mails {TENANT} --count 3   (buyers write: three tickets more)",
                    f"{stack.endpoints.amazon.url}/sandbox/sellers   (Amazon's side; the seller is {SELLER})",
                ]
            ),
        )
    console.print(table)
    if report.held:
        console.print("All of it held.", style="green")
    else:
        console.print(f"Did not hold: {'; '.join(report.failed)}. Logs: {stack.logs}", style="bold red")


@contextlib.contextmanager
def _endpoints_in(folder: Path, stack: Stack) -> Iterator[None]:
    """endpoints.json where people look for it, unless a stack of `make up` has its own there."""
    link = folder / "endpoints.json"
    if link.exists():
        yield
        return
    endpoints.write(folder, stack.endpoints)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            link.unlink()
