"""Tasks that get no span: they are made as asyncio makes them, and counted, each once, when they begin and when they end."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import os
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness import NewLoop, Spans, asyncio_only, instrumented, needs_python, run_on, without_numbers
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

import otel_asyncio
from otel_asyncio import AsyncioInstrumentor
from otel_asyncio.observe import flavour

compiled_only = pytest.mark.skipif(flavour.FLAVOUR != "compiled", reason="needs Python and the compiled step hook")
OURS = str(Path(otel_asyncio.__file__).parent) + os.sep

Act = Callable[[], Coroutine[Any, Any, Any]]


@contextmanager
def unsampled() -> Iterator[None]:
    """Inside a span that the sampler has turned down, as it arrives from another service."""
    with use_span(NonRecordingSpan(SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(0)))):
        yield


@pytest.fixture
def counting(instrumented_process: AsyncioInstrumentor) -> Any:
    return instrumented_process.observation.counters


# ---- how they end ----


async def returns() -> None:
    await asyncio.sleep(0)


async def returns_at_once() -> None: ...


async def raises() -> None:
    raise ValueError


async def times_out() -> None:
    async with asyncio.timeout(0):
        await asyncio.sleep(60)


async def waits() -> None:
    await asyncio.get_running_loop().create_future()


async def goes_on_when_cancelled() -> None:
    try:
        await waits()
    except asyncio.CancelledError:
        await asyncio.sleep(0)


async def cancels_itself_and_returns() -> None:
    asyncio.current_task().cancel()  # type: ignore[union-attr]


async def cancels_itself_and_waits() -> None:
    asyncio.current_task().cancel()  # type: ignore[union-attr]
    await asyncio.sleep(0)


async def raises_what_a_cancellation_would() -> None:
    raise asyncio.CancelledError


ENDS: dict[Act, str] = {
    returns: "success",
    returns_at_once: "success",
    raises: "error",
    times_out: "timeout",
    waits: "cancellation",
    goes_on_when_cancelled: "success",
    cancels_itself_and_returns: "cancellation",
    cancels_itself_and_waits: "cancellation",
    raises_what_a_cancellation_would: "cancellation",
}


async def end_each(times: int) -> None:
    tasks = [asyncio.create_task(act()) for _ in range(times) for act in ENDS]
    for _ in range(3):
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        task.cancelled() or task.exception()


@pytest.mark.parametrize("metered", (False, True), ids=("metrics off", "metrics on"))
@pytest.mark.parametrize("sampled", ("none", "some"))
def test_each_task_is_counted_once_by_how_it_ended(
    new_loop: NewLoop, spans: Spans, metered: bool, sampled: str
) -> None:
    async def main() -> None:
        with unsampled():
            await end_each(100)
        if sampled == "some":
            await end_each(100)
            with unsampled():
                await end_each(100)

    instrumentor = AsyncioInstrumentor()
    meters = MeterProvider([InMemoryMetricReader()] if metered else [], shutdown_on_exit=False)
    instrumentor.instrument(tracer_provider=spans.provider, meter_provider=meters)
    try:
        run_on(new_loop, main())
        counters = instrumentor.observation.counters
        counted = counters.ended
        assert counters.active == 0
    finally:
        instrumentor.uninstrument()
    expected: Counter[str] = Counter()
    for outcome in ENDS.values():
        expected[outcome] += 100 if sampled == "none" else 300
    others = counted.total() - expected.total()  # main itself, and what the end of a loop runs
    assert counted - Counter(success=others) == expected


@pytest.mark.settings(root_tasks="none")
def test_a_task_that_cancels_itself_and_returns_has_its_cancellation_counted(new_loop: NewLoop, counting: Any) -> None:
    """It has no record of its own when its last step begins, and has one when that is over."""

    class Deaf(asyncio.Task):  # type: ignore[type-arg]
        def cancel(self, msg: Any = None) -> bool:
            return False

    async def main() -> None:
        await Deaf(cancels_itself_and_returns(), loop=asyncio.get_running_loop())
        await asyncio.wait([asyncio.create_task(cancels_itself_and_returns())])

    run_on(new_loop, main())
    assert [outcome for _, outcome, _ in counting.cancellations] == ["handled", "delivered"]


def test_what_a_finalizer_has_noticed_is_told_when_a_task_ends_that_only_returns(
    new_loop: NewLoop, spans: Spans
) -> None:
    with instrumented(spans, root_tasks="all") as instrumentor:

        async def main() -> None:
            gate = asyncio.get_running_loop().create_future()
            with unsampled():
                ends = asyncio.create_task(asyncio.wait([gate]))
            task: Any = asyncio.create_task(waits())
            await asyncio.sleep(0)
            task._log_destroy_pending = False
            del task
            gc.collect()
            assert instrumentor.observation.outbox
            gate.set_result(None)
            await ends
            assert not instrumentor.observation.outbox

        run_on(new_loop, main())


def test_a_task_that_ends_when_tracing_was_stopped_and_started_again_is_not_counted(new_loop: NewLoop) -> None:
    """In the step that has done so, and in one after it: who counts now has not seen them begin, who did counts no more."""
    instrumentor = AsyncioInstrumentor()
    spans = Spans(sampler=ALWAYS_OFF)
    when_stopped = -1

    async def again() -> None:
        nonlocal when_stopped
        instrumentor.uninstrument()
        when_stopped = before.ended.total()
        instrumentor.instrument(tracer_provider=spans.provider)

    async def main() -> None:
        with spans.tracer.start_as_current_span("unsampled"):
            await asyncio.gather(returns(), again(), returns(), *(asyncio.create_task(returns()) for _ in range(10)))

    instrumentor.instrument(tracer_provider=spans.provider)
    before = instrumentor.observation.counters
    try:
        run_on(new_loop, main())
        after = instrumentor.observation.counters
        assert after is not before
        assert after.ended.total() == after.started
        assert before.ended.total() == when_stopped
    finally:
        instrumentor.uninstrument()


def test_a_loop_whose_state_somebody_keeps_is_counted_anew_when_tracing_starts_again(new_loop: NewLoop) -> None:
    instrumentor = AsyncioInstrumentor()

    async def main() -> tuple[Any, int]:
        with unsampled():
            await asyncio.create_task(returns())
            kept: Any = asyncio.get_running_loop()._otel_asyncio  # type: ignore[attr-defined]
            instrumentor.uninstrument()
            instrumentor.instrument()
            for _ in range(10):
                await asyncio.create_task(returns())
        return kept, instrumentor.observation.counters.ended["success"]

    instrumentor.instrument()
    try:
        kept, counted = run_on(new_loop, main())
        assert (kept.let_go, kept.shard.started, counted) == (True, 0, 10)
    finally:
        instrumentor.uninstrument()


def test_loops_that_take_turns_are_counted_each_by_itself(new_loop: NewLoop, counting: Any) -> None:
    one, other = new_loop(), new_loop()

    async def some(count: int) -> None:
        with unsampled():
            for _ in range(count):
                await asyncio.create_task(returns())

    for _ in range(3):
        one.run_until_complete(some(1))
        other.run_until_complete(some(10))
    states: list[Any] = [loop._otel_asyncio for loop in (one, other)]  # type: ignore[attr-defined]
    # Whatever else was made or ended there is a task of each run.
    assert [state.shard.started for state in states] == [3 + 3, 30 + 3]
    assert [sum(state.shard.ended.values()) + state.shard.succeeded for state in states] == [3 + 3, 30 + 3]
    one.close()
    other.close()


# ---- how they are made ----


@compiled_only
def test_no_python_of_ours_runs_for_a_task_that_only_returns(new_loop: NewLoop, spans: Spans) -> None:
    """Else the compiled flavour would have given up silently what it is for."""
    called: set[str] = set()

    def note(frame: Any, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(OURS):
            called.add(frame.f_code.co_qualname)

    async def some() -> None:
        for _ in range(3):
            await asyncio.create_task(returns())
            await asyncio.create_task(returns(), name="named", context=contextvars.copy_context())

    async def main() -> None:
        with unsampled():
            await some()  # the surroundings are known from here on
            sys.setprofile(note)
            await some()
            sys.setprofile(None)

    with instrumented(spans):
        run_on(new_loop, main())
    assert called <= {"SpanSink.place", "telemetry_context", "SpanSink._note_unwanted"}, "one with a context of its own"


def odd_calls(loop: Any) -> dict[str, Callable[[Any], Any]]:
    class Name(str):
        __slots__ = ()

    class Refuses:
        def __str__(self) -> str:
            raise ZeroDivisionError

    return {
        "nothing": lambda _: loop.create_task(),
        "no coroutine": lambda _: loop.create_task(42),
        "a second argument": lambda coro: loop.create_task(coro, "name"),
        "an unknown keyword": lambda coro: loop.create_task(coro, nam="name"),
        "a name that is none": lambda coro: loop.create_task(coro, name=42),
        "a name of another class": lambda coro: loop.create_task(coro, name=Name("name")),
        "a name that refuses": lambda coro: loop.create_task(coro, name=Refuses()),
        "a keyword of its own": lambda coro: loop.create_task(coro, **{str(b"name", "ascii"): "name"}),
        "by the class": lambda coro: type(loop).create_task(loop, coro, name="name"),
        "by the class, nothing": lambda _: type(loop).create_task(),
        "a coroutine by keyword": lambda coro: loop.create_task(coro=coro),
    }


def what_becomes_of_odd_calls(new_loop: NewLoop, close: bool) -> dict[str, Any]:
    loop: Any = new_loop()
    becomes: dict[str, Any] = {}
    if close:
        loop.close()
    for title, call in odd_calls(loop).items():
        coro = returns()
        with unsampled():
            try:
                task = call(coro)
            except Exception as error:
                frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
                becomes[title] = type(error), str(error).replace("BaseEventLoop.", ""), frames
            else:
                becomes[title] = without_numbers(task.get_name()), type(task).__name__, loop.run_until_complete(task)
        coro.close()
    loop.close()
    return becomes


@pytest.mark.parametrize("close", (False, True), ids=("open", "closed"))
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_create_task_makes_and_refuses_what_asyncio_does(new_loop: NewLoop, spans: Spans, close: bool) -> None:
    bare = what_becomes_of_odd_calls(new_loop, close)
    with instrumented(spans):
        traced = what_becomes_of_odd_calls(new_loop, close)
    for title, (kind, message, *rest) in bare.items():
        assert traced[title][0] == kind, title
        assert traced[title][1] == message or "argument" in message, title
        assert len(traced[title][2] or ()) - len(rest[0] or ()) <= 1, title


@pytest.mark.usefixtures("instrumented_process")
def test_in_debug_mode_the_handle_of_each_first_step_is_not_said_to_be_made_by_us(new_loop: NewLoop) -> None:
    def innermost_lines() -> set[str]:
        handles = [found for found in gc.get_objects() if type(found).__name__ == "Handle"]
        return {stack[-1].filename for found in handles if (stack := getattr(found, "_source_traceback", None))}

    async def main() -> None:
        asyncio.get_running_loop().set_debug(True)
        with unsampled():
            for _ in range(3):  # what one handle has taught holds for the next
                task = asyncio.create_task(returns())
                lines = innermost_lines()
                assert lines
                assert not [line for line in lines if line.startswith(OURS)]
                await task

    run_on(new_loop, main())


def test_a_closed_loop_refuses_a_coroutine_before_there_is_a_task_of_it(
    new_loop: NewLoop, spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    loop = new_loop()
    with instrumented(spans):
        loop.run_until_complete(loop.create_task(returns()))
        loop.close()
        coro = returns()
        with pytest.raises(RuntimeError, match="closed"):
            loop.create_task(coro)
        coro.close()
    assert not caplog.records, "of a task that was destroyed"


def test_a_task_with_a_context_of_its_own_is_recorded_by_what_is_in_that(new_loop: NewLoop, spans: Spans) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with spans.tracer.start_as_current_span("sampled"):
            sampled = contextvars.copy_context()
        with unsampled():
            for _ in range(3):  # until it is known at a glance that none is recorded here
                await loop.create_task(returns())
            await loop.create_task(waits_a_little(), context=sampled)
            elsewhere = contextvars.copy_context()
        await loop.create_task(returns(), context=elsewhere)

    async def waits_a_little() -> None:
        await asyncio.sleep(0)

    with instrumented(spans):
        run_on(new_loop, main())
    assert len(spans.of("waits_a_little")) == 1
    assert spans.of("returns") == []


@pytest.mark.settings(root_tasks="none")
def test_a_task_is_of_the_class_that_asyncio_has_at_the_time(
    new_loop: NewLoop, counting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Special(asyncio.Task):  # type: ignore[type-arg]
        pass

    async def main() -> Any:
        monkeypatch.setattr(asyncio.tasks, "Task", Special)
        special = asyncio.get_running_loop().create_task(returns())
        monkeypatch.undo()
        usual = asyncio.get_running_loop().create_task(returns())
        await asyncio.gather(special, usual)
        return special, usual

    special, usual = run_on(new_loop, main())
    assert (isinstance(special, Special), isinstance(usual, Special)) == (True, False)
    assert counting.active == 0


@pytest.mark.parametrize("fails", ("surroundings", "unwanted", "place"))
def test_a_sink_that_fails_costs_the_program_no_task(
    new_loop: NewLoop, spans: Spans, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fails: str
) -> None:
    from otel_asyncio.emit.sink import SpanSink

    def fail(*_: object) -> None:
        raise ZeroDivisionError(fails)

    before = SpanSink.__init__

    def break_it(self: Any, *args: Any) -> None:
        before(self, *args)
        setattr(self, fails, fail)

    monkeypatch.setattr(SpanSink, "__init__", break_it)

    async def main() -> list[None]:
        return await asyncio.gather(*(asyncio.create_task(returns()) for _ in range(3)))

    with instrumented(spans) as instrumentor:
        assert run_on(new_loop, main()) == [None] * 3
        assert instrumentor.observation.counters.active == 0
    assert [record.message for record in caplog.records if "creation" in record.message]
    assert spans.of("returns") == []


class Interrupt(BaseException):
    """None of ours to catch."""


def test_what_is_no_exception_passes_through_create_task(
    new_loop: NewLoop, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise Interrupt

    loop = new_loop()
    with instrumented(spans) as instrumentor:
        loop.run_until_complete(loop.create_task(returns()))
        monkeypatch.setattr(instrumentor.observation, "place", interrupt)
        coro = returns()
        with pytest.raises(Interrupt):
            loop.create_task(coro)
        coro.close()
        monkeypatch.undo()
        loop.run_until_complete(loop.create_task(returns()))
    loop.close()


@asyncio_only
@needs_python(3, 12)
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="needs Python 3.12 or 3.13, which keep the list in Python")
@pytest.mark.settings(root_tasks="none")
def test_a_task_that_is_made_while_others_wait_to_go_from_the_list_of_all_is_in_it(
    new_loop: NewLoop, counting: Any
) -> None:
    """They wait as long as somebody goes through the list, or until one is added."""

    async def main() -> tuple[int, int]:
        registry: Any = asyncio.tasks._scheduled_tasks  # type: ignore[attr-defined]
        old: Any = [asyncio.create_task(returns()) for _ in range(3)]
        await asyncio.wait(old)
        through = iter(registry)
        next(through)
        del old
        gc.collect()
        waiting = len(registry._pending_removals)
        new = asyncio.create_task(returns())
        left = len(registry._pending_removals)
        through.close()
        assert new in asyncio.all_tasks()
        await new
        return waiting, left

    waiting, left = run_on(new_loop, main())
    assert (waiting > 0, left) == (True, 0)


@pytest.mark.settings(root_tasks="none")
def test_making_tasks_keeps_nothing_of_what_they_were_given(new_loop: NewLoop, counting: Any) -> None:
    async def main() -> None:
        context, name = contextvars.copy_context(), "a name of this test"
        kept: tuple[Any, ...] = (context, name, asyncio.get_running_loop(), asyncio.tasks.Task, None, returns)

        async def counts() -> list[int]:
            for _ in range(100):
                await asyncio.create_task(returns(), name=name, context=context)
                await asyncio.create_task(returns())
            gc.collect()
            return [sys.getrefcount(each) for each in kept]

        before = await counts()
        after = await counts()
        grown = [late - early for early, late in zip(before, after, strict=True)]
        assert max(grown) < 50, grown

    run_on(new_loop, main())


def test_the_methods_of_the_loop_look_as_ever(new_loop: NewLoop, spans: Spans) -> None:
    """To whoever asks for the signature of what it is about to call, or for its documentation."""

    def looks() -> dict[str, Any]:
        loop, found = new_loop(), {}
        for name in ("create_task", "call_soon"):
            method = getattr(loop, name)
            try:
                signature = str(inspect.signature(method))
            except ValueError:  # of one that is compiled
                signature = "none"
            found[name] = signature, method.__name__, method.__qualname__, method.__doc__
        loop.close()
        return found

    bare = looks()
    with instrumented(spans):
        assert looks() == bare


def test_whoever_exchanges_the_code_of_create_task_is_called(new_loop: NewLoop, spans: Spans) -> None:
    """As ddtrace does with whatever function it finds there, and takes back."""
    called: list[str] = []

    def note(frame: Any, event: str, _: object) -> None:
        if event == "call":
            called.append(frame.f_code.co_name)

    async def main() -> bool:
        loop: Any = asyncio.get_running_loop()
        function, seen = type(loop).create_task, []
        own = function.__code__
        for code in (own.replace(co_name="exchanged"), own):
            function.__code__ = code
            called.clear()
            sys.setprofile(note)
            task = loop.create_task(returns())
            sys.setprofile(None)
            seen.append("exchanged" in called)
            await task
        assert function.__kwdefaults__.keys() == {"name", "context"}
        assert function.__closure__ is not None
        return seen == [True, False]

    with instrumented(spans):
        assert run_on(new_loop, main())
    assert len(spans.of("returns")) == 2
