"""The whole page: two readings of the spans, then problems, traces and totals, for any console of rich."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from otel_asyncio.report.drawing import drawing, legend
from otel_asyncio.report.findings import findings
from otel_asyncio.report.look import ASCII, THEME, UNICODE, Glyphs, Indented
from otel_asyncio.report.otlp import Span
from otel_asyncio.report.selection import Selection
from otel_asyncio.report.survey import Survey, survey
from otel_asyncio.report.totals import head, totals
from otel_asyncio.report.tree import Kept, Tree, build

SLOWEST = 3
BROKEN = 5
_WIDEST = 160
_MUCH_LONGER = 1.25

Read = Callable[[Collection[str]], Iterable[Span]]
"""Gives the spans from the beginning, each time it is called: all, or at least those of some traces."""


@dataclass(slots=True)
class Page:
    """What there is to say about some spans. Print it with a console of rich, or as text with `str`."""

    survey: Survey
    trees: list[Tree]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The page in the width and the characters of a console."""
        glyphs = ASCII if options.ascii_only else UNICODE
        with console.use_theme(THEME):
            yield from self._lines(min(options.max_width, _WIDEST), glyphs)

    def _lines(self, width: int, glyphs: Glyphs) -> Iterator[Text | Indented]:
        if not self.survey.spans:
            yield Text("no spans", "page.quiet")
            return
        yield head(self.survey, glyphs)
        yield Text()
        yield from findings(self.survey, glyphs)
        if self.trees:
            yield Text()
            yield legend(glyphs)
        for tree in self.trees:
            yield Text()
            yield from drawing(tree, width, glyphs)
        yield Text()
        yield from totals(self.survey, width, glyphs)

    def __str__(self) -> str:
        console = Console(width=100, no_color=True, force_terminal=False)
        with console.capture() as capture:
            console.print(self)
        return capture.get()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """For notebooks."""
        console = Console(width=110, record=True, force_terminal=True, file=io.StringIO())
        console.print(self)
        return console.export_html(inline_styles=True, code_format="<pre style='line-height:1.2'>{code}</pre>")


class OneTrace:
    """The tree of one trace alone."""

    def __init__(self, spans: Iterable[Span]) -> None:
        kept = Kept()
        for span in spans:
            kept.add(span)
        trace_id = kept.spans[0].trace_id
        self._tree = build(trace_id, kept.spans, kept.left_out)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The tree in the width and the characters of a console."""
        with console.use_theme(THEME):
            yield from drawing(self._tree, min(options.max_width, _WIDEST), ASCII if options.ascii_only else UNICODE)
            yield Text()


def make_page(read: Read, selection: Selection | None = None, slowest: int = SLOWEST) -> Page:
    """Read the spans twice: once to see what matters, once to keep the traces that are shown."""
    selection = selection or Selection()
    found = survey(read(()), selection, slowest)
    chosen = _chosen(found, selection)
    if not chosen:
        return Page(found, [])
    kept: dict[str, Kept] = {trace_id: Kept() for trace_id in chosen}
    for span in read(chosen):
        if span.trace_id in kept:
            kept[span.trace_id].add(span)
    trees = [build(trace_id, each.spans, each.left_out) for trace_id, each in kept.items() if each.spans]
    return Page(found, trees if selection.is_narrow else list(_unlike(trees, found)))


def _unlike(trees: Iterable[Tree], found: Survey) -> Iterator[Tree]:
    """Without the slow ones that are much like one that is shown already, for what went wrong in it."""
    broken, longest = set(_broken(found)), dict[str, int]()
    for tree in trees:
        name, length = tree.head.name, tree.head.duration
        if tree.trace_id in broken or length > _MUCH_LONGER * longest.get(name, 0):
            longest[name] = max(length, longest.get(name, 0))
            yield tree


def _chosen(found: Survey, selection: Selection) -> list[str]:
    """The traces to show: the worst of each problem, then the slowest; each once."""
    slow = found.slowest()
    if selection.is_narrow:
        return slow
    return list(dict.fromkeys([*_broken(found), *slow]))


def _broken(found: Survey) -> list[str]:
    """The traces with the worst of what went wrong."""
    findings = (*found.problems(), *found.others())
    return list(dict.fromkeys(finding.worst.trace_id for finding in findings))[:BROKEN]
