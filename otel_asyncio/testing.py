"""For tests: a loop on virtual time, spans kept in memory, and a whole trace as a few lines of text.

loop = AutojumpLoop()
with record(clock=loop.clock) as recorder, asyncio.Runner(loop_factory=lambda: loop) as runner:
    runner.run(main())
assert recorder.render() == ...
"""

from __future__ import annotations

import asyncio
import selectors
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import patch

from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import StatusCode

from otel_asyncio import instrumentor
from otel_asyncio.emit import names
from otel_asyncio.observe.clock import SYSTEM_CLOCK, Clock
from otel_asyncio.observe.watchdog import is_watching
from otel_asyncio.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from opentelemetry.sdk.trace import ReadableSpan

__all__ = ["AutojumpLoop", "Recorder", "record", "render"]

_SECOND = 1_000_000_000
_EPOCH = 946_684_800 * _SECOND  # virtual time begins with the year 2000: the same in every run


class _VirtualTime:
    """Nanoseconds since the loop was made. Whole numbers, so that sums of it are exact."""

    elapsed = 0

    def read(self) -> int:
        return _EPOCH + self.elapsed


class _JumpingSelector(selectors.DefaultSelector):
    """Looks at the files without waiting; where nothing is ready, the time waited for passes at once."""

    def __init__(self, time: _VirtualTime) -> None:
        super().__init__()
        self._time = time

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if timeout is not None and not events:
            self._time.elapsed += max(0, round(timeout * _SECOND))
        if events or timeout is not None:
            return events
        # The loop's own pipe is one file. Somebody else's, or another thread, may still wake the loop.
        if len(self.get_map()) > 1 or threading.active_count() - is_watching() > 1:
            return super().select(None)
        raise RuntimeError("the program would hang here: all tasks wait, and no timer is set")


class AutojumpLoop(asyncio.SelectorEventLoop):
    """An event loop that never sleeps: when all tasks wait, `time()` moves on to the next timer.

    Hours pass in milliseconds, and two runs of a program have the same times to the nanosecond. Running code takes
    no time here, unless it says so with `spin`. Programs that wait for threads or sockets want a real loop.

    Raises:
        RuntimeError: while running, where the program would wait forever.
    """

    def __init__(self) -> None:
        self._virtual = _VirtualTime()
        super().__init__(_JumpingSelector(self._virtual))
        self._clock_resolution = 1e-9
        self._clock = Clock(monotonic_ns=self._virtual.read, wall_ns=self._virtual.read)

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._virtual.elapsed / _SECOND

    @property
    def clock(self) -> Clock:
        """The loop's time as a clock for `record`, `task_factory` or `AsyncioInstrumentor().instrument`."""
        return self._clock

    def spin(self, seconds: float) -> None:
        """Be busy for so long: time passes while the calling code holds the loop."""
        if seconds < 0:
            raise ValueError(f"spin({seconds!r}): time does not run backwards")
        self._virtual.elapsed += round(seconds * _SECOND)


class Recorder:
    """A tracer provider that keeps the finished spans in memory.

    Samples everything and reads nothing from the environment: a test sees the same wherever it runs.
    """

    def __init__(self, *, settings: Settings | None = None, clock: Clock = SYSTEM_CLOCK) -> None:
        self.settings = settings or Settings()
        self.clock = clock
        self._exporter = InMemorySpanExporter()
        self.tracer_provider = sdk.TracerProvider(
            sampler=ALWAYS_ON, resource=Resource.get_empty(), shutdown_on_exit=False
        )
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """The finished spans, in the order in which they ended."""
        return self._exporter.get_finished_spans()

    def clear(self) -> None:
        """Forget the spans that have ended so far."""
        self._exporter.clear()

    def render(self, digits: int = 9) -> str:
        """The finished spans as text."""
        return render(self.spans, digits)

    def task_factory(self, inner: Callable[..., Any] | None = None) -> Callable[..., Any]:
        """A factory for `loop.set_task_factory` that records here; needs no instrumented process."""
        return instrumentor.task_factory(
            inner, tracer_provider=self.tracer_provider, settings=self.settings, clock=self.clock
        )


