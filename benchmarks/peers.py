"""How other tools that look at asyncio tasks are made to do their real work, with nothing sent anywhere.

Where there is a choice, it is made in the peer's favour.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from subjects import Exporting, Subject
from workloads import WORKLOADS


class Contrib(Exporting):
    """opentelemetry-instrumentation-asyncio, which traces only the coroutine names it is told."""

    def __init__(self) -> None:
        super().__init__()
        from opentelemetry.instrumentation.asyncio import AsyncioInstrumentor

        names = {workload.body().__name__ for workload in WORKLOADS}
        os.environ["OTEL_PYTHON_ASYNCIO_COROUTINE_NAMES_TO_TRACE"] = ",".join(sorted(names))
        self.instrumentor = AsyncioInstrumentor()

    @contextmanager
    def installed(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        self.instrumentor.instrument(tracer_provider=self.provider)
        try:
            yield
        finally:
            self.instrumentor.uninstrument()


class Sentry(Subject):
    """sentry-sdk with the asyncio integration only, tracing everything, and a transport that counts spans."""

    def __init__(self) -> None:
        import sentry_sdk
        from sentry_sdk.envelope import Envelope
        from sentry_sdk.transport import Transport

        subject = self

        class Nowhere(Transport):
            def capture_envelope(self, envelope: Envelope) -> None:
                event = envelope.get_transaction_event() or {}
                subject.count += len(event.get("spans") or ())

        self.count = 0
        sentry_sdk.init(
            dsn="http://key@localhost/1",
            transport=Nowhere,
            traces_sample_rate=1.0,
            default_integrations=False,
            auto_enabling_integrations=False,
            _experiments={"max_spans": 1_000_000},
        )

    @contextmanager
    def surrounding(self) -> Iterator[None]:
        """The integration patches the running loop, and each round has its own: nothing to take back."""
        import sentry_sdk
        from sentry_sdk.integrations.asyncio import enable_asyncio_integration

        enable_asyncio_integration()
        with sentry_sdk.start_transaction(op="benchmark", name="request"):
            yield

    def sees(self, task: asyncio.Task[Any], coro: Coroutine[Any, Any, Any]) -> bool:
        return task.get_coro() is not coro

    def spans(self) -> int | None:
        return self.count


class Ddtrace(Subject):
    """ddtrace with its asyncio patch inside an active trace; finished traces are dropped, not sent."""

    def __init__(self) -> None:
        os.environ["DD_INSTRUMENTATION_TELEMETRY_ENABLED"] = "false"
        os.environ["DD_REMOTE_CONFIGURATION_ENABLED"] = "false"
        from ddtrace.trace import TraceFilter, tracer

        class Drop(TraceFilter):
            def process_trace(self, trace: list[Any]) -> None:
                return None

        tracer.configure(trace_processors=[Drop()])
        self.tracer = tracer
        self.integration = importlib.import_module("ddtrace.contrib.internal.asyncio.patch")

    @contextmanager
    def installed(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        self.integration.patch()
        try:
            yield
        finally:
            self.integration.unpatch()

    @contextmanager
    def surrounding(self) -> Iterator[None]:
        with self.tracer.trace("request"):
            yield

    def sees(self, task: asyncio.Task[Any], coro: Coroutine[Any, Any, Any]) -> bool:
        return task.get_coro() is not coro


class Aiomonitor(Subject):
    """aiomonitor with its task factory, for one round at a time: its thread must leave bare rounds alone."""

    @contextmanager
    def installed(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        import aiomonitor

        options = {"port": _free_port(), "webui_port": _free_port(), "console_enabled": False}
        with aiomonitor.start_monitor(loop=loop, hook_task_factory=True, **options):
            yield

    def sees(self, task: asyncio.Task[Any], coro: Coroutine[Any, Any, Any]) -> bool:
        return task.get_coro() is not coro


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
