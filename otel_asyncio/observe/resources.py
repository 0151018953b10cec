"""Locks, semaphores, conditions, events, queues, barriers: what a task waits for, and who holds a lock.

asyncio's Lock does not know its holder. Its one attribute `_locked` knows when there is a new one: it is set in
`acquire` and in `release` and nowhere else, on the fast way and on the slow one (read in 3.11 to 3.15). So the class
gets a `__setattr__` that looks at this name. No function is wrapped: no frame is added to a stack or a traceback,
subclasses and the `async with` of a Condition take the same way, and taking the attribute off the class undoes it.

For whoever looks for deadlocks: `waited_for(follow(task))` is the thing that a task waits for, and
`Locks.holder_of(lock)` who holds it. Both may be asked from any thread.
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_asyncio.observe.chain import frame_of
from otel_asyncio.observe.hotpath import make_notice, make_set_attribute
from otel_asyncio.observe.observer import Guard
from otel_asyncio.observe.patching import replace_shared
from otel_asyncio.observe.records import TaskRecord
from otel_asyncio.observe.sites import Site

if TYPE_CHECKING:
    from types import CodeType

    from otel_asyncio.observe.notices import Taken

_MODULES = {"asyncio.locks", "asyncio.queues"}
_RESOURCES: tuple[type, ...] = (
    asyncio.Lock,
    asyncio.Semaphore,
    asyncio.Condition,
    asyncio.Event,
    asyncio.Queue,
    asyncio.Barrier,
)
_MOST = 10_000
_REMEMBERED = 16


def waited_for(links: list[Any]) -> Any:
    """The lock, queue or other resource that a chain of awaits (`chain.follow`) waits for; None if it is none.

    The outermost one below the program's own line, except that a condition which has been notified waits for its lock.
    """
    found: Any = None
    for item in links:
        frame = frame_of(item)
        if frame is None:
            continue
        if not frame.code.internal:
            found = None
        elif frame.code.module in _MODULES and (found is None or frame.qualname == "Lock.acquire"):
            found = next((held for held in gc.get_referents(item) if issubclass(type(held), _RESOURCES)), found)
    return found


class Hold(NamedTuple):
    """One time that a lock was held. Leads to the task only weakly."""

    record: TaskRecord | None
    """Of the task that took it; None where that is not recorded, or where no task took it."""
    unrecorded: weakref.ref[Any] | None
    """The task itself, where it has no record."""
    since: int
    """When it was taken (monotonic, ns)."""
    point: tuple[CodeType, int] | None
    """The line that took it, as code and instruction; None where no line of the program did."""
    until: int | None = None
    """When it was released; None while it is held."""
    place: Any = None
    """Under what its task stood when it released the lock to somebody who waited: the sink's answer to `nest`."""

    @property
    def task(self) -> Any:
        """The task that took it; None where it has ended, or where no task did."""
        ref = self.unrecorded if self.record is None else self.record.task
        return None if ref is None else ref()

    @property
    def site(self) -> Site | None:
        """The line that took it."""
        return None if self.point is None else Site(*self.point)

    @property
    def task_name(self) -> str | None:
        """The holder's name, where it can still be had."""
        task = self.task
        if task is not None:
            name: str = task.get_name()
            return name
        return self.record.name if self.record is not None else None


_told: list[Callable[[Any, bool], None]] = []
"""Who hears of each change of a lock: nearly always one."""


class Locks:
    """Who holds which lock. One entry for each lock that is held, written only by the thread of the lock's loop.

    The entries are known by the lock's identity: a new lock at the place of one that died while it was held is set free
    in its constructor, and so takes the entry away. Of locks that die like that the oldest are forgotten.
    """

    def __init__(self, now: Callable[[], int], nest: Callable[[TaskRecord], Any] = lambda _: None) -> None:
        self._now = now
        self._nest = nest
        self._guard = Guard("locks")
        self._installed = 0
        self._holds: dict[int, Taken] = {}
        self._past: dict[int, list[Hold]] = {}
        """What was held while others waited: until a release finds nobody waiting."""
        self._notice = make_notice(
            self._guard, now, self._holds, self._past, self._released, self._forget_oldest, _MOST
        )

    def holder_of(self, lock: asyncio.Lock) -> Hold | None:
        """Who holds a lock now; None if nobody does, or if it was taken before tracing started."""
        return self._hold(lock) if lock.locked() else None

    def _hold(self, lock: Any) -> Hold | None:
        taken = self._holds.get(id(lock))
        return None if taken is None else Hold(*taken)

    def blamed(self, lock: Any, since: int, until: int) -> Hold | None:
        """Who held a lock for most of an interval in which somebody waited for it."""
        blamed, longest = None, 0
        for hold in (*self._past.get(id(lock), ()), self._hold(lock)):
            if hold is None:
                continue
            overlap = min(hold.until or until, until) - max(hold.since, since)
            if overlap > longest:
                blamed, longest = hold, overlap
        return blamed

    def install(self) -> Callable[[], None]:
        """Look at every Lock of the process; returns the way to stop."""
        undo = replace_shared(asyncio.Lock, "__setattr__", lambda before: make_set_attribute(before, _told))
        if not self._installed:
            _told.append(self._notice)
        self._installed += 1

        def stop() -> None:
            undo()
            self._installed -= 1
            if not self._installed:
                _told.remove(self._notice)
                self._holds.clear()
                self._past.clear()

        return stop

    def _released(self, lock: Any, taken: Taken | None) -> None:
        if not getattr(lock, "_waiters", None):
            self._past.pop(id(lock), None)
        elif taken is not None:
            hold = Hold(*taken)
            record = hold.record
            by_itself = record is not None and hold.task is asyncio.current_task()
            place = self._nest(record) if by_itself and record is not None else None
            past = self._past.setdefault(id(lock), [])
            past.append(hold._replace(until=self._now(), place=place))
            del past[:-_REMEMBERED]

    def _forget_oldest(self) -> None:
        for key in tuple(self._holds)[: _MOST // 2]:
            self._holds.pop(key, None)
            self._past.pop(key, None)
