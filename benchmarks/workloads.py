"""The tasks whose cost is measured, and how a loop is made to run many of them.

Every coroutine exists twice: bare, and with the span that a user would open by hand *inside* it. A helper
that wrapped the bare coroutine would add a frame to every step and make the hand-written span look dearer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

Body = Callable[[], Coroutine[Any, Any, None]]
Span = Callable[[], AbstractContextManager[object]]

CHUNK = 100
"""Tasks alive at a time: so many that the driver's own step disappears, so few that caches hold them."""


@dataclass(frozen=True)
class Workload:
    """One kind of task. `share` keeps a round of long tasks about as long as a round of short ones."""

    key: str
    title: str
    waits: int
    on_future: bool = False
    share: float = 1.0

    def body(self) -> Body:
        """The task as a program without tracing has it."""
        return (_waiting if self.on_future else _sleeping)(self.waits)

    def body_in(self, span: Span) -> Body:
        """The same task with a span written into it by hand."""
        return (_waiting_in if self.on_future else _sleeping_in)(self.waits, span)

    def tasks(self, total: int) -> int:
        """How many tasks of this kind make a round in which the reference task is run `total` times."""
        return max(CHUNK, round(total * self.share / CHUNK) * CHUNK)


EMPTY = Workload("empty", "task, no await", waits=0)
REFERENCE = Workload("sleep3", "task of 3 `sleep(0)`", waits=3)
LONG = Workload("sleep30", "task of 30 `sleep(0)`", waits=30, share=0.25)
FUTURES = Workload("future3", "task of 3 future waits", waits=3, on_future=True, share=0.5)
WORKLOADS = (EMPTY, REFERENCE, LONG, FUTURES)

YARDSTICK = "yardstick"
"""In every sweep: the bare reference task on asyncio, which tells the speed of the machine just then."""


def _sleeping(count: int) -> Body:
    async def body() -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    return body


def _sleeping_in(count: int, span: Span) -> Body:
    async def body() -> None:
        with span():
            for _ in range(count):
                await asyncio.sleep(0)

    return body


def _waiting(count: int) -> Body:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(count):
            future = loop.create_future()
            loop.call_soon(future.set_result, None)
            await future

    return body


def _waiting_in(count: int, span: Span) -> Body:
    async def body() -> None:
        with span():
            loop = asyncio.get_running_loop()
            for _ in range(count):
                future = loop.create_future()
                loop.call_soon(future.set_result, None)
                await future

    return body


def parked(gate: asyncio.Future[None]) -> Body:
    """A task that stays alive until the gate opens."""

    async def body() -> None:
        await gate

    return body


def parked_in(gate: asyncio.Future[None], span: Span) -> Body:
    """The same with a span open for as long as the task lives."""

    async def body() -> None:
        with span():
            await gate

    return body


async def _succeed() -> None:
    await asyncio.sleep(0)


async def _fail() -> None:
    await asyncio.sleep(0)
    raise ValueError


OUTCOMES: dict[str, Body] = {"ok": _succeed, "raising": _fail, "cancelled": _succeed}


async def run_tasks(body: Body, count: int) -> None:
    """Run `count` tasks, a chunk at a time.

    `asyncio.create_task` is looked up at each call, because that name is what some instrumentations replace.
    """
    for _ in range(count // CHUNK):
        tasks = [asyncio.create_task(body()) for _ in range(CHUNK)]
        for task in tasks:
            await task


async def run_outcomes(outcome: str, count: int) -> None:
    """Run `count` tasks to one outcome and take every exception out of its task, as a tidy program does."""
    body = OUTCOMES[outcome]
    for _ in range(count // CHUNK):
        tasks = [asyncio.create_task(body()) for _ in range(CHUNK)]
        await asyncio.sleep(0)
        if outcome == "cancelled":
            for task in tasks:
                task.cancel()
        for task in (await asyncio.wait(tasks))[0]:
            task.cancelled() or task.exception()
