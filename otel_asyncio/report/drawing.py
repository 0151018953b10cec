"""A trace as lines: names with guides, bars, durations, and what is to be said of each span."""

from __future__ import annotations

from collections.abc import Iterator

from rich.cells import cell_len
from rich.text import Text

from otel_asyncio.emit import names
from otel_asyncio.report.bars import cells
from otel_asyncio.report.facts import duration
from otel_asyncio.report.look import Glyphs, clip
from otel_asyncio.report.notes import notes
from otel_asyncio.report.otlp import Span
from otel_asyncio.report.tree import Fold, Row, Tree, rows

_DURATION = 8
_STYLES = {"busy": "bar.busy", "scheduled": "bar.scheduled", "idle": "bar.idle", "span": "bar.span", "": ""}


def drawing(tree: Tree, width: int, glyphs: Glyphs) -> Iterator[Text]:
    """The trace, one line a span, each as wide as the page at most."""
    yield _title(tree, width, glyphs)
    shown = list(rows(tree))
    labels = [_label(row, glyphs) for row in shown]
    column = min(max(map(cell_len, labels)), width * 2 // 5)
    bar = min(32, max(8, (width - column) // 3 - 4))
    start, end = tree.interval
    for row, label in zip(shown, labels, strict=True):
        if isinstance(row.what, Fold):
            yield Text(clip(f"{label}{_fold_length(row.what, glyphs)}", width, glyphs.dots), "page.quiet")
            continue
        line = Text(_padded(clip(label, column, glyphs.dots), column))
        line.stylize(_name_style(row.what), len(_guides(row, glyphs)))
        line.stylize("page.quiet", 0, len(_guides(row, glyphs)))
        line.append(f" {glyphs.edge}", "page.quiet").append_text(_bar(row.what, start, end, bar, glyphs))
        line.append(glyphs.edge, "page.quiet").append(_units(duration(row.what.duration), glyphs).rjust(_DURATION))
        yield _with_notes(line, row.what, width, glyphs)
    if tree.left_out:
        yield Text(f"{glyphs.dots} {tree.left_out} shorter spans of this trace are not shown", "page.quiet")


def legend(glyphs: Glyphs) -> Text:
    """What the bars mean."""
    text = Text().append("bars: ", "page.quiet")
    for state, meaning in (("busy", "running"), ("scheduled", "ready, the loop busy"), ("idle", "waiting")):
        text.append(str(getattr(glyphs, state)) * 2, _STYLES[state]).append(f" {meaning}  ", "page.quiet")
    return text.append("(shares, not moments)", "page.quiet")


def _title(tree: Tree, width: int, glyphs: Glyphs) -> Text:
    head = tree.head
    start, end = tree.interval
    where = f" {glyphs.dash} {head.service}" if head.service else ""
    tail = f" {glyphs.dash} {_units(duration(end - start), glyphs)}{where}"
    identity = f"trace {tree.trace_id} " if width >= 100 else f"trace {tree.trace_id[:8]} "
    name = clip(head.name, max(10, width - len(tail) - len(identity) - 2), glyphs.dots)
    return Text().append(identity, "page.quiet").append(name, "page.title").append(tail, "page.quiet")


def _label(row: Row, glyphs: Glyphs) -> str:
    """The name behind its guides."""
    if isinstance(row.what, Span):
        return _guides(row, glyphs) + row.what.name
    return f"{_guides(row, glyphs)}{glyphs.dots} {row.what.spans} more{' ' if row.what.name else ''}{row.what.name}"


def _guides(row: Row, glyphs: Glyphs) -> str:
    if not row.guides:
        return ""
    above = "".join(glyphs.through if more else glyphs.blank for more in row.guides[:-1])
    return above + (glyphs.branch if row.guides[-1] else glyphs.last)


def _fold_length(fold: Fold, glyphs: Glyphs) -> str:
    if not fold.longest:
        return ""
    return _units(f", {duration(fold.shortest)} to {duration(fold.longest)} each", glyphs)


def _name_style(span: Span) -> str:
    if names.PROBLEM in span.attributes:
        return "page.problem"
    return "" if span.name.startswith(("task ", "await ")) else "page.name"


def _bar(span: Span, start: int, end: int, width: int, glyphs: Glyphs) -> Text:
    text = Text()
    for what, count in cells(span, start, end, width):
        character: str = getattr(glyphs, what) if what else " "
        text.append(character * count, _STYLES[what])
    return text


def _with_notes(line: Text, span: Span, width: int, glyphs: Glyphs) -> Text:
    """As many of the notes as there is room for; the last one may be cut."""
    room = width - line.cell_len
    for at, (note, style) in enumerate(notes(span, glyphs)):
        gap = "  " if at == 0 else " "
        if room <= len(gap) + len(glyphs.dots):
            break
        text = clip(note, room - len(gap), glyphs.dots)
        line.append(gap).append(text, style)
        room -= len(gap) + cell_len(text)
    return line


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


def _units(text: str, glyphs: Glyphs) -> str:
    return text.replace("µ", glyphs.micro)
