"""The thread that a loop runs in, as the watchdog sees it from outside: does it run, was it starved, is it to be left
alone for a while.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.bell import Vigil
from otel_asyncio.observe.meter import ThreadMeter, native_id_of
from otel_asyncio.observe.runqueue import waited
from otel_asyncio.observe.starvation import Starvation

if TYPE_CHECKING:
    from otel_asyncio.observe.loops import LoopState

_SHORTEST, _LONGEST = 5_000_000, 500_000_000
_UNASKED = 10_000_000_000  # where a vigil is kept: a look, whatever it says


class LoopThread:
    """One thread of one loop.

    `ident`: Python's number of it. `limit`: from how many nanoseconds on a unit of work is a block; `drowsy`: after how
    many in which nothing ran it is looked at less often. `real`: whether the loop's clock is the machine's.
    """

    def __init__(self, ident: int, state: LoopState, *, limit: int, drowsy: int, real: bool) -> None:
        native = native_id_of(ident)
        known = real and native is not None
        self.ident = ident
        self._limit, self._drowsy, self._real = limit, drowsy, real
        self._vigil = Vigil(state, native, limit=limit, drowsy=drowsy) if known and Vigil is not None else None
        self._meter: Any = self._vigil or ThreadMeter(native)
        self._starvation = Starvation(
            partial(waited, native) if known else lambda: None,
            state.now,
            tuple if self._vigil is None else self._vigil.readings,
        )
        self._ran_at = self._noted_at = 0
        self.idle = False
        """Whether it was seen to wait for events, and has not run since."""
        self.dozes = False
        """Whether it has not run for so long that the next look is put off."""
        self._runs_loop = False

    def note(self) -> None:
        """Read the count, so that no starvation before is charged to what begins after this."""
        self._starvation.note()

    def ran(self, now: int) -> bool:
        """Whether it has run since this was asked last; True where nobody can tell."""
        ran: bool = self._meter.ran()
        if ran:
            self.idle = False
            self._ran_at = now if self._vigil is None else self._vigil.ran_at
        self.dozes = not ran and self._real and now - self._ran_at >= self._drowsy
        self._runs_loop = True
        return ran

    def left(self) -> None:
        """The loop does not run now."""
        self._runs_loop, self.dozes = False, True

    def was_busy(self, since: int, now: int) -> bool:
        """Whether it ran, or was kept from it, from `since` to now, and no step began meanwhile."""
        if not self._real or (self._vigil is not None and self._vigil.turned):
            return False
        return bool(self._meter.used + self.starved(since, now) >= 0.8 * (now - since))

    def starved(self, start: int, end: int) -> int:
        """How many nanoseconds of [start, end] it was starved, at most."""
        return self._starvation.at_most(start, end)

    def looked_at(self, now: int, *, ran: bool) -> None:
        """A look has been taken, and it is not in the middle of what was suspected before."""
        if self._vigil is not None:
            self._vigil.idle, self._vigil.dozes, self._vigil.pace = self.idle, self.dozes, self._pace(self._limit // 6)
        elif ran and now - self._noted_at >= self._limit:
            self._noted_at = now
            self.note()

    def vigil(self) -> Any:
        """What may be asked without the GIL whether a look is needed; None: nothing."""
        return self._vigil if self._runs_loop and self._vigil is not None and not self._vigil.lost else None

    def period(self) -> int:
        """How long to wait before the next look, in nanoseconds.

        More where the loop has been idle: to wake up is what a look costs.
        """
        return self._pace(self._limit // 3) if self.vigil() is None else _UNASKED

    def _pace(self, awake: int) -> int:
        return min(max(self._limit * 3 // 2 if self.dozes else awake, _SHORTEST), _LONGEST)
