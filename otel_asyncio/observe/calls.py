"""One piece of work that was handed to an executor."""

from __future__ import annotations

import contextvars
import functools
from enum import Enum, StrEnum, auto
from types import BuiltinMethodType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.chain import name_of
from otel_asyncio.observe.code import info_of

if TYPE_CHECKING:
    from otel_asyncio.observe.clock import Clock
    from otel_asyncio.observe.code import CodeInfo
    from otel_asyncio.observe.records import TaskRecord


class ExecutorKind(StrEnum):
    """What kind of workers an executor has (`asyncio.executor.kind`)."""

    THREAD = "thread"
    PROCESS = "process"


class Stage(Enum):
    """How far a piece of work has come."""

    __hash__ = object.__hash__

    QUEUED = auto()
    RUNNING = auto()
    RETURNED = auto()
    DROPPED = auto()
    """Cancelled before any worker took it."""


_NEXT = {
    Stage.QUEUED: {Stage.RUNNING, Stage.RETURNED, Stage.DROPPED},
    Stage.RUNNING: {Stage.RETURNED},
    Stage.RETURNED: set[Stage](),
    Stage.DROPPED: set[Stage](),
}


class Pool:
    """What is kept of an executor."""

    __slots__ = ("__weakref__", "open", "taken")

    def __init__(self) -> None:
        self.open: set[Call] = set()
        """Handed over by loops and not done yet. Of many threads: to add and to discard needs no lock."""
        self.taken = 0
        """When one of its workers last took up something (monotonic, ns)."""


class Call:
    """One piece of work. Times are monotonic nanoseconds."""

    __slots__ = (
        "activity",
        "code",
        "context",
        "ended",
        "full",
        "kind",
        "pool",
        "qualname",
        "queued",
        "record",
        "saturated",
        "stage",
        "started",
        "thread_id",
        "thread_name",
        "wall",
    )

    def __init__(
        self, record: TaskRecord | None, kind: ExecutorKind | None, pool: Pool, function: Any, clock: Clock
    ) -> None:
        self.stage = Stage.QUEUED
        self.pool = pool
        self.record = record
        """Of the task that handed it over."""
        self.kind = kind
        self.code, self.qualname = describe_function(function)
        self.context: contextvars.Context | None = None
        """The one that `asyncio.to_thread` has made for it; None where it runs in the thread's own."""
        self.queued, self.wall = clock.monotonic_ns(), clock.wall_ns()
        self.started: int | None = None
        self.ended: int | None = None
        self.thread_id: int | None = None
        self.thread_name: str | None = None
        self.full = True
        """Whether its pool had all the workers that it may have when it came, and work for each of them."""
        self.saturated = False
        """Whether it waited long, and for a worker that was busy with other work meanwhile."""
        self.activity: Any = None
        """What the sink has made of it."""

    def advance(self, stage: Stage) -> None:
        """A transition of the life cycle."""
        assert stage in _NEXT[self.stage], (self.stage, stage)
        self.stage = stage

    def done(self, stage: Stage) -> None:
        """It keeps no worker any more."""
        self.pool.open.discard(self)
        self.advance(stage)

    def taken_up(self, now: int) -> int:
        """A worker begins with it. Returns for how long (ns) it was queued."""
        self.advance(Stage.RUNNING)
        self.started = self.pool.taken = now
        return now - self.queued


def describe_function(function: Any) -> tuple[CodeInfo | None, str]:
    """The code of a function, where it is written in Python, and its name; behind `partial` and `Context.run`."""
    while isinstance(function, functools.partial):
        bound = function.func
        through_context = type(bound) is BuiltinMethodType and isinstance(bound.__self__, contextvars.Context)
        function = function.args[0] if through_context and function.args else bound
    plain = function.__func__ if type(function) is MethodType else function
    code = plain.__code__ if type(plain) is FunctionType else None
    return None if code is None else info_of(code, plain.__module__), name_of(function)
