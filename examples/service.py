"""A line-based service on plain asyncio: every request and every task it starts becomes a span.

    python examples/service.py            # spans on standard output
    OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 OTEL_SERVICE_NAME=look-up python examples/service.py

Then `echo Ada | nc localhost 8007`, and Ctrl-C to end it.
"""

import asyncio
import os
import signal

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

import otel_asyncio

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
tracer = trace.get_tracer("service")


async def look_up(name: str) -> str:
    await asyncio.sleep(0.02)
    return f"hello, {name}"


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One request a connection: both look-ups run at once, each under the request's span."""
    with tracer.start_as_current_span("request", kind=trace.SpanKind.SERVER):
        name = (await reader.readline()).decode().strip()
        greetings = await asyncio.gather(look_up(name), look_up("everybody"))
        writer.write("\n".join([*greetings, ""]).encode())
    writer.close()
    await writer.wait_closed()


async def serve() -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.set_task_factory(otel_asyncio.task_factory())  # the one line that traces this loop's tasks
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_number, stop.set)
    async with await asyncio.start_server(answer, "127.0.0.1", int(os.environ.get("PORT", "8007"))) as server:
        print("listening on", server.sockets[0].getsockname()[1], flush=True)
        await stop.wait()


if __name__ == "__main__":
    provider = TracerProvider()
    exporter = OTLPSpanExporter() if any(map(os.environ.get, ENDPOINTS)) else ConsoleSpanExporter()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    asyncio.run(serve())
    provider.shutdown()
