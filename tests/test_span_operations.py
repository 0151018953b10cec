"""What user code does to the current span of its task works, whoever made the span."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from harness import Spans, TracedRun, attributes, both_providers, both_ways, span_id
from opentelemetry import baggage, trace
from opentelemetry.context import attach, detach
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import Link, SpanContext, Status, StatusCode, TraceFlags

pytestmark = [both_providers, both_ways]


def in_a_task(
    traced_run: TracedRun, spans: Spans, use: Callable[[trace.Span], Any], *, fails: bool = False
) -> ReadableSpan:
    """Let a task inside a request use its current span; the task's span as it was exported."""

    async def works() -> None:
        use(trace.get_current_span())
        await asyncio.sleep(0)
        if fails:
            raise LookupError("after use")

    async def main() -> None:
        with spans.tracer.start_as_current_span("request"):
            await asyncio.gather(works(), return_exceptions=True)

    traced_run(main())
    tasks = [span for span in spans.all() if span.name != "request" and span.parent is not None]
    return next(span for span in tasks if attributes(span).get("code.function.name", "").endswith("works"))


def test_an_attribute_is_set(traced_run: TracedRun, spans: Spans) -> None:
    span = in_a_task(traced_run, spans, lambda span: span.set_attribute("shop.cart", 7))
    assert attributes(span)["shop.cart"] == 7


def test_attributes_of_ours_are_kept_beside(traced_run: TracedRun, spans: Spans) -> None:
    span = in_a_task(traced_run, spans, lambda span: span.set_attributes({"a": 1, "b": [1, 2]}))
    seen = attributes(span)
    assert (seen["a"], seen["b"], seen["asyncio.task.outcome"]) == (1, (1, 2), "success")


def test_an_event_is_added(traced_run: TracedRun, spans: Spans) -> None:
    span = in_a_task(traced_run, spans, lambda span: span.add_event("seen", {"how": "well"}))
    assert [(event.name, dict(event.attributes or {})) for event in span.events] == [("seen", {"how": "well"})]


def test_an_exception_is_recorded(traced_run: TracedRun, spans: Spans) -> None:
    span = in_a_task(traced_run, spans, lambda span: span.record_exception(ValueError("handled")))
    assert [(event.attributes or {})["exception.message"] for event in span.events] == ["handled"]
    assert span.status.status_code is StatusCode.UNSET


def test_an_exception_that_leaves_comes_after_those_recorded(traced_run: TracedRun, spans: Spans) -> None:
    span = in_a_task(traced_run, spans, lambda span: span.record_exception(ValueError("handled")), fails=True)
    messages = [(event.attributes or {})["exception.message"] for event in span.events]
    assert messages == ["handled", "after use"]


def test_a_link_is_added(traced_run: TracedRun, spans: Spans) -> None:
    other = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(1))
    span = in_a_task(traced_run, spans, lambda span: span.add_link(other, {"why": "so"}))
    assert [(link.context.span_id, dict(link.attributes or {})) for link in span.links] == [(2, {"why": "so"})]


def test_the_name_is_updated(traced_run: TracedRun, spans: Spans) -> None:
    assert in_a_task(traced_run, spans, lambda span: span.update_name("better")).name == "better"


def test_the_status_is_set(traced_run: TracedRun, spans: Spans) -> None:
    span = in_a_task(traced_run, spans, lambda span: span.set_status(Status(StatusCode.ERROR, "said so")))
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "said so")


def test_it_is_recording_while_the_task_runs(traced_run: TracedRun, spans: Spans) -> None:
    answers: list[bool] = []
    in_a_task(traced_run, spans, lambda span: answers.append(span.is_recording()))
    assert answers == [True]


def test_it_is_not_recording_after_the_task(traced_run: TracedRun, spans: Spans) -> None:
    held: list[trace.Span] = []
    in_a_task(traced_run, spans, held.append)
    assert not held[0].is_recording()


