"""T15, T16 and T19: which span is current where, which is whose parent, and no token held across a suspension."""

from __future__ import annotations

import asyncio
import contextvars
import gc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from harness import Spans, TracedRun, both_providers, both_ways, links, parent_id, span_id
from opentelemetry import context as context_api
from opentelemetry import trace

pytestmark = [both_ways, both_providers]


def current_id() -> int:
    return trace.get_current_span().get_span_context().span_id


async def works(spans: Spans) -> int:
    """Has a span of its own in the middle, and says which is current."""
    await asyncio.sleep(0)
    with spans.tracer.start_as_current_span("query"):
        await asyncio.sleep(0)
    return current_id()


def test_the_span_of_a_task_is_current_inside_it(traced_run: TracedRun, spans: Spans) -> None:
    """T15."""

    async def main() -> int:
        with spans.tracer.start_as_current_span("request"):
            return await asyncio.create_task(works(spans))

    assert traced_run(main()) == span_id(spans.task("works"))


def test_spans_and_tasks_nest(traced_run: TracedRun, spans: Spans) -> None:
    """T15: request, its task, the span opened in that."""

    async def main() -> None:
        with spans.tracer.start_as_current_span("request"):
            await asyncio.create_task(works(spans))

    traced_run(main())
    request, task, query = spans.named("request"), spans.task("works"), spans.named("query")
    assert (parent_id(task), parent_id(query)) == (span_id(request), span_id(task))


def test_a_span_of_the_creator_stays_its_own(traced_run: TracedRun, spans: Spans) -> None:
    """T15: the creator goes on under its own span while the task runs under its."""

    async def main() -> bool:
        with spans.tracer.start_as_current_span("request") as request:
            task = asyncio.create_task(works(spans))
            await asyncio.sleep(0)
            own = current_id() == span_id(request)
            await task
            return own and current_id() == span_id(request)

    assert traced_run(main())


def test_the_parent_is_what_was_current_at_creation(traced_run: TracedRun, spans: Spans) -> None:
    """T15: also if that span has ended before the task's first step (ddtrace #8637)."""

    async def main() -> None:
        with spans.tracer.start_as_current_span("request"):
            task = asyncio.create_task(works(spans))
        await task

    traced_run(main())
    task = spans.task("works")
    assert (parent_id(task), links(task)) == (span_id(spans.named("request")), {})


def test_a_given_context_decides_about_the_parent(traced_run: TracedRun, spans: Spans) -> None:
    """T15: `context=` is honoured (aiotrace drops it)."""

    async def main() -> None:
        with spans.tracer.start_as_current_span("other"):
            context = contextvars.copy_context()
        with spans.tracer.start_as_current_span("other still open") as other:
            context = contextvars.copy_context()
            with spans.tracer.start_as_current_span("request"):
                await asyncio.create_task(works(spans), context=context)
            assert span_id(other)

    traced_run(main())
    assert parent_id(spans.task("works")) == span_id(spans.named("other still open"))


def test_nothing_is_left_in_a_given_context(traced_run: TracedRun, spans: Spans) -> None:
    """T15: others may share it."""

    async def main() -> bool:
        with spans.tracer.start_as_current_span("request"):
            context = contextvars.copy_context()
            before = dict(context.items())
            await asyncio.create_task(asyncio.sleep(0), context=context)
            return dict(context.items()) == before

    assert traced_run(main())


def test_a_task_with_a_given_context_is_the_parent_of_its_tasks(traced_run: TracedRun, spans: Spans) -> None:
    """T15: by the package's own record, since nothing is left in that context."""

    async def middle() -> None:
        await asyncio.create_task(works(spans))

    async def main() -> None:
        with spans.tracer.start_as_current_span("request"):
            await asyncio.create_task(middle(), context=contextvars.copy_context())

    traced_run(main())
    assert parent_id(spans.task("works")) == span_id(spans.task("middle"))


