"""The folder that a stack keeps everything in, held by one supervisor at a time."""

import fcntl
import os
from pathlib import Path

from .errors import StackError


def claim(folder: Path) -> int:
    """Make the folder, closed to others, and lock it; the lock goes with this process, however it ends.
    StackError when another stack runs on it.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 32).decode().strip() or "unknown"
        os.close(lock)
        raise StackError(
            f"A local stack (process {holder}) already runs on {folder}. Stop it, or use another --state."
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def write_private(path: Path, content: bytes) -> None:
    """Whole or not at all, and readable by nobody else at any moment."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
