"""A shop's checkout behind aiohttp, driven for two seconds; then the slowest request's trace as a tree of text.

pip install aiohttp
python examples/checkout.py             # on asyncio
python examples/checkout.py --uvloop    # on uvloop

Each request asks for the user and the basket at once, then renders the page, and rendering is slow: it holds the loop.
In the trace, whoever had its answer and could not run meanwhile was *scheduled*, not idle.
"""

import asyncio
import sys
import time

import aiohttp
from aiohttp import web
from opentelemetry import trace

from otel_asyncio.testing import Recorder, record, render

SECONDS = 2.0
CLIENTS = 3


async def load_user() -> str:
    await asyncio.sleep(0.02)
    return "Ada"


async def load_basket() -> list[str]:
    await asyncio.sleep(0.03)
    return ["apples", "pears"]


async def render_page(user: str, basket: list[str]) -> str:
    time.sleep(0.03)
    return f"{user}: {', '.join(basket)}"


def application(tracer: trace.Tracer) -> web.Application:
    async def checkout(_: web.Request) -> web.Response:
        with tracer.start_as_current_span("GET /checkout", kind=trace.SpanKind.SERVER):
            user, basket = await asyncio.gather(load_user(), load_basket())
            page = await asyncio.create_task(render_page(user, basket))
        return web.Response(text=page)

    app = web.Application()
    app.router.add_get("/checkout", checkout)
    return app


async def client(session: aiohttp.ClientSession, url: str, until: float) -> int:
    count = 0
    while time.monotonic() < until:
        async with session.get(url) as response:
            await response.text()
        count += 1
    return count


async def serve_and_drive(tracer: trace.Tracer) -> int:
    runner = web.AppRunner(application(tracer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    until = time.monotonic() + SECONDS
    async with aiohttp.ClientSession() as session:
        url = f"http://{host}:{port}/checkout"
        counts = await asyncio.gather(*(client(session, url, until) for _ in range(CLIENTS)))
    await runner.cleanup()
    return sum(counts)


def show(recorder: Recorder, requests: int) -> None:
    """The trace of the slowest request, and how many spans there were."""
    spans = recorder.spans
    served = [span for span in spans if span.kind is trace.SpanKind.SERVER]
    slowest = max(served, key=lambda span: (span.end_time or 0) - (span.start_time or 0))
    trace_id = slowest.context.trace_id if slowest.context else None
    print(f"{requests} requests, {len(spans)} spans. The slowest request, in seconds since it began:\n")
    print(render([span for span in spans if span.context and span.context.trace_id == trace_id], digits=3))


if __name__ == "__main__":
    factory = None
    if "--uvloop" in sys.argv:
        import uvloop

        factory = uvloop.new_event_loop
    with record() as recorder, asyncio.Runner(loop_factory=factory) as runner:
        requests = runner.run(serve_and_drive(recorder.tracer_provider.get_tracer("shop")))
    show(recorder, requests)
