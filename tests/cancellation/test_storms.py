"""Ten thousand at once: few spans, nothing silently lost; and what the end of a loop says of itself."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import tracemalloc
from asyncio import runners
from collections.abc import Callable, Iterable
from typing import Any

import anyio
import pytest
from harness import Spans, TracedRun, asyncio_only, attributes
from scanned import Time, scanned

from cancellation.ways import line_of
from otel_asyncio.testing import AutojumpLoop, record

MANY = 1000


async def wait() -> None:
    await asyncio.Event().wait()


def cancels(spans: Spans) -> list[Any]:
    return cancels_of(spans.all())


def cancels_of(spans: Iterable[Any]) -> list[Any]:
    return [span for span in spans if span.name.startswith("cancel ")]


def told(spans: Iterable[Any]) -> int:
    """How many cancellations the spans tell of, those included that each stands for."""
    return sum(1 + attributes(span).get("asyncio.cancel.omitted", 0) for span in cancels_of(spans))


async def started(make: Callable[[Any], Any] = asyncio.create_task) -> list[Any]:
    tasks = [make(wait()) for _ in range(MANY)]
    await asyncio.sleep(0)
    return tasks


async def storm() -> None:
    tasks = await started()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def by_gather() -> None:
    everything = asyncio.gather(*await started())
    everything.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await everything


async def by_the_awaiter_of_gather() -> None:
    async def awaits() -> None:
        await asyncio.gather(*await started())

    task = asyncio.create_task(awaits())
    await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.wait([task])


async def fail() -> None:
    await asyncio.sleep(0)
    raise LookupError


async def by_a_failing_sibling() -> None:
    with contextlib.suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            await started(group.create_task)
            group.create_task(fail())


async def by_a_failing_body() -> None:
    with contextlib.suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            await started(group.create_task)
            raise LookupError


async def by_the_parent_of_a_group() -> None:
    async def parent() -> None:
        async with asyncio.TaskGroup() as group:
            await started(group.create_task)

    task = asyncio.create_task(parent())
    await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.wait([task])


async def by_a_deadline_around_a_group() -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(None) as scope, asyncio.TaskGroup() as group:
            await started(group.create_task)
            scope.reschedule(asyncio.get_running_loop().time())


async def by_anyios_scope() -> None:
    async with anyio.create_task_group() as group:
        await started(lambda coro: group.start_soon(lambda: coro))
        group.cancel_scope.cancel()


async def by_a_failing_sibling_in_anyio() -> None:
    with contextlib.suppress(ExceptionGroup):
        async with anyio.create_task_group() as group:
            await started(lambda coro: group.start_soon(lambda: coro))
            group.start_soon(fail)


async def by_a_deadline_in_anyio() -> None:
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            await started(lambda coro: group.start_soon(lambda: coro))
            scope.deadline = anyio.current_time()


async def by_a_callback() -> None:
    tasks = await started()

    def callback() -> None:
        for task in tasks:
            task.cancel()

    asyncio.get_running_loop().call_soon(callback)
    await asyncio.wait(tasks)


async def by_timers() -> None:
    tasks = await started()
    for task in tasks:
        asyncio.get_running_loop().call_later(0.001, task.cancel)
    await asyncio.wait(tasks)


async def from_another_thread() -> None:
    tasks, loop = await started(), asyncio.get_running_loop()

    def elsewhere() -> None:
        for task in tasks:
            loop.call_soon_threadsafe(task.cancel)

    await asyncio.to_thread(elsewhere)
    await asyncio.wait(tasks)


async def by_a_task_each() -> None:
    async def cancel(task: Any) -> None:
        task.cancel()

    tasks = await started()
    await asyncio.gather(*map(cancel, tasks))
    await asyncio.wait(tasks)


async def by_the_awaiter_of_each() -> None:
    async def awaits() -> None:
        await asyncio.create_task(wait())

    tasks = [asyncio.create_task(awaits()) for _ in range(MANY // 2)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def by_what_all_of_them_awaited() -> None:
    async def awaits() -> None:
        await below

    below = asyncio.create_task(wait())
    tasks = [asyncio.create_task(awaits()) for _ in range(MANY - 1)]
    await asyncio.sleep(0.15)  # long enough for an await span of each
    below.cancel()
    await asyncio.wait(tasks)


async def by_themselves() -> None:
    async def raises() -> None:
        raise asyncio.CancelledError

    await asyncio.wait([asyncio.create_task(raises()) for _ in range(MANY)])


async def by_a_cancelled_future() -> None:
    async def awaits() -> None:
        await future

    future = asyncio.get_running_loop().create_future()
    tasks = [asyncio.create_task(awaits()) for _ in range(MANY)]
    await asyncio.sleep(0.15)
    future.cancel()
    await asyncio.wait(tasks)


async def leave_behind() -> None:
    event = asyncio.Event()  # which the loop holds, or the collector may come before its end
    asyncio.get_running_loop().call_later(60, event.set)
    for _ in range(MANY):
        asyncio.create_task(event.wait())
    await asyncio.sleep(0)


WAYS = (
    storm, by_gather, by_the_awaiter_of_gather, by_a_failing_sibling, by_a_failing_body, by_the_parent_of_a_group,
    by_a_deadline_around_a_group, by_anyios_scope, by_a_failing_sibling_in_anyio, by_a_deadline_in_anyio, by_a_callback,
    by_timers, from_another_thread, by_a_task_each, by_the_awaiter_of_each, by_what_all_of_them_awaited, by_themselves,
    by_a_cancelled_future, leave_behind,
)  # fmt: skip
every_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)


@every_way
def test_a_storm_leaves_few_spans(traced_run: TracedRun, spans: Spans, way: Any) -> None:
    traced_run(way())
    assert 30 <= len(cancels(spans)) <= MANY / 2
    assert len([name for name in spans.names() if not name.startswith(("task ", "cancel "))]) <= MANY / 2


@every_way
def test_every_cancellation_of_a_storm_is_told_and_counted(
    run: Any, instrumented_process: Any, spans: Spans, way: Any
) -> None:
    run(way())
    counters = instrumented_process.observation.counters
    delivered = sum(count for (_, fate, _), count in counters.cancellations.items() if fate == "delivered")
    assert delivered - MANY in (0, 1)  # the one that asked may have been cancelled itself
    assert told(spans.all()) == delivered
    assert counters.dropped["span"] == delivered - len(cancels(spans))


@every_way
@pytest.mark.settings(root_tasks="none")
def test_a_storm_of_tasks_without_a_span_is_counted(
    run: Any, instrumented_process: Any, spans: Spans, way: Any
) -> None:
    run(way())
    counted = instrumented_process.observation.counters.cancellations
    assert sum(count for (_, fate, _), count in counted.items() if fate == "delivered") - MANY in (0, 1)
    assert [name for name in spans.names() if not name.startswith("timeout ")] == []


@pytest.mark.parametrize("way", WAYS[:-1], ids=lambda way: way.__name__)  # the last one is the loop's end
@pytest.mark.parametrize("root_tasks", ["all", "none"])
@asyncio_only
def test_nothing_is_left_of_a_storm(
    traced_run: TracedRun, spans: Spans, way: Any, root_tasks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept of those that were omitted is the same for all of them."""
    monkeypatch.setitem(globals(), "MANY", 300)
    sizes: list[int] = []

    async def main() -> None:
        for _ in range(4):
            await way()
            spans.exporter.clear()
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    try:
        traced_run(main(), root_tasks=root_tasks)
    finally:
        tracemalloc.stop()
    assert sizes[-1] - sizes[1] < 100_000  # a request and more, of each task of these two storms, would be 240,000


