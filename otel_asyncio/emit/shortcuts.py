"""What every recorded task asks of the sink, where it is compiled: the usual case, and Python for all else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.context.context import Context

from otel_asyncio.emit import current, names
from otel_asyncio.observe.flavour import extension
from otel_asyncio.observe.records import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry.sdk.trace import ReadableSpan

    from otel_asyncio.emit.lineage import Place
    from otel_asyncio.emit.tracing import Tracing
    from otel_asyncio.observe.clock import Clock
    from otel_asyncio.observe.records import TaskRecord


class SpansCell:
    """What every span of a task asks of the way in which spans are made; the same fields in both flavours."""

    tracer: Any
    """The SDK's."""

    configured: Any
    """Whose `_tracer_config.is_enabled` is looked at each time."""

    listed: Any
    """Whose `_span_processors` must still be `processors`."""

    processors: object
    takers: list[Callable[[ReadableSpan], None]]
    """Who takes a sampled span that has ended."""

    new_span_id: Callable[[], int]
    pattern: Any
    """Compiled, a span is a copy of this one, which has nothing of its own."""

    is_recording: object
    """What answers that of the SDK's spans by whether `_end_time` is None; else None, and each is asked."""

    silent: bool
    """Whether no processor wants to know of a start."""

    children_are_sampled: bool
    """Whether a sampled local parent means a sampled child with nothing added."""

    as_is: bool
    """Whether a span that nobody has touched is handed over as it is."""

    def use(self, *classes: type) -> None:
        """Its classes: of spans, ours and the SDK's, of places, of ids, of given spans. Python knows them by name."""


class StretchCell:
    """A part of a task's life: moments and durations in nanoseconds, of the record's clock."""

    __slots__ = ("busy", "record", "scheduled", "since", "steps", "until")
    record: TaskRecord
    since: int
    until: int
    busy: int
    scheduled: int
    steps: int


if not TYPE_CHECKING and extension is not None:
    SpansCell, StretchCell = extension.SpansCell, extension.StretchCell


def shorten(
    sink: object, methods: Iterable[str], tracing: Tracing, *, kept: Mapping[Any, Any], root: Place | None
) -> None:
    """Let these methods of the sink do the usual case compiled: of `place`, `opened` and `closed`.

    `kept` is what waits for the end of tasks: nothing, in the usual case. `root` is the place of a root task.
    """
    if extension is None or not current.IS_KNOWN:
        return
    for name in methods:
        call = extension.SinkCall(
            name,
            plain=getattr(sink, name),
            tracing=tracing,
            kept=kept,
            root=root,
            success=Outcome.SUCCESS,
            variable=current.VARIABLE,
            key=current.SPAN_KEY,
            telemetry=Context,
        )
        setattr(sink, name, call)


def shorten_requests(requests: object, spans: SpansCell, clock: Clock, **parts: Any) -> None:
    """Let the processor that splits requests do the usual case compiled. The SDK's ids and spans are those we know."""
    if extension is None:
        return
    for name in ("on_start", "on_end"):
        call = extension.RequestCall(
            name,
            plain=getattr(requests, name),
            requests=requests,
            spans=spans,
            clock=clock.monotonic_ns,
            wall=clock.wall_ns,
            name=names.task_span,
            **parts,
        )
        setattr(requests, name, call)
