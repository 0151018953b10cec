"""Where a task stands, its span and its end: the usual case in C comes to what the methods in Python come to."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from harness import NewLoop, Spans, attributes, instrumented, links, parent_id, quiet, run_on, span_id, without_numbers
from opentelemetry import baggage, trace
from opentelemetry import context as telemetry
from opentelemetry.context.context import Context
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, Sampler, SamplingResult, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

from otel_asyncio import AsyncioInstrumentor
from otel_asyncio.emit import sink
from otel_asyncio.emit.lineage import Place
from otel_asyncio.emit.shortcuts import SpansCell
from otel_asyncio.emit.taskspan import TaskSpan
from otel_asyncio.observe import flavour
from otel_asyncio.testing import AutojumpLoop

compiled_only = pytest.mark.skipif(flavour.FLAVOUR != "compiled", reason="needs Python and the compiled step hook")

Program = Callable[[Spans], Coroutine[Any, Any, None]]
THIRD = 3
TIMES = ("time", "delay", "latency", "overrun", ".id")


SEEN: list[tuple[str, str]] = []
"""What is current in each leaf: the class of the span, and a word of the program's."""

WORD = contextvars.ContextVar("WORD", default="none")


async def leaf() -> None:
    SEEN.append((type(trace.get_current_span()).__name__, WORD.get()))
    await asyncio.sleep(0)


async def two_leaves() -> None:
    await asyncio.gather(asyncio.create_task(leaf()), asyncio.create_task(leaf()))


async def expires() -> None:
    try:
        async with asyncio.timeout(0.001):
            await asyncio.sleep(10)
    except TimeoutError:
        await asyncio.sleep(0)


async def under_a_span(spans: Spans) -> None:
    with spans.tracer.start_as_current_span("request"):
        await asyncio.create_task(two_leaves())


async def roots(_: Spans) -> None:
    await asyncio.create_task(two_leaves())


async def in_a_context_of_the_programs(spans: Spans) -> None:
    outside = contextvars.copy_context()
    outside.run(WORD.set, "outside")
    with spans.tracer.start_as_current_span("request"):
        inside = contextvars.copy_context()
        inside.run(WORD.set, "inside")
        await asyncio.create_task(two_leaves(), context=inside)
        await asyncio.create_task(leaf(), context=inside)
        await asyncio.create_task(two_leaves(), context=outside)


async def with_baggage(spans: Spans) -> None:
    token = telemetry.attach(baggage.set_baggage("user", "7"))
    with spans.tracer.start_as_current_span("request"):
        await asyncio.create_task(two_leaves())
    telemetry.detach(token)


async def suppressed(spans: Spans) -> None:
    with spans.tracer.start_as_current_span("request"), suppress_instrumentation():
        await asyncio.create_task(two_leaves())


async def after_the_span_has_ended(spans: Spans) -> None:
    span = spans.tracer.start_span("request")
    span.end()
    with use_span(span):
        await asyncio.create_task(two_leaves())


async def requests_after_a_span_has_ended(spans: Spans) -> None:
    """A root in the midst of a span that is over, and what it does before, in and after a request."""

    async def serves() -> None:
        await asyncio.create_task(leaf())
        with spans.tracer.start_as_current_span("inside"):
            await asyncio.create_task(leaf())
        await asyncio.create_task(leaf())

    async def serves_at_once() -> None:
        with spans.tracer.start_as_current_span("inside"):
            pass
        await asyncio.create_task(two_leaves())

    span = spans.tracer.start_span("request")
    span.end()
    with use_span(span):
        await asyncio.create_task(serves())
        await asyncio.create_task(serves_at_once())


async def after_the_task_has_ended(_: Spans) -> None:
    """What is started under a task that is over."""
    inside: list[contextvars.Context] = []

    async def gone() -> None:
        inside.append(contextvars.copy_context())

    with use_span(NonRecordingSpan(SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(1)))):
        await asyncio.create_task(gone())
    await inside[0].run(asyncio.create_task, two_leaves())


async def with_its_ids_asked_for(spans: Spans) -> None:
    async def asks() -> None:
        trace.get_current_span().get_span_context()
        await asyncio.create_task(leaf())

    with spans.tracer.start_as_current_span("request"):
        await asyncio.create_task(asks())


async def with_an_attribute_of_the_programs(spans: Spans) -> None:
    async def sets() -> None:
        trace.get_current_span().set_attribute("program", 1)
        await asyncio.create_task(leaf())

    with spans.tracer.start_as_current_span("request"):
        await asyncio.create_task(sets())


async def a_request_in_a_connection(spans: Spans) -> None:
    """A root that leaves its facts to the span that is opened in it."""

    async def serves() -> None:
        for name in ("first", "second"):
            with spans.tracer.start_as_current_span(name):
                await asyncio.create_task(two_leaves())

    await asyncio.create_task(serves())


