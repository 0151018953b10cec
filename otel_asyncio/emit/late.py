"""Spans that are open, and whole only once somebody touches them: of work in threads, where they are current."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.sdk import trace as sdk

from otel_asyncio.emit.given import origin_of
from otel_asyncio.emit.intervals import made
from otel_asyncio.emit.taskspan import MADE_LATE

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

    from otel_asyncio.emit.intervals import Attributes


class LateSpan(sdk.Span):
    """An open span of the SDK. Until somebody touches it, only its ids, and what it is made of.

    `__getattr__` is called for what is missing, which the SDK's own constructor then makes. A span that nobody has
    touched by its end is handed over as one that was over when it was made.
    """

    __slots__ = ("_context", "_made_of")

    _context: SpanContext
    _made_of: tuple[Any, SpanContext, str, int, Attributes, int | None]

    def __init__(
        self, tracer: Any, ids: SpanContext, parent: SpanContext, name: str, start: int, attributes: Attributes
    ) -> None:
        self._context = ids
        self._made_of = tracer, parent, name, start, attributes, None

    def __getattr__(self, name: str) -> Any:
        if name not in MADE_LATE:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._become_whole()
        return self.__dict__[name]

    @property
    def is_touched(self) -> bool:
        """Whether it has become a whole span of the SDK."""
        return bool(self.__dict__)

    def end_untouched(self, end: int, attributes: Attributes) -> tuple[Any, ...]:
        """It is over, for those who have kept it. Returns what the one is made of that is handed over in its place."""
        tracer, parent, name, start, _, _ = self._made_of
        self._made_of = tracer, parent, name, start, attributes, end
        return name, parent, start, end, attributes, (), None

    def _become_whole(self) -> None:
        tracer, parent, name, start, attributes, end = self._made_of
        whole = sdk._Span(
            name=name,
            context=self._context,
            parent=parent,
            sampler=tracer.sampler,
            attributes=made(attributes),
            span_processor=tracer.span_processor,
            limits=tracer._span_limits,
            **origin_of(tracer),
        )
        whole._start_time, whole._end_time = start, end
        for part, value in vars(whole).items():
            self.__dict__.setdefault(part, value)  # another thread may be doing the same: what is first there stays
