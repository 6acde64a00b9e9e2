"""Chance: whole random numbers that are the same on every machine and in every version of Python."""

import hashlib
from collections.abc import Sequence
from typing import Final, TypeVar

T = TypeVar("T")

_MASK: Final = (1 << 64) - 1


class Chance:
    """A stream of numbers that depends on `digest` and `name` alone (the generator is splitmix64)."""

    def __init__(self, digest: str, name: str) -> None:
        seed = hashlib.sha256(f"{digest}|{name}".encode()).digest()
        self._state = int.from_bytes(seed[:8], "big")

    def _next(self) -> int:
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        mixed = self._state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return mixed ^ (mixed >> 31)

    def between(self, low: int, high: int) -> int:
        """Return a number from `low` to `high`, both included."""
        return low + self._next() * (high - low + 1) // (1 << 64)

    def percent(self, share: int) -> bool:
        """Return True in `share` of a hundred cases."""
        return self.between(0, 99) < share

    def pick(self, options: Sequence[T]) -> T:
        """Return one of `options`."""
        return options[self.between(0, len(options) - 1)]
