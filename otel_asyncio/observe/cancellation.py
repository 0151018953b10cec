"""The facts of a cancellation: who asked for it, where it hit, and what became of it."""

from __future__ import annotations

from enum import Enum, StrEnum, auto
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_asyncio.observe.frames import is_handling

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_asyncio.observe.chain import Chain, Frame
    from otel_asyncio.observe.loops import LoopState
    from otel_asyncio.observe.records import TaskRecord
    from otel_asyncio.observe.scopes import Expiry
    from otel_asyncio.observe.sites import Site


class Origin(StrEnum):
    """What caused a cancellation (`asyncio.cancel.origin`)."""

    __hash__ = str.__hash__

    EXPLICIT = "explicit"
    TIMEOUT = "timeout"
    TASK_GROUP = "task_group"
    CANCEL_SCOPE = "cancel_scope"
    THREAD = "thread"
    SIGNAL = "signal"
    SHUTDOWN = "shutdown"
    SELF = "self"
    UNKNOWN = "unknown"


class Via(StrEnum):
    """Through what a cancellation came that nobody asked of this task directly (`asyncio.cancel.via`)."""

    __hash__ = str.__hash__

    AWAITER = "awaiter"
    GATHER = "gather"
    TASK_GROUP = "task_group"
    AWAITED = "awaited"


class Fate(StrEnum):
    """What became of a cancellation (`asyncio.cancel.outcome`)."""

    __hash__ = str.__hash__

    DELIVERED = "delivered"
    CONVERTED = "converted"
    HANDLED = "handled"
    SUPPRESSED = "suppressed"
    UNFINISHED = "unfinished"


class Stage(Enum):
    """How far a cancellation has come."""

    __hash__ = object.__hash__

    REQUESTED = auto()
    RAISED = auto()
    """The CancelledError has been thrown into the coroutine."""

    SETTLED = auto()


_NEXT = {
    Stage.REQUESTED: {Stage.RAISED, Stage.SETTLED},
    Stage.RAISED: {Stage.SETTLED},
    Stage.SETTLED: set[Stage](),
}


_MOST_REQUESTS = 100
"""Of one task; more are only counted."""


class CancelDetail(NamedTuple):
    """How much is looked at."""

    depth: int = 32
    """At most this many frames of a stack."""

    limit: int = 100_000_000
    """After waiting so long again (ns), a task that has caught its CancelledError has suppressed it."""

    messages: bool = False
    """Whether the messages of `cancel(msg)` are kept."""


class Request:
    """One request: who made it, and the first request in time that led to it.

    Several `cancel()` of one scope (anyio asks again every turn of the loop) are one request.
    """

    __slots__ = (
        "_cause",
        "brief",
        "by",
        "expected",
        "expiry",
        "failure",
        "group",
        "open_span",
        "origin",
        "outer",
        "own",
        "owner",
        "scope",
        "site",
        "stack",
        "state",
        "task_id",
        "thread",
        "via",
    )

    def __init__(self, owner: Any, task_id: int) -> None:
        self.owner = owner
        """The record of the task that is to be cancelled."""
        self.task_id = task_id
        """The identity of that task."""
        self.origin = Origin.EXPLICIT
        self.via: Via | None = None
        self.site: Site | None = None
        """The line that asked for it."""
        self.by: Any = None
        """The record of the task that asked for it."""
        self.open_span: Any = None
        """The span of the program that was open in the task that asked."""
        self.thread: str | None = None
        self.stack: tuple[Frame, ...] = ()
        self.failure: Any = None
        """The record of the sibling whose exception is behind it."""
        self._cause: Request | None = None
        self.scope = 0
        """The identity of the scope that will take it back; 0 where there is none."""
        self.group: Callable[[], Any] | None = None
        """A weak reference to the TaskGroup that asks the task which waits in it."""
        self.expiry: Expiry | None = None
        self.expected = False
        self.brief = False
        """One of so many that it is only followed, not looked at."""
        self.own = False
        """Whether whoever asks has made the task only to wait for it (`wait_for` before 3.12)."""
        self.outer: Request | None = None
        """The request in the midst of which this one was made."""
        self.state: LoopState | None = None

    def made(self) -> None:
        """The call of `cancel()` is over."""
        if self.state is not None:
            self.state.cancelling, self.outer, self.state = self.outer, None, None

    @property
    def root(self) -> Request:
        """The first request in time that led here; itself where there is none before it."""
        return self._cause or self

    def follows(self, cause: Request) -> None:
        """This request is a consequence of another one."""
        self._cause = cause.root


