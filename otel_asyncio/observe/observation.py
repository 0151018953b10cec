"""One observation: the clock, the sink, the counters, and what is done when a task dies."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe import shutdown
from otel_asyncio.observe.cancellation import CancelDetail
from otel_asyncio.observe.cancelling import Cancellations
from otel_asyncio.observe.code import creation_site
from otel_asyncio.observe.eager import take_in_first_step
from otel_asyncio.observe.executors import Executors
from otel_asyncio.observe.finishing import make_finish, make_finish_unrecorded
from otel_asyncio.observe.flavour import extension
from otel_asyncio.observe.generators import Generators
from otel_asyncio.observe.glimpses import make_glimpse_step
from otel_asyncio.observe.hotpath import make_step, make_unrecorded_step, takes_handles_directly, who_runs
from otel_asyncio.observe.loops import LoopState, nothing, nowhere
from otel_asyncio.observe.looptime import probe
from otel_asyncio.observe.misuse import Misuses
from otel_asyncio.observe.observer import Guard
from otel_asyncio.observe.problems import Closed, HandlerCalls, Problem
from otel_asyncio.observe.records import EAGER_TASKS, NO_LIMITS, Limits, Outcome, TaskRecord, Unrecorded
from otel_asyncio.observe.resources import Locks
from otel_asyncio.observe.tasks import PlainClasses
from otel_asyncio.observe.timeouts import Timeouts

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from otel_asyncio.observe.awaits import Waits
    from otel_asyncio.observe.clock import Clock
    from otel_asyncio.observe.counters import Counters
    from otel_asyncio.observe.growth import Growing
    from otel_asyncio.observe.hanging import Hanging
    from otel_asyncio.observe.observer import Sink
    from otel_asyncio.observe.unawaited import Unawaited
    from otel_asyncio.observe.watching import Watching


class Observation:
    """What all loops of one installation share.

    `outbox` holds what was noticed inside a finalizer. A finalizer runs anywhere, also while this very thread holds a
    lock of a span processor, so what it notices waits there until a task ends, a loop closes or somebody drains it.
    """

    on_stage = False
    """Whether nothing but a rehearsal runs in it."""

    def __init__(
        self,
        sink: Sink,
        clock: Clock,
        counters: Counters,
        *,
        process_wide: bool,
        limits: Limits = NO_LIMITS,
        is_metered: Callable[[], bool] = bool,
        detail: CancelDetail = CancelDetail(),  # noqa: B008 - immutable
    ) -> None:
        self.sink = sink
        self.limits = limits
        self.is_metered = is_metered
        self.process_wide = process_wide
        self.clock = clock
        self.counters = counters
        self.outbox: deque[TaskRecord | Problem] = deque()
        self.direct: set[type] = set()
        self.loops: weakref.WeakSet[Any] = weakref.WeakSet()
        self.creation, self.ending, self.problems = Guard("creation"), Guard("ending"), Guard("problems")
        self.misuses = Misuses(sink, clock, self.problems)
        self.handler_calls = HandlerCalls(self)
        self.generators = Generators(self)
        self.may_collect: Callable[[], bool] = lambda: True
        """Whether this thread may be in the middle of a garbage collection."""
        self.place = sink.place
        vars(self).update(who_runs(self))
        self.waits: Waits | None = None  # set where long waits are looked at, as `limits.wait` says
        self.locks = Locks(clock.monotonic_ns, sink.nest)
        self.executors = Executors(sink, clock, self.running_record, limits.wait)
        self.timeouts = Timeouts(self, detail.depth)
        self.cancellations = Cancellations(self, detail)
        self.finish, self.finish_unrecorded = make_finish(self), make_finish_unrecorded(self)
        self.step: Any = make_step(self)
        self.unrecorded = Unrecorded(make_unrecorded_step(self), self.cancellations)
        self.plain = self.unrecorded if extension is not None else Unrecorded(self.unrecorded.step, self.cancellations)
        """The same for those of a class of their own, by which their steps are told from others, in Python."""
        self.plain_classes = PlainClasses(self.plain)
        self.glimpse_step = make_glimpse_step(self)
        self.cancellations.make_steps()
        self.watching: Watching | None = None
        self.hanging: Hanging | None = None
        self.growing: Growing | None = None
        self.unawaited: Unawaited | None = None

    def switch_off_creation(self, error: BaseException) -> None:
        """From now on no task is recorded."""
        self.creation.fail(error)
        self.place = nowhere

    def state_of(self, loop: Any) -> LoopState:
        """The state of a loop; made, and put on the loop, when the loop is first seen."""
        try:
            return loop._otel_asyncio  # type: ignore[no-any-return]
        except AttributeError:
            return self.enrol(loop)

    def enrol(self, loop: Any) -> LoopState:
        """Take a loop in, and the task of it that is in the middle of a step."""
        state = loop._otel_asyncio = LoopState(self, loop)
        self.loops.add(loop)
        if takes_handles_directly(type(loop)):
            self.direct.add(type(loop))
        for watcher in (self.watching, self.hanging, self.growing, self.unawaited, self.generators):
            if watcher is not None:
                watcher.attend(loop, state)
        running: Any = asyncio.current_task(loop) if asyncio._get_running_loop() is loop else None
        if running is not None:
            self.adopt(loop, running, context_of(running))
        return state

    def probe_loops(self) -> None:
        """Ask each running loop that cannot be timed how busy its thread was. From any thread; answered later."""
        with suppress(RuntimeError):  # a loop was made, or closed, at this very moment: the next time, then
            for loop in tuple(self.loops):
                state: LoopState | None = getattr(loop, "_otel_asyncio", None)
                if state is not None and state.metered and loop.is_running() and state.stop_timing is nothing:
                    loop.call_soon_threadsafe(probe, state.shard, self.clock.monotonic_ns)

    def forget_loops(self) -> None:
        """Take the states off the loops again. What still runs there is no longer followed, nor kept."""
        self.cancellations.active = self.unrecorded.is_all = self.plain.is_all = False
        for loop in tuple(self.loops):
            state: LoopState | None = getattr(loop, "_otel_asyncio", None)
            if state is not None and state.observation is self:
                state.forget()
                del loop._otel_asyncio
        self.loops.clear()

    def running_record(self) -> TaskRecord | None:
        """The record of the task whose step runs in this thread now."""
        loop = asyncio._get_running_loop()
        state: LoopState | None = getattr(loop, "_otel_asyncio", None)
        return None if state is None or state.observation is not self else self.make_sure_of_running(state)

    def make_sure_of_running(self, state: LoopState) -> TaskRecord | None:
        """The record of the current task, which is not the running one if an eager task was started past us.

        `asyncio.Task(..., eager_start=True)` announces its first step to nobody; asked about in the middle of it,
        the task is taken in there.
        """
        task: Any = asyncio.current_task(state.loop())
        record = getattr(task, "_otel_asyncio", None)
        if record is None:
            if task is None:
                return None
            record = state.admit_unknown(task, None, born=True)
            state.take(task, record)
            take_in_first_step(record, state.running)
        return record if isinstance(record, TaskRecord) else None

    def adopt(self, loop: Any, task: Any, context: Context | None) -> Any:
        """A task that was made past us announces a step."""
        state = self.state_of(loop)
        if (record := _record_of(task)) is not None:  # taken in with its loop
            return record
        record, state.expected = state.expected, None
        in_first_step = task in EAGER_TASKS or (state.running is not None and asyncio.current_task(loop) is task)
        if record is None:
            record = state.admit_unknown(task, context, born=in_first_step)
        state.take(task, record)
        if in_first_step:
            take_in_first_step(record, state.running)
        return record

    def registered(self, task: Any, state: LoopState) -> None:
        """Asyncio has entered a task into its list. News only of an eager one, which comes there when it suspends."""
        record = _record_of(task)
        if record is None:
            record, state.expected = state.expected, None
            state.take(task, record or state.admit_unknown(task, task.get_context(), born=True))
        elif record.timed and record.step_started and not record.steps and state.running is not record:
            # Taken in during its first step, of which this is the end.
            record.end_first_step(self.clock.monotonic_ns())

    def waited(self, record: TaskRecord, task: Any, future: Any, ready: int, started: int) -> None:
        """A task runs again, since `started`, after a long wait for `future` (None: not known); ready at `ready`."""
        record.loop.stir()
        if self.waits is not None:
            self.waits.over(record, task, future, ready, started)

    def held(self, record: TaskRecord, task: Any, started: int, ended: int) -> None:
        """A step that held the loop for long is over."""
        if self.watching is not None:
            self.watching.held(record, started, ended)

    def loop_closed(self, loop: Any) -> None:
        """Whatever is pending on a closed loop stays so."""
        state: LoopState | None = getattr(loop, "_otel_asyncio", None)
        if state is None or state.closed:
            return
        state.closed = True
        state.stop_timing()
        try:
            now = self.clock.monotonic_ns()
            state.closed_at = Closed(creation_site(2), now)
            for record in tuple(state.alive):
                self._end_unfinished(record, Outcome.PENDING, now)
            left = sum(not getattr(_record_of(task), "timed", True) for task in asyncio.all_tasks(loop))
            shutdown.end(state, now)
            state.shard.ended[Outcome.PENDING] += left
            self.drain()
        except Exception as failure:  # noqa: BLE001 - the border of the package
            self.ending.fail(failure)

    def _end_unfinished(self, record: TaskRecord, outcome: Outcome, now: int) -> None:
        task = record.task() if record.task is not None else None
        if task is not None:
            record.name = task.get_name()
        record.end(outcome, now)
        self.timeouts.let_go(record)
        record.loop.shard.ended[outcome] += 1
        if not self.ending.failed:
            self.sink.closed(record, None)
        self.cancellations.unfinished(record, now)

    def drain(self) -> None:
        """Emit what waits in the outbox, and what was kept to be told at once. Called where no finalizer runs."""
        self.ending.run(self.sink.flush)
        while self.outbox:
            item = self.outbox.popleft()
            try:
                if isinstance(item, Problem):
                    self.sink.problem(item)
                elif item.outcome is None:
                    # Whoever was never seen to suspend was not pending when it died: it ended in its first step.
                    outcome = Outcome.SUCCESS if item.step_started else Outcome.DESTROYED
                    self._end_unfinished(item, outcome, self.clock.monotonic_ns())
            except Exception as failure:  # noqa: BLE001 - the border of the package
                self.problems.fail(failure)


def context_of(task: Any) -> Context | None:
    """The context that a task runs in; None: not known (before 3.12)."""
    return task.get_context() if hasattr(task, "get_context") else None


def _record_of(task: Any) -> Any:
    return getattr(task, "_otel_asyncio", None)
