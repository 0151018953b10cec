"""The one way in which a problem leaves: a count, a line in the log, a span; the last two at a bounded rate."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, Status, StatusCode, format_span_id, format_trace_id
from opentelemetry.trace.propagation import set_span_in_context

from otel_asyncio.emit import names
from otel_asyncio.emit.attributes import code_attributes, created_attributes, ids_of
from otel_asyncio.emit.stacks import frame_attributes, stacktrace
from otel_asyncio.observe.problems import ProblemKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_asyncio.emit.tracing import Tracing
    from otel_asyncio.observe.counters import Counters
    from otel_asyncio.observe.problems import Problem

logger = logging.getLogger("otel_asyncio.problem")

_SECOND = 1_000_000_000


class Rate:
    """At most so many a second of each kind."""

    def __init__(self, limit: int, now: Callable[[], int]) -> None:
        self._limit = limit
        self._now = now
        self._windows: dict[str, tuple[int, int]] = {}

    def allows(self, kind: str) -> bool:
        """Whether one more of this kind fits into the second that runs."""
        now = self._now()
        began, count = self._windows.get(kind, (now, 0))
        if now - began >= _SECOND:
            began, count = now, 0
        self._windows[kind] = (began, count + 1)
        return count < self._limit


class ProblemReporter:
    """Counts every problem; logs it and makes a span of it as far as the rate allows."""

    def __init__(self, tracing: Tracing, counters: Counters, rate: Rate, *, log: bool) -> None:
        self._tracing = tracing
        self._counters = counters
        self._rate = rate
        self._log = log

    def report(self, problem: Problem) -> None:
        """Report one problem. What the rate does not let through is counted as dropped."""
        if not self.admits(problem.kind):
            return
        attributes, ids = _attributes(problem), _ids_around(problem)
        self.write(
            problem.kind, problem.what, _where(problem, attributes), problem.end - problem.start, attributes, ids
        )
        record = problem.record
        if record is not None and record.problem != problem.kind:  # else the task's own span carries it
            self._span(problem, attributes, ids)

    def admits(self, kind: str) -> bool:
        """Count a problem of this kind; False where the rate does not let it through.

        Whoever makes a problem's span itself asks here first, and then writes it into the log.
        """
        self._counters.problem(kind)
        admitted = self._rate.allows(kind)
        if not admitted:
            self._counters.drop("problem")
        return admitted

    def write(
        self, kind: str, what: str, where: str, duration: int, attributes: dict[str, Any], ids: SpanContext | None
    ) -> None:
        """Write a problem's line into the log, if the program wants that: what, where, for how long (ns)."""
        if not self._log:
            return
        extra = dict(attributes)
        if ids is not None:
            extra["trace_id"], extra["span_id"] = format_trace_id(ids.trace_id), format_span_id(ids.span_id)
        function = attributes.get(names.CODE_FUNCTION_NAME)
        logger.warning("%s: %s: %s, %s, %.3f s", kind, what, function, where, duration / _SECOND, extra=extra)

    def _span(self, problem: Problem, attributes: dict[str, Any], ids: SpanContext | None) -> None:
        if ids is None or self._tracing.tracer is None:
            return
        task = ids_of(problem.record)
        span = self._tracing.tracer.start_span(
            names.problem_span(problem.kind),
            context=set_span_in_context(NonRecordingSpan(ids), Context()),
            attributes=attributes,
            links=[] if task is None else [Link(task, {names.LINK_TYPE: names.LINK_TASK})],
            start_time=problem.start,
        )
        if problem.raised is not None:
            raised = problem.raised
            event = {
                names.EXCEPTION_TYPE: raised.type,
                names.EXCEPTION_MESSAGE: raised.message,
                names.EXCEPTION_STACKTRACE: raised.stacktrace,
            }
            span.add_event("exception", event, timestamp=problem.end)
            span.set_status(Status(StatusCode.ERROR, f"{raised.type}: {raised.message}"))
        span.end(problem.end)


def _ids_around(problem: Problem) -> SpanContext | None:
    """The span that the problem lies under: the program's own, where one was open, else the task's."""
    if problem.span is not None:
        return problem.span.get_span_context()  # type: ignore[no-any-return]
    return ids_of(problem.record)


def _attributes(problem: Problem) -> dict[str, Any]:
    attributes: dict[str, Any] = {names.PROBLEM: str(problem.kind)}
    if problem.code is not None:
        attributes |= code_attributes(problem.code, problem.qualname) | frame_attributes(problem.at)
    if problem.record is not None:
        attributes |= created_attributes(problem.record.site)
        attributes[names.TASK_ID] = problem.record.id
        if problem.record.name is not None:
            attributes[names.TASK_NAME] = problem.record.name
    if problem.raised is not None:
        attributes[names.ERROR_TYPE] = problem.raised.type
    if problem.stack:
        attributes[names.CODE_STACKTRACE] = stacktrace(problem.stack)
    if problem.growth is not None:
        attributes |= {names.GROWTH_LIVE: problem.growth.live, names.GROWTH_RATE: problem.growth.rate}
    if problem.kind is ProblemKind.ASYNCGEN_NOT_CLOSED:
        attributes[names.ASYNCGEN_OPEN_TIME] = (problem.end - problem.start) / _SECOND
    return attributes | _closed_attributes(problem)


def _closed_attributes(problem: Problem) -> dict[str, Any]:
    if problem.closed is None:
        return {}
    attributes: dict[str, Any] = {names.LOOP_CLOSED_AGE: (problem.end - problem.start) / _SECOND}
    if (site := problem.closed.site) is not None:
        attributes |= {names.LOOP_CLOSED_FILE: site.code.co_filename, names.LOOP_CLOSED_LINE: site.line}
    return attributes


def _where(problem: Problem, attributes: dict[str, Any]) -> str:
    if problem.at is not None:
        return f"at {problem.at.code.file}:{problem.at.line}"
    of_its_task = problem.record is not None and problem.record.code is problem.code
    if of_its_task and names.TASK_CREATED_FILE in attributes:
        return f"created at {attributes[names.TASK_CREATED_FILE]}:{attributes[names.TASK_CREATED_LINE]}"
    if names.CODE_FILE_PATH not in attributes:
        return "at no line that is known"
    return f"defined at {attributes[names.CODE_FILE_PATH]}:{attributes[names.CODE_LINE_NUMBER]}"
