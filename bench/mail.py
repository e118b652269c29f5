"""Mails read, beside the standard library's parser alone, which finds headers and parts and nothing else: usual mails,
and all that the sandbox can write. The slowest mail, the largest in memory, and what twice a hostile mail takes.
"""

import email
import email.policy
import hashlib
import statistics
import sys
import time
import tracemalloc
from binascii import a2b_base64
from collections.abc import Callable
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from devstack.sandbox.forgedmails import FORGED
from devstack.sandbox.growingmails import SHAPES
from devstack.sandbox.mails import SERVER, SORTS, Generated, generate
from devstack.sandbox.oddmails import ODD
from poller.mail import MAX_ATTACHMENT_BYTES, read_mail

ROUNDS = 5
USUAL = [name for name in SORTS if name not in FORGED and name not in ODD]
LARGE = 1 << 20
"""Of these, time is that of their files."""
SIZES = (25_000, 50_000, 100_000)
"""Below what is read of a mail."""
NOTABLE_SECONDS = 0.001
MUCH = 400_000
MOST = 3.0
"""Times for twice the mail; more than twice is noise, four times is a regular expression that goes back and forth."""
RESULT = Path(__file__).parent / "results" / "mail.json"
Way = Callable[[bytes], object]


def ours(raw: bytes) -> object:
    return read_mail(raw, SERVER)


def compat32(raw: bytes) -> object:
    return email.message_from_bytes(raw)


def default(raw: bytes) -> object:
    """It parses a header when it is read: these are the ones that we read."""
    message = email.message_from_bytes(raw, policy=email.policy.default)
    try:
        return [message[name] for name in ("from", "subject", "date", "message-id", "to", "references")]
    except Exception:  # noqa: BLE001 - it raises a dozen kinds of error for broken mails, which is half of the point
        return None


WAYS: dict[str, Way] = {"read_mail": ours, "compat32": compat32, "policy.default": default}


def seconds(way: Way, mails: list[bytes]) -> float:
    began = time.perf_counter()
    for raw in mails:
        way(raw)
    return time.perf_counter() - began


def quickest(way: Way, raw: bytes, times: int = ROUNDS) -> float:
    return min(seconds(way, [raw]) for _ in range(times))


def memory(raw: bytes) -> int:
    tracemalloc.start()
    try:
        ours(raw)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def speeds(mails: list[bytes]) -> dict[str, float]:
    """Mails a second, medians of rounds in which each way takes its turn."""
    rounds: dict[str, list[float]] = {name: [] for name in WAYS}
    for number in range(ROUNDS):
        for name in list(WAYS) if number % 2 else reversed(WAYS):
            rounds[name].append(len(mails) / seconds(WAYS[name], mails))
        print(f"round {number + 1} of {ROUNDS} done")
    return {name: statistics.median(each) for name, each in rounds.items()}


def growth() -> tuple[str, float, str, float]:
    """The shape whose time doubles the most with its size, and the slowest one."""
    found: list[tuple[str, float]] = []
    for name, grow in SHAPES.items():
        times = [quickest(ours, grow(size), 3) for size in SIZES]
        ratio = max(times[1] / times[0], times[2] / times[1]) if times[0] > NOTABLE_SECONDS else 0.0
        found.append((name, ratio))
    again = [(name, doubled(name)) for name, _ in sorted(found, key=lambda each: -each[1])[:20]]
    took = [(name, quickest(ours, grow(MUCH), 2)) for name, grow in SHAPES.items()]
    worst = max(took, key=lambda each: each[1])[0]
    steepest = max(again, key=lambda each: each[1])
    return *steepest, worst, quickest(ours, SHAPES[worst](MUCH))


def doubled(name: str) -> float:
    """Other work on the machine comes and goes: the median says what is the mail's."""
    little, much = SHAPES[name](SIZES[1]), SHAPES[name](SIZES[2])
    return statistics.median(quickest(ours, much, 3) / quickest(ours, little, 3) for _ in range(ROUNDS))


def large_file() -> float:
    """A mail whose file is as large as may be kept, beside decoding and digesting it and nothing else."""
    letters = b"A" * 76 + b"\r\n"
    raw = b"Content-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\n" + letters * (
        MAX_ATTACHMENT_BYTES // 57
    )
    body = raw.partition(b"\r\n\r\n")[2]
    ratios = [
        seconds(ours, [raw]) / seconds(lambda each: hashlib.sha256(a2b_base64(each)).hexdigest(), [body])
        for _ in range(ROUNDS)
    ]
    return statistics.median(ratios)


def main() -> int:
    made: list[Generated] = list(generate(1, len(SORTS)))
    small = [each for each in made if len(each.raw) < LARGE]
    usual = [each.raw for each in generate(1, len(USUAL) * 8, sorts=USUAL)]
    speed = {"usual": speeds(usual), "all": speeds([each.raw for each in small])}
    took = {each.sort: quickest(ours, each.raw) for each in small}
    slowest = max(took, key=lambda sort: took[sort])
    peaks = {each.sort: memory(each.raw) for each in made}
    heaviest = max(peaks, key=lambda sort: peaks[sort])
    steepest, steepness, worst, worst_seconds = growth()
    one = 1 / speed["usual"]["read_mail"]
    file_ratio = large_file()
    table = Table("", "mails/s", "ratio", title=f"medians of {ROUNDS} rounds")
    for sorts, each in speed.items():
        for name, figure in each.items():
            table.add_row(f"{name}, {sorts} mails", f"{figure:.0f}", f"{figure / each['read_mail']:.2f}")
    Console().print(table)
    print(f"slowest of the sandbox: {slowest}, {took[slowest] * 1000:.1f} ms, {took[slowest] / one:.0f} usual mails")
    print(f"largest in memory: {heaviest}, {peaks[heaviest] / 2**20:.1f} MiB beside the mail")
    print(f"twice the mail, most time: {steepest}, {steepness:.2f} times")
    print(f"slowest hostile mail of {MUCH} bytes: {worst}, {worst_seconds * 1000:.1f} ms")
    print(f"a file of 10 MiB: {file_ratio:.2f} times its decoding and digest alone")
    result = {
        "mails": {"usual": len(usual), "all": len(small)},
        "rounds": ROUNDS,
        "mailsPerSecond": {
            sorts: {name: round(figure) for name, figure in each.items()} for sorts, each in speed.items()
        },
        "ratios": {
            sorts: {name: round(figure / each["read_mail"], 2) for name, figure in each.items()}
            for sorts, each in speed.items()
        },
        "slowest": {
            "sort": slowest,
            "milliseconds": round(took[slowest] * 1000, 1),
            "usualMails": round(took[slowest] / one),
        },
        "memory": {"sort": heaviest, "mebibytes": round(peaks[heaviest] / 2**20, 1)},
        "doubling": {"shape": steepest, "ratio": round(steepness, 2)},
        "hostile": {
            "shape": worst,
            "milliseconds": round(worst_seconds * 1000, 1),
            "usualMails": round(worst_seconds / one),
        },
        "fileToItsDecodingAlone": round(file_ratio, 2),
    }
    RESULT.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    return int(steepness > MOST)


if __name__ == "__main__":
    sys.exit(main())
