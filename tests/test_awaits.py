"""Await spans: which waits become spans, where they lie, and that their times are exact."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from typing import Any

import pytest
from harness import (
    Spans,
    TracedRun,
    asyncio_only,
    attributes,
    both_providers,
    both_ways,
    instrumented,
    links,
    parent_id,
    span_id,
)
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

from otel_asyncio import Settings
from otel_asyncio.emit import awaits as emitted_awaits
from otel_asyncio.observe import awaits
from otel_asyncio.testing import AutojumpLoop, Recorder, record

MILLISECOND = 1_000_000


def recorded(main: Any, **settings: Any) -> Recorder:
    """What is recorded of `main(loop, tracer)` on the virtual clock."""
    loop = AutojumpLoop()
    with record(settings=Settings(**settings), clock=loop.clock) as recorder:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(main(loop, recorder.tracer_provider.get_tracer("test")))
    return recorder


def waits_of(spans: Any) -> list[ReadableSpan]:
    return [span for span in spans if span.name.startswith("await ")]


def named(recorder: Recorder, name: str) -> ReadableSpan:
    (found,) = [span for span in recorder.spans if span.name == name]
    return found


async def child(loop: AutojumpLoop, *script: tuple[str, float]) -> None:
    for what, seconds in script:
        if what == "spin":
            loop.spin(seconds)
        else:
            await asyncio.sleep(seconds)


async def other(seconds: float) -> None:
    await asyncio.sleep(seconds)


async def fails(seconds: float) -> None:
    await asyncio.sleep(seconds)
    raise LookupError


def test_a_wait_is_dated_and_split_to_the_nanosecond() -> None:
    async def waits(loop: AutojumpLoop, event: asyncio.Event) -> None:
        loop.spin(0.05)
        await event.wait()
        loop.spin(0.01)

    async def main(loop: AutojumpLoop, tracer: Any) -> None:
        with tracer.start_as_current_span("request"):
            event = asyncio.Event()
            task = asyncio.create_task(waits(loop, event))
            await asyncio.sleep(0.3)
            event.set()  # what the other one waits for is here; it runs at 0.6
            loop.spin(0.3)
            await task

    recorder = recorded(main)
    (task,) = [span for span in recorder.spans if span.name.endswith("waits")]
    (span,) = [span for span in waits_of(recorder.spans) if parent_id(span) == span_id(task)]
    assert task.start_time is not None and span.start_time is not None and span.end_time is not None
    assert (span.start_time - task.start_time, span.end_time - task.start_time) == (50 * MILLISECOND, 600 * MILLISECOND)
    assert attributes(span)["asyncio.await.idle_time"] == 0.25
    assert attributes(span)["asyncio.await.scheduled_time"] == 0.3


def test_every_wait_of_a_script_is_told_once_with_its_times() -> None:
    script = [("sleep", 0.1 + i / 1000) if i % 3 else ("spin", 0.001 * i) for i in range(60)]
    expected, at = [], 0
    for what, seconds in script:
        nanoseconds = round(seconds * 1000) * MILLISECOND
        if what == "sleep":
            expected.append((at, at + nanoseconds))
        at += nanoseconds

    async def main(loop: AutojumpLoop, tracer: Any) -> None:
        with tracer.start_as_current_span("request"):
            await asyncio.create_task(child(loop, *script))

    recorder = recorded(main)
    task = named(recorder, "task child")
    zero = task.start_time or 0
    spans = [span for span in waits_of(recorder.spans) if parent_id(span) == span_id(task)]
    assert [((span.start_time or 0) - zero, (span.end_time or 0) - zero) for span in spans] == expected


def test_a_wait_of_the_threshold_is_told_and_a_shorter_one_is_not() -> None:
    async def main(loop: AutojumpLoop, tracer: Any) -> None:
        with tracer.start_as_current_span("request"):
            await asyncio.sleep(0.1)
            await asyncio.sleep(0.099_999)

    assert len(waits_of(recorded(main).spans)) == 1


@both_providers
@both_ways
def test_an_await_span_has_the_attributes_of_the_contract(traced_run: TracedRun, spans: Spans) -> None:
    async def main() -> None:
        with spans.tracer.start_as_current_span("request"):
            await asyncio.sleep(0.02)

    traced_run(main(), await_threshold=0.01)
    (span,) = waits_of(spans.all())
    seen = attributes(span)
    assert set(seen) == {
        "asyncio.await.target", "asyncio.await.idle_time", "asyncio.await.scheduled_time", "code.function.name",
        "code.file.path", "code.line.number", "code.stacktrace",
    }  # fmt: skip
    assert (span.name, seen["asyncio.await.target"]) == ("await asyncio.sleep", "asyncio.sleep")
    line = main.__code__.co_firstlineno + 2
    assert (seen["code.file.path"], seen["code.line.number"]) == (__file__, line)
    assert seen["code.function.name"].endswith("main")
    assert f'File "{__file__}", line {line}, in ' in seen["code.stacktrace"]


@both_providers
def test_a_wait_lies_under_the_innermost_open_span(traced_run: TracedRun, spans: Spans) -> None:
    async def main() -> None:
        with spans.tracer.start_as_current_span("request"), spans.tracer.start_as_current_span("query"):
            await asyncio.sleep(0.02)

    traced_run(main(), await_threshold=0.01)
    assert parent_id(spans.named("await asyncio.sleep")) == span_id(spans.named("query"))


@both_providers
def test_a_wait_without_an_open_span_lies_under_the_task(traced_run: TracedRun, spans: Spans) -> None:
    async def main() -> None:
        await asyncio.sleep(0.02)

    traced_run(main(), await_threshold=0.01)
    assert parent_id(spans.named("await asyncio.sleep")) == span_id(spans.task("main"))


@both_providers
def test_a_wait_lies_within_what_it_lies_under(traced_run: TracedRun, spans: Spans) -> None:
    async def main() -> None:
        await asyncio.sleep(0.02)
        await asyncio.create_task(other(0.02))

    traced_run(main(), await_threshold=0.01)
    by_id = {span_id(span): span for span in spans.all()}
    for span in waits_of(spans.all()):
        above = by_id[parent_id(span) or 0]
        assert above.start_time and span.start_time and span.end_time and above.end_time
        assert above.start_time <= span.start_time <= span.end_time <= above.end_time


def test_a_connection_that_idles_between_requests_leaves_nothing_of_its_own() -> None:
    """The request takes over from its root task, and what that waits for outside of it is nobody's."""

    async def main(loop: AutojumpLoop, tracer: Any) -> None:
        await asyncio.sleep(1)
        with tracer.start_as_current_span("request"):
            await asyncio.sleep(2)
        await asyncio.sleep(3)

    recorder = recorded(main)
    assert (
        recorder.render()
        == "request 0–2\n  task main 0–2 busy=0 scheduled=0 idle=2\n  await asyncio.sleep 0–2".replace(
            "main", "test_a_connection_that_idles_between_requests_leaves_nothing_of_its_own.<locals>.main"
        )
    )


