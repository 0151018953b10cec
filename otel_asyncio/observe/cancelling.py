"""What becomes of a cancellation: from the call of `cancel()` to the step in which it is dealt with.

A task that nobody cancels pays nothing for this. A request puts another step in the place of the task's own, which
looks, before and after each run, at what the coroutine does with its CancelledError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.bursts import SHUTTING_DOWN, Burst, burst_of
from otel_asyncio.observe.cancellation import CancelDetail, Cancellation, Fate, Request, Stage, runs_on
from otel_asyncio.observe.chain import walk
from otel_asyncio.observe.eager import make_up_once_suspended
from otel_asyncio.observe.frames import is_handling
from otel_asyncio.observe.handlers import HandlerWatch
from otel_asyncio.observe.hotpath import make_brief_step
from otel_asyncio.observe.observer import Guard
from otel_asyncio.observe.origins import (
    TELLS_CONTEXT,
    Origins,
    asked_by_nobody,
    forget_who_hands_over,
    handed_on,
    look_closely,
    note_who_hands_over,
)
from otel_asyncio.observe.overrides import OUR_CALLS, make_watching_step
from otel_asyncio.observe.records import NOT_READY, Counted
from otel_asyncio.observe.rules import ASYNCIO_RULES, SCOPES, keeps_the_count
from otel_asyncio.observe.shutdown import end_one, state_of
from otel_asyncio.observe.storms import MOST, MOST_AT_THE_END, Storms

if TYPE_CHECKING:
    from otel_asyncio.observe.loops import LoopState
    from otel_asyncio.observe.observation import Observation


class Cancellations:
    """Follows every cancellation. It is called in the middle of the program, so no failure gets out of here."""

    def __init__(self, observation: Observation, detail: CancelDetail) -> None:
        self._observation = observation
        self._now = observation.clock.monotonic_ns
        self._depth, self._limit, self._messages = detail
        self.guard, self.handlers, self._storms = Guard("cancellation"), HandlerWatch(), Storms()
        self.origins = Origins(ASYNCIO_RULES)
        self.scopes = set(SCOPES)
        """The code that takes back what it has asked for."""
        for code in OUR_CALLS:
            self.origins.add_code(code, handed_on)
        self.active = True

    def make_steps(self) -> None:
        """Make the watching steps around those of the observation, once it has them."""
        plain = self._observation.step, self._observation.unrecorded.step
        self._step, self._counted_step = (make_watching_step(self, step) for step in plain)
        self.brief_steps = self.brief_step, self.brief_counted_step = tuple(
            make_brief_step(self, step) for step in plain
        )

    def requested(self, task: Any, message: Any, frame: Any) -> Request | None:
        """`cancel()` is called; the base has not been, so that the wake-up it announces gets the watching step."""
        if not self.active or self.guard.failed:
            return None
        try:
            if task.done():
                forget_who_hands_over(task)
                return None
            return self._note(task, message, frame)
        except Exception as failure:  # noqa: BLE001 - the border of the package
            self.guard.fail(failure)
            return None
        finally:
            task = frame = None

    def _note(self, task: Any, message: Any, frame: Any) -> Request | None:
        state: LoopState | None = getattr(task.get_loop(), "_otel_asyncio", None)
        record = task._otel_asyncio
        if state is None or state.observation is not self._observation or keeps_the_count(frame, record, state):
            return None
        if state.burst is not None and (shared := state.burst.take(task, record, frame, state)) is not None:
            return shared
        request = Request(record, id(task))
        now, outer, place = self._now(), state.cancelling, (id(frame.f_code), frame.f_lasti)
        if outer is not None and frame.f_code in OUR_CALLS:
            request.brief = outer.brief
        else:
            most = MOST_AT_THE_END if frame.f_code is SHUTTING_DOWN else MOST
            request.brief = not self._storms.admits(place, now, most)
        self.origins.find(frame, request, state)
        self._add(task, record, request, frame, message, now)
        if request.brief:
            state.burst = burst_of(request, frame, state, self._storms.until(place))
        expiry = request.expiry
        if expiry is not None and expiry.record is record:
            expiry.record = request.owner
            if expiry.stack is None and record.timed:
                hit = record.cancellation.hit if len(record.cancellation.requests) == 1 else None
                expiry.stack = hit or walk(task, self._depth)
        request.outer, request.state, state.cancelling = outer, state, request
        return request

    def _add(self, task: Any, record: Any, request: Request, frame: Any, message: Any, now: int) -> None:
        record, cancellation = self._whole(task, record)
        if cancellation is not None and not self._take_back_forgotten(task, record, cancellation):
            if request.scope and any(request.scope == each.scope for each in cancellation.requests):
                cancellation.count += 1  # anyio asks again, every turn of the loop
                return
            if not runs_on(cancellation, record, task):
                cancellation.asked_again(request)
                return
            self._settle(record, task, cancellation, Fate.SUPPRESSED)
        record = request.owner = self.watch(task, record, now)
        begun = record.steps + (1 if record.timed and record.step_started else 0)
        record.cancellation = cancellation = Cancellation(request, now, begun)
        if record.timed and not request.brief:
            look_closely(cancellation, task, request, frame, self._observation.sink, self._depth)
            if self._messages and message is not None:
                cancellation.message = str(message)

    def handed_over(self, loop: Any, callback: Any) -> None:
        """A `cancel` is handed to a loop by `call_soon_threadsafe`: note the line, in the thread that does it."""
        self.guard.run(note_who_hands_over, loop, callback)

    def watch(self, task: Any, record: Any, now: int) -> Any:
        """From its next announcement on the task runs with the watching step. Returns its record."""
        if record.timed:
            make_up_once_suspended(record, task)  # as the step would have done that is exchanged here
            record.step = self._step
            return record
        if not isinstance(record, Counted):
            record = task._otel_asyncio = Counted(self._counted_step, self, now, record.glimpse)
        record.step = self._counted_step
        return record

    def _whole(self, task: Any, record: Any, *ran: bool) -> tuple[Any, Cancellation | None]:
        """The record of a task and what is asked of it, on its own if it was one of a burst."""
        cancellation = record.cancellation
        if type(cancellation) is Burst:
            whole = cancellation.whole(record, task, *ran)
            record = self.watch(task, record if record.timed else self._observation.unrecorded, self._now())
            record.cancellation = cancellation = whole
        return record, cancellation

    def goes_on(self, task: Any) -> None:
        """One of a burst has run, and has not ended."""
        self.guard.run(self._whole, task, task._otel_asyncio, True)
        self.suspends(task._otel_asyncio, task, looking=False)

    def withdrawn(self, task: Any, left: int, frame: Any) -> None:
        """`uncancel()` was called: by the scope that had asked, or by the program itself."""
        if task._otel_asyncio.cancellation is None or self.guard.failed or not self.active:
            return
        try:
            record, cancellation = self._whole(task, task._otel_asyncio)
            if cancellation is None or cancellation.stage is Stage.SETTLED:
                return
            scope, frame = self._observation.timeouts.scope_of(frame)
            request = cancellation.taken_back_by(scope)
            if request is not None:
                self._take_back(task, record, cancellation, request)
                if request.expiry is not None:
                    self._observation.timeouts.left(request.expiry, frame, left)
        except Exception as failure:  # noqa: BLE001 - the border of the package
            self.guard.fail(failure)
        finally:
            task = frame = None

    def _take_back(self, task: Any, record: Any, cancellation: Cancellation, request: Request) -> None:
        if len(cancellation.requests) > 1:
            cancellation.requests.remove(request)
            self._count(record, task, request, Fate.CONVERTED, expected=False)
        else:
            self._settle(record, task, cancellation, Fate.CONVERTED)

    def _take_back_forgotten(self, task: Any, record: Any, cancellation: Cancellation, *, alone: bool = True) -> bool:
        """Settle what a group has not taken back; `alone`: also if it is all that was asked. Returns whether it was."""
        request = cancellation.forgotten()
        if request is not None and (alone or len(cancellation.requests) > 1):
            self._take_back(task, record, cancellation, request)
        return cancellation.stage is Stage.SETTLED

    def resumes(self, record: Any, task: Any) -> bool:
        """A task that is being cancelled is about to run. Returns whether its handlers are watched meanwhile."""
        if self.guard.failed:
            return False
        try:
            if self._observation.timeouts.pending:
                self._observation.timeouts.resumes(record, task)
            cancellation: Cancellation | None = record.cancellation
            if cancellation is None:
                return False
            first = cancellation.stage is Stage.REQUESTED
            if first:
                cancellation.advance(Stage.RAISED)
                if not TELLS_CONTEXT and record.timed and not cancellation.brief:
                    cancellation.parent = self._observation.sink.open_span(record, None)
            if not first or (record.timed and record.steps > cancellation.steps):
                self._judge(record, task, cancellation, self._now())
            return record.cancellation is not None and not cancellation.brief and self.handlers.arm()
        except Exception as failure:  # noqa: BLE001 - the border of the package
            self.guard.fail(failure)
            return False

    def _judge(self, record: Any, task: Any, cancellation: Cancellation, now: int) -> None:
        until = now if record.ready == NOT_READY else record.ready  # from there on it waits for the loop
        cancellation.waited += max(until - record.suspended, 0)
        if cancellation.waited < self._limit:
            return
        if is_handling(task):
            cancellation.waited = 0
        elif not any(each.scope for each in cancellation.requests):
            self._settle(record, task, cancellation, Fate.SUPPRESSED)

    def waits_on(self, record: Any) -> None:
        """Look again at a suspended task: it may have swallowed what was asked of it, and wait for ever."""
        cancellation, task, now = record.cancellation, record.task and record.task(), self._now()
        if type(cancellation) is not Cancellation or cancellation.stage is not Stage.RAISED or task is None:
            return
        if cancellation.seen != record.suspended:  # twice, so that a loop that stood still has come to itself
            cancellation.seen = record.suspended
        elif now - record.suspended >= self._limit:
            self._judge(record, task, cancellation, now)

    def suspends(self, record: Any, task: Any, looking: bool) -> None:
        """A task that is being cancelled, or was until just now, has run."""
        handler = self.handlers.disarm() if looking else None
        if self.guard.failed or task.done():
            return
        try:
            if not record.timed:
                record.suspended = self._now()
            if record.cancellation is not None:
                record.cancellation.handler = handler or record.cancellation.handler
                self._take_back_forgotten(task, record, record.cancellation)
            waiting = self._observation.timeouts.suspends(record)
            if record.cancellation is None and not waiting:
                record.step = self._observation.step if record.timed else self._observation.unrecorded.step
        except Exception as failure:  # noqa: BLE001 - the border of the package
            self.guard.fail(failure)

    def ended(self, record: Any, task: Any, future: Any) -> None:
        """The last step of a task is over that was cancelled, or was to be."""
        if self.guard.failed or not self.active:
            return
        try:
            state = state_of(record, task)
            if state.shutdown is not None:
                end_one(state, record, id(task), self._now())
            cancelled = task.cancelled()
            if cancelled and type(record.cancellation) is Burst:
                record.cancellation.delivered(record, state)
                return
            record, cancellation = self._whole(task, record)
            if cancellation is not None and self._take_back_forgotten(task, record, cancellation, alone=not cancelled):
                return
            if cancellation is None:
                if cancelled:
                    self._by_itself(record, task, future)
                return
            fate = Fate.HANDLED if not cancelled else Fate.CONVERTED if cancellation.first.own else Fate.DELIVERED
            self._settle(record, task, cancellation, fate)
        except Exception as failure:  # noqa: BLE001 - the border of the package
            self.guard.fail(failure)

    def _by_itself(self, record: Any, task: Any, future: Any) -> None:
        now = self._now()
        record = self.watch(task, record, now)
        request = Request(record, id(task))
        asked_by_nobody(request, task, future)
        if record.timed:  # no line asks it of all of them, but they are of one coroutine
            request.brief = not self._storms.admits((id(record.code), 0), now)
        self._settle(record, task, Cancellation(request, now, 0), Fate.DELIVERED)

    def unfinished(self, record: Any, now: int) -> None:
        """The task will not run again."""
        record, cancellation = self._whole(None, record)
        if cancellation is not None:
            self._settle(record, None, cancellation, Fate.UNFINISHED)

    def _settle(self, record: Any, task: Any, cancellation: Cancellation, fate: Fate) -> None:
        cancellation.settle(fate, self._now())
        record.cancellation = None
        request = cancellation.first
        at_once = fate in (Fate.DELIVERED, Fate.HANDLED) and cancellation.waited < self._limit
        cancellation.expected = at_once and request.expected
        self._count(record, task, request, fate, expected=cancellation.expected)
        if fate is not Fate.CONVERTED:
            self._observation.timeouts.abandoned(cancellation)
            self._observation.ending.run(self._observation.sink.cancelled, record, cancellation)
        if fate is Fate.DELIVERED:
            record.cancellation = cancellation  # whoever awaits the task asks where its CancelledError came from
            cancellation.release()

    def _count(self, record: Any, task: Any, request: Request, fate: Fate, *, expected: bool) -> None:
        state_of(record, task).shard.cancellations[request.root.origin, fate, expected] += 1
