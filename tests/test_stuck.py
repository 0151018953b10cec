"""What hangs is told while it hangs; what only waits is not."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import NewLoop, Spans, instrumented, links, parent_id, run_on, span_id

from otel_asyncio.observe.chain import Chain
from otel_asyncio.observe.scan import Scan
from otel_asyncio.observe.stuck import History, idle_matcher

AFTER = 0.1
LONG = 15 * AFTER  # several reports would fit into it
LINES = Path(__file__).read_text(encoding="utf-8").splitlines()


def stuck(spans: Spans) -> list[Any]:
    return [span for span in spans.all() if span.name in ("asyncio.stuck", "asyncio.deadlock")]


async def until(condition: Callable[[], Any], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    assert condition()


async def forever() -> None:
    answer = asyncio.get_running_loop().create_future()
    await answer  # the line


async def end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def blamed(span: Any) -> str:
    return LINES[span.attributes["code.line.number"] - 1]


@pytest.fixture
def run_with(new_loop: NewLoop, spans: Spans) -> Callable[..., Any]:
    def run(main: Any, **settings: Any) -> Any:
        with instrumented(spans, **({"stuck_after": AFTER} | settings)):
            return run_on(new_loop, main())

    return run


def test_it_is_exported_while_it_hangs_at_doubling_intervals(
    run_with: Any, spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with spans.tracer.start_as_current_span("request"):
            task = asyncio.create_task(forever())
        await until(lambda: len(stuck(spans)) == 3)
        assert not task.done()
        await end(task)

    run_with(main)
    first, second, third, *_ = stuck(spans)
    assert first.attributes["asyncio.problem"] == "stuck"
    assert "await answer" in blamed(first)
    assert "forever" in first.attributes["code.stacktrace"]
    assert [span.attributes["asyncio.stuck.report"] for span in (first, second, third)] == [1, 2, 3]
    assert first.end_time == second.start_time
    assert second.end_time == third.start_time
    ages = [span.attributes["asyncio.stuck.since"] for span in (first, second, third)]
    assert ages[0] >= AFTER
    assert ages[1] >= 2 * AFTER
    assert ages[2] >= 4 * AFTER
    assert parent_id(first) == span_id(spans.task("forever"))
    warnings = [record for record in caplog.records if record.name == "otel_asyncio.problem"]
    assert len(warnings) >= 3
    assert "stuck: 1 task waits for" in warnings[0].getMessage()
    assert warnings[0].levelno == logging.WARNING


def test_it_stands_under_the_innermost_span_open_in_its_task(run_with: Any, spans: Spans) -> None:
    async def handler() -> None:
        with spans.tracer.start_as_current_span("inner"):
            await forever()

    async def main() -> None:
        task = asyncio.create_task(handler())
        await until(lambda: stuck(spans))
        await end(task)

    run_with(main)
    assert parent_id(stuck(spans)[0]) == span_id(spans.named("inner"))


def test_many_at_one_line_are_one_report_with_a_count(run_with: Any, spans: Spans) -> None:
    async def main() -> None:
        with spans.tracer.start_as_current_span("request"):
            tasks = [asyncio.create_task(forever()) for _ in range(200)]
        await until(lambda: stuck(spans))
        await end(*tasks)

    run_with(main)
    assert stuck(spans)[0].attributes["asyncio.stuck.count"] == 200
    assert len([span for span in stuck(spans) if span.attributes["asyncio.stuck.report"] == 1]) == 1


def test_whoever_awaits_what_hangs_is_not_told_of(run_with: Any, spans: Spans) -> None:
    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(forever())

    async def gathers() -> None:
        await asyncio.gather(group(), asyncio.shield(asyncio.create_task(asyncio.sleep(60))))

    async def main() -> None:
        with spans.tracer.start_as_current_span("request"):
            task = asyncio.create_task(gathers())
        await until(lambda: stuck(spans))
        await end(task)

    run_with(main)
    assert {span.attributes["code.function.name"].rpartition(".")[2] for span in stuck(spans)} == {"forever"}


def test_the_holder_of_a_lock_is_told_of_although_nothing_is_above_it(run_with: Any, spans: Spans) -> None:
    async def holder(lock: asyncio.Lock) -> None:
        async with lock:
            await forever()

    async def waiter(lock: asyncio.Lock) -> None:
        async with lock:
            pass

    async def main() -> None:
        lock = asyncio.Lock()
        tasks = [asyncio.create_task(holder(lock)), asyncio.create_task(waiter(lock))]
        await until(lambda: stuck(spans))
        await end(*tasks)

    run_with(main)
    assert {blamed(span).strip().partition("  #")[0] for span in stuck(spans)} == {"await answer"}
    assert parent_id(stuck(spans)[0]) == span_id(spans.task("holder"))


def test_a_lock_that_its_holder_never_released_is_told_with_the_line_that_took_it(run_with: Any, spans: Spans) -> None:
    async def takes(lock: asyncio.Lock) -> None:
        await lock.acquire()  # and ends

    async def main() -> None:
        lock = asyncio.Lock()
        with spans.tracer.start_as_current_span("request"):
            await asyncio.create_task(takes(lock))
            task = asyncio.create_task(lock.acquire())
        await until(lambda: stuck(spans))
        await end(task)

    run_with(main)
    span = stuck(spans)[0]
    assert span.attributes["asyncio.resource.type"] == "Lock"
    assert "and ends" in LINES[span.attributes["asyncio.resource.holder.line"] - 1]
    assert links(span) == {"holder": span_id(spans.task("takes"))}


class Socket:
    async def receive(self) -> None:
        await asyncio.Event().wait()


async def deadline() -> None:
    async with asyncio.timeout(60):
        await asyncio.Event().wait()


async def wait_for() -> None:
    await asyncio.wait_for(asyncio.Event().wait(), 60)


async def awaited_under_a_deadline() -> None:
    async with asyncio.timeout(60):
        await asyncio.gather(forever(), forever())


async def in_a_group_under_a_deadline() -> None:
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(forever())


async def in_wait_for() -> None:
    await asyncio.wait_for(forever(), 60)


async def waits_for_some() -> None:
    tasks = {asyncio.create_task(asyncio.sleep(60)), asyncio.create_task(asyncio.sleep(60))}
    try:
        await asyncio.wait(tasks, timeout=60)
    finally:
        await end(*tasks)


async def sleeps() -> None:
    await asyncio.sleep(60)


async def queue() -> None:
    await asyncio.Queue[int]().get()


async def websocket() -> None:
    await Socket().receive()


async def serves() -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    async with server:
        await server.serve_forever()


HEALTHY = [
    deadline,
    wait_for,
    awaited_under_a_deadline,
    in_a_group_under_a_deadline,
    in_wait_for,
    waits_for_some,
    sleeps,
    queue,
    websocket,
    serves,
]


def test_what_has_a_deadline_ahead_or_may_be_idle_is_not_told_of(run_with: Any, spans: Spans) -> None:
    async def main() -> None:
        with spans.tracer.start_as_current_span("request"):
            tasks = [asyncio.create_task(program()) for program in HEALTHY]
        await asyncio.sleep(LONG)
        await end(*tasks)

    run_with(main)
    assert [(span.attributes["code.function.name"], blamed(span)) for span in stuck(spans)] == []


def test_a_root_task_that_nobody_waits_for_is_not_told_of(run_with: Any, spans: Spans) -> None:
    async def main() -> None:
        task = asyncio.create_task(forever())
        await asyncio.sleep(LONG)
        await end(task)

    run_with(main)
    assert stuck(spans) == []


def test_a_line_is_known_by_the_longest_wait_that_ended_there(run_with: Any, spans: Spans) -> None:
    async def waits(event: asyncio.Event) -> None:
        await event.wait()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for seconds in (0.8 * AFTER, LONG):
            event = asyncio.Event()
            loop.call_later(seconds, event.set)
            with spans.tracer.start_as_current_span("request"):
                await asyncio.create_task(waits(event))
        known = len(stuck(spans))
        assert known
        event = asyncio.Event()
        loop.call_later(LONG, event.set)
        with spans.tracer.start_as_current_span("request"):
            await asyncio.create_task(waits(event))
        assert len(stuck(spans)) == known, "it has waited as long before, and it came"

    run_with(main)


def test_what_came_while_the_loop_was_blocked_has_not_hung(run_with: Any, spans: Spans) -> None:
    async def waits(reader: asyncio.StreamReader) -> None:
        assert await reader.readline() == b"hello\n"

    async def main() -> None:
        here, there = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=here)
        with spans.tracer.start_as_current_span("request"):
            task = asyncio.create_task(waits(reader))
        await asyncio.sleep(AFTER / 2)
        there.sendall(b"hello\n")
        time.sleep(6 * AFTER)  # noqa: ASYNC251 - it blocks the loop
        await task
        there.close()
        writer.close()
        await writer.wait_closed()

    run_with(main)
    assert stuck(spans) == []


def test_a_wait_that_was_cancelled_is_no_history(run_with: Any, spans: Spans) -> None:
    async def main() -> None:
        for _ in range(2):
            spans.exporter.clear()
            with spans.tracer.start_as_current_span("request"):
                task = asyncio.create_task(forever())
            await until(lambda: stuck(spans))
            await end(task)

    run_with(main)


def test_uninstrumenting_leaves_nothing(new_loop: NewLoop, spans: Spans) -> None:
    async def main() -> None:
        with instrumented(spans, stuck_after=AFTER) as instrumentor:
            observation: Any = instrumentor.observation
            with spans.tracer.start_as_current_span("request"):
                task = asyncio.create_task(forever())
            await until(lambda: stuck(spans))
            (scan,) = observation.hanging.scans
        told = len(stuck(spans))
        await asyncio.sleep(8 * AFTER)
        assert len(stuck(spans)) == told
        assert not scan._seen
        reference = weakref.ref(task)
        await end(task)
        del task
        gc.collect()
        assert reference() is None

    run_on(new_loop, main())


def test_ten_thousand_that_wait_are_scanned_at_little_cost(run_with: Any, spans: Spans) -> None:
    """By what is done, not by the clock: each is looked into once, and not again before it has waited twice as long."""
    looked: list[int] = []

    async def main() -> None:
        tasks = [asyncio.create_task(forever()) for _ in range(10_000)]
        await asyncio.sleep(LONG)
        await end(*tasks)

    before = Scan._look

    def look(self: Scan, record: Any, inquiry: Any) -> None:
        looked.append(record.id)
        before(self, record, inquiry)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scan, "_look", look)
        run_with(main)
    assert stuck(spans) == []
    assert len(looked) <= 6 * 10_001


def test_idle_targets_match_the_target_or_a_function_of_the_chain() -> None:
    is_idle = idle_matcher(("Queue.get", "pool.*"))
    assert is_idle(Chain((), 0, None, "Queue.get"))
    assert not is_idle(Chain((), 0, None, "Queue.get_nowait"))
    assert not idle_matcher(())(Chain((), 0, None, "Queue.get"))


def test_the_history_is_bounded() -> None:
    history = History(0)
    for line in range(10_000):
        history.completed(("x.py", line, "target"), line)
    assert len(history._longest) <= 4096
    assert history.longest(("x.py", 9_999, "target")) == 9_999
    assert history.longest(("x.py", 0, "target")) == 0
