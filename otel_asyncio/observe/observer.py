"""What listens to the facts, and what happens when a listener fails."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from otel_asyncio.observe.awaits import Wait
    from otel_asyncio.observe.bursts import Burst
    from otel_asyncio.observe.calls import Call
    from otel_asyncio.observe.cancellation import Cancellation
    from otel_asyncio.observe.loops import LoopState
    from otel_asyncio.observe.problems import Problem
    from otel_asyncio.observe.records import TaskRecord
    from otel_asyncio.observe.scopes import Expiry
    from otel_asyncio.observe.shutdown import Shutdown

logger = logging.getLogger("otel_asyncio")


class Sink(Protocol):
    """Receives every fact once it is complete. May raise: the observation guards each call.

    Nothing it returns but the place and the context flows back into the program.
    """

    surroundings: Callable[[], object]
    """Tells, by identity, in the midst of what a task would be created here and now. Called for every task."""

    unwanted: Callable[[], object]
    """The surroundings seen last in which no task is recorded: a weak reference to them. Nobody need ask `place`."""

    def place(self, context: Context | None, running: TaskRecord | None) -> Any:
        """Where a task created here and now would stand in a trace; None if it is not to be recorded.

        `context` is the one the task will run in, where the program chose one; `running` is the record of the task
        that creates it. Called for every task, so it neither allocates nor formats for one that is not recorded.
        """
        ...

    def opened(self, record: TaskRecord, place: Any, context: Context | None) -> Context | None:
        """The task is about to be made. Returns the context to make it in (None: a copy of the current one)."""
        ...

    def submitted(self, call: Call) -> None:
        """A function is about to be handed to an executor, by the task that runs now or by nobody.

        May set `call.activity`, whose `enter` and `leave` are called in a worker thread around the function.
        """
        ...

    def returned(self, call: Call, error: BaseException | None) -> None:
        """An executor is through with it. In a worker's thread, or where it was cancelled."""
        ...

    def nest(self, record: TaskRecord) -> Any:
        """Under what a long wait would stand that ends now, in this task; None if nobody is to hear of it."""
        ...

    def waited(self, record: TaskRecord, wait: Wait, place: Any) -> None:
        """A long wait is over; `place` is what `nest` has answered."""
        ...

    def omitted(self, record: TaskRecord) -> None:
        """A long wait is over of which nothing was looked at, because there were too many."""
        ...

    def closed(self, record: TaskRecord, error: BaseException | None) -> None:
        """The task has ended."""
        ...

    def open_span(self, record: TaskRecord, context: Context | None) -> Any:
        """The span of the program that is open in a task; None where the task's own is the innermost.

        `context` is the task's; None where that is the current one.
        """
        ...

    def cancelled(self, record: Any, cancellation: Cancellation) -> None:
        """A cancellation is dealt with, or the task has run on. Without a span for tasks that are only counted."""
        ...

    def burst(self, burst: Burst) -> None:
        """The first of many alike is dealt with; `burst.told` says more of them when `flush` is called."""
        ...

    def timed_out(self, expiry: Expiry) -> None:
        """A scope that had expired was left."""
        ...

    def shut_down(self, loop: LoopState, shutdown: Shutdown, now: int) -> None:
        """What a loop's end had cancelled is done."""
        ...

    @property
    def keeps(self) -> bool:
        """Whether there is anything for `flush` to tell. In any thread."""
        ...

    def flush(self) -> None:
        """Tell what was kept back to be told at once."""
        ...

    def problem(self, problem: Problem) -> None:
        """Something happened that a person should look at."""
        ...


class Guard:
    """The border of the package: what fails behind it is logged once, by name, and not called again."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.failed = False

    def run(self, observer: Callable[..., object], *facts: Any) -> None:
        """Tell an observer of something, if it has not failed before."""
        if not self.failed:
            try:
                observer(*facts)
            except Exception as error:  # noqa: BLE001 - the border of the package
                self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Log the first failure and switch this observer off."""
        if not self.failed:
            self.failed = True
            logger.error(
                "otel_asyncio: observing the %s of tasks failed and is switched off; the program goes on",
                self.name,
                exc_info=error,
            )
