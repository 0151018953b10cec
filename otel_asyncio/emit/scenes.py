"""Where the hooks are rehearsed: spans as a service has them, which nobody exports or counts."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

from otel_asyncio.emit.problems import ProblemReporter, Rate
from otel_asyncio.emit.sink import SpanSink
from otel_asyncio.emit.tracing import Tracing
from otel_asyncio.observe.clock import SYSTEM_CLOCK
from otel_asyncio.observe.counters import Counters
from otel_asyncio.observe.rehearsal import Scene

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_asyncio.policy import Policy


# The SDK counts spans where it is asked to, since 1.45: these are not to be among them.
_UNCOUNTED = {"meter_provider": NoOpMeterProvider()}
_TAKES_METERS = "meter_provider" in inspect.signature(TracerProvider).parameters


def scenes(policy: Policy) -> list[Scene]:
    """Recorded tasks, those of which there is a glimpse, and those that are only counted."""
    kinds = ((True, True), (False, True), (False, False))
    return [_scene(policy, sampled=sampled, metered=metered) for sampled, metered in kinds]


def _scene(policy: Policy, *, sampled: bool, metered: bool) -> Scene:
    """Tasks inside a span that the sampler took, or turned down."""
    quiet: dict[str, Any] = _UNCOUNTED if _TAKES_METERS else {}
    sampler = ALWAYS_ON if sampled else ALWAYS_OFF
    provider = TracerProvider(sampler, Resource.get_empty(), shutdown_on_exit=False, **quiet)
    counters = Counters()
    tracing = Tracing(provider, clock=SYSTEM_CLOCK, request_split=False, request_links=False)
    tracer = provider.get_tracer("otel_asyncio rehearsal")

    def inside_a_span(function: Callable[[], int]) -> int:
        with tracer.start_as_current_span("rehearsal"):
            return function()

    problems = ProblemReporter(tracing, counters, Rate(0, SYSTEM_CLOCK.monotonic_ns), log=False)
    return Scene(SpanSink(tracing, policy, problems, counters), inside_a_span, metered)
