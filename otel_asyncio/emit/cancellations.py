"""Spans of cancellations: who asked, why, where it hit, and what became of it; a storm of them in a few."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.trace import SpanContext

from otel_asyncio.emit import names
from otel_asyncio.emit.attributes import code_attributes
from otel_asyncio.emit.intervals import link_to, own_span
from otel_asyncio.emit.stacks import stacktrace
from otel_asyncio.observe.cancellation import Fate, Origin, Via
from otel_asyncio.observe.problems import ProblemKind

if TYPE_CHECKING:
    from otel_asyncio.emit.intervals import Intervals, LinkTo
    from otel_asyncio.emit.problems import ProblemReporter
    from otel_asyncio.observe.bursts import Burst
    from otel_asyncio.observe.cancellation import Cancellation, Request
    from otel_asyncio.observe.chain import Chain, Frame
    from otel_asyncio.observe.code import CodeInfo
    from otel_asyncio.observe.counters import Counters
    from otel_asyncio.observe.loops import LoopState
    from otel_asyncio.observe.shutdown import Shutdown
    from otel_asyncio.observe.sites import Site

_SECOND = 1e9
_MOST_BURSTS = 100


class CancelSpans:
    """Makes the spans of cancellations."""

    def __init__(self, intervals: Intervals, problems: ProblemReporter, counters: Counters, *, wants_all: bool) -> None:
        self._intervals = intervals
        self._problems = problems
        self._counters = counters
        self._wants_all = wants_all
        self._omitted: dict[Any, list[Any]] = {}
        """Of each origin and line that asked (or coroutine that raised it): how many were omitted, and the last one."""

        self._bursts: list[Burst] = []

    @property
    def keeps(self) -> bool:
        """Whether anything is left for the next flush."""
        return bool(self._omitted or self._bursts)

    def collect(self, burst: Burst) -> None:
        """Tell of this burst when the next flush comes."""
        self._bursts.append(burst)
        if len(self._bursts) >= _MOST_BURSTS:
            self._fold()

    def _fold(self) -> None:
        while self._bursts:
            self._omit(*self._bursts.pop().told())

    def _omit(self, record: Any, cancellation: Cancellation, count: int = 1) -> None:
        root = cancellation.first.root
        place: Any = (id(root.site.code), root.site.instruction) if root.site is not None else None
        if root.origin is Origin.SELF:
            place = id(record.code)
        omitted = self._omitted.setdefault((root.origin, place), [0, None, None])
        omitted[0] += count
        omitted[1:] = record, cancellation

    def flush(self) -> None:
        """One span for all that were omitted, of each origin and line that asked."""
        self._fold()
        while self._omitted:
            _, (count, record, cancellation) = self._omitted.popitem()
            self._counters.drop("span", count - 1)
            self._span(record, cancellation, omitted=count - 1)

    def emit(self, record: Any, cancellation: Cancellation) -> None:
        """The span of one cancellation, and the problem where it was suppressed."""
        suppressed = cancellation.fate is Fate.SUPPRESSED
        admitted = suppressed and self._problems.admits(ProblemKind.CANCEL_SUPPRESSED)
        if suppressed and not admitted:
            return
        if not record.timed:
            if admitted:
                self._write(cancellation, _facts(cancellation).who(), None)
            return
        if cancellation.brief and not suppressed:
            self._omit(record, cancellation)
            return
        if self.keeps:
            self.flush()
        ids, facts = self._span(record, cancellation)
        if admitted and facts is not None:
            self._write(cancellation, facts.attributes(), ids)

    def _span(self, record: Any, cancellation: Cancellation, omitted: int = 0) -> tuple[Any, _Facts | None]:
        suppressed = cancellation.fate is Fate.SUPPRESSED
        parent = cancellation.parent or own_span(record)
        if parent is None and not suppressed:
            return None, None  # nobody wants to hear of the task
        facts = _facts(cancellation, record.code, record.qualname, record.id)
        ids = self._intervals.emit(
            names.cancel_span(record.qualname),
            parent,
            record.wall_at(cancellation.requested),
            record.wall_at(cancellation.settled),
            facts.attributes if not omitted else facts.attributes() | {names.CANCEL_OMITTED: omitted},
            _links(record, cancellation, wants_all=self._wants_all),
            "the task ran on" if suppressed else None,
        )
        return ids, facts

    def _write(self, cancellation: Cancellation, attributes: dict[str, Any], ids: Any) -> None:
        file, line = names.CANCEL_SUPPRESSED_FILE, names.CANCEL_SUPPRESSED_LINE
        if file in attributes:
            where = f"swallowed at {attributes[file]}:{attributes[line]}"
        elif names.CANCEL_AT_FILE in attributes:
            where = f"hit at {attributes[names.CANCEL_AT_FILE]}:{attributes[names.CANCEL_AT_LINE]}"
        else:
            where = f"cancelled at {attributes.get(names.CANCEL_BY_FILE)}:{attributes.get(names.CANCEL_BY_LINE)}"
        took = cancellation.settled - cancellation.requested
        what = "a task was cancelled and ran on"
        self._problems.write(ProblemKind.CANCEL_SUPPRESSED, what, where, took, attributes, ids)


class ShutdownSpans:
    """Makes the span of a loop's end that cancelled something."""

    def __init__(self, intervals: Intervals) -> None:
        self._intervals = intervals

    def emit(self, loop: LoopState, shutdown: Shutdown, now: int) -> None:
        """`asyncio.shutdown`, a root: whatever ran before is over. None where no task of it was recorded."""
        if shutdown.slowest is None:
            return
        attributes: dict[str, Any] = {
            names.SHUTDOWN_CANCELLED: shutdown.cancelled,
            names.SHUTDOWN_SLOWEST: shutdown.slowest.qualname,
            names.SHUTDOWN_SLOWEST_TIME: shutdown.slowest_time / _SECOND,
            names.EVENTLOOP_ID: loop.id,
            names.EVENTLOOP_IMPLEMENTATION: loop.implementation,
        }
        end = shutdown.wall + now - shutdown.started
        self._intervals.emit(names.SHUTDOWN_SPAN, None, shutdown.wall, end, attributes)


