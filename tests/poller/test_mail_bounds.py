"""No mail makes much work: counts of calls and of bytes, which are the same on any machine. Time is bench/mail.py's."""

import sys
import tracemalloc
from types import FrameType

import pytest

from devstack.sandbox.growingmails import SHAPES
from devstack.sandbox.mails import SERVER, SORTS, generate
from poller.mail import MAX_ATTACHMENT_BYTES, read_mail

MAX_CALLS = 250_000
MAX_MEMORY = 50 << 20
LITTLE, MUCH = 100_000, 400_000
PAST_EVERY_LIMIT = 4 << 20


def calls(raw: bytes) -> int:
    """Of Python's functions and the built-in ones."""
    count = 0

    def profile(_: FrameType, event: str, __: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        read_mail(raw, SERVER)
    finally:
        sys.setprofile(before)
    return count


def memory(raw: bytes) -> int:
    """At its most, beside the mail itself."""
    tracemalloc.start()
    try:
        read_mail(raw, SERVER)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", SHAPES)
def test_work_does_not_grow_faster_than_the_mail_and_ends(shape: str) -> None:
    little, much = calls(SHAPES[shape](LITTLE)), calls(SHAPES[shape](MUCH))
    assert much <= little * MUCH / LITTLE * 1.1 + 1_000
    assert much <= MAX_CALLS
    assert memory(SHAPES[shape](PAST_EVERY_LIMIT)) <= MAX_MEMORY


def test_no_mail_of_the_sandbox_makes_more_work() -> None:
    for each in generate(3, len(SORTS)):
        assert calls(each.raw) <= MAX_CALLS
        assert memory(each.raw) <= MAX_MEMORY


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable", "8bit"])
def test_the_largest_files_stay_within_the_memory(encoding: str) -> None:
    head = f"Content-Type: image/png\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n".encode()
    letters = b"A" * 76 + b"\r\n"
    for size in (MAX_ATTACHMENT_BYTES, MAX_ATTACHMENT_BYTES * 4 // 3, MAX_ATTACHMENT_BYTES * 3):
        assert memory(head + letters * (size // 78)) <= MAX_MEMORY
