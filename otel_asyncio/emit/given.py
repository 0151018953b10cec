"""Spans that are over when they are made: handed over past the tracer, and made readable when they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.sdk import trace as sdk
from opentelemetry.trace import Status, StatusCode

from otel_asyncio.emit.intervals import as_links, made

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import SpanContext

    from otel_asyncio.emit.intervals import Attributes, LinkTo

MADE_TO_READ = frozenset(vars(sdk.ReadableSpan("")))
"""What the constructor of a readable span sets: asked of one of this version rather than listed."""

_UNSET = Status(StatusCode.UNSET)

_MANY = 64  # more attributes, or links, than a span of ours ever has


def cuts_nothing(limits: Any) -> bool:
    """Whether what a span of ours says comes through the SDK's limits as it is."""
    lengths = ("max_span_attribute_length", "max_attribute_length")
    numbers = (("max_span_attributes", _MANY), ("max_links", _MANY), ("max_link_attributes", 1))
    return all(getattr(limits, name, None) is None for name in lengths) and all(
        (most := getattr(limits, name, None)) is None or most >= needed for name, needed in numbers
    )


def origin_of(tracer: Any) -> dict[str, Any]:
    """What every span of a tracer is made with."""
    return {
        "resource": tracer.resource,
        "instrumentation_info": getattr(tracer, "instrumentation_info", None),
        "instrumentation_scope": tracer._instrumentation_scope,
    }


class GivenSpan(sdk.ReadableSpan):
    """A span that nobody can change any more. Until somebody reads it, only its ids, and what it is made of."""

    __slots__ = ("_context", "facts")

    _context: SpanContext
    facts: tuple[Any, ...] | None
    """What `_settle` takes; None once that has been done, so that nothing is kept for longer than it is needed."""

    def __getattr__(self, name: str) -> Any:
        if name not in MADE_TO_READ:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        facts = self.facts
        if facts is not None:  # else another thread has just done it
            self._settle(*facts)
            self.facts = None
        return self.__dict__[name]

    def _settle(
        self,
        tracer: Any,
        name: str,
        parent: SpanContext | None,
        start: int,
        end: int,
        attributes: Attributes,
        links: tuple[LinkTo, ...],
        error: str | None,
    ) -> None:
        """Become readable. Runs where the span is read: in the exporter's thread, as a rule."""
        super().__init__(
            name=name,
            context=self._context,
            parent=parent,
            attributes=made(attributes),
            links=as_links(links),
            **origin_of(tracer),
            status=_UNSET if error is None else Status(StatusCode.ERROR, error),
            start_time=start,
            end_time=end,
        )


blank: Callable[[type[GivenSpan]], GivenSpan] = object.__new__
"""Makes a span without the constructor of the SDK, which runs when the span is read."""
