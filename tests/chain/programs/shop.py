"""A shop whose traces the README of collector-config shows: a request of each kind, one after the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from faulty import exporters
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import otel_asyncio

tracer = trace.get_tracer("shop")


async def request(route: str, handler: Callable[[], Awaitable[None]]) -> None:
    with tracer.start_as_current_span(route, kind=trace.SpanKind.SERVER):
        await handler()


async def browse() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(load_items())
        group.create_task(load_prices())


async def load_items() -> None:
    await asyncio.sleep(0.03)


async def load_prices() -> None:
    await asyncio.sleep(0.02)


async def search() -> None:
    await query_index()


async def query_index() -> None:
    await asyncio.sleep(0.4)


async def invoice() -> None:
    await load_items()
    render_pdf()
    await load_prices()


def render_pdf() -> None:
    time.sleep(0.4)


async def checkout() -> None:
    await asyncio.create_task(reserve_stock())


async def reserve_stock() -> None:
    await asyncio.sleep(5)


async def pay() -> None:
    async with asyncio.timeout(0.3):
        await ask_bank()


async def ask_bank() -> None:
    await asyncio.sleep(5)


async def main() -> None:
    await request("GET /items", browse)
    await request("GET /search", search)
    await request("GET /invoice", invoice)
    buying = asyncio.create_task(request("POST /checkout", checkout))
    await asyncio.sleep(0.3)

    async def log_out() -> None:
        buying.cancel()

    await asyncio.create_task(request("POST /logout", log_out))
    paying = asyncio.create_task(request("POST /pay", pay))
    await asyncio.wait([buying, paying])


if __name__ == "__main__":
    provider = TracerProvider(resource=Resource.create())
    provider.add_span_processor(BatchSpanProcessor(exporters()[0]))
    trace.set_tracer_provider(provider)
    otel_asyncio.AsyncioInstrumentor().instrument()
    asyncio.run(main())
    provider.shutdown()
