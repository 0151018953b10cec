"""A laptop that is shut and opened again: the program stood still, or the wall clock jumped, and all is well."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from harness import NewLoop, Spans, attributes, run_on

import otel_asyncio
from otel_asyncio.observe.clock import Clock

HOUR = 3600 * 10**9

PROGRAM = """
import asyncio, os, subprocess, sys, time
from contextlib import suppress
import uvloop
from otel_asyncio import Settings
from otel_asyncio.testing import record

def suspend():
    subprocess.Popen(["sh", "-c", f"kill -STOP {os.getpid()}; sleep 2; kill -CONT {os.getpid()}"])

async def websocket():
    await asyncio.get_running_loop().create_future()

async def worker(queue):
    while True:
        with suppress(TimeoutError):
            await asyncio.wait_for(queue.get(), 0.2)

async def cron():
    while True:
        await asyncio.sleep(0.05)

async def holds(lock):
    while True:
        async with lock:
            await asyncio.sleep(0.01)

async def computes():
    while True:
        ends = time.thread_time() + 0.005
        while time.thread_time() < ends:
            pass
        await asyncio.sleep(0.01)

async def main():
    lock, queue = asyncio.Lock(), asyncio.Queue()
    programs = [websocket() for _ in range(20)] + [worker(queue), worker(queue), cron(), holds(lock), holds(lock), computes()]
    tasks = [asyncio.create_task(each) for each in programs]
    await asyncio.sleep(1)
    suspend()
    await asyncio.sleep(3)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)

new_loop = uvloop.new_event_loop if sys.argv[1] == "uvloop" else asyncio.new_event_loop
with record(settings=Settings(block_threshold=0.5, stuck_after=1)) as recorder:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
print([(span.name, dict(span.attributes)) for span in recorder.spans if "asyncio.problem" in span.attributes])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs Python on a system with SIGSTOP")
def test_a_process_that_stood_still_has_no_problem(loop_kind: str) -> None:
    command = [sys.executable, "-c", PROGRAM, loop_kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("hours", (9, -1))
def test_a_wall_clock_that_jumps_makes_no_wait_long(new_loop: NewLoop, spans: Spans, hours: int) -> None:
    jumped = 0

    async def poll(answer: asyncio.Event) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(answer.wait(), 0.2)

    async def main() -> None:
        nonlocal jumped
        waits = [asyncio.create_task(poll(asyncio.Event())) for _ in range(10)]
        await asyncio.sleep(0.05)
        jumped = hours * HOUR
        await asyncio.gather(*waits, asyncio.create_task(poll(asyncio.Event())))

    instrumentor = otel_asyncio.AsyncioInstrumentor()
    settings = otel_asyncio.Settings(stuck_after=10, block_threshold=5)
    clock = Clock(wall_ns=lambda: time.time_ns() + jumped)
    instrumentor.instrument(tracer_provider=spans.provider, settings=settings, clock=clock)
    try:
        run_on(new_loop, main())
    finally:
        instrumentor.uninstrument()
    assert len(spans.of("poll")) == 11
    for span in spans.all():
        assert "asyncio.problem" not in attributes(span)
        assert 0 <= (span.end_time or 0) - (span.start_time or 0) < 60 * 10**9
