"""The shipped helpers: a loop on virtual time, a recorder, a trace as text."""

from __future__ import annotations

import asyncio
import math
import threading
import time

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Link

from otel_asyncio import AsyncioInstrumentor, Settings
from otel_asyncio.testing import AutojumpLoop, record, render


def test_hours_pass_in_milliseconds() -> None:
    loop, before = AutojumpLoop(), time.perf_counter()
    loop.run_until_complete(asyncio.sleep(24 * 3600.5))
    assert loop.time() == 24 * 3600.5
    assert time.perf_counter() - before < 5
    loop.close()


def test_timers_fire_in_their_order_at_their_times() -> None:
    loop, fired = AutojumpLoop(), []
    for delay in (0.3, 0.1, 0.2, 0.1):
        loop.call_later(delay, lambda: fired.append(loop.time()))
    loop.call_later(0.4, loop.stop)
    loop.run_forever()
    assert fired == [0.1, 0.1, 0.2, 0.3]
    loop.close()


def test_time_passes_only_by_spinning_or_waiting() -> None:
    loop, clock = AutojumpLoop(), None
    clock = loop.clock
    start = clock.monotonic_ns()

    async def main() -> None:
        for _ in range(100):
            await asyncio.sleep(0)
        assert loop.time() == 0
        loop.spin(0.1)
        loop.spin(0.2)

    loop.run_until_complete(main())
    assert clock.monotonic_ns() - start == clock.wall_ns() - start == 300_000_000
    loop.close()


def test_time_cannot_be_spun_backwards() -> None:
    loop = AutojumpLoop()
    with pytest.raises(ValueError, match="backwards"):
        loop.spin(-1)
    loop.close()


def test_a_program_that_would_hang_raises_instead() -> None:
    loop = AutojumpLoop()
    with pytest.raises(RuntimeError, match="would hang"):
        loop.run_until_complete(loop.create_future())
    loop.close()


def test_a_thread_that_is_at_work_is_waited_for() -> None:
    loop = AutojumpLoop()
    future = loop.create_future()
    threading.Timer(0.05, lambda: loop.call_soon_threadsafe(future.set_result, "from the thread")).start()
    assert loop.run_until_complete(future) == "from the thread"
    loop.close()


def a_trace(*, factory: bool = False) -> str:
    """Two children, one of which fails."""
    loop = AutojumpLoop()

    async def fetch(seconds: float) -> None:
        loop.spin(0.25)
        await asyncio.sleep(seconds)
        if seconds == 2:
            raise ValueError

    async def main() -> None:
        await asyncio.gather(fetch(1), fetch(2), return_exceptions=True)

    with record(clock=loop.clock, process_wide=not factory) as recorder:
        if factory:
            loop.set_task_factory(recorder.task_factory())
        loop.run_until_complete(main())
        loop.close()
    return recorder.render().replace("a_trace.<locals>.", "")


@pytest.mark.parametrize("factory", [False, True])
def test_a_trace_reads_as_one_line_for_each_span(factory: bool) -> None:
    assert a_trace(factory=factory) == (
        "task main 0–2.5 success busy=0 scheduled=0 idle=2.5\n"
        "  task fetch 0–1.25 success busy=0.25 scheduled=0 idle=1\n"
        "    block fetch 0–0.25 ✗ loop_blocked\n"
        "    await asyncio.sleep 0.25–1.25\n"
        "  task fetch 0–2.5 error (ValueError) busy=0.25 scheduled=0.25 idle=2\n"
        "    block fetch 0.25–0.5 ✗ loop_blocked\n"
        "    await asyncio.sleep 0.5–2.5\n"
        "  await gather 0–2.5 → awaited: task fetch → awaited: task fetch"
    )


def test_two_runs_of_one_program_read_the_same() -> None:
    assert a_trace() == a_trace()


def test_spans_of_the_program_stand_on_the_same_clock() -> None:
    loop = AutojumpLoop()

    async def work() -> None:
        await asyncio.sleep(1)

    async def main() -> None:
        await asyncio.sleep(1)
        with recorder.tracer_provider.get_tracer("test").start_as_current_span("user"):
            await asyncio.create_task(work())

    with record(clock=loop.clock, settings=Settings(request_split=False, await_threshold=math.inf)) as recorder:
        loop.run_until_complete(main())
        loop.close()
    lines = recorder.render().replace("test_spans_of_the_program_stand_on_the_same_clock.<locals>.", "").split("\n")
    assert [line.split(" busy")[0] for line in lines if "user" in line or "work" in line] == [
        "user 1–2 → task: task main",
        "  task work 1–2 success",
    ]


def test_any_spans_of_the_sdk_can_be_rendered_with_links_and_without_ids() -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    first = tracer.start_span("first", start_time=10**9)
    second = tracer.start_span("second", start_time=2 * 10**9, links=[Link(first.get_span_context())])
    first.end(3 * 10**9)
    assert render([second, first]) == "first 0–2\nsecond 1–… → link: first"  # type: ignore[list-item]
    assert render([second]) == "second 0–… → link: elsewhere"  # type: ignore[list-item]
    assert render([]) == ""


def test_times_are_rounded_to_the_digits_asked_for() -> None:
    span = TracerProvider(shutdown_on_exit=False).get_tracer("test").start_span("span", start_time=0)
    span.end(1_234_567_891)
    assert render([span], digits=2) == "span 0–1.23"  # type: ignore[list-item]
    assert render([span], digits=0) == "span 0–1"  # type: ignore[list-item]


def test_recording_leaves_asyncio_as_it_was() -> None:
    before = asyncio.BaseEventLoop.call_soon, asyncio.BaseEventLoop.create_task
    with record() as recorder:
        assert before != (asyncio.BaseEventLoop.call_soon, asyncio.BaseEventLoop.create_task)
        asyncio.run(asyncio.sleep(0))
        assert len(recorder.spans) == 1
        recorder.clear()
        assert recorder.spans == ()
    assert before == (asyncio.BaseEventLoop.call_soon, asyncio.BaseEventLoop.create_task)


def test_recording_in_an_instrumented_process_is_refused() -> None:
    with record():
        with pytest.raises(RuntimeError, match="instrumented already"), record():
            pass
        assert AsyncioInstrumentor().is_instrumented_by_opentelemetry


def test_a_recorder_does_not_listen_to_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_PYTHON_ASYNCIO_ROOT_TASKS", "none")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    assert a_trace().startswith("task main")