def test_what_is_done_after_the_end_changes_nothing(traced_run: TracedRun, spans: Spans) -> None:
    held: list[trace.Span] = []
    before = attributes(in_a_task(traced_run, spans, held.append))
    held[0].set_attribute("late", 1)
    held[0].add_event("late")
    held[0].update_name("late")
    (after,) = (span for span in spans.all() if span_id(span) == span_id(held[0]))
    assert (attributes(after), after.events) == (before, ())
    assert after.name.startswith("task ")


def test_its_ids_stay_the_same_after_the_end(traced_run: TracedRun, spans: Spans) -> None:
    held: list[trace.Span] = []
    span = in_a_task(traced_run, spans, held.append)
    assert held[0].get_span_context() == span.get_span_context()


def test_it_can_be_shown_while_the_task_runs(traced_run: TracedRun, spans: Spans) -> None:
    shown: list[str] = []
    span = in_a_task(traced_run, spans, lambda span: shown.append(repr(span)))
    assert f"{span_id(span):x}" in shown[0]


def test_it_can_be_made_current_elsewhere(traced_run: TracedRun, spans: Spans) -> None:
    def use(span: trace.Span) -> None:
        def nested() -> None:
            with trace.use_span(span, end_on_exit=False), spans.tracer.start_as_current_span("nested"):
                pass

        contextvars.Context().run(nested)

    span = in_a_task(traced_run, spans, use)
    nested = spans.named("nested")
    assert nested.parent is not None and nested.parent.span_id == span_id(span)


def test_a_link_to_it_can_be_made(traced_run: TracedRun, spans: Spans) -> None:
    def use(span: trace.Span) -> None:
        spans.tracer.start_span("linked", links=[Link(span.get_span_context())]).end()

    span = in_a_task(traced_run, spans, use)
    assert [link.context.span_id for link in spans.named("linked").links] == [span_id(span)]


class Recording(SpanProcessor):
    """Notes what it is told, in the order in which it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        self.told.append(("start", span.name))
        span.set_attribute("noted.at_start", True)
        span.set_attribute("noted.user", str(baggage.get_baggage("user", parent_context)))

    def on_end(self, span: ReadableSpan) -> None:
        self.told.append(("end", span.name))


def test_a_processor_is_told_of_start_and_end(traced_run: TracedRun, spans: Spans) -> None:
    recording = Recording()
    spans.sdk.add_span_processor(recording)
    span = in_a_task(traced_run, spans, lambda _: None)
    assert [what for what, name in recording.told if name == span.name] == ["start", "end"]


def test_a_processor_sets_attributes_at_the_start(traced_run: TracedRun, spans: Spans) -> None:
    spans.sdk.add_span_processor(Recording())
    span = in_a_task(traced_run, spans, lambda _: None)
    assert attributes(span)["noted.at_start"] is True


def test_a_processor_reads_the_baggage_of_the_creator(traced_run: TracedRun, spans: Spans) -> None:
    spans.sdk.add_span_processor(Recording())

    async def works() -> object:
        return baggage.get_baggage("user")

    async def main() -> object:
        with spans.tracer.start_as_current_span("request"):
            token = attach(baggage.set_baggage("user", "ada"))
            task: Awaitable[object] = asyncio.create_task(works())
            detach(token)
            return await task

    assert traced_run(main()) == "ada"
    assert attributes(spans.task("works"))["noted.user"] == "ada"


@pytest.mark.parametrize("late", [False, True])
def test_a_processor_added_late_is_told_of_later_tasks(traced_run: TracedRun, spans: Spans, *, late: bool) -> None:
    recording = Recording()

    async def works() -> None:
        """Nothing."""

    async def main() -> None:
        if late:
            await asyncio.create_task(asyncio.sleep(0))
        spans.sdk.add_span_processor(recording)
        await asyncio.create_task(works())

    traced_run(main())
    assert ("start", spans.task("works").name) in recording.told
