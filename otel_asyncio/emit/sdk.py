"""Task spans after the fact, for the SDK's own provider: ids on first use, the span built once, at the end.

A span of the SDK costs 10 to 20 µs from start to end. Most of that buys what nobody asks of a task's span while it is
open, so `TaskSpan` is a span of the SDK that becomes one when somebody asks: until then it is four references.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.trace import sampling
from opentelemetry.trace import (
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)

from otel_asyncio.emit import names
from otel_asyncio.emit.asking import samples_children, samples_roots
from otel_asyncio.emit.attributes import TaskAttributes, end_attributes, start_attributes
from otel_asyncio.emit.errors import record_error
from otel_asyncio.emit.given import GivenSpan, blank, cuts_nothing, origin_of
from otel_asyncio.emit.ids import ARE_KNOWN, RANDOM, child_ids, random_flag, root_ids, span_id_maker
from otel_asyncio.emit.late import LateSpan
from otel_asyncio.emit.lineage import Place, identify
from otel_asyncio.emit.processors import is_silent, taker
from otel_asyncio.emit.shortcuts import SpansCell
from otel_asyncio.emit.taskspan import IS_RECORDING, MADE_LATE, TaskSpan, new_span
from otel_asyncio.observe.flavour import extension

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_asyncio.emit.intervals import Attributes, LinkTo
    from otel_asyncio.observe.records import TaskRecord

_TRACER_PARTS = ("sampler", "resource", "span_processor", "id_generator", "_span_limits", "_instrumentation_scope")
_SAMPLED = int(TraceFlags.SAMPLED)
_UNSET = Status(StatusCode.UNSET)
_RECORD_ONLY, _RECORD_AND_SAMPLE = sampling.Decision.RECORD_ONLY, sampling.Decision.RECORD_AND_SAMPLE

_SPAN = sdk._Span if "_context" in MADE_LATE else TaskSpan
"""The spans whose ids are read directly, as those of ours are once they have them."""


# Of an SDK without a configurator of tracers; of a processor that does not say whom it tells.
_UNCONFIGURED = SimpleNamespace(_tracer_config=SimpleNamespace(is_enabled=True))
_UNLISTED = SimpleNamespace(_span_processors=None)


def supports(tracer: object) -> bool:
    """Whether this is the SDK's own tracer with the parts that are used here; else the plain API serves."""
    known = type(tracer) is sdk.Tracer and all(hasattr(tracer, part) for part in _TRACER_PARTS)
    return known and hasattr(tracer, "_is_enabled") == hasattr(tracer, "_tracer_config")  # which that one reads


