"""The ecosystem's file exporter on a file that processes share after a fork."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, cast

from opentelemetry.exporter.otlp.json.file import FileSpanExporter
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from otel_asyncio.cli.output import SpanFile


class FileExporter(SpanExporter):
    """One `FileSpanExporter` for each process: its lock may be held at the moment of a fork, for ever in the child."""

    def __init__(self, file: SpanFile) -> None:
        self._file = cast("IO[str]", file)
        self._process = os.getpid()
        self._exporter = FileSpanExporter(stream=self._file)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Append one line."""
        if self._process != os.getpid():
            self._process, self._exporter = os.getpid(), FileSpanExporter(stream=self._file)
        return self._exporter.export(spans)

    def shutdown(self) -> None:
        """Everything is written already."""

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Everything is written already."""
        return True
