"""The path of every step: nothing of our own is queued beside the program's callbacks, no moment is counted twice."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from harness import NewLoop, TracedRun, asyncio_only, both_ways, run_on

from otel_asyncio.observe.clock import Clock
from otel_asyncio.testing import record

recorded_or_not = pytest.mark.parametrize("root_tasks", ("all", "none"))


@both_ways
@asyncio_only
@recorded_or_not
def test_every_turn_of_the_loop_has_as_many_callbacks_as_without_tracing(
    run: Callable[..., Any], traced_run: TracedRun, root_tasks: str
) -> None:
    """One more, even of one that does nothing, and a turn of the loop is longer than the program made it."""

    async def child(future: asyncio.Future[None]) -> None:
        await asyncio.sleep(0)
        await future
        await asyncio.sleep(0)

    async def main() -> list[int]:
        loop: Any = asyncio.get_running_loop()
        turns: list[int] = []

        def look() -> None:
            turns.append(len(loop._ready))
            if len(turns) < 8:
                loop.call_soon(look)

        loop.call_soon(look)
        future = loop.create_future()
        tasks = [asyncio.create_task(child(future)) for _ in range(5)]
        await asyncio.sleep(0)
        turns.append(len(loop._ready))
        await asyncio.sleep(0)
        future.set_result(None)
        turns.append(len(loop._ready))
        await asyncio.gather(*tasks)
        return turns

    assert traced_run(main(), root_tasks=root_tasks) == run(main())


def test_a_task_that_only_yields_has_waited_for_nothing_but_the_loop(new_loop: NewLoop) -> None:
    """It announces its next step while this one still runs: the time in between is busy, and is so once.

    On a clock that moves on whenever it is looked at, as the real one does.
    """
    ticks = itertools.count(1).__next__

    async def yields() -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    with record(clock=Clock(monotonic_ns=ticks, wall_ns=ticks)) as recorder:
        run_on(new_loop, yields())
    (span,) = (span for span in recorder.spans if span.name.endswith("yields"))
    said = span.attributes or {}
    assert (said["asyncio.task.idle_time"], said["asyncio.task.max_idle_time"]) == (0, 0)
