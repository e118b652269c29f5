"""Numbers that look random and are the same on every machine and every Python (splitmix64)."""

from collections.abc import Sequence
from typing import TypeVar

Thing = TypeVar("Thing")
_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15


def mix(*seeds: int) -> int:
    state = 0
    for seed in seeds:
        state = _scramble((state ^ seed) + _GAMMA & _MASK)
    return state


class Draw:
    """A sequence of draws that follows from its seeds."""

    def __init__(self, *seeds: int) -> None:
        self._state = mix(*seeds)

    def below(self, limit: int) -> int:
        self._state = self._state + _GAMMA & _MASK
        return _scramble(self._state) % limit

    def chance(self, percent: int) -> bool:
        return self.below(100) < percent

    def pick(self, things: Sequence[Thing]) -> Thing:
        return things[self.below(len(things))]

    def text(self, alphabet: str, length: int) -> str:
        return "".join(self.pick(alphabet) for _ in range(length))


def _scramble(value: int) -> int:
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _MASK
    return value ^ value >> 31
