"""Spans of work in threads that become whole where somebody touches them: the same as the tracer would have made."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from harness import Spans, TracedRun, attributes, both_ways, parent_id, span_id
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import SpanLimits, SpanProcessor
from opentelemetry.trace import StatusCode

from otel_asyncio.emit.late import LateSpan

pytestmark = both_ways


class Listening(SpanProcessor):
    """Wants to know of every start."""

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        """As nobody else."""


def nothing() -> None:
    pass


def sets() -> None:
    span = trace.get_current_span()
    span.set_attribute("mine", 1)
    span.add_event("happened", {"where": "here"})
    span.add_link(trace.SpanContext(1, 2, is_remote=False), {"why": "so"})
    span.update_name("another name")


def fails() -> None:
    raise LookupError("nothing there")


def is_judged() -> None:
    trace.get_current_span().set_status(StatusCode.ERROR, "in vain")


def ends() -> None:
    trace.get_current_span().end()


def is_asked() -> None:
    span: Any = trace.get_current_span()
    assert span.is_recording() and span.name == "executor is_asked"
    assert dict(span.attributes)["code.function.name"].endswith("is_asked")


def traced(spans: Spans, traced_run: TracedRun, function: Callable[[], None]) -> Any:
    """The span of the function in a thread."""

    async def main() -> None:
        with spans.tracer.start_as_current_span("request"):
            try:
                await asyncio.to_thread(function)
            except LookupError:
                pass

    TracedRun(traced_run.way, traced_run.new_loop, spans)(main())
    (span,) = [span for span in spans.all() if "asyncio.executor.kind" in attributes(span)]
    assert parent_id(span) == span_id(spans.named("request"))
    return span


def seen(span: Any) -> dict[str, Any]:
    """What is the same each time."""
    parts: dict[str, Any] = json.loads(span.to_json())
    for name in ("context", "parent_id", "start_time", "end_time"):
        assert parts.pop(name)
    for event in parts["events"]:
        assert event.pop("timestamp")
        event["attributes"].pop("exception.stacktrace", None)
    for name in ("asyncio.executor.queued_time", "asyncio.executor.run_time", "thread.id", "thread.name"):
        parts["attributes"].pop(name, None)
    return parts | {"scope": span.instrumentation_scope, "resource": span.resource.attributes}


@pytest.mark.parametrize("function", (nothing, sets, fails, is_judged, ends, is_asked), ids=lambda one: one.__name__)
def test_it_is_the_span_that_the_tracer_would_make(
    traced_run: TracedRun, spans: Spans, function: Callable[[], None]
) -> None:
    limited = Spans(span_limits=SpanLimits(max_span_attribute_length=10_000))  # where attributes may have to be cut
    assert seen(traced(spans, traced_run, function)) == seen(traced(limited, traced_run, function))


@pytest.mark.parametrize("why", ("limits", "listener", "metrics", "nothing"))
def test_it_is_made_late_where_nobody_has_to_be_asked_or_told(
    traced_run: TracedRun, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setenv("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", str(why == "metrics").lower())
    options: dict[str, Any] = {
        "limits": {"span_limits": SpanLimits(max_span_attribute_length=10_000)},
        "metrics": {"meter_provider": MeterProvider()},
    }
    spans, current = Spans(**options.get(why, {})), []
    if why == "listener":
        spans.sdk.add_span_processor(Listening())
    traced(spans, traced_run, lambda: current.append(trace.get_current_span()))
    assert [type(span) is LateSpan for span in current] == [why == "nothing"]


@pytest.mark.parametrize("touched", (False, True))
def test_whoever_keeps_it_has_a_span_that_has_ended(traced_run: TracedRun, spans: Spans, touched: bool) -> None:
    kept: list[Any] = []

    def keeps() -> None:
        kept.append(trace.get_current_span())
        if touched:
            kept[0].set_attribute("mine", 1)

    told = traced(spans, traced_run, keeps)
    (span,) = kept
    assert not span.is_recording()
    span.set_attribute("late", 1)
    span.end()
    assert (span.name, span.start_time, span.end_time) == (told.name, told.start_time, told.end_time)
    assert span.get_span_context() == told.get_span_context()
    assert dict(span.attributes) == attributes(told)
    assert ("mine" in told.attributes) is touched
    assert len([each for each in spans.all() if span_id(each) == span_id(told)]) == 1


def test_many_threads_that_touch_it_at_once_touch_one_span(traced_run: TracedRun, spans: Spans) -> None:
    def touches() -> None:
        span, barrier = trace.get_current_span(), threading.Barrier(8)

        def touch(number: int) -> None:
            barrier.wait()
            span.set_attribute(f"of {number}", number)

        threads = [threading.Thread(target=touch, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if type(span) is LateSpan:
            span._become_whole()  # of another thread, which was about to when the first one had done it

    said = attributes(traced(spans, traced_run, touches))
    assert [said.get(f"of {number}") for number in range(8)] == list(range(8))
    assert said["code.function.name"].endswith("touches")


def test_a_span_opened_in_the_thread_lies_under_it(traced_run: TracedRun, spans: Spans) -> None:
    def opens() -> None:
        with spans.tracer.start_as_current_span("inner"):
            pass

    work = traced(spans, traced_run, opens)
    assert parent_id(spans.named("inner")) == span_id(work)
