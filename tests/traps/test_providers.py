"""T27: the provider comes late, loops come and go, and nothing runs at all."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from harness import ApiProvider, NewLoop, Spans, instrumented, run_on
from opentelemetry.trace import NoOpTracerProvider

import otel_asyncio

PRELUDE = """
import asyncio, sys, threading
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from otel_asyncio import AsyncioInstrumentor, task_factory
exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
def show():
    print(sorted(span.name for span in exporter.get_finished_spans()))
async def early(): await asyncio.sleep(0)
async def late(): await asyncio.sleep(0)
def new_loop():
    if sys.argv[1] == "asyncio":
        return asyncio.new_event_loop()
    import uvloop
    return uvloop.new_event_loop()
def run(coro):
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(coro)
"""


def output_of(program: str, loop_kind: str, *options: str, **environ: str) -> str:
    """What a program prints in a process of its own; nothing may be written to stderr."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", *options, "-c", PRELUDE + program, loop_kind],
        env=clean | environ, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.strip()


def test_a_provider_set_after_instrumenting_is_used(loop_kind: str) -> None:
    """T27: the global one, through the proxy."""
    program = """
AsyncioInstrumentor().instrument()
run(early())
trace.set_tracer_provider(provider)
run(late())
show()
"""
    assert output_of(program, loop_kind) == "['task late']"


def test_a_provider_set_inside_the_running_loop_is_used(loop_kind: str) -> None:
    """T27: as a service's startup hook does."""
    program = """
async def main():
    asyncio.get_running_loop().set_task_factory(task_factory())
    await asyncio.create_task(early())
    trace.set_tracer_provider(provider)
    await asyncio.create_task(late())
run(main())
show()
"""
    assert output_of(program, loop_kind) == "['task late']"


def test_uvloop_imported_after_instrumenting_is_traced(loop_kind: str) -> None:
    """T27: the loop module may come later than we do."""
    program = """
AsyncioInstrumentor().instrument(tracer_provider=provider)
assert "uvloop" not in sys.modules
run(late())
show()
AsyncioInstrumentor().uninstrument()
run(early())
show()
"""
    assert output_of(program, loop_kind).splitlines() == ["['task late']"] * 2


def test_asyncio_run_can_be_repeated(loop_kind: str) -> None:
    """T27."""
    program = """
AsyncioInstrumentor().instrument(tracer_provider=provider)
for _ in range(3):
    run(late())
show()
"""
    assert output_of(program, loop_kind) == "['task late', 'task late', 'task late']"


def test_the_first_task_stays_task_1(loop_kind: str) -> None:
    """T1: no number is used up by looking for the type of a step."""
    program = """
AsyncioInstrumentor().instrument(tracer_provider=provider)
async def name(): return asyncio.current_task().get_name()
print(run(name()))
"""
    assert output_of(program, loop_kind) == "Task-1"


@pytest.mark.parametrize("environ", [{}, {"PYTHONASYNCIODEBUG": "1"}, {"PYTHONDEVMODE": "1"}], ids=str)
def test_a_traced_program_says_nothing_a_bare_one_does_not(loop_kind: str, environ: dict[str, str]) -> None:
    """T30: with every warning an error, in debug mode and in development mode."""
    program = """
AsyncioInstrumentor().instrument(tracer_provider=provider)
async def main():
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(late())
    task = asyncio.create_task(early())
    task.cancel()
    await asyncio.wait([task])
run(main())
show()
"""
    expected = "['cancel early', 'task early', 'task late', 'task late', 'task late', 'task main']"
    assert output_of(program, loop_kind, **environ) == expected


def test_a_process_without_a_loop_gets_no_thread_and_no_output(loop_kind: str) -> None:
    """T27: instrumenting costs nothing where nothing runs."""
    program = """
AsyncioInstrumentor().instrument(tracer_provider=provider)
print(threading.active_count())
show()
"""
    assert output_of(program, loop_kind).splitlines() == ["1", "[]"]


def test_otel_sdk_disabled_is_honoured(loop_kind: str) -> None:
    """T27: no spans, and the program runs."""
    program = """
disabled = TracerProvider()
disabled.add_span_processor(SimpleSpanProcessor(exporter))
AsyncioInstrumentor().instrument(tracer_provider=disabled)
run(late())
show()
"""
    assert output_of(program, loop_kind, OTEL_SDK_DISABLED="true") == "[]"


def test_a_no_op_provider_is_let_be(new_loop: NewLoop, run: Callable[..., Any]) -> None:
    """T27: nothing is recorded, nothing is logged."""
    spans = Spans()
    spans.provider = NoOpTracerProvider()
    with instrumented(spans):
        assert run(asyncio.sleep(0, "done")) == "done"


@pytest.mark.parametrize("kind", ["sdk", "api"])
def test_each_loop_may_have_a_provider_of_its_own(new_loop: NewLoop, kind: str) -> None:
    """T27: by its factory."""
    providers = [Spans(kind), Spans(kind)]
    for spans in providers:

        def make(spans: Spans = spans) -> asyncio.AbstractEventLoop:
            loop = new_loop()
            loop.set_task_factory(otel_asyncio.task_factory(tracer_provider=spans.provider))
            return loop

        run_on(make, asyncio.sleep(0))
    assert [spans.names() for spans in providers] == [["task sleep"]] * 2
    assert isinstance(providers[0].provider, ApiProvider) == (kind == "api")
