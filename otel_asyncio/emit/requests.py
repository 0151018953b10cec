"""What a request's span learns from the task it was opened in (SDK providers only).

A server makes one task for a connection, with no span current; the SERVER span opens inside. So the task is not the
parent of what it serves, and yet its busy, scheduled and idle time are what tells a slow answer from a busy loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import NonRecordingSpan
from opentelemetry.trace.propagation import set_span_in_context

from otel_asyncio.emit import names
from otel_asyncio.emit.attributes import split_attributes, start_attributes
from otel_asyncio.emit.taskspan import TaskSpan
from otel_asyncio.observe.records import Kind, Split, TaskRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_asyncio.emit.sdk import SdkSpans


class RequestSpans(SpanProcessor):
    """Ties spans without a local parent to the root task they are opened in."""

    ignores_task_spans = True

    def __init__(
        self,
        spans: SdkSpans,
        tracer: Any,
        running: Callable[[], TaskRecord | None],
        now: Callable[[], int],
        *,
        split: bool,
        links: bool,
    ) -> None:
        self._spans = spans
        self._tracer = tracer
        self._running = running
        self._now = now
        self._split = split
        self._links = links
        self._open: dict[int, tuple[TaskRecord, Split]] = {}
        self.active = True

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        """A span was opened: where it is the first of its trace in this process, see in which task."""
        if not self.active or isinstance(span, TaskSpan) or (span.parent is not None and not span.parent.is_remote):
            return
        if span.instrumentation_scope is self._tracer._instrumentation_scope:  # an interval under a remote parent
            return
        record = self._running()
        task_span = record.span if record is not None else None
        if record is None or not isinstance(task_span, TaskSpan) or task_span.spans is not self._spans:
            return
        if not task_span.place.rooted:
            return
        if self._split and (task_span.yielded or not (task_span.identified or task_span.nested)):
            task_span.yielded = True
            self._open[span.context.span_id] = record, record.split(self._now())
        elif self._links:
            span.add_link(task_span.get_span_context(), {names.LINK_TYPE: names.LINK_TASK})

    def on_end(self, span: ReadableSpan) -> None:
        """A request is over: its part of the task's life becomes a child of it."""
        if not self._open:
            return
        ids = span.context
        begun = self._open.pop(ids.span_id, None) if ids is not None else None
        if begun is None or begun[0] is not self._running():
            return
        record, before = begun
        after = record.split(self._now())
        # The step that runs now counts: an interval without a suspension is one step.
        split = Split(*(late - early for late, early in zip(after, before, strict=True)))
        attributes = start_attributes(record) | {names.TASK_KIND: str(Kind.ROOT_SEGMENT)}
        attributes |= split_attributes(split._replace(steps=split.steps + 1))
        name, start, end = names.task_span(record.qualname), span.start_time, span.end_time
        assert ids is not None and start is not None and end is not None  # a span that has ended  # noqa: PT018
        if not self._spans.give(ids, name, attributes, start, end):
            context = set_span_in_context(NonRecordingSpan(ids), Context())
            self._tracer.start_span(name, context=context, attributes=attributes, start_time=start).end(end)

    def detach(self, provider: Any) -> None:
        """Take this processor out of the provider again, or silence it where the provider does not let it go."""
        self.active = False
        self._open.clear()
        multi: Any = getattr(provider, "_active_span_processor", None)
        processors = getattr(multi, "_span_processors", None)
        if isinstance(processors, tuple):
            multi._span_processors = tuple(item for item in processors if item is not self)
