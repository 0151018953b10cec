"""Programs in which all is well, on real time: no problem, whatever they wait for and however long."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from typing import Any

import anyio
import pytest
from harness import NewLoop, Spans, instrumented, run_on

AFTER = 0.1
LASTS = 8 * AFTER


async def cancelled(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def within(seconds: float, *coroutines: Coroutine[Any, Any, Any]) -> None:
    """Let these run for so long."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    await asyncio.sleep(seconds)
    await cancelled(tasks)


class WebSocket:
    def __init__(self) -> None:
        self._message = asyncio.get_running_loop().create_future()

    async def receive(self) -> Any:
        return await self._message


async def reads(socket: WebSocket) -> None:
    while True:
        await socket.receive()


async def idle_websockets() -> None:
    await within(LASTS, *(reads(WebSocket()) for _ in range(2_000)))


async def long_polls() -> None:
    async def poll(answer: asyncio.Event) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(answer.wait(), LASTS / 2)

    await asyncio.gather(*(poll(asyncio.Event()) for _ in range(50)))


async def subscribers() -> None:
    async def subscriber(queue: asyncio.Queue[int]) -> None:
        while True:
            await queue.get()

    await within(LASTS, *(subscriber(asyncio.Queue()) for _ in range(50)))


async def workers_that_poll() -> None:
    async def worker(queue: asyncio.Queue[int]) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(AFTER * 3):
                    await queue.get()

    await within(LASTS, *(worker(asyncio.Queue()) for _ in range(10)))


async def cron() -> None:
    async def job() -> None:
        while True:
            await asyncio.sleep(3600)

    await within(LASTS, *(job() for _ in range(10)))


async def streaming() -> None:
    """The body is sent bit by bit, and a listener waits for the client to go away."""

    async def body(group: Any) -> None:
        for _ in range(20):
            await anyio.sleep(LASTS / 20)
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(body, group)
        group.start_soon(anyio.sleep_forever)


async def generators_left_open() -> None:
    """By an exception, a cancellation, or with nothing to clean up."""

    async def numbers() -> AsyncIterator[int]:
        while True:
            yield 1

    async def lines() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(0)

    async def streams() -> None:
        async for _ in lines():
            await asyncio.sleep(LASTS)

    async for _ in numbers():
        break
    with suppress(ConnectionError):
        async for _ in lines():
            raise ConnectionError
    await within(AFTER, *(streams() for _ in range(20)))


async def a_group_that_works() -> None:
    """Whoever waits for a group waits for what its tasks do, and they do something."""

    async def works() -> None:
        for _ in range(40):
            await asyncio.sleep(LASTS / 40)

    async with asyncio.TaskGroup() as tasks, anyio.create_task_group() as group:
        tasks.create_task(works())
        group.start_soon(works)


async def contended() -> None:
    """A lock for which many wait in turn."""
    lock = asyncio.Lock()

    async def user() -> None:
        async with lock:
            await asyncio.sleep(AFTER / 5)

    await asyncio.gather(*(user() for _ in range(60)))


async def keep_alive() -> None:
    """Connections that are open and silent."""

    served: list[Any] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(asyncio.current_task())
        await reader.read()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        clients = [await asyncio.open_connection(*server.sockets[0].getsockname()) for _ in range(10)]
        await asyncio.sleep(LASTS)
        for _, writer in clients:
            writer.close()
            await writer.wait_closed()
        await asyncio.wait(served)


async def busy_but_fair() -> None:
    loop, left = asyncio.get_running_loop(), 400
    done = loop.create_future()

    def callback() -> None:
        nonlocal left
        ends = loop.time() + 0.001
        while loop.time() < ends:
            pass
        left -= 1
        if left:
            loop.call_soon(callback)
        else:
            done.set_result(None)

    callback()
    await asyncio.wait_for(done, 60)


async def collects_garbage() -> None:
    gc.freeze()  # what a thousand tests have left behind would take its time, and is not the program's
    try:
        for _ in range(20):
            for _ in range(1_000):
                cycle: list[Any] = []
                cycle.append(cycle)
            gc.collect()
            await asyncio.sleep(0)
    finally:
        gc.unfreeze()


async def idle() -> None:
    await asyncio.sleep(LASTS)


PROGRAMS = (
    idle_websockets,
    long_polls,
    subscribers,
    workers_that_poll,
    cron,
    streaming,
    generators_left_open,
    a_group_that_works,
    contended,
    busy_but_fair,
    collects_garbage,
    idle,
)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_it_reports_no_problem_inside_a_request(
    program: Callable[[], Coroutine[Any, Any, None]], new_loop: NewLoop, spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with spans.tracer.start_as_current_span("request"):
            await asyncio.create_task(program())

    reported(main, new_loop, spans, caplog)


@pytest.mark.parametrize("program", [*PROGRAMS, keep_alive], ids=lambda program: program.__name__)
def test_it_reports_no_problem_by_itself(
    program: Callable[[], Coroutine[Any, Any, None]], new_loop: NewLoop, spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    reported(program, new_loop, spans, caplog)


def reported(program: Any, new_loop: NewLoop, spans: Spans, caplog: pytest.LogCaptureFixture) -> None:
    # What a slow machine does to a step of this test is no problem of the program: half a second.
    with caplog.at_level(logging.WARNING), instrumented(spans, stuck_after=AFTER, block_threshold=0.5):
        run_on(new_loop, program())
    assert [span.name for span in spans.all() if "asyncio.problem" in (span.attributes or {})] == []
    assert [record.getMessage() for record in caplog.records if record.name.startswith("otel_asyncio")] == []
