"""A loop used wrongly: known by the RuntimeError of asyncio or uvloop that says so, when nobody handled it.

Only an error that leaves a task counts. Libraries try a loop that may be closed, and go on when it is: that is no
problem of anybody's.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_asyncio.observe.chain import Frame
from otel_asyncio.observe.code import PACKAGE, describe, info_of
from otel_asyncio.observe.problems import Problem, ProblemKind, Raised

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from otel_asyncio.observe.clock import Clock
    from otel_asyncio.observe.observer import Guard, Sink
    from otel_asyncio.observe.problems import Closed
    from otel_asyncio.observe.records import TaskRecord

# How the messages of CPython 3.11 to 3.15 (base_events, runners, futures, mixins) and of uvloop begin or end.
_MESSAGES = (
    (ProblemKind.NESTED_RUN, "cannot be called from a running event loop"),
    (ProblemKind.LOOP_ALREADY_RUNNING, "his event loop is already running"),
    (ProblemKind.LOOP_ALREADY_RUNNING, "Cannot run the event loop while another loop is running"),
    (ProblemKind.LOOP_CLOSED, "Event loop is closed"),
    (ProblemKind.WRONG_LOOP, "attached to a different loop"),
    (ProblemKind.WRONG_LOOP, "is bound to a different event loop"),
    (ProblemKind.WRONG_THREAD, "Non-thread-safe operation invoked on an event loop other than the current one"),
)
_DEEPEST = 1_000


class Misuse(NamedTuple):
    """Which wrong, on which line of the program, and who called it there."""

    kind: ProblemKind
    at: Frame | None
    stack: tuple[Frame, ...]
    """Outermost first: who runs the loop, then who tried."""

    loop: Any
    """The loop that was used, where the traceback leads to it. Not to be kept."""


class Misuses:
    """Tells of each misuse once, however many tasks the error leaves on its way."""

    def __init__(self, sink: Sink, clock: Clock, guard: Guard) -> None:
        self._sink = sink
        self._clock = clock
        self._guard = guard
        self._told = 0  # the id of the error last told of, which lives as long as it is on its way

    def look_at(self, error: BaseException, task: Any, record: TaskRecord | None) -> None:
        """An error has left a task; `record` is the task's, if it has one."""
        if self._guard.failed or id(error) == self._told:
            return
        try:
            misuse = recognise(error)
            if misuse is not None:
                self._told = id(error)
                self._sink.problem(self._problem_of(misuse, error, task, record))
        except Exception as failure:  # noqa: BLE001 - the border of the package
            self._guard.fail(failure)

    def _problem_of(self, misuse: Misuse, error: BaseException, task: Any, record: TaskRecord | None) -> Problem:
        code, qualname = (record.code, record.qualname) if record is not None else describe(task.get_coro())
        closed: Closed | None = getattr(getattr(misuse.loop, "_otel_asyncio", None), "closed_at", None)
        wall = self._clock.wall_ns()
        start = wall if closed is None else wall - (self._clock.monotonic_ns() - closed.moment)
        at, stack, raised = misuse.at, misuse.stack, Raised.of(error)
        return Problem(misuse.kind, str(error), code, qualname, record, start, wall, raised, at, stack, closed)


def recognise(error: BaseException) -> Misuse | None:
    """What an error that leaves a task says of a loop. Called below the step, where the loop's own stack stands."""
    if type(error) is not RuntimeError:
        return None
    message = str(error)
    kind = next((kind for kind, text in _MESSAGES if text in message), None)
    if kind is None:
        return None
    raised = list(_raised_in(error))
    frames = [_seen(frame, line) for frame, line in raised]
    blame = next((frame for frame in reversed(frames) if not frame.code.internal), None)
    around = [_seen(frame, frame.f_lineno) for frame in _around(sys._getframe(1)) if not _is_ours(frame)]
    around.reverse()
    return Misuse(kind, blame, (*around, *frames), _loop_of(raised))


def _raised_in(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    entry, count = error.__traceback__, 0
    while entry is not None and count < _DEEPEST:
        yield entry.tb_frame, entry.tb_lineno
        entry, count = entry.tb_next, count + 1


def _around(frame: FrameType | None) -> Iterator[FrameType]:
    count = 0
    while frame is not None and count < _DEEPEST:
        yield frame
        frame, count = frame.f_back, count + 1


def _is_ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(PACKAGE)


def _seen(frame: FrameType, line: int | None) -> Frame:
    code = frame.f_code
    return Frame(info_of(code, frame.f_globals.get("__name__")), line or code.co_firstlineno, code.co_qualname)


def _loop_of(raised: list[tuple[FrameType, int]]) -> Any:
    """`self` of the loop's own check that raised."""
    frame = raised[-1][0] if raised else None
    return frame.f_locals.get("self") if frame is not None and frame.f_code.co_name.startswith("_check_") else None
