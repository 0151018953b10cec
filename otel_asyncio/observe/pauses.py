"""Time that passed in a step, and was not the step's: garbage collection, a stopped process."""

from __future__ import annotations

import gc
import sys
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.runqueue import waited

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_MILLISECOND = 1_000_000
_KEPT = 64
LATE = 20 * _MILLISECOND
_REFRESH = 32  # a file read costs more than all the rest of a look at an idle loop


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
    a block: then its thread woke up every switch interval to ask for the GIL, and the kernel has counted that. Or it
    was starved of a processor, which the kernel counts as well; the loop's thread may have had one meanwhile. On Linux;
    elsewhere unknown.
    """

    def __init__(self) -> None:
        self._stops: deque[tuple[int, int, int]] = deque(maxlen=_KEPT)
        self._late: deque[tuple[int, int, int]] = deque(maxlen=1)
        self._known = resource is not None and hasattr(resource, "RUSAGE_THREAD")
        self.begin()

    def begin(self) -> None:
        """The watchdog's thread, which calls this, is a new one: the kernel begins to count."""
        self._thread = threading.get_native_id()
        self._switches = self._waited = self._waits = 0

    def before_wait(self) -> None:
        """The watchdog is about to wait."""
        if self._known:
            self._conclude()
            if not self._waits % _REFRESH:
                self._waited = waited() or 0
            self._waits += 1
            self._switches = _switches()

    def after_wait(self, due: int, now: int) -> int | None:
        """The watchdog wanted to wake up at `due`, and runs again now. Returns since when it waited for the GIL."""
        if not self._known or now - due < LATE:
            return None
        asked = _switches() - self._switches - 1  # once it went to sleep
        if asked >= _least_asked(now - due):
            return due
        self._late.append((due, now, asked))
        return None

    def _conclude(self) -> None:
        """Why the watchdog was late: asked of a file, so not before it has looked."""
        with suppress(IndexError):
            due, now, asked = self._late.pop()
            before, self._waited = self._waited, waited(self._thread) or 0
            late, starved = now - due, min(self._waited - before, now - due)
            if starved < late // 2 and asked < _least_asked(late - starved):
                self._stops.append((due, now, late - starved))

    def within(self, start: int, end: int) -> int:
        """How many nanoseconds of [start, end] the process did not run."""
        self._conclude()
        return overlap(self._stops, start, end)


def _least_asked(nanoseconds: int) -> float:
    """How often a thread at least asks for the GIL while it waits for it so long."""
    return 0.25 * nanoseconds / 1e9 / sys.getswitchinterval()


def _switches() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
