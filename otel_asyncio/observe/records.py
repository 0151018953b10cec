"""The facts kept of one task: slotted, integer nanoseconds, no judgement."""

from __future__ import annotations

import itertools
import sys
import weakref
from asyncio import tasks
from collections.abc import Callable
from enum import StrEnum
from types import CodeType
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_asyncio.observe.cells import Cell, CountedCell, TimedCell
from otel_asyncio.observe.sites import Site

if TYPE_CHECKING:
    import asyncio

    from otel_asyncio.observe.awaits import Tally
    from otel_asyncio.observe.cancelling import Cancellations
    from otel_asyncio.observe.code import CodeInfo
    from otel_asyncio.observe.glimpses import Glimpse
    from otel_asyncio.observe.loops import LoopState


# In nanoseconds, longer than anything lasts.
NEVER = 1 << 62


def nanoseconds(seconds: float) -> int:
    """A setting as whole nanoseconds; `math.inf`, and what is longer than anything lasts, as `NEVER`."""
    return NEVER if seconds >= NEVER / 1e9 else round(seconds * 1e9)


class Kind(StrEnum):
    """How a task came to be (`asyncio.task.kind`)."""

    __hash__ = str.__hash__  # the one of Enum is written in Python, and these are keys on a hot path

    TASK = "task"
    MAIN = "main"
    EAGER = "eager"
    THREADSAFE = "threadsafe"
    ASYNCGEN_FINALIZER = "asyncgen_finalizer"
    ADOPTED = "adopted"
    ROOT_SEGMENT = "root_segment"


class Outcome(StrEnum):
    """How a task ended (`asyncio.task.outcome`)."""

    __hash__ = str.__hash__  # the one of Enum is written in Python, and these are keys on a hot path

    SUCCESS = "success"
    ERROR = "error"
    TIMEOUT = "timeout"
    CANCELLATION = "cancellation"
    EXIT = "exit"
    PENDING = "pending"
    DESTROYED = "destroyed"


class Origin(NamedTuple):
    """What tasks have in common that one task has made at one line: ids of the code and of the maker's record."""

    code: int
    instruction: int
    maker: int


def error_type(error: BaseException) -> str:
    """`error.type`, `exception.type`: the qualified name of the exception's class, without `builtins`."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


class Limits(NamedTuple):
    """From how many nanoseconds on the observation is told of a wait, or of a step; default: never."""

    wait: int = NEVER
    step: int = NEVER

    long: int = NEVER
    """From where on it is told of a wait whatever `wait` says."""


NO_LIMITS = Limits()


class Split(NamedTuple):
    """The three-way split of an interval of a task's life, in nanoseconds, and what was counted in it."""

    busy: int
    scheduled: int
    idle: int
    steps: int


# `TaskRecord.ready` while no step is announced.
NOT_READY = -1

# Where asyncio keeps the tasks whose first step runs inside their constructor; in C, and out of sight, since 3.14.
EAGER_TASKS: Any = getattr(tasks, "_eager_tasks", frozenset())

PERHAPS_EAGER: Any = EAGER_TASKS if sys.version_info < (3, 14) else ("out of sight",)
"""Empty where the task that was announced last is sure to be the one that runs."""

# What asyncio lets through a step and out of the loop; everything else stays in the task.
EXITS = (SystemExit, KeyboardInterrupt)

next_id = itertools.count(1).__next__

_NOWHERE = None, 0  # a task that no line of the program made


