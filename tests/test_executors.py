"""Executor spans: they bracket what ran, carry the context along, and change nothing of what the program gets."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import logging
import math
import multiprocessing
import os
import pickle
import threading
import time
import traceback
from asyncio import base_events, threads
from collections.abc import Callable
from typing import Any

import pytest
from harness import (
    NewLoop,
    Spans,
    TracedRun,
    attributes,
    both_providers,
    both_ways,
    instrumented,
    needs_python,
    parent_id,
    run_on,
    span_id,
)
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import NonRecordingSpan, SpanContext, StatusCode, TraceFlags, use_span

from otel_asyncio import AsyncioInstrumentor

NAMES = {
    "asyncio.executor.kind", "asyncio.executor.queued_time", "asyncio.executor.run_time", "thread.id", "thread.name",
    "code.function.name", "code.file.path", "code.line.number",
}  # fmt: skip


def work(seconds: float = 0.0) -> int:
    """The id of the span that is current in the thread."""
    time.sleep(seconds)
    return trace.get_current_span().get_span_context().span_id


def fails(message: str) -> None:
    raise LookupError(message)


def process_work(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def tracebacks_of(error: BaseException) -> list[str]:
    return [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]


def executors_of(spans: Spans) -> list[ReadableSpan]:
    found = [span for span in spans.all() if span.name.startswith("executor ")]
    return sorted(found, key=lambda span: span.start_time or 0)


async def by_to_thread(function: Any, *args: Any) -> Any:
    return await asyncio.to_thread(function, *args)


async def by_executor(function: Any, *args: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, function, *args)


both_calls = pytest.mark.parametrize("hand_over", [by_to_thread, by_executor])


@both_providers
@both_ways
@both_calls
def test_the_span_brackets_what_ran(traced_run: TracedRun, spans: Spans, hand_over: Any) -> None:
    """T18."""

    async def main() -> None:
        with spans.tracer.start_as_current_span("request"):
            await hand_over(work, 0.05)

    traced_run(main())
    (span,) = executors_of(spans)
    seen = attributes(span)
    assert (span.name, set(seen), seen["asyncio.executor.kind"]) == ("executor work", NAMES, "thread")
    assert span.start_time is not None and span.end_time is not None
    assert (span.end_time - span.start_time) / 1e9 >= seen["asyncio.executor.run_time"] >= 0.05
    total = seen["asyncio.executor.run_time"] + seen["asyncio.executor.queued_time"]
    assert total == pytest.approx((span.end_time - span.start_time) / 1e9, abs=1e-6)
    assert (seen["code.file.path"], seen["code.line.number"]) == (__file__, work.__code__.co_firstlineno)
    assert parent_id(span) == span_id(spans.named("request"))


@both_providers
@both_ways
@both_calls
def test_what_runs_in_the_thread_lies_under_the_span(traced_run: TracedRun, spans: Spans, hand_over: Any) -> None:
    """T18."""

    async def main() -> list[int]:
        with spans.tracer.start_as_current_span("request"):
            return [await hand_over(work), await hand_over(work)]

    assert traced_run(main()) == [span_id(span) for span in executors_of(spans)]


@both_ways
def test_two_at_once_are_two_spans(traced_run: TracedRun, spans: Spans) -> None:
    """T18."""

    async def main() -> list[int]:
        with spans.tracer.start_as_current_span("request"):
            return await asyncio.gather(asyncio.to_thread(work, 0.02), by_executor(work, 0.02))

    assert sorted(traced_run(main())) == sorted(span_id(span) for span in executors_of(spans))


@both_ways
def test_the_worker_thread_is_named(traced_run: TracedRun, spans: Spans) -> None:
    async def main() -> tuple[int, str]:
        with spans.tracer.start_as_current_span("request"):
            return await asyncio.to_thread(lambda: (threading.get_ident(), threading.current_thread().name))

    ident, name = traced_run(main())
    (span,) = executors_of(spans)
    assert (attributes(span)["thread.id"], attributes(span)["thread.name"]) == (ident, name)


@both_ways
def test_the_whole_context_of_opentelemetry_goes_along_and_leaves_nothing(traced_run: TracedRun, spans: Spans) -> None:
    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        with concurrent.futures.ThreadPoolExecutor(1) as pool, spans.tracer.start_as_current_span("request"):
            token = context.attach(baggage.set_baggage("user", "ada"))
            seen = [await loop.run_in_executor(pool, baggage.get_baggage, "user")]
            context.detach(token)
            pool.submit(lambda: seen.append(len(context.get_current()))).result()
            return seen

    assert traced_run(main()) == ["ada", 0]


@both_ways
def test_the_context_stays_behind_if_the_setting_says_so(traced_run: TracedRun, spans: Spans) -> None:
    async def main() -> int:
        with spans.tracer.start_as_current_span("request"):
            return await by_executor(work)  # type: ignore[no-any-return]

    assert traced_run(main(), executor_context=False) == 0
    assert len(executors_of(spans)) == 1


@both_ways
def test_the_context_goes_along_where_nothing_is_sampled(traced_run: TracedRun, spans: Spans) -> None:
    async def main() -> int:
        with use_span(NonRecordingSpan(SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(0)))):
            return await by_executor(work)  # type: ignore[no-any-return]

    assert traced_run(main()) == 2
    assert executors_of(spans) == []


@both_providers
@both_ways
@both_calls
def test_an_exception_is_on_the_span(traced_run: TracedRun, spans: Spans, hand_over: Any) -> None:
    """T18."""

    async def main() -> None:
        with spans.tracer.start_as_current_span("request"), pytest.raises(LookupError):
            await hand_over(fails, "as asked")

    traced_run(main())
    (span,) = executors_of(spans)
    assert (span.status.status_code, attributes(span)["error.type"]) == (StatusCode.ERROR, "LookupError")
    assert [event.name for event in span.events] == ["exception"]


@both_ways
@both_calls
def test_an_exception_has_the_traceback_it_has_without_tracing(
    same_as_bare: Callable[..., Any], hand_over: Any, way_in: str
) -> None:
    """T6."""

    async def main() -> Any:
        try:
            await hand_over(fails, "as asked")
        except LookupError as error:
            return tracebacks_of(error), error.args, error.__context__
        return None

    assert same_as_bare(main)


async def coroutine_function() -> None: ...


async def refused_shut_down() -> Any:
    pool = concurrent.futures.ThreadPoolExecutor(1)
    pool.shutdown()
    await asyncio.get_running_loop().run_in_executor(pool, work)


async def refused_coroutine() -> Any:
    await asyncio.get_running_loop().run_in_executor(None, coroutine_function)


async def refused_uncallable() -> Any:
    await asyncio.get_running_loop().run_in_executor(None, 123)  # type: ignore[arg-type]


@both_ways
@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("program", [refused_shut_down, refused_coroutine, refused_uncallable])
@pytest.mark.filterwarnings("ignore:coroutine 'coroutine_function' was never awaited")
def test_what_is_refused_is_refused_in_the_same_words(
    same_as_bare: Callable[..., Any], program: Any, *, debug: bool
) -> None:
    async def main() -> Any:
        try:
            return repr(await program())
        except (TypeError, RuntimeError) as error:
            return str(error), tracebacks_of(error)

    same_as_bare(main, debug=debug)


class Callable_:
    """Callable, without a name or a code."""

    def __call__(self, number: int) -> int:
        return number + 1


CALLABLES = {
    "function": (work, "work"),
    "partial": (functools.partial(functools.partial(work), 0.0), "work"),
    "builtin": (functools.partial(max, 1, 2), "max"),
    "method": (functools.partial("{}".format, 1), "str.format"),
    "object": (functools.partial(Callable_(), 1), "Callable_"),
    "class": (functools.partial(int, "7"), "int"),
}


@both_ways
@both_calls
@pytest.mark.parametrize("kind", CALLABLES)
def test_whatever_is_called_has_a_name(traced_run: TracedRun, spans: Spans, hand_over: Any, kind: str) -> None:
    function, name = CALLABLES[kind]

    async def main() -> None:
        with spans.tracer.start_as_current_span("request"):
            await hand_over(function)

    traced_run(main())
    assert [span.name for span in executors_of(spans)] == [f"executor {name}"]


@both_ways
def test_a_context_that_the_program_runs_it_in_is_left_alone(traced_run: TracedRun, spans: Spans) -> None:
    """Only the copy that `to_thread` makes is nobody else's."""
    import contextvars  # noqa: PLC0415

    async def main() -> list[int]:
        with spans.tracer.start_as_current_span("request") as request:
            shared = contextvars.copy_context()
            await by_executor(functools.partial(shared.run, work))
            current = shared.run(trace.get_current_span)
            return [span_id(current), span_id(request)]

    inside, request = traced_run(main())
    assert inside == request
    assert len(executors_of(spans)) == 1


