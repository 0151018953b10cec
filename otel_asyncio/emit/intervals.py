"""Spans of what happens inside tasks: known when it is over, so made at once, with both of their times."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, Status, StatusCode
from opentelemetry.trace.propagation import set_span_in_context

from otel_asyncio.emit import names

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_asyncio.emit.tracing import Tracing

Attributes = Mapping[str, Any] | Callable[[], Mapping[str, Any]]
"""Of a span; or what makes them when it is read, of facts that change no more."""

LinkTo = tuple[SpanContext, str]
"""To what, and of which type: what a link is made of when its span is read."""


def link_to(target: Any, kind: str) -> LinkTo:
    """A link of this type to a span, or to its ids."""
    return ids_of(target), kind


def as_links(links: Iterable[LinkTo]) -> tuple[Link, ...]:
    """The links as OpenTelemetry has them."""
    return tuple([Link(ids, {names.LINK_TYPE: kind}) for ids, kind in links])


def made(attributes: Attributes) -> Mapping[str, Any]:
    """The attributes themselves."""
    return attributes() if callable(attributes) else attributes


def ids_of(target: Any) -> SpanContext:
    """The ids of a span, or the ids themselves."""
    return target if isinstance(target, SpanContext) else target.get_span_context()


def own_span(record: Any) -> Any:
    """The task's span, or its ids; None where there is none, or where it has left its place to a request."""
    return None if getattr(record.span, "yielded", False) else record.span


class Intervals:
    """Makes spans of intervals: handed over past the tracer where that comes to the same, or through the API."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def emit(
        self,
        name: str,
        parent: Any,
        start: int,
        end: int,
        attributes: Attributes,
        links: Iterable[LinkTo] = (),
        error: str | None = None,
    ) -> SpanContext | None:
        """One span from `start` to `end` (wall clock, ns) below `parent`; a root where that is None.

        `parent`: a span, a task's span or ids. `error`: the description of the status ERROR; None leaves it UNSET.
        Returns the ids where the span is recorded, so that others can nest under it or link to it.
        """
        tracing = self._tracing
        if tracing.tracer is None:
            return None
        above = None if parent is None else ids_of(parent)
        links = tuple(links)
        ids = None if tracing.spans is None else tracing.spans.give(above, name, start, end, attributes, links, error)
        return ids or self._through_the_tracer(name, above, start, end, attributes, links, error)

    def _through_the_tracer(
        self,
        name: str,
        parent: SpanContext | None,
        start: int,
        end: int,
        attributes: Attributes,
        links: tuple[LinkTo, ...],
        error: str | None,
    ) -> SpanContext | None:
        tracer: Any = self._tracing.tracer
        context = Context()
        if parent is not None:
            context = set_span_in_context(NonRecordingSpan(parent), context)
        span = tracer.start_span(
            name, context=context, attributes=dict(made(attributes)), links=as_links(links), start_time=start
        )
        if not span.is_recording():
            return None
        if error is not None:
            span.set_status(Status(StatusCode.ERROR, error))
        span.end(end)
        ids: SpanContext = span.get_span_context()
        return ids
