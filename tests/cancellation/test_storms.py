"""Ten thousand at once: few spans, nothing silently lost; and what the end of a loop says of itself."""

from __future__ import annotations

import asyncio
from typing import Any

from harness import Spans, TracedRun, attributes

from otel_asyncio.testing import AutojumpLoop, record

MANY = 1000


async def wait() -> None:
    await asyncio.Event().wait()


def cancels(spans: Spans) -> list[Any]:
    return [span for span in spans.all() if span.name.startswith("cancel ")]


def told(spans: Spans) -> int:
    """How many cancellations the spans tell of, those included that each stands for."""
    return sum(1 + attributes(span).get("asyncio.cancel.omitted", 0) for span in cancels(spans))


async def storm() -> None:
    tasks = [asyncio.create_task(wait()) for _ in range(MANY)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def leave_behind() -> None:
    event = asyncio.Event()  # which the loop holds, or the collector may come before its end
    asyncio.get_running_loop().call_later(60, event.set)
    for _ in range(MANY):
        asyncio.create_task(event.wait())
    await asyncio.sleep(0)


def test_a_storm_leaves_few_spans(traced_run: TracedRun, spans: Spans) -> None:
    traced_run(storm())
    assert 50 <= len(cancels(spans)) <= MANY / 2


def test_every_cancellation_of_a_storm_is_told(traced_run: TracedRun, spans: Spans) -> None:
    traced_run(storm())
    assert told(spans) == MANY


def test_every_task_of_a_shutdown_is_told(traced_run: TracedRun, spans: Spans) -> None:
    traced_run(leave_behind())
    assert told(spans) == MANY


def test_every_cancellation_of_a_storm_is_counted(run: Any, instrumented_process: Any) -> None:
    run(storm())
    counters = instrumented_process.observation.counters
    assert counters.cancellations["explicit", "delivered", True] == MANY
    assert counters.dropped["span"] > 0


def test_a_shutdown_says_how_many_and_which_was_the_slowest() -> None:
    async def stubborn() -> None:
        try:
            await wait()
        finally:
            await asyncio.sleep(3)

    async def main() -> None:
        tasks = [asyncio.create_task(function()) for function in (stubborn, wait, wait)]
        asyncio.get_running_loop().call_later(60, tasks.clear)  # held until then
        await asyncio.sleep(1)

    loop = AutojumpLoop()
    with record(clock=loop.clock) as recorder, asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())
    (span,) = [span for span in recorder.spans if span.name == "asyncio.shutdown"]
    said: Any = dict(span.attributes or {})
    assert (said["asyncio.shutdown.cancelled"], said["asyncio.shutdown.slowest_time"]) == (3, 3.0)
    assert said["asyncio.shutdown.slowest"].endswith("stubborn")
    assert (span.end_time or 0) - (span.start_time or 0) == 3_000_000_000


def test_a_shutdown_waits_for_the_task_that_refuses_to_die() -> None:
    async def refuses() -> None:
        try:
            await wait()
        except asyncio.CancelledError:
            pass
        await asyncio.sleep(5)

    held = []  # whom only a fresh event knows, the garbage collector may end first

    async def main() -> None:
        held.append(asyncio.create_task(refuses()))
        await asyncio.sleep(1)

    loop = AutojumpLoop()
    with record(clock=loop.clock) as recorder, asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())
    (span,) = [span for span in recorder.spans if span.name == "asyncio.shutdown"]
    assert dict(span.attributes or {})["asyncio.shutdown.slowest_time"] == 5.0
    (cancelled,) = [span for span in recorder.spans if span.name.startswith("cancel ")]
    assert dict(cancelled.attributes or {})["asyncio.cancel.outcome"] == "suppressed"


def test_a_loop_that_ends_with_nothing_left_has_no_shutdown(traced_run: TracedRun, spans: Spans) -> None:
    traced_run(asyncio.sleep(0))
    assert "asyncio.shutdown" not in spans.names()
