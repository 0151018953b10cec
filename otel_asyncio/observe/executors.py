"""Work handed to an executor: when it was queued, when it ran, in which thread, whether it had to wait for a worker.

`loop.run_in_executor` is what `asyncio.to_thread` calls, and asyncio itself for name look-ups. What is handed to a pool
of threads is put into a callable that notes the times; what goes into a pool of processes is pickled there, so it is
left alone, and the future that stands for it is asked instead.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import sys
import threading
import weakref
from asyncio import base_events, threads
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.calls import Call, ExecutorKind, Pool, Stage
from otel_asyncio.observe.observer import Guard
from otel_asyncio.observe.tasks import hide_own_frames

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor, Future

    from otel_asyncio.observe.clock import Clock
    from otel_asyncio.observe.observer import Sink
    from otel_asyncio.observe.records import TaskRecord

_TO_THREAD = threads.to_thread.__code__
_STOCK = base_events.BaseEventLoop.run_in_executor
# A pool of interpreters (3.14) is a pool of threads which pickles what it is given; this is what it overrides.
_PREPARE = getattr(ThreadPoolExecutor, "prepare_context", None)


class Work:
    """What is handed to a pool of threads in place of the function; it has the names that the function has."""

    __slots__ = ("_call", "_executors", "_function")

    def __init__(self, executors: Executors, call: Call, function: Any) -> None:
        self._executors, self._call, self._function = executors, call, function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function; what it returns and raises is what this does, to the traceback."""
        executors, call = self._executors, self._call
        token, failure = executors.begin(call), None
        try:
            return self._function(*args, **kwargs)
        except BaseException as error:
            error.__traceback__ = error.__traceback__.tb_next  # type: ignore[union-attr]  # this frame, taken off
            failure = error
            raise
        finally:
            executors.end(call, token, failure)
            del self, args, kwargs, failure  # the frame of a function that raised leads back here

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)

    def __reduce_ex__(self, _: Any) -> Any:
        return _itself, (self._function,)  # where a pool pickles it after all, the function is what arrives


class Executors:
    """Follows the work that loops hand to executors.

    Args:
        sink: makes a span of each, and carries OpenTelemetry's context along.
        clock: where time comes from.
        running: the record of the task that runs in this thread.
        longest_wait: work that waits for a busy worker for longer (ns) says that its pool is saturated.
    """

    def __init__(self, sink: Sink, clock: Clock, running: Callable[[], TaskRecord | None], longest_wait: int) -> None:
        self._sink = sink
        self._clock = clock
        self._running = running
        self._longest_wait = longest_wait
        self._guard = Guard("executors")
        self._last_end: dict[int, int] = {}
        """When each worker thread was last seen to end something."""
        self._pools: weakref.WeakKeyDictionary[Any, Pool] = weakref.WeakKeyDictionary()
        self._proven: weakref.WeakSet[Executor] = weakref.WeakSet()
        """The pools of processes that have done something: before that, waiting is for them to start."""

    def submitting(self, loop: Any, executor: Any, function: Any, *, strict: bool, in_copy: bool) -> Call | None:
        """A function is about to be handed to an executor. None: it is to be handed over as it is, and not followed.

        `in_copy`: whether it runs in a context of its own, as `asyncio.to_thread` makes one.
        """
        if self._guard.failed or not callable(function):
            return None
        try:
            if (strict or loop.get_debug()) and inspect.iscoroutinefunction(function):
                return None  # refused by the loop, in its own words
            pool = self._pool_of(loop if executor is None else executor)
            call = Call(self._running(), _kind_of(loop, executor), pool, function, self._clock)
            call.full = _is_full(executor or getattr(loop, "_default_executor", None), len(pool.open))
            pool.open.add(call)
            if in_copy:
                call.context = _context_of(function)
            self._sink.submitted(call)
        except Exception as error:  # noqa: BLE001 - the border of the package
            self._guard.fail(error)
            return None
        return call

    def follow(self, call: Call, executor: Any, future: Any) -> None:
        """The function was handed over; `future` is what the loop has made of it."""
        try:
            source = source_of(future)
            if source is None:
                if call.kind is not ExecutorKind.THREAD:
                    call.pool.open.discard(call)  # nobody will say that it is done
                return
            if call.kind is ExecutorKind.PROCESS:
                self._watch_start(call, executor, source)
            source.add_done_callback(functools.partial(self._done, call, weakref.ref(executor) if executor else None))
        except Exception as error:  # noqa: BLE001 - the border of the package
            self._guard.fail(error)

    def _pool_of(self, executor: Any) -> Pool:
        """What is kept of an executor; the loop stands for its default one."""
        try:
            return self._pools[executor]
        except KeyError:
            return self._pools.setdefault(executor, Pool())
        except TypeError:  # somebody's own, without a hash or weak references
            return Pool()

    def call_of(self, source: Future[Any] | None) -> Call | None:
        """The piece of work that an executor's future stands for, as long as it is not done."""
        for callback in getattr(source, "_done_callbacks", ()):
            if type(callback) is functools.partial and callback.func == self._done:
                call: Call = callback.args[0]
                return call
        return None

    def begin(self, call: Call) -> Any:
        """A worker thread begins; what is returned is for `end`."""
        try:
            call.thread_id, call.thread_name = threading.get_ident(), threading.current_thread().name
            waited = call.taken_up(self._clock.monotonic_ns())
            was_busy = self._last_end.get(call.thread_id, 0) > call.queued
            call.saturated = was_busy and call.full and waited >= self._longest_wait
            return call.activity.enter() if call.activity is not None and call.context is None else None
        except Exception as error:  # noqa: BLE001 - the border of the package
            self._guard.fail(error)
            return None

    def end(self, call: Call, token: Any, error: BaseException | None) -> None:
        """The function has returned, or raised. Its future is not done yet: who waits for it finds the span ended."""
        try:
            call.ended = self._clock.monotonic_ns()
            if call.thread_id is not None:
                self._last_end[call.thread_id] = call.ended
            if token is not None:
                call.activity.leave(token)
            call.done(Stage.RETURNED)
            self._sink.returned(call, error)
        except Exception as failure:  # noqa: BLE001 - the border of the package
            self._guard.fail(failure)

    def _watch_start(self, call: Call, executor: Any, source: Future[Any]) -> None:
        """See when a pool of processes hands the work to its workers: they take one more than they can run."""
        ref, proven = weakref.ref(source), executor in self._proven

        def set_running_or_notify_cancel() -> bool:
            future: Any = ref()
            del future.set_running_or_notify_cancel
            runs: bool = future.set_running_or_notify_cancel()
            if runs and call.stage is Stage.QUEUED:
                waited = call.taken_up(self._clock.monotonic_ns())
                call.saturated = proven and call.full and waited >= self._longest_wait
            return runs

        if source.running() or source.done():
            call.started = call.queued
        else:
            source.set_running_or_notify_cancel = set_running_or_notify_cancel  # type: ignore[method-assign]

    def _done(self, call: Call, executor: weakref.ref[Any] | None, source: Future[Any]) -> None:
        """The future is done: cancelled before any worker took it, or by a worker that is not one of our threads."""
        try:
            dropped = source.cancelled()
            if call.kind is ExecutorKind.THREAD and not dropped:
                return
            call.ended = self._clock.monotonic_ns()
            call.done(Stage.DROPPED if dropped else Stage.RETURNED)
            pool = executor() if executor is not None else None
            if pool is not None and call.kind is ExecutorKind.PROCESS and not dropped:
                self._proven.add(pool)
            self._sink.returned(call, None if dropped else source.exception())
        except Exception as error:  # noqa: BLE001 - the border of the package
            self._guard.fail(error)


