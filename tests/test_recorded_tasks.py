"""Recorded tasks: their records and spans are the same, whether C has made and ended them or Python."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import random
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from harness import NewLoop, Spans, TracedRun, attributes, both_ways, instrumented, needs_python, run_on
from opentelemetry import context as telemetry
from opentelemetry import trace
from opentelemetry.context.context import Context
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import SpanContext, TraceFlags, TraceState
from opentelemetry.trace.propagation import _SPAN_KEY

import otel_asyncio
from otel_asyncio import AsyncioInstrumentor
from otel_asyncio.emit import current, sink
from otel_asyncio.emit.ids import child_ids, span_id_maker
from otel_asyncio.emit.sink import SpanSink
from otel_asyncio.observe import code, flavour
from otel_asyncio.observe.records import TaskRecord

compiled_only = pytest.mark.skipif(flavour.FLAVOUR != "compiled", reason="needs Python and the compiled step hook")
OBSERVER = str(Path(otel_asyncio.__file__).parent / "observe") + os.sep
FACTS = [*TaskRecord.__slots__, *TaskRecord.__mro__[1].__dict__, "site", "origin"]
NUMBERS = "created wall ready suspended first_step ended busy scheduled max_step max_idle".split()

Act = Callable[[], Coroutine[Any, Any, Any]]


class OddName(str):
    """A name that is for Python to deal with: it makes and ends the task."""

    __slots__ = ()


async def returns() -> None:
    await asyncio.sleep(0)


async def is_not_told() -> None:
    await asyncio.sleep(0)


async def raises() -> None:
    raise ValueError


@compiled_only
@both_ways
def test_no_python_that_observes_runs_for_a_recorded_task_that_returns(traced_run: TracedRun) -> None:
    """Else the compiled flavour would have given up silently what it is for."""
    called: set[str] = set()
    getattr(asyncio.tasks, "_eager_tasks", set()).clear()  # 3.12.1 leaves some there that end the program

    def note(frame: Any, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(OBSERVER):
            called.add(frame.f_code.co_qualname)

    async def main() -> None:
        with traced_run.spans.tracer.start_as_current_span("request"):
            for name in (None, "named"):
                await asyncio.create_task(returns(), name=name)
                gc.disable()  # or what listens to the collector may run
                sys.setprofile(note)
                await asyncio.create_task(returns(), name=name)
                sys.setprofile(None)
                gc.enable()

    gc.disable()  # a collection is told to whoever measures pauses
    try:
        traced_run(main())
    finally:
        gc.enable()
    assert called <= {"_subclass.<locals>.set_name", "CodeInfo.internal"}
    assert len(traced_run.spans.of("returns")) == 4


def facts_of(record: Any) -> dict[str, Any]:
    found = {fact: getattr(record, fact, "not there") for fact in FACTS if not fact.startswith("__")}
    for moment in NUMBERS:
        found[moment] = type(found[moment])
    origin, site = found["origin"], found["site"]
    return found | {"id": type(found["id"]), "origin": origin and origin.maker, "line": site and site.line}


def records_of(new_loop: NewLoop, spans: Spans, act: Act) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The facts of two tasks made at one line, when they have just been made and when they have ended."""
    seen: list[dict[str, Any]] = []
    last: list[dict[str, Any]] = []

    async def main() -> None:
        tasks: list[Any] = []
        for name in ("a", OddName("a")):
            tasks.append(asyncio.create_task(act(), name=name))
        records = [task._otel_asyncio for task in tasks]
        seen.extend(map(facts_of, records))
        await asyncio.wait(tasks)
        for task, record in zip(tasks, records, strict=True):
            task.cancelled() or task.exception()
            last.append(facts_of(record))

    with instrumented(spans):
        run_on(new_loop, main())
    return seen, last


@pytest.mark.parametrize("act", (returns, raises))
def test_a_record_is_the_same_however_it_was_made(new_loop: NewLoop, spans: Spans, act: Act) -> None:
    (one, other), (one_ended, other_ended) = records_of(new_loop, spans, act)
    apart = {"span", "task"}  # of each its own
    for a, b in ((one, other), (one_ended, other_ended)):
        assert {fact: a[fact] for fact in a.keys() - apart} == {fact: b[fact] for fact in b.keys() - apart}
        assert (type(a["span"]), type(a["task"])) == (type(b["span"]), type(b["task"]))
    assert one["made_code"] is other["made_code"]
    assert (one["line"], one["outcome"]) == (one_ended["line"], None)
    assert one_ended["outcome"] == ("success" if act is returns else "error")
    assert one_ended["task"] is None
    first, second = spans.of(act.__name__)
    assert attributes(first).keys() == attributes(second).keys()


