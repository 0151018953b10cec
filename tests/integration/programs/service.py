"""A web service of a third-party framework: every request starts one child task, and the service counts both.

`python service.py aiohttp|starlette ...`: prints its port, serves until SIGTERM, prints its counts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import otel_asyncio

Provider = TracerProvider | None
"""Of the server's own spans; None: the server is not instrumented."""


@dataclass
class Service:
    """The work of a request, whatever the framework: one task, awaited."""

    requests: int = 0
    look_ups: int = 0

    async def answer(self) -> str:
        self.requests += 1
        return await asyncio.create_task(self.look_up())

    async def look_up(self) -> str:
        await asyncio.sleep(0.001)
        self.look_ups += 1
        return "found"


@asynccontextmanager
async def aiohttp_app(service: Service, listener: socket.socket, provider: Provider) -> AsyncIterator[None]:
    from aiohttp import web

    if provider:
        from opentelemetry.instrumentation.aiohttp_server import AioHttpServerInstrumentor

        AioHttpServerInstrumentor().instrument(tracer_provider=provider)

    async def handle(_: web.Request) -> web.Response:
        return web.Response(text=await service.answer())

    app = web.Application()
    app.router.add_get("/", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    yield
    await runner.cleanup()


@asynccontextmanager
async def starlette_app(service: Service, listener: socket.socket, provider: Provider) -> AsyncIterator[None]:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def handle(_: Request) -> PlainTextResponse:
        return PlainTextResponse(await service.answer())

    app = Starlette(routes=[Route("/", handle)])
    async with uvicorn_server(asgi_of(app, provider), listener):
        yield


@asynccontextmanager
async def uvicorn_server(app: Any, listener: socket.socket) -> AsyncIterator[None]:
    """An ASGI application served by uvicorn on the running loop; a request that does not end is ended in a second."""
    import uvicorn

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            """The program takes SIGTERM itself: uvicorn would raise it again, before the spans are out."""
            yield

    server = Server(uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    yield
    server.should_exit = True
    await serving


def asgi_of(app: Any, provider: Provider) -> Any:
    """The application, inside contrib's ASGI middleware if the server's spans are wanted."""
    if provider is None:
        return app
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

    return OpenTelemetryMiddleware(app, tracer_provider=provider)


APPS = {"aiohttp": aiohttp_app, "starlette": starlette_app}


async def serve(options: argparse.Namespace, provider: TracerProvider) -> Service:
    """Announces the port once requests are taken, and stops at SIGTERM."""
    loop, stop, service = asyncio.get_running_loop(), asyncio.Event(), Service()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    async with APPS[options.app](service, listener, provider if options.server_spans else None):
        print(listener.getsockname()[1], flush=True)
        await stop.wait()
    return service


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "uvloop":
        import uvloop

        return uvloop.new_event_loop
    return asyncio.new_event_loop


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("app", choices=APPS)
    parser.add_argument("--loop", default="asyncio")
    parser.add_argument("--way", choices=("instrumentor", "factory"), default="instrumentor")
    parser.add_argument("--root-tasks", default="all")
    parser.add_argument("--server-spans", action="store_true")
    return parser.parse_args()


def main() -> None:
    options = parse()
    settings = replace(otel_asyncio.Settings.from_env(), root_tasks=options.root_tasks)
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    if options.way == "instrumentor":
        otel_asyncio.AsyncioInstrumentor().instrument(tracer_provider=provider, settings=settings)
    with asyncio.Runner(loop_factory=loop_factory(options.loop)) as runner:
        if options.way == "factory":
            factory = otel_asyncio.task_factory(tracer_provider=provider, settings=settings)
            runner.get_loop().set_task_factory(factory)
        service = runner.run(serve(options, provider))
    provider.shutdown()
    print(json.dumps({"requests": service.requests, "look_ups": service.look_ups}))


if __name__ == "__main__":
    main()