@pytest.mark.parametrize("settings", [{"min_task_duration": 5.0}, {"root_tasks": "problems"}])
def test_a_task_without_a_span_leaves_no_waits(settings: Any) -> None:
    async def main(loop: AutojumpLoop, tracer: Any) -> None:
        await asyncio.create_task(other(1))

    assert recorded(main, **settings).spans == ()


@pytest.mark.parametrize("settings", [{"min_task_duration": 5.0}, {"root_tasks": "problems"}])
def test_of_a_task_that_went_wrong_the_waits_are_told_after_all(settings: Any) -> None:
    async def main(loop: AutojumpLoop, tracer: Any) -> None:
        await asyncio.gather(fails(1), return_exceptions=True)

    recorder = recorded(main, **settings)
    (span,) = [span for span in waits_of(recorder.spans) if span.name == "await asyncio.sleep"]
    assert parent_id(span) == span_id(named(recorder, "task fails"))


def test_a_task_that_is_still_running_has_told_its_waits_under_a_span() -> None:
    """Nobody has to wait for the end of a worker that never ends."""
    seen = []

    async def main(loop: AutojumpLoop, tracer: Any) -> None:
        with tracer.start_as_current_span("request"):
            task = asyncio.create_task(child(loop, ("sleep", 1), ("sleep", 10)))
            await asyncio.sleep(2)
            seen.extend(waits_of(recorder.spans))
            task.cancel()

    loop = AutojumpLoop()
    with record(clock=loop.clock) as recorder, asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main(loop, recorder.tracer_provider.get_tracer("test")))
    assert [span.name for span in seen] == ["await asyncio.sleep", "await asyncio.sleep"]


def test_what_was_suppressed_leaves_no_span() -> None:
    async def main(loop: AutojumpLoop, tracer: Any) -> None:
        with tracer.start_as_current_span("request"), suppress_instrumentation():
            await asyncio.sleep(1)

    assert waits_of(recorded(main).spans) == []


def test_a_wait_under_an_unsampled_span_leaves_none() -> None:
    async def main(loop: AutojumpLoop, tracer: Any) -> None:
        ids = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(0))
        with use_span(NonRecordingSpan(ids)):
            await asyncio.sleep(1)

    assert waits_of(recorded(main).spans) == []


