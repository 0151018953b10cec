"""Time that passed in a step, and was not the step's: garbage collection, a stopped process, a starved thread."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

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
_OWN_SCHEDSTAT = "/proc/thread-self/schedstat"


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
        self._switches = self._delay = self._waits = 0
        self._known = resource is not None and hasattr(resource, "RUSAGE_THREAD")

    def before_wait(self) -> None:
        """The watchdog is about to wait."""
        if self._known:
            if not self._waits % _REFRESH:
                self._delay = _run_delay(_OWN_SCHEDSTAT)
            self._waits += 1
            self._switches = _switches()

    def after_wait(self, due: int, now: int) -> int | None:
        """The watchdog wanted to wake up at `due`, and runs again now. Returns since when it waited for the GIL."""
        if not self._known or now - due < LATE:
            return None
        asked = _switches() - self._switches - 1  # once it went to sleep
        if asked >= 0.25 * (now - due) / 1e9 / sys.getswitchinterval():
            return due
        if _run_delay(_OWN_SCHEDSTAT) - self._delay < (now - due) // 2:
            self._stops.append((due, now, now - due))
        return None

    def within(self, start: int, end: int) -> int:
        """How many nanoseconds of [start, end] the process did not run."""
        return overlap(self._stops, start, end)


def _switches() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def _run_delay(path: str) -> int:
    """How long a thread has been ready to run, and waiting for a processor, in nanoseconds; 0 where nobody can tell.

    `Documentation/scheduler/sched-stats.rst` of Linux. The file is opened for each reading, because one that is kept
    open is one that the program may close.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return int(os.read(file, 128).split()[1])
        finally:
            os.close(file)
    except (OSError, ValueError, IndexError):
        return 0


def _cpu_clock_of(native_id: int) -> int:
    """The clock of a thread's own processor time, by Linux's rule (`MAKE_THREAD_CPUCLOCK`).

    `time.pthread_getcpuclockid` wants to be sure that the thread is alive; of this one the kernel says so itself.
    """
    return (~native_id << 3) | 6


_HAS_CPU_CLOCK = hasattr(time, "pthread_getcpuclockid") and (
    time.pthread_getcpuclockid(threading.get_ident()) == _cpu_clock_of(threading.get_native_id())
)


class ThreadMeter:
    """Whether a thread ran, for how long, and how long it was ready and got no processor.

    On Linux; elsewhere unknown.
    """

    def __init__(self, thread: int) -> None:
        known = threading._active.get(thread) if _HAS_CPU_CLOCK else None  # type: ignore[attr-defined]
        native = known.native_id if known is not None else None
        self._clock = _cpu_clock_of(native) if native is not None else None
        self._path = f"/proc/{os.getpid()}/task/{native}/schedstat"
        self._starved: deque[tuple[int, int, int]] = deque(maxlen=_KEPT)
        self._read_at = self._cpu = self._delay = 0
        self._used = self._waited = 0  # since the reading before

    def was_busy(self, duration: int) -> bool:
        """Whether the thread ran, or was kept from it by a lack of processors only, for most of the time before the
        last reading.
        """
        return self._used + self._waited >= 0.8 * duration

    def ran(self, now: int) -> bool:
        """Whether the thread has run since this was asked last; True where nobody can tell.

        Keeps the GIL, so that the stack is looked at as it stood when the watchdog woke up.
        """
        if self._clock is None:
            return True
        try:
            cpu = time.clock_gettime_ns(self._clock)
        except OSError:  # the thread is gone
            self._clock = None
            return True
        self._used = cpu - self._cpu if self._cpu else 0
        ran, self._cpu = cpu != self._cpu, cpu
        return ran

    def account(self, now: int) -> None:
        """Note how long the thread was starved since this was called last."""
        if self._clock is None:
            return
        delay = _run_delay(self._path)
        self._waited = delay - self._delay if self._read_at else 0
        if self._waited >= _MILLISECOND:
            self._starved.append((self._read_at, now, self._waited))
        self._read_at, self._delay = now, delay

    def starved(self, start: int, end: int) -> int:
        """How many nanoseconds of [start, end] the thread waited for a processor, up to now."""
        if self._clock is None or not self._read_at:
            return 0
        recent = (self._read_at, end, max(0, _run_delay(self._path) - self._delay))
        return overlap([*self._starved, recent], start, end)
