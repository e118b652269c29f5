"""Ports on loopback: the usual ones when they are free, else others, the same again after a restart."""

import fcntl
import os
import socket
import tempfile
from pathlib import Path
from typing import Protocol

import msgspec

from .errors import StackError
from .state import write_private

PREFERRED = {
    "nats": 4222,
    "nats-monitor": 8222,
    "postgres": 5432,
    "openbao": 8200,
    "openbao-cluster": 8201,
    "sandbox": 8085,
    "sandbox-mail": 8993,
    "oauth": 8001,
    "poller": 8002,
    "orders": 8003,
    "tenant-sync": 8004,
}
# Below what systems hand out to outgoing connections, which could take a port before its server is up.
FIRST_OTHER = 20_000
OTHERS = 2_000


class PortOf(Protocol):
    """The port of each name in PREFERRED."""

    def __getitem__(self, name: str, /) -> int: ...


def choose(state: Path) -> PortOf:
    """For a stack that somebody else starts: free now, the same again next time, held by nobody."""
    if not PREFERRED.keys() <= _remembered(state).keys():
        Ports(state).release()
    return _remembered(state)


def _remembered(state: Path) -> dict[str, int]:
    file = state / "ports.json"
    return msgspec.json.decode(file.read_bytes(), type=dict[str, int]) if file.exists() else {}


class Ports:
    """Every port of one stack. A claim is a lock on a file as well, because two stacks that start at the same
    time both find a port free before either listens on it.
    """

    def __init__(self, state: Path) -> None:
        self._locks: list[int] = []
        remembered = _remembered(state)
        self._ports = {name: self._claim(remembered.get(name), port) for name, port in PREFERRED.items()}
        write_private(state / "ports.json", msgspec.json.format(msgspec.json.encode(self._ports)))

    def __getitem__(self, name: str) -> int:
        return self._ports[name]

    def release(self) -> None:
        for lock in self._locks:
            os.close(lock)
        self._locks.clear()

    def _claim(self, remembered: int | None, preferred: int) -> int:
        first = preferred + FIRST_OTHER
        candidates: list[int] = [preferred, *range(first, first + OTHERS)]
        if remembered is not None:
            candidates.insert(0, remembered)
        for port in candidates:
            if self._take(port):
                return port
        raise StackError(f"No port is free from {first} to {first + OTHERS}.")

    def _take(self, port: int) -> bool:
        folder = Path(tempfile.gettempdir()) / f"keybuzz-ports-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(folder / str(port), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                # What a stopped server leaves in TIME_WAIT does not hold the port; a listener does.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        except OSError:
            os.close(lock)
            return False
        self._locks.append(lock)
        return True


def free_port() -> int:
    """Free at this moment, for a server that is started at once."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
