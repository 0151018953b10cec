"""What a request learns from the root task it is served in: a segment with the split, or a link."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from harness import Spans, TracedRun, attributes, both_ways, links, parent_id, span_id
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor

pytestmark = both_ways


async def child() -> None:
    await asyncio.sleep(0)


def told(seen: Any) -> float:
    """Seconds: the three parts of a split."""
    return sum(seen[f"asyncio.task.{part}_time"] for part in ("busy", "scheduled", "idle"))


def lasted(span: ReadableSpan) -> float:
    """Seconds from its start to its end."""
    assert span.start_time is not None and span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


def test_a_request_gets_the_facts_of_its_root_task(traced_run: TracedRun, spans: Spans) -> None:
    """One child of kind `root_segment` over the same interval; the root task gets no span of its own."""

    async def serve() -> None:
        with spans.tracer.start_as_current_span("request"):
            await asyncio.sleep(0)

    traced_run(serve())
    segment, request = spans.task("serve"), spans.named("request")
    assert attributes(segment)["asyncio.task.kind"] == "root_segment"
    assert parent_id(segment) == span_id(request)
    assert (segment.start_time, segment.end_time) == (request.start_time, request.end_time)


def test_a_segment_has_the_split_of_its_interval(traced_run: TracedRun, spans: Spans) -> None:
    async def serve() -> None:
        await asyncio.sleep(0.02)
        with spans.tracer.start_as_current_span("request"):
            await asyncio.sleep(0.001)

    traced_run(serve())
    segment = spans.task("serve")
    seen = attributes(segment)
    assert told(seen) == pytest.approx(lasted(segment), abs=0.005)
    assert seen["asyncio.task.steps"] == 2


def test_a_segment_counts_from_where_the_request_began(traced_run: TracedRun, spans: Spans) -> None:
    """In the middle of a step, and to the middle of one; what comes before and after is not in it."""

    async def serve() -> None:
        time.sleep(0.3)
        with spans.tracer.start_as_current_span("request"):
            time.sleep(0.02)
            await asyncio.sleep(0.03)
            time.sleep(0.02)
        time.sleep(0.3)

    traced_run(serve())
    segment = spans.task("serve")
    seen = attributes(segment)
    assert told(seen) == pytest.approx(lasted(segment), abs=0.01)
    assert 0.04 <= seen["asyncio.task.busy_time"] < 0.3
    assert 0.029 <= seen["asyncio.task.idle_time"] < 0.3
    assert seen["asyncio.task.steps"] == 2


class TakesItsTime(SpanProcessor):
    """Comes before what ties a request to its task, and holds it up."""

    def on_end(self, span: ReadableSpan) -> None:
        if span.name == "request":
            time.sleep(0.05)


def test_a_segment_counts_to_where_the_request_ended(traced_run: TracedRun, spans: Spans) -> None:
    spans.sdk.add_span_processor(TakesItsTime())

    async def serve() -> None:
        await asyncio.sleep(0)
        with spans.tracer.start_as_current_span("request"):
            await asyncio.sleep(0)

    traced_run(serve())
    segment = spans.task("serve")
    seen = attributes(segment)
    assert told(seen) == pytest.approx(lasted(segment), abs=5e-3)
    assert seen["asyncio.task.kind"] == "root_segment"


def test_a_time_that_the_program_stamped_is_no_time_of_the_task(traced_run: TracedRun, spans: Spans) -> None:
    async def serve() -> None:
        request = spans.tracer.start_span("request", start_time=time.time_ns() - 3600 * 10**9)
        await asyncio.sleep(0)
        request.end(time.time_ns() + 3600 * 10**9)

    traced_run(serve())
    seen = attributes(spans.task("serve"))
    assert told(seen) < 60


def test_a_segment_tells_of_waiting_for_the_loop(traced_run: TracedRun, spans: Spans) -> None:
    async def serve() -> None:
        asyncio.get_running_loop().call_soon(time.sleep, 0.3)
        await asyncio.sleep(0)
        with spans.tracer.start_as_current_span("request"):
            asyncio.get_running_loop().call_soon(time.sleep, 0.03)
            await asyncio.sleep(0)

    traced_run(serve())
    assert 0.03 <= attributes(spans.task("serve"))["asyncio.task.scheduled_time"] < 0.3


def test_every_request_of_a_connection_gets_a_segment(traced_run: TracedRun, spans: Spans) -> None:
    async def serve() -> None:
        for _ in range(3):
            with spans.tracer.start_as_current_span("request"):
                await asyncio.sleep(0)

    traced_run(serve())
    parents = {parent_id(span) for span in spans.of("serve")}
    assert parents == {span_id(span) for span in spans.all() if span.name == "request"}


def test_without_the_request_split_the_request_links_to_its_task(traced_run: TracedRun, spans: Spans) -> None:
    async def serve() -> None:
        with spans.tracer.start_as_current_span("request"):
            await asyncio.sleep(0)

    traced_run(serve(), request_split=False)
    assert links(spans.named("request")) == {"task": span_id(spans.task("serve"))}


def test_a_request_in_a_task_that_has_a_span_already_links_to_it(traced_run: TracedRun, spans: Spans) -> None:
    async def serve() -> None:
        await asyncio.create_task(child())
        with spans.tracer.start_as_current_span("request"):
            await asyncio.sleep(0)

    traced_run(serve())
    assert links(spans.named("request")) == {"task": span_id(spans.task("serve"))}


def test_a_segment_made_at_once_is_the_one_that_the_tracer_would_make(traced_run: TracedRun, spans: Spans) -> None:
    """The tracer makes it where attributes may have to be cut."""
    limited = Spans(span_limits=SpanLimits(max_span_attribute_length=10_000))

    def seen(spans: Spans) -> Any:
        async def serve() -> None:
            with spans.tracer.start_as_current_span("request"):
                await asyncio.sleep(0)

        TracedRun(traced_run.way, traced_run.new_loop, spans)(serve())
        segment, request = spans.task("serve"), spans.named("request")
        parts = json.loads(segment.to_json())
        assert parts["context"].pop("trace_id") == json.loads(request.to_json())["context"]["trace_id"]
        assert parts["context"].pop("span_id") != json.loads(request.to_json())["context"]["span_id"]
        for name in ("start_time", "end_time", "parent_id"):
            parts.pop(name)
        for name in ("id", "busy_time", "scheduled_time", "idle_time"):
            parts["attributes"].pop(f"asyncio.task.{name}")
        return parts, segment.instrumentation_scope

    assert seen(spans) == seen(limited)


class TakesNoSegment(SpanProcessor):
    def on_end(self, span: ReadableSpan) -> None:
        if span.name.startswith("task"):
            raise ZeroDivisionError(span.name)


class LetsNobodyLink(SpanProcessor):
    def on_start(self, span: Any, parent_context: Any = None) -> None:
        span.add_link = lambda *_: 1 // 0


@pytest.mark.parametrize("processor", (TakesNoSegment, LetsNobodyLink))
def test_a_request_that_cannot_be_tied_to_its_task_is_served(
    traced_run: TracedRun, spans: Spans, caplog: pytest.LogCaptureFixture, processor: Callable[[], SpanProcessor]
) -> None:
    spans.sdk.add_span_processor(processor())

    async def serve() -> str:
        for _ in range(2):
            with spans.tracer.start_as_current_span("request"):
                await asyncio.sleep(0)
        return "served"

    assert traced_run(serve(), request_split=processor is TakesNoSegment) == "served"
    assert len([record for record in caplog.records if "requests of tasks failed" in record.getMessage()]) == 1
