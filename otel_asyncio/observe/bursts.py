"""Thousands of cancellations by one line in one step: one object for all of them, as long as each only ends its task.

Of a storm the first are looked at closely. For the rest nothing is allocated: whatever is the same for all of them is
kept once, what differs is compared, and a task that does not end in its next step gets a `Cancellation` of its own.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from asyncio import runners
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.cancellation import Cancellation, Fate, Origin, Request, Stage
from otel_asyncio.observe.cells import BurstCell
from otel_asyncio.observe.code import info_of
from otel_asyncio.observe.records import EXITS, Counted, Unrecorded
from otel_asyncio.observe.shutdown import end

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from otel_asyncio.observe.cancelling import Cancellations
    from otel_asyncio.observe.loops import LoopState

SHUTTING_DOWN = runners._cancel_all_tasks.__code__  # type: ignore[attr-defined]


class _Shared(Request):
    """The request of a burst, made anew for each of its tasks."""

    __slots__ = ()

    def made(self) -> None:
        super().made()
        self.owner = None


class Burst(BurstCell):
    """The cancellations of a storm that one line asks for in one step, or the end of a loop."""

    __slots__ = ("first",)

    brief = True
    stage = Stage.RAISED

    def __init__(self, like: Request, frame: FrameType, state: LoopState, until: int) -> None:
        observation = state.observation
        self.first = _Shared(None, 0)
        for name in Request.__slots__:
            if name not in ("owner", "task_id", "state"):
                setattr(self.first, name, getattr(like, name))
        self.by = state.running
        self.started = 0 if self.by is None else self.by.step_started
        self.code, self.instruction, self.until = frame.f_code, frame.f_lasti, until
        self.thread = threading.get_ident()
        self.made_by_it = _made(self.by, like.owner)
        self.ends_loop = like.origin is Origin.SHUTDOWN
        self.now, self.plain = observation.clock.monotonic_ns, observation.step
        self.step, self.guard = observation.cancellations.brief_step, observation.cancellations.guard
        self.fate = (like.origin, Fate.DELIVERED, like.expected)
        self.count, self.last = 0, None

    def take(self, task: Any, record: Any, frame: FrameType, state: LoopState) -> Request | None:
        """One more task, if all that matters is as it was for the first; else None."""
        by, now = self.by, self.now()
        if (
            frame.f_code is not self.code
            or frame.f_lasti != self.instruction
            or record.cancellation is not None
            or state.running is not by
            or (by is not None and (by.step_started != self.started or sys.exception() is not None))
            or state.cancelling is not None
            or now >= self.until
            or threading.get_ident() != self.thread
            or _made(by, record) is not self.made_by_it
        ):
            return None
        if record.timed:
            if record.step is not self.plain or record.step_started:
                return None
            record.asked, record.step, record.cancellation = now, self.step, self
        elif type(record) is Unrecorded:
            task._otel_asyncio = record = self.stand_in(state)
        else:
            return None
        request, shutdown = self.first, state.shutdown
        if self.ends_loop and shutdown is not None:
            shutdown.left.add(id(task))
            shutdown.cancelled += 1
        request.owner, request.outer, request.state, state.cancelling = record, None, state, request
        return request

    def stand_in(self, state: LoopState) -> Counted:
        """The record of all its tasks that are only counted; kept by the loop, because it leads here."""
        counted = state.counted
        if counted is None or counted.cancellation is not self:
            cancellations = state.observation.cancellations
            counted = state.counted = Counted(cancellations.brief_counted_step, cancellations, 0)
            counted.cancellation = self
        return counted

    def delivered(self, record: Any, state: LoopState) -> None:
        """One of them has ended cancelled, in its first step since."""
        state.shard.cancellations[self.fate] += 1
        if record.timed:
            self.count += 1
            self.last = record
            if self.count == 1:
                self.tell(state)

    def tell(self, state: LoopState) -> None:
        """The first that is not told of has ended."""
        state.observation.ending.run(state.observation.sink.burst, self)

    def shut_down(self, state: LoopState) -> None:
        """The last of those that the end of the loop has cancelled has ended."""
        end(state, self.now())

    def whole(self, record: Any, task: Any, ran: bool = False) -> Cancellation:
        """What one of them would have had, had it not been one of so many. `ran`: it has, since it was asked."""
        cancellation = Cancellation(self.first, record.asked if record.timed else self.now(), record.steps)
        if ran or (task is not None and asyncio.current_task(task.get_loop()) is task):
            cancellation.advance(Stage.RAISED)
        return cancellation

    def told(self) -> tuple[Any, Cancellation, int]:
        """Of those that ended since this was asked last: the last one, and how many."""
        record: Any = self.last
        count = self.count
        self.last, self.count = None, 0  # the record leads here
        cancellation = self.whole(record, None)
        cancellation.settle(Fate.DELIVERED, record.ended)
        cancellation.expected = self.fate[2]
        return record, cancellation, count


def _made(by: Any, record: Any) -> bool:
    """Whether who asks has made the task, as far as that matters: `expected` depends on it."""
    return by is None or not record.timed or record.creator == by.id


def burst_of(request: Request, frame: FrameType, state: LoopState, until: int) -> Burst | None:
    """A burst that begins with this request, where the rest of it would be judged by its frame alone."""
    by, code = state.running, frame.f_code
    if code is SHUTTING_DOWN:
        alike = by is None
    else:
        own = by is not None and sys.exception() is None and not info_of(code).internal and request.owner is not by
        alike = own and request.root is request and request.origin is Origin.EXPLICIT
    return Burst(request, frame, state, until) if alike and state.cancelling is None else None


def make_brief_step(cancellations: Cancellations, inner: Callable[..., None]) -> Callable[..., None]:
    """The next step of a task that belongs to a burst: it ends there, or is looked at like any other from then on."""

    def brief_step(task: Any, *arguments: Any) -> None:
        record, step = task._otel_asyncio, inner
        if type(record.cancellation) is not Burst and record.step not in cancellations.brief_steps:
            step = record.step  # it has been asked again meanwhile
        try:
            step(task, *arguments)
        except EXITS as error:
            error.__traceback__ = error.__traceback__.tb_next  # type: ignore[union-attr]  # this frame, taken off
            raise
        finally:
            if step is inner and not task.done():
                cancellations.goes_on(task)
            task = record = arguments = None  # type: ignore[assignment]

    return brief_step
