"""A web service of a third-party framework in which all is well, whatever its requests wait for.

`python healthy_service.py aiohttp|starlette|fastapi --loop asyncio|uvloop`: prints its port, serves until SIGTERM, prints
how many spans there were and the problems as JSON.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from service import loop_factory
from slow_service import APPS

import otel_asyncio

IMPORTED = {
    "aiohttp": ("aiohttp.web", "opentelemetry.instrumentation.aiohttp_server"),
    "starlette": (
        "opentelemetry.instrumentation.asgi", "starlette.applications", "starlette.responses", "starlette.routing",
        "uvicorn", "uvicorn.lifespan.off", "uvicorn.protocols.http.auto", "uvicorn.protocols.websockets.auto",
    ),
    "fastapi": (
        "fastapi.responses", "opentelemetry.instrumentation.fastapi", "uvicorn", "uvicorn.lifespan.off",
        "uvicorn.protocols.http.auto", "uvicorn.protocols.websockets.auto",
    ),
}  # fmt: skip
"""What would be imported on the loop, and block it: uvicorn does so when it starts."""


class Healthy:
    """What the requests do. Nobody else has to wait for long, and nothing hangs."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.jobs: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()

    async def worker(self) -> None:
        while True:
            (await self.jobs.get()).set_result(None)

    async def sleeps(self) -> None:
        await asyncio.sleep(0.02)

    async def computes(self) -> None:
        ends = time.perf_counter() + 0.003
        while time.perf_counter() < ends:
            pass

    async def locks(self) -> None:
        async with self.lock:
            await asyncio.sleep(0.002)

    async def in_thread(self) -> None:
        await asyncio.to_thread(time.sleep, 0.01)

    async def gathers(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.sleeps())
            group.create_task(self.locks())
        await asyncio.gather(self.sleeps(), self.in_thread())

    async def asks_worker(self) -> None:
        done = asyncio.get_running_loop().create_future()
        self.jobs.put_nowait(done)
        await done

    async def polls(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.get_running_loop().create_future(), 0.2)

    async def races(self) -> None:
        tasks = [asyncio.create_task(asyncio.sleep(delay)) for delay in (0.005, 60)]
        _, late = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in late:
            task.cancel()
        await asyncio.wait(late)

    def handlers(self) -> dict[str, Any]:
        own = (self.sleeps, self.computes, self.locks, self.in_thread, self.gathers, self.asks_worker, self.polls)
        return {f"/{each.__name__}": each for each in (*own, self.races)}


class Tally(SpanProcessor):
    """Counts spans, and keeps the problems."""

    def __init__(self) -> None:
        self.spans = 0
        self.problems: list[Any] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans += 1
        if "asyncio.problem" in (span.attributes or {}):
            self.problems.append(json.loads(span.to_json()))


async def serve(app: Any, provider: TracerProvider) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    healthy, listener = Healthy(), socket.create_server(("127.0.0.1", 0), backlog=1024)
    worker = asyncio.create_task(healthy.worker())
    async with app(healthy, listener, provider):
        print(listener.getsockname()[1], *healthy.handlers(), flush=True)
        await stop.wait()
    worker.cancel()


def main() -> None:
    for module in IMPORTED[sys.argv[1]]:
        importlib.import_module(module)
    provider, tally = TracerProvider(), Tally()
    provider.add_span_processor(tally)
    otel_asyncio.AsyncioInstrumentor().instrument(tracer_provider=provider)
    with asyncio.Runner(loop_factory=loop_factory(sys.argv[3])) as runner:
        runner.run(serve(APPS[sys.argv[1]], provider))
    otel_asyncio.AsyncioInstrumentor().uninstrument()
    print(json.dumps([tally.spans, tally.problems]))


if __name__ == "__main__":
    main()
