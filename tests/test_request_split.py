"""What a request learns from the root task it is served in: a segment with the split, or a link."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from harness import Spans, TracedRun, attributes, both_ways, instrumented, links, parent_id, span_id
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context, use_span

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


@pytest.mark.parametrize("stamped", (time.time() * 1e9, 10**30, -(10**30), 0))
def test_whatever_the_program_stamps_its_requests_are_split(
    traced_run: TracedRun, spans: Spans, caplog: pytest.LogCaptureFixture, stamped: Any
) -> None:
    async def serve() -> None:
        for _ in range(2):
            request = spans.tracer.start_span("request", start_time=stamped)
            await asyncio.sleep(0)
            request.end(stamped)

    traced_run(serve())
    assert [attributes(span)["asyncio.task.steps"] for span in spans.of("serve")] == [2, 2]
    assert "requests" not in caplog.text


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


def test_a_request_from_elsewhere_gets_a_segment(traced_run: TracedRun, spans: Spans) -> None:
    """Its span has a parent, of another process."""
    caller = SpanContext(0xA, 0xB, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))

    async def serve() -> None:
        with spans.tracer.start_as_current_span("request", context=set_span_in_context(NonRecordingSpan(caller))):
            await asyncio.sleep(0)

    traced_run(serve())
    assert parent_id(spans.task("serve")) == span_id(spans.named("request"))
    assert parent_id(spans.named("request")) == caller.span_id


def test_a_span_within_a_request_is_no_request(traced_run: TracedRun, spans: Spans) -> None:
    async def serve() -> None:
        with spans.tracer.start_as_current_span("request"), spans.tracer.start_as_current_span("query"):
            await asyncio.sleep(0)

    traced_run(serve())
    assert parent_id(spans.task("serve")) == span_id(spans.named("request"))


def test_a_span_of_ours_is_no_request(traced_run: TracedRun) -> None:
    """A long wait starts inside the root task, too, below what is not of this process; the tracer makes it where it may cut."""
    spans = Spans(span_limits=SpanLimits(max_span_attribute_length=10_000))
    caller = SpanContext(0xA, 0xB, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))

    async def serve() -> None:
        with use_span(NonRecordingSpan(caller)):
            await asyncio.sleep(0.05)

    TracedRun(traced_run.way, traced_run.new_loop, spans)(serve(), await_threshold=0.02)
    assert [attributes(span)["asyncio.task.kind"] for span in spans.of("serve")] == ["main"]
    assert [parent_id(span) for span in spans.all() if span.name.startswith("await")] == [caller.span_id]


def test_a_request_that_ends_in_another_task_has_no_segment(traced_run: TracedRun, spans: Spans) -> None:
    async def ends(request: Any) -> None:
        request.end()

    async def serve() -> None:
        request = spans.tracer.start_span("request")
        await asyncio.create_task(ends(request))

    traced_run(serve())
    assert spans.of("serve") == []


def test_a_task_that_served_a_request_and_is_left_pending_has_a_span(traced_run: TracedRun, spans: Spans) -> None:
    loop = traced_run.loop_with(traced_run.factory())()
    kept = []

    async def serve() -> None:
        with spans.tracer.start_as_current_span("request"):
            await asyncio.sleep(0)
        await loop.create_future()

    async def begin() -> None:
        kept.append(loop.create_task(serve()))
        for _ in range(5):
            await asyncio.sleep(0)

    with instrumented(spans) if traced_run.way == "instrumentor" else nullcontext():
        loop.run_until_complete(begin())
        loop.close()
    outcomes = {attributes(span).get("asyncio.task.outcome") for span in spans.of("serve")}
    assert outcomes == {None, "pending"}
    kept[0]._log_destroy_pending = False
    kept[0].get_coro().close()


def test_a_task_that_served_a_request_and_has_a_problem_has_a_span(traced_run: TracedRun, spans: Spans) -> None:
    async def serve() -> None:
        with spans.tracer.start_as_current_span("request"):
            await asyncio.sleep(0)
        record: Any = asyncio.current_task()
        record._otel_asyncio.problem = "await_stuck"

    traced_run(serve())
    assert [attributes(span)["asyncio.task.kind"] for span in spans.of("serve")] == ["root_segment", "main"]


def test_a_task_that_served_a_request_tells_of_what_expired_before(traced_run: TracedRun, spans: Spans) -> None:
    async def serve() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.sleep(10)
        with spans.tracer.start_as_current_span("request"):
            await asyncio.sleep(0)

    traced_run(serve())
    assert [span.parent for span in spans.all() if span.name.startswith("timeout")] == [None]


def test_a_long_wait_of_a_task_that_yields_is_not_kept(traced_run: TracedRun, spans: Spans) -> None:
    async def serve() -> Any:
        await asyncio.sleep(0.05)
        with spans.tracer.start_as_current_span("request"):
            await asyncio.sleep(0)
        task: Any = asyncio.current_task()
        return task._otel_asyncio

    record = traced_run(serve(), await_threshold=0.02)
    assert record.waits.kept == []


def test_what_nests_under_a_dropped_task_keeps_no_chain(traced_run: TracedRun, spans: Spans) -> None:
    kept: list[Any] = []

    async def serve() -> None:
        record: Any = asyncio.current_task()
        kept.append(record._otel_asyncio.span)
        await asyncio.sleep(0.001)
        with spans.tracer.start_as_current_span("request"):
            await asyncio.sleep(0)

    async def brief() -> asyncio.Task[None]:
        return asyncio.create_task(serve())

    async def main() -> None:
        await (await asyncio.create_task(brief()))

    traced_run(main(), min_task_duration=100)
    span = kept[0]
    assert span.dropped and span.above.dropped
    assert "brief" not in span.above.record.qualname


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
