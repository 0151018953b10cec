"""A web service of FastAPI or aiohttp with contrib's server instrumentation, and three plain requests to it.

`python web.py fastapi|aiohttp`: one request waits for something, one computes, one waits for a loop that somebody else
holds. Nothing of it is written for tracing.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
import urllib.request
from typing import Any

from faulty import exporters
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import otel_asyncio

LONG = 0.3


async def wait() -> None:
    await asyncio.sleep(LONG)


async def compute() -> None:
    hold()


async def stand_in_line() -> None:
    asyncio.get_running_loop().call_soon(hold)  # somebody else's work
    await asyncio.sleep(0)


def hold() -> None:
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        pass


HANDLERS = {"/idle": wait, "/busy": compute, "/scheduled": stand_in_line}


def with_fastapi() -> Any:
    import fastapi
    import uvicorn
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    app = fastapi.FastAPI()
    for path, handler in HANDLERS.items():
        app.get(path)(handler)
    FastAPIInstrumentor.instrument_app(app)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))

    async def serve(listener: socket.socket) -> None:
        serving = asyncio.create_task(server.serve([listener]))
        await ask(listener)
        server.should_exit = True
        await serving

    return serve


def with_aiohttp() -> Any:
    from opentelemetry.instrumentation.aiohttp_server import AioHttpServerInstrumentor

    AioHttpServerInstrumentor().instrument()
    from aiohttp import web

    async def handle(request: Any) -> web.Response:
        await HANDLERS[request.path]()
        return web.Response()

    async def serve(listener: socket.socket) -> None:
        app = web.Application()
        app.add_routes([web.get(path, handle) for path in HANDLERS])
        runner = web.AppRunner(app)
        await runner.setup()
        await web.SockSite(runner, listener).start()
        await ask(listener)
        await runner.cleanup()

    return serve


async def ask(listener: socket.socket) -> None:
    for path in HANDLERS:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}{path}"
        await asyncio.to_thread(lambda url=url: urllib.request.urlopen(url, timeout=30).read())


def main() -> None:
    provider = TracerProvider(resource=Resource.create())
    provider.add_span_processor(BatchSpanProcessor(exporters()[0]))
    trace.set_tracer_provider(provider)
    otel_asyncio.AsyncioInstrumentor().instrument()
    serve = {"fastapi": with_fastapi, "aiohttp": with_aiohttp}[sys.argv[1]]()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        asyncio.run(serve(listener))
    provider.shutdown()


if __name__ == "__main__":
    main()
