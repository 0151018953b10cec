"""The first reading of all spans: what is counted, what went wrong, and which traces are worth showing.

Whatever grows here is bounded by the size of the program's code, not by the number of its spans.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from otel_asyncio.emit import names
from otel_asyncio.report.facts import Place, code_place, created_place, place, raised_place, seconds
from otel_asyncio.report.otlp import Span
from otel_asyncio.report.selection import Selection

K = TypeVar("K")

GROUPS = 5_000
"""So many different findings, functions or waits are told apart at most."""

_MAIN = "main"
_GROUPS = ("ExceptionGroup", "BaseExceptionGroup")  # what they hold has left tasks of its own


@dataclass(slots=True)
class Finding:
    """What went wrong at one line, however often."""

    word: str
    place: Place | None
    worst: Span
    count: int = 0
    total: int = 0

    def add(self, span: Span) -> None:
        """One more time. An exception that leaves one task after the other is told once, by the first."""
        if self.word == "error" and self.count and self.worst.trace_id == span.trace_id:
            return
        self.count += 1
        self.total += span.duration
        if span.duration > self.worst.duration:
            self.worst = span


@dataclass(slots=True)
class Usage:
    """What the tasks of one name, or the waits at one line, took together: nanoseconds, and of tasks seconds."""

    place: Place | None
    count: int = 0
    total: int = 0
    worst: int = 0
    busy: float = 0
    scheduled: float = 0
    idle: float = 0
    longest_step: float = 0


@dataclass(slots=True)
class Survey:
    """What the page says, but for the trees."""

    spans: int = 0
    traces: int = 0
    errors: int = 0
    start: int = 0
    end: int = 0
    services: Counter[str] = field(default_factory=Counter)
    loops: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: dict[tuple[str, Place | None], Finding] = field(default_factory=dict)
    tasks: dict[str, Usage] = field(default_factory=dict)
    waits: dict[tuple[str, Place | None], Usage] = field(default_factory=dict)
    slow: dict[str, tuple[tuple[bool, int], str]] = field(default_factory=dict)
    """How slow, and the trace's id; a trace of the whole program is less than all others."""

    def problems(self) -> list[Finding]:
        """The problems of the contract, those first that took most time."""
        return sorted(
            (finding for finding in self.findings.values() if finding.word not in ("error", "cancelled")),
            key=lambda finding: -finding.total,
        )

    def others(self) -> list[Finding]:
        """Exceptions and cancellations, the most frequent first."""
        found = [finding for finding in self.findings.values() if finding.word in ("error", "cancelled")]
        return sorted(found, key=lambda finding: (-finding.count, -finding.total))

    def slowest(self) -> list[str]:
        """The ids of the slowest traces, slowest first."""
        return list(dict.fromkeys(trace_id for _, trace_id in sorted(self.slow.values(), reverse=True)))


def survey(spans: Iterable[Span], selection: Selection, slowest: int) -> Survey:
    """Read all spans once."""
    result = Survey()
    for span in spans:
        _count(result, span)
        if selection.admits(span):
            _find(result, span)
            if selection.is_narrow or span.is_local_root:
                # Asked for traces, show those asked for; else one of each kind, for they are much alike.
                _offer(result, span, span.trace_id if selection.is_narrow else span.name, slowest)
    return result


def _count(result: Survey, span: Span) -> None:
    result.spans += 1
    result.traces += span.is_local_root
    result.errors += span.failed
    result.start = min(result.start, span.start) if result.spans > 1 else span.start
    result.end = max(result.end, span.end)
    result.services[span.service] += 1
    attributes = span.attributes
    if names.EVENTLOOP_IMPLEMENTATION in attributes:
        result.loops[str(attributes[names.EVENTLOOP_IMPLEMENTATION])] += 1
    if names.TASK_OUTCOME in attributes:
        result.outcomes[str(attributes[names.TASK_OUTCOME])] += 1
        _use(result.tasks, span.name, span, created_place)
    elif names.AWAIT_TARGET in attributes and span.name.startswith("await "):
        _use(result.waits, (span.name, code_place(span)), span, code_place)


def _use(table: dict[K, Usage], key: K, span: Span, where: Callable[[Span], Place | None]) -> None:
    usage = table.get(key)
    if usage is None:
        if len(table) >= GROUPS:
            return
        usage = table[key] = Usage(where(span))
    usage.count += 1
    usage.total += span.duration
    usage.worst = max(usage.worst, span.duration)
    if names.TASK_BUSY_TIME in span.attributes:
        usage.busy += seconds(span, names.TASK_BUSY_TIME)
        usage.scheduled += seconds(span, names.TASK_SCHEDULED_TIME)
        usage.idle += seconds(span, names.TASK_IDLE_TIME)
        usage.longest_step = max(usage.longest_step, seconds(span, names.TASK_MAX_STEP_TIME))


def _find(result: Survey, span: Span) -> None:
    for word, where in _words(span):
        finding = result.findings.get((word, where))
        if finding is None:
            if len(result.findings) >= GROUPS:
                return
            finding = result.findings[word, where] = Finding(word, where, span)
        finding.add(span)


def _words(span: Span) -> Iterator[tuple[str, Place | None]]:
    """What went wrong in this span, and the line to blame."""
    attributes = span.attributes
    word = attributes.get(names.PROBLEM)
    if word is not None:
        yield str(word), created_place(span) if names.TASK_CREATED_FILE in attributes else code_place(span)
    elif attributes.get(names.CANCEL_EXPECTED) is False:
        by = place(attributes, names.CANCEL_BY_FILE, names.CANCEL_BY_LINE, names.CANCEL_BY_FUNCTION)
        yield "cancelled", by
    elif attributes.get(names.TASK_OUTCOME) == "error" and attributes.get(names.ERROR_TYPE) not in _GROUPS:
        yield "error", raised_place(span) or code_place(span)


def _offer(result: Survey, span: Span, key: str, slowest: int) -> None:
    """Keep the trace if it is one of the slowest so far; one of each key."""
    slow, rank = result.slow, (span.attributes.get(names.TASK_KIND) != _MAIN, span.duration)
    if key not in slow and len(slow) >= slowest:
        fastest = min(slow, key=lambda other: slow[other], default=None)
        if fastest is None or slow[fastest][0] >= rank:
            return
        del slow[fastest]
    if key not in slow or slow[key][0] < rank:
        slow[key] = rank, span.trace_id
