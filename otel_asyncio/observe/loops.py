"""What is known of each event loop: its live tasks, the task that runs now, and how a new one is taken in."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.cells import LoopCell
from otel_asyncio.observe.code import called_from, creation_point, creation_site, describe, usual
from otel_asyncio.observe.counters import LoopName, Shard
from otel_asyncio.observe.looptime import measures_exactly, time_selector
from otel_asyncio.observe.overrides import let_go_of_foreign, watch_foreign
from otel_asyncio.observe.records import NOT_READY, Kind, TaskRecord

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextvars import Context

    from otel_asyncio.observe.observation import Observation
    from otel_asyncio.observe.problems import Closed
    from otel_asyncio.observe.shutdown import Shutdown
    from otel_asyncio.observe.sites import Site
    from otel_asyncio.observe.watch import Watch

_KIND_BY_CALLER = {
    "Runner.run": Kind.MAIN,
    "BaseEventLoop.run_until_complete": Kind.MAIN,
    "run_coroutine_threadsafe.<locals>.callback": Kind.THREADSAFE,
}
_KIND_CALLERS = frozenset(_KIND_BY_CALLER)
_TASK, _EAGER = Kind.TASK, Kind.EAGER  # a look-up less for every task

# A task made by the loop itself, from a callback, has no line of the program above it.
_MADE_BY_THE_LOOP = {Kind.THREADSAFE, Kind.ASYNCGEN_FINALIZER}

# The context of a task that is made already: no span becomes current in it.
_ITS_OWN = contextvars.Context()

_ids_in_use: set[int] = set()
_ids_lock = threading.Lock()


# What a finalizer may do: it runs anywhere, also while this thread holds the lock, so it takes none.
_ids_given_back: deque[int] = deque()


def _lowest_free_id() -> int:
    with _ids_lock:
        while _ids_given_back:
            _ids_in_use.discard(_ids_given_back.popleft())
        number = next(n for n in range(len(_ids_in_use) + 1) if n not in _ids_in_use)
        _ids_in_use.add(number)
        return number


def nowhere(context: Context | None, running: TaskRecord | None) -> None:
    """The place of a task that is not recorded."""


def nothing() -> None:
    """Nothing was begun, so there is nothing to stop."""


class LoopState(LoopCell):
    """One loop, as one observation sees it. Touched by the thread that runs the loop only."""

    __slots__ = (
        "__weakref__",
        "closed",
        "closed_at",
        "handed",
        "id",
        "implementation",
        "loop",
        "now",
        "stop_timing",
        "submitted",
        "thread",
        "wall",
    )

    def __init__(self, observation: Observation, loop: Any) -> None:
        self.observation = observation
        self.step = observation.step
        self.now, self.wall = observation.clock.monotonic_ns, observation.clock.wall_ns
        self.id = -1 if observation.on_stage else _lowest_free_id()
        self.implementation = implementation_of(loop)
        self.shard = observation.counters.shard(LoopName(self.id, self.implementation))
        self.alive: set[TaskRecord] = set()
        self.closed = self.let_go = self.dozes = False
        self.closed_at: Closed | None = None
        self.running = None
        self.expected: TaskRecord | None = None
        self.submitted: dict[int, Site | None] = {}
        """Where coroutines were submitted from other threads, by their ids, until their tasks are made."""
        self.unrecorded = observation.unrecorded
        self.metered = observation.is_metered()
        if self.metered:
            self.shard.glimpse_at = 0
        timed = self.metered and measures_exactly(loop)
        self.stop_timing = time_selector(loop, self.shard, self.now) if timed else nothing
        self.loop = weakref.ref(loop)
        self.burst = self.counted = self.cancelling = None
        self.handed: dict[int, tuple[Site | None, str]] = {}
        """Which line of which thread handed a `cancel` to this loop, by the id of the task's record."""
        self.shutdown: Shutdown | None = None
        self.thread = 0
        """The thread that runs the loop, where the loop itself does not say; 0: none."""
        self.watch: Watch | None = None
        # Not at exit: nothing is left to be counted there.
        weakref.finalize(loop, _ids_given_back.append, self.id).atexit = False
        weakref.finalize(loop, observation.counters.retired.append, self.shard).atexit = False

    def stir(self) -> None:
        """A task begins, or goes on after a long wait. When nothing has run for long, nothing else can come first."""
        if self.dozes and self.watch is not None:
            self.watch.stir()

    def place(self, context: Context | None) -> Any:
        """Where a task made here and now would stand; None if it is not to be recorded."""
        try:
            return self.observation.place(context, self.running)
        except Exception as error:  # noqa: BLE001 - the border of the package
            self.observation.switch_off_creation(error)
            return None

    def forget(self) -> None:
        """Follow nothing of this loop any more."""
        self.let_go = True
        self.shard = Shard(self.shard.loop)  # whoever ends from here on is counted for nobody
        self.burst = self.counted = None
        self.stop_timing()
        for record in tuple(self.alive):
            let_go_of_foreign(record.task and record.task())
            record.abandon()

    def runs_elsewhere(self) -> bool:
        """Whether the loop runs, and not in this thread."""
        loop = self.loop()
        return loop is not None and asyncio._get_running_loop() is not loop and loop.is_running()

    def signal_handlers(self) -> Iterable[Any]:
        """The handles of `add_signal_handler`; asyncio's own loops only."""
        return tuple(getattr(self.loop(), "_signal_handlers", {}).values())

    def admit(self, place: Any, coro: Any, context: Context | None, *, eager: bool) -> tuple[Any, Context | None]:
        """The record for a task about to be made of `coro` at this place, and the context to make it in."""
        observation, running = self.observation, self.running
        try:
            try:
                code, qualname = usual[id(coro.cr_code)], coro.__qualname__
            except (AttributeError, KeyError):
                code, qualname = describe(coro)
                if code.housekeeping:
                    return self.unrecorded, context
            if running is not None and place.parent is running.span:
                # Nested by our own record: that must be the task that really runs.
                place = observation.place(context, observation.make_sure_of_running(self))
                if place is None:
                    return self.unrecorded, context
            kind = _EAGER if eager else _TASK if running is not None else self._kind_from_outside(coro)
            made_by_loop = running is None and kind in _MADE_BY_THE_LOOP
            made_at = self.submitted.pop(id(coro), None) if made_by_loop else creation_point(4)
            record = TaskRecord(self, self.now(), self.wall(), kind, code, qualname, made_at)
            context = observation.sink.opened(record, place, context)
            if self.dozes:
                self.stir()
        except Exception as error:  # noqa: BLE001 - the border of the package
            observation.switch_off_creation(error)
            return self.unrecorded, context
        return (record, context) if record.span is not None else (self.unrecorded, context)

    def _kind_from_outside(self, coro: Any) -> Kind:
        """The kind of a task that no observed task has made: by a callback, or before the loop runs."""
        if type(coro).__name__ == "async_generator_athrow":
            return Kind.ASYNCGEN_FINALIZER
        caller = called_from(3, _KIND_CALLERS)
        if caller is None and self.implementation == "uvloop":
            # Its run_until_complete is compiled and leaves no frame; what it calls is ensure_future.
            caller = called_from(3, frozenset({"_ensure_future", "ensure_future"}))
            return Kind.MAIN if caller is not None and asyncio._get_running_loop() is None else Kind.TASK
        return _KIND_BY_CALLER.get(caller or "", Kind.TASK)

    def admit_unknown(self, task: Any, context: Context | None, *, born: bool) -> Any:
        """The record of a task that was made past us, if it is to have one.

        A coroutine that has not run yet was made just now, by `asyncio.Task(...)` on a line we can still see; one that
        is `born` now as well, with its first step already begun. Any other was running before we came, and nobody
        knows who made it.
        """
        observation = self.observation
        try:
            coro = task.get_coro()
            suspended = coro.cr_suspended if hasattr(coro, "cr_suspended") else getattr(coro, "gi_suspended", False)
            running = getattr(coro, "cr_running", False) or getattr(coro, "gi_running", False)
            begun = suspended or running
            known = born or not begun
            place = observation.place(context, self.running if known else None)
            if place is None:
                return self.unrecorded
            code, qualname = describe(coro)
            if code.housekeeping:
                return self.unrecorded
            kind = (Kind.EAGER if begun else Kind.TASK) if known else Kind.ADOPTED
            # In the middle of its first step its own frames are the innermost: whoever made it is below them.
            first = getattr(coro, "cr_frame", None) if running else None
            made_at = creation_point(3, first and first.f_back) if known else None
            first = None
            record = TaskRecord(self, self.now(), self.wall(), kind, code, qualname, made_at)
            if begun:
                record.ready = NOT_READY
            observation.sink.opened(record, place, _ITS_OWN)
            self.stir()
        except Exception as error:  # noqa: BLE001 - the border of the package
            observation.switch_off_creation(error)
            return self.unrecorded
        return record if record.span is not None else self.unrecorded

    def take(self, task: Any, record: Any) -> None:
        """From now on this task, which is not of our class, has this record."""
        task._otel_asyncio = record
        if record.timed:
            record.begin(task)
        watch_foreign(task)
        self.shard.started += 1


def submitted(observation: Observation, loop: Any, callback: Any) -> None:
    """`run_coroutine_threadsafe` hands a coroutine to a loop, from the line that calls it."""
    state: LoopState | None = getattr(loop, "_otel_asyncio", None)
    if state is None or observation.creation.failed:
        return
    try:
        cell = callback.__closure__[callback.__code__.co_freevars.index("coro")]
        state.submitted[id(cell.cell_contents)] = creation_site(3)
    except Exception as failure:  # noqa: BLE001 - the border of the package
        observation.switch_off_creation(failure)


def implementation_of(loop: Any) -> str:
    """`asyncio`, `uvloop` or `other` (`asyncio.eventloop.implementation`)."""
    modules = {cls.__module__.partition(".")[0] for cls in type(loop).__mro__}
    if "uvloop" in modules:
        return "uvloop"
    return "asyncio" if "asyncio" in modules else "other"
