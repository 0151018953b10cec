"""T12: every way in which a program makes a task leads to one span with the program's own line."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from asyncio import create_task as imported_early
from asyncio import ensure_future as ensured_early
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from harness import (
    NewLoop,
    Spans,
    TracedRun,
    attributes,
    both_ways,
    eager_factory,
    needs_python,
    parent_id,
    quiet,
    run_on,
    skip_where_bare_uvloop_cannot,
    span_id,
)

import otel_asyncio

Child = Callable[[], Coroutine[Any, Any, None]]


async def child() -> None:
    await asyncio.sleep(0)


async def early() -> None:
    await imported_early(child())


async def keyword() -> None:
    await asyncio.create_task(coro=child())


async def by_loop() -> None:
    await asyncio.get_running_loop().create_task(child())


async def ensured() -> None:
    await ensured_early(child())


async def gathered() -> None:
    await asyncio.gather(child())


async def shielded() -> None:
    await asyncio.shield(child())


async def as_they_complete() -> None:
    for future in asyncio.as_completed([child()]):
        await future


async def grouped() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(child())


async def grouped_by_keyword() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(coro=child())


async def from_a_thread() -> None:
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(child(), loop).result())


async def from_a_callback() -> None:
    done = asyncio.Event()

    def callback() -> None:
        asyncio.get_running_loop().create_task(child()).add_done_callback(lambda _: done.set())

    asyncio.get_running_loop().call_soon(callback)
    await done.wait()


async def by_the_class() -> None:
    await asyncio.Task(child())


async def by_the_class_with_a_name() -> None:
    await asyncio.Task(child(), loop=asyncio.get_running_loop(), name="given")


async def awaited_in_time() -> None:
    await asyncio.wait_for(asyncio.ensure_future(child()), 60)


PATHS = [
    early, keyword, by_loop, ensured, gathered, shielded, as_they_complete, grouped, grouped_by_keyword,
    from_a_thread, from_a_callback, by_the_class, by_the_class_with_a_name, awaited_in_time,
]  # fmt: skip


@both_ways
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)
def test_a_task_has_one_span(traced_run: TracedRun, spans: Spans, path: Child) -> None:
    """T12."""
    traced_run(path())
    assert len(spans.of("child")) == 1


@both_ways
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)
def test_the_creation_line_is_the_programs(traced_run: TracedRun, spans: Spans, path: Child) -> None:
    """T12: the first frame outside asyncio, in the thread that submits."""
    traced_run(path())
    seen = attributes(spans.task("child"))
    expected = {
        from_a_thread: "from_a_thread.<locals>.<lambda>",
        from_a_callback: "from_a_callback.<locals>.callback",
    }.get(path, path.__qualname__)
    assert seen.get("asyncio.task.created.function") == expected
    assert seen.get("asyncio.task.created.file") == __file__


@both_ways
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)
def test_the_kind_says_how_the_task_came_to_be(traced_run: TracedRun, spans: Spans, path: Child) -> None:
    """T12."""
    traced_run(path())
    expected = "threadsafe" if path is from_a_thread else "task"
    assert attributes(spans.task("child"))["asyncio.task.kind"] == expected


@both_ways
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)
def test_every_step_is_counted(traced_run: TracedRun, spans: Spans, path: Child) -> None:
    """T12: one before `sleep(0)` and one after it, for tasks made past the factory as well."""
    traced_run(path())
    assert attributes(spans.task("child"))["asyncio.task.steps"] == 2


@both_ways
def test_the_main_task_is_of_kind_main(traced_run: TracedRun, spans: Spans) -> None:
    """T12: `Runner`, `asyncio.run` and `uvloop.run` make it."""
    traced_run(child())
    seen = attributes(spans.task("child"))
    assert (seen["asyncio.task.kind"], seen["asyncio.task.created.function"]) == ("main", "run_on")


def test_run_until_complete_makes_a_main_task(new_loop: NewLoop, instrumented_process: object, spans: Spans) -> None:
    """T12: also the second time."""
    loop = new_loop()
    for _ in range(2):
        loop.run_until_complete(child())
    loop.close()
    assert [attributes(span)["asyncio.task.kind"] for span in spans.of("child")] == ["main", "main"]


def test_tasks_of_loops_in_several_threads_are_traced(
    new_loop: NewLoop, instrumented_process: object, spans: Spans
) -> None:
    """T27."""
    threads = [threading.Thread(target=run_on, args=(new_loop, by_loop())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(spans.of("by_loop")), len(spans.of("child"))) == (4, 4)


async def numbers() -> AsyncIterator[int]:
    try:
        for number in range(3):
            yield number
    finally:
        await asyncio.sleep(0)


@both_ways
def test_the_finalizer_of_an_async_generator_is_of_its_kind(traced_run: TracedRun, spans: Spans) -> None:
    """T12: the loop makes a task that closes a generator that was left behind."""

    async def main() -> None:
        async for _ in numbers():
            break
        for _ in range(5):
            await asyncio.sleep(0)

    traced_run(main())
    seen = attributes(spans.task("numbers"))
    assert seen["asyncio.task.kind"] == "asyncgen_finalizer"
    assert "asyncio.task.created.line" not in seen


@needs_python(3, 12)
def test_an_eager_task_by_the_class_that_suspends_has_one_span(traced_run: TracedRun, spans: Spans) -> None:
    """T12: aiohttp makes its tasks like this on 3.12 and 3.13."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        await asyncio.Task(child(), loop=loop, eager_start=True)

    traced_run(main())
    seen = attributes(spans.task("child"))
    assert (seen["asyncio.task.kind"], seen["asyncio.task.outcome"]) == ("eager", "success")


