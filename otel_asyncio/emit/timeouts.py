"""Spans of scopes that expired: which one, what it waited on at that moment, and what its owner made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.trace import SpanContext

from otel_asyncio.emit import names
from otel_asyncio.emit.intervals import own_span
from otel_asyncio.emit.stacks import stacktrace
from otel_asyncio.observe.code import info_of
from otel_asyncio.observe.problems import ProblemKind
from otel_asyncio.observe.scopes import TimeoutOutcome
from otel_asyncio.observe.storms import Storms

if TYPE_CHECKING:
    from otel_asyncio.emit.intervals import Intervals
    from otel_asyncio.emit.problems import ProblemReporter
    from otel_asyncio.observe.chain import Chain
    from otel_asyncio.observe.counters import Counters
    from otel_asyncio.observe.scopes import Api, Expiry
    from otel_asyncio.observe.sites import Site

_SECOND = 1e9
_MOST_KEPT = 100  # for each of as many tasks
_PROBLEMS = {
    TimeoutOutcome.RAISED: (ProblemKind.TIMEOUT, "a deadline passed"),
    TimeoutOutcome.ABSORBED: (ProblemKind.CANCEL_SUPPRESSED, "a scope expired, and its cancellation never came back"),
}


class TimeoutSpans:
    """Makes the spans of scopes that expired."""

    def __init__(self, intervals: Intervals, problems: ProblemReporter, counters: Counters) -> None:
        self._intervals = intervals
        self._problems = problems
        self._counters = counters
        self._storms = Storms()
        self.kept: dict[Any, list[Expiry]] = {}
        """Those of tasks that may yet leave their place to a request."""
        self.omitted: dict[Any, tuple[int, Expiry, Any]] = {}
        """Of each line that owns scopes: how many were omitted in a storm; the last one, and the parent of its span."""

    def closed(self, record: Any) -> None:
        """The span of a task is closed: what was kept follows it, or goes."""
        for expiry in self.kept.pop(record, ()):
            if isinstance(record.span, SpanContext):
                self.emit(expiry, record.span)

    def _keep(self, expiry: Expiry) -> None:
        kept = self.kept.setdefault(expiry.record, [])
        if len(kept) < _MOST_KEPT and len(self.kept) < _MOST_KEPT:
            kept.append(expiry)
        else:
            self._counters.drop("span")

    def emit(self, expiry: Expiry, parent: Any) -> None:
        """The span of one scope, and the problem where it is one. `parent`: the program's span open on entering."""
        problem = _PROBLEMS.get(expiry.outcome) if expiry.outcome is not None else None
        kind: ProblemKind | None = problem[0] if problem is not None else None
        what = problem[1] if problem is not None else ""
        admitted = kind is not None and self._problems.admits(kind)
        record = expiry.record
        if (kind is not None and not admitted) or not (record.timed or admitted):
            return
        if kind is None and not self._storms.admits(place := _place(expiry), expiry.left):
            count = self.omitted[place][0] if place in self.omitted else 0
            self.omitted[place] = count + 1, expiry, parent
            return
        if self.omitted:
            self.flush()
        own: Any = record.span if record.timed else None
        if parent is None and hasattr(own, "yielded"):
            if not admitted and not own.yielded and not own.is_certain:
                self._keep(expiry)
                return
            own = None if own.yielded else own
        facts = _facts(expiry, kind)
        ids = self._span(expiry, parent or own, facts, what if kind is not None else None) if record.timed else None
        if admitted and kind is not None:
            self._problems.write(kind, what, _where(expiry), expiry.left - expiry.entered, facts.attributes(), ids)

    def flush(self) -> None:
        """One span for all that were omitted, of each line."""
        while self.omitted:
            _, (count, expiry, parent) = self.omitted.popitem()
            parent = parent or own_span(expiry.record)
            told = parent is not None  # else nobody wants to hear of the task
            self._counters.drop("span", count - told)
            if told:
                self._span(expiry, parent, _facts(expiry, None, count - 1))

    def _span(self, expiry: Expiry, parent: Any, facts: _Facts, error: str | None = None) -> Any:
        record, site = expiry.record, expiry.site
        return self._intervals.emit(
            names.timeout_span(site.code.co_qualname if site is not None else record.qualname),
            parent,
            record.wall_at(expiry.entered),
            record.wall_at(expiry.left),
            facts.attributes,
            error=error,
        )


def _place(expiry: Expiry) -> tuple[int, int]:
    return (0, 0) if expiry.site is None else (id(expiry.site.code), expiry.site.instruction)


class _Facts(NamedTuple):
    """What is told of a scope that expired, as it is now."""

    api: Api
    delay: float
    overrun: int
    outcome: TimeoutOutcome | None
    site: Site | None
    module: str | None
    """Of the line that owns the scope."""
    stack: Chain | None
    handler: Site | None
    kind: ProblemKind | None
    omitted: int | None
    """How many more it stands for; None where it stands for itself."""

    def attributes(self) -> dict[str, Any]:
        """Everything about it."""
        attributes: dict[str, Any] = {
            names.TIMEOUT_API: str(self.api),
            names.TIMEOUT_DELAY: self.delay,
            names.TIMEOUT_OVERRUN: self.overrun / _SECOND,
            names.TIMEOUT_OUTCOME: str(self.outcome),
        }
        if self.site is not None:
            code = self.site.code
            attributes[names.CODE_FUNCTION_NAME] = (
                f"{self.module}.{code.co_qualname}" if self.module else code.co_qualname
            )
            attributes[names.CODE_FILE_PATH], attributes[names.CODE_LINE_NUMBER] = code.co_filename, self.site.line
        if self.stack is not None:
            attributes[names.AWAIT_TARGET] = self.stack.target
            attributes[names.CODE_STACKTRACE] = stacktrace(self.stack.frames, self.stack.omitted)
        if self.outcome is TimeoutOutcome.RAISED:
            attributes[names.ERROR_TYPE] = "TimeoutError"
        if self.handler is not None:
            attributes[names.CANCEL_SUPPRESSED_FILE] = self.handler.code.co_filename
            attributes[names.CANCEL_SUPPRESSED_LINE] = self.handler.line
        if self.kind is not None:
            attributes[names.PROBLEM] = str(self.kind)
        if self.omitted is not None:
            attributes[names.TIMEOUT_OMITTED] = self.omitted
        return attributes


def _facts(expiry: Expiry, kind: ProblemKind | None, omitted: int | None = None) -> _Facts:
    site = expiry.site
    return _Facts(
        expiry.api,
        expiry.delay,
        expiry.left - expiry.expired,
        expiry.outcome,
        site,
        None if site is None else info_of(site.code).module,
        expiry.stack,
        expiry.handler,
        kind,
        omitted,
    )


def _where(expiry: Expiry) -> str:
    if expiry.handler is not None:
        return f"swallowed at {expiry.handler.code.co_filename}:{expiry.handler.line}"
    if expiry.site is not None:
        return f"{expiry.site.code.co_filename}:{expiry.site.line}"
    return "owner unknown"