def test_the_facts_of_code_are_where_the_extension_reads_them() -> None:
    places = {"internal": 4, "wrapped": 5, "housekeeping": 6, "entry_point": 7}
    assert {name: code.CodeInfo._fields.index(name) for name in places} == places
    assert len(code.CodeInfo._fields) == 8


def test_the_maker_of_a_task_is_the_line_outside_of_libraries(new_loop: NewLoop, spans: Spans) -> None:
    """Also where code lies in between that nobody has looked at yet."""
    library: dict[str, Any] = {"__name__": "anyio.invented"}
    exec(compile("def begin(make, *args):\n    return make(*args)", "anyio/invented.py", "exec"), library)

    async def main() -> list[str]:
        with spans.tracer.start_as_current_span("request"):
            for _ in range(2):
                await library["begin"](asyncio.create_task, returns())  # the line to blame
        return []

    with instrumented(spans):
        run_on(new_loop, main())
    lines = Path(__file__).read_text().splitlines()
    for span in spans.of("returns"):
        said = attributes(span)
        assert said["asyncio.task.created.file"] == __file__
        assert "the line to blame" in lines[said["asyncio.task.created.line"] - 1]


def test_a_task_that_the_loop_makes_by_itself_has_no_line(new_loop: NewLoop, spans: Spans) -> None:
    made: list[Any] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with spans.tracer.start_as_current_span("request"):
            loop.call_soon(lambda: made.append(loop.create_task(returns())))
            loop.call_soon(loop.create_task, others := returns())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.wait(made)
        del others

    with instrumented(spans):
        run_on(new_loop, main())
    lines = [attributes(span).get("asyncio.task.created.line") for span in spans.of("returns")]
    assert sorted(line is None for line in lines) == [False, True]


