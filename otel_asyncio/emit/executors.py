"""Executor spans, and OpenTelemetry's context in the worker threads."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from opentelemetry import context as context_api
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, Span

from otel_asyncio.emit import names
from otel_asyncio.emit.attributes import code_attributes
from otel_asyncio.emit.current import SPAN_KEY, current_telemetry, is_suppressed, make_current_in
from otel_asyncio.emit.errors import record_error
from otel_asyncio.observe.problems import ProblemKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from otel_asyncio.emit.problems import ProblemReporter
    from otel_asyncio.emit.tracing import Tracing
    from otel_asyncio.observe.calls import Call
    from otel_asyncio.observe.records import TaskRecord

_SECOND = 1e9


class Activity:
    """One piece of work as OpenTelemetry sees it: its span, and the context that it runs in."""

    __slots__ = ("_telemetry", "span")

    def __init__(self, span: Span | None, telemetry: Context | None) -> None:
        self.span = span
        self._telemetry = telemetry

    def enter(self) -> Any:
        """In the worker thread, before the function: its span is current. What is returned is for `leave`."""
        return None if self._telemetry is None else context_api.attach(self._telemetry)

    def leave(self, token: Any) -> None:
        """In the same thread, after it."""
        context_api.detach(token)


class ExecutorSpans:
    """Makes spans of the work that tasks hand to executors.

    Args:
        innermost: the innermost span that is open in a task which runs now.
        wants_all: whether every task that has not yielded gets a span.
        carry: whether the context goes along into the threads of `run_in_executor`.
    """

    def __init__(
        self,
        tracing: Tracing,
        problems: ProblemReporter,
        innermost: Callable[[TaskRecord], Any],
        *,
        wants_all: bool,
        carry: bool,
    ) -> None:
        self._tracing = tracing
        self._problems = problems
        self._innermost = innermost
        self._wants_all = wants_all
        self._carry = carry

    def submitted(self, call: Call) -> None:
        """A function is about to be handed to an executor: open its span, and give it the context to run in."""
        telemetry = current_telemetry()
        span = None if is_suppressed(telemetry) else self._open(call, telemetry)
        around = Context({**telemetry, SPAN_KEY: span}) if span is not None else Context(telemetry)
        if call.context is not None and span is not None:
            make_current_in(call.context, around)
        carried = around if self._carry and around and call.context is None else None
        if span is not None or carried is not None:
            call.activity = Activity(span, carried)

    def returned(self, call: Call, error: BaseException | None) -> None:
        """It is over, or was cancelled before it began: close the span, and say if the pool was too small."""
        span = call.activity.span if call.activity is not None else None
        call.activity = call.context = None  # a span that waits to be exported keeps nothing of the program's
        saturated = call.saturated and self._problems.admits(ProblemKind.EXECUTOR_SATURATED)
        if saturated:
            self._tell(call, span)
        if span is None:
            return
        end = call.wall + (call.ended or call.queued) - call.queued
        spans, attributes = self._tracing.spans, partial(_attributes, call, saturated=saturated)
        if error is None and spans is not None and spans.end(span, end, attributes):
            return
        span.set_attributes(_end_attributes(call, saturated=saturated))
        if error is not None:
            record_error(span, error, end)
        span.end(end)

    def _open(self, call: Call, telemetry: Mapping[str, Any]) -> Span | None:
        parent = self._parent(call)
        if parent is None or self._tracing.tracer is None:
            return None
        ids = parent.get_span_context()
        attributes = partial(_start_attributes, call)
        spans, name = self._tracing.spans, names.executor_span(call.qualname)
        late = None if spans is None else spans.begin(ids, name, call.wall, attributes)
        if late is not None:
            return late
        span = self._tracing.tracer.start_span(
            name,
            context=Context({**telemetry, SPAN_KEY: NonRecordingSpan(ids)}),
            attributes=attributes(),
            start_time=call.wall,
        )
        return span if span.is_recording() else None

    def _parent(self, call: Call) -> Any:
        """The innermost span of the task, unless that is the task's own and may be dropped; None: no span is made."""
        record = call.record
        if record is None:
            current = current_telemetry().get(SPAN_KEY)
            return current if current is not None and current.get_span_context().trace_flags.sampled else None
        parent = self._innermost(record)
        if parent is not record.span or parent is None:
            return parent if parent is not None and parent.get_span_context().trace_flags.sampled else None
        if not (parent.identified or self._wants_all):
            return None
        parent.nested = True  # as by a task: it can no longer leave its place to a request
        return parent

    def _tell(self, call: Call, span: Span | None) -> None:
        seen = _attributes(call, saturated=True)
        file, line = seen.get(names.CODE_FILE_PATH), seen.get(names.CODE_LINE_NUMBER)
        where = f"defined at {file}:{line}" if file is not None else "a function in C"
        waited = (call.started or call.queued) - call.queued
        ids = None if span is None else span.get_span_context()
        what = "work waited for a free worker of its executor"
        self._problems.write(ProblemKind.EXECUTOR_SATURATED, what, where, waited, seen, ids)


def _start_attributes(call: Call) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    if call.kind is not None:
        attributes[names.EXECUTOR_KIND] = str(call.kind)
    if call.code is not None:
        return attributes | code_attributes(call.code, call.qualname)
    return attributes | {names.CODE_FUNCTION_NAME: call.qualname}


def _end_attributes(call: Call, *, saturated: bool) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    if saturated:
        attributes[names.PROBLEM] = str(ProblemKind.EXECUTOR_SATURATED)
    if call.started is not None and call.ended is not None:
        attributes[names.EXECUTOR_QUEUED_TIME] = (call.started - call.queued) / _SECOND
        attributes[names.EXECUTOR_RUN_TIME] = (call.ended - call.started) / _SECOND
    if call.thread_id is not None:
        attributes[names.THREAD_ID] = call.thread_id
        attributes[names.THREAD_NAME] = call.thread_name
    return attributes


def _attributes(call: Call, *, saturated: bool) -> dict[str, Any]:
    return _start_attributes(call) | _end_attributes(call, saturated=saturated)
