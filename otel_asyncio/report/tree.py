"""The spans of one trace as a tree, and the tree as rows: what repeats itself is folded."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from otel_asyncio.emit import names
from otel_asyncio.report.otlp import Span

KEPT = 5_000
"""Of one trace so many spans are kept at most: those with problems, then the longest."""

ROWS = 40
ALIKE = 6
"""From so many siblings of one name on, only those that matter and the slowest are shown."""

_SHOWN_OF_ALIKE = 3


class Kept:
    """The spans of one trace, bounded."""

    def __init__(self) -> None:
        self._heap: list[tuple[tuple[bool, int], int, Span]] = []
        self.left_out = 0

    def add(self, span: Span) -> None:
        """Keep the span, or the one that matters least no longer."""
        item = (_weight(span), len(self._heap) + self.left_out, span)
        if len(self._heap) < KEPT:
            heapq.heappush(self._heap, item)
        else:
            heapq.heappushpop(self._heap, item)
            self.left_out += 1

    @property
    def spans(self) -> list[Span]:
        """What is kept, in no order."""
        return [span for _, _, span in self._heap]


class Fold(NamedTuple):
    """Siblings of one name that are not shown one by one; nanoseconds."""

    name: str
    spans: int
    shortest: int
    longest: int


class Row(NamedTuple):
    """One line: which ancestors have more children below, and what stands on it."""

    guides: tuple[bool, ...]
    what: Span | Fold


@dataclass(slots=True)
class Tree:
    """A trace: its first spans, and what lies under each."""

    trace_id: str
    roots: list[Span]
    children: dict[str, list[Span]] = field(default_factory=dict)
    left_out: int = 0

    @property
    def spans(self) -> Iterator[Span]:
        """All spans."""
        yield from self.roots
        for below in self.children.values():
            yield from below

    @property
    def head(self) -> Span:
        """The span that stands for the trace: the longest of the first."""
        return max(self.roots, key=lambda span: span.duration)

    @property
    def interval(self) -> tuple[int, int]:
        """From the first start to the last end."""
        return min(span.start for span in self.spans), max(span.end for span in self.spans)


def build(trace_id: str, spans: Iterable[Span], left_out: int = 0) -> Tree:
    """A tree; a span whose parent is not among them stands at the top."""
    by_id = {span.span_id: span for span in spans}  # one written twice counts once
    tree = Tree(trace_id, [], left_out=left_out)
    for span in sorted(by_id.values(), key=lambda span: (span.start, -span.end)):
        nested = span.parent_id in by_id and not _is_above(span, by_id)
        (tree.children.setdefault(span.parent_id, []) if nested else tree.roots).append(span)
    return tree


def _is_above(span: Span, by_id: dict[str, Span]) -> bool:
    """Whether a span is its own ancestor, which only a broken file says."""
    seen, at = {span.span_id}, by_id.get(span.parent_id)
    while at is not None:
        if at.span_id in seen:
            return True
        seen.add(at.span_id)
        at = by_id.get(at.parent_id)
    return False


def rows(tree: Tree, limit: int = ROWS) -> Iterator[Row]:
    """The tree from top to bottom, at most `limit` rows."""
    waiting: list[Row] = [Row((), what) for what in reversed(_folded(tree, tree.roots))]
    for _ in range(limit):
        if not waiting:
            return
        row = waiting.pop()
        yield row
        if isinstance(row.what, Span):
            below = _folded(tree, tree.children.get(row.what.span_id, []))
            waiting += reversed([Row((*row.guides, at < len(below) - 1), what) for at, what in enumerate(below)])
    hidden = sum(_size(tree, row.what) for row in waiting)
    if hidden:
        yield Row((), Fold("", hidden, 0, 0))


def _folded(tree: Tree, siblings: list[Span]) -> list[Span | Fold]:
    """Siblings in their order, with a fold in place of those of one name that do not matter."""
    by_name: dict[str, list[Span]] = {}
    for span in siblings:
        by_name.setdefault(span.name, []).append(span)
    hidden: dict[str, list[Span]] = {}
    for name, alike in by_name.items():
        if len(alike) >= ALIKE:
            hidden[name] = sorted(alike, key=lambda span: _weight_below(tree, span))[:-_SHOWN_OF_ALIKE]
    gone = {span.span_id for alike in hidden.values() for span in alike}
    shown: list[Span | Fold] = [span for span in siblings if span.span_id not in gone]
    for name, alike in hidden.items():
        lengths = [span.duration for span in alike]
        shown.append(Fold(name, len(alike), min(lengths), max(lengths)))
    return shown


def _weight(span: Span) -> tuple[bool, int]:
    return span.failed or names.PROBLEM in span.attributes, span.duration


def _weight_below(tree: Tree, span: Span) -> tuple[bool, int]:
    """A span matters if something in it does."""
    matters, length = _weight(span)
    return matters or any(_weight(below)[0] for below in _descendants(tree, span)), length


def _descendants(tree: Tree, span: Span) -> Iterator[Span]:
    waiting = [span]
    while waiting:
        below = tree.children.get(waiting.pop().span_id, ())
        yield from below
        waiting += below


def _size(tree: Tree, what: Span | Fold) -> int:
    return what.spans if isinstance(what, Fold) else 1 + sum(1 for _ in _descendants(tree, what))
