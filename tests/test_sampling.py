"""The sampler stays the authority: asked once, with the start attributes, and for whole traces."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Sequence
from typing import Any

from harness import Spans, TracedRun, attributes, both_providers, both_ways, parent_id, span_id
from opentelemetry import trace
from opentelemetry.context import Context, get_current
from opentelemetry.sdk.trace import sampling

pytestmark = [both_providers, both_ways]


async def child() -> None:
    await asyncio.sleep(0)


async def plain() -> None:
    await asyncio.create_task(child())


def sampled(provider_kind: str, sampler: sampling.Sampler) -> Spans:
    return Spans(provider_kind, sampler=sampler)


async def fan_out(tracer: trace.Tracer) -> None:
    async def request() -> None:
        with tracer.start_as_current_span("request"):
            await asyncio.gather(plain(), child())

    for _ in range(60):
        await asyncio.create_task(request())


def test_nothing_is_recorded_where_the_sampler_is_off(traced_run: TracedRun, provider_kind: str) -> None:
    traced_run.spans = sampled(provider_kind, sampling.ALWAYS_OFF)
    traced_run(fan_out(traced_run.spans.tracer))
    assert traced_run.spans.all() == []


def test_a_ratio_samples_whole_traces(traced_run: TracedRun, provider_kind: str) -> None:
    """No span without its parent, and no request without its tasks."""
    traced_run.spans = spans = sampled(provider_kind, sampling.ParentBased(sampling.TraceIdRatioBased(0.5)))
    traced_run(fan_out(spans.tracer), root_tasks="none")
    ids = {span_id(span) for span in spans.all()}
    requests = [span for span in spans.all() if span.name == "request"]
    assert 0 < len(requests) < 60
    assert all(parent_id(span) in ids for span in spans.all() if span.parent is not None)
    assert len(spans.all()) == 4 * len(requests)


def test_an_unsampled_span_is_told_from_the_sampled_one_that_follows(traced_run: TracedRun, provider_kind: str) -> None:
    """What is known of one context at a glance says nothing about another, entered from it or after it."""

    class Alternating(sampling.Sampler):
        """Samples what is called so."""

        def should_sample(self, parent_context: Any, trace_id: int, name: str, *_: Any) -> sampling.SamplingResult:
            named = sampling.ALWAYS_ON if name in ("sampled", "task child") else sampling.ALWAYS_OFF
            return named.should_sample(parent_context, trace_id, name)

        def get_description(self) -> str:
            return "Alternating"

    async def main(tracer: trace.Tracer) -> None:
        for name in ("unsampled", "sampled", "unsampled", "sampled"):
            with tracer.start_as_current_span(name, context=Context()):
                for _ in range(4):
                    await asyncio.create_task(child())

    traced_run.spans = spans = sampled(provider_kind, Alternating())
    traced_run(main(spans.tracer), root_tasks="none")
    assert [span.name for span in spans.all()].count("task child") == 8


def test_the_context_of_an_unsampled_span_is_not_kept(traced_run: TracedRun, provider_kind: str) -> None:
    """It may hold what is large: only its identity is remembered."""
    ref: Any = None

    async def request(tracer: trace.Tracer) -> None:
        nonlocal ref
        with tracer.start_as_current_span("request"):
            for _ in range(4):
                await asyncio.create_task(child())
            ref = weakref.ref(get_current())

    async def main(tracer: trace.Tracer) -> bool:
        await asyncio.create_task(request(tracer))
        gc.collect()
        return ref() is None

    traced_run.spans = sampled(provider_kind, sampling.ALWAYS_OFF)
    assert traced_run(main(traced_run.spans.tracer))


class Choosy(sampling.Sampler):
    """Drops tasks by what the contract lets a sampler see, and adds an attribute to the rest."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def should_sample(
        self, parent_context: Any, trace_id: int, name: str, kind: Any = None, attributes: Any = None,
        links: Sequence[Any] | None = None, trace_state: Any = None,
    ) -> sampling.SamplingResult:  # fmt: skip
        self.asked.append((name, dict(attributes or {})))
        if name.endswith("child"):
            return sampling.SamplingResult(sampling.Decision.DROP)
        return sampling.SamplingResult(sampling.Decision.RECORD_AND_SAMPLE, {**(attributes or {}), "chosen": True})

    def get_description(self) -> str:
        return "choosy"


async def serve(tracer: trace.Tracer) -> None:
    with tracer.start_as_current_span("request"):
        await asyncio.create_task(plain())


def test_a_sampler_of_the_programs_decides(traced_run: TracedRun, provider_kind: str) -> None:
    traced_run.spans = spans = sampled(provider_kind, Choosy())
    traced_run(serve(spans.tracer))
    assert (len(spans.of("plain")), spans.of("child")) == (1, [])
    assert attributes(spans.task("plain"))["chosen"] is True


def test_a_sampler_is_asked_once_for_each_task(traced_run: TracedRun, provider_kind: str) -> None:
    sampler = Choosy()
    traced_run.spans = sampled(provider_kind, sampler)
    traced_run(serve(traced_run.spans.tracer))
    assert sorted(name.removeprefix("task ") for name, _ in sampler.asked if "request" not in name) == [
        "child", "plain", *(["serve"] if any("task serve" == name for name, _ in sampler.asked) else []),
    ]  # fmt: skip


def test_a_sampler_sees_what_is_known_at_the_start(traced_run: TracedRun, provider_kind: str) -> None:
    sampler = Choosy()
    traced_run.spans = sampled(provider_kind, sampler)
    traced_run(serve(traced_run.spans.tracer))
    (seen,) = (attributes for name, attributes in sampler.asked if name == "task plain")
    wanted = {"code.function.name", "code.file.path", "code.line.number", "asyncio.task.kind",
              "asyncio.task.created.file", "asyncio.task.created.line"}  # fmt: skip
    assert wanted <= set(seen)
    assert "asyncio.task.outcome" not in seen


def test_a_root_says_the_same_whoever_samples_it(traced_run: TracedRun, provider_kind: str) -> None:
    """A sampler that is known to sample every root is not asked, and one that adds nothing leaves nothing behind."""
    said = []
    for sampler in (
        sampling.ALWAYS_ON,
        sampling.ParentBased(sampling.ALWAYS_ON),
        sampling.ParentBased(sampling.TraceIdRatioBased(1.0)),
    ):
        traced_run.spans = spans = sampled(provider_kind, sampler)
        traced_run(child())
        (span,) = spans.all()
        assert span.parent is None
        assert span.context.trace_id and span.context.span_id
        said.append((span.name, attributes(span).keys(), span.kind, span.context.trace_flags, span.links))
    assert said.count(said[0]) == len(said)
