"""A web service of a third-party framework in which requests are slow, each for a reason of its own.

`python slow_service.py aiohttp|starlette|fastapi --loop asyncio|uvloop`: prints its port, serves until SIGTERM, prints
its spans as JSON. `/dependency` asks a server that takes its time, `/lock` does its work under one lock, `/pool` does it
in a pool with one thread, `/block` on the loop; `/deadline` gives up in time, `/cancelled` ends a task of its own;
`/abandoned` never answers, until the server ends it: aiohttp when the caller has gone, uvicorn when it stops. `/hang`
answers when it has been told that it hangs. FastAPI alone has `/threads`, which runs in anyio's pool, of one thread.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from service import asgi_of, loop_factory, uvicorn_server

import otel_asyncio

SLOW = 0.3


class Slow:
    """The reasons."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.lock = asyncio.Lock()
        self.pool = ThreadPoolExecutor(1)
        self.told = asyncio.Event()

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

    async def lasts(self) -> None:
        await asyncio.sleep(3600)  # the end

    async def hangs(self) -> None:
        await self.told.wait()  # the hang

    def handlers(self) -> dict[str, Any]:
        return {
            "/dependency": self.dependency, "/lock": self.locked, "/pool": self.pooled, "/block": self.blocks,
            "/deadline": self.gives_up, "/cancelled": self.cancels, "/abandoned": self.lasts, "/hang": self.hangs,
        }  # fmt: skip


class Teller(SpanProcessor):
    """Lets go of what hangs as soon as that is told: had it to end first, it would hang for ever."""

    def __init__(self, told: asyncio.Event) -> None:
        self._told = told

    def on_end(self, span: ReadableSpan) -> None:
        if span.name == "asyncio.stuck":
            self._told.set()


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
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    yield
    await runner.cleanup()


@asynccontextmanager
async def starlette_app(slow: Slow, listener: socket.socket, provider: TracerProvider) -> AsyncIterator[None]:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    def answering(work: Any) -> Any:
        async def handle(_: Request) -> PlainTextResponse:
            await work()
            return PlainTextResponse("found")

        return handle

    app = Starlette(routes=[Route(path, answering(work)) for path, work in slow.handlers().items()])
    async with uvicorn_server(asgi_of(app, provider), listener):
        yield


@asynccontextmanager
async def fastapi_app(slow: Slow, listener: socket.socket, provider: TracerProvider) -> AsyncIterator[None]:
    """As FastAPI's manual has it: the slow dependency is a `Depends`, and around all of it is a middleware."""
    from anyio import to_thread
    from fastapi import Depends, FastAPI, Request
    from fastapi.responses import PlainTextResponse
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    def answering(work: Any) -> Any:
        async def handle() -> str:
            await work()
            return "found"

        return handle

    async def found() -> str:
        return "found"

    app = FastAPI(default_response_class=PlainTextResponse)

    @app.middleware("http")
    async def passes_on(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    for path, work in slow.handlers().items():
        if path == "/dependency":
            app.get(path, dependencies=[Depends(work)])(found)
        else:
            app.get(path)(answering(work))

    @app.get("/threads")
    def in_thread() -> str:
        time.sleep(SLOW)
        return "found"

    to_thread.current_default_thread_limiter().total_tokens = 1
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider)
    async with uvicorn_server(app, listener):
        yield


APPS = {"aiohttp": aiohttp_app, "starlette": starlette_app, "fastapi": fastapi_app}


async def serve(app: Any, provider: TracerProvider) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    dependency = await asyncio.start_server(takes_its_time, "127.0.0.1", 0)
    slow = Slow(dependency.sockets[0].getsockname()[1])
    provider.add_span_processor(Teller(slow.told))
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    async with dependency, app(slow, listener, provider):
        print(listener.getsockname()[1], flush=True)
        await stop.wait()
    slow.pool.shutdown()


def main() -> None:
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    otel_asyncio.AsyncioInstrumentor().instrument(tracer_provider=provider)
    with asyncio.Runner(loop_factory=loop_factory(sys.argv[3])) as runner:
        runner.run(serve(APPS[sys.argv[1]], provider))
    otel_asyncio.AsyncioInstrumentor().uninstrument()
    print(json.dumps([json.loads(span.to_json()) for span in exporter.get_finished_spans()]))


if __name__ == "__main__":
    main()
