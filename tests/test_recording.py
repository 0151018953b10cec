"""Which tasks become spans: root tasks, requests, short ones, selected ones, sampled ones."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from harness import Spans, TracedRun, both_providers, both_ways, parent_id, span_id
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

pytestmark = [both_providers, both_ways]


async def child() -> None:
    await asyncio.sleep(0)


async def fail() -> None:
    raise LookupError("as asked")


async def plain() -> None:
    await asyncio.create_task(child())


async def with_a_problem() -> None:
    await asyncio.gather(child(), fail(), return_exceptions=True)


def ends(spans: Spans) -> list[str]:
    return sorted(name.rpartition(".")[2].removeprefix("task ") for name in spans.names())


@pytest.mark.parametrize(("root_tasks", "expected"), [("all", ["child", "plain"]), ("problems", []), ("none", [])])
def test_root_tasks_without_a_problem(
    traced_run: TracedRun, spans: Spans, root_tasks: str, expected: list[str]
) -> None:
    traced_run(plain(), root_tasks=root_tasks)
    assert ends(spans) == expected


@pytest.mark.parametrize(
    ("root_tasks", "expected"),
    [("all", ["child", "fail", "with_a_problem"]), ("problems", ["fail", "with_a_problem"]), ("none", [])],
)
def test_root_tasks_with_a_problem(traced_run: TracedRun, spans: Spans, root_tasks: str, expected: list[str]) -> None:
    """Under `problems` the span of the failed task brings that of its parent along, or it would be an orphan."""
    traced_run(with_a_problem(), root_tasks=root_tasks)
    assert ends(spans) == expected


@pytest.mark.parametrize("root_tasks", ["all", "problems", "none"])
def test_a_task_inside_a_span_is_recorded_whatever_root_tasks_says(
    traced_run: TracedRun, spans: Spans, root_tasks: str
) -> None:
    async def serve() -> None:
        with spans.tracer.start_as_current_span("request"):
            await asyncio.create_task(child())

    traced_run(serve(), root_tasks=root_tasks)
    assert parent_id(spans.task("child")) == span_id(spans.named("request"))


@pytest.mark.parametrize("root_tasks", ["all", "problems", "none"])
@pytest.mark.parametrize("remote", [True, False])
def test_a_request_in_a_root_task_keeps_its_remote_parent(
    traced_run: TracedRun, spans: Spans, root_tasks: str, *, remote: bool
) -> None:
    """A server instrumentation takes the incoming `traceparent` only where it finds no local parent."""
    incoming = SpanContext(7, 8, is_remote=True, trace_flags=TraceFlags(1))

    async def serve() -> None:
        local = trace.get_current_span().get_span_context().is_valid
        context = set_span_in_context(NonRecordingSpan(incoming)) if remote and not local else None
        with spans.tracer.start_as_current_span("request", context=context):
            await asyncio.sleep(0)

    traced_run(serve(), root_tasks=root_tasks)
    assert parent_id(spans.named("request")) == (8 if remote else None)


def test_root_context_makes_the_root_current(traced_run: TracedRun, spans: Spans) -> None:
    """For scripts. Main's context belongs to the runner, so it is a task of main's that is looked at."""

    async def script() -> None:
        with spans.tracer.start_as_current_span("query"):
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.create_task(script())

    traced_run(main(), root_context=True)
    assert parent_id(spans.named("query")) == span_id(spans.task("script"))


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, ["child", "plain"]), (60.0, []), (float("inf"), [])])
def test_a_short_task_leaves_no_span(traced_run: TracedRun, spans: Spans, seconds: float, expected: list[str]) -> None:
    traced_run(plain(), min_task_duration=seconds)
    assert ends(spans) == expected


def test_a_short_task_with_something_under_it_is_kept(traced_run: TracedRun, spans: Spans) -> None:
    async def works() -> None:
        with spans.tracer.start_as_current_span("query"):
            await asyncio.sleep(0)

    async def serve() -> None:
        with spans.tracer.start_as_current_span("request"):
            await asyncio.create_task(works())
            await asyncio.create_task(child())

    traced_run(serve(), min_task_duration=60)
    assert parent_id(spans.named("query")) == span_id(spans.task("works"))
    if isinstance(spans.provider, TracerProvider):  # another one's span must be started to be current
        assert spans.of("child") == []


def test_a_short_task_that_failed_is_kept(traced_run: TracedRun, spans: Spans) -> None:
    traced_run(with_a_problem(), min_task_duration=60)
    assert len(spans.of("fail")) == 1


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"include": ("*.child",)}, ["child"]),
        ({"exclude": ("*.child",)}, ["plain"]),
        ({"include": ("*.child",), "exclude": ("*child",)}, []),
        ({"include": ("nothing",)}, []),
    ],
    ids=str,
)
def test_globs_select_tasks(traced_run: TracedRun, spans: Spans, settings: dict[str, Any], expected: list[str]) -> None:
    traced_run(plain(), **settings)
    assert ends(spans) == expected


def test_under_a_task_that_is_not_selected_the_outer_span_is_the_parent(traced_run: TracedRun, spans: Spans) -> None:
    async def skipped() -> None:
        await asyncio.create_task(child())

    async def serve() -> None:
        with spans.tracer.start_as_current_span("request"):
            await asyncio.create_task(skipped())

    traced_run(serve(), exclude=("*skipped",))
    assert parent_id(spans.task("child")) == span_id(spans.named("request"))
