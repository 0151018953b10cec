"""`otel-asyncio view --follow`: each trace as it ends, for as long as somebody watches."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING

from otel_asyncio.cli.output import UsageError, say
from otel_asyncio.report.otlp import Span, spans_of_line
from otel_asyncio.report.page import OneTrace
from otel_asyncio.report.selection import Selection

if TYPE_CHECKING:
    from rich.console import Console

POLL_SECONDS = 0.2
SETTLED_SECONDS = 1.0
"""A trace is shown when its first span has come and nothing more of it for so long."""

WAITING = 1_000
"""So many traces wait for their first span at most."""


class Pending:
    """Traces that are not complete yet."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._spans: dict[str, list[Span]] = {}
        self._seen: dict[str, float] = {}

    def add(self, span: Span, now: float) -> None:
        """One more span."""
        if span.trace_id not in self._spans and len(self._spans) >= WAITING:
            oldest = next(iter(self._spans))
            del self._spans[oldest], self._seen[oldest]
        self._spans.setdefault(span.trace_id, []).append(span)
        self._seen[span.trace_id] = now

    def settled(self, now: float) -> Iterator[list[Span]]:
        """The traces that are complete, as far as one can tell, and were asked for."""
        for trace_id, last in list(self._seen.items()):
            spans = self._spans[trace_id]
            if now - last < SETTLED_SECONDS or not any(span.is_local_root for span in spans):
                continue
            del self._spans[trace_id], self._seen[trace_id]
            if any(map(self._selection.admits, spans)):
                yield spans


def follow(files: Sequence[str], selection: Selection, console: Console) -> int:
    """Show traces until Ctrl-C, or until standard input ends."""
    pending = Pending(selection)
    try:
        for line, number, source in _lines(files):
            now = time.monotonic()
            spans, fault = spans_of_line(line, number, source) if line else ([], None)
            for span in spans:
                pending.add(span, now)
            if fault is not None:
                say(f"{fault.source}:{fault.number}: {fault.reason}")
            for complete in pending.settled(now):
                console.print(OneTrace(complete))
        for complete in pending.settled(float("inf")):
            console.print(OneTrace(complete))
    except KeyboardInterrupt:
        return 130
    return 0


def _lines(files: Sequence[str]) -> Iterator[tuple[bytes, int, str]]:
    """Whole lines of all files, for ever; an empty one when there is nothing new."""
    if list(files) == ["-"]:
        yield from ((line, number, "<stdin>") for number, line in enumerate(sys.stdin.buffer, 1))
        return
    with ExitStack() as stack:
        followed = [_Followed(stack, Path(name)) for name in files]
        while True:
            new = [item for each in followed for item in each.new_lines()]
            yield from new
            if not new:
                yield b"", 0, ""
                time.sleep(POLL_SECONDS)


class _Followed:
    """One file that grows."""

    def __init__(self, stack: ExitStack, path: Path) -> None:
        try:
            self._file: IO[bytes] = stack.enter_context(path.open("rb"))
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from None
        self._name = str(path)
        self._begun = b""
        self._number = 0

    def new_lines(self) -> Iterator[tuple[bytes, int, str]]:
        """What has been completed since the last call."""
        for piece in self._file:
            self._begun += piece
            if self._begun.endswith(b"\n"):
                self._number += 1
                yield self._begun, self._number, self._name
                self._begun = b""
