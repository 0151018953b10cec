"""Long waits: told when the task runs again, while its coroutine still stands where it was suspended."""

from __future__ import annotations

import asyncio
import gc
from types import CoroutineType
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_asyncio.observe.chain import GATHERING, TASKS, Chain, behind_shield, chain_of, follow
from otel_asyncio.observe.observer import Guard
from otel_asyncio.observe.patching import replace_shared
from otel_asyncio.observe.records import TaskRecord
from otel_asyncio.observe.resources import waited_for
from otel_asyncio.observe.storms import Storms
from otel_asyncio.observe.stuck import key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from otel_asyncio.observe.observer import Sink
    from otel_asyncio.observe.resources import Hold, Locks
    from otel_asyncio.observe.stuck import History

_WAIT: Any = asyncio.tasks._wait.__code__  # type: ignore[attr-defined]
_GROUP_EXITS = {"TaskGroup.__aexit__", "TaskGroup._aexit"}
_LAST = "_otel_asyncio"


class Wait(NamedTuple):
    """One wait that is over. Times are monotonic nanoseconds."""

    since: int
    """When the task was suspended."""
    ready: int
    """When what it waited for had come: from here on it waited for the loop."""
    until: int
    """When it ran again."""
    chain: Chain
    awaited: tuple[TaskRecord, ...]
    """The tasks that were waited for, the last to end first."""
    resource: str | None
    """The type of the lock, queue or other resource that was waited for."""
    hold: Hold | None
    """Of a lock, the longest hold that was waited out."""


class Tally:
    """What is kept of one task's long waits."""

    __slots__ = ("kept", "omitted", "omitted_time", "told")

    def __init__(self) -> None:
        self.told = 0
        """How many were looked at: emitted, or kept."""
        self.kept: list[Wait] = []
        """Those that wait for what becomes of the task's own span."""
        self.omitted = 0
        self.omitted_time = 0

    def omit(self, time: int) -> None:
        """Count a wait of so many nanoseconds that nothing else is known of."""
        self.omitted += 1
        self.omitted_time += time


def tally_of(record: TaskRecord) -> Tally | None:
    """What is kept of a task's long waits; most tasks have none, and nothing is set for them."""
    return record.waits


class Waits:
    """Looks at what a task has waited for, as far as the sink wants to know.

    Args:
        sink: is asked whether it wants to know before anything is looked at.
        locks: who holds which lock; None where that is not followed.
        most: of each task, so many waits are looked at; the others are only counted.
        depth: so many frames of each chain are kept.
        least: waits shorter than so many nanoseconds are told to nobody.
        history: of those that are very long, notes how long they were; None where nobody wants to know.
    """

    def __init__(
        self, sink: Sink, locks: Locks | None, most: int, depth: int, *, least: int = 0, history: History | None = None
    ) -> None:
        self._sink = sink
        self._locks = locks
        self._most = most
        self._depth = depth
        self._least = least
        self._history = history
        self._guard = Guard("awaits")
        self._storms = Storms()
        self.is_told_otherwise: Callable[[TaskRecord], bool] = lambda _: False
        """Whether the wait of a task that runs again now is told by another span: that of a timeout that ended it."""

    def over(self, record: TaskRecord, task: Any, future: Any, ready: int, now: int) -> None:
        """The task runs again after a long wait for `future`, and is about to leave the line it waited on."""
        if self._guard.failed:
            return
        try:
            lasted = now - record.suspended
            if self._history is not None and lasted >= self._history.least and record.cancellation is None:
                self._history.completed(key_of(chain_of(follow(task), 1)), lasted)
            if lasted < self._least:
                return
            place = None if self.is_told_otherwise(record) else self._sink.nest(record)
            if place is None:
                return
            tally = tally_of(record)
            if tally is None:
                tally = record.waits = Tally()
            if tally.told >= self._most or self._is_one_of_many(record, future, now):
                tally.omit(now - record.suspended)
                self._sink.omitted(record)
                return
            tally.told += 1
            self._sink.waited(record, self._look(record.suspended, task, ready, now), place)
        except Exception as error:  # noqa: BLE001 - the border of the package
            self._guard.fail(error)

    def _is_one_of_many(self, record: TaskRecord, future: Any, now: int) -> bool:
        """Whether what it waited for was cancelled, and so it was for too many of its coroutine's tasks just now."""
        ended = issubclass(type(future), asyncio.Future) and future.cancelled()
        return ended and not self._storms.admits((id(record.code), 0), now)

    def _look(self, since: int, task: Any, ready: int, now: int) -> Wait:
        links = follow(task)
        resource = waited_for(links)
        hold = None
        if self._locks is not None and isinstance(resource, asyncio.Lock):
            hold = self._locks.blamed(resource, since, now)
        kind = None if resource is None else type(resource).__name__
        return Wait(since, ready, now, chain_of(links, self._depth), awaited_by(links), kind, hold)


def awaited_by(links: list[Any]) -> tuple[TaskRecord, ...]:
    """The records of the tasks that a chain waits for and that have ended, the last one first."""
    records = [getattr(task, "_otel_asyncio", None) for task in tasks_of(links)]
    records += [getattr(group, _LAST, None) for group in _groups(links)]
    ended = [record for record in records if type(record) is TaskRecord and record.outcome is not None]
    return tuple(sorted(ended, key=lambda record: record.ended, reverse=True))


def tasks_of(links: list[Any]) -> list[Any]:
    """The tasks that a chain waits for: the one, those of a gather, of `asyncio.wait`, of a TaskGroup those left."""
    end = behind_shield(links[-1]) if links else None
    if issubclass(type(end), TASKS):
        return [end]
    tasks: Iterable[Any] = ()
    coro = next((item for item in reversed(links) if type(item) is CoroutineType), None)
    if isinstance(end, GATHERING):
        tasks = end._children
    elif coro is not None and coro.cr_code is _WAIT:  # its local `fs`
        tasks = next((item for item in gc.get_referents(coro) if type(item) is set), ())
    else:
        tasks = [task for group in _groups(links) for task in tuple(group._tasks)]
    return [task for task in tasks if issubclass(type(task), TASKS)]


def _groups(links: list[Any]) -> list[Any]:
    coro = next((item for item in reversed(links) if type(item) is CoroutineType), None)
    if coro is None or coro.cr_code.co_qualname not in _GROUP_EXITS:
        return []
    # anyio's is another class of that name; its tasks are in a set as well.
    return [item for item in gc.get_referents(coro) if "TaskGroup" in type(item).__name__ and hasattr(item, "_tasks")]


def watch_groups() -> Callable[[], None]:
    """Let each TaskGroup know which of its tasks was the last to end; returns the way to stop.

    A group forgets its tasks one by one, so that nobody waiting at its end could tell for whom.
    """
    return replace_shared(asyncio.TaskGroup, "_on_task_done", _remembering)


def _remembering(before: Callable[..., None]) -> Callable[..., None]:
    def _on_task_done(self: Any, task: Any) -> None:
        self.__dict__[_LAST] = getattr(task, "_otel_asyncio", None)
        before(self, task)

    # A task's repr() shows its callbacks: by name, and the file too where there is a `__wrapped__`.
    _on_task_done.__qualname__, _on_task_done.__module__ = before.__qualname__, before.__module__
    return _on_task_done
