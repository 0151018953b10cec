"""Ten thousand at once: few spans, nothing silently lost; and what the end of a loop says of itself."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import Any

import pytest
from harness import Spans, TracedRun, attributes

from cancellation.ways import line_of
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


async def mixed() -> Any:
    """A storm in which not everybody simply ends."""

    async def swallows() -> str:
        try:
            await wait()
        except asyncio.CancelledError:
            pass
        await asyncio.sleep(0.15)
        return "went on"

    async def cleans_up() -> None:
        try:
            await wait()
        finally:
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    async def stops() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await wait()
        return "stopped"

    async def takes_back() -> int:
        with contextlib.suppress(asyncio.CancelledError):
            await wait()
        left = asyncio.current_task().uncancel()
        await asyncio.sleep(0.15)
        return left

    async def hands_on() -> None:
        await asyncio.create_task(wait())

    async def twice() -> None:
        await wait()

    kinds = [swallows, cleans_up, stops, takes_back, hands_on, twice]
    tasks = [asyncio.create_task(wait()) for _ in range(150)]
    tasks += [asyncio.create_task(kind()) for kind in kinds for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()  # by
    for task in tasks[-3:]:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    return [repr(each) for each in done], [task.cancelling() for task in tasks]


def test_in_a_storm_each_fate_is_what_it_is(run: Any, instrumented_process: Any, spans: Spans) -> None:
    run(mixed())
    counted = instrumented_process.observation.counters.cancellations
    assert +counted == {
        ("explicit", "delivered", True): 150
        + 3
        + 3
        + 3
        + 3,  # `cleans_up`, `hands_on`, and whom it hands it to; `twice`
        ("explicit", "suppressed", False): 3,
        ("explicit", "handled", True): 3,
        ("explicit", "converted", False): 3,
    }
    assert told(spans) == counted.total() - 3  # a scope that takes it back tells it itself


def test_in_a_storm_whoever_is_asked_through_another_names_the_first(traced_run: TracedRun, spans: Spans) -> None:
    traced_run(mixed())
    assert {attributes(span).get("asyncio.cancel.by.line") for span in cancels(spans)} == {line_of("by", mixed)}


def test_a_suppressed_cancellation_is_told_in_a_storm_too(traced_run: TracedRun, spans: Spans) -> None:
    traced_run(mixed())
    suppressed = [span for span in cancels(spans) if "asyncio.problem" in attributes(span)]
    assert [span.name.rpartition(".")[2] for span in suppressed] == ["swallows"] * 3
    for span in suppressed:
        assert attributes(span)["asyncio.cancel.latency"] >= 0.15


def test_a_storm_does_the_same_as_without(same_as_bare: Any) -> None:
    same_as_bare(mixed)


@pytest.mark.settings(root_tasks="none")
def test_a_storm_of_tasks_that_are_only_counted(run: Any, instrumented_process: Any) -> None:
    bare = run(mixed())
    assert len(bare[0]) == 168
    counted = instrumented_process.observation.counters.cancellations
    assert sum(count for (_, fate, _), count in counted.items() if fate == "delivered") == 162
    assert {fate: count for (_, fate, _), count in counted.items() if fate != "delivered"} == {
        "suppressed": 3, "handled": 3, "converted": 3,
    }  # fmt: skip


def test_a_storm_leaves_no_cycles(traced_run: TracedRun) -> None:
    async def main() -> int:
        await storm()
        gc.collect()
        await storm()
        return gc.collect()

    gc.disable()
    try:
        assert traced_run(main()) < 100
    finally:
        gc.enable()


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
