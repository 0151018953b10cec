"""What ends a loop from outside: Ctrl-C through a Runner, and `loop.stop`. Who is cancelled then, and by whom."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from harness import Spans, TracedRun, attributes, both_ways, eager_factory, needs_python, skip_where_bare_uvloop_cannot

from cancellation import ways
from cancellation.ways import line_of


def cancels(spans: Spans) -> dict[str, Any]:
    """What the cancel spans say, by the last part of the function's name."""
    found = {
        span.name.removeprefix("cancel ").rpartition(".")[2]: attributes(span)
        for span in spans.all()
        if span.name.startswith("cancel ")
    }
    assert len(found) == sum(name.startswith("cancel ") for name in spans.names())
    return found


async def interrupted() -> None:
    async def child() -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(child())
    asyncio.get_running_loop().call_later(0.01, signal.raise_signal, signal.SIGINT)
    await task  # at


async def goes_on_after_a_failed_group() -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise LookupError

    async def victim() -> None:
        with contextlib.suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
        waiting.set()
        await asyncio.Event().wait()

    waiting = asyncio.Event()
    task = asyncio.create_task(victim())
    await waiting.wait()
    await ways.turn()
    task.cancel()
    await asyncio.wait([task])


def test_a_group_that_failed_long_ago_is_not_what_ended_its_task(
    run: Any, instrumented_process: Any, spans: Spans
) -> None:
    """Before 3.13 a group that waits for its tasks asks the task it waits in, and takes nothing back."""
    run(goes_on_after_a_failed_group())
    counted = instrumented_process.observation.counters.cancellations
    assert +counted == {("task_group", "converted", False): 1, ("explicit", "delivered", True): 1}
    (said,) = cancels(spans).values()
    assert (said["asyncio.cancel.origin"], said["asyncio.cancel.requests"]) == ("explicit", 1)


async def stopped() -> None:
    task = asyncio.create_task(ways.victim())
    loop = asyncio.get_running_loop()
    loop.call_later(60, task.done)  # held until then
    loop.call_soon(loop.stop)
    await asyncio.Event().wait()


@both_ways
def test_ctrl_c_is_a_signal_and_reaches_what_main_awaits(traced_run: TracedRun, spans: Spans) -> None:
    with pytest.raises(KeyboardInterrupt):
        traced_run(interrupted())
    found = cancels(spans)
    assert set(found) == {"interrupted", "child"}
    for name, said in found.items():
        assert (said["asyncio.cancel.origin"], said["asyncio.cancel.expected"]) == ("signal", True), name
        assert said["asyncio.cancel.outcome"] == "delivered"
    assert found["child"]["asyncio.cancel.via"] == "awaiter"
    assert found["interrupted"]["asyncio.cancel.at.line"] == line_of("at", interrupted)
    assert not [span for span in spans.all() if attributes(span).get("asyncio.problem")]


def test_ctrl_c_does_the_same_as_without(run: Any, traced_run: TracedRun) -> None:
    for way in (run, traced_run):
        with pytest.raises(KeyboardInterrupt) as caught:
            way(interrupted())
        assert caught.value.args == ()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


PROGRAM = """
import asyncio, sys
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from otel_asyncio import AsyncioInstrumentor

class Printer(SpanExporter):
    def export(self, spans):
        for span in spans:
            if span.name.startswith("cancel "):
                said = span.attributes
                print(span.name, said["asyncio.cancel.origin"], said["asyncio.cancel.at.line"], flush=True)
        return SpanExportResult.SUCCESS

async def main():
    asyncio.get_running_loop().call_soon(print, "ready")  # main is suspended by then
    await asyncio.sleep(60)

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(Printer()))
AsyncioInstrumentor().instrument(tracer_provider=provider)
if sys.argv[1] == "uvloop":
    import uvloop
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
else:
    asyncio.run(main())
"""


def test_a_process_that_gets_sigint_tells_it_before_it_ends(loop_kind: str) -> None:
    command = [sys.executable, "-u", "-c", PROGRAM, loop_kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        said, complained = process.communicate(timeout=60)
    assert said == f"cancel main signal {PROGRAM.splitlines().index('    await asyncio.sleep(60)') + 1}\n"
    assert process.returncode == -signal.SIGINT
    assert complained.rstrip().endswith("KeyboardInterrupt")


@both_ways
def test_a_loop_that_is_stopped_cancels_nobody_until_it_ends(traced_run: TracedRun, spans: Spans) -> None:
    with pytest.raises(RuntimeError, match="stopped before Future completed"):
        traced_run(stopped())
    for said in cancels(spans).values():
        assert (said["asyncio.cancel.origin"], said["asyncio.cancel.outcome"]) == ("shutdown", "delivered")
        assert "asyncio.cancel.by.line" not in said
    assert {"stopped", "victim"} == set(cancels(spans))


async def stops_and_yields() -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    await asyncio.sleep(0)


async def cancels_itself_and_yields() -> None:
    asyncio.current_task().cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(0)


async def busy_loop(victim: Any) -> None:
    task = asyncio.create_task(victim())
    await asyncio.sleep(0)
    if victim is stops_and_yields:
        task.cancel()
        await asyncio.sleep(0)
    time.sleep(0.2)  # noqa: ASYNC251 - twice what a task may wait on
    await task


both_victims = pytest.mark.parametrize("victim", [stops_and_yields, cancels_itself_and_yields])


@both_victims
@both_ways
def test_whoever_waits_for_a_busy_loop_has_suppressed_nothing(traced_run: TracedRun, spans: Spans, victim: Any) -> None:
    traced_run(busy_loop(victim))
    assert cancels(spans)[victim.__name__]["asyncio.cancel.outcome"] == "handled"


@both_victims
@pytest.mark.settings(root_tasks="none")
def test_a_counted_task_that_waits_for_a_busy_loop_has_suppressed_nothing(
    run: Any, instrumented_process: Any, victim: Any
) -> None:
    run(busy_loop(victim))
    assert {fate for _, fate, _ in +instrumented_process.observation.counters.cancellations} == {"handled"}


@needs_python(3, 12)
@both_ways
def test_an_eager_task_that_cancels_itself_in_its_first_step(
    traced_run: TracedRun, spans: Spans, loop_kind: str
) -> None:
    skip_where_bare_uvloop_cannot(loop_kind)

    async def eager() -> None:
        asyncio.current_task().cancel()  # by
        await asyncio.Event().wait()

    async def main() -> Any:
        return await ways.ended(asyncio.create_task(eager()))

    assert traced_run(main(), inner=eager_factory()) == ("cancelled", 1)
    said = cancels(spans)["eager"]
    assert (said["asyncio.cancel.origin"], said["asyncio.cancel.outcome"]) == ("explicit", "delivered")
    assert said["asyncio.cancel.by.line"] == line_of("by", eager)
