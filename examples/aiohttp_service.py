"""An aiohttp service and a client that drives it for two seconds; then both end, and their spans are out.

pip install aiohttp
python examples/aiohttp_service.py    # the names of the spans on standard output
OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 python examples/aiohttp_service.py
"""

import asyncio
import os
import sys
from collections import Counter

import aiohttp
from aiohttp import web
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

import otel_asyncio

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
SECONDS = 2.0
CLIENTS = 4
tracer = trace.get_tracer("quotes")


async def fetch_price(name: str) -> float:
    await asyncio.sleep(0.02)
    return float(len(name))


async def quote(_: web.Request) -> web.Response:
    """Asks for two prices at once: in the trace they lie side by side under the request's span."""
    with tracer.start_as_current_span("GET /quote", kind=trace.SpanKind.SERVER):
        async with asyncio.TaskGroup() as group:
            prices = [group.create_task(fetch_price(name)) for name in ("apples", "pears")]
        return web.json_response({"total": sum(price.result() for price in prices)})


async def start() -> tuple[web.AppRunner, str]:
    """The running service and the address of its one resource, on a port the system chose."""
    app = web.Application()
    app.router.add_get("/quote", quote)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    return runner, f"http://{host}:{port}/quote"


async def drive(session: aiohttp.ClientSession, url: str, counts: Counter[int]) -> None:
    while True:
        async with session.get(url) as response:
            await response.read()
            counts[response.status] += 1


async def main() -> None:
    """The deadline ends the clients: a timeout like this one is how the program is meant to stop."""
    counts: Counter[int] = Counter()
    runner, url = await start()
    try:
        async with asyncio.timeout(SECONDS), aiohttp.ClientSession() as session:
            await asyncio.gather(*(drive(session, url, counts) for _ in range(CLIENTS)))
    except TimeoutError:
        pass
    await runner.cleanup()
    print(f"answers by status: {dict(counts)}", file=sys.stderr)


def exporter() -> SpanExporter:
    """OTLP where the standard variables say so; one line per span on standard output otherwise."""
    if any(map(os.environ.get, ENDPOINTS)):
        return OTLPSpanExporter()
    return ConsoleSpanExporter(formatter=lambda span: f"{span.name}\n")


if __name__ == "__main__":
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter()))
    trace.set_tracer_provider(provider)
    otel_asyncio.AsyncioInstrumentor().instrument()
    asyncio.run(main())
    provider.shutdown()