def test_a_wait_under_a_remote_parent_is_no_request() -> None:
    async def main(loop: AutojumpLoop, tracer: Any) -> None:
        ids = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(1))
        with use_span(NonRecordingSpan(ids)):
            await asyncio.sleep(1)

    recorder = recorded(main)
    assert [parent_id(span) for span in waits_of(recorder.spans)] == [2]
    assert not [span for span in recorder.spans if attributes(span).get("asyncio.task.kind") == "root_segment"]


@pytest.mark.parametrize("unsampled", [False, True])
def test_of_a_fast_await_nothing_is_looked_at(monkeypatch: pytest.MonkeyPatch, *, unsampled: bool) -> None:
    """T24: nor of a slow one under an unsampled span."""

    def follow(task: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(awaits, "follow", follow)

    async def main(loop: AutojumpLoop, tracer: Any) -> None:
        with use_span(NonRecordingSpan(SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(not unsampled)))):
            await asyncio.create_task(other(1.0 if unsampled else 0.09))

    recorded(main)


def test_a_threshold_of_never_leaves_no_spans() -> None:
    async def main(loop: AutojumpLoop, tracer: Any) -> None:
        await asyncio.sleep(1e6)

    assert waits_of(recorded(main, await_threshold=math.inf).spans) == []


LONG = os.environ.get("OTEL_ASYNCIO_LONG") == "1"
"""Whether the stream is one of a million, which takes half a minute."""


def test_of_a_long_stream_of_waits_so_many_become_spans_and_the_others_are_counted() -> None:
    many, most = 1_000_000 if LONG else 100_000, 128

    async def main(loop: AutojumpLoop, tracer: Any) -> None:
        with tracer.start_as_current_span("request"):
            await asyncio.create_task(streams())

    async def streams() -> None:
        for _ in range(many):
            await asyncio.sleep(0.1)

    loop = AutojumpLoop()
    spans = Spans()
    with instrumented(spans) as instrumentor:
        clock = loop.clock
        instrumentor.uninstrument()
        instrumentor.instrument(tracer_provider=spans.provider, settings=Settings(), clock=clock)
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(main(loop, spans.tracer))
        assert instrumentor.observation is not None
        dropped = instrumentor.observation.counters.dropped["await"]
    task = spans.task("streams")
    assert len([span for span in waits_of(spans.all()) if parent_id(span) == span_id(task)]) == most
    assert attributes(task)["asyncio.await.omitted"] == dropped == many - most
    assert attributes(task)["asyncio.await.omitted_time"] == pytest.approx((many - most) * 0.1)


def test_of_a_root_task_so_many_waits_are_kept_and_the_others_are_counted() -> None:
    async def main(loop: AutojumpLoop, tracer: Any) -> None:
        for _ in range(5):
            await asyncio.sleep(1)

    recorder = recorded(main, max_awaits_per_span=2)
    (task,) = [span for span in recorder.spans if span.name.startswith("task ")]
    assert len(waits_of(recorder.spans)) == 2
    assert (attributes(task)["asyncio.await.omitted"], attributes(task)["asyncio.await.omitted_time"]) == (3, 3.0)


def test_of_all_tasks_together_so_many_waits_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emitted_awaits, "_MOST_KEPT", 3)

    async def main(loop: AutojumpLoop, tracer: Any) -> None:
        await asyncio.gather(*(child(loop, ("sleep", 1), ("sleep", 1)) for _ in range(5)))
        await asyncio.create_task(child(loop, ("sleep", 1), ("sleep", 1)))  # the others are no longer kept

    recorder = recorded(main)
    tasks = sorted((s for s in recorder.spans if s.name == "task child"), key=lambda span: span.start_time or 0)
    omitted = [attributes(span).get("asyncio.await.omitted", 0) for span in tasks]
    told = [span for span in waits_of(recorder.spans) if span.name == "await asyncio.sleep"]
    assert sum(omitted[:5]) >= 2  # as many as did not fit when all five had waited once
    assert omitted[5] == 0
    assert len(told) + sum(omitted) == 12


def test_no_waits_at_all_are_told_where_none_may_be() -> None:
    async def main(loop: AutojumpLoop, tracer: Any) -> None:
        await asyncio.sleep(1)

    (task,) = recorded(main, max_awaits_per_span=0).spans
    assert attributes(task)["asyncio.await.omitted"] == 1


async def awaits_a_task() -> None:
    await asyncio.create_task(other(0.02))


async def gathers() -> None:
    await asyncio.gather(other(0.02), other(0.03))


async def waits() -> None:
    await asyncio.wait([asyncio.create_task(other(0.02)), asyncio.create_task(other(0.03))])


async def groups() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(other(0.03))
        group.create_task(other(0.02))


