"""A service whose spans go into a pipe that may be anything: what it feels of that, as JSON.

`python pressed.py`: requests alternate between a pipe that drops everything at once (`calm`) and the one that the standard
variables name (`pressed`), both through the SDK's batch processor, so that their latencies are of one run.
"""

from __future__ import annotations

import asyncio
import json
import resource
import statistics
import time
from collections import Counter
from typing import Any

from faulty import exporters
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

import otel_asyncio

ROUNDS = 300
WARM_UP = 20
TASKS = 20
PAUSE = 0.002
tracer = trace.get_tracer("pressed")


class Drop(SpanExporter):
    """Takes everything and keeps nothing."""

    def export(self, spans: Any) -> SpanExportResult:
        return SpanExportResult.SUCCESS


class Switch(SpanProcessor):
    """Hands spans to the processor of the round."""

    def __init__(self, pipes: dict[str, SpanProcessor]) -> None:
        self.pipes, self.current = pipes, "calm"

    def on_end(self, span: ReadableSpan) -> None:
        self.pipes[self.current].on_end(span)

    def shutdown(self) -> None:
        for pipe in self.pipes.values():
            pipe.shutdown()


async def step() -> None:
    await asyncio.sleep(0)


async def request() -> float:
    """One request, and how long it took."""
    began = time.perf_counter()
    with tracer.start_as_current_span("GET /item", kind=trace.SpanKind.SERVER):
        await asyncio.gather(*(step() for _ in range(TASKS)))
    return time.perf_counter() - began


async def serve(switch: Switch) -> dict[str, list[float]]:
    """Each round one request into each pipe; the tasks' spans have ended when it has.

    They take turns at being the first: a crowded machine lets whoever wakes up run, and then somebody else.
    """
    latencies: dict[str, list[float]] = {"calm": [], "pressed": []}
    for number in range(ROUNDS):
        for name in ("calm", "pressed") if number % 2 else ("pressed", "calm"):
            switch.current = name
            took = await request()
            if number >= WARM_UP:
                latencies[name].append(took)
        await asyncio.sleep(PAUSE)
    return latencies


def fates(reader: InMemoryMetricReader) -> Counter[str]:
    """What became of spans, by the SDK's own counters, of all processors: `queue_full`, or nothing for handed over."""
    found: Counter[str] = Counter()
    data = reader.get_metrics_data()
    for resource_metrics in data.resource_metrics if data else ():
        for scope in resource_metrics.scope_metrics:
            for metric in scope.metrics:
                if metric.name == "otel.sdk.processor.span.processed":
                    for point in metric.data.data_points:
                        found[str(point.attributes.get("error.type", "handed_over"))] += int(point.value)
    return found


def main() -> None:
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader]))
    switch = Switch({"calm": BatchSpanProcessor(Drop()), "pressed": BatchSpanProcessor(exporters()[0])})
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(switch)
    trace.set_tracer_provider(provider)
    otel_asyncio.AsyncioInstrumentor().instrument()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    latencies = asyncio.run(serve(switch))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    became = fates(reader)
    began = time.monotonic()
    switch.pipes["pressed"].shutdown()
    exit_time = time.monotonic() - began
    print(
        json.dumps(
            {
                "median": {name: statistics.median(values) for name, values in latencies.items()},
                "longest": {name: max(values) for name, values in latencies.items()},
                "grown_kib": grown,
                "exit": exit_time,
                **became,
            }
        )
    )


if __name__ == "__main__":
    main()
