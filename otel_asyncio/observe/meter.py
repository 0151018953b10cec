"""Whether a thread has run, and for how long: its processor-time clock, which any thread may read on Linux.

The meter here is the one in Python; a compiled `Vigil` (`compiled/vigil.c`) answers the same.
"""

from __future__ import annotations

import os
import threading
import time


def _cpu_clock_of(native_id: int) -> int:
    """The clock of a thread's own processor time, by Linux's rule (`MAKE_THREAD_CPUCLOCK`).

    `time.pthread_getcpuclockid` wants to be sure that the thread is alive; of this one the kernel says so itself.
    """
    return (~native_id << 3) | 6


_HAS_CPU_CLOCK = hasattr(time, "pthread_getcpuclockid") and (
    time.pthread_getcpuclockid(threading.get_ident()) == _cpu_clock_of(threading.get_native_id())
)


def native_id_of(thread: int) -> int | None:
    """The kernel's number of a thread of this process; None if Python has not started it."""
    known = threading._active.get(thread)  # type: ignore[attr-defined]
    if known is None:
        return None
    # After a fork the one thread of the child has another number, and Python keeps the old one (seen on 3.11 to 3.13).
    return os.getpid() if _HAS_CPU_CLOCK and known is threading.main_thread() else known.native_id


class ThreadMeter:
    """The clock of one thread. On Linux; elsewhere unknown."""

    def __init__(self, native_id: int | None) -> None:
        self._clock = _cpu_clock_of(native_id) if _HAS_CPU_CLOCK and native_id is not None else None
        self._cpu = 0
        self._base = (0, 0)  # a reading, and when it was made, or earlier
        self.used = 0
        """Nanoseconds between the last two readings."""

    def ran(self) -> bool:
        """Whether the thread has run since this was asked last; True where nobody can tell.

        Keeps the GIL, so that the stack is looked at as it stood when the watchdog woke up.
        """
        if (cpu := self._read()) is None:
            return True
        self.used = cpu - self._cpu if self._cpu else 0
        ran, self._cpu = cpu != self._cpu, cpu
        return ran

    def begin(self, now: int) -> None:
        """What `used_since` will be asked of has not begun, or hardly. `now`: the time, or earlier."""
        if (cpu := self._read()) is not None:
            self._base = (cpu, now)

    def used_since(self, start: int) -> int:
        """How many nanoseconds of processor time it has used since `start`, or more; 0 where nobody can tell."""
        cpu, (before, at) = self._read(), self._base
        return 0 if cpu is None or not at else max(0, cpu - before - max(0, start - at))

    def _read(self) -> int | None:
        if self._clock is not None:
            try:
                return time.clock_gettime_ns(self._clock)
            except OSError:  # the thread is gone
                self._clock = None
        return None
