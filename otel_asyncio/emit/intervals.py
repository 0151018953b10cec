"""Spans of what happens inside tasks: known when it is over, so made at once, with both of their times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Status, StatusCode
from opentelemetry.trace.propagation import set_span_in_context

from otel_asyncio.emit import names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from opentelemetry.trace import SpanContext

    from otel_asyncio.emit.tracing import Tracing


def link_to(target: Any, kind: str) -> Link:
    """A link of this type to a span, or to its ids."""
    return Link(ids_of(target), {names.LINK_TYPE: kind})


def ids_of(target: Any) -> SpanContext:
    """The ids of a span, or the ids themselves."""
    return target if hasattr(target, "trace_id") else target.get_span_context()  # type: ignore[no-any-return]


def own_span(record: Any) -> Any:
    """The task's span, or its ids; None where there is none, or where it has left its place to a request."""
    return None if getattr(record.span, "yielded", False) else record.span


class Intervals:
    """Makes spans of intervals, through the API, which serves every provider: they are rare."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def emit(
        self,
        name: str,
        parent: Any,
        start: int,
        end: int,
        attributes: Mapping[str, Any],
        links: Iterable[Link] = (),
        error: str | None = None,
    ) -> SpanContext | None:
        """One span from `start` to `end` (wall clock, ns) below `parent`; a root where that is None.

        `parent`: a span, a task's span or ids. `error`: the description of the status ERROR; None leaves it UNSET.
        Returns the ids where the span is recorded, so that others can nest under it or link to it.
        """
        tracer = self._tracing.tracer
        if tracer is None:
            return None
        context = Context()
        if parent is not None:
            context = set_span_in_context(NonRecordingSpan(ids_of(parent)), context)
        span = tracer.start_span(
            name, context=context, attributes=dict(attributes), links=tuple(links), start_time=start
        )
        if not span.is_recording():
            return None
        if error is not None:
            span.set_status(Status(StatusCode.ERROR, error))
        span.end(end)
        return span.get_span_context()
