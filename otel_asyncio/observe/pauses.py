"""Time that passed in a step, and was not the step's: garbage collection, a stopped process."""

from __future__ import annotations

import gc
import sys
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.bell import COUNTS_SWITCHES
from otel_asyncio.observe.runqueue import waited

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from otel_asyncio.observe.bell import Delay

_MILLISECOND = 1_000_000
_KEPT = 64
LATE = 20 * _MILLISECOND


def overlap(intervals: Iterable[tuple[int, int, int]], start: int, end: int) -> int:
    """How much of [start, end] is covered. Of each interval (start, end, amount) no more counts than its amount."""
    return sum(max(0, min(amount, min(e, end) - max(s, start))) for s, e, amount in tuple(intervals))


class GcPauses:
    """The garbage collections of at least a millisecond. One in any thread holds every loop: it keeps the GIL."""

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self._began = 0
        self._collector = 0
        self._pauses: deque[tuple[int, int, int]] = deque(maxlen=_KEPT)

    def install(self) -> Callable[[], None]:
        """Listen to the collector. Returns the way to stop."""
        gc.callbacks.append(self._listen)

        def undo() -> None:
            if self._listen in gc.callbacks:
                gc.callbacks.remove(self._listen)
            self._collector = 0  # a collection that goes on now ends without a word

        return undo

    def _listen(self, phase: str, info: Any) -> None:
        now = self._now()
        self._collector = threading.get_ident() if phase == "start" else 0
        if phase == "start":
            self._began = now
        elif now - self._began >= _MILLISECOND:
            self._pauses.append((self._began, now, now - self._began))

    def is_collecting(self) -> bool:
        """Whether this thread is in the middle of a collection."""
        return self._collector == threading.get_ident()

    def within(self, start: int, end: int) -> int:
        """How many nanoseconds of [start, end] were spent collecting."""
        # A collection that still runs when asked (by a finalizer, say) counts up to now.
        return overlap(self._pauses, start, end)


class Stops:
    """The times in which the whole process stood still: SIGSTOP, a virtual machine that is suspended.

    Seen by the watchdog's own waking up late. It may also be late because somebody kept the GIL, which is no stop but
    a block: then its thread woke up every switch interval to ask for the GIL, and the kernel has counted that. Or
    others, in turns, had it before the watchdog: then it woke up more often. Or it was starved of a processor, which
    the kernel counts as well; the loop's thread may have had one meanwhile. On Linux; elsewhere unknown.
    """

    def __init__(self) -> None:
        self._stops: deque[tuple[int, int, int]] = deque(maxlen=_KEPT)
        self._undecided: deque[tuple[Delay, int]] = deque(maxlen=_KEPT)
        self.late = 0
        """By how many nanoseconds the watchdog was late when it woke up last."""
        self.begin()

    def begin(self) -> None:
        """The watchdog's thread, which calls this, is a new one: the kernel begins to count."""
        self._thread = threading.get_native_id()
        self._waited = 0

    def woke(self, delays: Iterable[Delay], waited_before: int) -> int | None:
        """The watchdog runs again. Returns since when it waited for the GIL, if that is why it did not before.

        `waited_before`: for how long it had waited for a processor at some time before.
        """
        kept_since, self.late = None, 0
        for delay in delays:
            late = delay.until - delay.since
            self.late = max(self.late, late)
            if late < LATE or not COUNTS_SWITCHES:
                continue
            if delay.asked < _least_asked(late):
                self._undecided.append((delay, waited_before))
            elif delay.asked <= _most_asked(late):
                kept_since = delay.since
        return kept_since

    def conclude(self) -> None:
        """Why the watchdog was late: asked of a file, so not before it has looked."""
        if not self._undecided:
            return
        before, self._waited = self._waited, waited(self._thread) or 0
        with suppress(IndexError):
            while True:
                delay, waited_before = self._undecided.popleft()
                late = delay.until - delay.since
                starved = min(self._waited - max(before, waited_before), late)
                if starved < late // 2 and delay.asked < _least_asked(late - starved):
                    self._stops.append((delay.since, delay.until, late - starved))

    def within(self, start: int, end: int) -> int:
        """How many nanoseconds of [start, end] the process did not run."""
        self.conclude()
        return overlap(self._stops, start, end)


def _least_asked(nanoseconds: int) -> float:
    """How often a thread at least asks for the GIL while it waits for it so long."""
    return 0.25 * nanoseconds / 1e9 / sys.getswitchinterval()


def _most_asked(nanoseconds: int) -> float:
    """How often at most, if one thread keeps it all that time.

    It is woken up more often where somebody lets go of the GIL now and then, and has it again before it comes to
    (https://github.com/python/cpython/issues/52194, the convoy effect).
    """
    return 1.5 * nanoseconds / 1e9 / sys.getswitchinterval() + 1
