"""What a thread's stack says of the loop that it runs, looked at from another thread.

A unit of a loop's work is one handle: a task's step, a callback, a timer, what a protocol is told. asyncio runs each
by a call of `Handle._run`, a plain Python function. On uvloop, which leaves no frame of its own, it is the outermost
function above the `run_forever` of `runs.py`. Either is called once for each unit, so that the frame object is the
identity of the unit. Two looks know the same one by a bit set on that object, which dies with it: `f_trace_lines`, of
no effect on a frame that nobody traces. An address would not do: the next call gets the same one.

A compiled step leaves neither frame. The loop's cell says that one runs and which, by a number of its own; where on the
stack it lies is told by counting: of the turns of the loop that lie there, one in another, each runs one unit at most.

What a look returns holds no frame.
"""

from __future__ import annotations

import sys
from asyncio import events
from enum import Enum
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR
from typing import TYPE_CHECKING, NamedTuple

from otel_asyncio.observe.chain import Frame, name_of
from otel_asyncio.observe.code import LOOPS_TURN, PACKAGE, info_of
from otel_asyncio.observe.glimpses import GLIMPSE_STEP_CODE
from otel_asyncio.observe.steps import STEP_CODE, UNRECORDED_STEP_CODE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType, FrameType

    from otel_asyncio.observe.cells import LoopCell
    from otel_asyncio.observe.records import TaskRecord

# The steps of tasks that get no span.
_COUNTED = {UNRECORDED_STEP_CODE, GLIMPSE_STEP_CODE}
_SUSPENDING = CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR


class Unit(Enum):
    """What a loop works on."""

    RECORDED = "recorded"
    UNRECORDED = "unrecorded"
    CALLBACK = "callback"


class Look(NamedTuple):
    """One unit of work, as it stood when it was looked at."""

    unit: Unit
    key: int
    """The address of its frame; of a compiled step, its number, below zero."""
    seen_before: bool
    """Whether an earlier look of ours has seen this very unit."""
    stack: tuple[Frame, ...]
    """Innermost first, without this package's own frames."""
    omitted: int
    callback: str | None
    """The name of a callback that has no frame because it is written in C; None where it cannot be read."""


def frames_survive() -> bool:
    """Whether a frame object lasts as long as its call, and no longer: what looking at it rests on.

    And whether another thread's may be read at all: without a GIL it runs while it is read.
    """

    def mark() -> tuple[bool, bool]:
        before = sys._getframe().f_trace_lines
        sys._getframe().f_trace_lines = False
        return before, sys._getframe().f_trace_lines

    return getattr(sys, "_is_gil_enabled", lambda: True)() and [mark(), mark()] == [(True, False)] * 2


def look(thread: int, depth: int, entry: CodeType, cell: LoopCell) -> Look | None:
    """What the loop of this thread works on; None where it waits, is between two units, or nobody can tell.

    `entry`: the code of the function below which uvloop runs; `depth`: how many frames of the stack are kept.
    """
    found = _find_unit(sys._current_frames().get(thread), entry, cell)
    if found is None:
        return None
    frame, unit, above = found
    if frame is None:
        return Look(unit, -cell.turn, True, stack_of(above, depth), max(0, len(above) - depth), None)
    if frame.f_trace is not None or frame.f_code.co_flags & _SUSPENDING:
        return None  # the bit means something to whoever traces; a coroutine's frame lasts over many units
    seen_before = not frame.f_trace_lines
    frame.f_trace_lines = False
    stack = stack_of(above, depth)
    callback = None if stack else _callback_of(frame)
    return Look(unit, id(frame), seen_before, stack, max(0, len(above) - depth), callback)


def look_into_step(
    thread: int, depth: int, entry: CodeType, cell: LoopCell, record: TaskRecord
) -> tuple[tuple[Frame, ...], int] | None:
    """The stack of this task's step, which runs in this thread; None where a nested run of the loop lies above it."""
    frame, above = sys._current_frames().get(thread), []
    while frame is not None and frame.f_code not in {STEP_CODE, entry}:
        if frame.f_code is events.Handle._run.__code__:
            return None
        if frame.f_code.co_name == LOOPS_TURN:
            if cell.innermost is not record or not runs_a_step(frame, cell):
                return None
            break
        above.append(frame)
        frame = frame.f_back
    if frame is None:
        above = _of_the_coroutine(above)
    return stack_of(above, depth), max(0, len(above) - depth)


def runs_a_step(turn: FrameType | None, cell: LoopCell) -> bool:
    """Whether a compiled step lies right above this turn of the loop, rather than above one further out."""
    turns = units = 0
    while turn is not None:
        turns += turn.f_code.co_name == LOOPS_TURN
        units += turn.f_code is events.Handle._run.__code__
        turn = turn.f_back
    return cell.frameless > 0 and turns == units + cell.frameless


def _of_the_coroutine(above: list[FrameType]) -> list[FrameType]:
    """Of all frames of a thread those above a uvloop that leaves no mark: as far as the task's own coroutine."""
    outermost = max((at for at, frame in enumerate(above) if frame.f_code.co_flags & _SUSPENDING), default=-1)
    return above[: outermost + 1]


def _find_unit(
    frame: FrameType | None, entry: CodeType, cell: LoopCell
) -> tuple[FrameType | None, Unit, list[FrameType]] | None:
    handle_run = events.Handle._run.__code__
    unit, step = Unit.CALLBACK, None
    above: list[FrameType] = []
    while frame is not None:
        code = frame.f_code
        if code is handle_run:
            return frame, unit, above
        if code.co_name == LOOPS_TURN:
            return (None, _unit_of(cell), above) if runs_a_step(frame, cell) else None
        if code is entry:
            if cell.frameless:
                return None, _unit_of(cell), above
            return (above[-1], unit, above) if above else None
        if code is STEP_CODE or code in _COUNTED:
            unit = Unit.RECORDED if code is STEP_CODE else Unit.UNRECORDED
            step = frame
        above.append(frame)
        frame = frame.f_back
    # On uvloop, observed since it ran: nothing marks where the loop begins, but a step is a step.
    if cell.frameless:
        return None, _unit_of(cell), _of_the_coroutine(above)
    return None if step is None else (step, unit, above[: above.index(step)])


def _unit_of(cell: LoopCell) -> Unit:
    return Unit.RECORDED if getattr(cell.innermost, "timed", False) else Unit.UNRECORDED


def stack_of(frames: Sequence[FrameType], depth: int) -> tuple[Frame, ...]:
    """Code and line of the innermost frames, innermost first."""
    return tuple(_seen(frame) for frame in frames[:depth] if not frame.f_code.co_filename.startswith(PACKAGE))


def _seen(frame: FrameType) -> Frame:
    code = frame.f_code
    info = info_of(code, frame.f_globals.get("__name__"))
    return Frame(info, frame.f_lineno or code.co_firstlineno, code.co_qualname)


def _callback_of(frame: FrameType) -> str | None:
    """The callback that `Handle._run` calls."""
    handle = frame.f_locals.get("self")
    return name_of(handle._callback) if isinstance(handle, events.Handle) else None  # type: ignore[attr-defined]
