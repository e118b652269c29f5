"""What a process holds in memory, from /proc."""

from pathlib import Path


def rss_megabytes(pid: int) -> float | None:
    """Resident memory of the process and what its children hold for themselves; None without /proc."""
    own = _kilobytes(pid, "VmRSS")
    if own is None:
        return None
    return (own + sum(_kilobytes(child, "RssAnon") or 0 for child in children(pid))) / 1024


def children(pid: int) -> list[int]:
    """Direct children, wherever /proc lists them."""
    try:
        listed = [file.read_text().split() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    return [int(child) for group in listed for child in group]


def _kilobytes(pid: int, field: str) -> int | None:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{field}:")), None)
