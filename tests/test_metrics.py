"""What is counted is what happened, also where nothing is sampled, and it balances however a task ends."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import subprocess
import sys
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pytest
from harness import NewLoop, Spans, instrumented, loop_maker, run_on
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from otel_asyncio import AsyncioInstrumentor, Settings, task_factory
from otel_asyncio.observe.problems import ProblemKind
from otel_asyncio.observe.samples import LIMIT, Samples
from otel_asyncio.testing import AutojumpLoop

OF_THE_RUNNER = 2
"""Tasks that asyncio.run makes to close async generators and the executor: they are tasks like any other."""


class Meters:
    """A meter provider whose collected points can be asked for."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider(metric_readers=[self.reader], shutdown_on_exit=False)

    def collect(self) -> dict[str, Any]:
        data = self.reader.get_metrics_data()
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics] if data else []
        return {metric.name: metric for scope in scopes for metric in scope.metrics}

    def points(self, name: str) -> list[Any]:
        found = self.collect().get(name)
        return [] if found is None else list(found.data.data_points)

    def values(self, name: str, *dimensions: str) -> dict[Any, Any]:
        """Each value by the values of these dimensions, or the one there is."""
        points = self.points(name)
        return {tuple((point.attributes or {}).get(key) for key in dimensions): point.value for point in points}


@pytest.fixture
def meters() -> Iterator[Meters]:
    meters = Meters()
    yield meters
    meters.provider.shutdown()


@contextmanager
def metered(meters: Meters, spans: Spans, **settings: Any) -> Iterator[None]:
    instrumentor = AsyncioInstrumentor()
    instrumentor.instrument(
        tracer_provider=spans.provider, meter_provider=meters.provider, settings=Settings(**settings)
    )
    try:
        yield
    finally:
        instrumentor.uninstrument()


async def wait() -> None:
    await asyncio.sleep(0)


async def fail() -> None:
    await asyncio.sleep(0)
    raise ValueError("on purpose")


async def every_way_to_end() -> None:
    """Four tasks, and this one."""
    late = asyncio.create_task(asyncio.sleep(3600))
    never = asyncio.create_task(wait())
    never.cancel()
    await asyncio.gather(asyncio.create_task(wait()), asyncio.create_task(fail()), return_exceptions=True)
    late.cancel()
    await asyncio.gather(late, never, return_exceptions=True)


@pytest.mark.parametrize("sampled", (True, False))
def test_tasks_are_counted_by_how_they_ended_sampled_or_not(meters: Meters, new_loop: NewLoop, sampled: bool) -> None:
    spans = Spans() if sampled else Spans(sampler=ALWAYS_OFF)
    with metered(meters, spans), spans.tracer.start_as_current_span("request"):
        run_on(new_loop, every_way_to_end())
        assert meters.values("asyncio.task.started") == {(): 5 + OF_THE_RUNNER}
        assert meters.values("asyncio.task.active") == {(): 0}


async def cancelled_before_it_ran() -> None:
    task = asyncio.create_task(wait())
    task.cancel()
    await asyncio.wait([task])


async def cancelled_while_it_cleans_up() -> None:
    async def slow_to_go() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(3600)

    task = asyncio.create_task(slow_to_go())
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.wait([task])


async def destroyed() -> None:
    async def lost() -> None:
        await asyncio.get_running_loop().create_future()

    asyncio.create_task(lost())
    await asyncio.sleep(0)
    gc.collect()
    await asyncio.sleep(0)


async def left_behind() -> None:
    kept.append(asyncio.create_task(asyncio.sleep(3600)))


