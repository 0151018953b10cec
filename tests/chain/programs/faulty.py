"""A service with planted faults, instrumented as the README says, exporting traces and metrics over OTLP.

`python faulty.py FAULT…`: answers requests and commits its faults until SIGTERM, then prints what it did as JSON, a line for
each process. `--workers N` forks before anything of OpenTelemetry exists, as prefork servers do.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import gc
import json
import os
import signal
import sys
import time
import uuid
from collections import Counter
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import otel_asyncio

PAUSE = 0.01
BLOCK = 0.4
HANGS_AFTER = 5.0
tracer = trace.get_tracer("faulty")
done: Counter[str] = Counter()


async def look_up() -> str:
    await asyncio.sleep(PAUSE)
    return "found"


async def answer(work: Any = look_up) -> None:
    """One request: a SERVER span around one task of the service's own."""
    with tracer.start_as_current_span("GET /item", kind=trace.SpanKind.SERVER):
        await asyncio.create_task(work())
    done["requests"] += 1


async def fail() -> None:
    await asyncio.sleep(PAUSE)
    raise ValueError("planted")


async def wait_forever() -> None:
    await asyncio.Event().wait()


async def healthy() -> None:
    """What a healthy program does, too: a poll whose deadline passes, and a race whose loser is cancelled."""
    await answer(poll)
    await answer(race)


async def poll() -> None:
    try:
        await asyncio.wait_for(asyncio.Event().wait(), PAUSE)
    except TimeoutError:
        return


async def race() -> None:
    runners = [asyncio.create_task(look_up()), asyncio.create_task(wait_forever(), name="loser")]
    _, losers = await asyncio.wait(runners, return_when=asyncio.FIRST_COMPLETED)
    for loser in losers:
        loser.cancel()
    await asyncio.wait(losers)


async def failed() -> None:
    """A request that fails: its span is an ERROR."""
    await asyncio.gather(answer(fail), return_exceptions=True)


async def slow() -> None:
    """A request that takes longer than the sampler calls slow."""
    await answer(lambda: asyncio.sleep(2.2))


async def cancelled() -> None:
    """A request takes back another one: that one's task is cancelled from outside, by a task that did not make it."""
    request = asyncio.create_task(answer(wait_forever))
    await asyncio.sleep(PAUSE)
    await asyncio.create_task(give_up(request))


async def give_up(request: asyncio.Task[None]) -> None:
    with tracer.start_as_current_span("DELETE /item", kind=trace.SpanKind.SERVER):
        request.cancel()
        await asyncio.wait([request])


async def lost_exception() -> None:
    """A task fails and nobody ever asks."""
    await answer(start_and_forget)


async def start_and_forget() -> None:
    forgotten = asyncio.create_task(fail())
    await asyncio.wait([forgotten])
    del forgotten
    gc.collect()


async def destroyed() -> None:
    """A task that nobody holds waits for something that nobody holds."""
    await answer(lose_a_task)


async def lose_a_task() -> None:
    asyncio.create_task(wait_forever())
    await asyncio.sleep(PAUSE)
    gc.collect()


async def blocked() -> None:
    """A request that computes on the loop."""
    await answer(compute)


async def compute() -> None:
    end = time.thread_time() + BLOCK  # of the processor: time in which it is kept from one blocks nothing
    while time.thread_time() < end:
        pass


async def timed_out() -> None:
    """A deadline passes, and its TimeoutError leaves the function that set it."""
    await asyncio.gather(answer(with_deadline), return_exceptions=True)


async def with_deadline() -> None:
    async with asyncio.timeout(PAUSE):
        await wait_forever()


async def hanging() -> None:
    """A request that works, and then hangs."""
    await answer(hang)


async def hang() -> None:
    await asyncio.sleep(HANGS_AFTER)
    await wait_forever()


async def swallowed() -> None:
    """A request cancels a task that does not hear of it."""
    await answer(cancel_in_vain)


async def cancel_in_vain() -> None:
    stubborn = asyncio.create_task(swallow())
    await asyncio.sleep(PAUSE)
    stubborn.cancel()
    await stubborn


async def swallow() -> None:
    try:
        await wait_forever()
    except asyncio.CancelledError:
        await asyncio.sleep(0)
    await asyncio.sleep(BLOCK)


async def deadlocked() -> None:
    """Two requests take two locks in different orders; the others go on."""
    if not done["deadlocked"]:
        locks = asyncio.Lock(), asyncio.Lock()
        for order in (locks, locks[::-1]):
            kept.append(asyncio.create_task(answer(functools.partial(take, *order))))
    await asyncio.sleep(PAUSE)


async def take(first: asyncio.Lock, second: asyncio.Lock) -> None:
    async with first:
        await asyncio.sleep(HANGS_AFTER)
        async with second:
            pass


kept: list[asyncio.Task[None]] = []
FAULTS = {
    each.__name__: each
    for each in (
        *(healthy, failed, slow, cancelled, lost_exception, destroyed),
        *(blocked, timed_out, hanging, swallowed, deadlocked),
    )
}


async def serve(faults: list[str], pause: float, rounds: float) -> None:
    """Rounds of one request and the planted faults, until they are done or SIGTERM comes."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    while not stop.is_set() and done["rounds"] < rounds:
        done["rounds"] += 1
        await answer()
        for fault in faults:
            await FAULTS[fault]()
            done[fault] += 1
        await asyncio.sleep(pause)


def exporters() -> tuple[Any, Any]:
    """For spans and for metrics, over the protocol of the standard variable."""
    if os.environ["OTEL_EXPORTER_OTLP_PROTOCOL"] == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    else:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    return OTLPSpanExporter(), OTLPMetricExporter()


def work(faults: list[str], pause: float, rounds: float) -> None:
    """One process of the service. Its instance id keeps its series apart from those of its siblings."""
    resource = Resource.create({"service.instance.id": str(uuid.uuid4())})
    span_exporter, metric_exporter = exporters()
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(span_exporter))
    trace.set_tracer_provider(provider)
    meters = MeterProvider([PeriodicExportingMetricReader(metric_exporter)], resource=resource)
    metrics.set_meter_provider(meters)
    otel_asyncio.AsyncioInstrumentor().instrument()
    asyncio.run(serve(faults, pause, rounds))
    provider.shutdown()
    started = otel_asyncio.AsyncioInstrumentor().observation.counters.started
    meters.shutdown()
    print(json.dumps({"started": started, **done}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("faults", nargs="*", choices=[*FAULTS, []])
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--pause", type=float, default=0.05)
    parser.add_argument("--rounds", type=float, default=float("inf"))
    options = parser.parse_args()
    if not options.workers:
        return work(options.faults, options.pause, options.rounds)
    children = []
    for _ in range(options.workers):
        child = os.fork()
        if not child:
            work(options.faults, options.pause, options.rounds)
            sys.exit()
        children.append(child)
    signal.signal(signal.SIGTERM, lambda *_: [os.kill(child, signal.SIGTERM) for child in children])
    if any(os.waitpid(child, 0)[1] for child in children):
        sys.exit(1)
    return None


if __name__ == "__main__":
    main()
