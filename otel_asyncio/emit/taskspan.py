"""The span of one task: a span of the SDK that becomes one when somebody asks."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.trace import sampling
from opentelemetry.trace import INVALID_SPAN_CONTEXT, SpanContext

from otel_asyncio.emit.lineage import Lineage, identify

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_asyncio.emit.sdk import SdkSpans

# What the SDK's constructors set: asked of a span of this version rather than listed.
MADE_LATE = frozenset(vars(sdk._Span("", INVALID_SPAN_CONTEXT, limits=sdk.SpanLimits())))
_MADE_TO_READ = frozenset(vars(sdk.ReadableSpan("")))

_BY_THEIR_END: Any = sdk.Span.is_recording
IS_RECORDING = _BY_THEIR_END if _BY_THEIR_END.__code__.co_names == ("_end_time",) else None
"""The method of the SDK's spans, where it asks for nothing but their end."""

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class TaskSpan(Lineage, sdk.Span):
    """The span of one task. Until somebody touches it, only the record and the way to its parent.

    `__getattr__` is called for what is missing. While the task lives it runs the SDK's own constructor, after which
    this is an ordinary span that still ends with its task; once the task has ended, it makes what there is to read.
    """

    # Slots, though the SDK's spans have a dictionary too: a default of the class that some instances replace is looked
    # up the long way, at ten times the cost (0.05 µs each), and every task asks for a dozen of these.
    __slots__ = (
        "_context", "above", "decision", "dropped", "extra", "links_at_end", "nested", "parent_ids", "place", "record",
        "spans", "touched", "yielded",
    )  # fmt: skip

    _context: SpanContext | None
    touched: bool
    """Whether this has become a whole span of the SDK."""

    extra: Mapping[str, Any]
    """What the sampler added to the attributes."""

    decision: sampling.Decision
    spans: SdkSpans
    place: Any

    def __getattr__(self, name: str) -> Any:
        if name not in MADE_LATE:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        if self.record.outcome is None:
            self.spans.materialise(self)
        elif name in _MADE_TO_READ:
            self.spans.settle(self)
        else:
            self.spans.revive(self)
        return self.__dict__[name]

    @property
    def current(self) -> sdk.Span:
        """Itself."""
        return self

    @property
    def identified(self) -> bool:
        """Whether somebody has asked for the ids: then the span is exported whatever the policy says."""
        return self._context is not None

    @property
    def context(self) -> SpanContext:
        """The ids, made now if nobody has asked before."""
        return self._context or self.get_span_context()

    def identify(self) -> None:
        """Make the ids. The parents have theirs."""
        if self.dropped:
            self._context = self.forwarded()
        else:
            self.spans.identify(self)

    def get_span_context(self) -> SpanContext:
        """The ids, made now if nobody has asked before."""
        if self._context is None:
            identify(self)
        return self._context  # type: ignore[return-value]

    def is_recording(self) -> bool:
        """True until the task has ended."""
        return self.record.outcome is None and not self.dropped

    def end(self, end_time: int | None = None) -> None:
        """Nothing: the span of a task ends with the task."""

    def finish(self, end_time: int) -> None:
        """End, as a whole span of the SDK."""
        sdk.Span.end(self, end_time)


_blank: Callable[[type[TaskSpan]], TaskSpan] = object.__new__  # without the SDK's constructors, which run when asked


def new_span(spans: SdkSpans) -> TaskSpan:
    """The span of a task about to be made, but for what tells it from any other."""
    span = _blank(TaskSpan)
    span.spans = spans
    span._context = span.parent_ids = None
    span.touched = span.dropped = span.nested = span.yielded = False
    span.decision, span.extra, span.links_at_end = sampling.Decision.RECORD_AND_SAMPLE, _NOTHING, ()
    return span
