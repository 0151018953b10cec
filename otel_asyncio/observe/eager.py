"""The first step of an eager task that was started past us: `asyncio.Task(..., eager_start=True)`.

It runs inside the constructor and is announced to nobody. A task that is taken in there, because something in it asks
who runs, is told of the end of this step where asyncio's list of tasks is written in Python (3.12, 3.13; `registered`).
From 3.14 on the list is kept in C. There the task's next step comes to know of it first: it is given a step of its own,
which makes up for that and then steps aside.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.records import EXITS

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_asyncio.observe.observation import Observation
    from otel_asyncio.observe.records import TaskRecord

ENDS_ARE_TOLD = sys.version_info < (3, 14)


def who_runs(_: Observation) -> dict[str, Callable[..., Any]]:
    """What takes the place of the observation's methods that tell which task runs: nothing, they are Python."""
    return {}


def take_in_first_step(record: Any, maker: TaskRecord | None) -> None:
    """A task is taken in while its first step runs, inside a step of `maker`, or of no task that is known."""
    if record.timed:
        record.in_first_step()
    if record.timed and not ENDS_ARE_TOLD:
        record.step = _SecondStep(record.step, maker)


def make_up_for_first_step(record: TaskRecord) -> None:
    """Outside of any step: the first one of this task is over, if nobody has told of its end so far."""
    if type(record.step) is _SecondStep:
        record.step.make_up(record)


def make_up_once_suspended(record: TaskRecord, task: Any) -> None:
    """The same inside a step, of whatever task: the first one of this is over if its coroutine has been suspended."""
    if is_past_first_step(record) and getattr(task.get_coro(), "cr_suspended", False):
        make_up_for_first_step(record)


def is_past_first_step(record: TaskRecord) -> bool:
    """Whether a task's first step may be over without having been told of."""
    return type(record.step) is _SecondStep


class _SecondStep:
    """Stands in for the step of such a task, once."""

    __slots__ = ("_maker", "_steps", "_then")

    def __init__(self, then: Callable[..., None], maker: TaskRecord | None) -> None:
        self._then, self._maker = then, maker
        self._steps = 0 if maker is None else maker.steps
        """How many the maker had done before the one in which it made the task."""

    def __call__(self, task: Any, callback: Any, *future: Any) -> None:
        self.make_up(task._otel_asyncio)
        try:
            self._then(task, callback, *future)
        except EXITS as error:
            error.__traceback__ = error.__traceback__.tb_next  # type: ignore[union-attr]  # this frame, taken off
            raise
        finally:
            task = callback = future = None  # type: ignore[assignment]

    def make_up(self, record: TaskRecord) -> None:
        """The first step ended not later than the maker's, in which it lay; if that is not known any more, it counts
        for nothing.
        """
        maker, record.step = self._maker, self._then
        is_known = maker is not None and maker.steps == self._steps + 1 and not maker.step_started
        if not record.steps:
            record.end_first_step(maker.suspended if is_known and maker is not None else record.created)
