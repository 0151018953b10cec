"""How the bare loop, this project and the SDK's own spans are put around the same tasks.

Imports of what is measured stand inside the classes: each environment holds only its own.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from workloads import Body, Workload, parked, parked_in

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExportResult


class Unusable(Exception):
    """The variant cannot be measured in this combination; the text becomes the footnote."""


class Subject:
    """The bare loop, and the seams at which the other variants differ from it.

    One instance lives for the process; `installed` and `surrounding` are entered for each round, off the
    clock.
    """

    spans_per_task = 1

    def installed(self, loop: asyncio.AbstractEventLoop) -> AbstractContextManager[object]:
        """Install before the loop runs; leaving takes all back, so that the next bare round is bare."""
        return nullcontext()

    def surrounding(self) -> AbstractContextManager[object]:
        """What is open, in the task that creates the measured ones, while they are created and run."""
        return nullcontext()

    def timed(self, workload: Workload) -> Body:
        """The coroutine function whose tasks are timed."""
        return workload.body()

    def parked(self, gate: asyncio.Future[None]) -> Body:
        """The coroutine function whose live tasks are weighed."""
        return parked(gate)

    def sees(self, task: asyncio.Task[Any], coro: Coroutine[Any, Any, Any]) -> bool:
        """Whether it noticed this task. One that installs silently and sees nothing would look cheap."""
        return True

    def spans(self) -> int | None:
        """Spans exported so far, where it makes any: the proof that the work was done."""
        return None

    def fault(self, tasks: int) -> str | None:
        """Why the numbers of these tasks do not count: what did not do its work looks cheap."""
        spans = self.spans()
        if spans is None or round(spans / tasks, 2) == self.spans_per_task:
            return None
        return f"exported {spans / tasks:.2f} spans a task instead of {self.spans_per_task}"

    def close(self) -> None:
        """Stop threads before the process ends."""


class _Count:
    """An exporter to nowhere that counts."""

    def __init__(self) -> None:
        self.spans = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        from opentelemetry.sdk.trace.export import SpanExportResult

        self.spans += len(spans)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Nothing is held."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is waiting."""
        return True


class Exporting(Subject):
    """Spans of the SDK through a batch processor, as in production, to a null exporter."""

    sampled = True

    def __init__(self) -> None:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import DEFAULT_OFF, DEFAULT_ON

        self.count = _Count()
        self.provider: TracerProvider = TracerProvider(sampler=DEFAULT_ON if self.sampled else DEFAULT_OFF)
        self.provider.add_span_processor(BatchSpanProcessor(self.count))  # type: ignore[arg-type]
        self.tracer = self.provider.get_tracer("benchmarks")

    @contextmanager
    def surrounding(self) -> Iterator[None]:
        with self.tracer.start_as_current_span("request"):
            yield
        self.provider.force_flush()

    def spans(self) -> int | None:
        return self.count.spans

    def close(self) -> None:
        self.provider.shutdown()


class ByHand(Exporting):
    """A span that the user wrote into the coroutine."""

    def timed(self, workload: Workload) -> Body:
        return workload.body_in(partial(self.tracer.start_as_current_span, "task"))

    def parked(self, gate: asyncio.Future[None]) -> Body:
        return parked_in(gate, partial(self.tracer.start_as_current_span, "task"))


class Recorded(Exporting):
    """This project, every task recorded below an open span."""

    def __init__(self) -> None:
        super().__init__()
        self.complaints: list[str] = []
        logging.getLogger("otel_asyncio").addFilter(self._listen)
        self.instrumentor = importlib.import_module("otel_asyncio").AsyncioInstrumentor()

    @contextmanager
    def installed(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        self.instrumentor.instrument(tracer_provider=self.provider)
        try:
            yield
        finally:
            self.instrumentor.uninstrument()

    def sees(self, task: asyncio.Task[Any], coro: Coroutine[Any, Any, Any]) -> bool:
        return type(task) is not asyncio.Task

    def fault(self, tasks: int) -> str | None:
        """A failure inside the package switches the observer off, and everything after it is cheaper."""
        return self.complaints[0] if self.complaints else super().fault(tasks)

    def _listen(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR:
            cause = record.exc_info and record.exc_info[1]
            self.complaints.append(f"{record.getMessage()} ({cause!r})" if cause else record.getMessage())
        return False


class Unsampled(Recorded):
    """This project below a span that the sampler turned down: what a service sampled at 1 % mostly pays."""

    sampled = False
    spans_per_task = 0


class _Metered(Recorded):
    """Its metrics collected, once a second, by a reader that throws them away."""

    def __init__(self) -> None:
        super().__init__()
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader

        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider(metric_readers=[self.reader])
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self._collect, daemon=True)
        self.thread.start()

    def _collect(self) -> None:
        while not self.ending.wait(1):
            self.reader.get_metrics_data()

    @contextmanager
    def installed(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        self.instrumentor.instrument(tracer_provider=self.provider, meter_provider=self.meters)
        try:
            yield
        finally:
            self.instrumentor.uninstrument()

    def close(self) -> None:
        self.ending.set()
        self.thread.join()
        super().close()


class UnsampledMetered(_Metered, Unsampled):
    """As `Unsampled`, with metrics."""


class RecordedMetered(_Metered):
    """As `Recorded`, with metrics."""


class _UnderLoad(_Metered):
    """In a loop that has made many tasks since its metrics were collected, so that few more are looked at."""

    MANY = 50_000

    @contextmanager
    def surrounding(self) -> Iterator[None]:
        from otel_asyncio.observe.glimpses import glimpse

        state: Any = asyncio.get_running_loop()._otel_asyncio  # type: ignore[attr-defined]
        coro = asyncio.sleep(0)
        seen = glimpse(state, coro)
        coro.close()
        for _ in range(self.MANY):
            state.shard.delays.offer((0, seen))
            seen.end("success", seen.created)
        with super().surrounding():
            yield


class UnsampledUnderLoad(_UnderLoad, UnsampledMetered):
    """As `UnsampledMetered`, there."""


class RecordedUnderLoad(_UnderLoad, RecordedMetered):
    """As `RecordedMetered`, there."""


class Roots(Recorded):
    """This project with no span open: every task is a root task and recorded."""

    @contextmanager
    def surrounding(self) -> Iterator[None]:
        self.provider.force_flush()  # what ended last: a span that waits leads to its loop, of the run before
        yield
        self.provider.force_flush()


class Debug(Subject):
    """asyncio's own debug mode."""

    @contextmanager
    def installed(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        loop.set_debug(True)
        yield
