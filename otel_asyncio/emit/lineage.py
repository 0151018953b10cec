"""Where a task stands in a trace: by the span that is current, or by the package's own record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN_CONTEXT, Link, NonRecordingSpan
from opentelemetry.trace.propagation import set_span_in_context

from otel_asyncio.emit import names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.trace import Span, SpanContext

    from otel_asyncio.observe.records import TaskRecord


@dataclass(slots=True)
class Place:
    """The answer to «where would a task created here and now stand?». Not changed once it is given."""

    parent: Any
    """The span or task span to nest under; None for a root."""

    around: Span | None
    """The span that is current in the context of the new task, ours or not."""

    rooted: bool
    """Whether it descends from tasks only, with no span of the program above: then it stays out of the context."""

    telemetry: Mapping[str, Any] | None = None
    """OpenTelemetry's context there, for the sampler and for processors that read baggage."""

    spawner: SpanContext | None = None
    """The span to link to instead of nesting under it."""


ROOT = Place(None, None, rooted=True)


class Lineage:
    """The part of a task's span that knows its place. Its ids are made on first use, outermost first."""

    record: TaskRecord
    place: Place | None
    """Where it stands, until the span is closed."""

    above: Any
    """The parent, until the span is closed."""

    dropped = False
    """Refused by the sampler, or ended and not worth a span: answers with the ids of its parent."""

    links_at_end: tuple[Link, ...] = ()

    nested = False
    """Whether a task was opened under this one by our own record."""

    parent_ids: SpanContext | None = None
    """The ids of the parent, known from when this has its own; None for a root."""

    yielded = False
    """A root that leaves its facts to the spans opened in it (request split)."""

    @property
    def current(self) -> Span:
        """The span to make current inside the task."""
        raise NotImplementedError

    @property
    def is_certain(self) -> bool:
        """Whether it can no longer leave its facts to a request."""
        return self.identified or self.nested or self.place is None or not self.place.rooted

    @property
    def identified(self) -> bool:
        """Whether somebody has asked for the ids: then the span is exported whatever the policy says."""
        raise NotImplementedError

    def identify(self) -> None:
        """Make the ids. The parents have theirs."""
        raise NotImplementedError

    def get_span_context(self) -> SpanContext:
        """The ids; those of the nearest exported ancestor if this span was dropped."""
        raise NotImplementedError

    def find_parent(self) -> SpanContext | None:
        """The ids of the parent, asked for now; kept in `parent_ids`."""
        if self.above is not None:
            context: SpanContext = self.above.get_span_context()
            self.parent_ids = context if context.is_valid else None
        return self.parent_ids

    @property
    def task_links(self) -> tuple[Link, ...]:
        """The links known when the task is created."""
        if self.place is None:
            return self.links_at_end
        spawner = self.place.spawner
        return () if spawner is None else (Link(spawner, {names.LINK_TYPE: names.LINK_SPAWNER}),)

    def let_go(self) -> None:
        """Closed: what was kept to find the parent, and to tell of it, is needed no more."""
        if self.place is not None and self.place.spawner is not None:
            self.links_at_end = self.task_links
        self.above = self.place = None

    def drop(self) -> None:
        """Never to be exported: whoever still nests under this nests under its parent, and no chain is kept."""
        self.dropped = True
        if isinstance(self.above, Lineage) and self.above.dropped:
            self.above = self.above.above
        self.place = None

    def sampling_context(self) -> Context:
        """OpenTelemetry's context for the sampler: the one of the creation, or one that has just the parent."""
        place, parent = self.place, self.parent_ids
        if place is not None and place.telemetry is not None and self.above is place.around:
            return cast("Context", place.telemetry)
        return Context() if parent is None else set_span_in_context(NonRecordingSpan(parent), Context())

    def forwarded(self) -> SpanContext:
        """The ids that a dropped span answers with."""
        return self.find_parent() or INVALID_SPAN_CONTEXT


def identify(span: Lineage) -> None:
    """Make the ids of a span and of all ancestors that have none. A loop: lineages grow deeper than the stack."""
    if not isinstance(span.above, Lineage) or span.above.identified:
        span.identify()
        return
    chain = [span]
    while isinstance(parent := chain[-1].above, Lineage) and not parent.identified:
        chain.append(parent)
    while chain:
        chain.pop().identify()
