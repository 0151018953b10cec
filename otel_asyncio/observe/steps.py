"""The hot path: a step is announced to `call_soon`, then it runs; between the two lies the wait for the loop.

Every announcement passes one `call_soon` on asyncio and on uvloop alike. A step is recognised by the exact type of
its callback; `__self__` alone would not do, since `call_soon(task.cancel)` has a task there as well. What is put in
its place is a method bound to the same task, so that debug mode goes on naming the task it belongs to.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import weakref
from asyncio import base_events, base_futures, events
from functools import wraps
from types import BuiltinMethodType, CodeType, MethodType
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.loops import submitted
from otel_asyncio.observe.patching import is_stock
from otel_asyncio.observe.records import EXITS, NOT_READY, Kind
from otel_asyncio.observe.tasks import drop_own_frames

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_asyncio.observe.observation import Observation

# The C task's wake-up is a builtin of this name; its plain step is a type of its own, which only a task can show.
_WAKEUP = "task_wakeup"


class _Catcher:
    """A loop that only catches what a task announces to it."""

    caught: Any = None

    def call_soon(self, callback: Any, *_: Any, **__: Any) -> None:
        self.caught = callback

    def get_debug(self) -> bool:
        return False


def _step_type() -> type:
    """The type of a C task's step callback (`TaskStepMethWrapper`, not importable)."""

    async def probe() -> None: ...

    loop, coro = _Catcher(), probe()
    # Named, because a name that is not given is counted: the program's first task stays Task-1.
    task: Any = asyncio.tasks.Task(coro, loop=loop, name="otel_asyncio probe")  # type: ignore[arg-type]
    task._log_destroy_pending = False
    coro.close()
    return type(loop.caught)


_SUBMISSION = "run_coroutine_threadsafe.<locals>.callback"

STEP_TYPE = _step_type()
# Of how many steps of a task one goes into the histogram of delays: its first, and one in so many after that.
_DELAY_EVERY = 16
_PENDING, _FINISHED = base_futures._PENDING, base_futures._FINISHED
_NO_FUTURE = object()  # a plain step; a wake-up has the future that was awaited as its argument
_PyTask: Any = asyncio.tasks._PyTask  # type: ignore[attr-defined]
PY_STEPS = frozenset({_PyTask._Task__step, _PyTask._Task__wakeup})

# What BaseEventLoop.call_soon does outside debug mode, read in these releases: make a Handle, append it to _ready.
_HANDLE_SLOTS = {"_args", "_callback", "_cancelled", "_context", "_loop", "_repr", "_source_traceback", "__weakref__"}
_DIRECT = (3, 11) <= sys.version_info[:2] <= (3, 15) and set(events.Handle.__slots__) == _HANDLE_SLOTS
STOCK_CALL_SOON = base_events.BaseEventLoop.call_soon
_STOCK_APPEND = base_events.BaseEventLoop._call_soon  # type: ignore[attr-defined]
_STOCK_GET_DEBUG = base_events.BaseEventLoop.get_debug
_STOCK_HANDLE = events.Handle.__init__


def takes_handles_directly(cls: Any) -> bool:
    """Whether the `call_soon` of this loop class may be done in place rather than called."""
    return (
        _DIRECT
        and getattr(cls, "_call_soon", None) is _STOCK_APPEND
        and cls.get_debug is _STOCK_GET_DEBUG
        and events.Handle.__init__ is _STOCK_HANDLE
        and is_stock(_STOCK_HANDLE, "extract_stack")
        and is_stock(_STOCK_APPEND, "Handle")
        and is_stock(STOCK_CALL_SOON, "_call_soon")
    )


def make_call_soon(observation: Observation, original: Callable[..., Any]) -> Callable[..., Any]:
    """The `call_soon` that announces steps, for a class whose own is `original`."""
    # In place only of asyncio's own: a subclass that has its own call_soon wants to be called.
    if original is STOCK_CALL_SOON:
        return _make_call_soon_in_place(observation, original)
    now, adopt, bind, plain = observation.clock.monotonic_ns, observation.adopt, MethodType, observation.plain
    step_type, builtin, method, py_steps, wakeup = STEP_TYPE, BuiltinMethodType, MethodType, PY_STEPS, _WAKEUP

    @wraps(original, updated=())
    def call_soon(self: Any, callback: Any, *args: Any, context: Any = None) -> Any:
        kind = type(callback)
        if (
            kind is step_type
            or (kind is builtin and callback.__name__ == wakeup)
            or (kind is method and callback.__func__ in py_steps)
        ):
            task = callback.__self__
            try:
                record = task._otel_asyncio
            except AttributeError:
                record = adopt(self, task, context)
            if record is plain:
                announced = task._otel_asyncio_step
            else:
                if record.notes_ready:
                    record.ready = now()
                announced = bind(record.step, task)
            if args:
                handle = original(self, announced, callback, args[0], context=context)
            else:
                handle = original(self, announced, callback, context=context)
        else:
            handle = original(self, callback, *args, context=context)
        if self.get_debug():
            drop_own_frames(handle)
        return handle

    return call_soon


def make_call_soon_of(observation: Observation, original: Callable[..., Any], loop: Any) -> Callable[..., Any]:
    """The same as an attribute of this one loop, which it holds weakly."""
    announce, ref = make_call_soon(observation, original), weakref.ref(loop)

    def call_soon(callback: Any, *args: Any, context: Any = None) -> Any:
        return announce(ref(), callback, *args, context=context)

    return call_soon


