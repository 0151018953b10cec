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
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_asyncio.observe.chain import frame_of
from otel_asyncio.observe.code import creation_point
from otel_asyncio.observe.observer import Guard
from otel_asyncio.observe.patching import replace_shared
from otel_asyncio.observe.records import Site, TaskRecord

ref = weakref.ref

if TYPE_CHECKING:
    from types import CodeType

_MODULES = {"asyncio.locks", "asyncio.queues"}
_RESOURCES: tuple[type, ...] = (
    asyncio.Lock,
    asyncio.Semaphore,
    asyncio.Condition,
    asyncio.Event,
    asyncio.Queue,
    asyncio.Barrier,
)
_PURGE_AT = 1_000
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
    """One time that a lock was held. Leads to the task and to the lock only weakly."""

    lock: weakref.ref[Any]
    task: weakref.ref[Any] | None
    """None where no task took it."""
    record: TaskRecord | None
    """None where the task is not recorded."""
    since: int
    """When it was taken (monotonic, ns)."""
    point: tuple[CodeType, int] | None
    """The line that took it, as code and instruction; None where no line of the program did."""
    until: int | None = None
    """When it was released; None while it is held."""
    place: Any = None
    """Under what its task stood when it released the lock to somebody who waited: the sink's answer to `nest`."""

    @property
    def site(self) -> Site | None:
        """The line that took it."""
        return None if self.point is None else Site(*self.point)

    @property
    def task_name(self) -> str | None:
        """The holder's name, where it can still be had."""
        task = self.task() if self.task is not None else None
        if task is not None:
            name: str = task.get_name()
            return name
        return self.record.name if self.record is not None else None


_make_hold: Callable[[tuple[Any, ...]], Hold] = partial(tuple.__new__, Hold)


def _current_task() -> Any:
    return None if asyncio._get_running_loop() is None else asyncio.current_task()


_watching: list[Locks] = []


def _noticing(before: Callable[..., None]) -> Callable[..., None]:
    """The `__setattr__` of the class that tells who looks."""

    def __setattr__(self: Any, name: str, value: Any) -> None:  # noqa: N807
        before(self, name, value)
        if name == "_locked":
            for locks in _watching:
                locks.changed(self, locked=value)

    return __setattr__


class Locks:
    """Who holds which lock. One entry for each lock that is held, written only by the thread of the lock's loop."""

    def __init__(self, now: Callable[[], int], nest: Callable[[TaskRecord], Any] = lambda _: None) -> None:
        self._now = now
        self._nest = nest
        self._guard = Guard("locks")
        self._installed = 0
        self._holds: dict[int, Hold] = {}
        self._past: dict[int, list[Hold]] = {}
        """What was held while others waited: until a release finds nobody waiting."""

    def holder_of(self, lock: asyncio.Lock) -> Hold | None:
        """Who holds a lock now; None if nobody does, or if it was taken before tracing started."""
        hold = self._holds.get(id(lock))
        return hold if hold is not None and hold.lock() is lock and lock._locked else None

    def blamed(self, lock: Any, since: int, until: int) -> Hold | None:
        """Who held a lock for most of an interval in which somebody waited for it."""
        blamed, longest = None, 0
        for hold in (*self._past.get(id(lock), ()), self._holds.get(id(lock))):
            if hold is None or hold.lock() is not lock:
                continue
            overlap = min(hold.until or until, until) - max(hold.since, since)
            if overlap > longest:
                blamed, longest = hold, overlap
        return blamed

    def install(self) -> Callable[[], None]:
        """Look at every Lock of the process; returns the way to stop."""
        undo = replace_shared(asyncio.Lock, "__setattr__", _noticing)
        if not self._installed:
            _watching.append(self)
        self._installed += 1

        def stop() -> None:
            undo()
            self._installed -= 1
            if not self._installed:
                _watching.remove(self)
                self._holds.clear()
                self._past.clear()

        return stop

    def changed(self, lock: Any, *, locked: bool) -> None:
        """A lock has been taken, or released, by the code two frames up."""
        if self._guard.failed:
            return
        try:
            if locked:
                self._taken(lock)
            else:
                self._released(lock)
        except Exception as error:  # noqa: BLE001 - the border of the package: a lock goes on locking
            self._guard.fail(error)

    def _taken(self, lock: Any) -> None:
        task = _current_task()
        record = None if task is None else getattr(task, "_otel_asyncio", None)
        holds = self._holds
        if len(holds) >= _PURGE_AT:
            self._purge()
        holds[id(lock)] = _make_hold(
            (
                ref(lock),
                None if task is None else ref(task),
                record if type(record) is TaskRecord else None,
                self._now(),
                creation_point(4),
                None,
                None,
            )
        )

    def _released(self, lock: Any) -> None:
        hold = self._holds.pop(id(lock), None)
        if not getattr(lock, "_waiters", None):
            if self._past:
                self._past.pop(id(lock), None)
        elif hold is not None:
            past = self._past.setdefault(id(lock), [])
            by_itself = hold.task is not None and hold.task() is _current_task()
            place = self._nest(hold.record) if by_itself and hold.record is not None else None
            past.append(hold._replace(until=self._now(), place=place))
            del past[:-_REMEMBERED]

    def _purge(self) -> None:
        """Forget the locks that are gone; locks that die while they are held, or before a waiter is through, leave
        an entry.
        """
        for holds in (self._holds, {key: past[-1] for key, past in self._past.items()}):
            for key, hold in tuple(holds.items()):
                if hold.lock() is None:
                    self._holds.pop(key, None)
                    self._past.pop(key, None)
