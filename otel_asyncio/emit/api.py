"""Task spans for any other provider, through the public API only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, Span, SpanContext, Tracer

from otel_asyncio.emit import names
from otel_asyncio.emit.attributes import end_attributes, start_attributes
from otel_asyncio.emit.errors import record_error
from otel_asyncio.emit.lineage import Lineage, identify

if TYPE_CHECKING:
    from otel_asyncio.emit.lineage import Place
    from otel_asyncio.observe.records import TaskRecord


class ApiTaskSpan(Lineage):
    """A task's place, and the provider's span once there is one."""

    def __init__(self, tracer: Tracer, record: TaskRecord, place: Place) -> None:
        self.record, self.place, self.above = record, place, place.parent
        self._tracer = tracer
        self.span: Span | None = None

    @property
    def current(self) -> Span:
        """The provider's own span: it may look for its own class in the context."""
        return self.span or INVALID_SPAN

    @property
    def identified(self) -> bool:
        """Whether the provider's span has been started."""
        return self.span is not None

    def identify(self) -> None:
        """Start the provider's span, with the time at which the task was created."""
        if self.dropped:
            self.span = NonRecordingSpan(self.forwarded())
            return
        self.find_parent()
        self.span = self._tracer.start_span(
            names.task_span(self.record.qualname),
            context=self.sampling_context(),
            attributes=start_attributes(self.record),
            links=self.task_links,
            start_time=self.record.wall,
        )
        self.dropped = not self.span.is_recording()

    def get_span_context(self) -> SpanContext:
        """The ids; starts the span if that has not happened."""
        if self.span is None:
            identify(self)
        return (self.span or INVALID_SPAN).get_span_context()


class ApiSpans:
    """Opens and closes task spans through `tracer.start_span`."""

    stand_for_themselves = False

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def open(self, record: TaskRecord, place: Place) -> ApiTaskSpan | None:
        """The span of a task about to be made; None if the provider refuses it."""
        span = ApiTaskSpan(self._tracer, record, place)
        if not place.rooted:
            identify(span)
        return None if span.dropped else span

    def close(self, task_span: ApiTaskSpan, error: BaseException | None, wanted: bool) -> SpanContext | None:
        """End a task's span. Returns its ids if it was handed to the provider."""
        if not (wanted or task_span.identified):
            task_span.drop()
            return None
        ids = task_span.get_span_context()
        span: Any = task_span.span
        if task_span.dropped:
            return None
        if span.is_recording():  # unless the program has ended it
            record = task_span.record
            end_time = record.wall + record.ended - record.created
            span.set_attributes(end_attributes(record))
            if error is not None:
                record_error(span, error, end_time)
            span.end(end_time)
        task_span.above = task_span.place = None
        return ids

    def give(self, *_: object) -> None:
        """Nothing is made past this provider."""

    def begin(self, *_: object) -> None:
        """As by `give`."""

    def end(self, *_: object) -> bool:
        """Nothing was begun past this provider."""
        return False
