"""The observed task: a subclass of asyncio's own that differs in one slot, and the ways in which one is made."""

from __future__ import annotations

import asyncio
import sys
from asyncio import base_events
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.code import PACKAGE
from otel_asyncio.observe.glimpses import glimpse
from otel_asyncio.observe.overrides import overrides
from otel_asyncio.observe.records import EXITS

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from otel_asyncio.observe.loops import LoopState
    from otel_asyncio.observe.records import TaskRecord, Unrecorded

# 3.13.0 to 3.13.2 call set_name(None) on every unnamed task that a factory made (gh-130033).
_NAMES_BECOME_NONE = (3, 13, 0) <= sys.version_info[:3] <= (3, 13, 2)


class ObservedClasses(dict[type[asyncio.Task[Any]], type[asyncio.Task[Any]]]):
    """The subclass of each task class that has a slot for the record of each task.

    Asked with `asyncio.tasks.Task` as it is at the time: nest_asyncio and CPython's own tests put the pure-Python
    class there, and a C task on such a loop would live in another world of current tasks.
    """

    def __missing__(self, base: type[asyncio.Task[Any]]) -> type[asyncio.Task[Any]]:
        self[base] = _subclass(base, {"__slots__": ("_otel_asyncio",)})
        return self[base]


observed_classes = ObservedClasses()


class PlainClasses(dict[type[asyncio.Task[Any]], type[asyncio.Task[Any]]]):
    """The subclass of each task class whose tasks have one stand-in for a record: nothing is done for each of them.

    It binds their step as well, at half of what a `MethodType` takes.
    """

    def __init__(self, unrecorded: Unrecorded) -> None:
        self._unrecorded = unrecorded

    def __missing__(self, base: type[asyncio.Task[Any]]) -> type[asyncio.Task[Any]]:
        plain = self._unrecorded
        body = {"__slots__": (), "_otel_asyncio": plain, "_otel_asyncio_step": plain.step}
        self[base] = _subclass(base, body)
        return self[base]


def _subclass(base: type[asyncio.Task[Any]], body: dict[str, Any]) -> type[asyncio.Task[Any]]:
    if _NAMES_BECOME_NONE:

        def set_name(self: Any, value: object) -> None:
            if value is not None:
                base.set_name(self, value)

        body["set_name"] = set_name
    body |= overrides(base)
    metaclass: Any = type(base)
    cls: type[asyncio.Task[Any]] = metaclass(
        base.__name__, (base,), body | {"__module__": base.__module__, "__doc__": base.__doc__}
    )
    cls.__qualname__ = base.__qualname__
    return cls


def make_task(
    state: LoopState, loop: Any, coro: Any, name: Any = None, context: Context | None = None, eager_start: Any = False
) -> Any:
    """Make the task that asyncio would make, observed."""
    eager = eager_start and loop.is_running()  # the test of the C constructor: else it is scheduled as ever
    place = state.place(context)
    if place is not None or state.shard.started >= state.shard.glimpse_at:
        return make_recorded(state, place, loop, coro, name, context, eager=eager)
    cls = state.observation.plain_classes[asyncio.tasks.Task]
    if eager:
        task: Any = cls.__new__(cls)
        try:
            _start_eagerly(state.unrecorded, task, loop, coro, name, context)
        except BaseException as error:
            state.shard.started += isinstance(error, EXITS)  # it was made, and ended
            task = None
            raise
    else:
        task = cls(coro, loop=loop, name=name, context=context)
    state.shard.started += 1
    return hidden(task) if task._source_traceback else task


