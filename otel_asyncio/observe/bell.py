"""What the watchdog waits for, and how late it is.

`Bell` here is the one in Python. The compiled one (`compiled/vigil.c`, 64-bit Linux) may also be given the `Vigil`s of
loops: then it looks at them from time to time without the GIL, and goes on waiting while none holds anything that has
not begun since.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_asyncio.observe.flavour import extension
from otel_asyncio.observe.runqueue import waited

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterable

_SECOND = 1_000_000_000
_REFRESH = 32  # a file read costs more than all the rest of a look at an idle loop

COUNTS_SWITCHES = resource is not None and hasattr(resource, "RUSAGE_THREAD")
"""Whether the kernel counts how often a thread goes to sleep."""


class Delay(NamedTuple):
    """The watchdog's thread wanted to run, and did not."""

    since: int
    until: int
    asked: int
    """How often it woke up meanwhile to ask for the GIL."""


def switches() -> int:
    """How often the calling thread has gone to sleep; 0 where nobody counts."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw if COUNTS_SWITCHES else 0


class Bell:
    """Wakes the watchdog, also before its time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self._waits = 0
        self.due = time.perf_counter_ns()
        """When the wait ends that goes on now (`time.perf_counter_ns`)."""
        self.waited = 0
        """For how long, in nanoseconds, the watchdog's thread had waited for a processor when that was read last."""

    def ring(self) -> None:
        """Wake the watchdog. From any thread."""
        with suppress(RuntimeError):  # it rings already
            self._lock.release()

    def wait(self, nanoseconds: int, _: tuple[Any, ...] = (), /) -> Iterable[tuple[int, int, int]]:
        """Wait until it is rung, but no longer than this. Returns the fields of what may have been `Delay`s."""
        if not self._waits % _REFRESH:
            self.waited = waited() or 0
        self._waits += 1
        before = switches()
        self.due = due = time.perf_counter_ns() + nanoseconds
        self._lock.acquire(timeout=nanoseconds / _SECOND)
        return ((due, time.perf_counter_ns(), switches() - before - 1),)  # once it went to sleep


Vigil: Any = getattr(extension, "Vigil", None)
"""The thread of one loop, as far as it can be looked at without the GIL; None where it cannot."""

if not TYPE_CHECKING and Vigil is not None:
    Bell = extension.Bell
