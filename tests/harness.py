"""What the tests share: loops of each kind, providers of each flavour, and spans that can be asked for."""

from __future__ import annotations

import asyncio
import math
import re
import sys
from collections.abc import Callable, Coroutine
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import otel_asyncio
from otel_asyncio import AsyncioInstrumentor, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOP_KINDS = ("asyncio", "uvloop")
NewLoop = Callable[[], asyncio.AbstractEventLoop]
Program = Callable[[], Coroutine[Any, Any, Any]]

both_providers = pytest.mark.parametrize("provider_kind", ("sdk", "api"))
both_ways = pytest.mark.parametrize("way_in", ("instrumentor", "factory"))
asyncio_only = pytest.mark.parametrize("loop_kind", ("asyncio",))


def needs_python(*version: int) -> pytest.MarkDecorator:
    """For what an older interpreter cannot have at all: such a skip never counts as a failure."""
    reason = f"needs Python {'.'.join(map(str, version))}"
    return pytest.mark.skipif(sys.version_info < version, reason=reason)


def eager_factory() -> Any:
    """asyncio's own eager factory, on a loop that can have it."""
    return asyncio.eager_task_factory  # type: ignore[attr-defined,unused-ignore]


NO_EAGER_UVLOOP = (3, 13) <= sys.version_info < (3, 13, 3)
"""uvloop passes `eager_start=None` to every factory; asyncio's own refuses that before 3.13.3."""


def skip_where_bare_uvloop_cannot(loop_kind: str) -> None:
    if loop_kind == "uvloop" and NO_EAGER_UVLOOP:
        pytest.skip("needs Python 3.13.3: before, uvloop cannot have asyncio's eager factory, traced or not")


def loop_maker(kind: str) -> NewLoop:
    """What makes a loop of this kind."""
    if kind == "asyncio":
        return asyncio.new_event_loop
    try:
        import uvloop  # noqa: PLC0415 - it may be missing
    except ImportError:
        pytest.skip("uvloop is NOT INSTALLED: nothing is tested on it")
    return uvloop.new_event_loop


def run_on(new_loop: NewLoop, main: Coroutine[Any, Any, Any], *, debug: bool | None = None) -> Any:
    """Run a coroutine on a fresh loop."""
    with asyncio.Runner(loop_factory=new_loop, debug=debug) as runner:
        return runner.run(main)


class ApiTracer(trace.Tracer):
    """A tracer that is not the SDK's: only the API's methods are there."""

    def __init__(self, inner: trace.Tracer) -> None:
        self._inner = inner

    def start_span(self, *args: Any, **kwargs: Any) -> trace.Span:
        return self._inner.start_span(*args, **kwargs)

    def start_as_current_span(self, *args: Any, **kwargs: Any) -> Any:
        return self._inner.start_as_current_span(*args, **kwargs)


class ApiProvider(trace.TracerProvider):
    """A provider that is not the SDK's, so that the package has only the API to go through."""

    def __init__(self, inner: trace.TracerProvider) -> None:
        self._inner = inner

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        return ApiTracer(self._inner.get_tracer(*args, **kwargs))


class Spans:
    """A provider that exports into memory, and what it has exported."""

    def __init__(self, kind: str = "sdk", **provider: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.sdk = TracerProvider(shutdown_on_exit=False, **provider)
        self.sdk.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.provider: Any = self.sdk if kind == "sdk" else ApiProvider(self.sdk)
        self.tracer: trace.Tracer = self.provider.get_tracer("test")

    def all(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def names(self) -> list[str]:
        return [span.name for span in self.all()]

    def of(self, function: str) -> list[ReadableSpan]:
        """The spans of tasks of this function: by the last part of its qualified name."""
        return [
            span for span in self.all() if re.fullmatch(rf"task (.*\.)?{re.escape(function)}", span.name) is not None
        ]

    def task(self, function: str) -> ReadableSpan:
        """The one span of a task of this function."""
        found = self.of(function)
        assert len(found) == 1, (function, self.names())
        return found[0]

    def named(self, name: str) -> ReadableSpan:
        """The one span of this name."""
        found = [span for span in self.all() if span.name == name]
        assert len(found) == 1, (name, self.names())
        return found[0]


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def span_id(span: ReadableSpan | trace.Span) -> int:
    return span.get_span_context().span_id  # type: ignore[union-attr,no-any-return]


def parent_id(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def links(span: ReadableSpan) -> dict[Any, int]:
    """The span ids that are linked to, by `asyncio.link.type`."""
    return {(link.attributes or {}).get("asyncio.link.type"): link.context.span_id for link in span.links}


def quiet(**settings: Any) -> Settings:
    """Settings by which a noisy machine's pauses, in a test of something else, are no problem."""
    return Settings(**{"block_threshold": math.inf} | settings)


@contextmanager
def instrumented(spans: Spans, **settings: Any) -> Iterator[AsyncioInstrumentor]:
    """The whole process traced into these spans, and no longer."""
    instrumentor = AsyncioInstrumentor()
    instrumentor.instrument(tracer_provider=spans.provider, settings=quiet(**settings))
    try:
        yield instrumentor
    finally:
        instrumentor.uninstrument()


class TracedRun:
    """Runs a coroutine on a fresh loop, traced by one of the two ways in."""

    def __init__(self, way: str, new_loop: NewLoop, spans: Spans) -> None:
        self.way, self.new_loop, self.spans = way, new_loop, spans

    def __call__(
        self, main: Coroutine[Any, Any, Any], *, inner: Any = None, debug: bool | None = None, **settings: Any
    ) -> Any:
        if self.way == "instrumentor":
            with instrumented(self.spans, **settings):
                return run_on(self.loop_with(inner), main, debug=debug)
        return run_on(self.loop_with(self.factory(inner, **settings)), main, debug=debug)

    def factory(self, inner: Any = None, **settings: Any) -> Any:
        """What the program sets on a loop to have its tasks made by `inner` and, this way, traced."""
        if self.way == "instrumentor":
            return inner
        return otel_asyncio.task_factory(inner, tracer_provider=self.spans.provider, settings=quiet(**settings))

    def loop_with(self, factory: Any) -> NewLoop:
        """Makes loops with this task factory."""

        def new_loop() -> asyncio.AbstractEventLoop:
            loop = self.new_loop()
            if factory is not None:
                loop.set_task_factory(factory)
            return loop

        return new_loop


def without_numbers(text: str) -> str:
    """A repr or a log line without what differs between two runs of the same program."""
    return re.sub(r"Task-\d+", "Task-N", re.sub(r"0x[0-9a-f]+", "0x", re.sub(r"\d+\.\d+ sec", "S sec", text)))
