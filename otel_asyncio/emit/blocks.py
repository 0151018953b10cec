"""A loop that was held becomes a span that names the line, one line in the log, and a count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_asyncio.emit import names
from otel_asyncio.emit.attributes import code_attributes
from otel_asyncio.emit.intervals import link_to
from otel_asyncio.emit.stacks import frame_attributes, stacktrace
from otel_asyncio.observe.looks import Unit
from otel_asyncio.observe.problems import ProblemKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextvars import Context

    from opentelemetry.trace import SpanContext

    from otel_asyncio.emit.intervals import Intervals, LinkTo
    from otel_asyncio.emit.problems import ProblemReporter
    from otel_asyncio.observe.blocks import Block
    from otel_asyncio.observe.clock import Clock
    from otel_asyncio.observe.records import TaskRecord

_SECOND = 1e9
_MOST_VICTIMS = 8
_COLLECTOR = "gc.collect"


class Blocks:
    """An implementation of `observe.watching.BlockReporter`."""

    def __init__(
        self,
        intervals: Intervals,
        problems: ProblemReporter,
        innermost: Callable[[TaskRecord], Any],
        open_span: Callable[[TaskRecord, Context | None], Any],
        clock: Clock,
    ) -> None:
        self._intervals = intervals
        self._problems = problems
        self._innermost = innermost
        self._open_span = open_span
        self._clock = clock

    def open_in(self, record: TaskRecord, context: Context | None) -> SpanContext | None:
        """The recorded span of the program that is open in this context of a root task.

        A server opens its span, and a handler that never waits has closed it when the step is over: by then nobody
        could tell in which request the loop was blocked.
        """
        place = getattr(record.span, "place", None)
        if place is None or context is None or not place.rooted:
            return None
        span = self._open_span(record, context)
        return span.get_span_context() if span is not None and span.is_recording() else None

    def parent(self, record: TaskRecord, start: int) -> SpanContext | None:
        """The innermost span that was open when the step began: what was opened in it is no parent of it."""
        span = self._innermost(record)
        if span is None:
            return None
        if span is record.span:  # its own: of one that the sampler turned down nothing else can be asked
            return span.get_span_context()  # type: ignore[no-any-return]
        began, above = getattr(span, "start_time", None), getattr(span, "parent", None)
        opened_in_it = began is not None and began > record.wall_at(start)
        ids: SpanContext = above if opened_in_it and above is not None else span.get_span_context()
        return ids

    def report(self, block: Block) -> None:
        """Report one block."""
        if not self._problems.admits(ProblemKind.LOOP_BLOCKED):
            return
        attributes, ids = _attributes(block), _above(block)
        if block.unit is not Unit.UNRECORDED:
            made = self._span(block, attributes)
            ids = made or ids
        self._problems.write(
            ProblemKind.LOOP_BLOCKED, _what(block), _where(attributes), block.duration, attributes, ids
        )

    def _span(self, block: Block, attributes: dict[str, Any]) -> SpanContext | None:
        end = self._clock.wall_ns() - (self._clock.monotonic_ns() - block.end)
        if block.record is not None:
            end = block.record.wall_at(block.end)
        return self._intervals.emit(
            names.block_span(_function(block)),
            _above(block) or _own_ids(block.record),
            end - block.duration,
            end,
            attributes,
            tuple(_victims(block)),
        )


def _above(block: Block) -> SpanContext | None:
    """What was open when it began; where that is only the task's own, what it was seen in."""
    only_own = block.parent is None or block.parent == _own_ids(block.record)
    ids: SpanContext | None = block.place if only_own and block.place is not None else block.parent
    return ids


def _own_ids(record: TaskRecord | None) -> SpanContext | None:
    """The task's own span: what a block that has not ended stands under."""
    span = record.span if record is not None else None
    return span if span is None or hasattr(span, "trace_id") else span.get_span_context()


def _function(block: Block) -> str:
    """What holds the loop, in the reader's words."""
    if block.gc_time * 2 > block.duration:
        return _COLLECTOR
    if block.blame is not None:
        return block.blame.qualname
    if block.record is not None:
        return block.record.qualname
    return block.callback or (block.stack.frames[0].qualname if block.stack.frames else "callback")


def _attributes(block: Block) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        names.PROBLEM: str(ProblemKind.LOOP_BLOCKED),
        names.BLOCK_ACCURACY: str(block.accuracy),
        names.BLOCK_SAMPLES: block.samples,
        names.BLOCK_VICTIMS: len(block.victims),
        names.BLOCK_GC_TIME: block.gc_time / _SECOND,
        names.EVENTLOOP_ID: block.loop.id,
        names.EVENTLOOP_IMPLEMENTATION: block.loop.implementation,
        **_code(block),
    }
    if block.stack.frames:
        attributes[names.CODE_STACKTRACE] = stacktrace(block.stack.frames[::-1], block.stack.omitted)
    if block.record is not None:
        attributes[names.TASK_ID] = block.record.id
    if block.report:
        attributes[names.STUCK_REPORT] = block.report
    return attributes


def _code(block: Block) -> dict[str, Any]:
    if block.blame is not None:
        return frame_attributes(block.blame)
    if block.record is not None:
        return code_attributes(block.record.code, block.record.qualname)
    return {names.CODE_FUNCTION_NAME: block.callback} if block.callback else frame_attributes(_innermost(block))


def _innermost(block: Block) -> Any:
    return block.stack.frames[0] if block.stack.frames else None


def _what(block: Block) -> str:
    if block.gc_time * 2 > block.duration:
        return f"garbage collection held the loop for {block.gc_time / _SECOND:.3f} s"
    return "the loop was blocked" if block.over else "the loop is blocked and has not come back"


def _where(attributes: dict[str, Any]) -> str:
    where = f"{attributes.get(names.CODE_FILE_PATH)}:{attributes.get(names.CODE_LINE_NUMBER)}"
    if names.CODE_FILE_PATH not in attributes:
        return "line unknown"
    return where if names.CODE_STACKTRACE in attributes else f"defined at {where}; the line was not seen"


def _victims(block: Block) -> Iterator[LinkTo]:
    """Links to waiting tasks of other traces, of those that have a span anyway."""
    above = _above(block)
    trace = above.trace_id if above is not None else 0
    left = _MOST_VICTIMS
    for record in block.victims:
        span = record.span
        if not left or span is None or getattr(span, "yielded", False) or getattr(span, "dropped", False):
            continue
        ids = span if hasattr(span, "trace_id") else span.get_span_context()
        if ids.is_valid and ids.trace_id != trace:
            left -= 1
            yield link_to(ids, names.LINK_VICTIM)
