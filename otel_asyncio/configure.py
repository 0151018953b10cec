"""OpenTelemetry for a program that has not set it up: a provider and exporters by the standard variables, one call."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, trace

from otel_asyncio.ending import EXIT_SECONDS, Ending, within
from otel_asyncio.environment import Exports, exports
from otel_asyncio.instrumentor import AsyncioInstrumentor
from otel_asyncio.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

    from otel_asyncio.report.page import Page

KEPT_IN_A_SESSION = 10_000
TERMINATION_SECONDS = 2.0
"""So long the spans may take to leave when SIGTERM ends the process."""

_SAID_OTHERWISE = (
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT",
)
logger = logging.getLogger("otel_asyncio")


class Telemetry:
    """What `configure` set up."""

    def __init__(self, provider: TracerProvider | None, kept: deque[ReadableSpan] | None) -> None:
        self.tracer_provider = provider
        self.last_words: Callable[[], None] | None = None
        """Called when SIGTERM ends the process, after the last spans have left."""
        self._kept = kept

    def __repr__(self) -> str:
        kept = f", keeps {self._kept.maxlen} spans" if self._kept is not None else ""
        return f"<otel_asyncio telemetry: {'on' if self.tracer_provider is not None else 'disabled'}{kept}>"

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """The spans kept for `render`, oldest first."""
        return tuple(self._kept or ())

    @property
    def keeps_spans(self) -> bool:
        """Whether spans are kept in memory."""
        return self._kept is not None

    def flush(self, seconds: float = TERMINATION_SECONDS) -> bool:
        """Send what has ended so far; False if that took longer than `seconds`.

        Works also in a signal handler: another thread does it, so that a lock that the interrupted code holds costs
        time and nothing else.
        """
        provider = self.tracer_provider
        return provider is None or within(seconds, lambda: provider.force_flush(int(seconds * 1000)))


_telemetry: Telemetry | None = None


def configure(
    *,
    settings: Settings | None = None,
    service_name: str | None = None,
    keep_spans: int | None = None,
    exporters: Sequence[tuple[SpanExporter, Mapping[str, Any]]] | None = None,
) -> Telemetry:
    """Set OpenTelemetry up by the standard `OTEL_*` variables and trace asyncio: all that a program needs.

    Spans go out in batches, the rest when the process exits, and when SIGTERM ends it. Where nobody takes them, the
    exit waits for 5 s, or with `OTEL_EXPORTER_OTLP_TIMEOUT` set as long as the SDK does. A program that has a tracer
    provider already wants `AsyncioInstrumentor().instrument()` instead. A second call changes nothing.

    Args:
        settings: what is recorded; default: the environment's, `Settings.from_env()`.
        service_name: `service.name`, where neither `OTEL_SERVICE_NAME` nor `OTEL_RESOURCE_ATTRIBUTES` gives one;
            default: the program's name.
        keep_spans: so many spans, the latest, are kept in memory for `render`; default: 10 000 in an interactive
            session, such as a notebook, and none in a program.
        exporters: span exporters in place of the environment's, each with the arguments for its `BatchSpanProcessor`.

    Raises:
        ValueError: a variable is wrong, or two contradict each other; the message names them.
        RuntimeError: the program has set OpenTelemetry up itself.
    """
    global _telemetry  # noqa: PLW0603 - so is the provider that this sets
    if _telemetry is not None:
        return _telemetry
    wanted = exports(os.environ)
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        raise RuntimeError(  # noqa: TRY004 - it is no argument's type
            "the program has a tracer provider already: call AsyncioInstrumentor().instrument() instead of configure()"
        )
    if wanted.disabled:
        _telemetry = Telemetry(None, None)
        return _telemetry
    interactive = hasattr(sys, "ps1")
    patience = None if exporters is not None or any(map(os.environ.get, _SAID_OTHERWISE)) else EXIT_SECONDS
    if exporters is None:
        exporters = (
            [] if interactive and not wanted.named else [(_load("traces", name)(), {}) for name in wanted.traces]
        )
    kept = _room(keep_spans, interactive=interactive)
    resource = _resource(service_name)
    _telemetry = Telemetry(_tracer_provider(resource, exporters, kept), kept)
    meters = _meter_provider(resource, wanted)
    ending = Ending(_telemetry, [each for each in (_telemetry.tracer_provider, meters) if each is not None], patience)
    atexit.register(ending.at_exit)
    AsyncioInstrumentor().instrument(settings=settings)
    ending.take_termination()
    return _telemetry


def render(*, slowest: int = 3) -> Page:
    """What the kept spans say: problems, the trees of the slowest and the broken traces, totals.

    The page prints as text, shows in colour in a notebook, and goes to any console of rich. Needs the extra `cli`.

    Raises:
        RuntimeError: no spans are kept: `configure()` was not called, or called with `keep_spans=0`.
        ModuleNotFoundError: the extra `cli` is not installed.
    """
    if _telemetry is None or not _telemetry.keeps_spans:
        raise RuntimeError("no spans are kept: call otel_asyncio.configure(keep_spans=10_000) first")
    from opentelemetry.exporter.otlp.json.common.trace_encoder import encode_spans  # noqa: PLC0415 - the extra `cli`

    from otel_asyncio.report.otlp import spans_of_request  # noqa: PLC0415
    from otel_asyncio.report.page import make_page  # noqa: PLC0415

    request = encode_spans(_telemetry.spans).to_dict()
    return make_page(lambda _: spans_of_request(request), slowest=slowest)


def program_name(argv: Sequence[str], main: Any) -> str:
    """A name for the program: that of its file, or of its package where it was started as a module."""
    package = getattr(getattr(main, "__spec__", None), "name", None)
    if package and package != "__main__":
        return str(package).removesuffix(".__main__")
    path = Path(argv[0]) if argv and argv[0] not in ("", "-", "-c") else Path("python")
    return (path.parent.name if path.name == "__main__.py" else path.stem) or "python"


def _resource(service_name: str | None) -> Resource:
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415 - only where it is set up

    resource = Resource.create()  # reads OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES
    if not str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        return resource
    name = service_name or program_name(sys.argv, sys.modules.get("__main__"))
    return resource.merge(Resource({SERVICE_NAME: name}))


def _room(keep_spans: int | None, *, interactive: bool) -> deque[ReadableSpan] | None:
    count = keep_spans if keep_spans is not None else KEPT_IN_A_SESSION if interactive else 0
    if count < 0:
        raise ValueError(f"keep_spans={count!r}: expected a number of spans, 0 or more")
    return deque(maxlen=count) if count else None


def _tracer_provider(
    resource: Resource, exporters: Iterable[tuple[SpanExporter, Mapping[str, Any]]], kept: deque[ReadableSpan] | None
) -> TracerProvider:
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - only where it is set up
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    # The sampler and the limits are the environment's.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    for exporter, options in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter, **options))
    if kept is not None:
        from otel_asyncio.keeping import Keeping  # noqa: PLC0415

        provider.add_span_processor(Keeping(kept))
    trace.set_tracer_provider(provider)
    return provider


def _meter_provider(resource: Resource, wanted: Exports) -> MeterProvider | None:
    if not wanted.metrics:
        return None
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415
    from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader  # noqa: PLC0415

    readers = []
    for name in wanted.metrics:
        made = _load("metrics", name)()
        readers.append(made if isinstance(made, MetricReader) else PeriodicExportingMetricReader(made))
    provider = MeterProvider(metric_readers=readers, resource=resource, shutdown_on_exit=False)
    metrics.set_meter_provider(provider)
    return provider


def _load(signal_name: str, name: str) -> Callable[[], Any]:
    """The exporter of an entry point: nothing else is imported, gRPC for one."""
    (found,) = entry_points(group=f"opentelemetry_{signal_name}_exporter", name=name)
    return found.load()  # type: ignore[no-any-return]
