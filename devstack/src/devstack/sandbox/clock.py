"""The sandbox's clock: it can run faster than the wall's and jump ahead, and never goes back."""

import time
from datetime import UTC, datetime, timedelta

import msgspec

MAX_SPEED = 100_000


class ClockReading(msgspec.Struct, frozen=True):
    """At `wall` (seconds since 1970) it was `sandbox` here, running `speed` times as fast."""

    wall: float
    sandbox: float
    speed: float = 1.0


class Clock:
    def __init__(self, reading: ClockReading) -> None:
        """Continue from a kept reading: the time that passed while the server was down counts too."""
        elapsed = max(0.0, time.time() - reading.wall)
        self._base = reading.sandbox + elapsed * reading.speed
        self._started = time.monotonic()  # within one process, corrections of the wall clock don't matter
        self.speed = reading.speed

    def seconds(self) -> float:
        return self._base + (time.monotonic() - self._started) * self.speed

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds(), UTC)

    def change(self, *, advance: timedelta = timedelta(), speed: float | None = None) -> None:
        if advance < timedelta():
            raise ValueError("The clock never goes back.")
        self._base = self.seconds() + advance.total_seconds()
        self._started = time.monotonic()
        self.speed = self.speed if speed is None else speed

    def reading(self) -> ClockReading:
        return ClockReading(wall=time.time(), sandbox=self.seconds(), speed=self.speed)
