"""python -m devstack: up, demo, token, mails, permissions, contracts, compose-secrets."""

import argparse
import asyncio
import contextlib
import signal
import sys
import time
from pathlib import Path

import httpx
from rich.console import Console

from shared.topology import SERVICES

from . import compose, contracts, demo, endpoints, permissions, terminal
from .endpoints import Endpoints
from .errors import StackError
from .outside import Outside
from .sandbox.mails import SORTS
from .stack import Stack


def main(arguments: list[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    try:
        code: int = args.run(args) or 0
    except StackError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m devstack", description="The local stack.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="start everything and keep it running")
    up.set_defaults(run=_up)
    story = commands.add_parser("demo", help="run the whole story and show it")
    story.add_argument("--exit", action="store_true", help="end when the story is told")
    story.set_defaults(run=demo.run)
    for command in (up, story):
        command.add_argument(
            "--state",
            type=Path,
            default=Path(".local"),
            metavar="DIR",
            help="where everything is kept (.local)",
        )
    up.add_argument("--no-services", action="store_true", help="servers, provisioning and migrations only")
    token = commands.add_parser("token", help="print a token for a running stack's HTTP, to use with curl")
    token.add_argument("tenant", help="a tenant of the story, as ecomlg-001; or admin")
    token.add_argument("--state", type=Path, default=Path(".local"), metavar="DIR", help="as for up (.local)")
    token.set_defaults(run=_token)
    mails = commands.add_parser("mails", help="let buyers write: mails arrive in a running stack's mailbox")
    mails.add_argument("recipient", help="a tenant of the story, as ecomlg-001; or an address")
    mails.add_argument("--count", type=int, metavar="N", help="how many (one of each sort)")
    mails.add_argument(
        "--sort",
        action="append",
        choices=SORTS,
        metavar="SORT",
        help="as 'files' or 'return'; more than one take turns (buyer); a wrong one is answered with all",
    )
    mails.add_argument("--seed", type=int, metavar="N", help="the same seed writes the same mails (a new one)")
    mails.add_argument("--state", type=Path, default=Path(".local"), metavar="DIR", help="as for up (.local)")
    mails.set_defaults(run=_mails)
    commands.add_parser("permissions", help="write deploy/nats/permissions.conf from the topology").set_defaults(
        run=_permissions
    )
    commands.add_parser("contracts", help="write docs/events.md from the events and the topology").set_defaults(
        run=_contracts
    )
    secrets = commands.add_parser("compose-secrets", help="make the passwords, keys and certificates for compose.yaml")
    secrets.add_argument(
        "--state", type=Path, default=Path(".local/compose"), metavar="DIR", help="where to keep them (.local/compose)"
    )
    secrets.set_defaults(run=_compose_secrets)
    return parser


def _permissions(_: argparse.Namespace) -> None:
    permissions.FILE.write_text(permissions.render())


def _compose_secrets(args: argparse.Namespace) -> None:
    sys.stdout.write(f"{compose.prepare(args.state)}\n")


def _contracts(_: argparse.Namespace) -> None:
    contracts.FILE.write_text(contracts.render())


def _mails(args: argparse.Namespace) -> None:
    asyncio.run(_write_mails(args))


async def _write_mails(args: argparse.Namespace) -> None:
    sorts = args.sort or ["buyer"]
    wanted = {"count": len(sorts) if args.count is None else args.count, "sorts": sorts, "seed": args.seed}
    async with Outside(_running(args.state)) as outside:
        try:
            to = args.recipient
            recipient = to if "@" in to else (await outside.inbound_address(to)).get("email")
            if recipient is None:
                raise StackError(f"{to} has no address: publish tenant.created, or POST /api/v1/tenants/sync, first.")
            mails = await outside.write_mails(recipient, **wanted)
        except httpx.HTTPStatusError as error:
            raise StackError(f"{error.request.url} answered {error.response.text}") from error
    for mail in mails:
        sys.stdout.write(f"{mail['uid']:>5}  {mail['sort']}  {mail['orderId'] or '-'}  {mail['messageId']}\n")
    sys.stdout.write(f"{len(mails)} to {recipient}\n")


def _running(state: Path) -> Endpoints:
    try:
        return endpoints.read(state)
    except FileNotFoundError as error:
        raise StackError(f"No stack is ready in {state}: start one with make up.") from error


def _token(args: argparse.Namespace) -> None:
    tokens = _running(args.state).tokens
    if args.tenant != "admin" and args.tenant not in tokens.tenants:
        raise StackError(f"{args.tenant} is none of: admin, {', '.join(tokens.tenants)}.")
    sys.stdout.write(f"{tokens.admin if args.tenant == 'admin' else tokens.tenants[args.tenant]}\n")


def _up(args: argparse.Namespace) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_run(args.state, () if args.no_services else SERVICES))


async def _run(state: Path, services: tuple[str, ...]) -> None:
    """Until Ctrl-C or SIGTERM, which stop it in order; a second one ends it at once."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101
    for signal_ in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signal_, task.cancel)
    console = Console(highlight=False, soft_wrap=True)
    since = time.monotonic()
    async with Stack(state, services, say=console.print) as stack:
        terminal.show(console, stack.endpoints, time.monotonic() - since)
        following = asyncio.create_task(
            terminal.follow(console, {name: stack.logs / f"{name}.log" for name in services})
        )
        try:
            await stack.wait()
        finally:
            following.cancel()
            console.print("Stopping.")
