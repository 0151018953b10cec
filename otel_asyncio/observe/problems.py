"""The problems, as facts; and those that a loop's exception handler is told of."""

from __future__ import annotations

import asyncio
import traceback
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_asyncio.observe.code import describe
from otel_asyncio.observe.records import Outcome, TaskRecord, error_type
from otel_asyncio.observe.unclosed import unclosed_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from otel_asyncio.observe.chain import Frame
    from otel_asyncio.observe.code import CodeInfo
    from otel_asyncio.observe.observation import Observation
    from otel_asyncio.observe.sites import Site


class ProblemKind(StrEnum):
    """What deserves a person (`asyncio.problem`); one word for each thing that an alert counts."""

    __hash__ = str.__hash__

    LOOP_BLOCKED = "loop_blocked"
    TIMEOUT = "timeout"
    CANCEL_SUPPRESSED = "cancel_suppressed"
    STUCK = "stuck"
    DEADLOCK = "deadlock"
    EXCEPTION_NEVER_RETRIEVED = "exception_never_retrieved"
    TASK_DESTROYED_PENDING = "task_destroyed_pending"
    COROUTINE_NEVER_AWAITED = "coroutine_never_awaited"
    ASYNCGEN_NOT_CLOSED = "asyncgen_not_closed"
    RESOURCE_NOT_CLOSED = "resource_not_closed"
    LOOP_ALREADY_RUNNING = "loop_already_running"
    NESTED_RUN = "nested_run"
    LOOP_CLOSED = "loop_closed"
    WRONG_LOOP = "wrong_loop"
    WRONG_THREAD = "wrong_thread"
    TASK_GROWTH = "task_growth"
    EXECUTOR_SATURATED = "executor_saturated"


class Raised(NamedTuple):
    """An exception as text: to keep the object would keep alive what its traceback holds."""

    type: str
    message: str
    stacktrace: str

    @classmethod
    def of(cls, error: BaseException) -> Raised:
        """The exception as `opentelemetry-sdk` records it."""
        return cls(error_type(error), str(error), "".join(traceback.format_exception(error)))


class Problem(NamedTuple):
    """One problem: what, in which task, over which interval (wall clock, ns)."""

    kind: ProblemKind
    what: str
    code: CodeInfo | None
    qualname: str
    record: TaskRecord | None
    start: int
    end: int
    raised: Raised | None = None
    at: Frame | None = None
    """The line to blame, where that is not the coroutine's own."""

    stack: tuple[Frame, ...] = ()
    """The stack that led there, outermost first."""

    closed: Closed | None = None
    """Of a loop that was used after its end: where that was."""

    growth: Growth | None = None
    """Of tasks that become more and more: how many."""

    span: Any = None
    """The program's span that was open around it in the task; None: the task's own was the innermost."""


class Closed(NamedTuple):
    """Where a loop was closed (None: by no line that could be seen), and when (monotonic clock, ns)."""

    site: Site | None
    moment: int


class Growth(NamedTuple):
    """How many tasks of one line live, and how many more they become each second."""

    live: int
    rate: float


class HandlerCalls:
    """What is reported to the exception handlers of one observation's loops, by asyncio and by libraries.

    Most of it comes from finalizers, which run anywhere: it is noted, nothing is said.
    """

    def __init__(self, observation: Observation) -> None:
        self._observation = observation

    def note(self, context: Mapping[str, Any]) -> None:
        """A handler is called with this context."""
        observation = self._observation
        if observation.problems.failed:
            return
        try:
            task = context.get("task") or context.get("future")
            problem = self._of_task(context, task) if isinstance(task, asyncio.Task) else self._of_resource(context)
            if problem is not None:
                observation.outbox.append(problem)
        except Exception as failure:  # noqa: BLE001 - the border of the package
            observation.problems.fail(failure)

    def _of_task(self, context: Mapping[str, Any], task: asyncio.Task[Any]) -> Problem | None:
        """The messages are those of CPython's `Task.__del__` and `Future.__del__`, the same from 3.11 to 3.15."""
        message = str(context.get("message", ""))
        raised, known = None, getattr(task, "_otel_asyncio", None)
        if message.startswith("Task was destroyed but it is pending"):
            kind = ProblemKind.TASK_DESTROYED_PENDING
            _note_destroyed(task, known)
        elif message.endswith("exception was never retrieved"):
            kind, raised = ProblemKind.EXCEPTION_NEVER_RETRIEVED, Raised.of(context["exception"])
        else:
            return None
        start = wall = self._observation.clock.wall_ns()
        record = known if isinstance(known, TaskRecord) else None
        if record is not None:
            code, qualname = record.code, record.qualname
            since = record.created if record.outcome is None else record.ended
            start -= self._observation.clock.monotonic_ns() - since
        else:
            code, qualname = describe(task.get_coro())
        return Problem(kind, message, code, qualname, record, start, wall, raised)

    def _of_resource(self, context: Mapping[str, Any]) -> Problem | None:
        unclosed = unclosed_in(context)
        if unclosed is None:
            return None
        now, record = self._observation.clock.wall_ns(), None
        if not self._observation.may_collect():  # else it was not dropped by whoever runs
            record = self._observation.running_record()
        code, qualname = (unclosed.code, unclosed.qualname) if record is None else (record.code, record.qualname)
        span = None if record is None else self._observation.sink.open_span(record, None)
        kind, what = ProblemKind.RESOURCE_NOT_CLOSED, f"{unclosed.message} ({unclosed.qualname})"
        return Problem(kind, what, code, qualname, record, now, now, at=unclosed.made_at, span=span)


def _note_destroyed(task: Any, record: Any) -> None:
    if isinstance(record, TaskRecord):
        if record.outcome is None:
            record.name = task.get_name()
            record.problem = ProblemKind.TASK_DESTROYED_PENDING
    elif record is not None and not (state := task.get_loop()._otel_asyncio).closed:
        state.shard.ended[Outcome.DESTROYED] += 1
