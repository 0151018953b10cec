"""Cancellations by the thousand: the first of a second and a place are looked at closely, the rest only followed."""

from __future__ import annotations

_SECOND = 1_000_000_000
_MOST_PLACES = 256

MOST = 100
"""So many a second of one place are looked at closely."""

MOST_AT_THE_END = 32
"""So many of those that a loop's end cancels: the program waits for it, and each says the same."""


class Storms:
    """Says which cancellations are looked at closely: so many a second for each place that asks.

    Written by the threads of all loops without a lock: where two meet, one more or less is looked at.
    """

    def __init__(self) -> None:
        self._places: dict[tuple[int, int], list[int]] = {}

    def admits(self, place: tuple[int, int], now: int, most: int = MOST) -> bool:
        """Whether one more from this place (the identity of the code, and the instruction) is among the first `most`.

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
        return window[1] <= most

    def until(self, place: tuple[int, int]) -> int:
        """Until when no more from this place are looked at."""
        window = self._places.get(place)
        return 0 if window is None else window[0] + _SECOND