async def a_group_that_fails() -> None:
    with pytest.raises(BaseExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            group.create_task(asyncio.sleep(3600))


async def ends_the_program() -> None:
    async def leave() -> None:
        raise SystemExit

    kept.append(asyncio.create_task(leave()))
    await asyncio.sleep(3600)


kept: list[Any] = []
WAYS_TO_END = (
    cancelled_before_it_ran,
    cancelled_while_it_cleans_up,
    destroyed,
    left_behind,
    a_group_that_fails,
    ends_the_program,
)


@pytest.mark.parametrize("program", WAYS_TO_END, ids=lambda program: program.__name__)
@pytest.mark.parametrize("sampled", (True, False))
def test_no_task_stays_active_however_it_ends(meters: Meters, new_loop: NewLoop, sampled: bool, program: Any) -> None:
    spans = Spans() if sampled else Spans(sampler=ALWAYS_OFF)
    with metered(meters, spans), spans.tracer.start_as_current_span("request"):
        with suppress(SystemExit):
            run_on(new_loop, program())
        kept.clear()
        gc.collect()
        assert meters.values("asyncio.task.active") == {(): 0}


def test_what_is_left_pending_is_no_longer_active_when_its_loop_is_closed(
    meters: Meters, spans: Spans, new_loop: NewLoop
) -> None:
    with metered(meters, spans):
        loop = new_loop()
        task = loop.create_task(wait())
        assert meters.values("asyncio.task.active") == {(): 1}
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()
        assert meters.values("asyncio.task.active") == {(): 0}
        task.get_coro().close()  # type: ignore[union-attr]


def test_what_outlives_the_instrumentation_is_no_longer_active(meters: Meters, spans: Spans, new_loop: NewLoop) -> None:
    async def main() -> int:
        with metered(meters, spans):
            task = asyncio.create_task(wait())
        active: int = meters.values("asyncio.task.active")[()]
        await task
        return active

    assert run_on(new_loop, main()) == 0
    assert meters.values("asyncio.task.started") == {(): 2}


def test_two_installations_add_up(meters: Meters, spans: Spans, new_loop: NewLoop) -> None:
    for _ in range(2):
        loop = new_loop()
        loop.set_task_factory(task_factory(tracer_provider=spans.provider, meter_provider=meters.provider))
        loop.run_until_complete(wait())
        loop.close()
    assert meters.values("asyncio.task.started") == {(): 2}


def test_durations_come_with_their_outcome_and_an_exemplar_of_the_trace(
    meters: Meters, spans: Spans, new_loop: NewLoop
) -> None:
    with metered(meters, spans):
        run_on(new_loop, every_way_to_end())
    points = {point.attributes["asyncio.task.outcome"]: point for point in meters.points("asyncio.task.duration")}
    assert set(points) == {"success", "error", "cancellation"}
    assert points["error"].count == 1
    assert points["cancellation"].explicit_bounds[0] < 0.01  # made for seconds
    exported = {span.context.span_id for span in spans.all()}
    assert {exemplar.span_id for point in points.values() for exemplar in point.exemplars} <= exported
    assert points["error"].exemplars


def test_durations_are_those_of_unsampled_tasks_too_by_how_they_ended(meters: Meters, new_loop: NewLoop) -> None:
    spans = Spans(sampler=ALWAYS_OFF)
    with metered(meters, spans), spans.tracer.start_as_current_span("request"):
        run_on(new_loop, every_way_to_end())
        points = meters.points("asyncio.task.duration")
    counts = {point.attributes["asyncio.task.outcome"]: point.count for point in points}
    assert counts == {"success": 2 + OF_THE_RUNNER, "error": 1, "cancellation": 2}
    assert [exemplar for point in points for exemplar in point.exemplars if exemplar.trace_id] == []


def run_unsampled(meters: Meters, loop: AutojumpLoop, main: Coroutine[Any, Any, Any]) -> None:
    """Inside a span that the sampler turned down, on virtual time."""
    spans, instrumentor = Spans(sampler=ALWAYS_OFF), AsyncioInstrumentor()
    instrumentor.instrument(tracer_provider=spans.provider, meter_provider=meters.provider, clock=loop.clock)
    try:
        with spans.tracer.start_as_current_span("request"):
            loop.run_until_complete(main)
    finally:
        instrumentor.uninstrument()
        loop.close()


def test_an_unsampled_task_that_is_cancelled_and_goes_on_keeps_its_duration(meters: Meters) -> None:
    async def stubborn() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        await asyncio.sleep(7)

    async def main() -> None:
        task = asyncio.create_task(stubborn())
        await asyncio.sleep(1)
        task.cancel()
        await task

    run_unsampled(meters, AutojumpLoop(), main())
    (point,) = meters.points("asyncio.task.duration")
    assert (point.count, round(point.sum), point.attributes["asyncio.task.outcome"]) == (2, 8 + 8, "success")


def test_the_first_step_of_an_unsampled_task_has_its_delay(meters: Meters) -> None:
    loop = AutojumpLoop()

    async def main() -> None:
        task = asyncio.create_task(wait())
        loop.spin(3)
        await task

    run_unsampled(meters, loop, main())
    (point,) = meters.points("asyncio.eventloop.delay")
    assert (point.count, round(point.sum)) == (2, 3)  # of main, and of the task


@pytest.mark.parametrize("kept_by_the_sampler", (0.0, 0.5, 1.0))
def test_under_load_sampled_and_unsampled_tasks_weigh_alike(
    meters: Meters, new_loop: NewLoop, kept_by_the_sampler: float
) -> None:
    sampled, unsampled = Spans(), Spans(sampler=ALWAYS_OFF)

    async def main() -> None:
        with unsampled.tracer.start_as_current_span("unsampled"):
            unsampled_here = contextvars.copy_context()
        with sampled.tracer.start_as_current_span("sampled"):
            for number in range(20 * LIMIT):
                keep = number % 10 < kept_by_the_sampler * 10
                make = asyncio.create_task if keep else partial(unsampled_here.run, asyncio.create_task)
                await asyncio.gather(make(wait() if keep else fail()), return_exceptions=True)

    with metered(meters, sampled):
        run_on(new_loop, main())
    counts = dict.fromkeys(("success", "error"), 0)
    counts |= {
        point.attributes["asyncio.task.outcome"]: point.count for point in meters.points("asyncio.task.duration")
    }
    assert LIMIT // 4 <= sum(counts.values()) <= LIMIT * 5 // 4
    assert abs(counts["success"] / sum(counts.values()) - kept_by_the_sampler) < 0.1


def test_functions_are_a_dimension_up_to_a_limit(meters: Meters, spans: Spans, new_loop: NewLoop) -> None:
    with metered(meters, spans, metric_functions=1):
        run_on(new_loop, every_way_to_end())
        points = meters.points("asyncio.task.duration")
    assert len({point.attributes.get("code.function.name") for point in points}) == 2  # the first, and none


@pytest.mark.parametrize("sampled", (True, False))
def test_cancellations_are_counted_sampled_or_not(meters: Meters, new_loop: NewLoop, sampled: bool) -> None:
    spans = Spans() if sampled else Spans(sampler=ALWAYS_OFF)
    with metered(meters, spans), spans.tracer.start_as_current_span("request"):
        run_on(new_loop, every_way_to_end())
        counts = meters.values("asyncio.task.cancellations", "asyncio.cancel.origin", "asyncio.cancel.outcome")
    assert counts == {("explicit", "delivered"): 2}


def test_timeouts_are_counted_by_what_became_of_them(meters: Meters, spans: Spans, new_loop: NewLoop) -> None:
    async def main() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.sleep(3600)

    with metered(meters, spans):
        run_on(new_loop, main())
        assert meters.values("asyncio.timeouts", "asyncio.timeout.outcome") == {("handled",): 1}


def test_every_problem_is_there_from_zero(meters: Meters, spans: Spans) -> None:
    with metered(meters, spans):
        values = meters.values("asyncio.problems", "asyncio.problem")
    assert values == {(str(kind),): 0 for kind in ProblemKind}


def test_a_problem_is_counted(
    meters: Meters, spans: Spans, new_loop: NewLoop, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        asyncio.create_task(fail())
        await asyncio.sleep(0.01)
        gc.collect()

    with metered(meters, spans):
        run_on(new_loop, main())
        values = meters.values("asyncio.problems", "asyncio.problem")
    assert values[("exception_never_retrieved",)] == 1


PROVIDER_SET_LATER = """
import asyncio
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
import otel_asyncio

otel_asyncio.AsyncioInstrumentor().instrument(tracer_provider=TracerProvider())
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider(metric_readers=[reader]))
asyncio.run(asyncio.sleep(0))
found = {m.name: m for r in reader.get_metrics_data().resource_metrics for s in r.scope_metrics for m in s.metrics}
print(found["asyncio.task.started"].data.data_points[0].value, "asyncio.task.duration" in found)
"""


def test_a_provider_that_is_set_later_gets_them() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROVIDER_SET_LATER], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.stdout, done.stderr) == ("3 True\n", "")


