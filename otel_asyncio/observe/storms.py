"""Cancellations by the thousand: the first of a second and a place are looked at closely, the rest only followed."""

from __future__ import annotations

_SECOND = 1_000_000_000
_MOST_PLACES = 256


class Storms:
    """Says which cancellations are looked at closely: so many a second for each place that asks.

    Written by the threads of all loops without a lock: where two meet, one more or less is looked at.
    """

    def __init__(self, limit: int = 100) -> None:
        self._limit = limit
        self._places: dict[tuple[int, int], list[int]] = {}

    def admits(self, place: tuple[int, int], now: int) -> bool:
        """Whether one more from this place (the identity of the code, and the instruction) is looked at.

        Of cancellations that nobody asks for, the place is the coroutine that they end; of scopes that expired, the
        line that owns them.
        """
        window = self._places.get(place)
        if window is None or now - window[0] >= _SECOND:
            if len(self._places) >= _MOST_PLACES:
                self._places.clear()
            self._places[place] = [now, 1]
            return True
        window[1] += 1
        return window[1] <= self._limit

    def until(self, place: tuple[int, int]) -> int:
        """Until when no more from this place are looked at."""
        window = self._places.get(place)
        return 0 if window is None else window[0] + _SECOND