@contextmanager
def record(
    *, settings: Settings | None = None, clock: Clock = SYSTEM_CLOCK, process_wide: bool = True
) -> Iterator[Recorder]:
    """Record the tasks of every loop inside the block, and the program's own spans made by `tracer_provider`.

    Args:
        settings: what is recorded; default: the defaults, whatever the environment says.
        clock: where time comes from, such as `AutojumpLoop().clock`. The SDK's own spans follow it, too.
        process_wide: False leaves asyncio alone and records what `Recorder.task_factory` makes.

    Raises:
        RuntimeError: asyncio is instrumented already, so its spans would go elsewhere.
    """
    ours = instrumentor.AsyncioInstrumentor()
    if process_wide and ours.is_instrumented_by_opentelemetry:
        raise RuntimeError("asyncio is instrumented already: call AsyncioInstrumentor().uninstrument() first")
    recorder = Recorder(settings=settings, clock=clock)
    with ExitStack() as stack:
        stack.callback(recorder.tracer_provider.shutdown)
        if hasattr(sdk, "time_ns"):  # what the SDK stamps its spans with; where it has another name, that stays
            stack.enter_context(patch.object(sdk, "time_ns", clock.wall_ns))
        if process_wide:
            stack.callback(ours.uninstrument)
            ours.instrument(tracer_provider=recorder.tracer_provider, settings=recorder.settings, clock=recorder.clock)
        yield recorder


def render(spans: Iterable[ReadableSpan], digits: int = 9) -> str:
    """A tree of spans, one line each: name, start–end, outcome, busy/scheduled/idle time, links.

        task main 0–3 success busy=0.5 scheduled=0 idle=2.5
          task fetch 0.5–3 error (ValueError) busy=0 scheduled=0 idle=2.5

    Times are seconds since the first span began, rounded to `digits`. Siblings stand in the order of their starts.
    Ids are not printed and decide nothing, so that two runs of one program read the same.
    """
    everything = sorted(spans, key=_start)
    by_id = {_key(span.context): span for span in everything}
    children: dict[Any, list[ReadableSpan]] = {}
    for span in everything:
        parent = _key(span.parent)
        children.setdefault(parent if parent in by_id else None, []).append(span)
    zero = min((span.start_time or 0 for span in everything), default=0)
    lines: list[str] = []
    waiting = [(span, 0) for span in reversed(children.get(None, ()))]
    while waiting:
        span, depth = waiting.pop()
        lines.append("  " * depth + " ".join(_parts(span, zero, digits, by_id)))
        waiting += ((child, depth + 1) for child in reversed(children.get(_key(span.context), ())))
    return "\n".join(lines)


def _parts(span: ReadableSpan, zero: int, digits: int, by_id: dict[Any, ReadableSpan]) -> Iterator[str]:
    attributes = span.attributes or {}
    times = ("…" if at is None else _number((at - zero) / _SECOND, digits) for at in (span.start_time, span.end_time))
    yield from (span.name, "–".join(times))
    if outcome := attributes.get(names.TASK_OUTCOME, "error" if span.status.status_code is StatusCode.ERROR else ""):
        yield str(outcome)
    if error := attributes.get(names.ERROR_TYPE):
        yield f"({error})"
    for word in (names.TASK_BUSY_TIME, names.TASK_SCHEDULED_TIME, names.TASK_IDLE_TIME):
        if word in attributes:
            yield f"{word.split('.')[-1].removesuffix('_time')}={_number(attributes[word], digits)}"
    if problem := attributes.get(names.PROBLEM):
        yield f"✗ {problem}"
    yield from sorted(_link(link, by_id) for link in span.links)


def _link(link: Any, by_id: dict[Any, ReadableSpan]) -> str:
    target = by_id.get(_key(link.context))
    return f"→ {(link.attributes or {}).get(names.LINK_TYPE, 'link')}: {target.name if target else 'elsewhere'}"


def _start(span: ReadableSpan) -> tuple[int, float, int, str]:
    """Of two that start at once, the task made first comes first; then what is not a task, by name."""
    number = cast("float", (span.attributes or {}).get(names.TASK_ID, float("inf")))
    return span.start_time or 0, number, -(span.end_time or 0), span.name


def _key(ids: Any) -> tuple[int, int] | None:
    return None if ids is None else (ids.trace_id, ids.span_id)


def _number(seconds: Any, digits: int) -> str:
    text = f"{seconds:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