def test_a_loop_tells_how_it_divides_its_time(meters: Meters, spans: Spans) -> None:
    loop = AutojumpLoop()

    async def main() -> dict[Any, Any]:
        loop.spin(3)
        await asyncio.sleep(1)
        return meters.values("asyncio.eventloop.time", "asyncio.eventloop.state", "asyncio.eventloop.measurement")

    instrumentor = AsyncioInstrumentor()
    instrumentor.instrument(tracer_provider=spans.provider, meter_provider=meters.provider, clock=loop.clock)
    try:
        times = loop.run_until_complete(main())
        loop.run_until_complete(asyncio.sleep(4))
        loop.spin(100)  # while it does not run
        loop.run_until_complete(asyncio.sleep(4))
        assert loop._selector.__dict__.get("select") is not None  # type: ignore[attr-defined]
    finally:
        instrumentor.uninstrument()
    later = meters.values("asyncio.eventloop.time", "asyncio.eventloop.state", "asyncio.eventloop.measurement")
    loop.close()
    assert times == {("active", "exact"): 3.0, ("idle", "exact"): 1.0}
    assert later == {("active", "exact"): 3.0, ("idle", "exact"): 9.0}


def test_utilization_is_that_since_the_last_collection(meters: Meters, spans: Spans) -> None:
    loop = AutojumpLoop()

    async def work(busy: float, idle: float) -> dict[Any, Any]:
        loop.spin(busy)
        await asyncio.sleep(idle)
        return meters.values("asyncio.eventloop.utilization", "asyncio.eventloop.measurement")

    instrumentor = AsyncioInstrumentor()
    instrumentor.instrument(tracer_provider=spans.provider, meter_provider=meters.provider, clock=loop.clock)
    try:
        shares = [loop.run_until_complete(work(*times)) for times in ((3, 1), (1, 9))]
    finally:
        instrumentor.uninstrument()
        loop.close()
    assert shares == [{("exact",): 0.75}, {("exact",): 0.1}]


