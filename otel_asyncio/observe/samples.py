"""An even selection of a stream of values: all of them while they are few, every n-th under load."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")

LIMIT = 1024
"""How many values are kept between two readings."""


class Samples(Generic[T]):
    """Keeps at most `LIMIT` values between two readings, evenly spread over the time between them.

    When it is full, every second one goes, and from then on only every second of those that come is kept. One thread
    offers, another may take.
    """

    __slots__ = ("_left_out", "_stride", "_values")

    def __init__(self) -> None:
        self._values: list[T] = []
        self._stride = 1
        self._left_out = 0

    @property
    def stride(self) -> int:
        """How many of the values that come stand behind each that is kept."""
        return self._stride

    def offer(self, value: T, weight: int = 1) -> None:
        """Keep the value, which stands for `weight` alike, or leave it out."""
        self._left_out += weight
        while self._left_out >= self._stride:
            self._left_out -= self._stride
            self._values.append(value)
            if len(self._values) >= LIMIT:
                self._values = self._values[1::2]
                self._stride *= 2

    def extend(self, other: Samples[T]) -> None:
        """Keep what another has kept."""
        for value in other.take():
            self.offer(value)

    def take(self) -> list[T]:
        """What was kept since the last reading; the stream begins anew, with every value kept."""
        values, self._values = self._values, []
        self._stride, self._left_out = 1, 0
        return values