def make_recorded(
    state: LoopState, place: Any, loop: Any, coro: Any, name: Any, context: Context | None, *, eager: Any = False
) -> Any:
    """Make a task at a place in a trace; at none (None), one of which there is to be a glimpse.

    The record is in its place before the constructor runs, because the constructor announces the first step.
    """
    record, shard = None, state.shard
    if place is not None:
        record, context = state.admit(place, coro, context, eager=eager)
    if record is not None and record.timed:
        shard.glimpse_at += 1  # which is about the others
    elif record is None or shard.started >= shard.glimpse_at:
        record = glimpse(state, coro)
    cls = observed_classes[asyncio.tasks.Task]
    task: Any = cls.__new__(cls)
    task._otel_asyncio = record
    if record.timed:
        record.begin(task)
    try:
        if eager:
            _start_eagerly(record, task, loop, coro, name, context)
        else:
            task.__init__(coro, loop=loop, name=name, context=context)
    except BaseException as error:
        if record.timed and record.outcome is None:
            record.abandon()
        elif record.timed or isinstance(error, EXITS):  # it was made, and its first step ended the program
            shard.started += 1
        task = None
        raise
    shard.started += 1
    return hidden(task) if task._source_traceback else task


def hidden(task: Any) -> Any:
    """The task, made in debug mode, with no frame of ours where it says it was made."""
    drop_own_frames(task)
    _drop_loops_frame(task)
    return task


def _start_eagerly(
    record: TaskRecord | Unrecorded, task: Any, loop: Any, coro: Any, name: Any, context: Context | None
) -> None:
    """Run the constructor of an eager task as what it is: the task's first step."""
    failure: BaseException | None = None

    def construct() -> None:
        nonlocal failure, task
        try:
            type(task).__init__(task, coro, loop=loop, name=name, context=context, eager_start=True)
        except BaseException as error:
            failure = error
            task = None  # the traceback leads to this frame, and would keep the task from dying when it does
            raise

    try:
        record.step(task, construct)
    except RuntimeError as error:
        # A task whose constructor refused its arguments cannot even be asked whether it is done.
        raise failure or error from None
    finally:
        failure = task = None


def make_foreign(
    state: LoopState, make: Callable[..., Any], coro: Any, context: Context | None, /, *args: Any, **kwargs: Any
) -> Any:
    """Let somebody else's factory make the task, and observe what comes out as far as it lets itself be observed.

    The factory gets exactly the arguments it would have got. The task's span becomes current by making the task in
    a context that has it, from which the task takes its own copy; not where the program chose the context.
    """
    place = state.place(context)
    record: Any = state.unrecorded
    ours: Any = context
    if place is not None:
        record, ours = state.admit(place, coro, context, eager=False)
    if not record.timed:
        return make(*args, **kwargs)
    state.expected = record
    try:
        task = make(*args, **kwargs) if ours is context else ours.run(make, *args, **kwargs)
    finally:
        state.expected = None
    if record.task is None and record.outcome is None and isinstance(task, asyncio.Task):
        # Not seen in the constructor: its first step ran eagerly there, or it is no task that we know.
        if task.done():
            record.begin(task)
            state.shard.started += 1
            state.observation.finish(record, task)
        else:
            state.take(task, record)
    return task


def drop_own_frames(made: Any) -> None:
    """In debug mode, take this package's frames off the end of where a task or handle says it was made."""
    stack = getattr(made, "_source_traceback", None)
    while stack and stack[-1].filename.startswith(PACKAGE):
        del stack[-1]


def hide_own_frames(error: BaseException, *, keep: int) -> None:
    """Take this package's frames off the head of a traceback, all but the first `keep`.

    An eager task whose first step ends the program lets the exception out of its constructor. The frames that made
    it hold the task, and asyncio alone would have let it go by now.
    """
    last, entry = None, error.__traceback__
    for _ in range(keep):
        last, entry = entry, entry and entry.tb_next
    while entry is not None and entry.tb_frame.f_code.co_filename.startswith(PACKAGE):
        entry = entry.tb_next
    if last is None:
        error.__traceback__ = entry
    else:
        last.tb_next = entry


def _drop_loops_frame(task: Any) -> None:
    """And the frame of the loop's own `create_task`, which asyncio takes off only where no factory is set."""
    stack = task._source_traceback
    if stack and stack[-1].name == "create_task" and stack[-1].filename == base_events.__file__:
        del stack[-1]
