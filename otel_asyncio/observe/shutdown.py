"""A loop's end that cancels what is left (`_cancel_all_tasks`, of asyncio's Runner and of uvloop)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.cells import ShutdownCell

if TYPE_CHECKING:
    from otel_asyncio.observe.loops import LoopState


class Shutdown(ShutdownCell):
    """A loop's end that cancels what is left."""

    __slots__ = ("wall",)

    def __init__(self, now: int, wall: int) -> None:
        self.started, self.wall = now, wall
        self.cancelled = 0
        self.left = set()
        self.slowest = None
        self.slowest_time = 0


def state_of(record: Any, task: Any) -> LoopState:
    """The state of the loop of a task, recorded or only counted."""
    return record.loop if record.timed else task.get_loop()._otel_asyncio  # type: ignore[no-any-return]


def begin_one(state: LoopState, task_id: int) -> None:
    """One more task is cancelled."""
    if state.shutdown is None:
        state.shutdown = Shutdown(state.now(), state.wall())
    state.shutdown.left.add(task_id)
    state.shutdown.cancelled += 1


def end_one(state: LoopState, record: Any, task_id: int, now: int) -> None:
    """A task has ended while the loop shuts down."""
    shutdown = state.shutdown
    if shutdown is not None and task_id in shutdown.left:
        shutdown.left.remove(task_id)
        shutdown.slowest = record if record.timed else shutdown.slowest
        shutdown.slowest_time = now - shutdown.started
        if not shutdown.left:
            end(state, now)


def end(state: LoopState, now: int) -> None:
    """All of them are done, or never will be."""
    shutdown, state.shutdown = state.shutdown, None
    if shutdown is not None:
        state.observation.ending.run(state.observation.sink.shut_down, state, shutdown, now)
