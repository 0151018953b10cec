"""A service that is well, under load: what it was told of is all false.

    python tests/healthy/mixed_load.py [--seconds 600] [--uvloop] [--crowded]

Requests over sockets, workers that poll a queue, a lock that many want, work in threads, timers, garbage, idle
connections; no step computes for more than a few milliseconds. `--crowded`: beside two processes for each processor that
compute without end. Prints what was done and every problem; exit status 1 if there was one.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import logging
import os
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from typing import Any

from opentelemetry.sdk.trace import TracerProvider

import otel_asyncio

CONNECTIONS, WORKERS, IDLE, THREADS = 10, 5, 200, 3
PATIENT = 300
"""Seconds for a client's answer: a machine may be slow, and a service that takes no more than its share is well."""


def computes(seconds: float) -> None:
    started = time.thread_time()
    while time.thread_time() - started < seconds:
        pass


class Service:
    """Everything that goes on, and how often it did."""

    def __init__(self, tracer: Any) -> None:
        self.tracer = tracer
        self.lock = asyncio.Lock()
        self.jobs: asyncio.Queue[int] = asyncio.Queue()
        self.done = dict.fromkeys(("requests", "jobs", "threads", "timers", "collections"), 0)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while line := await reader.readline():
                with self.tracer.start_as_current_span("GET /"):
                    async with self.lock:
                        await asyncio.sleep(0)
                    computes(0.001)
                    await asyncio.gather(*(asyncio.sleep(0.005) for _ in range(3)))
                    writer.write(line)
                    await writer.drain()
            writer.close()
            await writer.wait_closed()

    async def ask(self, port: int) -> None:
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for _ in range(20):
                writer.write(b"?\n")
                async with asyncio.timeout(PATIENT):
                    await reader.readline()
                self.done["requests"] += 1
                await asyncio.sleep(0.1)
            writer.close()
            await writer.wait_closed()

    async def produce(self) -> None:
        for number in itertools.count():
            self.jobs.put_nowait(number)
            await asyncio.sleep(0.02)

    async def work(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.jobs.get(), 0.1)
                with self.tracer.start_as_current_span("job"):
                    computes(0.002)
                    await asyncio.sleep(0.01)
                self.done["jobs"] += 1

    async def use_threads(self) -> None:
        while True:
            with self.tracer.start_as_current_span("thread"):
                await asyncio.to_thread(time.sleep, 0.02)
                await asyncio.to_thread(computes, 0.002)
            self.done["threads"] += 1
            await asyncio.sleep(0.1)

    def tick(self) -> None:
        computes(0.001)
        self.done["timers"] += 1
        asyncio.get_running_loop().call_later(0.05, self.tick)

    async def make_garbage(self) -> None:
        while True:
            for _ in range(1_000):
                cycle: list[Any] = []
                cycle.append(cycle)
            gc.collect(0)
            self.done["collections"] += 1
            await asyncio.sleep(0.5)

    async def idle(self) -> None:
        await asyncio.Event().wait()

    async def run(self, seconds: float) -> None:
        server = await asyncio.start_server(self.answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        self.tick()
        each = [(self.ask, (port,), CONNECTIONS), (self.work, (), WORKERS), (self.idle, (), IDLE)]
        each += [(self.use_threads, (), THREADS), (self.produce, (), 1), (self.make_garbage, (), 1)]
        tasks = [asyncio.create_task(function(*arguments)) for function, arguments, n in each for _ in range(n)]
        finished, _ = await asyncio.wait(tasks, timeout=seconds)
        for task in finished:
            task.result()
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


class Told(logging.Handler):
    """What the package has said."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{time.strftime('%T')} {record.getMessage()}")


def crowd(undo: ExitStack) -> None:
    """Two processes for each processor that compute without end."""
    for _ in range(2 * (os.cpu_count() or 1)):
        spinner = undo.enter_context(subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]))
        undo.callback(spinner.kill)


def watched(seconds: float, new_loop: Any) -> tuple[dict[str, int], list[str]]:
    """What was done in so many seconds, with the settings as they come, and what was said of it."""
    provider, told = TracerProvider(), Told()
    logger, instrumentor = logging.getLogger("otel_asyncio"), otel_asyncio.AsyncioInstrumentor()
    logger.addHandler(told)
    instrumentor.instrument(tracer_provider=provider)
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:

            async def main() -> Service:
                service = Service(provider.get_tracer("service"))
                await service.run(seconds)
                return service

            return runner.run(main()).done, told.lines
    finally:
        instrumentor.uninstrument()
        logger.removeHandler(told)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--crowded", action="store_true")
    options = parser.parse_args()
    with ExitStack() as undo:
        if options.crowded:
            crowd(undo)
        kind = __import__("uvloop" if options.uvloop else "asyncio")
        done, told = watched(options.seconds, kind.new_event_loop)
    print(f"{kind.__name__}, {'crowded' if options.crowded else 'by itself'}, {options.seconds:g} s: {done}")
    print(*told, f"{len(told)} problems", sep="\n")
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main())
