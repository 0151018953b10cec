"""The thread that a loop runs in, as the watchdog sees it from outside: does it run, was it starved, is it to be left
alone for a while.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_asyncio.observe.bell import Vigil
from otel_asyncio.observe.meter import ThreadMeter, native_id_of
from otel_asyncio.observe.runqueue import PROCESSORS, anybody_waited, waited
from otel_asyncio.observe.starvation import Starvation

if TYPE_CHECKING:
    from otel_asyncio.observe.loops import LoopState

_SHORTEST, _LONGEST = 5_000_000, 500_000_000
_UNASKED = 10_000_000_000  # where a vigil is kept: a look, whatever it says


class Account(NamedTuple):
    """Where the time of a thread went in an interval, in nanoseconds, as far as the kernel tells."""

    starved: int
    """It was ready to run and had no processor: at most."""
    crowded: int
    """Anybody on the machine had none: at most."""
    used: int
    """It used a processor: at least."""


class LoopThread:
    """One thread of one loop.

    `ident`: Python's number of it. `limit`: from how many nanoseconds on a unit of work is a block; `drowsy`: after how
    many in which nothing ran it is looked at less often. `real`: whether the loop's clock is the machine's.
    """

    def __init__(self, ident: int, state: LoopState, *, limit: int, drowsy: int, real: bool) -> None:
        native = native_id_of(ident)
        known = real and native is not None
        self.ident = ident
        self._state, self._limit, self._drowsy, self._real, self._now = state, limit, drowsy, real, state.now
        self._vigil = Vigil(state, native, limit=limit, drowsy=drowsy) if known and Vigil is not None else None
        self._meter: Any = self._vigil or ThreadMeter(native)
        self._starvation = Starvation(
            partial(waited, native) if known else lambda: None,
            state.now,
            tuple if self._vigil is None else self._vigil.readings,
        )
        self._crowd = Starvation(
            anybody_waited if real else lambda: None,
            state.now,
            tuple if self._vigil is None else self._vigil.crowd,
            PROCESSORS,
        )
        self._noted_at = 0
        self.ran_at = 0
        """When it was found to have run last: it has slept since, or starved."""
        self.idle = False
        """Whether it was seen to wait for events, and has not run since."""
        self._runs_loop = False

    def begin(self, now: int) -> None:
        """What is asked of begins after this."""
        self._state.dozes = False
        self._note()
        self._meter.begin(now)

    def stir(self, now: int) -> None:
        """Something is about to run: the next look is not put off any longer. In the loop's thread."""
        self._state.dozes = False
        self._meter.begin(now)

    def _note(self) -> None:
        """Read the counts, so that no starvation before is charged to what begins after this."""
        self._starvation.note()
        self._crowd.note()

    def ran(self, now: int) -> bool:
        """Whether it has run since this was asked last; True where nobody can tell."""
        ran: bool = self._meter.ran()
        if ran:
            self.idle = False
            self.ran_at = now if self._vigil is None else self._vigil.ran_at
        self._state.dozes = not ran and self._real and now - self.ran_at >= self._drowsy
        self._runs_loop = True
        return ran

    def left(self) -> None:
        """The loop does not run now."""
        self._runs_loop, self._state.dozes = False, True

    def was_busy(self, since: int, now: int) -> bool:
        """Whether it ran, or was kept from it, from `since` to now, and no step began meanwhile."""
        if not self._real or (self._vigil is not None and self._vigil.turned):
            return False
        return bool(self._meter.used + self._starvation.at_most(since, now) >= 0.8 * (now - since))

    def account(self, start: int, end: int) -> Account:
        """What is known of [start, end], which is over."""
        used = self._meter.used_since(start) if self._real else 0
        starved, crowded = self._starvation.at_most(start, end), self._crowd.at_most(start, end)
        return Account(starved, crowded, max(0, used - max(0, self._now() - end)))

    def looked_at(self, now: int, *, ran: bool, suspected: bool) -> None:
        """A look has been taken, and it is not in the middle of what was suspected before."""
        if not suspected:
            self._meter.begin(now)
        if self._vigil is not None:
            self._vigil.idle, self._vigil.dozes = self.idle, self._state.dozes
            self._vigil.pace = self._pace(self._limit // 6)
        elif ran and now - self._noted_at >= self._limit:
            self._noted_at = now
            self._note()

    def vigil(self) -> Any:
        """What may be asked without the GIL whether a look is needed; None: nothing."""
        return self._vigil if self._runs_loop and self._vigil is not None and not self._vigil.lost else None

    def period(self) -> int:
        """How long to wait before the next look, in nanoseconds.

        More where the loop has been idle: to wake up is what a look costs.
        """
        return self._pace(self._limit // 3) if self.vigil() is None else _UNASKED

    def _pace(self, awake: int) -> int:
        return min(max(self._limit * 3 // 2 if self._state.dozes else awake, _SHORTEST), _LONGEST)
