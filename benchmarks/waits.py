"""What it costs to be ready for a slow wait: ratios per fast await, per lock acquired, per piece of work in a thread.

Then what the watchdog costs: of a core, where the loop is idle and where it is busy, and for a scan of very many tasks.

    python benchmarks/waits.py [--rounds N] [--seconds S]

In one process, rounds with and without taking turns, so that what the machine does hits both; the middle of the ratios
of neighbours is told, with the middle half. Needs this project in the environment.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import math
import statistics
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from opentelemetry.sdk.trace import TracerProvider

import otel_asyncio
from otel_asyncio.observe.watchdog import the_watchdog

AWAITS, LOCKS, CALLS = 20_000, 20_000, 500
Round = Callable[[], float]


@contextmanager
def traced(**settings: Any) -> Iterator[None]:
    """The process traced, to nowhere."""
    instrumentor = otel_asyncio.AsyncioInstrumentor()
    instrumentor.instrument(tracer_provider=TracerProvider(), settings=otel_asyncio.Settings(**settings))
    try:
        yield
    finally:
        instrumentor.uninstrument()


async def fast_awaits() -> float:
    start = time.perf_counter()
    for _ in range(AWAITS):
        await asyncio.sleep(0)
    return (time.perf_counter() - start) / AWAITS


async def locks() -> float:
    lock = asyncio.Lock()
    start = time.perf_counter()
    for _ in range(LOCKS):
        async with lock:
            pass
    return (time.perf_counter() - start) / LOCKS


async def contended_locks() -> float:
    lock = asyncio.Lock()

    async def takes(count: int) -> None:
        for _ in range(count):
            async with lock:
                await asyncio.sleep(0)

    start = time.perf_counter()
    await asyncio.gather(takes(LOCKS // 20), takes(LOCKS // 20))
    return (time.perf_counter() - start) / (LOCKS // 10)


async def calls() -> float:
    loop = asyncio.get_running_loop()
    start = time.perf_counter()
    for _ in range(CALLS):
        await loop.run_in_executor(None, int)
    return (time.perf_counter() - start) / CALLS


def timed(program: Callable[[], Coroutine[Any, Any, float]], around: Any) -> float:
    """Seconds for one, off a fresh loop, with this around it."""
    gc.collect()
    with around(), asyncio.Runner() as runner:
        return runner.run(program())


def compared(
    program: Any, without: Any, with_it: Any, rounds: int, timing: Any = timed
) -> tuple[float, list[float], float]:
    """The middle of the seconds without, the quartiles of the ratios, and the middle of what is added."""
    timing(program, without), timing(program, with_it)
    before, ratios, added = [], [], []
    for number in range(rounds):
        pair = (without, with_it) if number % 2 else (with_it, without)
        first, second = timing(program, pair[0]), timing(program, pair[1])
        bare, watched = (first, second) if number % 2 else (second, first)
        before.append(bare)
        ratios.append(watched / bare)
        added.append(watched - bare)
    return statistics.median(before), statistics.quantiles(ratios, n=4), statistics.median(added)


async def watchdogs_share(busy: int, seconds: float) -> float:
    """The processor time of the watchdog's thread as a share of the time that passes."""

    async def works() -> None:
        while True:
            ends = time.perf_counter() + 0.002
            while time.perf_counter() < ends:
                pass
            await asyncio.sleep(0.001)

    tasks = [asyncio.create_task(works()) for _ in range(busy)]
    await asyncio.sleep(1)
    before, start = the_watchdog().cpu_time, time.perf_counter()
    await asyncio.sleep(seconds)
    share = (the_watchdog().cpu_time - before) / 1e9 / (time.perf_counter() - start)
    for task in tasks:
        task.cancel()
    return share


async def scan_of(number: int) -> float:
    """Seconds for a scan of so many tasks that wait for long and have been looked into before: the usual case."""
    instrumentor = otel_asyncio.AsyncioInstrumentor()
    tasks = [asyncio.create_task(asyncio.Event().wait()) for _ in range(number)]
    await asyncio.sleep(0.1)
    (scan,) = instrumentor.observation.hanging.scans
    scan._active = False  # the watchdog's thread leaves it alone
    later = scan._state.now() + 7200 * 10**9
    scan._suspects(later)
    for seen in scan._seen.values():
        seen.next = 2 * later
    took = []
    for _ in range(20):
        start = time.perf_counter()
        scan._suspects(later)
        took.append(time.perf_counter() - start)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return statistics.median(took)


def watchdog(seconds: float) -> None:
    """Its rows."""
    print("\n| the watchdog | |\n| --- | --- |")
    for title, busy in (("the loop is idle", 0), ("the loop is busy, in steps of 2 ms", 2)):
        with traced():
            share = asyncio.run(watchdogs_share(busy, seconds))
        print(f"| {title} | {share:.3%} of a core |", flush=True)
    with traced(stuck_after=3600):
        few, many = asyncio.run(scan_of(100)), asyncio.run(scan_of(10_000))
    print(f"| a scan of 10,000 waiting tasks, once in 2.5 s | {many * 1e3:.2f} ms, {many / few:.0f}× one of 100 |")


def bare() -> Any:
    return nullcontext()


def hook_only() -> Any:
    return traced(await_threshold=math.inf)


ROWS = (
    ("fast await, with await spans against without", fast_awaits, hook_only, traced),
    ("`async with lock`, nobody waiting, against bare", locks, bare, traced),
    ("`async with lock`, two taking turns, against bare", contended_locks, bare, traced),
    ("`run_in_executor`, recorded, against bare", calls, bare, traced),
)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """How often every row is measured."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=21)
    return parser


def table(rows: Any, rounds: int) -> None:
    """Measure and print; a row is a title, the arguments of `compared`, and how it is timed if not on a loop."""
    print("| | without | adds | ratio (middle half) |")
    print("| --- | --- | --- | --- |")
    for title, program, without, with_it, *timing in rows:
        before, (low, middle, high), added = compared(program, without, with_it, rounds, *timing)
        print(
            f"| {title} | {before * 1e6:.2f} µs | {added * 1e6:+.2f} µs | {middle:.2f}× ({low:.2f} … {high:.2f}) |",
            flush=True,
        )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=30, help="for each look at the watchdog's thread")
    options = parser.parse_args()
    table(ROWS, options.rounds)
    watchdog(options.seconds)


if __name__ == "__main__":
    main()
