"""T1 and T2: what a task is called, and what a factory is called with."""

from __future__ import annotations

import asyncio
import contextvars
import re
from collections.abc import Callable
from typing import Any

import pytest
from harness import NewLoop, Spans, TracedRun, attributes, both_ways, needs_python, run_on

import otel_asyncio


async def child() -> str:
    task = asyncio.current_task()
    assert task is not None
    return task.get_name()


@both_ways
def test_an_unnamed_task_is_called_task_n(traced_run: TracedRun) -> None:
    """T1."""

    async def main() -> str:
        return await asyncio.create_task(child())

    assert re.fullmatch(r"Task-\d+", traced_run(main()))


@both_ways
def test_the_span_of_an_unnamed_task_is_called_task_n(traced_run: TracedRun, spans: Spans) -> None:
    """T1."""

    async def main() -> str:
        return await asyncio.create_task(child())

    name = traced_run(main())
    assert attributes(spans.task("child"))["asyncio.task.name"] == name


@both_ways
def test_no_number_is_lost_to_the_package(traced_run: TracedRun) -> None:
    """T1: two tasks in a row have names in a row."""

    async def main() -> list[str]:
        return [await asyncio.create_task(child()) for _ in range(2)]

    first, second = (int(name.removeprefix("Task-")) for name in traced_run(main()))
    assert second == first + 1


@both_ways
@pytest.mark.parametrize("name", ["x", "Task-7", "", "None"])
def test_a_given_name_is_kept(same_as_bare: Callable[..., Any], name: str) -> None:
    """T1: also where the factory has to apply it itself (3.13.3, gh-132593)."""

    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            tasks = [
                asyncio.create_task(child(), name=name),
                loop.create_task(child(), name=name),
                group.create_task(child(), name=name),
            ]
        return [await task for task in tasks]

    assert same_as_bare(main) == [name] * 3


@both_ways
def test_a_name_set_later_is_the_one_on_the_span(traced_run: TracedRun, spans: Spans) -> None:
    """T1: names are read when the task ends."""

    async def main() -> None:
        task = asyncio.create_task(child())
        task.set_name("later")
        await task

    traced_run(main())
    assert attributes(spans.task("child"))["asyncio.task.name"] == "later"


@both_ways
def test_a_name_that_is_no_string_becomes_one(same_as_bare: Callable[..., Any]) -> None:
    """T1: asyncio takes any object for a name."""

    async def main() -> str:
        return await asyncio.create_task(child(), name=17)  # type: ignore[arg-type]

    assert same_as_bare(main) == "17"


CALLS: list[dict[str, Any]] = [
    {},
    {"name": None},
    {"name": "given"},
    {"context": None},
    {"context": contextvars.Context()},
    {"name": "given", "context": contextvars.Context()},
]
EAGER_CALLS: list[dict[str, Any]] = [{"eager_start": value} for value in (None, True, False)]


async def _call(factory: Any, kwargs: dict[str, Any]) -> str:
    return await factory(asyncio.get_running_loop(), child(), **kwargs)


@pytest.mark.parametrize("kwargs", CALLS, ids=str)
def test_the_factory_takes_what_asyncio_gives(new_loop: NewLoop, spans: Spans, kwargs: dict[str, Any]) -> None:
    """T2."""
    factory = otel_asyncio.task_factory(tracer_provider=spans.provider)
    assert run_on(new_loop, _call(factory, kwargs)) != "None"
    assert len(spans.of("child")) == 1


@needs_python(3, 12)
@pytest.mark.parametrize("kwargs", EAGER_CALLS, ids=str)
def test_the_factory_takes_eager_start(new_loop: NewLoop, spans: Spans, kwargs: dict[str, Any]) -> None:
    """T2: uvloop passes `eager_start=None` to every factory."""
    factory = otel_asyncio.task_factory(tracer_provider=spans.provider)
    run_on(new_loop, _call(factory, kwargs))
    assert len(spans.of("child")) == 1


def test_the_factory_refuses_an_unknown_keyword_as_a_task_does(new_loop: NewLoop, spans: Spans) -> None:
    """T2."""
    factory = otel_asyncio.task_factory(tracer_provider=spans.provider)

    async def main() -> None:
        coro = child()
        with pytest.raises(TypeError, match="unknown"):
            factory(asyncio.get_running_loop(), coro, unknown=1)
        coro.close()

    run_on(new_loop, main())


@both_ways
def test_a_factory_of_the_program_gets_what_asyncio_would_give_it(
    new_loop: NewLoop, run: Callable[..., Any], traced_run: TracedRun
) -> None:
    """T2: no keyword more, none less, whichever call made the task."""

    def recording() -> tuple[list[dict[str, Any]], Any]:
        calls: list[dict[str, Any]] = []

        def factory(loop: Any, coro: Any, **kwargs: Any) -> Any:
            calls.append({key: value for key, value in kwargs.items() if key != "context" or value is None})
            return asyncio.Task(coro, loop=loop, **{k: v for k, v in kwargs.items() if k != "eager_start"})

        return calls, factory

    async def main() -> None:
        context = contextvars.copy_context()
        await asyncio.create_task(child())
        await asyncio.create_task(child(), name="given")
        await asyncio.create_task(child(), name=None)
        await asyncio.create_task(child(), context=context)
        await asyncio.get_running_loop().create_task(child())
        await asyncio.gather(child())
        async with asyncio.TaskGroup() as group:
            group.create_task(child())

    bare_calls, bare = recording()
    run_on(traced_run.loop_with(bare), main())
    traced_calls, inner = recording()
    traced_run(main(), inner=inner)
    assert traced_calls == bare_calls


@both_ways
def test_a_factory_that_takes_no_keywords_works_as_without_tracing(
    run: Callable[..., Any], traced_run: TracedRun
) -> None:
    """T2: where asyncio passes keywords to it anyhow, it is refused in the same words."""

    def old(loop: Any, coro: Any) -> Any:
        return asyncio.Task(coro, loop=loop)

    async def main(factory: Any) -> str:
        loop, coro = asyncio.get_running_loop(), child()
        loop.set_task_factory(factory)
        try:
            await loop.create_task(coro)
        except TypeError as error:
            return str(error)
        finally:
            loop.set_task_factory(None)
            coro.close()
        return "ran"

    assert traced_run(main(traced_run.factory(old))) == run(main(old))
