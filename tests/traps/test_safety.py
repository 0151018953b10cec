"""T20 and T21: a failure inside tracing is logged once and never reaches the program; ours is never recorded."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from harness import ApiProvider, Spans, TracedRun, both_providers, both_ways
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Sampler

pytestmark = [both_ways, both_providers]


class Broken(LookupError):
    """What breaks inside tracing in these tests."""


def fail(*_: Any, **__: Any) -> Any:
    raise Broken("inside tracing")


class EndFails(SpanProcessor):
    on_end = fail


class StartFails(SpanProcessor):
    on_start = fail


class SamplerFails(Sampler):
    should_sample = fail

    def get_description(self) -> str:
        return "fails"


class IdsFail(IdGenerator):
    generate_span_id = fail
    generate_trace_id = fail


class ExportFails(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return fail()


class TracerFails(trace.Tracer):
    start_span = fail
    start_as_current_span = fail


class ProviderOfFailingTracers(trace.TracerProvider):
    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        return TracerFails()


class ProviderFails(trace.TracerProvider):
    get_tracer = fail


def sdk_with(processor: SpanProcessor, **kwargs: Any) -> TracerProvider:
    provider = TracerProvider(shutdown_on_exit=False, **kwargs)
    provider.add_span_processor(processor)
    return provider


BROKEN: dict[str, Callable[[], Any]] = {
    "on_end": lambda: sdk_with(EndFails()),
    "on_start": lambda: sdk_with(StartFails()),
    "sampler": lambda: sdk_with(SpanProcessor(), sampler=SamplerFails()),
    "ids": lambda: sdk_with(SpanProcessor(), id_generator=IdsFail()),
    "tracer": ProviderOfFailingTracers,
    "provider": ProviderFails,
}


async def program() -> list[Any]:
    """Tasks that end in every way, with and without a name."""

    async def child(number: int) -> int:
        await asyncio.sleep(0)
        if number == 2:
            raise ValueError("the program's own")
        return number

    waiting = asyncio.create_task(asyncio.Event().wait())
    async with asyncio.TaskGroup() as group:
        group.create_task(child(1), name="one")
    waiting.cancel()
    results = await asyncio.gather(child(1), child(2), child(3), waiting, return_exceptions=True)
    return [*results[:1], str(results[1]), results[2], type(results[3])]


@pytest.fixture
def broken(request: pytest.FixtureRequest, provider_kind: str, spans: Spans) -> Spans:
    """The provider under test, with one part that raises."""
    provider = BROKEN[request.param]()
    spans.provider = provider if provider_kind == "sdk" else ApiProvider(provider)
    return spans


@pytest.mark.parametrize("broken", BROKEN, indirect=True)
def test_a_failure_inside_tracing_does_not_reach_the_program(
    broken: Spans, run: Callable[..., Any], traced_run: TracedRun
) -> None:
    """T20."""
    assert traced_run(program()) == run(program())


@pytest.mark.parametrize("broken", BROKEN, indirect=True)
def test_a_failure_inside_tracing_is_logged_once(
    broken: Spans, traced_run: TracedRun, caplog: pytest.LogCaptureFixture
) -> None:
    """T20: by name, and with the exception. A wait that a busy machine makes long would be a second one to fail."""
    traced_run(program(), await_threshold=math.inf)
    ours = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.name for record in ours] == ["otel_asyncio"]
    assert ours[0].exc_info is not None and ours[0].exc_info[0] is Broken


@pytest.mark.parametrize("broken", BROKEN, indirect=True)
def test_a_failure_inside_tracing_loses_no_count(
    broken: Spans, run: Callable[..., Any], instrumented_process: Any, way_in: str
) -> None:
    """T20: tasks are counted all the same."""
    run(program())
    counters = instrumented_process.observation.counters
    assert counters.active == 0
    assert counters.started >= 6


@pytest.mark.parametrize("processor", [SimpleSpanProcessor, BatchSpanProcessor], ids=["simple", "batch"])
def test_a_failing_exporter_does_not_reach_the_program(
    run: Callable[..., Any], traced_run: TracedRun, spans: Spans, processor: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """T20: the SDK logs it, we have nothing to add."""
    spans.sdk.add_span_processor(processor(ExportFails()))
    assert traced_run(program()) == run(program())
    spans.sdk.force_flush()
    assert "otel_asyncio" not in {record.name for record in caplog.records}


def test_a_failing_attribute_of_the_program_does_not_reach_it(traced_run: TracedRun, spans: Spans) -> None:
    """T20: an exception whose text cannot be had is still the program's exception."""

    class Unprintable(Exception):
        def __str__(self) -> str:
            raise Broken("in __str__")

    async def main() -> bool:
        error = Unprintable()

        async def fails() -> None:
            raise error

        (caught,) = await asyncio.gather(fails(), return_exceptions=True)
        return caught is error

    assert traced_run(main())


def test_no_thread_is_started_where_nobody_is_to_watch(traced_run: TracedRun) -> None:
    """T21."""
    before = set(threading.enumerate())
    traced_run(program(), stuck_after=math.inf)
    assert set(threading.enumerate()) <= before  # one of an earlier test may have ended meanwhile


def test_only_the_programs_tasks_are_recorded(traced_run: TracedRun, spans: Spans) -> None:
    """T21: neither what the loop runs for itself when it ends, nor anything of ours."""

    async def main() -> int:
        return len(asyncio.all_tasks())

    assert traced_run(main()) == 1
    assert [name.rpartition(".")[2] for name in spans.names()] == ["main"]


def test_a_suppressed_exporter_with_tasks_of_its_own_is_not_recorded(traced_run: TracedRun, spans: Spans) -> None:
    """T21: `suppress_instrumentation()` is what exporters put around themselves."""

    async def exports() -> None:
        await asyncio.create_task(asyncio.sleep(0))

    async def main() -> None:
        with suppress_instrumentation():
            await asyncio.create_task(exports())

    traced_run(main())
    assert [name.rpartition(".")[2] for name in spans.names()] == ["main"]


def test_suppression_ends_where_it_ends(traced_run: TracedRun, spans: Spans) -> None:
    """T21."""

    async def main() -> None:
        with suppress_instrumentation():
            await asyncio.create_task(asyncio.sleep(0))
        await asyncio.create_task(asyncio.sleep(0))

    traced_run(main())
    assert len(spans.of("sleep")) == 1


def test_an_exception_handler_of_the_program_is_called_as_ever(same_as_bare: Callable[..., Any]) -> None:
    """T20: our ear at the handler changes nothing of what it is told."""

    async def main() -> list[Any]:
        told: list[Any] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(sorted(map(str, context))))
        loop.call_soon(fail)
        loop.call_exception_handler({"message": "by hand", "task": "no task", "future": 17})
        task = asyncio.create_task(program())
        await asyncio.wait([task])
        return [told, await task]

    same_as_bare(main)