async def a_request_in_a_task_of_a_known_connection(spans: Spans) -> None:
    """The same, where the one above it gets a span in any case; another one has a deadline and no request."""

    async def serves() -> None:
        with spans.tracer.start_as_current_span("request"):
            await asyncio.create_task(leaf())

    async def accepts() -> None:
        await asyncio.create_task(leaf())
        task: Any = asyncio.current_task()
        if task._otel_asyncio.timed:
            task._otel_asyncio.span.get_span_context()
        await asyncio.create_task(serves())
        await asyncio.create_task(expires())

    await asyncio.create_task(accepts())


async def a_long_wait(spans: Spans) -> None:
    async def waits() -> None:
        await asyncio.sleep(0.03)

    with spans.tracer.start_as_current_span("request"):
        await asyncio.create_task(waits())
    await asyncio.create_task(waits())


async def a_deadline(spans: Spans) -> None:
    with spans.tracer.start_as_current_span("request"):
        await asyncio.create_task(expires())
    await asyncio.create_task(expires())


async def failing(spans: Spans) -> None:
    async def fails() -> None:
        raise ValueError

    with spans.tracer.start_as_current_span("request"):
        await asyncio.wait([asyncio.create_task(fails()), asyncio.create_task(leaf())])


async def a_processor_that_comes_later(spans: Spans) -> None:
    class Marking(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            span.set_attribute("marked", True)

    with spans.tracer.start_as_current_span("request"):
        early = asyncio.create_task(two_leaves())
        spans.sdk.add_span_processor(Marking())
        await early
        await asyncio.create_task(two_leaves())


async def disabled_meanwhile(spans: Spans) -> None:
    tracer: Any = spans.sdk.get_tracer("otel_asyncio")
    with spans.tracer.start_as_current_span("request"):
        if hasattr(tracer, "_set_tracer_config"):
            configurator = lambda _: type(tracer._tracer_config)(is_enabled=False)  # noqa: E731
            spans.sdk._set_tracer_configurator(tracer_configurator=configurator)
        await asyncio.create_task(two_leaves())


PROGRAMS: dict[Program, dict[str, Any]] = {
    under_a_span: {},
    roots: {},
    in_a_context_of_the_programs: {},
    with_baggage: {},
    suppressed: {},
    after_the_span_has_ended: {},
    requests_after_a_span_has_ended: {},
    after_the_task_has_ended: {},
    with_its_ids_asked_for: {},
    with_an_attribute_of_the_programs: {},
    a_request_in_a_connection: {},
    a_request_in_a_task_of_a_known_connection: {},
    a_long_wait: {"await_threshold": 0.01},
    a_deadline: {},
    failing: {},
    a_processor_that_comes_later: {},
    disabled_meanwhile: {},
}


class Adding(Sampler):
    """Adds an attribute to what it samples, or has tasks only recorded."""

    def __init__(self, decision: Decision = Decision.RECORD_AND_SAMPLE, *, adds: bool = True) -> None:
        self._decision, self._adds = decision, adds

    def should_sample(self, parent_context: Any, trace_id: int, name: str, *args: Any, **more: Any) -> SamplingResult:
        decision = Decision.RECORD_AND_SAMPLE if name == "request" else self._decision
        return SamplingResult(decision, {"added": name} if self._adds else None)

    def get_description(self) -> str:
        return "adding"


PROVIDERS: dict[str, Callable[[], dict[str, Any]]] = {
    "all": dict,
    "adding": lambda: {"sampler": Adding()},
    "recording": lambda: {"sampler": Adding(Decision.RECORD_ONLY, adds=False)},
    "half": lambda: {"sampler": TraceIdRatioBased(0.5)},
    "none": lambda: {"sampler": ALWAYS_OFF},
    "few attributes": lambda: {"span_limits": SpanLimits(max_span_attributes=4)},
}
SETTINGS: list[dict[str, Any]] = [
    {"root_context": True},
    {"root_tasks": "none"},
    {"root_tasks": "problems"},
    {"detached_tasks": ("*two_leaves",)},
    {"exclude": ("*.leaf",)},
    {"min_task_duration": 60},
]


def told(spans: Spans) -> list[tuple[Any, ...]]:
    """All that was exported but the times; ids as the order in which they came."""
    done = spans.all()
    number = {
        span_id(span): place for place, span in enumerate(sorted(done, key=lambda span: (span.name, _rank(span))))
    }

    def facts(span: ReadableSpan) -> dict[str, Any]:
        told = {key: value for key, value in attributes(span).items() if not key.endswith(TIMES)}
        return {key: without_numbers(str(value)) for key, value in told.items()}

    return sorted(
        (
            (
                span.name,
                number.get(parent_id(span) or 0, "outside") if span.parent else None,
                sorted((kind, number.get(target, "outside")) for kind, target in links(span).items()),
                sorted(facts(span).items()),
                span.status.status_code.name,
                [event.name for event in span.events],
            )
            for span in done
        ),
        key=str,
    )


def _rank(span: ReadableSpan) -> Any:
    return attributes(span).get("asyncio.task.id", 0), span.start_time


@compiled_only
@pytest.mark.parametrize(
    ("provider", "settings"),
    [*((provider, {}) for provider in PROVIDERS), *(("all", settings) for settings in SETTINGS)],
    ids=str,
)
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_a_shortcut_comes_to_the_same(
    monkeypatch: pytest.MonkeyPatch, program: Program, provider: str, settings: dict[str, Any]
) -> None:
    """On virtual time: no machine is slow enough to make a wait long."""

    def run(seed: int) -> list[tuple[Any, ...]]:
        random.seed(seed)  # which the SDK's generator takes its bits of, and its sampler looks at
        spans, loop, instrumentor = Spans(**PROVIDERS[provider]()), AutojumpLoop(), AsyncioInstrumentor()
        chosen = quiet(**PROGRAMS[program], **settings)
        instrumentor.instrument(tracer_provider=spans.provider, settings=chosen, clock=loop.clock)
        try:
            run_on(lambda: loop, program(spans))
        finally:
            instrumentor.uninstrument()
        seen = list(SEEN)
        SEEN.clear()
        return [*told(spans), *seen]

    compiled = [run(seed) for seed in range(3)]
    monkeypatch.setattr(sink, "shorten", lambda *_, **__: None)
    assert compiled == [run(seed) for seed in range(3)]


class Refusing(SpanProcessor):
    """Takes no leaf's span."""

    def on_end(self, span: ReadableSpan) -> None:
        if span.name == "task leaf":
            raise ZeroDivisionError(span.name)


def run_three_leaves_of_which_an_end_fails(new_loop: NewLoop, spans: Spans, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with spans.tracer.start_as_current_span("request"):
            await asyncio.gather(*(asyncio.create_task(leaf()) for _ in range(3)))

    with instrumented(spans) as instrumentor:
        run_on(new_loop, main())
        assert instrumentor.observation.counters.active == 0
    assert len([record for record in caplog.records if "ending of tasks failed" in record.getMessage()]) == 1


def test_a_processor_that_fails_costs_the_program_no_task(
    new_loop: NewLoop, spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    spans.sdk.add_span_processor(Refusing())

    run_three_leaves_of_which_an_end_fails(new_loop, spans, caplog)
    assert len(spans.of("leaf")) == 1  # the other processor had it before


def test_what_makes_ids_may_fail_at_an_end(new_loop: NewLoop, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(RandomIdGenerator):
        def generate_span_id(self) -> int:
            made.append(super().generate_span_id())
            if len(made) == THIRD:
                raise ZeroDivisionError
            return made[-1]

    made: list[int] = []
    spans = Spans(id_generator=Failing())

    run_three_leaves_of_which_an_end_fails(new_loop, spans, caplog)
    assert len(spans.of("leaf")) == 1


def test_a_span_that_does_not_say_whether_it_is_open_costs_the_program_no_task(
    new_loop: NewLoop, spans: Spans, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        with spans.tracer.start_as_current_span("request") as span:
            monkeypatch.setattr(type(span), "is_recording", lambda _: 1 // 0)
            await asyncio.create_task(leaf())
            monkeypatch.undo()

    with instrumented(spans) as instrumentor:
        run_on(new_loop, main())
        assert instrumentor.observation.counters.active == 0
    assert len([record for record in caplog.records if "creation of tasks failed" in record.getMessage()]) == 1
    assert spans.of("leaf") == []


@compiled_only
@pytest.mark.parametrize(
    "parts",
    (
        {},
        {"name": "place"},
        {"name": "nothing", "variable": telemetry._RUNTIME_CONTEXT._current_context},  # type: ignore[attr-defined]
        {"name": "place", "variable": None},
        {"name": "place", "telemetry": int},
        {"name": "place", "kept": []},
    ),
    ids=str,
)
def test_a_shortcut_says_what_it_takes(parts: dict[str, Any]) -> None:
    usual = {"plain": print, "tracing": None, "kept": {}, "variable": None, "key": "key", "telemetry": Context}
    with pytest.raises((TypeError, ValueError), match=r"SinkCall|argument"):
        flavour.extension.SinkCall(**usual | parts) if parts else flavour.extension.SinkCall()


@compiled_only
def test_classes_that_are_not_known_are_refused() -> None:
    class Spans(SpansCell):
        pass

    for classes in ((), (int, int, int, tuple), (TaskSpan, int, int, SpanContext), (TaskSpan, int, Place, int)):
        with pytest.raises(TypeError, match=r"no slot|class of tuples|argument"):
            Spans().use(*classes)


def test_a_span_that_waits_for_its_export_keeps_nothing_above_it(new_loop: NewLoop, spans: Spans) -> None:
    with instrumented(spans):
        run_on(new_loop, under_a_span(spans))
    ended: list[Any] = [*spans.of("leaf"), *spans.of("two_leaves")]
    assert [(span.above, span.place) for span in ended] == [(None, None)] * 3


def test_what_is_only_recorded_comes_into_no_batch(new_loop: NewLoop) -> None:
    spans, batches = Spans(sampler=Adding(Decision.RECORD_ONLY, adds=False)), InMemorySpanExporter()
    spans.sdk.add_span_processor(BatchSpanProcessor(batches))
    with instrumented(spans):
        run_on(new_loop, under_a_span(spans))
    spans.sdk.shutdown()
    assert [span.name for span in batches.get_finished_spans()] == ["request"]