class TaskRecord(TimedCell):
    """One task's life, written by its steps.

    The step that runs now is not yet part of `busy`: `split(now)` adds what has passed of it.
    """

    timed = notes_ready = True
    is_all = False

    __slots__ = ("__weakref__",)

    asked: int
    """When it was asked to be cancelled; set only in a storm of cancellations."""

    waits: Tally
    """Of its long waits; None before the first. A slot left unset would be dearer to ask, for every task that ends."""

    def __init__(
        self,
        loop: LoopState,
        now: int,
        wall: int,
        kind: Kind,
        code: CodeInfo,
        qualname: str,
        made_at: tuple[CodeType, int] | None,
    ) -> None:
        self.loop = loop
        self.step = loop.step
        self.created = self.ready = self.suspended = now
        self.wall = wall
        self.kind = kind
        self.code = code
        self.qualname = qualname
        self.made_code: CodeType | None
        self.made_code, self.made_instruction = made_at or _NOWHERE
        self.busy = self.scheduled = self.max_step = self.max_idle = self.steps = self.step_started = 0
        self.outcome: Outcome | None = None
        self.span: Any = None
        self.task: weakref.ref[asyncio.Task[Any]] | None = None
        self.problem: str | None = None
        self.cancellation: Any = None
        """A `Cancellation`, or the `Burst` that it is one of; kept when the task has ended cancelled."""
        self.name: str | None = None
        self.waits = None  # type: ignore[assignment]  # set before anybody adds to it
        self.id = next_id()

    @property
    def site(self) -> Site | None:
        """The line of the program that made the task; None where none did."""
        return None if self.made_code is None else Site(self.made_code, self.made_instruction)

    @property
    def origin(self) -> Origin | None:
        """The line and the task that made it; None where no task did."""
        known = self.made_code is not None and self.creator
        return Origin(id(self.made_code), self.made_instruction, self.creator) if known else None

    def begin(self, task: asyncio.Task[Any]) -> None:
        """Take the place among the loop's live records; from now on the task's death is noticed, however it dies."""
        self.task = weakref.ref(task, self.lost)
        loop = self.loop
        maker = loop.running
        if maker is not None and PERHAPS_EAGER:
            # One that was started past us, and is in its first step, may be the one that really runs.
            maker = loop.observation.make_sure_of_running(loop)
            if maker is self:
                maker = loop.running
        self.creator = 0 if maker is None else maker.id
        loop.alive.add(self)

    @property
    def cancellations(self) -> Cancellations:
        """Who is told when the task is to be cancelled."""
        return self.loop.observation.cancellations

    @property
    def current_name(self) -> str | None:
        """The task's name, or the last it had."""
        task = self.task() if self.task is not None else None
        return self.name if task is None else task.get_name()

    def in_first_step(self) -> None:
        """The task is taken in while its first step runs, of which the start was announced to nobody."""
        self.step_started, self.ready = self.created, NOT_READY

    def end_first_step(self, now: int) -> None:
        """The end of a first step of which only the start was noted."""
        self.first_step, self.suspended = self.step_started, now
        self.busy = self.max_step = now - self.step_started
        self.steps, self.step_started = 1, 0

    def lost(self, _: object) -> None:
        """The task is gone without having ended. Runs in a finalizer, where nothing may be emitted."""
        self.task = None
        self.loop.observation.outbox.append(self)

    def abandon(self) -> None:
        """The task could not be made after all, or is no longer observed."""
        self.task = self.cancellation = None
        self.loop.alive.discard(self)

    def end(self, outcome: Outcome, now: int) -> None:
        """The last transition: nothing of the record changes any more."""
        assert self.outcome is None, self.outcome
        self.outcome = outcome
        self.ended = now
        self.task = None
        self.loop.alive.discard(self)

    def wall_at(self, moment: int) -> int:
        """A moment of the monotonic clock as wall-clock time, on this task's own anchor."""
        return self.wall + moment - self.created

    def split(self, now: int) -> Split:
        """Busy, scheduled and idle time since the creation, as of `now`."""
        busy, scheduled = self.busy, self.scheduled
        if self.step_started:
            busy += now - self.step_started
        elif self.ready != NOT_READY:
            scheduled += now - max(self.ready, self.suspended)
        return Split(busy, scheduled, now - self.created - busy - scheduled, self.steps)


class Unrecorded(Cell):
    """Stands in for the record of every task that gets no span: counted, not timed."""

    timed = notes_ready = False
    cancellation = glimpse = None

    __slots__ = ("cancellations", "is_all")

    is_all: bool
    """Whether there is nothing else that wants to know of their ends; not once they are no longer observed."""

    def __init__(self, step: Callable[..., None], cancellations: Cancellations) -> None:
        self.step = step
        self.cancellations = cancellations
        self.is_all = True


class Counted(CountedCell):
    """Stands in for the record of one task that gets no span, while it is being cancelled."""

    timed, notes_ready = False, True
    is_all = False
    steps = 0

    __slots__ = ("__weakref__", "cancellations", "glimpse", "suspended")

    def __init__(
        self, step: Callable[..., None], cancellations: Cancellations, now: int, glimpse: Glimpse | None = None
    ) -> None:
        self.step = step
        self.cancellations = cancellations
        self.suspended, self.ready = now, NOT_READY
        self.cancellation = None
        self.glimpse = glimpse
