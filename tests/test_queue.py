"""The SDK's batch processor is handed spans of tasks as it would be by itself: it wakes up, drops and stops as ever."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from harness import NewLoop, Spans, instrumented, run_on
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

NEVER = 3_600_000  # milliseconds


class Collecting(SpanExporter):
    def __init__(self) -> None:
        self.seen: list[ReadableSpan] = []
        self.enough = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.seen.extend(spans)
        self.enough.set()
        return SpanExportResult.SUCCESS


async def leaf() -> None:
    await asyncio.sleep(0)


async def many(spans: Spans, count: int) -> None:
    with spans.tracer.start_as_current_span("request"):
        for _ in range(count):
            await asyncio.create_task(leaf())


def processor_of(exporter: SpanExporter, *, queue: int, batch: int) -> BatchSpanProcessor:
    return BatchSpanProcessor(exporter, max_queue_size=queue, max_export_batch_size=batch, schedule_delay_millis=NEVER)


def test_a_full_batch_leaves_at_once(new_loop: NewLoop, spans: Spans) -> None:
    exporter = Collecting()
    spans.sdk.add_span_processor(processor_of(exporter, queue=64, batch=4))
    with instrumented(spans):
        run_on(new_loop, many(spans, 4))
    assert exporter.enough.wait(30)
    spans.sdk.shutdown()
    assert sorted(span.name for span in exporter.seen) == sorted(spans.names())


def test_less_than_a_batch_waits(new_loop: NewLoop, spans: Spans) -> None:
    exporter = Collecting()
    spans.sdk.add_span_processor(processor_of(exporter, queue=64, batch=64))
    with instrumented(spans):
        run_on(new_loop, many(spans, 4))
    assert exporter.seen == []
    assert spans.sdk.force_flush()
    assert len(exporter.seen) == len(spans.all())
    spans.sdk.shutdown()


def test_what_does_not_fit_is_dropped_and_counted(
    new_loop: NewLoop, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = Collecting()
    dropped: list[int] = []
    processor: Any = processor_of(exporter, queue=4, batch=4)
    monkeypatch.setattr(processor._batch_processor._metrics, "drop_items", lambda count, *_: dropped.append(count))
    spans.sdk.add_span_processor(processor)
    with processor._batch_processor._export_lock, instrumented(spans):  # nobody takes anything out
        run_on(new_loop, many(spans, 10))
        assert len(processor._batch_processor._queue) == 4
    assert sum(dropped) == len(spans.all()) - 4
    spans.sdk.shutdown()


def test_after_the_shutdown_nothing_is_queued(new_loop: NewLoop, spans: Spans) -> None:
    exporter = Collecting()
    processor: Any = processor_of(exporter, queue=64, batch=64)
    spans.sdk.add_span_processor(processor)
    with instrumented(spans):
        run_on(new_loop, many(spans, 1))
        processor.shutdown()
        seen = len(exporter.seen)
        run_on(new_loop, many(spans, 3))
    assert len(processor._batch_processor._queue) == 0
    assert len(exporter.seen) == seen


def test_an_emit_that_somebody_has_put_there_is_called(new_loop: NewLoop, spans: Spans) -> None:
    exporter = Collecting()
    processor: Any = processor_of(exporter, queue=64, batch=64)
    emitted: list[Any] = []
    processor._batch_processor.emit = emitted.append
    spans.sdk.add_span_processor(processor)
    with instrumented(spans):
        run_on(new_loop, many(spans, 2))
    assert [span.name for span in emitted] == spans.names()
    spans.sdk.shutdown()
