"""Spans of intervals that are handed over past the tracer: the same as through it, and only where nobody has to be asked."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from harness import Spans, TracedRun, attributes
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, SpanProcessor, sampling
from opentelemetry.trace import INVALID_SPAN_CONTEXT, NonRecordingSpan, SpanContext, TraceFlags, TraceState

from otel_asyncio.emit.given import GivenSpan
from otel_asyncio.emit.intervals import Intervals, link_to
from otel_asyncio.emit.tracing import Tracing
from otel_asyncio.observe.clock import SYSTEM_CLOCK

SOMEBODY = SpanContext(7, 8, is_remote=False, trace_flags=TraceFlags(1))
STATE = TraceState([("vendor", "value")])
FACTS: dict[str, Any] = {"a.text": "x" * 5000, "a.number": 1, "a.list": ("a", "b")}

PARENTS = {
    "none": None,
    "local": SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1), trace_state=STATE),
    "random": SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(3)),
    "unsampled": SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(0)),
    "remote": SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(1), trace_state=STATE),
    "invalid": INVALID_SPAN_CONTEXT,
    "span": NonRecordingSpan(SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1))),
}


class Adding(sampling.Sampler):
    """Has something to say of every span."""

    def should_sample(
        self, parent_context: Any, trace_id: int, name: str, *_: Any, **__: Any
    ) -> sampling.SamplingResult:
        return sampling.SamplingResult(sampling.Decision.RECORD_AND_SAMPLE, {"sampler": name}, STATE)

    def get_description(self) -> str:
        return "Adding"


SAMPLERS = {
    "on": sampling.ALWAYS_ON,
    "off": sampling.ALWAYS_OFF,
    "parent": sampling.ParentBased(sampling.ALWAYS_ON),
    "no roots": sampling.ParentBased(sampling.ALWAYS_OFF),
    "no children": sampling.ParentBased(sampling.ALWAYS_ON, local_parent_sampled=sampling.ALWAYS_OFF),
    "adding": Adding(),
}
ASKED_FOR_NOTHING = {(sampler, "none") for sampler in ("on", "parent", "no children")} | {
    (sampler, parent) for sampler in ("on", "parent", "no roots") for parent in ("local", "random", "span")
}


class Listening(SpanProcessor):
    """Wants to know of every start."""

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        span.set_attribute("listened", value=True)


class Made:
    """Intervals of one provider, and how many of their spans went through the tracer."""

    def __init__(self, spans: Spans) -> None:
        self.spans = spans
        self.tracing = Tracing(spans.provider, clock=SYSTEM_CLOCK, request_split=False, request_links=False)
        self.tracing.resolve()
        self.intervals = Intervals(self.tracing)
        self.through = 0
        tracer: Any = self.tracing.tracer
        start = tracer.start_span

        def start_span(*args: Any, **kwargs: Any) -> Any:
            self.through += 1
            return start(*args, **kwargs)

        tracer.start_span = start_span

    def __call__(self, parent: Any = None, *, forced: bool = False, error: str | None = None, links: Any = ()) -> Any:
        """Make one; returns its ids, if it has any, and the span as it was exported, if it was."""
        self.spans.exporter.clear()
        spans, self.tracing.spans = self.tracing.spans, None if forced else self.tracing.spans
        ids = self.intervals.emit("name", parent, 10, 20, dict(FACTS), links, error)
        self.tracing.spans = spans
        exported = self.spans.all()
        assert len(exported) == (ids is not None)
        return ids, exported[0] if exported else None


def told(span: ReadableSpan | None, *, root: bool) -> Any:
    """Everything that an exporter reads of a span, but for the ids that are its own."""
    if span is None:
        return None
    parts = json.loads(span.to_json())
    ids = span.get_span_context()
    assert ids is not None and ids.is_valid
    parts["context"].pop("span_id")
    if root:
        parts["context"].pop("trace_id")
    return (
        parts,
        attributes(span),
        [(link.context, dict(link.attributes or {}), link.dropped_attributes) for link in span.links],
        (span.dropped_attributes, span.dropped_events, span.dropped_links),
        (span.kind, span.status.status_code, span.status.description, span.parent, span.events),
        (span.start_time, span.end_time, span.resource, span.instrumentation_scope),
        (ids.trace_flags, ids.trace_state, ids.is_remote),
    )


@pytest.mark.parametrize("parent", PARENTS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_span_past_the_tracer_is_the_one_that_the_tracer_makes(sampler: str, parent: str) -> None:
    made = Made(Spans(sampler=SAMPLERS[sampler]))
    links = [link_to(SOMEBODY, "awaited"), link_to(NonRecordingSpan(SOMEBODY), "holder")]
    root = parent in ("none", "invalid")
    ids, given = made(PARENTS[parent], links=links, error="it went wrong")
    assert made.through == ((sampler, parent) not in ASKED_FOR_NOTHING)
    expected_ids, expected = made(PARENTS[parent], links=links, error="it went wrong", forced=True)
    assert told(given, root=root) == told(expected, root=root)
    assert (ids is None) == (expected_ids is None)
    assert given is None or ids == given.get_span_context()


def test_a_span_without_links_and_error_is_the_same_as_well() -> None:
    made = Made(Spans())
    assert told(made()[1], root=True) == told(made(forced=True)[1], root=True)


@pytest.mark.parametrize(
    "limit",
    (
        {"max_span_attributes": 2},
        {"max_span_attributes": 0},
        {"max_attributes": 1},
        {"max_span_attribute_length": 100},
        {"max_attribute_length": 2},
        {"max_links": 1},
        {"max_links": 0},
        {"max_link_attributes": 0},
    ),
    ids=str,
)
def test_what_the_limits_cut_is_cut(limit: dict[str, int]) -> None:
    made = Made(Spans(span_limits=SpanLimits(**limit)))
    links = [link_to(SOMEBODY, "awaited"), link_to(SOMEBODY, "holder")]
    given, expected = made(links=links)[1], made(links=links, forced=True)[1]
    assert told(given, root=True) == told(expected, root=True)


def test_limits_that_cut_nothing_need_no_tracer() -> None:
    made = Made(Spans(span_limits=SpanLimits(max_links=64, max_span_attributes=64)))
    made()
    assert made.through == 0


def test_a_processor_that_wants_to_know_of_starts_is_told() -> None:
    made = Made(Spans())
    made.spans.sdk.add_span_processor(Listening())
    _, span = made()
    assert span is not None and attributes(span)["listened"] is True


def test_a_disabled_tracer_makes_nothing() -> None:
    made = Made(Spans())
    tracer: Any = made.tracing.tracer
    if not hasattr(tracer, "_set_tracer_config"):
        pytest.skip("this SDK has no configurator")
    tracer._set_tracer_config(type(tracer._tracer_config)(is_enabled=False))
    assert made() == (None, None)


def test_the_sdks_own_metrics_count_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "true")

    def counted(*, forced: bool) -> Any:
        reader = InMemoryMetricReader()
        try:
            made = Made(Spans(meter_provider=MeterProvider(metric_readers=[reader])))
        except TypeError:
            pytest.skip("this SDK does not count its spans")
        made(forced=forced)
        made(PARENTS["local"], forced=forced)
        assert made.through == 2 * forced
        data = json.loads(reader.get_metrics_data().to_json())  # type: ignore[union-attr]
        metrics = data["resource_metrics"][0]["scope_metrics"][0]["metrics"]
        return {
            metric["name"]: [(point["attributes"], point["value"]) for point in metric["data"]["data_points"]]
            for metric in metrics
        }

    assert counted(forced=False) == counted(forced=True) != {}


def test_what_is_told_is_made_when_it_is_read_and_once() -> None:
    made = Made(Spans())
    calls: list[None] = []

    def facts() -> dict[str, Any]:
        calls.append(None)
        return dict(FACTS)

    made.intervals.emit("name", None, 10, 20, facts)
    (span,) = made.spans.all()
    assert type(span) is GivenSpan
    assert span.context.is_valid and calls == []
    assert attributes(span) == attributes(span) == FACTS
    assert len(calls) == 1
    assert span.facts is None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        span.nothing  # noqa: B018


async def waits() -> None:
    await asyncio.get_running_loop().create_future()


async def is_cancelled() -> None:
    task = asyncio.create_task(waits())
    await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def goes_on() -> None:
    with suppress(asyncio.CancelledError):
        await waits()
    await asyncio.sleep(0.05)


async def swallows() -> None:
    task = asyncio.create_task(goes_on())
    await asyncio.sleep(0)
    task.cancel()
    await task


async def waits_for_long() -> None:
    await asyncio.create_task(asyncio.sleep(0.05))


async def holds(lock: asyncio.Lock) -> None:
    async with lock:
        await asyncio.sleep(0.05)


async def waits_for_a_lock() -> None:
    lock = asyncio.Lock()
    await asyncio.gather(asyncio.create_task(holds(lock)), asyncio.create_task(holds(lock)))


async def handles_a_deadline() -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(0.01):
            await waits()


async def has_a_deadline() -> None:
    async with asyncio.timeout(0.01):
        await waits()


async def meets_a_deadline() -> None:
    with suppress(TimeoutError):
        await asyncio.create_task(has_a_deadline())


async def blocks() -> None:
    await asyncio.sleep(0)
    time.sleep(0.3)


LEFT: list[asyncio.Task[None]] = []


async def leaves_behind() -> None:
    LEFT[:] = [asyncio.create_task(waits())]
    await asyncio.sleep(0)


PROGRAMS = {
    "cancel waits": is_cancelled,
    "cancel goes_on": swallows,
    "await task sleep": waits_for_long,
    "await Lock.acquire": waits_for_a_lock,
    "timeout handles_a_deadline": handles_a_deadline,
    "timeout has_a_deadline": meets_a_deadline,
    "block blocks": blocks,
    "asyncio.shutdown": leaves_behind,
}
_PASSING = (
    ".id",
    "_time",
    ".latency",
    ".overrun",
    ".delay",
    ".samples",
    ".by.task",
    ".holder.task",
    ".victims",
    ".accuracy",
)


def _of(span: ReadableSpan) -> Iterator[tuple[str, Any]]:
    """The attributes that two runs have in common, and of the others the type."""
    for key, value in attributes(span).items():
        yield key, type(value) if key.endswith(_PASSING) else value


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_kind_says_the_same_past_the_tracer(traced_run: TracedRun, name: str) -> None:
    """Where attributes may have to be cut the tracer makes it."""

    def seen(spans: Spans) -> Any:
        async def main() -> None:
            with spans.tracer.start_as_current_span("request"):
                await PROGRAMS[name]()

        run = TracedRun(traced_run.way, traced_run.new_loop, spans)
        run(main(), await_threshold=0.02, block_threshold=0.1)
        found = [span for span in spans.all() if span.name == name]
        return [(dict(_of(span)), list(attributes(span)), _rest(span)) for span in found], {type(s) for s in found}

    def _rest(span: ReadableSpan) -> Any:
        kinds = [(type(link), (link.attributes or {})["asyncio.link.type"]) for link in span.links]
        return kinds, span.status.status_code, span.status.description, span.parent is None, span.resource.schema_url

    (given, kinds), (expected, _) = (
        seen(Spans()),
        seen(Spans(span_limits=SpanLimits(max_attribute_length=100_000))),
    )
    assert given == expected != []
    assert kinds == {GivenSpan}


def test_who_asked_is_named_as_it_was_called_then(traced_run: TracedRun, spans: Spans) -> None:
    """What is read later are the facts of before."""

    async def asks(task: asyncio.Task[None]) -> None:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        asyncio.current_task().set_name("after")  # type: ignore[union-attr]

    async def main() -> None:
        with spans.tracer.start_as_current_span("request"):
            task = asyncio.create_task(waits())
            await asyncio.sleep(0)
            await asyncio.create_task(asks(task), name="before")

    traced_run(main())
    assert attributes(spans.named("cancel waits"))["asyncio.cancel.by.task"] == "before"