@needs_python(3, 12)
def test_an_eager_task_that_opens_a_span_was_made_by_its_maker_and_not_by_itself(
    traced_run: TracedRun, spans: Spans
) -> None:
    """As of an aiohttp handler: what makes it known, its first step does; its own lines are not the ones that made it."""

    async def handler() -> None:
        with spans.tracer.start_as_current_span("request"):
            await asyncio.sleep(0)

    async def serve() -> None:
        loop: Any = asyncio.get_running_loop()
        await asyncio.Task(handler(), loop=loop, eager_start=True)

    async def main() -> None:
        await asyncio.create_task(serve())

    traced_run(main())
    seen = attributes(spans.task("handler"))
    assert seen["asyncio.task.created.function"].endswith("serve")
    assert seen["asyncio.task.created.line"] == serve.__code__.co_firstlineno + 2


@needs_python(3, 12)
def test_the_first_wait_of_an_eager_task_by_the_class_is_told(traced_run: TracedRun, spans: Spans) -> None:
    """As of an aiohttp handler: the span it opens makes it known, within its first step."""

    suspended: list[int] = []

    async def handler() -> None:
        with spans.tracer.start_as_current_span("request"):
            time.sleep(0.3)  # noqa: ASYNC251 - its first step takes long
            suspended.append(time.time_ns())
            await asyncio.sleep(0.15)

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        await asyncio.Task(handler(), loop=loop, eager_start=True)

    async def makes() -> None:
        await asyncio.create_task(main())

    traced_run(makes())
    wait = next(span for span in spans.all() if span.name == "await asyncio.sleep")
    assert parent_id(wait) == span_id(spans.named("request"))
    assert wait.start_time is not None
    assert abs(wait.start_time - suspended[0]) < 0.15e9, "it does not begin with the first step"
    assert attributes(spans.task("handler"))["asyncio.task.busy_time"] > 0.25


@needs_python(3, 12)
def test_an_eager_task_by_the_class_that_is_cancelled_in_its_first_wait_says_where(
    traced_run: TracedRun, spans: Spans
) -> None:
    async def handler() -> None:
        with spans.tracer.start_as_current_span("request"):
            time.sleep(0.05)  # noqa: ASYNC251 - its first step takes long
            await asyncio.get_running_loop().create_future()  # where it hits

    async def serve() -> None:
        loop: Any = asyncio.get_running_loop()
        await asyncio.Task(handler(), loop=loop, eager_start=True)

    async def main() -> None:
        task = asyncio.create_task(serve())
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])

    traced_run(main())
    (said,) = [attributes(span) for span in spans.all() if re.fullmatch(r"cancel .*handler", span.name)]
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    assert "# where it hits" in lines[said["asyncio.cancel.at.line"] - 1]
    assert attributes(spans.task("handler"))["asyncio.task.busy_time"] >= 0.05


@needs_python(3, 12)
def test_an_eager_task_by_the_class_that_hangs_in_its_first_wait_is_told(traced_run: TracedRun, spans: Spans) -> None:
    async def handler() -> None:
        with spans.tracer.start_as_current_span("request"):
            await asyncio.get_running_loop().create_future()

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        task = asyncio.Task(handler(), loop=loop, eager_start=True)
        deadline = loop.time() + 20
        while "asyncio.stuck" not in spans.names() and loop.time() < deadline:
            await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.wait([task])

    traced_run(main(), stuck_after=0.1)
    assert "asyncio.stuck" in spans.names()


@needs_python(3, 12)
def test_cancelling_an_eager_task_by_the_class_is_seen(traced_run: TracedRun, spans: Spans) -> None:
    """T12: its end is told whoever made it."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        task = asyncio.Task(asyncio.Event().wait(), loop=loop, eager_start=True)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    traced_run(main())
    assert attributes(spans.task("Event.wait"))["asyncio.task.outcome"] == "cancellation"


async def starts_eagerly(factory: Any, child: Child) -> bool:
    """Whether this factory runs a task's first step before `create_task` returns."""
    order: list[str] = []

    async def first() -> None:
        order.append("child")
        await child()

    asyncio.get_running_loop().set_task_factory(factory)
    task = asyncio.create_task(first())
    order.append("creator")
    await task
    asyncio.get_running_loop().set_task_factory(None)
    return order == ["child", "creator"]


