"""The metrics: instruments that read the counters when somebody collects, so that counting costs an addition.

A call of the SDK's counter or histogram costs 4 to 7 µs, as much as a bare task. So sums are observable instruments
over integers, and the values of histograms are kept aside, evenly selected, and recorded by whoever collects.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from opentelemetry import metrics
from opentelemetry.context import Context
from opentelemetry.metrics import NoOpMeterProvider, Observation
from opentelemetry.metrics._internal import _ProxyMeterProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext
from opentelemetry.trace.propagation import set_span_in_context

from otel_asyncio.emit import names
from otel_asyncio.emit.attributes import function_name
from otel_asyncio.emit.tracing import SCOPE, package_version
from otel_asyncio.observe.blocks import Accuracy
from otel_asyncio.observe.counters import Counters
from otel_asyncio.observe.problems import ProblemKind
from otel_asyncio.observe.watchdog import the_watchdog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider

    from otel_asyncio.observe.counters import LoopName, Shard
    from otel_asyncio.observe.glimpses import Glimpse
    from otel_asyncio.observe.records import TaskRecord

_NOBODY = (NoOpMeterProvider, _ProxyMeterProvider)
"""Providers that nobody collects from; the proxy stands for one that may be set later."""

_SECOND = 1e9
_MEASURED = {Accuracy.EXACT: "exact", Accuracy.SAMPLED: "probe"}
_ITEMS = ("span", "await", "problem", "stack")

# Seconds. The defaults of the SDK are made for milliseconds.
DURATION_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
DELAY_BUCKETS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
BLOCK_BUCKETS = (0.05, 0.1, 0.15, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The instruments of one meter provider, over the counters of every installation that reports to it.

    OpenTelemetry has no way to take an instrument back. So there is one set of them for each provider, and what was
    counted stays part of the sums when an installation is taken apart.
    """

    def __init__(self, provider: Callable[[], MeterProvider]) -> None:
        self._provider = provider
        self._collected = False
        meter = provider().get_meter(SCOPE, package_version(), schema_url=names.SCHEMA_URL)
        self._past = Counters()
        self._sources: tuple[_Source, ...] = (_Source(self._past, 0, _nothing),)
        self._lock = threading.Lock()
        self._durations = meter.create_histogram(
            names.TASK_DURATION,
            "s",
            "From the creation of a task to the end of its last step.",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )
        self._delays = meter.create_histogram(
            names.EVENTLOOP_DELAY,
            "s",
            "How long a task that was ready waited for its loop.",
            explicit_bucket_boundaries_advisory=DELAY_BUCKETS,
        )
        self._blocks = meter.create_histogram(
            names.EVENTLOOP_BLOCK_DURATION,
            "s",
            "How long one step or callback held a loop that it blocked.",
            explicit_bucket_boundaries_advisory=BLOCK_BUCKETS,
        )
        self._observe(meter)

    def _observe(self, meter: Meter) -> None:
        meter.create_observable_counter(names.TASK_STARTED, [self._started], "{task}", "Tasks created.")
        meter.create_observable_up_down_counter(
            names.TASK_ACTIVE, [self._active], "{task}", "Tasks created and not ended."
        )
        meter.create_observable_counter(
            names.TASK_CANCELLATIONS, [self._cancellations], "{cancellation}", "Cancellations that were dealt with."
        )
        meter.create_observable_counter(names.TIMEOUTS, [self._timeouts], "{timeout}", "Scopes that expired.")
        meter.create_observable_counter(
            names.PROBLEMS, [self._problems], "{problem}", "What deserves a person, by kind."
        )
        meter.create_observable_counter(
            names.INSTRUMENTATION_DROPPED, [self._dropped], "{item}", "What was not emitted, by item."
        )
        meter.create_observable_counter(
            names.INSTRUMENTATION_TIME, [self._spent], "s", "What this instrumentation has taken, estimated."
        )
        meter.create_observable_counter(
            names.EVENTLOOP_TIME, [self._loop_time], "s", "How long loops ran callbacks, and waited."
        )
        meter.create_observable_gauge(
            names.EVENTLOOP_UTILIZATION,
            [self._utilization],
            "1",
            "The share of the time since the last collection in which a loop ran callbacks.",
        )
        self._seen: dict[LoopName, tuple[int, int]] = {}
        self._thread_time = self._thread_seen = 0
        """Nanoseconds of the watchdog's thread, and how many it had when it was asked last."""

    def add(self, counters: Counters, functions: int, probe: Callable[[], None]) -> Callable[[], None]:
        """Count what this installation counts, until what is returned is called.

        `functions`: how many functions are told apart by name. `probe` is called at each collection, to have what
        can only be estimated ready for the next.
        """
        source = _Source(counters, functions, probe)
        with self._lock:
            self._sources = (*self._sources, source)

        def remove() -> None:
            with self._lock:
                self._record_source(source)
                self._past.absorb(counters)
                self._sources = tuple(each for each in self._sources if each is not source)

        return remove

    def is_read(self) -> bool:
        """Whether there is, as far as can be known, somebody who collects."""
        return self._collected or not isinstance(self._provider(), _NOBODY)

    def _started(self, _: CallbackOptions) -> Iterator[Observation]:
        self._collected = True
        for source in self._sources:  # the first callback of a collection: what was kept aside goes in with it
            source.probe()
            self._record_source(source)
        yield Observation(sum(source.counters.started for source in self._sources))

    def _active(self, _: CallbackOptions) -> Iterator[Observation]:
        yield Observation(sum(source.counters.active for source in self._sources))

    def _cancellations(self, _: CallbackOptions) -> Iterator[Observation]:
        total = sum((source.counters.cancellations for source in self._sources), Counter())
        for (origin, outcome, expected), count in total.items():
            attributes: dict[str, Any] = {names.CANCEL_ORIGIN: origin, names.CANCEL_OUTCOME: outcome}
            yield Observation(count, attributes | {names.CANCEL_EXPECTED: expected})

    def _timeouts(self, _: CallbackOptions) -> Iterator[Observation]:
        total = sum((source.counters.timeouts for source in self._sources), Counter())
        for outcome, count in total.items():
            yield Observation(count, {names.TIMEOUT_OUTCOME: outcome})

    def _problems(self, _: CallbackOptions) -> Iterator[Observation]:
        for kind in ProblemKind:
            count = sum(source.counters.problems[kind] for source in self._sources)
            yield Observation(count, {names.PROBLEM: str(kind)})

    def _dropped(self, _: CallbackOptions) -> Iterator[Observation]:
        for item in _ITEMS:
            count = sum(source.counters.dropped[item] for source in self._sources)
            yield Observation(count, {names.ITEM: item})

    def _spent(self, _: CallbackOptions) -> Iterator[Observation]:
        thread = the_watchdog().cpu_time
        begun_anew = thread < self._thread_seen
        self._thread_time += thread if begun_anew else thread - self._thread_seen
        self._thread_seen = thread
        hooks = sum(source.counters.spent for source in self._sources)
        yield Observation((hooks + self._thread_time) / _SECOND)

    def _loop_times(self) -> dict[LoopName, tuple[int, int]]:
        times: dict[LoopName, tuple[int, int]] = {}
        for source in self._sources:
            for shard in source.counters.shards():
                active, idle = times.get(shard.loop, (0, 0))
                times[shard.loop] = active + shard.active, idle + shard.idle
        return {loop: time for loop, time in times.items() if any(time)}

    def _loop_time(self, _: CallbackOptions) -> Iterator[Observation]:
        for loop, (active, idle) in self._loop_times().items():
            attributes = _loop_attributes(loop)
            yield Observation(active / _SECOND, attributes | {names.EVENTLOOP_STATE: "active"})
            yield Observation(idle / _SECOND, attributes | {names.EVENTLOOP_STATE: "idle"})

    def _utilization(self, _: CallbackOptions) -> Iterator[Observation]:
        seen, self._seen = self._seen, self._loop_times()
        for loop, time in self._seen.items():
            active, idle = (late - early for late, early in zip(time, seen.get(loop, (0, 0)), strict=True))
            if active + idle > 0:
                yield Observation(active / (active + idle), _loop_attributes(loop))

    def _record_source(self, source: _Source) -> None:
        for shard in source.counters.shards():
            self._record_shard(source, shard)

    def _record_shard(self, source: _Source, shard: Shard) -> None:
        for record in shard.take_durations():
            attributes = {names.TASK_OUTCOME: str(record.outcome)} | source.function(record)
            self._durations.record((record.ended - record.created) / _SECOND, attributes, _context_of(record.span))
        attributes = _loop_attributes(shard.loop) | {names.EVENTLOOP_MEASUREMENT: "exact"}
        for delay, record in shard.delays.take():
            self._delays.record(delay / _SECOND, attributes, _context_of(record.span))
        while shard.blocks:
            duration, accuracy, ids = shard.blocks.popleft()
            attributes = _loop_attributes(shard.loop) | {names.EVENTLOOP_MEASUREMENT: _MEASURED[accuracy]}
            self._blocks.record(duration / _SECOND, attributes, _context_of(ids))


