"""Await spans: under the innermost span that was open, or kept until it is known whether the task gets a span."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import SpanContext

from otel_asyncio.emit import names
from otel_asyncio.emit.current import SPAN_KEY, current_telemetry, is_suppressed, telemetry_context
from otel_asyncio.emit.intervals import ids_of, link_to
from otel_asyncio.emit.stacks import frame_attributes, stacktrace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from otel_asyncio.emit.intervals import Intervals, LinkTo
    from otel_asyncio.observe.awaits import Wait
    from otel_asyncio.observe.chain import Chain
    from otel_asyncio.observe.counters import Counters
    from otel_asyncio.observe.records import TaskRecord
    from otel_asyncio.observe.resources import Hold

_SECOND = 1e9
_MOST_LINKS = 8
_MOST_KEPT = 10_000  # in the whole process, of 1 kB at most: the chains of equal waits are not shared


class AwaitSpans:
    """Makes spans of long waits.

    Args:
        innermost: the innermost span that is open in a task which runs now.
        wants_all: whether every task that has not yielded gets a span.
    """

    def __init__(
        self, intervals: Intervals, counters: Counters, innermost: Callable[[TaskRecord], Any], *, wants_all: bool
    ) -> None:
        self._intervals = intervals
        self._counters = counters
        self._innermost = innermost
        self._wants_all = wants_all
        self._kept: deque[None] = deque()
        """One entry for each kept wait: a count for all threads without a lock, which a fork might leave locked."""

    def nest(self, record: TaskRecord) -> Any:
        """The span that a wait of this task lies under, which ends now; None if nobody is to hear of it."""
        if is_suppressed(current_telemetry()):
            return None
        parent = self._innermost(record)
        if parent is None or parent is record.span or parent.get_span_context().trace_flags.sampled:
            return parent
        return None

    def waited(self, record: TaskRecord, wait: Wait, parent: Any) -> None:
        """A wait is over: emit it, or keep it where its task may get no span after all."""
        if self._is_certain(record.span):
            self._emit_kept(record, record.span)
        elif parent is record.span:
            self._keep(record, wait)
            return
        self._emit(record, wait, parent)

    def omitted(self, record: TaskRecord) -> None:
        """A wait was only counted."""
        self._counters.drop("await")

    def closed(self, record: TaskRecord) -> None:
        """The task's span is closed: what was kept follows it, or goes."""
        if isinstance(record.span, SpanContext):
            self._emit_kept(record, record.span)
        else:
            self._take_kept(record)

    def _is_certain(self, own: Any) -> bool:
        """Whether a task's span will be exported. A root task's may still yield to a request."""
        return own.identified or (self._wants_all and (own.nested or not own.place.rooted))

    def _keep(self, record: TaskRecord, wait: Wait) -> None:
        if len(self._kept) < _MOST_KEPT:
            self._kept.append(None)
            record.waits.kept.append(wait)
        else:
            record.waits.omit(wait.until - wait.since)
            self.omitted(record)

    def _take_kept(self, record: TaskRecord) -> list[Wait]:
        if not record.waits.kept:
            return []
        kept, record.waits.kept = record.waits.kept, []
        for _ in kept:
            self._kept.pop()
        return kept

    def _emit_kept(self, record: TaskRecord, parent: Any) -> None:
        for wait in self._take_kept(record):
            self._emit(record, wait, parent)

    def _emit(self, record: TaskRecord, wait: Wait, parent: Any) -> None:
        self._intervals.emit(
            names.await_span(wait.chain.target),
            parent,
            record.wall_at(wait.since),
            record.wall_at(wait.until),
            partial(
                _attributes,
                wait.chain,
                wait.ready - wait.since,
                wait.until - wait.ready,
                wait.resource,
                None if wait.hold is None else holder_attributes(wait.hold, wait.until),
            ),
            _links(wait),
        )


def _attributes(
    chain: Chain, idle: int, scheduled: int, resource: str | None, holder: dict[str, Any] | None
) -> dict[str, Any]:
    attributes = {
        names.AWAIT_TARGET: chain.target,
        names.AWAIT_IDLE_TIME: idle / _SECOND,
        names.AWAIT_SCHEDULED_TIME: scheduled / _SECOND,
        **frame_attributes(chain.blame or next(iter(chain.frames), None)),
    }
    if chain.frames:
        attributes[names.CODE_STACKTRACE] = stacktrace(chain.frames, chain.omitted)
    if resource is not None:
        attributes[names.RESOURCE_TYPE] = resource
    return attributes | (holder or {})


def holder_attributes(hold: Hold, now: int) -> dict[str, Any]:
    """Who holds a lock, or held it: the task's name, the line that took it, for how long by `now`."""
    attributes: dict[str, Any] = {names.RESOURCE_HELD_TIME: ((hold.until or now) - hold.since) / _SECOND}
    if (name := hold.task_name) is not None:
        attributes[names.RESOURCE_HOLDER_TASK] = name
    if (site := hold.site) is not None:
        attributes[names.RESOURCE_HOLDER_FILE] = site.code.co_filename
        attributes[names.RESOURCE_HOLDER_LINE] = site.line
    return attributes


def _links(wait: Wait) -> Iterator[LinkTo]:
    for awaited in wait.awaited[:_MOST_LINKS]:
        if isinstance(awaited.span, SpanContext):
            yield link_to(awaited.span, names.LINK_AWAITED)
    holder = None if wait.hold is None else holder_span(wait.hold)
    if holder is not None and (ids := ids_of(holder)).is_valid:
        yield link_to(ids, names.LINK_HOLDER)


def holder_span(hold: Hold) -> Any:
    """The innermost span that was open in the task when it released the lock, or that is open now; else its own."""
    if hold.place is not None:
        return hold.place
    own = None if hold.record is None else hold.record.span
    task = hold.task
    if own is None or isinstance(own, SpanContext) or not hasattr(task, "get_context"):  # 3.12
        return own if own is None or not getattr(own, "yielded", False) else None
    current = telemetry_context(task.get_context()).get(SPAN_KEY)
    if current is not None and current is not own.place.around and current.is_recording():
        return current
    return None if own.yielded else own