def _make_call_soon_in_place(observation: Observation, original: Callable[..., Any]) -> Callable[..., Any]:
    """The same for asyncio's own, done rather than called where nobody can tell: outside debug mode.

    The handle is written out too: what `Handle.__init__` does then is to fill its slots.
    """
    now, adopt, bind, plain = observation.clock.monotonic_ns, observation.adopt, MethodType, observation.plain
    step_type, builtin, method, py_steps, wakeup = STEP_TYPE, BuiltinMethodType, MethodType, PY_STEPS, _WAKEUP
    direct, copy_context = observation.direct, contextvars.copy_context
    Handle: Any = events.Handle  # noqa: N806
    empty = Handle.__new__

    @wraps(original, updated=())
    def call_soon(self: Any, callback: Any, *args: Any, context: Any = None) -> Any:
        kind = type(callback)
        if (
            kind is step_type
            or (kind is builtin and callback.__name__ == wakeup)
            or (kind is method and callback.__func__ in py_steps)
        ):
            task = callback.__self__
            try:
                record = task._otel_asyncio
            except AttributeError:
                record = adopt(self, task, context)
            if record is plain:
                announced = task._otel_asyncio_step
            else:
                if record.notes_ready:
                    record.ready = now()
                announced = bind(record.step, task)
            args = (callback, args[0]) if args else (callback,)
            callback = announced
        if type(self) in direct and not self._debug and not self._closed:
            handle = empty(Handle)
            handle._context = copy_context() if context is None else context
            handle._loop, handle._callback, handle._args = self, callback, args
            handle._cancelled, handle._repr, handle._source_traceback = False, None, None
            self._ready.append(handle)
            return handle
        handle = original(self, callback, *args, context=context)
        if self._debug:
            drop_own_frames(handle)
        return handle

    return call_soon


def make_call_soon_threadsafe(observation: Observation, original: Callable[..., Any]) -> Callable[..., Any]:
    """The `call_soon_threadsafe` that notes which line calls `run_coroutine_threadsafe`, in the thread that does."""

    def call_soon_threadsafe(self: Any, callback: Any, *args: Any, context: Any = None) -> Any:
        if getattr(callback, "__qualname__", None) == _SUBMISSION:
            submitted(observation, self, callback)
        elif getattr(callback, "__name__", None) == "cancel":
            observation.cancellations.handed_over(self, callback)
        handle = original(self, callback, *args, context=context)
        if self.get_debug():
            drop_own_frames(handle)
        return handle

    return call_soon_threadsafe


def make_step(observation: Observation) -> Callable[..., None]:  # noqa: C901 - written out, it runs on every step
    """The step of a recorded task: two clock reads and a few integers around asyncio's own.

    A long wait is told before asyncio's step runs, while the coroutine still stands where it was suspended.
    """
    now = observation.clock.monotonic_ns
    finish, waited, held = observation.finish, observation.waited, observation.held
    limits = observation.limits
    longest_wait, longest_step = min(limits.wait, limits.long), limits.step
    nothing = _NO_FUTURE

    def step(task: Any, callback: Any, future: Any = nothing) -> None:  # noqa: C901, PLR0912
        record = task._otel_asyncio
        loop = record.loop
        outer = loop.running
        loop.running = record
        started = record.step_started = now()
        # A task that yields announces its next step from inside this one: ready is never before suspended.
        ready, suspended = record.ready, record.suspended
        record.ready = NOT_READY
        if not record.steps:
            record.first_step = started
            if record.kind is not Kind.ADOPTED:
                ready = suspended  # it was ready when it was created
        if ready <= suspended:
            ready = suspended
        elif ready - suspended > record.max_idle:
            record.max_idle = ready - suspended
        record.scheduled += started - ready
        if loop.metered and not record.steps % _DELAY_EVERY:
            loop.shard.delays.offer((started - ready, record))
        if started - suspended >= longest_wait and record.steps:
            waited(record, task, None if future is nothing else future, ready, started)
        try:
            if future is nothing:
                callback()
            else:
                callback(future)
        except EXITS as error:
            error.__traceback__ = error.__traceback__.tb_next  # type: ignore[union-attr]  # this frame, taken off
            raise
        finally:
            ended = record.suspended = now()
            loop.running = outer
            record.step_started = 0
            record.steps += 1
            took = ended - started
            record.busy += took
            if took > record.max_step:
                record.max_step = took
            if took >= longest_step:
                held(record, task, started, ended)
            if task.done():
                finish(record, task, future)
            # The frame of a coroutine that raised leads back here: whatever leads from here to the task would close
            # a cycle with the exception (as in CPython's Handle._run).
            task = callback = future = record = outer = None

    return step


def make_unrecorded_step(observation: Observation) -> Callable[..., None]:
    """The step of a task that gets no span: its end is counted; here, where it has returned and that is all."""
    finish = observation.finish_unrecorded
    undecided, outbox = observation.timeouts.pending, observation.outbox
    nothing = _NO_FUTURE

    def step(task: Any, callback: Any, future: Any = nothing) -> None:
        try:
            if future is nothing:
                callback()
            else:
                callback(future)
        except EXITS as error:
            error.__traceback__ = error.__traceback__.tb_next  # type: ignore[union-attr]  # this frame, taken off
            raise
        finally:
            state = task._state  # it tells in one call what done() and cancelled() do
            if (
                state is _FINISHED
                and task._exception is None
                and task._otel_asyncio.is_all
                and not (undecided or outbox)
            ):
                task.get_loop()._otel_asyncio.shard.succeeded += 1
            elif state is not _PENDING and state != _PENDING:  # they are the same string, as a rule
                finish(task, future)
            task = callback = future = None

    return step


def _step_made_by(make: Any) -> CodeType:
    return next(item for item in make.__code__.co_consts if isinstance(item, CodeType) and item.co_name == "step")


STEP_CODE, UNRECORDED_STEP_CODE = _step_made_by(make_step), _step_made_by(make_unrecorded_step)
"""What the frames of steps are known by, in a stack."""