@both_ways
def test_work_that_was_cancelled_before_it_began_ends_there(traced_run: TracedRun, spans: Spans) -> None:
    async def main() -> None:
        loop, release = asyncio.get_running_loop(), threading.Event()
        with concurrent.futures.ThreadPoolExecutor(1) as pool, spans.tracer.start_as_current_span("request"):
            first = loop.run_in_executor(pool, release.wait)
            second = loop.run_in_executor(pool, work)
            second.cancel()
            await asyncio.sleep(0)
            release.set()
            await first

    traced_run(main())
    (span,) = [span for span in executors_of(spans) if span.name == "executor work"]
    assert "asyncio.executor.run_time" not in attributes(span)
    assert span.status.status_code is StatusCode.UNSET


@both_ways
@pytest.mark.parametrize("settings", [{"root_tasks": "problems"}, {"min_task_duration": 60.0}, {"root_tasks": "none"}])
def test_of_a_task_that_may_get_no_span_no_work_is_told(traced_run: TracedRun, spans: Spans, settings: Any) -> None:
    async def main() -> int:
        return await by_executor(work)  # type: ignore[no-any-return]

    assert traced_run(main(), **settings) == 0
    assert spans.all() == []


async def crowd(workers: int) -> None:
    """One piece of work more than there are workers, which are busy until it has waited for 50 ms and more."""
    loop, release = asyncio.get_running_loop(), threading.Event()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        waiting = [loop.run_in_executor(pool, release.wait) for _ in range(workers)]
        waiting.append(loop.run_in_executor(pool, work))
        await asyncio.sleep(0.06)
        release.set()
        await asyncio.gather(*waiting)


