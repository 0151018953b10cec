"""What a step touches of a task and of a loop; the same fields in both flavours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.flavour import extension

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType

    from otel_asyncio.observe.bursts import Burst
    from otel_asyncio.observe.cancellation import Fate, Origin, Request
    from otel_asyncio.observe.counters import Shard
    from otel_asyncio.observe.observation import Observation
    from otel_asyncio.observe.observer import Guard
    from otel_asyncio.observe.records import Counted, TaskRecord, Unrecorded
    from otel_asyncio.observe.shutdown import Shutdown
    from otel_asyncio.observe.watch import Watch


class Cell:
    """What stands for a task: `step` is called for each of its steps."""

    __slots__ = ("step",)
    step: Any


class TimedCell(Cell):
    """The fields of a record that every task has. Compiled, what the steps write are plain integers."""

    __slots__ = (
        "asked",
        "busy",
        "cancellation",
        "code",
        "created",
        "creator",
        "ended",
        "first_step",
        "id",
        "kind",
        "loop",
        "made_code",
        "made_instruction",
        "max_idle",
        "max_step",
        "name",
        "outcome",
        "problem",
        "qualname",
        "ready",
        "scheduled",
        "span",
        "step_started",
        "steps",
        "suspended",
        "task",
        "waits",
        "wall",
    )


class CountedCell(Cell):
    """What stands for tasks that get no span while they are being cancelled."""

    __slots__ = ("cancellation", "ready")
    cancellation: Any
    ready: int
    """Since when the next step is announced; `NOT_READY`: none is."""


class ShardCell:
    """The fields of a loop's counters that every task touches."""

    __slots__ = ("glimpse_at", "recorded", "started", "steps", "succeeded")
    started: int
    succeeded: int
    """Tasks created, and those of them that returned: nearly all do, and a slot costs half of a key in a table."""
    recorded: int
    steps: int
    """Recorded tasks that have ended, and their steps."""
    glimpse_at: int
    """How many tasks have been started when the next one that is only counted gets a `Glimpse`."""


class LoopCell:
    """The fields of a loop's state that every task and step looks at.

    Compiled steps, which leave no frame, say here that they run; of those in Python the frames tell (`looks`).
    """

    __slots__ = (
        "alive",
        "burst",
        "cancelling",
        "counted",
        "dozes",
        "expected",
        "let_go",
        "metered",
        "observation",
        "running",
        "shard",
        "shutdown",
        "step",
        "unrecorded",
        "watch",
    )
    observation: Observation
    shard: Shard
    step: Any
    """The step of its recorded tasks."""
    alive: set[TaskRecord]
    """The records of those that have not ended."""
    watch: Watch | None
    shutdown: Shutdown | None
    expected: TaskRecord | None
    """The record of a task that somebody's factory makes now."""
    burst: Burst | None
    """What a storm of cancellations that goes on now is collected in."""
    cancelling: Request | None
    """The request that is being made now: what it cancels in turn is its consequence."""
    counted: Counted | None
    """The record of its tasks in that storm that are only counted."""
    unrecorded: Unrecorded
    """Stands in for the record of each of its tasks that get no span."""
    running: TaskRecord | None
    metered: bool
    """Whether somebody reads the metrics, so that it pays to keep samples and to time the loop."""
    let_go: bool
    """Whether nothing of the loop is followed any more."""
    dozes: bool
    """Whether nothing has run for so long that the watchdog's next look is put off. Its thread writes this, too."""
    frameless: int = 0
    """How many compiled steps run now, one inside another where the loop runs nested."""
    turn: int = 0
    """The number of the innermost of them: no two have the same."""
    innermost: Cell | None = None
    """What stands for its task."""


class ShutdownCell:
    """The fields of a loop's end that every task touches that is left."""

    __slots__ = ("cancelled", "left", "slowest", "slowest_time", "started")
    started: int
    cancelled: int
    left: set[int]
    """The identities of the tasks that have not ended."""
    slowest: Any
    """The record of the task that took longest to end."""
    slowest_time: int


class BurstCell:
    """The fields of a burst that each of its cancellations touches."""

    __slots__ = (
        "by",
        "code",
        "count",
        "ends_loop",
        "fate",
        "guard",
        "instruction",
        "last",
        "made_by_it",
        "now",
        "plain",
        "started",
        "step",
        "thread",
        "until",
    )
    guard: Guard
    """Around all that is done about cancellations."""
    by: TaskRecord | None
    """Who asks, in the step that began at `started`, by this instruction of this code, in this thread."""
    started: int
    code: CodeType
    instruction: int
    thread: int
    made_by_it: bool
    """Whether who asks has made the tasks."""
    ends_loop: bool
    until: int
    """When it is over at the latest."""
    now: Callable[[], int]
    plain: Any
    """The step of a recorded task, and the one that stands in its place in a burst."""
    step: Any
    fate: tuple[Origin, Fate, bool]
    count: int
    """Recorded tasks that have ended and were not told of yet."""
    last: TaskRecord | None
    """The record of the last of them."""


if not TYPE_CHECKING and extension is not None:
    Cell, TimedCell = extension.Cell, extension.TimedCell
    ShardCell, LoopCell = extension.ShardCell, extension.LoopCell
    CountedCell, ShutdownCell, BurstCell = extension.CountedCell, extension.ShutdownCell, extension.BurstCell
