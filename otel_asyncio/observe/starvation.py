"""For how long a thread, or anybody, was starved: ready to run, and kept from it by a lack of processors."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_KEPT = 16


class _Reading(NamedTuple):
    waited: int
    by: int
    """When it had been read. The clock is asked afterwards: between the two anything may happen."""


class Starvation:
    """An upper bound for any interval, from the kernel's count, read from time to time.

    `waited`: the count, in nanoseconds, or None where there is none: then nobody was starved. `now`: the clock of the
    intervals. `elsewhere`: what somebody else has read of the same count. `weight`: how much one may stand for.
    """

    def __init__(
        self,
        waited: Callable[[], int | None],
        now: Callable[[], int],
        elsewhere: Callable[[], Iterable[tuple[int, int]]] = tuple,
        weight: int = 1,
    ) -> None:
        self._waited, self._now, self._elsewhere, self._weight = waited, now, elsewhere, weight
        self._readings: tuple[_Reading, ...] = ()  # never changed, only exchanged: two threads read and write it

    def note(self) -> None:
        """Read the count, so that nothing before is charged to an interval that begins after this."""
        waited = self._waited()
        if waited is not None:
            self._readings = (*self._readings[1 - _KEPT :], _Reading(waited, self._now()))

    def at_most(self, start: int, end: int) -> int:
        """How many nanoseconds of [start, end] the thread was starved, or fewer; asked when it has run since.

        All that was counted since a reading, and of a later one than `start` all the time before it. Where between two
        readings it fell is not asked: a wait is counted when it is over, so that a reading in the middle of one does
        not know of it.
        """
        before = (*self._readings, *map(_Reading._make, self._elsewhere()))
        waited = self._waited()
        if waited is None:
            return 0
        bounds = (self._weight * (waited - reading.waited) + max(0, reading.by - start) for reading in before)
        return min(self._weight * waited, end - start, *bounds)
