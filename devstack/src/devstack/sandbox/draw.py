"""Numbers that look random and are the same on every machine and every Python (splitmix64)."""

import hashlib
import struct
from collections.abc import Iterator, Sequence
from typing import TypeVar

Thing = TypeVar("Thing")
_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_PAIRS = [first + second for first in _CHARACTERS for second in _CHARACTERS]


def mix(*seeds: int) -> int:
    state = 0
    for seed in seeds:
        state = _scramble((state ^ seed) + _GAMMA & _MASK)
    return state


def code(number: int, length: int) -> str:
    """Letters and digits from a number: `length` of them, which is even and at most 12."""
    pairs = []
    for _ in range(length // 2):
        number, pair = divmod(number, 1296)
        pairs.append(_PAIRS[pair])
    return "".join(pairs)


class Draw:
    """A sequence of draws that follows from its seeds."""

    def __init__(self, *seeds: int) -> None:
        self._state = mix(*seeds)

    def word(self) -> int:
        """64 bits."""
        self._state = self._state + _GAMMA & _MASK
        return _scramble(self._state)

    def below(self, limit: int) -> int:
        return self.word() % limit

    def chance(self, percent: int) -> bool:
        return self.below(100) < percent

    def pick(self, things: Sequence[Thing]) -> Thing:
        return things[self.below(len(things))]

    def text(self, alphabet: str, length: int) -> str:
        return "".join(self.pick(alphabet) for _ in range(length))


class ShortDraw(Draw):
    """Eight words at most, at the price of two."""

    def __init__(self, *seeds: int) -> None:
        self._words: Iterator[int] = iter(struct.unpack("<8Q", hashlib.sha512(repr(seeds).encode()).digest()))

    def word(self) -> int:
        return next(self._words)


def _scramble(value: int) -> int:
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _MASK
    return value ^ value >> 31
