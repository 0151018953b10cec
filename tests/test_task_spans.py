"""What stands on a task's span: every attribute of the contract, kinds, outcomes, times."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time

import pytest
from harness import NewLoop, Spans, TracedRun, attributes, both_providers, both_ways, parent_id, span_id
from opentelemetry.trace import SpanKind

pytestmark = both_providers

ALWAYS = {
    "asyncio.task.id", "asyncio.task.kind", "asyncio.task.name", "asyncio.task.outcome", "asyncio.task.busy_time",
    "asyncio.task.scheduled_time", "asyncio.task.idle_time", "asyncio.task.steps", "asyncio.task.max_step_time",
    "asyncio.task.max_idle_time", "asyncio.task.start_delay", "asyncio.task.created.file",
    "asyncio.task.created.line", "asyncio.task.created.function", "code.function.name", "code.file.path",
    "code.line.number", "asyncio.eventloop.id", "asyncio.eventloop.implementation",
}  # fmt: skip
ON_ERROR = {"error.type"}


class Mine(Exception):
    """An exception with a module."""


async def child() -> str:
    await asyncio.sleep(0)
    return "done"


async def fail() -> None:
    await asyncio.sleep(0)
    raise Mine("as asked")


async def main() -> None:
    await asyncio.create_task(child(), name="given")


def here() -> int:
    """The line that calls this."""
    frame = inspect.currentframe()
    assert frame is not None and frame.f_back is not None
    return frame.f_back.f_lineno


@both_ways
def test_a_task_span_has_the_attributes_of_the_contract_and_no_others(traced_run: TracedRun, spans: Spans) -> None:
    traced_run(main())
    assert set(attributes(spans.task("child"))) == ALWAYS


@both_ways
def test_a_failed_task_has_the_error_type_besides(traced_run: TracedRun, spans: Spans) -> None:
    async def catches() -> None:
        await asyncio.gather(fail(), return_exceptions=True)

    traced_run(catches())
    assert set(attributes(spans.task("fail"))) == ALWAYS | ON_ERROR


def test_the_attributes_have_the_types_of_the_contract(traced_run: TracedRun, spans: Spans) -> None:
    traced_run(main())
    seen = attributes(spans.task("child"))
    seconds = {key for key in seen if key.endswith(("_time", "_delay"))}
    numbers = {"asyncio.task.id", "asyncio.task.steps", "asyncio.task.created.line", "code.line.number",
               "asyncio.eventloop.id"}  # fmt: skip
    assert {type(seen[key]) for key in seconds} == {float}
    assert {type(seen[key]) for key in numbers} == {int}
    assert {type(seen[key]) for key in ALWAYS - seconds - numbers} == {str}


def test_the_span_is_of_kind_internal_and_of_our_scope(traced_run: TracedRun, spans: Spans) -> None:
    traced_run(main())
    span = spans.task("child")
    scope = span.instrumentation_scope
    assert span.kind is SpanKind.INTERNAL
    assert scope is not None and scope.name == "otel_asyncio"
    assert scope.version and scope.schema_url and scope.schema_url.startswith("https://opentelemetry.io/schemas/")


def test_the_resource_is_that_of_the_provider(traced_run: TracedRun, spans: Spans) -> None:
    traced_run(main())
    assert spans.task("child").resource == spans.sdk.resource


def test_the_span_is_called_after_the_qualified_name(traced_run: TracedRun, spans: Spans) -> None:
    async def inner() -> None:
        """A function inside a function."""

    traced_run(inner())
    qualname = "test_the_span_is_called_after_the_qualified_name.<locals>.inner"
    assert spans.names() == [f"task {qualname}"]


def test_the_code_is_that_of_the_coroutine(traced_run: TracedRun, spans: Spans) -> None:
    traced_run(main())
    seen = attributes(spans.task("child"))
    assert seen["code.function.name"] == f"{__name__}.child"
    assert (seen["code.file.path"], seen["code.line.number"]) == (__file__, child.__code__.co_firstlineno)


@both_ways
def test_the_creation_line_is_the_line_of_the_call(traced_run: TracedRun, spans: Spans) -> None:
    line = 0

    async def creates() -> None:
        nonlocal line
        line = here() + 1
        task = asyncio.create_task(child())
        await task

    traced_run(creates())
    seen = attributes(spans.task("child"))
    assert (seen["asyncio.task.created.file"], seen["asyncio.task.created.line"]) == (__file__, line)


@both_ways
def test_a_task_from_another_thread_names_the_line_that_submitted_it(traced_run: TracedRun, spans: Spans) -> None:
    line = 0

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def submit() -> None:
            nonlocal line
            line = here() + 1
            asyncio.run_coroutine_threadsafe(child(), loop).result()

        await asyncio.to_thread(submit)

    traced_run(main())
    seen = attributes(spans.task("child"))
    assert (seen["asyncio.task.kind"], seen["asyncio.task.created.line"]) == ("threadsafe", line)


def test_task_ids_count_through_the_process(traced_run: TracedRun, spans: Spans) -> None:
    async def creates() -> None:
        await asyncio.gather(child(), child(), child())

    traced_run(creates())
    ids = [attributes(span)["asyncio.task.id"] for span in spans.of("child")]
    assert len(set(ids)) == 3
    assert max(ids) - min(ids) == 2


def test_the_loop_is_named(traced_run: TracedRun, spans: Spans, loop_kind: str) -> None:
    traced_run(main())
    assert attributes(spans.task("child"))["asyncio.eventloop.implementation"] == loop_kind


def test_loops_that_run_at_the_same_time_have_different_ids(
    new_loop: NewLoop, instrumented_process: object, spans: Spans
) -> None:
    barrier = threading.Barrier(3)

    async def meets() -> None:
        await asyncio.to_thread(barrier.wait)

    def run_one() -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(meets())

    threads = [threading.Thread(target=run_one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({attributes(span)["asyncio.eventloop.id"] for span in spans.of("meets")}) == 3


def test_busy_scheduled_and_idle_add_up_to_the_duration(traced_run: TracedRun, spans: Spans) -> None:
    async def varied() -> None:
        for _ in range(3):
            time.sleep(0.002)  # noqa: ASYNC251 - busy
            await asyncio.sleep(0.002)
            await asyncio.sleep(0)

    traced_run(varied())
    span = spans.task("varied")
    seen = attributes(span)
    total = sum(seen[f"asyncio.task.{part}_time"] for part in ("busy", "scheduled", "idle"))
    assert span.start_time is not None and span.end_time is not None
    assert total == pytest.approx((span.end_time - span.start_time) / 1e9, abs=1e-6)
    assert seen["asyncio.task.busy_time"] >= 0.006
    assert seen["asyncio.task.idle_time"] >= 0.005


def test_waiting_for_a_busy_loop_is_scheduled_time(traced_run: TracedRun, spans: Spans) -> None:
    async def hogs() -> None:
        task = asyncio.create_task(child())
        await asyncio.sleep(0)  # the child's first step
        time.sleep(0.01)  # noqa: ASYNC251 - the child is ready and waits
        await task

    traced_run(hogs())
    seen = attributes(spans.task("child"))
    assert seen["asyncio.task.scheduled_time"] >= 0.01
    assert seen["asyncio.task.idle_time"] < 0.005


def test_the_start_delay_is_the_wait_for_the_first_step(traced_run: TracedRun, spans: Spans) -> None:
    async def hogs() -> None:
        task = asyncio.create_task(child())
        time.sleep(0.01)  # noqa: ASYNC251
        await task

    traced_run(hogs())
    seen = attributes(spans.task("child"))
    assert seen["asyncio.task.start_delay"] >= 0.01
    assert seen["asyncio.task.scheduled_time"] >= seen["asyncio.task.start_delay"]


def test_a_child_lies_within_its_parent(traced_run: TracedRun, spans: Spans) -> None:
    traced_run(main())
    outer, inner = spans.task("main"), spans.task("child")
    assert parent_id(inner) == span_id(outer)
    assert outer.start_time and inner.start_time and inner.end_time and outer.end_time
    assert outer.start_time <= inner.start_time <= inner.end_time <= outer.end_time
