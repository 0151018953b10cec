"""`otel-asyncio view`: saved OTLP JSON lines as a page."""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from otel_asyncio.cli.output import UsageError, console, need_extra, say
from otel_asyncio.report.otlp import BrokenLine, Span, read_spans

if TYPE_CHECKING:
    from rich.console import Console

    from otel_asyncio.report.page import Page
    from otel_asyncio.report.selection import Selection

_LARGE = 20_000_000
_STDIN = "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Files and filters."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="OTLP JSON lines, whoever wrote them; - for stdin")
    parser.add_argument("--trace", metavar="ID", help="the trace whose id begins with ID")
    parser.add_argument("--problem", metavar="WORD", help="traces with this asyncio.problem; any for all of them")
    parser.add_argument("--name", metavar="GLOB", help="traces with a span of this name")
    parser.add_argument("--service", metavar="NAME", help="traces with a span of this service.name")
    parser.add_argument("--min-duration", type=float, default=0, metavar="MS", help="traces with a span so long")
    parser.add_argument("--slowest", type=int, default=3, metavar="N", help="show the N slowest traces (default: 3)")
    parser.add_argument("--follow", action="store_true", help="wait for more spans, and show each trace as it ends")


def view(options: argparse.Namespace) -> int:
    """Print the page. 1 if something could not be read: what could be is shown all the same."""
    need_extra("view", "rich")
    from otel_asyncio.report.selection import Selection  # noqa: PLC0415 - the extra

    selection = Selection(
        trace=options.trace.lower() if options.trace else None,
        problem=options.problem,
        name=options.name,
        service=options.service,
        min_duration=round(options.min_duration * 1_000_000),
    )
    if options.follow:
        from otel_asyncio.cli.follow import follow  # noqa: PLC0415

        return follow(options.files, selection, console())
    broken: list[BrokenLine] = []
    gc.disable()  # reading makes no cycles, and a collection every few spans takes a third of the time
    with ExitStack() as stack:
        paths = [_spooled(stack) if name == _STDIN else Path(name) for name in options.files]
        console().print(page_of(paths, selection, options.slowest, broken, console(sys.stderr)))
    for line in broken:
        say(f"{line.source}:{line.number}: {line.reason}")
    return 1 if broken else 0


def page_of(
    paths: Sequence[Path],
    selection: Selection | None = None,
    slowest: int = 3,
    broken: list[BrokenLine] | None = None,
    progress: Console | None = None,
) -> Page:
    """The page of some files. `broken` takes the lines that cannot be read; `progress` shows how far a large one is."""
    from otel_asyncio.report.page import make_page  # noqa: PLC0415 - the extra

    size = sum(map(_size, paths))
    faults: list[BrokenLine] = broken if broken is not None else []
    with _Progress(progress if size > _LARGE else None, 2 * size) as bar:
        first = True

        def read(traces: Collection[str]) -> Iterator[Span]:
            nonlocal first
            found = faults if first else []  # the second reading finds the same
            first = False
            for path in paths:
                with path.open("rb") as file:
                    yield from read_spans(bar.counted(file), found, _name(path), traces)

        return make_page(read, selection, slowest)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None


def _name(path: Path) -> str:
    return "<stdin>" if path.name.startswith(_SPOOL) else str(path)


_SPOOL = "otel-asyncio-stdin-"


def _spooled(stack: ExitStack) -> Path:
    """Standard input as a file: it is read twice."""
    spool = stack.enter_context(tempfile.NamedTemporaryFile(prefix=_SPOOL))  # noqa: SIM115 - the stack is one
    for block in iter(lambda: sys.stdin.buffer.read(1 << 20), b""):
        spool.write(block)
    spool.flush()
    return Path(spool.name)


class _Progress:
    """A line that says how much is read, on a terminal, and goes away."""

    def __init__(self, target: Console | None, total: int) -> None:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn  # noqa: PLC0415 - the extra

        shown = target is not None and target.is_terminal
        columns = (TextColumn("reading spans"), BarColumn(), DownloadColumn())
        self._progress = Progress(*columns, console=target, transient=True, disable=not shown)
        self._task = self._progress.add_task("", total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def counted(self, file: IO[bytes]) -> Iterable[bytes]:
        """The lines of a file, counted as they are taken."""
        for line in file:
            self._progress.advance(self._task, len(line))
            yield line