@both_ways
@pytest.mark.parametrize(
    ("program", "target", "count"),
    [(awaits_a_task, "task other", 1), (gathers, "gather", 2), (waits, "asyncio.wait", 2), (groups, "TaskGroup", 1)],
)
def test_a_wait_for_tasks_is_linked_to_them(
    traced_run: TracedRun, spans: Spans, program: Any, target: str, count: int
) -> None:
    """Of a TaskGroup, to the one that ended last."""
    traced_run(program(), await_threshold=0.01)
    span = spans.named(f"await {target}")
    tasks = sorted(spans.of("other"), key=lambda task: -(task.end_time or 0))
    assert [link.context.span_id for link in span.links] == [span_id(task) for task in tasks[:count]]
    assert set(links(span)) == {"awaited"}


@asyncio_only
def test_a_group_s_callbacks_look_as_ever(new_loop: Any, spans: Spans) -> None:
    async def main() -> str:
        async with asyncio.TaskGroup() as group:
            return repr(group.create_task(other(0))).partition("cb=")[2].partition("]")[0]

    with asyncio.Runner(loop_factory=new_loop) as runner:
        bare = runner.run(main())
    with instrumented(spans), asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(main()) == bare


def test_200_known_waits_are_told_as_the_program_logs_them(traced_run: TracedRun, spans: Spans) -> None:
    """In real time. What the program logs lies outside of what it waits, by the time that its own steps take; a busy
    machine may stop it in between, so nine tenths have to agree within a millisecond and all within 200. Stopped for as
    long as it was going to sleep, it does not wait at all."""
    logged: list[tuple[str, int, int]] = []

    async def logs(number: int) -> None:
        for turn in range(20):
            with spans.tracer.start_as_current_span(f"{number} {turn}"):
                before = time.time_ns()
                await asyncio.sleep(0.012 + 0.001 * turn)
                logged.append((f"{number} {turn}", before, time.time_ns()))

    async def main() -> None:
        await asyncio.gather(*map(logs, range(10)))

    traced_run(main(), await_threshold=0.01)
    by_id = {span_id(span): span for span in spans.all()}
    told = {}
    for span in waits_of(spans.all()):
        above = by_id[parent_id(span) or 0]
        if span.name == "await asyncio.sleep":
            assert above.name not in told
            told[above.name] = span
    assert told.keys() <= {name for name, _, _ in logged}
    off = sorted(
        max(abs((told[name].start_time or 0) - before), abs((told[name].end_time or 0) - after))
        for name, before, after in logged
        if name in told
    )
    assert off[179] <= MILLISECOND
    assert off[-1] <= 200 * MILLISECOND


@both_ways
def test_what_fails_in_looking_at_a_wait_is_said_once_and_the_program_goes_on(
    traced_run: TracedRun, spans: Spans, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T20."""

    def follow(task: Any) -> Any:
        raise LookupError("ours")

    monkeypatch.setattr(awaits, "follow", follow)

    async def main() -> str:
        for _ in range(3):
            await asyncio.sleep(0.02)
        return "done"

    with caplog.at_level(logging.ERROR, logger="otel_asyncio"):
        assert traced_run(main(), await_threshold=0.01) == "done"
    assert [record.getMessage().count("awaits") for record in caplog.records] == [1]
    assert len(spans.of("main")) == 1


def test_a_wait_that_ends_after_tracing_has_stopped_leaves_no_span(run: Any, spans: Spans) -> None:
    async def main() -> None:
        with spans.tracer.start_as_current_span("request"):
            with instrumented(spans, await_threshold=0.01):
                event = asyncio.Event()
                task = asyncio.create_task(event.wait())
                await asyncio.sleep(0.02)
                event.set()  # the other one's next step is announced, and runs when all is over
            await task

    run(main())
    assert not [span for span in spans.all() if span.name == "await Event.wait"]


def test_a_cancelled_wait_is_told_like_any_other() -> None:
    async def main(loop: AutojumpLoop, tracer: Any) -> None:
        with tracer.start_as_current_span("request"):
            task = asyncio.create_task(other(60))
            await asyncio.sleep(1)
            task.cancel()
            await asyncio.wait([task])

    recorder = recorded(main)
    (span,) = [s for s in waits_of(recorder.spans) if parent_id(s) == span_id(named(recorder, "task other"))]
    assert (span.end_time or 0) - (span.start_time or 0) == 1000 * MILLISECOND


def test_waits_leave_no_cyclic_garbage(spans: Spans, run: Any) -> None:
    """T10."""
    import gc  # noqa: PLC0415

    async def main() -> None:
        await asyncio.gather(*(gathers() for _ in range(20)))

    def rubbish() -> int:
        gc.collect()
        gc.disable()
        try:
            run(main())
            return gc.collect()
        finally:
            gc.enable()

    rubbish()
    bare = rubbish()
    with instrumented(spans, await_threshold=0.01):
        rubbish()
        traced = rubbish()
    assert traced <= bare + 50
    assert len(waits_of(spans.all())) > 100
