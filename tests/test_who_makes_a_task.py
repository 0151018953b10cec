"""A task is made by whoever really runs: by no task at all, or by one in a first step that nobody announced.

What C makes there is what Python makes, for which a name of a class of its own is left.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
from harness import Spans, TracedRun, attributes, both_ways, needs_python, parent_id, span_id

import otel_asyncio
from otel_asyncio.observe import flavour

compiled_only = pytest.mark.skipif(flavour.FLAVOUR != "compiled", reason="needs Python and the compiled step hook")
OBSERVER = str(Path(otel_asyncio.__file__).parent / "observe") + os.sep
HOOKS = {"_subclass.<locals>.set_name"}

Act = Callable[[], Any]


class OddName(str):
    """A name that is for Python to deal with: it makes the task."""

    __slots__ = ()


async def returns() -> None:
    await asyncio.sleep(0)


async def from_a_callback(act: Act, _: Spans) -> Any:
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    loop.call_soon(lambda: done.set_result(act()))
    return await done


async def from_a_callback_under_a_span(act: Act, spans: Spans) -> Any:
    with spans.tracer.start_as_current_span("around"):
        return await from_a_callback(act, spans)


async def in_a_first_step(act: Act, _: Spans) -> Any:
    async def first_step() -> Any:
        found = act()
        await asyncio.sleep(0)
        return found

    loop: Any = asyncio.get_running_loop()
    return await asyncio.Task(first_step(), loop=loop, eager_start=True)


async def in_a_first_step_under_a_span(act: Act, spans: Spans) -> Any:
    def act_under_a_span() -> Any:
        with spans.tracer.start_as_current_span("around"):
            return act()

    return await in_a_first_step(act_under_a_span, spans)


async def in_the_first_step_of_a_first_step(act: Act, spans: Spans) -> Any:
    async def outer() -> Any:
        return await in_a_first_step(act, spans)

    loop: Any = asyncio.get_running_loop()
    return await asyncio.Task(outer(), loop=loop, eager_start=True)


CALLBACKS = [from_a_callback, from_a_callback_under_a_span]
FIRST_STEPS = [in_a_first_step, in_a_first_step_under_a_span, in_the_first_step_of_a_first_step]
eager = needs_python(3, 12)
scenes = pytest.mark.parametrize("scene", [*CALLBACKS, *(pytest.param(each, marks=eager) for each in FIRST_STEPS)])


@compiled_only
@both_ways
@scenes
def test_no_python_that_observes_runs_for_a_task_that_is_made_there(traced_run: TracedRun, scene: Any) -> None:
    """The first ones make known who runs, and what lies between."""
    called: set[str] = set()

    def note(frame: Any, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(OBSERVER):
            called.add(frame.f_code.co_qualname)

    def act() -> list[Any]:
        tasks: list[Any] = []
        for name in ("a", OddName("b"), None):
            sys.setprofile(note if name is None else None)
            tasks.append(asyncio.create_task(returns(), name=name))
            tasks.append(asyncio.get_running_loop().create_task(returns(), name=name))
        sys.setprofile(None)
        return tasks

    async def main() -> None:
        await asyncio.wait(await scene(act, traced_run.spans))

    gc.disable()  # a collection is told to whoever measures pauses
    try:
        traced_run(main())
    finally:
        gc.enable()
    assert called <= HOOKS
    assert len(traced_run.spans.of("returns")) == 6


def facts_of(task: Any) -> dict[str, Any]:
    record = task._otel_asyncio
    facts = "kind creator outcome code qualname site origin cancellation problem name waits loop".split()
    return {fact: getattr(record, fact) for fact in facts} | {"above": record.span.above, "code": record.code.code}


@both_ways
@scenes
def test_the_record_is_the_same_whoever_makes_it(traced_run: TracedRun, scene: Any) -> None:
    def act() -> tuple[list[Any], list[dict[str, Any]]]:
        tasks: list[Any] = []
        for name in ("a", OddName("a"), "a"):
            tasks.append(asyncio.create_task(returns(), name=name))  # the line to blame
        return tasks, [facts_of(task) for task in tasks]

    async def main() -> list[dict[str, Any]]:
        tasks, facts = await scene(act, traced_run.spans)
        await asyncio.wait(tasks)
        return facts  # type: ignore[no-any-return]

    one, other, third = traced_run(main())
    assert one == other == third
    lines = Path(__file__).read_text().splitlines()
    for span in traced_run.spans.of("returns"):
        assert attributes(span)["asyncio.task.kind"] == "task"
        assert "the line to blame" in lines[attributes(span)["asyncio.task.created.line"] - 1]


@both_ways
@pytest.mark.parametrize("scene", [in_a_first_step, in_the_first_step_of_a_first_step])
@eager
def test_the_maker_is_the_task_whose_first_step_it_is(traced_run: TracedRun, scene: Any) -> None:
    """Also where it was not known before."""

    def act() -> tuple[list[Any], list[int], int]:
        tasks = [asyncio.create_task(returns(), name=name) for name in ("a", OddName("b"), "c")]
        records = [task._otel_asyncio for task in tasks]  # type: ignore[attr-defined]
        current: Any = asyncio.current_task()
        return tasks, [record.creator for record in records], current._otel_asyncio.id

    async def main() -> None:
        tasks, creators, own = await scene(act, traced_run.spans)
        assert creators == [own] * 3
        await asyncio.wait(tasks)

    traced_run(main())
    expected = span_id(traced_run.spans.task("first_step"))
    assert [parent_id(span) for span in traced_run.spans.of("returns")] == [expected] * 3


@both_ways
@eager
def test_what_a_first_step_without_a_span_makes_is_not_of_the_step_around_it(traced_run: TracedRun) -> None:
    """The task of the latter is recorded, but it is not the one that makes them."""
    creators: list[int] = []

    async def excluded() -> None:
        tasks: list[Any] = [asyncio.create_task(returns(), name=name) for name in ("a", OddName("b"), "c")]
        creators.extend(task._otel_asyncio.creator for task in tasks)
        await asyncio.wait(tasks)

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        await asyncio.Task(excluded(), loop=loop, eager_start=True)

    traced_run(main(), exclude=("*.excluded",))
    assert creators == [0] * 3
    assert [parent_id(span) for span in traced_run.spans.of("returns")] == [None] * 3


@both_ways
def test_what_runs_a_coroutine_from_a_callback_is_told_apart(traced_run: TracedRun) -> None:
    """As no task makes them, who calls says of what kind they are."""

    async def submitted() -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        made = await from_a_callback(lambda: [asyncio.ensure_future(returns()) for _ in range(2)], traced_run.spans)
        futures = [asyncio.run_coroutine_threadsafe(submitted(), loop) for _ in range(2)]
        loop.call_soon(lambda: made.append(loop.create_task(returns())))
        for future in futures:
            await asyncio.wrap_future(future)
        await asyncio.wait(made)

    traced_run(main())
    assert [attributes(span)["asyncio.task.kind"] for span in traced_run.spans.of("submitted")] == ["threadsafe"] * 2
    assert [attributes(span)["asyncio.task.kind"] for span in traced_run.spans.of("returns")] == ["task"] * 3
    kinds = [attributes(span)["asyncio.task.kind"] for span in traced_run.spans.of("main")]
    assert kinds == ["main"]


@both_ways
@pytest.mark.skipif(
    not (3, 12) <= sys.version_info < (3, 14),
    reason="needs Python 3.12 or 3.13, where asyncio's list of tasks is Python",
)
def test_the_end_of_a_first_step_is_told_by_asyncios_list(traced_run: TracedRun) -> None:
    """Of a task that has become known in it; without any Python of ours, where C is there."""
    called: set[str] = set()

    def note(frame: Any, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(OBSERVER):
            called.add(frame.f_code.co_qualname)

    async def first_step_that_ends(goes_on: Any) -> None:
        asyncio.create_task(returns())  # noqa: RUF006 - ends in time
        sys.setprofile(note)
        await goes_on

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        goes_on = loop.create_future()
        task: Any = asyncio.Task(first_step_that_ends(goes_on), loop=loop, eager_start=True)
        sys.setprofile(None)
        record = task._otel_asyncio
        assert (record.steps, record.step_started) == (1, 0)
        assert record.busy == record.max_step == record.suspended - record.first_step > 0
        assert record.first_step == record.created
        goes_on.set_result(None)
        await task

    gc.disable()
    try:
        traced_run(main())
    finally:
        gc.enable()
    assert flavour.FLAVOUR != "compiled" or called == set()
    assert attributes(traced_run.spans.task("first_step_that_ends"))["asyncio.task.steps"] == 2


@both_ways
@pytest.mark.skipif(sys.version_info < (3, 12), reason="needs Python 3.12: eager tasks")
def test_an_eager_task_that_asks_who_runs_is_known_by_its_maker(traced_run: TracedRun) -> None:
    """It is taken in in the middle of its first step, which lies in one of its maker's."""
    records: list[Any] = []
    spans = traced_run.spans

    async def eager() -> None:
        with spans.tracer.start_as_current_span("request"):
            task: Any = asyncio.current_task()
            records.append(task._otel_asyncio)
            await asyncio.sleep(0)

    async def main() -> int:
        task: Any = asyncio.current_task()
        records.append(task._otel_asyncio)
        made: Any = asyncio.Task(eager(), loop=asyncio.get_running_loop(), eager_start=True)
        await made
        return sys._getframe().f_lineno - 2

    line = traced_run(main())
    maker, record = records
    assert (record.kind, record.creator, record.site.line) == ("eager", maker.id, line)
    assert record.first_step == record.created and record.steps == 2
    assert attributes(spans.task("eager"))["asyncio.task.kind"] == "root_segment"


def test_the_line_that_makes_the_first_task_of_a_function_is_known(traced_run: TracedRun) -> None:
    """What is not known of its code yet is for Python to find out, which has one frame more to pass or not."""
    fresh = FunctionType(returns.__code__.replace(co_name="fresh", co_qualname="fresh"), globals())

    async def main() -> int:
        await asyncio.get_running_loop().create_task(fresh())
        return sys._getframe().f_lineno - 1

    line = traced_run(main())
    (span,) = traced_run.spans.of("fresh")
    assert attributes(span)["asyncio.task.created.line"] == line
