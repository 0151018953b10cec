"""What stands on the span of a blocked loop, and in the log: parent, victims, garbage collection, virtual time."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import NewLoop, Spans, attributes, instrumented, links, parent_id, run_on, span_id
from opentelemetry.sdk.trace import ReadableSpan, sampling

from otel_asyncio import Settings
from otel_asyncio.testing import AutojumpLoop, record

LOGGER = "otel_asyncio.problem"
THRESHOLD = 0.15
LONG = 0.5


@pytest.fixture
def blocked(new_loop: NewLoop, spans: Spans) -> Callable[..., list[ReadableSpan]]:
    """Runs a program and returns the spans of the loops that were blocked meanwhile."""

    def run(main: Callable[[], Any], **settings: Any) -> list[ReadableSpan]:
        with instrumented(spans, **{"block_threshold": THRESHOLD} | settings):
            run_on(new_loop, main())
        return [span for span in spans.all() if span.name.startswith("block ")]

    return run


def hold() -> None:
    time.sleep(LONG)


async def holder() -> None:
    hold()


def test_it_stands_under_the_task_that_blocked(blocked: Any, spans: Spans) -> None:
    async def main() -> None:
        await asyncio.create_task(holder())

    (span,) = blocked(main)
    assert span.name == "block hold"
    assert parent_id(span) == span_id(spans.task("holder"))
    assert attributes(span)["asyncio.problem"] == "loop_blocked"


def test_it_stands_under_the_innermost_span_open_when_the_step_began(blocked: Any, spans: Spans) -> None:
    """Not under one that was opened in the same step."""

    async def main() -> None:
        with spans.tracer.start_as_current_span("outer"):
            await asyncio.sleep(0)
            with spans.tracer.start_as_current_span("inner"):
                hold()
                await asyncio.sleep(0)

    (span,) = blocked(main)
    assert parent_id(span) == span_id(spans.named("outer"))


def test_the_block_of_a_plain_callback_is_a_root(blocked: Any) -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(hold)
        await asyncio.sleep(0.05)

    (span,) = blocked(main)
    assert span.parent is None


def test_a_block_has_the_stack_and_how_it_was_seen(blocked: Any) -> None:
    async def main() -> None:
        await holder()

    seen = attributes(blocked(main)[0])
    lines = seen["code.stacktrace"].splitlines()
    assert [line.rpartition(" in ")[2].rpartition(".")[2] for line in lines] == ["main", "holder", "hold"]
    assert seen["asyncio.block.samples"] >= 2
    assert seen["code.function.name"] == f"{__name__}.hold"


def test_the_log_names_the_line_while_the_sampler_says_no(new_loop: NewLoop, caplog: pytest.LogCaptureFixture) -> None:
    spans = Spans(sampler=sampling.ALWAYS_OFF)

    async def main() -> None:
        with spans.tracer.start_as_current_span("request"):
            await asyncio.create_task(holder())
            await asyncio.sleep(0.05)

    with instrumented(spans, block_threshold=THRESHOLD) as instrumentor:
        run_on(new_loop, main())
    assert instrumentor.observation is None
    (line,) = [line for line in caplog.records if line.name == LOGGER]
    assert line.levelno == logging.WARNING
    assert all(part in line.getMessage() for part in ("loop_blocked", "hold", f"{__file__}:"))
    assert spans.all() == []


def test_every_block_of_a_task_that_the_sampler_turned_down_is_told(
    new_loop: NewLoop, caplog: pytest.LogCaptureFixture
) -> None:
    spans = Spans(sampler=sampling.ALWAYS_OFF)

    async def main() -> None:
        for _ in range(2):
            hold()
            await asyncio.sleep(0.05)

    with instrumented(spans, block_threshold=THRESHOLD):
        run_on(new_loop, main())
    assert [line.name for line in caplog.records] == [LOGGER, LOGGER]  # and no failure of an observer
    assert spans.all() == []


def test_blocks_are_counted_whatever_is_said(new_loop: NewLoop, spans: Spans) -> None:
    async def main() -> None:
        for _ in range(3):
            await asyncio.sleep(0)
            hold()

    with instrumented(spans, block_threshold=THRESHOLD, problem_rate=0) as instrumentor:
        run_on(new_loop, main())
        counters = instrumentor.observation.counters
    assert (counters.problems["loop_blocked"], counters.dropped["problem"]) == (3, 3)
    assert not [span for span in spans.all() if span.name.startswith("block ")]


def test_the_tasks_that_waited_are_its_victims(blocked: Any, spans: Spans) -> None:
    """Counted all; linked to where they are of another trace."""

    async def request(name: str, function: Callable[[], Any]) -> None:
        with spans.tracer.start_as_current_span(name):
            await asyncio.create_task(function())

    async def victim() -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(request("guilty", holder), *(request("other", victim) for _ in range(20)))

    (span,) = blocked(main)
    assert attributes(span)["asyncio.block.victims"] == 20
    linked = [link for link in span.links if (link.attributes or {}).get("asyncio.link.type") == "victim"]
    assert len(linked) == 8
    assert {link.context.span_id for link in linked} <= {span_id(each) for each in spans.of("victim")}


def test_a_tasks_own_trace_is_not_linked_to(blocked: Any, spans: Spans) -> None:
    async def main() -> None:
        with spans.tracer.start_as_current_span("request"):
            await asyncio.gather(holder(), asyncio.sleep(0), asyncio.sleep(0))

    (span,) = blocked(main)
    assert (attributes(span)["asyncio.block.victims"], links(span)) == (2, {})


def test_a_pause_of_the_collector_is_told_as_one(blocked: Any, caplog: pytest.LogCaptureFixture) -> None:
    def slow(phase: str, _: Any) -> None:
        if phase == "stop":
            time.sleep(LONG)  # stands for a heap that takes as long

    async def main() -> None:
        await asyncio.sleep(0)
        gc.callbacks.insert(0, slow)
        try:
            gc.collect()
        finally:
            gc.callbacks.remove(slow)

    (span,) = blocked(main)
    assert span.name == "block gc.collect"
    assert attributes(span)["asyncio.block.gc_time"] >= LONG * 0.9
    assert "garbage collection" in caplog.text


def test_a_block_without_an_end_is_told_while_it_lasts(new_loop: NewLoop, spans: Spans) -> None:
    """As the result of `run_coroutine_threadsafe` waited for in the loop's own thread: nobody will ever bring it."""
    told = threading.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.set()

    async def main() -> str:
        future = asyncio.run_coroutine_threadsafe(asyncio.sleep(0), asyncio.get_running_loop())
        threading.Thread(target=lambda: (told.wait(30), stop.set())).start()
        while not stop.is_set():
            try:
                future.result(timeout=0.2)  # the line
            except TimeoutError:
                pass
        return "went on"

    stop, listener = threading.Event(), Listener()
    logging.getLogger(LOGGER).addHandler(listener)
    try:
        with instrumented(spans, block_threshold=THRESHOLD, stuck_after=0.5):
            assert run_on(new_loop, main()) == "went on"
    finally:
        logging.getLogger(LOGGER).removeHandler(listener)
    first, *rest = [span for span in spans.all() if span.name.startswith("block ")]
    assert attributes(first)["asyncio.stuck.report"] == 1
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    assert "future.result" in lines[attributes(first)["code.line.number"] - 1]
    assert rest, "and once more when it is over"
    assert parent_id(first) == span_id(spans.task("main"))


