"""A program with another tool's tracing of asyncio beside ours: prints both sides' accounts of its tasks as JSON.

`python composed.py sentry|ddtrace alone|ours|theirs instrumentor|factory asyncio|uvloop`: who comes first, if we come at
all, and our way in.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from otel_asyncio import AsyncioInstrumentor
from otel_asyncio.testing import Recorder

TASKS = 5


class Sentry:
    """sentry-sdk as its manual has it: `init` inside the loop, which then gets a task factory."""

    def __init__(self) -> None:
        self.spans: list[str] = []

    def install(self) -> None:
        import sentry_sdk
        from sentry_sdk.integrations.asyncio import AsyncioIntegration
        from sentry_sdk.transport import Transport

        told = self.spans

        class Nowhere(Transport):
            def capture_envelope(self, envelope: Any) -> None:
                event = envelope.get_transaction_event() or {}
                told.extend(span["description"] for span in event.get("spans") or ())

        sentry_sdk.init(
            dsn="http://key@localhost/1",
            transport=Nowhere,
            traces_sample_rate=1.0,
            default_integrations=False,
            auto_enabling_integrations=False,
            integrations=[AsyncioIntegration()],
        )

    def trace(self) -> Any:
        import sentry_sdk

        return sentry_sdk.start_transaction(op="test", name="request")


class Ddtrace:
    """ddtrace with its asyncio patch, which hands the active trace on to new tasks by wrapping their coroutines."""

    def __init__(self) -> None:
        self.spans: list[str] = []

    def install(self) -> None:
        os.environ["DD_INSTRUMENTATION_TELEMETRY_ENABLED"] = "false"
        os.environ["DD_REMOTE_CONFIGURATION_ENABLED"] = "false"
        from ddtrace import patch
        from ddtrace.trace import TraceFilter, tracer

        told = self.spans

        class Keep(TraceFilter):
            def process_trace(self, trace: list[Any]) -> None:
                told.extend(span.name for span in trace)

        tracer.configure(trace_processors=[Keep()])
        patch(asyncio=True)

    def trace(self) -> Any:
        from ddtrace.trace import tracer

        return tracer.trace("request")


async def child(number: int) -> int:
    await asyncio.sleep(0)
    return number


async def work(peer: Any) -> list[Any]:
    """Tasks by several ways, inside an open trace of the peer's."""
    with peer.trace():
        results = await asyncio.gather(*(asyncio.create_task(child(n), name=f"child {n}") for n in range(TASKS - 1)))
        async with asyncio.TaskGroup() as group:
            last = group.create_task(child(TASKS - 1))
        cancelled = asyncio.create_task(asyncio.sleep(60), name="cancelled")
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        coro = child(0)
        task = asyncio.create_task(coro)
        return [*results, await last, cancelled.cancelled(), await task, task.get_coro() is not coro]


async def main(peer: Any, order: str, install: Callable[[], None]) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    orders = {"alone": (peer.install,), "ours": (install, peer.install), "theirs": (peer.install, install)}
    for step in orders[order]:
        step()
    factory = loop.get_task_factory()
    results = await asyncio.create_task(work(peer))
    return {"results": results, "factory_kept": loop.get_task_factory() is factory}


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "uvloop":
        import uvloop

        return uvloop.new_event_loop
    return asyncio.new_event_loop


def run(peer_name: str, order: str, way: str, loop: str) -> dict[str, Any]:
    recorder, instrumentor = Recorder(), AsyncioInstrumentor()
    peer = {"sentry": Sentry, "ddtrace": Ddtrace}[peer_name]()

    def install() -> None:
        if way == "instrumentor":
            instrumentor.instrument(tracer_provider=recorder.tracer_provider)
        else:
            running = asyncio.get_running_loop()
            running.set_task_factory(recorder.task_factory(running.get_task_factory()))

    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        said = runner.run(main(peer, order, install))
        if instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.uninstrument()
    spans = [span for span in recorder.spans if span.name.startswith("task ")]
    spans = [span for span in spans if not span.name.endswith("_flush")]  # the peer's own, at the loop's end
    names = Counter(span.name for span in spans)
    outcomes = Counter(span.attributes["asyncio.task.outcome"] for span in spans)
    return {**said, "spans": names, "outcomes": outcomes, "theirs": peer.spans}


if __name__ == "__main__":
    print(json.dumps(run(*sys.argv[1:])))