@needs_python(3, 12)
@both_ways
def test_the_eager_factory_is_as_eager_as_without_tracing(
    run: Callable[..., Any], traced_run: TracedRun, loop_kind: str
) -> None:
    """T3, T12: uvloop gives it `eager_start=None`, which from 3.13.3 on means not at all."""
    skip_where_bare_uvloop_cannot(loop_kind)
    bare = run(starts_eagerly(eager_factory(), child))
    assert traced_run(starts_eagerly(traced_run.factory(eager_factory()), child)) == bare


@needs_python(3, 12)
@both_ways
@pytest.mark.parametrize("suspends", [True, False])
def test_an_eager_task_by_the_factory_has_one_span(
    run: Callable[..., Any], traced_run: TracedRun, spans: Spans, loop_kind: str, *, suspends: bool
) -> None:
    """T12: its first step is the constructor, and may be the only one."""
    skip_where_bare_uvloop_cannot(loop_kind)
    kind = "eager" if run(starts_eagerly(eager_factory(), child)) else "task"

    async def eager() -> None:
        if suspends:
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.create_task(eager())

    traced_run(main(), inner=eager_factory())
    seen = attributes(spans.task("eager"))
    assert (seen["asyncio.task.kind"], seen["asyncio.task.steps"]) == (kind, 1 + suspends)


@needs_python(3, 14)
@both_ways
def test_an_eager_task_by_create_task_has_one_span(traced_run: TracedRun, spans: Spans) -> None:
    """T12: aiohttp makes its tasks like this from 3.14 on."""

    async def main() -> None:
        make: Any = asyncio.create_task
        await make(child(), eager_start=True)

    traced_run(main())
    assert attributes(spans.task("child"))["asyncio.task.kind"] == "eager"


def test_a_wait_that_began_before_tracing_is_idle_time(new_loop: NewLoop, spans: Spans) -> None:
    """T12: an adopted task was not ready all the while."""

    async def main() -> None:
        released = asyncio.Event()

        async def waits() -> None:
            await released.wait()

        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        instrumentor = otel_asyncio.AsyncioInstrumentor()
        instrumentor.instrument(tracer_provider=spans.provider)
        try:
            await asyncio.sleep(0.2)
            released.set()
            await task
        finally:
            instrumentor.uninstrument()

    run_on(new_loop, main())
    seen = attributes(spans.task("waits"))
    assert seen["asyncio.task.kind"] == "adopted"
    assert seen["asyncio.task.idle_time"] > seen["asyncio.task.scheduled_time"]


async def does_nothing() -> None:
    await asyncio.sleep(0)


@pytest.mark.parametrize("way", ("instrumentor", "factory"))
def test_the_task_that_begins_tracing_was_there_before(new_loop: NewLoop, spans: Spans, way: str) -> None:
    """Whoever sets it up in a running program: nobody knows which line made that task, nor that it was ready."""
    instrumentor = otel_asyncio.AsyncioInstrumentor()

    async def main() -> None:
        await asyncio.sleep(0)
        if way == "instrumentor":
            instrumentor.instrument(tracer_provider=spans.provider, settings=quiet(request_split=False))
        else:
            factory = otel_asyncio.task_factory(tracer_provider=spans.provider, settings=quiet(request_split=False))
            asyncio.get_running_loop().set_task_factory(factory)
            await asyncio.create_task(does_nothing())
        with spans.tracer.start_as_current_span("request"):
            await asyncio.sleep(0)
        time.sleep(0.05)
        await asyncio.create_task(does_nothing())

    try:
        run_on(new_loop, main())
    finally:
        instrumentor.uninstrument()
    seen = attributes(spans.task("main"))
    assert seen["asyncio.task.kind"] == "adopted"
    assert "asyncio.task.created.line" not in seen
    assert seen["asyncio.task.scheduled_time"] < 0.05
    assert {attributes(span)["asyncio.task.kind"] for span in spans.of("does_nothing")} == {"task"}


def test_a_loop_with_its_own_call_soon_is_still_called(spans: Spans) -> None:
    """T14: what asyncio does is done in place; what somebody's subclass does is not."""
    calls: list[object] = []

    class Counting(asyncio.SelectorEventLoop):
        def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
            calls.append(callback)
            return super().call_soon(callback, *args, context=context)

    def make() -> asyncio.AbstractEventLoop:
        loop = Counting()
        loop.set_task_factory(otel_asyncio.task_factory(tracer_provider=spans.provider))
        return loop

    run_on(make, child())
    traced, calls[:] = len(calls), []
    run_on(Counting, child())
    assert traced == len(calls)