def test_on_virtual_time_a_block_is_exact_to_the_nanosecond() -> None:
    loop = AutojumpLoop()

    async def main() -> None:
        await asyncio.sleep(1)
        loop.spin(0.25)
        await asyncio.sleep(1)
        loop.spin(0.05)

    with record(clock=loop.clock) as recorder, asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())
    (block,) = [span for span in recorder.spans if span.name.startswith("block ")]
    assert block.end_time - block.start_time == 250_000_000
    assert "main 1–1.25 ✗ loop_blocked" in recorder.render()


def test_off_is_off(new_loop: NewLoop, spans: Spans, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        hold()

    with instrumented(spans, block_threshold=math.inf, stuck_after=math.inf):
        run_on(new_loop, main())
        assert "otel_asyncio watchdog" not in {thread.name for thread in threading.enumerate()}
    assert spans.names() == [name for name in spans.names() if name.startswith("task ")]
    assert caplog.records == []


@pytest.mark.parametrize("way_in", ["factory"])
def test_a_single_loop_is_watched_by_its_task_factory(traced_run: Any, spans: Spans) -> None:
    async def main() -> None:
        hold()

    traced_run(main(), block_threshold=THRESHOLD)
    deadline = time.monotonic() + 10
    while not (found := [span for span in spans.all() if span.name == "block hold"]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(found) == 1
    assert Settings().block_threshold == 0.1
