"""One hour of a server on which nearly nothing happens, on virtual time: no problem, whatever it waits for.

`OTEL_ASYNCIO_LONG=1`: with ten thousand of them, scanned for what hangs as often as the watchdog's thread does it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from scanned import Time, scanned

HOUR = 3600
LONG = os.environ.get("OTEL_ASYNCIO_LONG") == "1"
PACE, MANY = (2.5, 10_000) if LONG else (30, 1_500)


class Connection:
    """A client that says nothing."""

    def __init__(self) -> None:
        self._message = asyncio.get_running_loop().create_future()

    async def receive(self) -> Any:
        return await self._message

    async def next_of_any_name(self) -> Any:
        return await self._message


async def websocket() -> None:
    await Connection().receive()


async def connection_that_no_request_is_open_on() -> None:
    await Connection().next_of_any_name()


async def long_poll() -> None:
    while True:
        with suppress(TimeoutError):
            await asyncio.wait_for(Connection().next_of_any_name(), 25)


async def worker() -> None:
    queue: asyncio.Queue[int] = asyncio.Queue()
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(60):
                await queue.get()


async def subscriber() -> None:
    await asyncio.Queue[int]().get()


async def cron() -> None:
    while True:
        await asyncio.sleep(600)


async def batch() -> None:
    """Each waits its turn for longer than anything may hang, and no longer than others have."""
    turns = asyncio.Semaphore(10)

    async def one() -> None:
        async with turns:
            await asyncio.sleep(1)

    await asyncio.gather(*(one() for _ in range(1_000)))


IN_REQUESTS: dict[Callable[[], Coroutine[Any, Any, None]], int] = {
    websocket: MANY,
    long_poll: 50,
    worker: 50,
    subscriber: 50,
    cron: 50,
    batch: 1,
}


def test_thousands_of_idle_websockets_and_what_else_waits_are_no_problem_for_an_hour() -> None:
    async def program(time: Time) -> None:
        tasks = [time.request(waits()) for waits, number in IN_REQUESTS.items() for _ in range(number)]
        tasks += [asyncio.create_task(connection_that_no_request_is_open_on()) for _ in range(MANY // 10)]
        await time.passes(HOUR, pace=PACE)
        assert time.problems == []
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    scanned(program)
