"""The watchdog: one daemon thread of the process that looks at every observed loop.

It starts when a loop is first observed and ends when none is left. Before a fork it stops, so that a child never
inherits half a thread (nor Python's warning about one), and goes on afterwards in the parent. In the child the loop
that forked is not watched again: what runs there now is the child, above a frame that never returns.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from abc import ABC, abstractmethod
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.bell import Bell, Delay, switches
from otel_asyncio.observe.observer import Guard
from otel_asyncio.observe.pauses import LATE, GcPauses, Stops

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_SHORTEST = 5_000_000
_JOIN = 1.0
_LINGERS, _MOMENT = 50, 0.0001


class Watched(ABC):
    """One loop, looked at for one purpose."""

    def __init__(self, loop: Any) -> None:
        self.loop = weakref.ref(loop)

    @property
    def gone(self) -> bool:
        """Whether there is nothing to look at any more."""
        loop = self.loop()
        return loop is None or loop.is_closed()

    @property
    def runs(self) -> bool:
        """Whether the loop runs."""
        loop = self.loop()
        return loop is not None and loop.is_running()

    @property
    @abstractmethod
    def period(self) -> int:
        """How long to wait before the next look, in nanoseconds."""

    @property
    def vigil(self) -> Any:
        """What may be asked without the GIL whether an earlier look is needed; None: nothing."""
        return None

    @abstractmethod
    def tick(self, kept_since: int | None = None, /) -> None:
        """Look, in the watchdog's thread; `kept_since`: since when somebody has kept the GIL from it, if so."""


class Watchdog:
    """The thread, and the loops it looks at."""

    def __init__(self) -> None:
        self._watches: list[Watched] = []
        self._thread: threading.Thread | None = None
        self._lock = threading.RLock()  # a finalizer that makes a loop runs anywhere
        self._bell = Bell()
        self._stopping = False
        self._undo: Callable[[], None] | None = None
        self._guard = Guard("blocking")
        self.stops = Stops()
        self.pauses = GcPauses(time.perf_counter_ns)
        self.cpu_time = 0
        """Nanoseconds of processor time that the thread has used."""
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self._leave_nothing, after_in_parent=self._resume_later, after_in_child=self._begin_anew
            )

    @property
    def thread(self) -> threading.Thread | None:
        """The thread, while there is one."""
        return self._thread

    @property
    def is_late(self) -> bool:
        """Whether the thread should have looked by now, so that it may yet find that the process stood still."""
        return self._thread is not None and time.perf_counter_ns() - self._bell.due >= LATE

    def add(self, watch: Watched) -> None:
        """Look at one more loop."""
        with self._lock:
            self._watches.append(watch)
            self._start()

    def wake(self) -> None:
        """Have the thread look now, and not when it wanted to. From any thread."""
        self._bell.ring()

    def remove(self, watches: Sequence[Watched]) -> None:
        """Look at these loops no more. When this returns, nothing of them is emitted any longer."""
        with self._lock:
            self._watches = [watch for watch in self._watches if watch not in watches]
        self._pause()
        self._resume()

    def _start(self) -> None:
        if self._thread is not None or self._guard.failed:
            return
        thread = threading.Thread(target=self._run, name="otel_asyncio watchdog", daemon=True)
        self._stopping, self._bell = False, Bell()
        with suppress(RuntimeError):  # the interpreter is about to end
            thread.start()
            self._thread = thread
            self._undo = self._undo or self.pauses.install()

    def _pause(self) -> None:
        """Stop the thread, and see it end."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        self._stopping = True
        self.wake()
        thread.join(_JOIN)
        self._thread = None

    def _leave_nothing(self) -> None:
        """Before a fork: the thread has ended, for the kernel too, whose count Python looks at (3.12 and later)."""
        thread = self._thread
        self._pause()
        task = f"/proc/self/task/{thread.native_id}" if thread is not None else ""
        for _ in range(_LINGERS):
            if not os.path.exists(task):  # noqa: PTH110 - a stat, nothing else
                break
            time.sleep(_MOMENT)

    def _resume(self) -> None:
        with self._lock:
            if self._watches:
                self._start()
            elif self._undo is not None:
                self._undo()
                self._undo = None

    def _resume_later(self) -> None:
        """After a fork, in the parent: on a loop's next turn. Python 3.12 and 3.13 count the threads after this."""
        for watch in tuple(self._watches):
            loop = watch.loop()
            if loop is not None:
                with suppress(RuntimeError):  # it is closed
                    loop.call_soon_threadsafe(self._resume)

    def _begin_anew(self) -> None:
        """In the child of a fork: no thread, no lock that another thread held, and no loop that was running."""
        self._lock, self._bell = threading.RLock(), Bell()
        self._thread, self._stopping = None, False
        self._watches = [watch for watch in self._watches if not watch.runs]
        self._resume()

    def _run(self) -> None:
        try:
            self._watch()
        except Exception as error:  # noqa: BLE001 - the border of the package
            self._guard.fail(error)

    def _watch(self) -> None:
        bell, stops = self._bell, self.stops
        stops.begin()
        kept_since = stops.woke([Delay(bell.due, time.perf_counter_ns(), switches())], 0)
        while not self._stopping:
            self._look(kept_since)
            stops.conclude()
            watches = tuple(self._watches)
            period = min((watch.period for watch in watches), default=_SHORTEST)
            vigils = tuple(vigil for watch in watches if (vigil := watch.vigil) is not None)
            kept_since = stops.woke(map(Delay._make, bell.wait(period, vigils)), bell.waited)
            if not self._watches and self._leave():
                return

    def _leave(self) -> bool:
        """Whether there is nothing left to look at."""
        with self._lock:
            if self._watches or self._stopping:
                return False
            self._thread = None
            self._resume()
            return True

    def _look(self, kept_since: int | None) -> None:
        for watch in tuple(self._watches):
            if watch.gone:
                with self._lock, suppress(ValueError):
                    self._watches.remove(watch)
            watch.tick(kept_since)
        self.cpu_time = time.thread_time_ns()


@cache
def the_watchdog() -> Watchdog:
    """The one of this process; made when it is first needed."""
    return Watchdog()


def is_watching() -> bool:
    """Whether the thread is one of the process's threads now."""
    return the_watchdog().thread is not None