def test_delays_are_those_of_the_loop(meters: Meters, spans: Spans, new_loop: NewLoop) -> None:
    async def many_steps() -> None:
        for _ in range(40):
            await asyncio.sleep(0)

    with metered(meters, spans):
        run_on(new_loop, many_steps())
        (point,) = meters.points("asyncio.eventloop.delay")
    assert point.count == 3 + OF_THE_RUNNER  # steps 0, 16 and 32; of tasks without a span the first
    assert point.attributes["asyncio.eventloop.measurement"] == "exact"


def test_nobody_who_reads_means_nothing_is_timed(spans: Spans) -> None:
    with instrumented(spans):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(wait())
        assert "select" not in vars(loop._selector)  # type: ignore[attr-defined]
        loop.close()


def test_a_loop_of_uvloop_is_probed(meters: Meters, spans: Spans) -> None:
    async def main() -> dict[Any, Any]:
        times: dict[Any, Any] = {}
        deadline = time.monotonic() + 30
        while not times and time.monotonic() < deadline:
            times = meters.values("asyncio.eventloop.time", "asyncio.eventloop.state", "asyncio.eventloop.measurement")
            await asyncio.sleep(0.02)
        return times

    with metered(meters, spans):
        assert set(run_on(loop_maker("uvloop"), main())) == {("active", "probe"), ("idle", "probe")}


def test_all_samples_are_kept_while_they_are_few() -> None:
    samples: Samples[int] = Samples()
    for number in range(LIMIT - 1):
        samples.offer(number)
    assert samples.take() == list(range(LIMIT - 1))
    assert samples.take() == []


def test_many_samples_are_thinned_out_evenly() -> None:
    samples: Samples[int] = Samples()
    for number in range(LIMIT * 8):
        samples.offer(number)
    kept = samples.take()
    assert LIMIT // 4 <= len(kept) <= LIMIT
    steps = {late - early for early, late in zip(kept, kept[1:], strict=False)}
    assert len(steps) == 1


@pytest.mark.parametrize("sampled", (True, False))
def test_a_blocked_loop_has_its_duration_sampled_or_not(meters: Meters, new_loop: NewLoop, sampled: bool) -> None:
    async def main() -> None:
        await asyncio.create_task(hold())

    async def hold() -> None:
        time.sleep(0.5)

    spans = Spans() if sampled else Spans(sampler=ALWAYS_OFF)
    with metered(meters, spans, block_threshold=0.15), spans.tracer.start_as_current_span("request"):
        run_on(new_loop, main())
    (point,) = meters.points("asyncio.eventloop.block.duration")
    assert point.count == 1
    assert 0.15 <= point.sum < 5
    assert point.attributes["asyncio.eventloop.measurement"] == ("exact" if sampled else "probe")
    assert [exemplar.trace_id for exemplar in point.exemplars] == [
        span.context.trace_id for span in spans.all() if span.name.startswith("block ")
    ]


def test_the_buckets_of_each_histogram_are_made_for_what_it_measures(
    meters: Meters, spans: Spans, new_loop: NewLoop
) -> None:
    """The SDK's own begin at five seconds, where most of this has ended. In seconds: the finest and the longest."""
    with metered(meters, spans, block_threshold=0.1):
        run_on(new_loop, hold_for_long())
        found = {
            name: meters.points(f"asyncio.{name}")[0].explicit_bounds
            for name in ("task.duration", "eventloop.delay", "eventloop.block.duration")
        }
    assert {name: (bounds[0], bounds[-1]) for name, bounds in found.items()} == {
        "task.duration": (0.001, 300.0),
        "eventloop.delay": (0.00005, 5.0),
        "eventloop.block.duration": (0.05, 60.0),
    }


def test_a_block_that_was_reported_while_it_lasted_counts_once_and_whole(meters: Meters, spans: Spans) -> None:
    with metered(meters, spans, block_threshold=0.1, stuck_after=0.2):
        run_on(asyncio.SelectorEventLoop, hold_for_long())
    (point,) = meters.points("asyncio.eventloop.block.duration")
    assert len([span for span in spans.all() if span.name.startswith("block ")]) > 1
    assert point.count == 1
    assert point.sum >= 1


async def hold_for_long() -> None:
    time.sleep(1)