def test_what_a_storm_omitted_is_told_soon() -> None:
    """Though nobody is cancelled any more, and the loop goes on for days."""

    async def program(time: Time) -> None:
        await storm()
        before = told(time.spans)
        await time.passes(2)
        assert before < told(time.spans) == MANY

    scanned(program)


def test_a_cancel_that_is_handed_over_too_late_leaves_nothing(run: Any, instrumented_process: Any) -> None:
    """The next task with the same identity would be said to be cancelled by that thread."""

    async def main() -> Any:
        task, loop = asyncio.create_task(asyncio.sleep(0)), asyncio.get_running_loop()
        await task
        await asyncio.to_thread(loop.call_soon_threadsafe, task.cancel)
        await asyncio.sleep(0.001)
        return loop._otel_asyncio.handed

    assert run(main()) == {}


def test_of_a_task_that_is_asked_again_and_again_all_is_counted_and_little_kept(
    traced_run: TracedRun, spans: Spans
) -> None:
    async def cleans_up() -> None:
        try:
            await wait()
        finally:
            while not done.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await done.wait()

    async def main() -> int:
        task: Any = asyncio.create_task(cleans_up())
        await asyncio.sleep(0)
        for _ in range(MANY):
            task.cancel()
            await asyncio.sleep(0)
        kept = len(task._otel_asyncio.cancellation.requests)
        done.set()
        await asyncio.wait([task])
        return kept

    done = asyncio.Event()
    assert traced_run(main()) <= 100
    (span,) = cancels(spans)
    assert attributes(span)["asyncio.cancel.requests"] == MANY


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
    assert told(spans.all()) == counted.total() - 3  # a scope that takes it back tells it itself


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


