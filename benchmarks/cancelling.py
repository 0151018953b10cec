"""What cancellations and deadlines cost: a task cancelled and awaited, scopes that do not expire, ten thousand at once.

    python benchmarks/cancelling.py [--rounds N]

As `waits.py`: in one process, rounds with and without taking turns, ratios of neighbours. Needs this project in the
environment. Recorded: root tasks with their spans, to a provider that exports nothing; counted: tasks without a span.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import time
from asyncio import runners
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from waits import arguments, bare, table, traced

CANCELS, SCOPES, STORM = 100, 5_000, 10_000

QUIET = {"block_threshold": math.inf, "stuck_after": math.inf}  # without the watchdog's thread
recorded = partial(traced, **QUIET)
counted = partial(traced, root_tasks="none", **QUIET)


async def parked() -> None:
    await asyncio.get_running_loop().create_future()


async def cancel_and_await() -> float:
    """Few enough for each to be looked at closely."""
    start = time.perf_counter()
    for _ in range(CANCELS):
        task = asyncio.create_task(parked())
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    return (time.perf_counter() - start) / CANCELS


async def scopes() -> float:
    start = time.perf_counter()
    for _ in range(SCOPES):
        async with asyncio.timeout(60):
            await asyncio.sleep(0)
    return (time.perf_counter() - start) / SCOPES


async def wait_for() -> float:
    start = time.perf_counter()
    for _ in range(SCOPES):
        await asyncio.wait_for(asyncio.sleep(0), 60)
    return (time.perf_counter() - start) / SCOPES


async def leave_behind() -> list[Any]:
    tasks = [asyncio.create_task(parked()) for _ in range(STORM)]
    await asyncio.sleep(0)
    return tasks


def end_of_loop(program: Callable[[], Coroutine[Any, Any, list[Any]]], around: Any) -> float:
    """Seconds for one task that the end of its loop cancels."""
    gc.collect()
    with around():
        loop = asyncio.new_event_loop()
        try:
            left = loop.run_until_complete(program())
            start = time.perf_counter()
            runners._cancel_all_tasks(loop)
            return (time.perf_counter() - start) / len(left)
        finally:
            loop.close()


ROWS = (
    ("a task made, cancelled and awaited, recorded", cancel_and_await, bare, recorded),
    ("a task made, cancelled and awaited, counted", cancel_and_await, bare, counted),
    ("`asyncio.timeout` that does not expire, recorded", scopes, bare, recorded),
    ("`asyncio.wait_for` that does not expire, recorded", wait_for, bare, recorded),
    ("one of 10,000 cancelled by the loop's end, recorded", leave_behind, bare, recorded, end_of_loop),
    ("one of 10,000 cancelled by the loop's end, counted", leave_behind, bare, counted, end_of_loop),
)


if __name__ == "__main__":
    table(ROWS, arguments(__doc__).parse_args().rounds)
