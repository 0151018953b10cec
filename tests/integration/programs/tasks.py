"""Tasks of every shape that the OTLP tests ask for, exported by real exporters.

`python tasks.py asyncio|uvloop`; receiver, protocol and service name come from the standard variables.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
from collections.abc import Callable

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

import otel_asyncio

PAUSE = 0.01


async def work() -> None:
    await asyncio.sleep(PAUSE)
    await asyncio.create_task(nested())


async def nested() -> None:
    await asyncio.sleep(PAUSE)


async def gathered() -> None:
    await asyncio.sleep(PAUSE)


async def grouped() -> None:
    await asyncio.sleep(PAUSE)


async def failing() -> None:
    await asyncio.sleep(PAUSE)
    raise ValueError("wanted")


async def cancelled() -> None:
    await asyncio.Event().wait()


async def belated() -> None:
    await asyncio.sleep(PAUSE)


async def below_main() -> None:
    await asyncio.sleep(PAUSE)


async def request() -> None:
    """A user's span around everything a request may start, and one task that comes too late for it."""
    with trace.get_tracer("program").start_as_current_span("request"):
        context = contextvars.copy_context()
        await asyncio.create_task(work(), name="the work")
        await asyncio.gather(gathered(), gathered())
        async with asyncio.TaskGroup() as group:
            group.create_task(grouped())
        await asyncio.gather(asyncio.create_task(failing()), return_exceptions=True)
        await cancel(asyncio.create_task(cancelled()))
    await asyncio.create_task(belated(), context=context)


async def cancel(task: asyncio.Task[None]) -> None:
    await asyncio.sleep(PAUSE)
    task.cancel()
    await asyncio.wait([task])


async def plain_main() -> None:
    """No user's span anywhere: the task of `Runner.run` is a root, and its child lies below it."""
    await asyncio.create_task(below_main())


def exporter() -> SpanExporter:
    if os.environ["OTEL_EXPORTER_OTLP_PROTOCOL"] == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as OverGrpc

        return OverGrpc()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as OverHttp

    return OverHttp()


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "uvloop":
        import uvloop

        return uvloop.new_event_loop
    return asyncio.new_event_loop


def main() -> None:
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter()))
    trace.set_tracer_provider(provider)
    otel_asyncio.AsyncioInstrumentor().instrument(tracer_provider=provider)
    with asyncio.Runner(loop_factory=loop_factory(sys.argv[1])) as runner:
        runner.run(request())
        runner.run(plain_main())
    provider.shutdown()


if __name__ == "__main__":
    main()
