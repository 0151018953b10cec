"""The listener that makes spans of the facts: where a task stands, and what becomes of it when it ends."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import TYPE_CHECKING

from opentelemetry.context import Context as Telemetry
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, SpanContext, TraceFlags

from otel_asyncio.emit.attributes import function_name
from otel_asyncio.emit.awaits import AwaitSpans
from otel_asyncio.emit.cancellations import CancelSpans, ShutdownSpans
from otel_asyncio.emit.current import SPAN_KEY, context_with, current_telemetry, is_suppressed, telemetry_context
from otel_asyncio.emit.executors import ExecutorSpans
from otel_asyncio.emit.intervals import Intervals
from otel_asyncio.emit.lineage import ROOT, Place
from otel_asyncio.emit.shortcuts import shorten
from otel_asyncio.emit.timeouts import TimeoutSpans
from otel_asyncio.observe.records import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextvars import Context
    from typing import Any

    from opentelemetry.trace import Span

    from otel_asyncio.emit.problems import ProblemReporter
    from otel_asyncio.emit.tracing import Tracing
    from otel_asyncio.observe.awaits import Wait
    from otel_asyncio.observe.bursts import Burst
    from otel_asyncio.observe.calls import Call
    from otel_asyncio.observe.cancellation import Cancellation
    from otel_asyncio.observe.counters import Counters
    from otel_asyncio.observe.problems import Problem
    from otel_asyncio.observe.records import TaskRecord
    from otel_asyncio.observe.scopes import Expiry
    from otel_asyncio.policy import Policy

_FAILURES = {Outcome.ERROR, Outcome.TIMEOUT}


class SpanSink:
    """Emits task spans and problems. An implementation of `observe.observer.Sink`."""

    def __init__(self, tracing: Tracing, policy: Policy, problems: ProblemReporter, counters: Counters) -> None:
        self._tracing = tracing
        self._policy = policy
        self._problems = problems
        self._root = replace(ROOT, rooted=not policy.root_context) if policy.roots else None
        self._looks_at_functions = policy.looks_at_functions
        self._wants_all = policy.wants_all
        intervals = Intervals(tracing)
        self._awaits = AwaitSpans(intervals, counters, self.innermost, wants_all=policy.wants_all)
        self._cancels = CancelSpans(intervals, problems, counters, wants_all=policy.wants_all)
        self._timeouts = TimeoutSpans(intervals, problems, counters)
        self.shut_down = ShutdownSpans(intervals).emit
        self._executors = ExecutorSpans(
            tracing, problems, self.innermost, wants_all=policy.wants_all, carry=policy.executor_context
        )
        self._unsampled: object = self  # the unsampled span seen last, which is known at a glance
        self.surroundings: Callable[[], object] = current_telemetry
        self.unwanted: Callable[[], object] = weakref.ref(self)  # no surroundings; none such were seen yet
        usual = {"place": True, "opened": not policy.looks_at_functions, "closed": policy.wants_all}
        shorten(self, (name for name, may in usual.items() if may), tracing, kept=self._timeouts.kept, root=self._root)

    def place(self, context: Context | None, running: TaskRecord | None) -> Place | None:
        """Where a task created here and now would stand; None if it is not to be recorded."""
        telemetry = current_telemetry() if context is None else telemetry_context(context)
        span = telemetry.get(SPAN_KEY)
        if span is self._unsampled:
            self._note_unwanted(telemetry)
            return None
        if (self._tracing.spans or self._tracing.resolve()) is None:
            return None
        if span is INVALID_SPAN:
            span = None
        if len(telemetry) > (span is not None) and is_suppressed(telemetry):
            return None
        if type(span) is NonRecordingSpan:
            return self._under_ids(span, span.get_span_context(), telemetry)
        if running is not None and running.span.place.around is span and not running.span.yielded:
            # Nothing was opened since the running task began: it is the innermost, though its span is not current.
            running.span.nested = True
            return Place(running.span, span, running.span.place.rooted, telemetry)
        if span is None:
            return self._root
        if span.is_recording():
            return Place(span, span, False, telemetry)
        # It has ended: whatever was started inside it must not drag the rest of its life into that trace.
        ids = span.get_span_context()
        if not ids.is_valid:
            return self._root
        return self._root and replace(self._root, around=span, spawner=ids) if ids.trace_flags.sampled else None

    def _note_unwanted(self, telemetry: Mapping[str, Any]) -> None:
        """Know this context at a glance from now on. Weakly: nothing of the program's is kept for that."""
        if type(telemetry) is Telemetry:
            self.unwanted = weakref.ref(telemetry)

    def _under_ids(self, span: Span, ids: SpanContext, telemetry: Mapping[str, Any]) -> Place | None:
        """Under a span that is ids only: not sampled, or a remote parent that a propagator put there."""
        if ids.trace_flags & TraceFlags.SAMPLED:
            return Place(span, span, rooted=False, telemetry=telemetry)
        if not ids.is_valid:
            return self._root
        self._unsampled = span
        return None

    def opened(self, record: TaskRecord, place: Place, context: Context | None) -> Context | None:
        """Open the task's span and make it current in the context of the task, unless the program chose that one."""
        if self._looks_at_functions:
            function = function_name(record.code, record.qualname)
            if not self._policy.selects(function):
                return context
            if place.parent is not None and self._policy.detaches(function):
                place = replace(place, parent=None, spawner=place.parent.get_span_context())
        spans = self._tracing.spans
        if spans is None:
            return context
        span: Any = spans.open(record, place)
        record.span = span
        if span is None or place.rooted or context is not None:
            return context
        return context_with(span if spans.stand_for_themselves else span.current, place.telemetry or {})

    def innermost(self, record: TaskRecord) -> Any:
        """The innermost span open in the task of `record`, which runs now; None where no span of ours or the
        program's is above it. Answers to `get_span_context()`.
        """
        own = record.span
        if own is None or isinstance(own, SpanContext):  # it has ended
            return None
        return self.open_span(record, None) or (None if own.yielded else own)

    def open_span(self, record: TaskRecord, context: Context | None) -> Any:
        """The span of the program that is open in a task, in this context of it; None: its own is the innermost."""
        own = record.span
        if own is None or isinstance(own, SpanContext) or own.place is None:
            return None
        telemetry = current_telemetry() if context is None else telemetry_context(context)
        current = telemetry.get(SPAN_KEY)
        return None if current is INVALID_SPAN or current is own.place.around or current is own.current else current

    def submitted(self, call: Call) -> None:
        """Open the span of work that is handed to an executor."""
        self._executors.submitted(call)

    def returned(self, call: Call, error: BaseException | None) -> None:
        """End the span of work that an executor has done, or dropped."""
        self._executors.returned(call, error)

    def nest(self, record: TaskRecord) -> Any:
        """The span that a long wait of this task lies under; None where none is open, or nobody is to hear of it."""
        return self._awaits.nest(record)

    def waited(self, record: TaskRecord, wait: Wait, place: Any) -> None:
        """Make a span of a long wait, or keep it until it is known what becomes of the task's own."""
        self._awaits.waited(record, wait, place)

    def omitted(self, record: TaskRecord) -> None:
        """Count a wait that was not looked at."""
        self._awaits.omitted(record)

    def closed(self, record: TaskRecord, error: BaseException | None) -> None:
        """End the task's span: hand it over, or drop it where the policy does not want it and nobody asked."""
        span = record.span
        if error is not None and record.outcome not in _FAILURES:
            error = None
        wanted = (self._wants_all and not span.yielded) or self._policy.wants(
            record, root=span.place.rooted, yielded=span.yielded
        )
        spans = self._tracing.spans
        # The span knows the record; from here on the record knows only the ids, or the two would be a cycle.
        record.span = spans and spans.close(span, error, wanted)
        if record.waits is not None and record.waits.kept:
            self._awaits.closed(record)
        if self._timeouts.kept:
            self._timeouts.closed(record)

    def cancelled(self, record: Any, cancellation: Cancellation) -> None:
        """A cancellation is dealt with, or the task has run on."""
        self._cancels.emit(record, cancellation)

    def burst(self, burst: Burst) -> None:
        """The first of many cancellations alike is dealt with: they are told at once."""
        self._cancels.collect(burst)

    def timed_out(self, expiry: Expiry) -> None:
        """A scope that had expired was left."""
        record, parent = expiry.record, None
        if record.timed and expiry.context is not None:
            parent = self.open_span(record, expiry.context)
        self._timeouts.emit(expiry, parent)

    @property
    def keeps(self) -> bool:
        """Whether there is anything for `flush` to tell."""
        return self._cancels.keeps or bool(self._timeouts.omitted)

    def flush(self) -> None:
        """Tell of the cancellations and scopes that were too many for a span each."""
        self._cancels.flush()
        self._timeouts.flush()

    def problem(self, problem: Problem) -> None:
        """Report a problem."""
        self._problems.report(problem)
