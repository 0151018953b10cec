"""Switch tracing on in every process of CPython's traced test run.

A `.pth` file of a throwaway venv imports this module when the interpreter starts. Unlike an environment
variable that also reaches the children which tests start with `-E`, `-I` or an environment of their own.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import traceback
from collections import deque
from collections.abc import Sequence
from pathlib import Path

NOTES = Path(__file__).with_name("traced_notes")
KEPT_SPANS = 1000


def _note(kind: str, text: str) -> None:
    """Leave a line for the runner: the process may not print, its output belongs to the test."""
    with (NOTES / f"{kind}-{os.getpid()}").open("a", encoding="utf-8") as notes:
        notes.write(text + "\n")


def _listen() -> None:
    """Hear of failures inside the package: it would log them, stop observing, and let every test pass.

    A filter, because a handler would also keep the package's other messages from reaching stderr.
    """

    def hear(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR:
            _note("internal", logging.Formatter().format(record))
        return True

    logging.getLogger("otel_asyncio").addFilter(hear)


def _install() -> None:
    """Instrument with the defaults of everything that runs on the loop; spans end in a bounded memory, in the thread that ends them."""
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

    from otel_asyncio import AsyncioInstrumentor, Settings

    class BoundedExporter(SpanExporter):
        """Keeps the last spans, so that whatever a span holds on to is held as in a real program."""

        def __init__(self) -> None:
            self.count = 0
            self.kept: deque[ReadableSpan] = deque(maxlen=KEPT_SPANS)

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            self.count += len(spans)
            self.kept.extend(spans)
            return SpanExportResult.SUCCESS

    exporter = BoundedExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    _listen()
    # Without the watchdog: a thread that comes and goes is a changed environment to these tests.
    settings = Settings(block_threshold=math.inf, stuck_after=math.inf)
    AsyncioInstrumentor().instrument(tracer_provider=provider, settings=settings)
    atexit.register(lambda: _note("spans", str(exporter.count)))


try:
    _install()
except Exception:  # noqa: BLE001 - whatever it was, the runner must hear of it: an untraced run proves nothing
    _note("error", traceback.format_exc())