@pytest.mark.parametrize("fails", ("opened", "closed"))
def test_a_sink_that_fails_costs_the_program_no_task(
    new_loop: NewLoop, spans: Spans, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fails: str
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError(fails)

    monkeypatch.setattr(SpanSink, fails, fail)
    monkeypatch.setattr(sink, "shorten", lambda *_, **__: None)  # else this is for the unusual case only

    async def main() -> list[None]:
        with spans.tracer.start_as_current_span("request"):
            return await asyncio.gather(*(asyncio.create_task(returns()) for _ in range(3)))

    with instrumented(spans) as instrumentor:
        assert run_on(new_loop, main()) == [None] * 3
        assert instrumentor.observation.counters.active == 0
    said = [record.message for record in caplog.records if record.name.startswith("otel_asyncio")]
    assert len([line for line in said if "is switched off" in line]) == 1
    assert spans.of("returns") == []


@needs_python(3, 12)
def test_who_runs_may_not_be_known(
    new_loop: NewLoop, spans: Spans, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    async def first_step() -> None:
        await asyncio.create_task(returns())  # nested by the record of main, which is not the one that runs

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        await asyncio.Task(first_step(), loop=loop, eager_start=True)

    with instrumented(spans) as instrumentor:
        monkeypatch.setattr(instrumentor.observation, "make_sure_of_running", fail)
        run_on(new_loop, main())
        assert instrumentor.observation.counters.active == 0
    assert len([record for record in caplog.records if "creation" in record.getMessage()]) == 1
    assert spans.of("returns") == []


class Interrupt(BaseException):
    """None of ours to catch."""


def test_what_is_no_exception_passes_through_create_task(
    new_loop: NewLoop, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    from otel_asyncio.emit.sink import SpanSink

    def interrupt(*_: object) -> None:
        raise Interrupt

    monkeypatch.setattr(SpanSink, "opened", interrupt)

    async def main() -> None:
        coro = returns()
        with spans.tracer.start_as_current_span("request"), pytest.raises(Interrupt):
            asyncio.create_task(coro)
        coro.close()

    with instrumented(spans, root_tasks="none"):
        run_on(new_loop, main())


def test_of_a_task_whose_first_step_cannot_be_announced_nothing_is_left(spans: Spans) -> None:
    class Full(asyncio.SelectorEventLoop):
        full = False

        def call_soon(self, *args: Any, **kwargs: Any) -> Any:
            if self.full:
                raise BlockingIOError("no more")
            return super().call_soon(*args, **kwargs)

    loop = Full()

    async def main() -> None:
        with spans.tracer.start_as_current_span("request"):
            await asyncio.create_task(returns())
            for name in ("a", OddName("a")):
                coro, loop.full = returns(), True
                with pytest.raises(BlockingIOError):
                    asyncio.create_task(coro, name=name)
                loop.full = False
                coro.close()
            gc.collect()
            state: Any = loop._otel_asyncio  # type: ignore[attr-defined]
            assert [record.qualname for record in state.alive if "returns" in record.qualname] == []

    with instrumented(spans) as instrumentor:
        loop.run_until_complete(main())
        assert instrumentor.observation.counters.active == 0
    loop.close()
    assert len(spans.of("returns")) == 1


class OnlyRequests(Sampler):
    """Samples what is called a request, and no task."""

    def should_sample(self, parent_context: Any, trace_id: int, name: str, *args: Any, **kwargs: Any) -> SamplingResult:
        return SamplingResult(Decision.RECORD_AND_SAMPLE if name == "request" else Decision.DROP)

    def get_description(self) -> str:
        return "OnlyRequests"


@both_ways
def test_a_task_that_the_sampler_refuses_is_counted_and_has_no_span(way_in: str, new_loop: NewLoop) -> None:
    """It is asked where the span is opened, when there is a record already."""
    spans = Spans(sampler=OnlyRequests())

    async def main() -> list[str]:
        with spans.tracer.start_as_current_span("request"):
            task = asyncio.create_task(returns())
            kinds = [type(task._otel_asyncio).__name__]  # type: ignore[attr-defined]
            await task
        return kinds

    assert TracedRun(way_in, new_loop, spans)(main()) == ["Unrecorded"]
    assert spans.names() == ["request"]


@pytest.mark.settings(root_tasks="none")
def test_making_recorded_tasks_keeps_nothing_of_what_they_were_given(
    new_loop: NewLoop, instrumented_process: AsyncioInstrumentor, spans: Spans
) -> None:
    async def main() -> None:
        name = "a name of this test"
        kept: tuple[Any, ...] = (name, asyncio.get_running_loop(), asyncio.tasks.Task, None, returns, TaskRecord)

        async def counts() -> list[int]:
            for _ in range(100):
                with spans.tracer.start_as_current_span("request"):
                    await asyncio.create_task(returns(), name=name)
                    await asyncio.create_task(returns())
            spans.exporter.clear()
            gc.collect()
            return [sys.getrefcount(each) for each in kept]

        before = await counts()
        after = await counts()
        grown = [late - early for early, late in zip(before, after, strict=True)]
        assert max(grown) < 50, grown

    run_on(new_loop, main())


@both_ways
def test_what_the_hooks_have_done_is_counted(traced_run: TracedRun) -> None:
    async def main() -> Any:
        with traced_run.spans.tracer.start_as_current_span("request"):
            await asyncio.wait([asyncio.create_task(returns(), name=name) for name in ("a", OddName("b"), None)])
        state: Any = asyncio.get_running_loop()._otel_asyncio  # type: ignore[attr-defined]
        return state.observation.counters.worked()

    assert traced_run(main(), root_tasks="none")[0] == (3, 6)


# ---- the leaves of the emitter ----


def test_a_context_with_a_span_has_what_was_there_before() -> None:
    variable = contextvars.ContextVar("variable", default="nothing")
    variable.set("of the program")
    span = trace.NonRecordingSpan(SpanContext(1, 2, is_remote=False))
    before = Context({"baggage": "kept", _SPAN_KEY: trace.INVALID_SPAN})
    token = telemetry.attach(before)
    try:
        for above in (before, Context(), Context({_SPAN_KEY: trace.INVALID_SPAN}), {}):
            made = current.context_with(span, above)
            inside = made.run(telemetry.get_current)
            assert type(inside) is Context
            assert inside == {**above, _SPAN_KEY: span}
            assert made[variable] == "of the program"
            assert telemetry.get_current() is before
    finally:
        telemetry.detach(token)


@compiled_only
@pytest.mark.parametrize("arguments", ((), (1, 2, 3, 4, 5), (current.VARIABLE, int, "key", "span", {}), (None,) * 5))
def test_a_context_of_anything_else_says_so(arguments: Any) -> None:
    with pytest.raises(TypeError, match="context_with takes"):
        flavour.extension.context_with(*arguments)


@pytest.mark.parametrize("is_remote", (False, True))
@pytest.mark.parametrize("flags", (0, 1, 2, 3))
@pytest.mark.parametrize("trace_id", (0, 1))
def test_the_ids_of_a_child_are_its_parents_but_for_its_own(is_remote: bool, flags: int, trace_id: int) -> None:
    state = TraceState([("vendor", "value")])
    parent = SpanContext(trace_id, 2, is_remote, TraceFlags(flags), state)
    ids = child_ids(parent, lambda: 3)
    if is_remote or not trace_id or not flags & 1:
        assert ids is None
        return
    assert ids == SpanContext(1, 3, False, TraceFlags(flags), state)
    assert (type(ids), type(ids.trace_flags)) == (SpanContext, TraceFlags)
    assert ids.trace_state is state
    assert ids.is_valid


@compiled_only
@pytest.mark.parametrize(
    "arguments",
    ((), (1, 2, 3), (tuple, (1, 2, 3), int), (int, (0,) * 6, int), (tuple, (1, 2, False, "flags", None, True), int)),
)
def test_ids_of_anything_else_say_so(arguments: Any) -> None:
    with pytest.raises(TypeError, match="child_ids takes"):
        flavour.extension.child_ids(*arguments)


def test_siblings_share_what_their_parent_has_and_no_more() -> None:
    one, other = (SpanContext(trace_id, 2, is_remote=False, trace_flags=TraceFlags(1)) for trace_id in (1, 2))
    unsampled = SpanContext(1, 2, is_remote=False)
    numbers = iter(range(3, 9))
    made = [child_ids(parent, numbers.__next__) for parent in (one, one, unsampled, one, other, unsampled)]
    assert [ids and (ids.trace_id, ids.span_id) for ids in made] == [(1, 3), (1, 4), None, (1, 5), (2, 6), None]


def test_the_sdks_own_ids_are_made_as_it_makes_them() -> None:
    generator = RandomIdGenerator()
    state = random.getstate()
    try:
        random.seed(1)
        expected = [generator.generate_span_id() for _ in range(3)]
        random.seed(1)
        make = span_id_maker(generator)
        assert [make() for _ in range(3)] == expected
    finally:
        random.setstate(state)


def test_another_generator_makes_its_own_ids() -> None:
    class Counting(RandomIdGenerator):
        def generate_span_id(self) -> int:
            return 7

    assert span_id_maker(Counting())() == 7


def test_an_id_of_nothing_but_zeros_is_no_id() -> None:
    parent = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1))
    ids = child_ids(parent, iter((0, 3)).__next__)
    assert ids is not None
    assert ids.span_id == 3


@both_ways
def test_a_tracer_may_be_disabled_while_it_is_used(traced_run: TracedRun) -> None:
    provider: Any = traced_run.spans.sdk
    tracer = provider.get_tracer("otel_asyncio")
    if not hasattr(tracer, "_set_tracer_config"):
        pytest.skip("this SDK has no configurator")

    async def main() -> None:
        with traced_run.spans.tracer.start_as_current_span("request"):
            await asyncio.create_task(returns())
            provider._set_tracer_configurator(
                tracer_configurator=lambda _: type(tracer._tracer_config)(is_enabled=False)
            )
            await asyncio.create_task(is_not_told())

    traced_run(main())
    assert len(traced_run.spans.of("returns")) == 1
    assert traced_run.spans.of("is_not_told") == []


def test_what_makes_ids_may_fail() -> None:
    parent = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1))
    with pytest.raises(ZeroDivisionError):
        child_ids(parent, lambda: 1 // 0)


@compiled_only
def test_a_copy_has_the_slots_of_its_own_class_and_no_more() -> None:
    class Base:
        __slots__ = ("__dict__", "above")

    class Slotted(Base):
        __slots__ = ("here", "unset")

    first = Slotted()
    first.here, first.above, first.more = [], 1, 2  # type: ignore[attr-defined]
    copy = flavour.extension.copy_slots(first)
    assert type(copy) is Slotted
    assert copy.here is first.here
    assert [name for name in ("unset", "above", "more") if hasattr(copy, name)] == []
    with pytest.raises(TypeError, match="no slots"):
        flavour.extension.copy_slots(1)