def test_context_variables_are_inherited_as_ever(same_as_bare: Callable[..., Any]) -> None:
    """T15: a copy of the creator's, and what the task sets stays in the task."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    async def child() -> str:
        seen = variable.get()
        variable.set("child's")
        return seen

    async def main() -> list[str]:
        variable.set("main's")
        return [await asyncio.create_task(child()), variable.get(), contextvars.copy_context()[variable]]

    assert same_as_bare(main) == ["main's", "main's", "main's"]


def test_nothing_is_current_in_a_root_task(traced_run: TracedRun, spans: Spans) -> None:
    """T15: or a server instrumentation in it would ignore the remote parent."""

    async def main() -> list[int]:
        return [current_id(), await asyncio.create_task(works(spans))]

    assert traced_run(main()) == [0, 0]


def test_tasks_of_root_tasks_nest_by_our_own_record(traced_run: TracedRun, spans: Spans) -> None:
    """T15."""

    async def main() -> None:
        await asyncio.create_task(asyncio.sleep(0))

    traced_run(main())
    assert parent_id(spans.task("sleep")) == span_id(spans.task("main"))


def test_a_worker_started_in_an_ended_span_is_a_root_with_a_link(traced_run: TracedRun, spans: Spans) -> None:
    """T16: the rest of its life is not dragged into that trace."""

    async def main() -> None:
        with spans.tracer.start_as_current_span("request"):
            context = contextvars.copy_context()
        await context.run(lambda: asyncio.create_task(works(spans)))

    traced_run(main())
    worker, request = spans.task("works"), spans.named("request")
    assert (worker.parent, links(worker)) == (None, {"spawner": span_id(request)})


def test_a_worker_does_not_pull_a_later_request_into_the_trace_of_its_spawner(
    traced_run: TracedRun, spans: Spans
) -> None:
    """T16: a pool's worker, respawned by a task that began inside request A (ogx #5168)."""

    async def keeper(ended: asyncio.Event) -> None:
        await ended.wait()
        await asyncio.create_task(works(spans))

    async def main() -> None:
        ended = asyncio.Event()
        with spans.tracer.start_as_current_span("request"):
            context = contextvars.copy_context()
        task = context.run(lambda: asyncio.create_task(keeper(ended)))
        ended.set()
        await task

    traced_run(main())
    trace_of_request = spans.named("request").get_span_context().trace_id
    assert spans.task("works").get_span_context().trace_id != trace_of_request


def test_a_detached_task_has_its_own_trace(traced_run: TracedRun, spans: Spans) -> None:
    """T16: told by a glob, while the request still runs."""

    async def main() -> None:
        with spans.tracer.start_as_current_span("request"):
            await asyncio.create_task(works(spans))

    traced_run(main(), detached_tasks=("*.works", "works"))
    worker, request = spans.task("works"), spans.named("request")
    assert worker.parent is None
    assert links(worker) == {"spawner": span_id(request)}


async def numbers() -> AsyncIterator[int]:
    try:
        for number in range(5):
            await asyncio.sleep(0)
            yield number
    finally:
        await asyncio.sleep(0)


async def break_off() -> None:
    async for _ in numbers():
        break


async def close_elsewhere() -> None:
    generator: Any = numbers()
    await asyncio.create_task(anext(generator))
    await asyncio.create_task(generator.aclose())


async def leave_to_the_collector() -> None:
    generator: Any = numbers()
    await asyncio.create_task(anext(generator))
    del generator
    gc.collect()
    await asyncio.sleep(0)


async def leave_to_the_loop() -> None:
    generators.append(numbers())
    await anext(generators[-1])


generators: list[Any] = []
ENDS = [break_off, close_elsewhere, leave_to_the_collector, leave_to_the_loop]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
def test_no_context_fails_to_detach(
    traced_run: TracedRun, spans: Spans, end: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """T19: however an async generator ends."""

    async def main() -> None:
        with spans.tracer.start_as_current_span("request"):
            await asyncio.create_task(end())
        for _ in range(3):
            await asyncio.sleep(0)

    traced_run(main())
    generators.clear()
    unclosed = "asyncgen_not_closed: "  # of that the first one is told, and rightly
    assert [line for line in caplog.messages if not line.startswith(unclosed)] == []


def test_the_context_outside_the_loop_is_untouched(traced_run: TracedRun, spans: Spans) -> None:
    """T19."""
    before = dict(contextvars.copy_context().items())

    async def main() -> None:
        with spans.tracer.start_as_current_span("request"):
            await asyncio.create_task(works(spans))

    traced_run(main())
    assert dict(contextvars.copy_context().items()) == before
    assert context_api.get_current() == {}
