"""Which loops of one observation are watched, and what is made of a step that took long."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Protocol

from otel_asyncio.observe.deadlines import context_of
from otel_asyncio.observe.observer import Guard
from otel_asyncio.observe.watch import Watch
from otel_asyncio.observe.watchdog import the_watchdog

if TYPE_CHECKING:
    from contextvars import Context

    from otel_asyncio.observe.blocks import Block
    from otel_asyncio.observe.loops import LoopState
    from otel_asyncio.observe.records import TaskRecord


class BlockReporter(Protocol):
    """Receives every block. May raise: each call is guarded."""

    def parent(self, record: TaskRecord, start: int) -> Any:
        """The span that a block since `start` stands under. Called within the step that blocked, at its end."""
        ...

    def open_in(self, record: TaskRecord, context: Context | None) -> Any:
        """The span of the program that is open in this context, if none is above the task. From any thread."""
        ...

    def report(self, block: Block) -> None:
        """A loop was held, or is. Called in the loop's thread or in the watchdog's."""
        ...


class Watching:
    """The watches of one observation.

    `limit`: from how many nanoseconds on a unit of work is a block; `patience`: after how many one that lasts is
    reported while it lasts; `depth`: how many frames of a stack are kept.
    """

    def __init__(self, reporter: BlockReporter, *, limit: int, patience: int, depth: int) -> None:
        self._reporter = reporter
        self._limit, self._patience, self._depth = limit, patience, depth
        self._watches: list[Watch] = []
        self._guard = Guard("blocking")

    def attend(self, loop: Any, state: LoopState) -> None:
        """A loop has been taken in."""
        dog = the_watchdog()
        state.watch = watch = Watch(
            loop,
            state,
            limit=self._limit,
            patience=self._patience,
            depth=self._depth,
            pauses=dog.pauses,
            stops=dog.stops,
            emit=self._emit,
            wake=dog.wake,
            place=self._place,
        )
        if asyncio._get_running_loop() is loop:
            state.thread = threading.get_ident()
        self._watches = [known for known in self._watches if not known.gone]
        self._watches.append(watch)
        dog.add(watch)

    def held(self, record: TaskRecord, started: int, ended: int) -> None:
        """A recorded step that took long is over. In the loop's thread."""
        watch = record.loop.watch
        if watch is None or self._guard.failed:
            return
        try:
            parent = self._reporter.parent(record, started)
            watch.held(record, started, ended, parent, doubtful=the_watchdog().is_late)
        except Exception as error:  # noqa: BLE001 - the border of the package
            self._guard.fail(error)

    def _place(self, record: TaskRecord) -> Any:
        """The span that is open where a step of this task blocks: in whichever task really runs. From outside."""
        try:
            task = None if self._guard.failed else asyncio.current_task(record.loop.loop())
            return None if task is None else self._reporter.open_in(record, context_of(task))
        except Exception as error:  # noqa: BLE001 - the border of the package
            self._guard.fail(error)
            return None

    def _emit(self, block: Block) -> None:
        if self._guard.failed:
            return
        try:
            if block.over and block.loop.metered:
                block.loop.shard.blocks.append((block.end - block.since, block.accuracy, block.parent))
            self._reporter.report(block)
        except Exception as error:  # noqa: BLE001 - the border of the package
            self._guard.fail(error)

    def is_collecting(self) -> bool:
        """Whether this thread is in the middle of a garbage collection."""
        return the_watchdog().pauses.is_collecting()

    def drain(self) -> None:
        """Report what the watchdog has not come to decide."""
        for watch in tuple(self._watches):
            watch.decide()

    def stop(self) -> None:
        """Look at none of the loops any more."""
        watches, self._watches = self._watches, []
        the_watchdog().remove(watches)
        for watch in watches:
            watch.end()
