"""From a tracer provider to the way of making spans that fits it."""

from __future__ import annotations

import threading
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.trace import NoOpTracer, ProxyTracerProvider

from otel_asyncio.emit import names
from otel_asyncio.emit.api import ApiSpans
from otel_asyncio.emit.intervals import Intervals

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Tracer, TracerProvider

    from otel_asyncio.emit.requests import RequestSpans
    from otel_asyncio.emit.sdk import SdkSpans
    from otel_asyncio.observe.clock import Clock
    from otel_asyncio.observe.records import TaskRecord

SCOPE = "otel_asyncio"


def package_version() -> str:
    """The version of the instrumentation scope."""
    try:
        return version("otel-asyncio")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "unknown"


def _nobody() -> None:
    """No task is known to run."""


class Tracing:
    """The way of making spans, found when there is a provider: also one that the program sets later.

    `running`, once it is set, tells the record of the task that runs in this thread: what the request split needs,
    with the `clock`. `request_split` is the setting; `request_links`, whether a span without a local
    parent may call for the span of the root task that it was opened in.
    """

    def __init__(
        self,
        provider: TracerProvider | None,
        *,
        clock: Clock,
        request_split: bool,
        request_links: bool,
    ) -> None:
        self.provider = provider
        self.tracer: Tracer | None = None
        self.spans: SdkSpans | ApiSpans | None = None
        self.running: Callable[[], TaskRecord | None] = _nobody
        self._clock = clock
        self._request_split = request_split
        self._request_links = request_links
        self._requests: RequestSpans | None = None
        self._known = False
        self._lock = threading.Lock()

    def resolve(self) -> SdkSpans | ApiSpans | None:
        """The way of making spans; None as long as there is no provider that records."""
        if self._known:
            return self.spans
        provider: Any = self.provider or trace.get_tracer_provider()
        if isinstance(provider, ProxyTracerProvider):
            return None
        with self._lock:
            if not self._known:
                self._meet(provider)
        return self.spans

    def _meet(self, provider: Any) -> None:
        self.provider = provider
        self.tracer = provider.get_tracer(SCOPE, package_version(), schema_url=names.SCHEMA_URL)
        if not isinstance(self.tracer, NoOpTracer):
            self.spans = self._after_the_fact(provider) or ApiSpans(self.tracer)
        self._known = True

    def _after_the_fact(self, provider: Any) -> SdkSpans | None:
        """The fast way, where the tracer is the SDK's own and has the parts that it needs."""
        try:
            from otel_asyncio.emit import requests, sdk  # noqa: PLC0415 - other providers need not load the SDK
        except (ImportError, AttributeError, TypeError):
            return None
        if not sdk.supports(self.tracer):
            return None
        spans = sdk.SdkSpans(self.tracer)
        self._requests = requests.RequestSpans(
            spans,
            self.tracer,
            self.running,
            self._clock,
            Intervals(self),
            split=self._request_split,
            links=self._request_links,
        )
        provider.add_span_processor(self._requests)
        return spans

    def close(self) -> None:
        """Leave the provider as it was."""
        if self._requests is not None:
            self._requests.detach(self.provider)
            self._requests = None
        self.spans, self._known = None, True
