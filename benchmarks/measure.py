"""The measurements: time in interleaved pairs, cyclic garbage, bytes per live task."""

from __future__ import annotations

import asyncio
import gc
import importlib
import time
import tracemalloc
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from subjects import Subject, Unusable
from workloads import CHUNK, OUTCOMES, REFERENCE, WORKLOADS, YARDSTICK, Workload, run_outcomes, run_tasks

T = TypeVar("T")
Sweep = dict[str, dict[str, float]]
"""Workload → variant → nanoseconds a task, all taken within a second or so of each other."""

LEAST_SWEEPS = 3


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    """A fresh loop of the kind asked for."""
    if kind == "asyncio":
        return asyncio.new_event_loop()
    try:
        return importlib.import_module("uvloop").new_event_loop()  # type: ignore[no-any-return]
    except ImportError as problem:
        raise Unusable("uvloop cannot be imported here") from problem


@contextmanager
def loop_with(subject: Subject, kind: str) -> Iterator[asyncio.AbstractEventLoop]:
    """A loop with the subject installed on it."""
    loop = new_loop(kind)
    try:
        with subject.installed(loop):
            yield loop
    finally:
        loop.close()


def run_with(subject: Subject, kind: str, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run `main` on a loop of its own, with the subject installed and open around it."""

    async def inside() -> T:
        with subject.surrounding():
            return await main()

    with loop_with(subject, kind) as loop:
        return loop.run_until_complete(inside())


def probe(subject: Subject, kind: str) -> None:
    """Refuse a subject that installs without a word and then sees no task."""

    async def main() -> bool:
        coro = asyncio.sleep(0)
        task = asyncio.create_task(coro)
        await task
        return subject.sees(task, coro)

    if not run_with(subject, kind, main):
        raise Unusable(f"installs on {kind}, but sees no task there")


def time_round(subject: Subject, kind: str, workload: Workload, count: int) -> float:
    """Nanoseconds a task. Installing, opening, closing and a first chunk, to warm up, are off the clock."""
    body = subject.timed(workload)

    async def main() -> float:
        await run_tasks(body, CHUNK)
        started = time.perf_counter_ns()
        await run_tasks(body, count)
        return (time.perf_counter_ns() - started) / count

    gc.collect()
    return run_with(subject, kind, main)


def sweeps(subjects: Mapping[str, Subject], kind: str, count: int, seconds: float) -> Iterator[Sweep]:
    """Every workload under every subject, in turn, until the time is up.

    The order is turned round each time: whoever comes second meets warmer caches and a hotter processor.
    """
    until = time.monotonic() + seconds
    order, done = list(subjects), 0
    while done < LEAST_SWEEPS or time.monotonic() < until:
        sweep = {YARDSTICK: {"bare": time_round(Subject(), "asyncio", REFERENCE, count)}}
        for workload in WORKLOADS:
            tasks = workload.tasks(count)
            sweep[workload.key] = {key: time_round(subjects[key], kind, workload, tasks) for key in order}
        yield sweep
        order.reverse()
        done += 1


def tasks_in_a_sweep(count: int) -> int:
    """How many tasks each subject runs in one sweep, the warming chunks included."""
    return sum(workload.tasks(count) + CHUNK for workload in WORKLOADS)


def cyclic_garbage(subject: Subject, kind: str, count: int) -> dict[str, int]:
    """Objects that only the cyclic collector frees, left behind by `count` tasks of each outcome."""

    async def main(outcome: str) -> int:
        await run_outcomes(outcome, CHUNK)
        gc.collect()
        gc.disable()
        try:
            await run_outcomes(outcome, count)
            return gc.collect()
        finally:
            gc.enable()

    return {outcome: run_with(subject, kind, partial(main, outcome)) for outcome in OUTCOMES}


def bytes_per_task(subject: Subject, kind: str, count: int) -> float:
    """Python memory that one live, started, waiting task holds.

    A bare run comes first: asyncio's table of live tasks grows and never shrinks, and would be counted with
    whoever is weighed first. Tables of the subject's own are counted.
    """
    run_with(Subject(), kind, lambda: _park(Subject(), count))
    return run_with(subject, kind, lambda: _park(subject, count, weigh=True))


async def _park(subject: Subject, count: int, weigh: bool = False) -> float:
    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    body, held = subject.parked(gate), 0
    gc.collect()
    if weigh:
        tracemalloc.start()
    tasks = [asyncio.create_task(body()) for _ in range(count)]
    await asyncio.sleep(0)
    gc.collect()
    if weigh:
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    gate.set_result(None)
    for task in tasks:
        await task
    return held / count