class SdkSpans(SpansCell):
    """Opens and closes task spans through the parts of the SDK's tracer."""

    stand_for_themselves = True
    """Whether its spans are those to make current inside the task; else each knows which one is (`current`)."""

    def __init__(self, tracer: Any) -> None:
        self.tracer = tracer
        self.configured = tracer if hasattr(tracer, "_tracer_config") else _UNCONFIGURED
        self._multi = tracer.span_processor
        self.listed = self._multi if hasattr(self._multi, "_span_processors") else _UNLISTED
        self.processors = None
        self.silent = False
        self.takers = []
        self.children_are_sampled = samples_children(tracer.sampler)
        self._roots_are_sampled = samples_roots(tracer.sampler)
        self._plain_limits = cuts_nothing(tracer._span_limits)
        metrics = getattr(tracer, "_tracer_metrics", None)
        self._metrics = None if metrics is None or type(metrics).__name__ == "NoOpTracerMetrics" else metrics
        self.as_is = self._plain_limits and self._metrics is None
        self.new_span_id = span_id_maker(tracer.id_generator)
        # Compiled, a span is a copy of the one that has nothing of its own.
        self._new_span: Callable[[Any], TaskSpan] = new_span if extension is None else extension.copy_slots
        self.pattern = self if extension is None else new_span(self)
        self.is_recording = IS_RECORDING
        if ARE_KNOWN:
            self.use(TaskSpan, _SPAN, Place, SpanContext, GivenSpan)

    def open(self, record: TaskRecord, place: Place) -> TaskSpan | None:
        """The span of a task about to be made; None if the sampler, or the tracer's configurator, refuses it."""
        if not self.configured._tracer_config.is_enabled:
            return None
        span = self._new_span(self.pattern)
        span.record, span.place, span.above = record, place, place.parent
        if self.listed._span_processors is not self.processors:
            self._meet_processors()
        if self.silent and (self.children_are_sampled or place.rooted):
            return span  # the usual case: asked for nothing, told to nobody
        if self.silent:
            identify(span)
        else:
            self.materialise(span)
        return None if span.dropped else span

    def _meet_processors(self) -> None:
        """Look, once for each set of them, whether any span processor wants to know of a start."""
        multi = self._multi
        self.processors = getattr(multi, "_span_processors", None)
        known = type(multi) is sdk.SynchronousMultiSpanProcessor and isinstance(self.processors, tuple)
        processors: Any = self.processors if known else ()
        self.silent = known and all(map(is_silent, processors))
        # What the SDK's multi-processor does, one call earlier; our own processor has no use for task spans.
        takers = [taker(each) for each in processors if not getattr(each, "ignores_task_spans", False)]
        self.takers = takers if known else [self._multi.on_end]

    def identify(self, span: TaskSpan) -> None:
        """Ask the sampler, as the SDK's `start_span` would, and make the ids."""
        above = span.above
        if above is not None and self.children_are_sampled:
            parent = above._context if type(above) in (_SPAN, TaskSpan) else above.get_span_context()
            ids = child_ids(parent, self.new_span_id)
            if ids is not None:
                span.parent_ids, span._context = parent, ids
                return
        parent, generator = span.find_parent(), self.tracer.id_generator
        if parent is None and self._roots_are_sampled:
            span._context = root_ids(generator)
            return
        trace_id = generator.generate_trace_id() if parent is None else parent.trace_id
        attributes = start_attributes(span.record)
        result = self.tracer.sampler.should_sample(
            span.sampling_context(),
            trace_id,
            names.task_span(span.record.qualname),
            SpanKind.INTERNAL,
            attributes,
            span.task_links,
        )
        if result.attributes and result.attributes != attributes:  # the SDK's own samplers give back what they get
            span.extra = result.attributes
        span.decision = result.decision
        span.dropped = not result.decision.is_recording()
        flags = _SAMPLED if result.decision.is_sampled() else 0
        flags |= random_flag(generator) if parent is None else parent.trace_flags & RANDOM
        span._context = SpanContext(
            trace_id, generator.generate_span_id(), False, TraceFlags(flags), result.trace_state
        )

    def materialise(self, span: TaskSpan) -> None:
        """Become a whole span of the SDK: run its own constructor, with the ids and the start that the span has."""
        if span.touched:
            return
        if not span.identified:
            identify(span)
        if span.dropped:
            return
        late = {}
        if self._metrics is not None:
            late["record_end_metrics"] = self._metrics.start_span(span.parent_ids, span.decision)
        self._construct(span, start_attributes(span.record) | dict(span.extra), **late)
        span.start(start_time=span.record.wall, parent_context=span.sampling_context())

    def revive(self, span: TaskSpan) -> None:
        """Become a whole span of the SDK after the end, for somebody who held on to it: one that has ended."""
        self._construct(span, start_attributes(span.record) | end_attributes(span.record))
        span._start_time, span._end_time = span.record.wall, _end_time(span.record)

    def _construct(self, span: TaskSpan, attributes: dict[str, Any], **late: Any) -> None:
        span.touched = True
        tracer = self.tracer
        sdk.Span.__init__(
            span,
            **self._identity(span),
            sampler=tracer.sampler,
            attributes=attributes,
            span_processor=tracer.span_processor,
            limits=tracer._span_limits,
            **late,
        )

    def _identity(self, span: TaskSpan) -> dict[str, Any]:
        """What a span of the SDK is made with, whole or only to be read."""
        return {
            "name": names.task_span(span.record.qualname),
            "context": span.context,
            "parent": span.parent_ids,
            "links": span.task_links,
            **origin_of(self.tracer),
        }

    def close(self, span: TaskSpan, error: BaseException | None, wanted: bool) -> SpanContext | None:
        """End a task's span. Returns its ids if it was handed to the processors."""
        above = span.above
        if span._context is None:
            if not wanted:
                span.drop()
                return None
            kind = type(above)
            parent = above._context if kind is _SPAN or kind is TaskSpan else None
            ids = child_ids(parent, self.new_span_id) if parent is not None and self.children_are_sampled else None
            if ids is not None:
                span.parent_ids, span._context = parent, ids  # the usual case, as `identify` does it
            else:
                identify(span)  # from the outermost on
        if span.dropped:
            return None
        if error is not None or span.touched or span.extra or not self._plain_limits:
            self._finish(span, error)
            return span._context
        # As it is: what the processors read of it is made when they read it.
        if span.place is not None and span.place.spawner is not None:
            span.let_go()
        else:
            span.above = span.place = None
        if self._metrics is not None:
            self._metrics.start_span(span.parent_ids, span.decision)()
        if span.decision is _RECORD_ONLY:
            self._multi.on_end(span)
        else:
            for take in self.takers:
                take(span)
        return span._context

    def _finish(self, span: TaskSpan, error: BaseException | None) -> None:
        """End as a whole span of the SDK."""
        self.materialise(span)
        span.let_go()
        end_time = _end_time(span.record)
        span.set_attributes(end_attributes(span.record))
        if error is not None:
            record_error(span, error, end_time)
        span.finish(end_time)

    def give(
        self,
        parent: SpanContext | None,
        name: str,
        start: int,
        end: int,
        attributes: Attributes,
        links: tuple[LinkTo, ...] = (),
        error: str | None = None,
    ) -> SpanContext | None:
        """Hand over a span that is over, past the tracer; its ids. `parent`: of this process; None makes a root.

        None where somebody has to be asked, or told of its start: then the tracer makes it.
        """
        ids = self._ids_below(parent)
        if ids is not None:
            if self._metrics is not None:
                self._metrics.start_span(parent, _RECORD_AND_SAMPLE)()
            self._hand_over(ids, name, parent, start, end, attributes, links, error)
        return ids

    def _ids_below(self, parent: SpanContext | None) -> SpanContext | None:
        if self.listed._span_processors is not self.processors:
            self._meet_processors()
        if not (self.silent and self._plain_limits and self.configured._tracer_config.is_enabled):
            return None
        if parent is None:
            return root_ids(self.tracer.id_generator) if self._roots_are_sampled else None
        return child_ids(parent, self.new_span_id) if self.children_are_sampled else None

    def _hand_over(self, ids: SpanContext, *facts: Any) -> None:
        span = blank(GivenSpan)
        span._context = ids
        span.facts = self.tracer, *facts
        for take in self.takers:
            take(span)

    def begin(self, parent: SpanContext, name: str, start: int, attributes: Attributes) -> LateSpan | None:
        """An open span, past the tracer; None as by `give`."""
        ids = self._ids_below(parent) if self._metrics is None else None
        return None if ids is None else LateSpan(self.tracer, ids, parent, name, start, attributes)

    def end(self, span: Any, end: int, attributes: Attributes) -> bool:
        """End it with these, all of its attributes. False, and nothing happens, where it is a whole one."""
        if type(span) is not LateSpan or span.is_touched:
            return False
        self._hand_over(span._context, *span.end_untouched(end, attributes))
        return True

    def settle(self, span: TaskSpan) -> None:
        """Become readable, after the end. Runs where the span is read: in the exporter's thread, as a rule."""
        record = span.record
        sdk.ReadableSpan.__init__(
            span,
            **self._identity(span),
            attributes=TaskAttributes(record),
            status=_UNSET,
            start_time=record.wall,
            end_time=_end_time(record),
        )


def _end_time(record: TaskRecord) -> int:
    return record.wall + record.ended - record.created