def busy(spans: Spans, count: int, seconds: float) -> Any:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with concurrent.futures.ThreadPoolExecutor(2) as pool, spans.tracer.start_as_current_span("request"):
            await asyncio.gather(*(loop.run_in_executor(pool, work, seconds) for _ in range(count)))

    return main()


@both_providers
@both_ways
def test_work_that_waits_for_a_busy_worker_says_that_the_pool_is_saturated(
    traced_run: TracedRun, spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with spans.tracer.start_as_current_span("request"):
            await crowd(workers=2)

    with caplog.at_level(logging.WARNING, logger="otel_asyncio.problem"):
        traced_run(main(), await_threshold=0.03)
    problems = [attributes(span).get("asyncio.problem") for span in executors_of(spans)]
    assert problems.count("executor_saturated") == 1
    (told,) = caplog.records
    assert "executor_saturated" in told.getMessage() and "work" in told.getMessage() and __file__ in told.getMessage()


@both_ways
def test_a_saturated_pool_is_told_also_where_nothing_is_sampled(
    traced_run: TracedRun, spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with use_span(NonRecordingSpan(SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(0)))):
            await crowd(workers=1)

    traced_run(main(), await_threshold=0.03)
    assert len([record for record in caplog.records if record.name == "otel_asyncio.problem"]) == 1


@both_ways
@pytest.mark.parametrize(("count", "seconds"), [(2, 0.08), (20, 0.001)])
def test_a_pool_with_free_workers_or_short_queues_is_no_problem(
    traced_run: TracedRun, spans: Spans, caplog: pytest.LogCaptureFixture, count: int, seconds: float
) -> None:
    traced_run(busy(spans, count, seconds), await_threshold=5.0)
    assert caplog.records == []


async def behind_a_busy_worker(prepare: Callable[[Any], None]) -> None:
    """Work comes to a pool of two with one worker, which is busy, once the pool has been prepared; that one takes it."""
    loop, release = asyncio.get_running_loop(), threading.Event()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        waiting = [loop.run_in_executor(pool, release.wait)]
        prepare(pool)
        waiting.append(loop.run_in_executor(pool, work))
        await asyncio.sleep(0.06)
        release.set()
        await asyncio.gather(*waiting)


def test_a_pool_that_may_have_another_worker_is_not_saturated(
    traced_run: TracedRun, spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    """The one that it starts is late, on a crowded machine; then a busy one takes the work."""

    def starts_none(pool: Any) -> None:
        pool._adjust_thread_count = lambda: None

    traced_run(behind_a_busy_worker(starts_none), await_threshold=0.03)
    assert caplog.records == []


def test_a_pool_with_a_worker_to_spare_is_not_saturated(
    traced_run: TracedRun, spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    """On a crowded machine it is slow to come, and the busy one is there first."""

    def has_another(pool: Any) -> None:
        slow_to_come = threading.Thread(target=lambda: None)
        slow_to_come.start()
        pool._threads.add(slow_to_come)

    traced_run(behind_a_busy_worker(has_another), await_threshold=0.03)
    assert caplog.records == []


def test_work_that_is_done_dropped_or_refused_takes_no_worker(
    new_loop: NewLoop, instrumented_process: AsyncioInstrumentor
) -> None:
    taken: list[int] = []

    async def main() -> None:
        loop, release = asyncio.get_running_loop(), threading.Event()
        pool = concurrent.futures.ThreadPoolExecutor(1)
        works = [loop.run_in_executor(pool, each) for each in (release.wait, functools.partial(fails, "no"), work)]
        (kept,) = instrumented_process.observation.executors._pools.values()
        taken.append(len(kept.open))
        works[2].cancel()
        await asyncio.sleep(0)
        taken.append(len(kept.open))
        release.set()
        await asyncio.gather(*works, return_exceptions=True)
        taken.append(len(kept.open))
        pool.shutdown()
        with pytest.raises(RuntimeError):
            loop.run_in_executor(pool, work)
        taken.append(len(kept.open))

    run_on(new_loop, main())
    assert taken == [3, 2, 0, 0]


def test_work_that_a_blocked_interpreter_starts_late_is_no_saturated_pool(
    traced_run: TracedRun, spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker was idle; what it waited for was the interpreter, as this clock has it."""

    async def main() -> None:
        await by_executor(work)
        await by_executor(work)

    traced_run(main(), await_threshold=0.0)
    assert caplog.records == []


def test_a_threshold_of_never_calls_no_pool_saturated(
    traced_run: TracedRun, spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    traced_run(busy(spans, 3, 0.05), await_threshold=math.inf)
    assert caplog.records == []


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_pool_of_processes_gets_the_function_itself(traced_run: TracedRun, spans: Spans, method: str) -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        processes = multiprocessing.get_context(method)
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=processes) as pool:
            with spans.tracer.start_as_current_span("request"):
                work = [loop.run_in_executor(pool, process_work, 0.03) for _ in range(3)]
                return await asyncio.gather(*work)

    assert os.getpid() not in traced_run(main())
    found = executors_of(spans)
    assert [span.name for span in found] == ["executor process_work"] * 3
    for span in found:
        seen = attributes(span)
        assert seen["asyncio.executor.kind"] == "process"
        assert seen["asyncio.executor.run_time"] >= 0.03
        total = seen["asyncio.executor.run_time"] + seen["asyncio.executor.queued_time"]
        assert total == pytest.approx(((span.end_time or 0) - (span.start_time or 0)) / 1e9, abs=1e-6)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_what_cannot_be_pickled_fails_as_without_tracing(same_as_bare: Callable[..., Any]) -> None:
    async def main() -> Any:
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
            try:
                await asyncio.get_running_loop().run_in_executor(pool, lambda: None)
            except Exception as error:
                return type(error).__name__
        return None

    assert same_as_bare(main)


@needs_python(3, 14)
def test_a_pool_of_interpreters_gets_the_function_itself(traced_run: TracedRun, spans: Spans) -> None:
    async def main() -> Any:
        with concurrent.futures.InterpreterPoolExecutor(1) as pool:  # type: ignore[attr-defined,unused-ignore]
            with spans.tracer.start_as_current_span("request"):
                return await asyncio.get_running_loop().run_in_executor(pool, max, 1, 2)

    assert traced_run(main()) == 2
    (span,) = executors_of(spans)
    assert "asyncio.executor.kind" not in attributes(span)


@needs_python(3, 14)
def test_a_pool_of_interpreters_can_be_the_default(traced_run: TracedRun, spans: Spans) -> None:
    async def main() -> Any:
        with concurrent.futures.InterpreterPoolExecutor(1) as pool:  # type: ignore[attr-defined,unused-ignore]
            asyncio.get_running_loop().set_default_executor(pool)
            with spans.tracer.start_as_current_span("request"):
                return await asyncio.get_running_loop().run_in_executor(None, max, 1, 2)

    assert traced_run(main()) == 2


class Pickling(concurrent.futures.ThreadPoolExecutor):
    """A pool of threads that sends what it runs through a pickle."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return super().submit(pickle.loads(pickle.dumps(fn)), *args, **kwargs)


@both_ways
def test_a_pool_that_pickles_gets_the_function_itself(same_as_bare: Callable[..., Any]) -> None:
    async def main() -> Any:
        with Pickling(1) as pool:
            return await asyncio.get_running_loop().run_in_executor(pool, max, 1, 2)

    assert same_as_bare(main) == 2


class Named(concurrent.futures.ThreadPoolExecutor):
    """A pool of the program's own, that wants to know what it is to run."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.last = fn.__name__
        return super().submit(fn, *args, **kwargs)


@both_ways
def test_a_pool_of_the_programs_own_sees_the_functions_name(same_as_bare: Callable[..., Any]) -> None:
    async def main() -> str:
        with Named(1) as pool:
            await asyncio.get_running_loop().run_in_executor(pool, work)
            return pool.last

    assert same_as_bare(main) == "work"


def test_both_names_of_to_thread_are_seen(traced_run: TracedRun, spans: Spans) -> None:
    """T26."""

    async def main() -> None:
        with spans.tracer.start_as_current_span("request"):
            await asyncio.to_thread(work)
            await threads.to_thread(work)

    traced_run(main())
    assert len(executors_of(spans)) == 2


def test_nothing_is_left_when_tracing_stops_while_work_runs(run: Callable[..., Any], spans: Spans) -> None:
    before = vars(base_events.BaseEventLoop)["run_in_executor"]

    async def main() -> int:
        release = threading.Event()
        with instrumented(spans), spans.tracer.start_as_current_span("request"):
            future = asyncio.get_running_loop().run_in_executor(None, release.wait)
        release.set()
        await future
        return await by_executor(work)  # type: ignore[no-any-return]

    assert run(main()) == 0
    assert vars(base_events.BaseEventLoop)["run_in_executor"] is before


def test_work_that_runs_when_tracing_stops_is_told_all_the_same(run: Callable[..., Any], spans: Spans) -> None:
    async def main() -> None:
        with spans.tracer.start_as_current_span("request"):
            await asyncio.to_thread(lambda: AsyncioInstrumentor().uninstrument())

    with instrumented(spans):
        run(main())
    assert len(executors_of(spans)) == 1


@both_ways
def test_what_fails_in_following_work_is_said_once_and_the_work_is_done(
    traced_run: TracedRun, spans: Spans, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T20."""
    from otel_asyncio.emit.executors import ExecutorSpans  # noqa: PLC0415

    def ours(*_: Any) -> None:
        raise LookupError

    monkeypatch.setattr(ExecutorSpans, "returned", ours)

    async def main() -> list[int]:
        with spans.tracer.start_as_current_span("request"):
            return [await asyncio.to_thread(pow, 2, 3), await by_executor(pow, 2, 4)]

    assert traced_run(main()) == [8, 16]
    assert len([record for record in caplog.records if record.name == "otel_asyncio"]) == 1