class _Facts(NamedTuple):
    """What is told of a cancellation, as it is now; of what else it knows something may change, or be let go."""

    code: CodeInfo | None
    """Of the task, with its name and number; None where it has no record."""
    qualname: str
    task: int
    fate: Fate | None
    requested: int
    settled: int
    expected: bool
    requests: int
    hit: Chain | None
    handler: Site | None
    message: str | None
    via: Via | None
    origin: Origin
    by_task: str | None
    """The name of the task that asked."""
    site: Site | None
    stack: tuple[Frame, ...]
    thread: str | None

    def attributes(self) -> dict[str, Any]:
        """Everything about a cancellation of a recorded task."""
        assert self.code is not None
        attributes = self.who()
        attributes |= code_attributes(self.code, self.qualname)
        attributes |= {
            names.CANCEL_OUTCOME: str(self.fate),
            names.CANCEL_EXPECTED: self.expected,
            names.CANCEL_REQUESTS: self.requests,
            names.CANCEL_LATENCY: (self.settled - self.requested) / _SECOND,
            names.TASK_ID: self.task,
        }
        hit = self.hit
        if hit is not None:
            attributes[names.AWAIT_TARGET] = hit.target
            if hit.blame is not None:
                attributes[names.CANCEL_AT_FILE], attributes[names.CANCEL_AT_LINE] = hit.blame.code.file, hit.blame.line
        if self.message is not None:
            attributes[names.CANCEL_MESSAGE] = self.message
        return attributes

    def who(self) -> dict[str, Any]:
        """Who asked for it, and who swallowed it."""
        attributes: dict[str, Any] = {names.CANCEL_ORIGIN: str(self.origin)}
        if self.via is not None:
            attributes[names.CANCEL_VIA] = str(self.via)
        if self.by_task is not None:
            attributes[names.CANCEL_BY_TASK] = self.by_task
        if self.site is not None:
            attributes[names.CANCEL_BY_FILE] = self.site.code.co_filename
            attributes[names.CANCEL_BY_LINE] = self.site.line
            attributes[names.CANCEL_BY_FUNCTION] = self.site.code.co_qualname
        if self.thread is not None:
            attributes[names.THREAD_NAME] = self.thread
        if self.stack:
            attributes[names.CODE_STACKTRACE] = stacktrace(self.stack)
        if self.fate is Fate.SUPPRESSED:
            attributes[names.PROBLEM] = str(ProblemKind.CANCEL_SUPPRESSED)
            if self.handler is not None:
                attributes[names.CANCEL_SUPPRESSED_FILE] = self.handler.code.co_filename
                attributes[names.CANCEL_SUPPRESSED_LINE] = self.handler.line
        return attributes


def _facts(cancellation: Cancellation, code: CodeInfo | None = None, qualname: str = "", task: int = 0) -> _Facts:
    request = cancellation.first
    root = request.root
    return _Facts(
        code,
        qualname,
        task,
        cancellation.fate,
        cancellation.requested,
        cancellation.settled,
        cancellation.expected,
        cancellation.count,
        cancellation.hit,
        cancellation.handler,
        cancellation.message,
        request.via,
        root.origin,
        None if root.by is None else root.by.current_name,
        root.site,
        root.stack,
        root.thread,
    )


def _links(victim: Any, cancellation: Cancellation, *, wants_all: bool) -> list[LinkTo]:
    request: Request = cancellation.first
    links = []
    root = request.root
    for record, kind in ((root.by, names.LINK_CANCELLER), (root.failure, names.LINK_SIBLING_FAILURE)):
        if record is not victim and (ids := _ids(record, root.open_span, wants_all=wants_all)) is not None:
            links.append(link_to(ids, kind))
    if not links and request.by is not victim and (ids := _ids(request.by, None, wants_all=wants_all)) is not None:
        links.append(link_to(ids, names.LINK_AWAITED if request.via is Via.AWAITED else names.LINK_CANCELLER))
    return links


def _ids(record: Any, open_span: Any, *, wants_all: bool) -> Any:
    """What to link to: the task's span, or that of the request that has its facts.

    A root task that might yet leave its facts to a request gets its span now, where every task is to have one; a
    connection does not cancel anybody before its first request comes.
    """
    own = record.span if record is not None else None
    if own is None or isinstance(own, SpanContext):
        return own
    if own.yielded:
        return open_span
    return own if own.is_certain or (wants_all and own.get_span_context().is_valid) else None
