"""What the report reads of a span: the names of the contract, and how a value becomes words."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from otel_asyncio.emit import names
from otel_asyncio.report.otlp import Span, clean

_FRAME = re.compile(r'File "(?P<file>[^"]*)", line (?P<line>\d+), in (?P<function>\S+)')
_LIBRARY = re.compile(r"/lib(64)?/python3\.\d+t?/(?!site-packages|dist-packages)")
_UNITS = ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs"))


class Place(NamedTuple):
    """A line of the program."""

    file: str
    line: int
    function: str = ""

    @property
    def short(self) -> str:
        """File name and line, for where there is little room."""
        return f"{os.path.basename(self.file)}:{self.line}"  # noqa: PTH119 - the writer's file names, not ours

    @property
    def long(self) -> str:
        """The path that an editor opens: relative where it lies below the current folder."""
        return f"{_shortest(self.file)}:{self.line}"


@lru_cache(maxsize=1024)
def _shortest(file: str) -> str:
    for mark in ("/site-packages/", "/dist-packages/"):
        if mark in file:
            return file.rsplit(mark, 1)[1]
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except (ValueError, OSError):
        return file


def place(attributes: Mapping[str, Any], file: str, line: str, function: str = "") -> Place | None:
    """The line that these attributes name, if they do."""
    if file not in attributes:
        return None
    return Place(clean(attributes[file]), attributes.get(line, 0), clean(attributes.get(function, "")))


def code_place(span: Span) -> Place | None:
    """The line of `code.*`."""
    return place(span.attributes, names.CODE_FILE_PATH, names.CODE_LINE_NUMBER, names.CODE_FUNCTION_NAME)


def created_place(span: Span) -> Place | None:
    """The line that made the task."""
    return place(
        span.attributes, names.TASK_CREATED_FILE, names.TASK_CREATED_LINE, names.TASK_CREATED_FUNCTION
    )  # fmt: skip


def frames(span: Span) -> list[Place]:
    """The frames of `code.stacktrace`, innermost first, without those of the standard library."""
    return _frames(span.attributes.get(names.CODE_STACKTRACE, ""))


def raised_place(span: Span) -> Place | None:
    """The program's line that the exception of this span came from."""
    for name, attributes in span.events:
        if name == "exception" and (found := _frames(attributes.get(names.EXCEPTION_STACKTRACE, ""))):
            return found[0]
    return None


def _frames(text: Any) -> list[Place]:
    found = [Place(clean(file), int(line), clean(function)) for file, line, function in _FRAME.findall(str(text))]
    return [frame for frame in reversed(found) if not _LIBRARY.search(frame.file)]


def short_function(name: str) -> str:
    """`shop.Basket.load` of `code.function.name` without what is in front of the class."""
    return name.rpartition(".<locals>.")[2] if ".<locals>." in name else name.rpartition(".")[2]


def seconds(span: Span, name: str) -> float:
    """An attribute in seconds; 0 where it is not there."""
    value = span.attributes.get(name, 0.0)
    return float(value) if isinstance(value, (int, float)) else 0.0


def duration(nanoseconds: float) -> str:
    """A duration in three figures: `1.52 s`, `23.1 ms`, `8 µs`."""
    for size, unit in _UNITS:
        if nanoseconds >= size:
            value = nanoseconds / size
            digits = 2 if value < 10 else 1 if value < 100 else 0
            text = f"{value:.{digits}f}"
            return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {unit}"
    return "0 s" if nanoseconds < 1 else f"{nanoseconds:.0f} ns"
