"""What a request's span learns from the task it was opened in (SDK providers only).

A server makes one task for a connection, with no span current; the SERVER span opens inside. So the task is not the
parent of what it serves, and yet its busy, scheduled and idle time are what tells a slow answer from a busy loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from otel_asyncio.emit import names
from otel_asyncio.emit.attributes import split_attributes, start_attributes
from otel_asyncio.emit.ids import ARE_KNOWN
from otel_asyncio.emit.shortcuts import StretchCell, shorten_requests
from otel_asyncio.emit.taskspan import TaskSpan
from otel_asyncio.observe.observer import Guard
from otel_asyncio.observe.records import Kind, Split, TaskRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import SpanContext

    from otel_asyncio.emit.intervals import Intervals
    from otel_asyncio.emit.sdk import SdkSpans
    from otel_asyncio.observe.clock import Clock


_READ = {
    "parent": "_parent",
    "context": "_context",
    "start_time": "_start_time",
    "end_time": "_end_time",
    "instrumentation_scope": "_instrumentation_scope",
}
_IS_KNOWN = ARE_KNOWN and all(
    getattr(ReadableSpan, name).fget.__code__.co_names == (kept,) for name, kept in _READ.items()
)
"""Whether what is asked of a span is what the SDK keeps under these names, and ids are the tuple that we know."""

_CLOCKS_AGREE = 1_000_000
"""Nanoseconds: of a moment in a short step, one clock may say that it was just before."""


def _moment(record: TaskRecord, clock: Clock, stamped: int) -> tuple[int, int]:
    """The moment that the span's clock stamped in the step that runs, or now: a program may stamp any other time.

    And how long the task has been busy by then.
    """
    ago, began = clock.wall_ns() - int(stamped), record.step_started
    now = clock.monotonic_ns()
    then = now - ago
    moment = max(then, began) if 0 < began <= then + _CLOCKS_AGREE and then <= now else now
    return moment, record.busy + moment - (began or moment)


class Stretch(StretchCell):
    """A part of a task's life: from a moment in one of its steps to one in the step that runs when it ends.

    Until then, `busy`, `scheduled` and `steps` are the task's at the beginning. Called, it answers the attributes.
    """

    __slots__ = ()

    def __init__(self, record: TaskRecord, clock: Clock, stamped: int) -> None:
        self.record = record
        self.since, self.busy = _moment(record, clock, stamped)
        self.scheduled, self.steps = record.scheduled, record.steps

    def end(self, clock: Clock, stamped: int) -> None:
        """It ends in the step that runs, which counts: without a suspension it is one step."""
        record = self.record
        self.until, busy = _moment(record, clock, stamped)
        self.busy = busy - self.busy
        self.scheduled = record.scheduled - self.scheduled
        self.steps = record.steps - self.steps + 1

    def __call__(self) -> dict[str, Any]:
        """What is told of it. Runs where its span is read: in the exporter's thread, as a rule."""
        idle = self.until - self.since - self.busy - self.scheduled
        split = Split(self.busy, self.scheduled, idle, self.steps)
        return start_attributes(self.record) | {names.TASK_KIND: str(Kind.ROOT_SEGMENT)} | split_attributes(split)


class RequestSpans(SpanProcessor):
    """Ties spans without a local parent to the root task they are opened in."""

    ignores_task_spans = True

    def __init__(
        self,
        spans: SdkSpans,
        tracer: Any,
        running: Callable[[], TaskRecord | None],
        clock: Clock,
        segments: Intervals,
        *,
        split: bool,
        links: bool,
    ) -> None:
        self._spans = spans
        self._tracer = tracer
        self._running = running
        self._clock = clock
        self._segments = segments
        self._split = split
        self._links = links
        self._open: dict[int, Stretch] = {}
        self._guard = Guard("requests")
        """What is called from here may fail: a processor of the program's, which takes the segment."""
        self.active = True
        if _IS_KNOWN:
            parts = {"running": running, "open": self._open, "segments": segments.emit, "split": split}
            shorten_requests(self, spans, clock, stretch=Stretch, readable=ReadableSpan, **parts)

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        """A span was opened: where it is the first of its trace in this process, see in which task."""
        if type(span) is TaskSpan or not self.active:  # `isinstance` asks an abstract class, in Python
            return
        parent = span.parent
        if parent is not None and not parent.is_remote:
            return
        if span.instrumentation_scope is self._tracer._instrumentation_scope:  # an interval under a remote parent
            return
        try:
            self._begin(span)
        except Exception as error:  # noqa: BLE001 - the border of the package
            self._give_up(error)

    def _begin(self, span: Span) -> None:
        record = self._running()
        task_span = record.span if record is not None else None
        if record is None or type(task_span) is not TaskSpan or task_span.spans is not self._spans:
            return
        if not task_span.place.rooted:
            return
        if self._split and (task_span.yielded or not (task_span.identified or task_span.nested)):
            task_span.yielded = True
            start = span.start_time
            assert start is not None  # a span that has begun
            self._open[span.context.span_id] = Stretch(record, self._clock, start)
        elif self._links:
            span.add_link(task_span.get_span_context(), {names.LINK_TYPE: names.LINK_TASK})

    def on_end(self, span: ReadableSpan) -> None:
        """A request is over: its part of the task's life becomes a child of it."""
        if not self._open:
            return
        ids = span.context
        stretch = self._open.pop(ids.span_id, None) if ids is not None else None
        if stretch is None or ids is None:
            return
        try:
            self._end(span, ids, stretch)
        except Exception as error:  # noqa: BLE001 - the border of the package
            self._give_up(error)

    def _end(self, span: ReadableSpan, ids: SpanContext, stretch: Stretch) -> None:
        record = stretch.record
        if record is not self._running():
            return
        start, end = span.start_time, span.end_time
        assert start is not None and end is not None  # a span that has ended  # noqa: PT018
        stretch.end(self._clock, end)
        self._segments.emit(names.task_span(record.qualname), ids, start, end, stretch)

    def _give_up(self, error: BaseException) -> None:
        self._guard.fail(error)
        self._stop()

    def _stop(self) -> None:
        self.active = False
        self._open.clear()
        for name in ("on_start", "on_end"):  # of the class again, which ask whether there is anything to be done
            vars(self).pop(name, None)

    def detach(self, provider: Any) -> None:
        """Take this processor out of the provider again, or silence it where the provider does not let it go."""
        self._stop()
        multi: Any = getattr(provider, "_active_span_processor", None)
        processors = getattr(multi, "_span_processors", None)
        if isinstance(processors, tuple):
            multi._span_processors = tuple(item for item in processors if item is not self)
