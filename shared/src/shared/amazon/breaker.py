"""Fails fast while a region of Amazon's is away. Each process finds out for itself: a few calls more to a region that
does not answer cost nothing that would be worth a row in the database.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import AmazonUnavailableError

FAILURES = 5
"""In a row, of whichever operations and sellers, before calls are refused."""
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0


class Breaker:
    """A region's. After FAILURES in a row calls are refused for a pause that doubles with each further failure; then
    one call goes through, and when it succeeds, all do.
    """

    def __init__(self, region: str) -> None:
        self._region = region
        self._failures = 0
        self._pause_until = 0.0
        self._is_probing = False

    def check(self) -> None:
        """AmazonUnavailableError while no call may go out, with the rest of the pause as its delay."""
        pause = self._pause_until - time.monotonic()
        if self._failures >= FAILURES and (pause > 0 or self._is_probing):
            raise AmazonUnavailableError(
                f"Amazon's region {self._region} has failed {self._failures} times in a row: it is asked again when"
                " the pause is over.",
                delay_seconds=max(pause, FIRST_PAUSE_SECONDS),
            )

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Around one call that goes out now, or check()'s error in its stead."""
        self.check()
        if self._failures < FAILURES:
            yield
            return
        self._is_probing = True
        try:
            yield
        finally:
            self._is_probing = False

    def succeeded(self) -> None:
        """Amazon answered, be it with a refusal."""
        self._failures = 0

    def failed(self) -> None:
        """A failure during the pause is of a call from before it, and counts no more."""
        if self._failures >= FAILURES and not self._is_probing:
            return
        self._failures += 1
        if self._failures >= FAILURES:
            pause = FIRST_PAUSE_SECONDS * 2 ** min(self._failures - FAILURES, 10)
            self._pause_until = time.monotonic() + min(pause, LONGEST_PAUSE_SECONDS)
