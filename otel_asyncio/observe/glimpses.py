"""Of tasks that get no span, one in so many is looked at for the histograms: its first step and its end.

All of them while they are few. Beyond that as many as `Samples` keeps of those that end, so that no kind of task weighs
more than another, at irregular distances, so that no rhythm of the program's is hit.
"""

from __future__ import annotations

from types import CodeType
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.cells import Cell
from otel_asyncio.observe.code import describe
from otel_asyncio.observe.flavour import extension
from otel_asyncio.observe.records import EXITS

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_asyncio.observe.code import CodeInfo
    from otel_asyncio.observe.loops import LoopState
    from otel_asyncio.observe.observation import Observation
    from otel_asyncio.observe.records import Outcome

_NO_FUTURE = object()


class Glimpse(Cell):
    """Stands in for the record of one task that gets no span: when it was made, when it ended, and how."""

    timed = notes_ready = False
    cancellation = span = None

    __slots__ = ("cancellations", "code", "created", "ended", "outcome", "qualname", "shard", "steps", "weight")
    ended: int
    outcome: Outcome

    def __init__(self, state: LoopState, coro: Any, weight: int) -> None:
        observation = state.observation
        self.step = observation.glimpse_step
        self.cancellations = observation.cancellations
        self.shard = state.shard
        self.code: CodeInfo
        self.code, self.qualname = describe(coro)
        self.weight, self.steps = weight, 0
        self.created = state.now()

    @property
    def glimpse(self) -> Glimpse:
        """As of whatever else stands for a task that gets no span."""
        return self

    def end(self, outcome: Outcome, now: int) -> None:
        """The last step is over."""
        self.outcome, self.ended = outcome, now
        self.shard.glimpsed += 1
        self.shard.durations.offer(self, self.weight)


def glimpse(state: LoopState, coro: Any) -> Any:
    """The stand-in for the record of the task that is made of `coro` now, as its turn has come."""
    shard = state.shard
    stride = shard.durations.stride
    shard.jitter = (shard.jitter * 6364136223846793005 + 1442695040888963407) % 2**64  # Knuth's
    shard.glimpse_at = shard.started + 1 + (shard.jitter >> 33) % (2 * stride - 1)  # `stride` on average
    try:
        return Glimpse(state, coro, stride)
    except Exception as error:  # noqa: BLE001 - the border of the package
        state.observation.switch_off_creation(error)
        return state.unrecorded


def make_glimpse_step(observation: Observation) -> Callable[..., None]:
    """The step of a task that is looked at: as of one that is only counted, but for the first, which is timed."""
    now, finish, nothing = observation.clock.monotonic_ns, observation.finish_unrecorded, _NO_FUTURE
    goes_on = observation.unrecorded.step if extension is not None else None  # faster, and it counts its turns

    def step(task: Any, callback: Any, future: Any = nothing) -> None:
        seen = task._otel_asyncio.glimpse  # cancelled before it ran, it has a record of another kind by now
        if not seen.steps:
            seen.shard.delays.offer((now() - seen.created, seen), seen.weight)
            seen.step = goes_on or seen.step
        seen.steps += 1
        seen.shard.glimpsed_steps += 1
        seen.shard.counted_steps += seen.weight - 1  # of those that it stands for
        try:
            if future is nothing:
                callback()
            else:
                callback(future)
        except EXITS as error:
            error.__traceback__ = error.__traceback__.tb_next  # type: ignore[union-attr]  # this frame, taken off
            raise
        finally:
            if task.done():
                finish(task, future)
            task = callback = future = seen = None

    return step


GLIMPSE_STEP_CODE = next(
    item for item in make_glimpse_step.__code__.co_consts if isinstance(item, CodeType) and item.co_name == "step"
)
"""What the frame of this step is known by, in a stack."""