def _nothing() -> None:
    """What is past need not be probed."""


class _Source:
    """What one installation counted, and which functions it tells apart."""

    def __init__(self, counters: Counters, functions: int, probe: Callable[[], None]) -> None:
        self.counters = counters
        self.probe = probe
        self._limit = functions
        self._functions: set[str] = set()

    def function(self, record: TaskRecord | Glimpse) -> dict[str, Any]:
        """The dimension `code.function.name`, for the first so many functions."""
        if not self._limit:
            return {}
        name = function_name(record.code, record.qualname)
        if name not in self._functions:
            if len(self._functions) >= self._limit:
                return {}
            self._functions.add(name)
        return {names.CODE_FUNCTION_NAME: name}


def _context_of(ids: Any) -> Context:
    """OpenTelemetry's context with a span of these ids, for the exemplar, where it is exported."""
    if not isinstance(ids, SpanContext):
        return Context()
    return set_span_in_context(NonRecordingSpan(ids), Context())


def _loop_attributes(loop: LoopName) -> dict[str, Any]:
    return {
        names.EVENTLOOP_ID: loop.id,
        names.EVENTLOOP_IMPLEMENTATION: loop.implementation,
        names.EVENTLOOP_MEASUREMENT: "probe" if loop.implementation == "uvloop" else "exact",
    }


_by_provider: WeakKeyDictionary[Any, Metrics] = WeakKeyDictionary()
_of_the_process: list[Metrics] = []
_lock = threading.Lock()


def metrics_of(provider: MeterProvider | None) -> Metrics:
    """The instruments of this meter provider (None: of the global one, also if it is set later)."""
    with _lock:
        if provider is None or provider is metrics.get_meter_provider():
            if not _of_the_process:
                _of_the_process.append(Metrics(metrics.get_meter_provider))
            return _of_the_process[0]
        if provider not in _by_provider:
            ref: Callable[[], Any] = weakref.ref(provider)
            _by_provider[provider] = Metrics(ref)
        return _by_provider[provider]
