"""A web service of a third-party framework in which requests are slow, each for a reason of its own.

`python slow_service.py aiohttp|starlette --loop asyncio|uvloop`: prints its port, serves until SIGTERM, prints its
spans as JSON. `/dependency` asks a server that takes its time, `/lock` does its work under one lock, `/pool` does it in a
pool with one thread, `/block` on the loop; `/deadline` gives up in time, `/cancelled` ends a task of its own.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from service import asgi_of, loop_factory

import otel_asyncio

SLOW = 0.3


class Slow:
    """The reasons."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.lock = asyncio.Lock()
        self.pool = ThreadPoolExecutor(1)

    async def dependency(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        await reader.readline()  # the dependency
        writer.close()

    async def locked(self) -> None:
        async with self.lock:  # the lock
            await asyncio.sleep(SLOW)

    async def pooled(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self.pool, time.sleep, SLOW)

    async def blocks(self) -> None:
        time.sleep(SLOW)  # the block

    async def gives_up(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(SLOW):  # the deadline
                await asyncio.sleep(3600)

    async def cancels(self) -> None:
        other = asyncio.create_task(asyncio.sleep(3600))
        await asyncio.sleep(0.01)
        other.cancel()  # the cancellation
        await asyncio.wait([other])

    def handlers(self) -> dict[str, Any]:
        slow = {"/dependency": self.dependency, "/lock": self.locked, "/pool": self.pooled, "/block": self.blocks}
        return {**slow, "/deadline": self.gives_up, "/cancelled": self.cancels}


async def takes_its_time(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(SLOW)
    writer.write(b"at last\n")
    writer.close()


@asynccontextmanager
async def aiohttp_app(slow: Slow, listener: socket.socket, provider: TracerProvider) -> AsyncIterator[None]:
    from aiohttp import web
    from opentelemetry.instrumentation.aiohttp_server import AioHttpServerInstrumentor

    AioHttpServerInstrumentor().instrument(tracer_provider=provider)

    def answering(work: Any) -> Any:
        async def handle(_: web.Request) -> web.Response:
            await work()
            return web.Response(text="found")

        return handle

    app = web.Application()
    for path, work in slow.handlers().items():
        app.router.add_get(path, answering(work))
    runner = web.AppRunner(app)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    yield
    await runner.cleanup()


@asynccontextmanager
async def starlette_app(slow: Slow, listener: socket.socket, provider: TracerProvider) -> AsyncIterator[None]:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    def answering(work: Any) -> Any:
        async def handle(_: Request) -> PlainTextResponse:
            await work()
            return PlainTextResponse("found")

        return handle

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    app = Starlette(routes=[Route(path, answering(work)) for path, work in slow.handlers().items()])
    server = Server(uvicorn.Config(asgi_of(app, provider), log_level="warning", lifespan="off"))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    yield
    server.should_exit = True
    await serving


async def serve(app: Any, provider: TracerProvider) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    dependency = await asyncio.start_server(takes_its_time, "127.0.0.1", 0)
    slow = Slow(dependency.sockets[0].getsockname()[1])
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    async with dependency, app(slow, listener, provider):
        print(listener.getsockname()[1], flush=True)
        await stop.wait()
    slow.pool.shutdown()


def main() -> None:
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    otel_asyncio.AsyncioInstrumentor().instrument(tracer_provider=provider)
    app = {"aiohttp": aiohttp_app, "starlette": starlette_app}[sys.argv[1]]
    with asyncio.Runner(loop_factory=loop_factory(sys.argv[3])) as runner:
        runner.run(serve(app, provider))
    otel_asyncio.AsyncioInstrumentor().uninstrument()
    print(json.dumps([json.loads(span.to_json()) for span in exporter.get_finished_spans()]))


if __name__ == "__main__":
    main()