def handing_over(executors: Executors, original: Callable[..., Any]) -> Callable[..., Any]:
    """What a `run_in_executor` does, `original` being the loop's own."""
    strict = original is not _STOCK  # uvloop looks for coroutine functions always, asyncio in debug mode

    def hand_over(loop: Any, executor: Any, function: Any, args: tuple[Any, ...], in_copy: bool) -> Any:
        call = executors.submitting(loop, executor, function, strict=strict, in_copy=in_copy)
        if call is None:
            return original(loop, executor, function, *args)
        work = Work(executors, call, function) if call.kind is ExecutorKind.THREAD else function
        try:
            future = original(loop, executor, work, *args)
        except BaseException:
            call.pool.open.discard(call)
            raise
        executors.follow(call, executor, future)
        return future

    return hand_over


def make_run_in_executor(executors: Executors, original: Callable[..., Any]) -> Callable[..., Any]:
    """The `run_in_executor` that follows the work, for a class whose own is `original`."""
    hand_over = handing_over(executors, original)

    def run_in_executor(self: Any, executor: Any, func: Any, *args: Any) -> Any:
        try:
            return hand_over(self, executor, func, args, comes_from_to_thread())
        except BaseException as error:
            hide_own_frames(error, keep=0)
            raise

    return run_in_executor


def comes_from_to_thread() -> bool:
    """Whether the caller of whoever calls this is `asyncio.to_thread`."""
    return sys._getframe(2).f_code is _TO_THREAD


def _itself(function: Any) -> Any:
    return function


def _kind_of(loop: Any, executor: Any) -> ExecutorKind | None:
    executor = executor or getattr(loop, "_default_executor", None)
    if executor is None:
        return ExecutorKind.THREAD  # what a loop makes for itself
    kind = type(executor)
    if issubclass(kind, ThreadPoolExecutor) and getattr(kind, "prepare_context", None) == _PREPARE:
        return ExecutorKind.THREAD
    return ExecutorKind.PROCESS if issubclass(kind, ProcessPoolExecutor) else None


def _is_full(executor: Any, taken: int) -> bool:
    """Whether a pool has as many workers as it may have, and work for each: `taken` from loops, or queued by anybody.

    Otherwise the work starts a worker, and may wait for that; or one is free, and on a crowded machine slower to come
    than another that has just become free.
    """
    workers = getattr(executor, "_max_workers", 0)
    if len(getattr(executor, "_threads", range(workers))) < workers:
        return False
    queue = getattr(executor, "_work_queue", None)
    return taken >= workers or (queue is not None and queue.qsize() >= workers)


def _context_of(function: Any) -> contextvars.Context | None:
    """The context in the `partial(context.run, …)` that `asyncio.to_thread` hands over. Its own copy, nobody else's."""
    owner = getattr(getattr(function, "func", None), "__self__", None)
    return owner if type(owner) is contextvars.Context else None


def source_of(future: Any) -> Future[Any] | None:
    """The executor's own future behind the loop's: `asyncio.wrap_future` ties them by a callback."""
    for callback, _ in getattr(future, "_callbacks", None) or ():
        code = getattr(callback, "__code__", None)
        if code is not None and code.co_qualname == "_chain_future.<locals>._call_check_cancel":
            source = callback.__closure__[code.co_freevars.index("source")].cell_contents
            return source if not asyncio.isfuture(source) else None
    return None