async def polls() -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.01):
            await wait()


async def deadlines() -> None:
    await asyncio.gather(*(polls() for _ in range(MANY)))


def test_deadlines_by_the_thousand_leave_few_spans(run: Any, instrumented_process: Any, spans: Spans) -> None:
    """As many as wait for what has just broken down: one span of a line stands for those of a second."""
    run(deadlines())
    told = [attributes(span) for span in spans.all() if span.name.startswith("timeout ")]
    counters = instrumented_process.observation.counters
    assert 50 <= len(told) <= MANY / 2
    assert len(told) + sum(said.get("asyncio.timeout.omitted", 0) for said in told) == MANY
    assert counters.dropped["span"] == MANY - len(told)
    assert counters.timeouts == {"handled": MANY}


@pytest.mark.settings(root_tasks="none")
def test_deadlines_by_the_thousand_of_tasks_without_a_span_are_counted(
    run: Any, instrumented_process: Any, spans: Spans
) -> None:
    run(deadlines())
    assert instrumented_process.observation.counters.timeouts == {"handled": MANY}
    assert spans.names() == []


def test_what_a_storm_of_deadlines_omitted_is_told_soon() -> None:
    async def program(time: Time) -> None:
        await deadlines()
        before = len([span for span in time.spans if "asyncio.timeout.omitted" in attributes(span)])
        await time.passes(2)
        after = [attributes(span) for span in time.spans if "asyncio.timeout.omitted" in attributes(span)]
        assert before < len(after)
        assert (
            sum(1 for span in time.spans if span.name.startswith("timeout "))
            + sum(said["asyncio.timeout.omitted"] for said in after)
            == MANY
        )

    scanned(program)


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


@pytest.mark.parametrize("left", [3, MANY])
def test_a_shutdown_counts_all_that_it_cancels(
    traced_run: TracedRun, spans: Spans, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "MANY", left)
    traced_run(leave_behind())
    (span,) = [span for span in spans.all() if span.name == "asyncio.shutdown"]
    assert attributes(span)["asyncio.shutdown.cancelled"] == left
    assert (len(cancels(spans)), told(spans.all())) == (min(left, 33), left)  # the last stands for all that are left
    assert attributes(span)["asyncio.shutdown.slowest"].endswith("Event.wait")
    cancelled = [each.end_time or 0 for each in spans.all() if each.name.startswith("task ")]
    assert (span.end_time or 0) >= max(cancelled)


def test_a_shutdown_is_over_when_the_last_has_ended(instrumented_process: Any, new_loop: Any, spans: Spans) -> None:
    """Not when the loop is closed."""
    loop = new_loop()
    try:
        loop.run_until_complete(leave_behind())
        runners._cancel_all_tasks(loop)  # type: ignore[attr-defined]
        assert spans.names().count("asyncio.shutdown") == 1
    finally:
        loop.close()


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
