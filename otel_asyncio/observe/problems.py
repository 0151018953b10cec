"""What Python tells its exception handler about tasks, as facts that wait until it is safe to speak."""

from __future__ import annotations

import traceback
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_asyncio.observe.code import describe
from otel_asyncio.observe.records import TaskRecord, error_type

if TYPE_CHECKING:
    from collections.abc import Mapping

    from otel_asyncio.observe.chain import Frame
    from otel_asyncio.observe.code import CodeInfo
    from otel_asyncio.observe.records import Site


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

    span: Any = None
    """The program's span that was open around it in the task; None: the task's own was the innermost."""


class Closed(NamedTuple):
    """Where a loop was closed (None: by no line that could be seen), and when (monotonic clock, ns)."""

    site: Site | None
    moment: int


def from_handler(context: Mapping[str, Any], record: object, monotonic: int, wall: int) -> Problem | None:
    """The problem that a call of the loop's exception handler reports of a task, if it is one of ours.

    The messages are those of CPython's `Task.__del__` and `Future.__del__`, the same from 3.11 to 3.15.
    """
    message = str(context.get("message", ""))
    if message.startswith("Task was destroyed but it is pending"):
        kind, task, raised = ProblemKind.TASK_DESTROYED_PENDING, context["task"], None
    elif message.endswith("exception was never retrieved"):
        kind, task = ProblemKind.EXCEPTION_NEVER_RETRIEVED, context["future"]
        raised = Raised.of(context["exception"])
    else:
        return None
    recorded = record if isinstance(record, TaskRecord) else None
    start = wall
    if recorded is not None:
        code, qualname = recorded.code, recorded.qualname
        since = recorded.created if recorded.outcome is None else recorded.ended
        start = wall - (monotonic - since)
    else:
        code, qualname = describe(task.get_coro())
    return Problem(kind, message, code, qualname, recorded, start, wall, raised)
