"""What a step touches of a task and of a loop; the same fields in both flavours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.flavour import extension

if TYPE_CHECKING:
    from otel_asyncio.observe.records import TaskRecord


class Cell:
    """What stands for a task: `step` is called for each of its steps."""

    __slots__ = ("step",)
    step: Any


class TimedCell(Cell):
    """The fields of a record that every step writes. Compiled, they are plain integers."""

    __slots__ = (
        "busy",
        "created",
        "ended",
        "first_step",
        "kind",
        "loop",
        "max_idle",
        "max_step",
        "ready",
        "scheduled",
        "step_started",
        "steps",
        "suspended",
        "wall",
    )


class LoopCell:
    """The fields of a loop's state that every step looks at.

    Compiled steps, which leave no frame, say here that they run; of those in Python the frames tell (`looks`).
    """

    __slots__ = ("metered", "running")
    running: TaskRecord | None
    metered: bool
    """Whether somebody reads the metrics, so that it pays to keep samples and to time the loop."""
    frameless: int = 0
    """How many compiled steps run now, one inside another where the loop runs nested."""
    turn: int = 0
    """The number of the innermost of them: no two have the same."""
    innermost: Cell | None = None
    """What stands for its task."""


if not TYPE_CHECKING and extension is not None:
    Cell, TimedCell, LoopCell = extension.Cell, extension.TimedCell, extension.LoopCell
