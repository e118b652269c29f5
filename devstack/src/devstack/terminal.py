"""What `up` shows: the services' log lines as they come, short, and where everything is."""

import asyncio
import shutil
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .endpoints import Endpoints

COLOURS = ("cyan", "magenta", "green", "yellow", "blue")
LOOK_SECONDS = 0.2
# Fields of a structured line that the terminal does not repeat.
QUIET_FIELDS = {"timestamp", "level", "event", "logger", "service", "trace_id", "span_id"}


async def follow(console: Console, logs: dict[str, Path]) -> None:
    """Print what is added to the logs from now on, for ever."""
    read = {name: log.stat().st_size if log.exists() else 0 for name, log in logs.items()}
    width = max(len(name) for name in logs) if logs else 0
    while True:
        for (name, log), colour in zip(logs.items(), COLOURS * len(logs), strict=False):
            text, read[name] = _added(log, read[name])
            for line in text.splitlines():
                console.print(Text.assemble((f"{name:<{width}} ", colour), shorten(line, _room(width))))
        await asyncio.sleep(LOOK_SECONDS)


def shorten(line: str, width: int) -> str:
    """A structured line as its event and fields, any other as it is, cut to the width."""
    try:
        fields = msgspec.json.decode(line, type=dict[str, object])
    except msgspec.DecodeError:
        fields = {}
    if "event" in fields:
        rest = (f"{name}={value}" for name, value in fields.items() if name not in QUIET_FIELDS)
        line = " ".join([str(fields["event"]), *rest])
    return line if len(line) <= width else line[: width - 1] + "…"


def show(console: Console, endpoints: Endpoints, seconds: float) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    rows = {
        **endpoints.services,
        "Amazon sandbox": endpoints.amazon.url,
        "Mailbox": f"{endpoints.mailbox.host}:{endpoints.mailbox.port}  (IMAP over TLS, CA {endpoints.mailbox.cacert})",
        "NATS": f"{endpoints.nats.url}  (monitor {endpoints.nats.monitor})",
        "PostgreSQL": f"{endpoints.postgres.host}:{endpoints.postgres.port}  (keybuzz, keybuzz_backend)",
        "OpenBao": f"{endpoints.vault.addr}  (CA {endpoints.vault.cacert})",
    }
    for name, value in rows.items():
        table.add_row(Text(name, "bold"), value)
    console.print(table)
    console.print(f"Users, passwords and tokens: {endpoints.state}/endpoints.json. Logs: {endpoints.state}/logs.")
    console.print(f"Ready after {seconds:.1f} s. Ctrl-C stops it.", style="green")


def _added(log: Path, position: int) -> tuple[str, int]:
    """Whole lines after the position; from the start again when the log was put aside."""
    if not log.exists():
        return "", 0
    if log.stat().st_size < position:
        position = 0
    with log.open("rb") as file:
        file.seek(position)
        content = file.read()
    whole = content[: content.rfind(b"\n") + 1]
    return whole.decode(errors="replace"), position + len(whole)


def _room(width: int) -> int:
    return max(40, shutil.get_terminal_size().columns - width - 1)
