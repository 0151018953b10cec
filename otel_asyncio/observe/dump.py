"""The tree of live tasks as text: who awaits whom, where, since when, and where each one's time went.

May be called from any thread, also while a loop is blocked, and from a signal handler: everything here is read, no lock
is taken, and nothing that the interrupted code may be in the middle of is called. What changes meanwhile may be left
out.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.awaits import tasks_of
from otel_asyncio.observe.chain import chain_of, follow
from otel_asyncio.observe.code import describe, info_of
from otel_asyncio.observe.records import NOT_READY, TaskRecord
from otel_asyncio.observe.resources import waited_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from otel_asyncio.observe.observation import Observation

logger = logging.getLogger("otel_asyncio")

_SECOND = 1e9
_STDERR = 2
_TRIES = 100
_DEEPEST = 64

known: weakref.WeakSet[Observation] = weakref.WeakSet()
"""Every observation whose loops are to be looked at."""


def text_of_tasks() -> str:
    """The live tasks of every observed loop, and of the one that runs in this thread."""
    loops = {id(loop): loop for loop in _observed_loops()}
    running = asyncio._get_running_loop()
    if running is not None:
        loops.setdefault(id(running), running)
    lines: list[str] = []
    for loop in loops.values():
        if not loop.is_closed():
            lines += _LoopDump(loop).lines()
    return "\n".join([*(lines or ["no event loop is known"]), ""])


def _observed_loops() -> list[Any]:
    """The loops, although other threads make and drop some meanwhile."""
    found: list[Any] = []
    for observation in _copy(known):
        found += _copy(observation.loops)
    return found


def _copy(items: Any) -> list[Any]:
    for _ in range(_TRIES):
        try:
            return list(items)
        except RuntimeError:  # it has changed while it was walked
            continue
    return []


class _LoopDump:
    """One loop's tasks at one moment."""

    def __init__(self, loop: Any) -> None:
        self._state = getattr(loop, "_otel_asyncio", None)
        self._locks = None if self._state is None else self._state.observation.locks
        self._now: int = time.perf_counter_ns() if self._state is None else self._state.now()
        self._tasks = sorted(_copy(asyncio.all_tasks(loop)), key=_age)
        self._awaits: dict[int, list[Any]] = {}
        self._links: dict[int, list[Any]] = {}
        for task in self._tasks:
            links = follow(task)
            self._links[id(task)] = links
            self._awaits[id(task)] = sorted((other for other in tasks_of(links) if not other.done()), key=_age)
        self._printed: set[int] = set()
        self._title = f"{type(loop).__module__}.{type(loop).__qualname__}"

    def lines(self) -> Iterator[str]:
        """The loop, then its tasks: first those that nobody awaits, each with those that it awaits below it."""
        number = "" if self._state is None else f" {self._state.id}"
        yield f"event loop{number} ({self._title}): {len(self._tasks)} tasks"
        awaited = {id(other) for others in self._awaits.values() for other in others}
        roots = [task for task in self._tasks if id(task) not in awaited]
        yield from self._subtrees(roots)
        yield from self._subtrees(self._tasks)  # what is left awaits itself in a circle

    def _subtrees(self, roots: list[Any]) -> Iterator[str]:
        waiting = [(task, 1) for task in reversed(roots) if id(task) not in self._printed]
        while waiting:
            task, depth = waiting.pop()
            indent = "  " * min(depth, _DEEPEST)
            if id(task) in self._printed:
                if depth > 1:
                    yield f"{indent}{task.get_name()} (see above)"
                continue
            self._printed.add(id(task))
            yield indent + self._describe(task)
            waiting += [(other, depth + 1) for other in reversed(self._awaits.get(id(task), []))]

    def _describe(self, task: Any) -> str:
        record = getattr(task, "_otel_asyncio", None)
        recorded = record if type(record) is TaskRecord else None
        parts = [f"{task.get_name()} {describe(task.get_coro())[1]}:", self._doing(task, recorded)]
        if recorded is not None:
            split = recorded.split(self._now)
            times = zip(("busy", "scheduled", "idle"), split[:3], strict=True)
            parts.append(f"[{', '.join(f'{word} {_seconds(spent)}' for word, spent in times)}]")
        return " ".join(parts)

    def _doing(self, task: Any, record: TaskRecord | None) -> str:
        links = self._links.get(id(task), [])
        where = _running_at(links)
        if where is not None:
            since = "" if record is None or not record.step_started else f" for {self._since(record.step_started)}"
            return f"running{since}{where}"
        chain = chain_of(links, 1)
        at = "" if chain.blame is None else f" at {chain.blame.code.file}:{chain.blame.line} in {chain.blame.qualname}"
        if record is not None and record.ready != NOT_READY:
            return f"ready for {self._since(max(record.ready, record.suspended))}{at}"
        since = "" if record is None else f" for {self._since(record.suspended)}"
        return f"waiting{since} for {chain.target}{at}{self._holder(links)}"

    def _holder(self, links: list[Any]) -> str:
        resource = waited_for(links)
        hold = None
        if self._locks is not None and isinstance(resource, asyncio.Lock):
            hold = self._locks.holder_of(resource)
        if hold is None:
            return ""
        site = "" if hold.site is None else f", taken at {hold.site.code.co_filename}:{hold.site.line}"
        return f", held by {hold.task_name or 'nobody known'} for {self._since(hold.since)}{site}"

    def _since(self, moment: int) -> str:
        return _seconds(self._now - moment)


def _age(task: Any) -> tuple[int, str]:
    record = getattr(task, "_otel_asyncio", None)
    return (record.id, "") if type(record) is TaskRecord else (0, task.get_name())


def _seconds(nanoseconds: int) -> str:
    return f"{max(nanoseconds, 0) / _SECOND:.3f} s"  # a step may have begun since the clock was read


def _running_at(links: list[Any]) -> str | None:
    """Where a task runs that runs now: the innermost line of the program in its thread. None: it does not run."""
    coro = links[0] if len(links) == 1 else None
    if coro is None or not getattr(coro, "cr_running", False):
        return None
    frame: FrameType | None = None
    stacks = sys._current_frames()
    try:
        for innermost in tuple(stacks.values()):
            where, frame = "", innermost
            while frame is not None:
                code = frame.f_code
                if not where and not info_of(code, frame.f_globals.get("__name__")).internal:
                    where = f" at {code.co_filename}:{frame.f_lineno} in {code.co_qualname}"
                if frame is coro.cr_frame:
                    return where
                frame = frame.f_back
        return ""
    finally:
        stacks.clear()
        frame = innermost = None  # type: ignore[assignment]  # one of them is this very frame


def when_signalled(number: int) -> Callable[[], None]:
    """Write the tree of live tasks to standard error whenever this signal comes; returns the way to stop.

    Whoever has had the signal before is called afterwards. Written past `sys.stderr`, which the interrupted code may
    be in the middle of. A signal's handler can be set in the main thread only; elsewhere a warning says so.
    """

    def handler(signum: int, frame: FrameType | None) -> None:
        os.write(_STDERR, text_of_tasks().encode(errors="backslashreplace"))
        if callable(before):
            before(signum, frame)

    try:
        before = signal.signal(number, handler)
    except ValueError:
        logger.warning("otel_asyncio: dump_signal=%s is not watched: instrument in the main thread for that", number)
        return lambda: None

    def undo() -> None:
        if threading.current_thread() is threading.main_thread() and signal.getsignal(number) is handler:
            signal.signal(number, before)

    return undo