class Cancellation:
    """What was asked of one task, until it is dealt with."""

    __slots__ = (
        "count",
        "expected",
        "fate",
        "handler",
        "hit",
        "message",
        "parent",
        "requested",
        "requests",
        "seen",
        "settled",
        "stage",
        "steps",
        "waited",
    )

    def __init__(self, request: Request, now: int, steps: int) -> None:
        self.stage = Stage.REQUESTED
        self.fate: Fate | None = None
        self.expected = False
        self.requests = [request]
        self.count = 1
        self.requested = now
        self.settled = 0
        self.steps = steps
        """How many steps the task had begun when it was asked for."""
        self.waited = 0
        """How long the task has waited since it was last seen to deal with the CancelledError."""
        self.seen = 0
        """Since when it was suspended when somebody looked from outside."""
        self.hit: Chain | None = None
        self.parent: Any = None
        """The span of the program that was open in the task at the request; None: the task's own was the innermost."""
        self.handler: Site | None = None
        """The `except` that swallowed it, where that is known."""
        self.message: str | None = None

    @property
    def brief(self) -> bool:
        """Whether it is one of so many that it gets no span of its own."""
        return self.requests[0].brief

    @property
    def first(self) -> Request:
        """The first request that has not been taken back."""
        return self.requests[0]

    def asked_again(self, request: Request) -> None:
        """One more request, while the task takes its time to end."""
        self.count += 1
        if len(self.requests) < _MOST_REQUESTS:
            self.requests.append(request)

    def taken_back_by(self, scope: int) -> Request | None:
        """The request that this scope withdraws (0: the program); an outer one of anyio's those of the inner, too."""
        own = next((each for each in self.requests if each.scope == scope), None)
        if own is not None or not scope:
            return own or self.requests[-1]
        return next((each for each in reversed(self.requests) if each.scope), None)

    def forgotten(self) -> Request | None:
        """A request that a TaskGroup has not taken back, though it was left: before 3.13 it does not, at its end."""
        return next((each for each in self.requests if each.group is not None and _is_left(each.group())), None)

    def advance(self, stage: Stage) -> None:
        """A transition of the life cycle."""
        assert stage in _NEXT[self.stage], (self.stage, stage)
        self.stage = stage

    def settle(self, fate: Fate, now: int) -> None:
        """The last transition."""
        self.advance(Stage.SETTLED)
        self.fate = fate
        self.settled = now

    def release(self) -> None:
        """Keep nothing that leads back to the task."""
        self.parent = None
        for request in self.requests:
            owner, request.owner, request.open_span = request.owner, None, None
            if request.by is owner:
                request.by = None


def _is_left(group: Any) -> bool:
    return group is None or (group._exiting and not group._tasks and group._on_completed_fut is None)


def runs_on(cancellation: Cancellation, record: Any, task: Any) -> bool:
    """Whether the task has swallowed its CancelledError: it waits for something, and deals with it no more."""
    if cancellation.stage is Stage.REQUESTED or (record.timed and record.step_started):
        return False
    return not (any(each.scope for each in cancellation.requests) or is_handling(task))


def is_told_otherwise(record: TaskRecord) -> bool:
    """Whether what ends the wait of a task is told elsewhere: a deadline by its own span, one of a storm by another."""
    cancellation = record.cancellation
    return cancellation is not None and (cancellation.brief or cancellation.first.expiry is not None)
