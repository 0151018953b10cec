"""What becomes of scopes that expire: whether the TimeoutError left the function that owns the scope.

A scope that does not expire leaves a few facts on itself when it is entered, and nothing else happens.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.chain import TASKS, follow, walk
from otel_asyncio.observe.frames import frame_object, is_open, owner_of, owns, reference_to
from otel_asyncio.observe.leaving import LeavingWatch
from otel_asyncio.observe.observer import Guard
from otel_asyncio.observe.scopes import RAISES, WAIT_FOR, Api, Entry, Expiry, TimeoutOutcome, comes_from_scope
from otel_asyncio.observe.sites import Site

if TYPE_CHECKING:
    from types import FrameType

    from otel_asyncio.observe.cancellation import Cancellation, Request
    from otel_asyncio.observe.observation import Observation

_SECOND = 1_000_000_000


class Timeouts:
    """Follows the scopes of an observation that expire."""

    def __init__(self, observation: Observation, depth: int) -> None:
        self._observation = observation
        self._now = observation.clock.monotonic_ns
        self._depth = depth
        self._guard = Guard("timeout")
        self._watch = LeavingWatch()
        self._waiting: dict[int, Expiry] = {}
        """Expired `wait_for`, by the identities of their frames, while they wait for what they cancelled."""
        self.pending: dict[Any, list[Expiry]] = {}
        """What is not decided yet, by the records of the tasks."""

    def expired(self, scope: Any, request: Request) -> Expiry:
        """A `Timeout` has expired, and is about to cancel its task."""
        noted = scope.__dict__.pop("_otel_asyncio", None)  # nothing of ours stays with what asyncio leaves behind
        entry = Entry(*noted) if noted is not None else None
        return self.deadline_passed(request.owner, scope._task, entry, scope._when)

    def deadline_passed(self, record: Any, task: Any, entry: Entry | None, deadline: float) -> Expiry:
        """The deadline of a scope of this task has passed (`deadline`: on the loop's clock)."""
        expiry = Expiry(record, entry.api if entry is not None else Api.TIMEOUT, self._now())
        if entry is not None:
            expiry.entered, expiry.context = entry.now, entry.context
            expiry.delay = round(max(0.0, deadline - entry.time), 6)
            expiry.expired = min(expiry.expired, entry.now + round(expiry.delay * _SECOND))
            expiry.site = Site(entry.code, entry.instruction)
        expiry.links = tuple(reference for link in follow(task) if (reference := reference_to(link)))
        return expiry

    def wait_for_expired(self, frame: FrameType, future: Any) -> None:
        """A `wait_for` has expired, and is about to cancel what it waited for."""
        task: Any = asyncio.current_task()
        if task is None or self._guard.failed:
            return
        try:
            now = self._now()
            cancellations = self._observation.cancellations
            record = cancellations.watch(task, task._otel_asyncio, now)
            expiry = Expiry(record, Api.WAIT_FOR, now)
            owner = owner_of(frame.f_back)
            expiry.entered, expiry.delay = self._entered(frame, now)
            expiry.expired = min(now, expiry.entered + round(expiry.delay * _SECOND))
            expiry.scope_frame, expiry.future = id(frame), future
            if owner is not None:
                expiry.site = Site(owner.f_code, owner.f_lasti)
            expiry.context = contextvars.copy_context()
            if record.timed and isinstance(future, TASKS):
                expiry.stack = walk(future, self._depth)
            self._waiting[id(frame)] = expiry
            self.pending.setdefault(record, []).append(expiry)
        except Exception as failure:  # noqa: BLE001 - the border of the package
            self._guard.fail(failure)
        finally:
            frame = owner = task = None  # type: ignore[assignment]

    def _entered(self, frame: FrameType, now: int) -> tuple[int, float]:
        """When `wait_for` set its timer, and for how many seconds."""
        delay = float(frame.f_locals["timeout"])
        timer = frame.f_locals.get("timeout_handle")
        if timer is None or delay <= 0:
            return now, 0.0
        ago = asyncio.get_running_loop().time() - (timer.when() - delay)
        return now - max(0, round(ago * _SECOND)), delay

    def waiting(self, frame: FrameType | None) -> Expiry | None:
        """The expired `wait_for` of this frame, which is about to cancel what it waited for."""
        return self._waiting.pop(id(frame), None)

    def made_for_waiting(self, frame: FrameType | None, record: Any) -> bool:
        """Whether `wait_for` has made this task, of a coroutine that it was given."""
        if frame is None or frame.f_code is not WAIT_FOR or not record.timed or sys.version_info >= (3, 12):
            return False
        # By the very instruction that now awaits `wait_for`: a task that the program made, it made elsewhere.
        owner = owner_of(frame.f_back)
        return owner is not None and record.site == (owner.f_code, owner.f_lasti)

    def scope_of(self, frame: FrameType) -> tuple[int, FrameType]:
        """The identity of the scope whose code calls `uncancel()`, and its frame; 0 where the program does."""
        if frame.f_code not in self._observation.cancellations.scopes:
            return 0, frame
        if "self" not in frame.f_locals and frame.f_back is not None:  # the helper of async_timeout 4
            frame = frame.f_back
        return id(frame.f_locals.get("self")), frame

    def left(self, expiry: Expiry, frame: FrameType, remaining: int) -> None:
        """The scope is left: the CancelledError has come back to it, or never reached it."""
        expiry.left = self._now()
        error = frame.f_locals.get("exc_type")
        if error is None:
            expiry.handler = self._observation.cancellations.handlers.seen()
            self._decide(expiry, TimeoutOutcome.ABSORBED)
        elif self._becomes_an_error(expiry, frame, error, remaining):
            self._raising(expiry, owner_of(frame.f_back))
        else:
            self._decide(expiry, TimeoutOutcome.HANDLED)

    @staticmethod
    def _becomes_an_error(expiry: Expiry, frame: FrameType, error: type[BaseException], remaining: int) -> bool:
        """Whether the scope whose code runs in this frame lets a TimeoutError follow from what it gets."""
        if expiry.api is Api.ANYIO:  # fail_after does, once the scope itself has swallowed it
            return frame.f_back is not None and frame.f_back.f_code in RAISES
        scope: Any = frame.f_locals["self"]
        if not isinstance(scope, asyncio.Timeout):  # async_timeout 4
            return error is asyncio.CancelledError
        before: int = getattr(scope, "_cancelling", 0)  # 3.11.0 to 3.11.3 want no request left at all (gh-102780)
        return issubclass(error, asyncio.CancelledError) and remaining <= before

    def _raising(self, expiry: Expiry, owner: FrameType | None) -> None:
        """A TimeoutError is raised where `owner` sees it; what that does with it shows when the step is over."""
        if owner is None:
            self._decide(expiry, TimeoutOutcome.RAISED)
            return
        expiry.owner = next((link for link in expiry.links if frame_object(link()) is owner), None)
        self._watch.arm(owner, expiry)
        self.pending.setdefault(expiry.record, []).append(expiry)

    def resumes(self, record: Any, task: Any) -> None:
        """A task runs in which something is not decided yet."""
        for expiry in tuple(self.pending.get(record, ())):
            if expiry.left:
                # Its step was queued before the scope expired, so nobody looked when it was suspended after that one.
                self._look(expiry)
                if expiry.outcome is not None:
                    continue
            links = follow(task)
            if expiry.scope_frame and expiry.scope is None:  # it has not run since: the frame is still the same one
                link = next((link for link in links if id(frame_object(link)) == expiry.scope_frame), None)
                expiry.scope = reference_to(link)
            if is_open(expiry.scope):
                outer = links[: links.index(expiry.scope())] if expiry.scope() in links else []
                expiry.owner = next((reference_to(each) for each in reversed(outer) if owns(frame_object(each))), None)
            if is_open(expiry.owner):
                self._watch.arm(frame_object(expiry.owner()), expiry)

    def suspends(self, record: Any) -> bool:
        """The task is suspended again. Returns whether something is still not decided."""
        waiting = self.pending.get(record)
        for expiry in tuple(waiting or ()):
            self._look(expiry)
        return record in self.pending

    def _look(self, expiry: Expiry) -> None:
        if expiry.scope_frame and not expiry.left:
            if is_open(expiry.scope):
                return
            expiry.left = self._now()
            if not self._timed_out(expiry):
                return
        if not is_open(expiry.owner):
            returned = expiry.returned is not False
            self._decide(expiry, TimeoutOutcome.HANDLED if returned else TimeoutOutcome.RAISED)
        elif not any(isinstance(held, TimeoutError) for held in gc.get_referents(expiry.owner())):
            self._decide(expiry, TimeoutOutcome.HANDLED)

    def _timed_out(self, expiry: Expiry) -> bool:
        """Whether `wait_for` raised its TimeoutError: not if what it cancelled has ended otherwise."""
        if expiry.future.cancelled():
            return True
        failed = expiry.future._exception is not None
        self._decide(expiry, TimeoutOutcome.HANDLED if failed else TimeoutOutcome.ABSORBED)
        return False

    def ended(self, record: Any, error: BaseException | None, *, cancelled: bool) -> None:
        """The task has ended. A function that a cancellation ends does not return either."""
        for expiry in tuple(self.pending.get(record, ())):
            expiry.left = expiry.left or self._now()
            if expiry.scope_frame and not self._timed_out(expiry):
                continue
            out = (expiry.returned is False and not cancelled) or comes_from_scope(error)
            self._decide(expiry, TimeoutOutcome.RAISED if out else TimeoutOutcome.HANDLED)

    def let_go(self, record: Any) -> None:
        """The task will not run again: nothing that is kept of it may keep it alive."""
        for expiry in self.pending.pop(record, ()):
            self._waiting.pop(expiry.scope_frame, None)
            self._watch.disarm(expiry)
            expiry.future = None

    def abandoned(self, cancellation: Cancellation) -> None:
        """The task has ended, and its scopes were not all seen to be left: another one has taken over."""
        for request in cancellation.requests:
            expiry = request.expiry
            if expiry is not None and expiry.record is request.owner and expiry.outcome is None and not expiry.left:
                expiry.left = self._now()
                self._decide(expiry, TimeoutOutcome.HANDLED)

    def _decide(self, expiry: Expiry, outcome: TimeoutOutcome) -> None:
        self._watch.disarm(expiry)
        waiting = self.pending.get(expiry.record)
        if waiting is not None and expiry in waiting:
            waiting.remove(expiry)
            if not waiting:
                del self.pending[expiry.record]
        expiry.outcome, expiry.future, expiry.links = outcome, None, ()
        record = expiry.record
        state = record.loop if record.timed else asyncio.get_running_loop()._otel_asyncio  # type: ignore[attr-defined]
        state.shard.timeouts[outcome] += 1
        self._observation.ending.run(self._observation.sink.timed_out, expiry)
