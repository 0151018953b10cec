"""Programs in which all is well: no problem, and every cancellation in them is expected."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from typing import Any

import anyio
import pytest
from harness import Spans, TracedRun, attributes, both_ways

LONG = 0.12  # longer than `await_threshold`


async def streaming_response() -> int:
    """Starlette's: the body and the listener for a disconnect; whoever ends first cancels the other."""
    sent = 0

    async def body() -> None:
        nonlocal sent
        for _ in range(3):
            await anyio.sleep(0.001)
            sent += 1

    async def listener() -> None:
        await anyio.sleep_forever()

    async with anyio.create_task_group() as group:

        async def wrap(function: Any) -> None:
            await function()
            group.cancel_scope.cancel()

        group.start_soon(wrap, body)
        await wrap(listener)
    return sent


async def middleware() -> int:
    """BaseHTTPMiddleware's: the application below runs in a task of its own and is cancelled once it is not needed."""
    send, receive = anyio.create_memory_object_stream[int](1)

    async def application() -> None:
        async with send:
            await send.send(200)
            await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        group.start_soon(application)
        async with receive:
            status = await receive.receive()
        group.cancel_scope.cancel()
    return status


async def race() -> int:
    """The first answer wins, the others are cancelled."""

    async def ask(delay: float) -> float:
        await asyncio.sleep(delay)
        return delay

    tasks = [asyncio.create_task(ask(delay)) for delay in (0.001, 60, 60)]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    return len(done)


async def clean_stop() -> str:
    """A worker catches the cancellation, cleans up for as long as that takes, and returns."""

    async def worker() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(LONG)
            return "stopped"
        return "never"

    task = asyncio.create_task(worker())
    await asyncio.sleep(0)
    task.cancel()
    return await task


async def polling() -> int:
    """A worker that looks now and then whether it should stop."""
    queue: asyncio.Queue[int] = asyncio.Queue()
    idle = 0
    while idle < 3:
        try:
            await asyncio.wait_for(queue.get(), 0.005)
        except TimeoutError:
            idle += 1
    return idle


async def reconnecting() -> int:
    """A connection that does not come in time is tried again."""
    tries = 0
    while True:
        tries += 1
        try:
            async with asyncio.timeout(0.005 if tries < 3 else 60):
                await asyncio.sleep(60 if tries < 3 else 0)
        except TimeoutError:
            await asyncio.sleep(0.001)
            continue
        return tries


async def graceful_shutdown() -> int:
    """A server stops: it listens no more, lets its handlers end, and cancels its keep-alives."""
    served = 0

    async def handle() -> None:
        nonlocal served
        await asyncio.sleep(0.005)
        served += 1

    async def keep_alive() -> None:
        while True:
            await asyncio.sleep(60)

    idle = [asyncio.create_task(keep_alive()) for _ in range(10)]
    busy = [asyncio.create_task(handle()) for _ in range(10)]
    await asyncio.sleep(0.001)
    for task in idle:
        task.cancel()
    await asyncio.gather(*busy)
    await asyncio.gather(*idle, return_exceptions=True)
    return served


async def left_to_the_end() -> None:
    """What still runs when main returns is cancelled by the runner, and cleans up."""

    async def background() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(LONG)

    task = asyncio.create_task(background())
    asyncio.get_running_loop().call_later(60, task.done)  # held until then
    await asyncio.sleep(0)


async def suppressing_the_cancelled() -> bool:
    """The idiom of the documentation: cancel, and await with the CancelledError suppressed."""
    task = asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await asyncio.sleep(LONG)
    return task.cancelled()


async def a_condition_that_is_cancelled() -> bool:
    """`Condition.wait` must have its lock again, whatever it was cancelled by."""
    condition = asyncio.Condition()

    async def waiter() -> None:
        async with condition:
            await condition.wait()

    task = asyncio.create_task(waiter())
    await asyncio.sleep(0)
    async with condition:
        task.cancel()
        await asyncio.sleep(LONG)
    await asyncio.wait([task])
    return task.cancelled()


async def race_in_a_handler_that_was_started_eagerly() -> int:
    """aiohttp's handlers on 3.12 and 3.13: their tasks begin to run in their constructor, past every `create_task`."""
    if sys.version_info[:2] not in ((3, 12), (3, 13)):
        return await race()
    loop = asyncio.get_running_loop()
    return await asyncio.Task(race(), loop=loop, eager_start=True)  # type: ignore[call-arg,unused-ignore]


async def a_connection_that_closes() -> bool:
    """aiohttp's connections wait for the next request on a future, which is cancelled when the client hangs up."""
    waiter = asyncio.get_running_loop().create_future()

    async def connection() -> None:
        await waiter

    task = asyncio.create_task(connection())
    asyncio.get_running_loop().call_later(0.001, waiter.cancel)
    await asyncio.wait([task])
    return task.cancelled()


class Protocol(asyncio.Protocol):
    """As aiohttp's: a task for each connection, made when it comes and cancelled when it goes; or at the end."""

    def __init__(self, ended: asyncio.Event) -> None:
        self.ended = ended

    def connection_made(self, transport: Any) -> None:
        self.task = asyncio.get_running_loop().create_task(self.answers())
        self.task.add_done_callback(lambda _: self.ended.set())

    async def answers(self) -> None:
        await asyncio.sleep(60)

    def connection_lost(self, error: Exception | None) -> None:
        self.task.cancel()

    async def shutdown(self) -> None:
        self.task.cancel()


async def connection_that_is_closed() -> int:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    server = await loop.create_server(lambda: Protocol(ended), "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.close()
    await ended.wait()
    server.close()
    return 1


async def server_that_is_shut_down() -> int:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    protocol = Protocol(ended)
    loop.call_soon(protocol.connection_made, None)
    await asyncio.sleep(0.01)
    await asyncio.create_task(protocol.shutdown())
    await ended.wait()
    return 1


PROGRAMS = (
    connection_that_is_closed,
    server_that_is_shut_down,
    race_in_a_handler_that_was_started_eagerly,
    a_connection_that_closes,
    streaming_response,
    middleware,
    race,
    clean_stop,
    polling,
    reconnecting,
    graceful_shutdown,
    left_to_the_end,
    suppressing_the_cancelled,
    a_condition_that_is_cancelled,
)
every_program = pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)


@every_program
@both_ways
def test_all_is_well(traced_run: TracedRun, spans: Spans, caplog: pytest.LogCaptureFixture, program: Any) -> None:
    traced_run(program())
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert [span.name for span in spans.all() if "asyncio.problem" in attributes(span)] == []


@every_program
@both_ways
def test_every_cancellation_is_expected(traced_run: TracedRun, spans: Spans, program: Any) -> None:
    traced_run(program())
    cancels = [span for span in spans.all() if span.name.startswith("cancel ")]
    assert [span.name for span in cancels if not attributes(span)["asyncio.cancel.expected"]] == []


@every_program
def test_it_does_the_same_as_without(same_as_bare: Any, program: Any) -> None:
    same_as_bare(program)
