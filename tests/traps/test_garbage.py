"""T10: nothing of ours keeps a task alive, and nothing is left for the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import NewLoop, Spans, TracedRun, both_providers, both_ways

pytestmark = both_ways

TASKS = 200
SLACK = TASKS // 10  # caches are filled once, cycles would come per task


@pytest.fixture(autouse=True)
def collector_off() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def succeed() -> None:
    await asyncio.sleep(0)


async def fail() -> None:
    await asyncio.sleep(0)
    raise LookupError


async def fail_deeply() -> None:
    try:
        await fail()
    except LookupError as error:
        raise ValueError from error


async def wait_for_ever() -> None:
    await asyncio.Event().wait()


async def one(function: Any) -> asyncio.Task[Any]:
    task = asyncio.create_task(function())
    if function is wait_for_ever:
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()
    return task


def garbage_of(function: Any) -> Any:
    async def main() -> int:
        await one(function)
        gc.collect()
        for _ in range(TASKS):
            await one(function)
        return gc.collect()

    return main()


KINDS = pytest.mark.parametrize("function", [succeed, fail, fail_deeply, wait_for_ever], ids=lambda f: f.__name__)


@KINDS
@both_providers
def test_a_task_leaves_no_cyclic_garbage(run: Callable[..., Any], traced_run: TracedRun, function: Any) -> None:
    """T10."""
    bare = run(garbage_of(function))
    assert traced_run(garbage_of(function)) <= bare + SLACK


@KINDS
def test_an_unrecorded_task_leaves_no_cyclic_garbage(
    run: Callable[..., Any], traced_run: TracedRun, function: Any
) -> None:
    """T10."""
    bare = run(garbage_of(function))
    assert traced_run(garbage_of(function), root_tasks="none") <= bare + SLACK


@both_providers
def test_a_task_inside_a_span_leaves_no_cyclic_garbage(
    traced_run: TracedRun, spans: Spans, run: Callable[..., Any]
) -> None:
    """T10: such a task holds its span in its context, and the span the record."""

    async def main() -> int:
        with spans.tracer.start_as_current_span("request"):
            return await garbage_of(fail)

    bare = run(main())
    assert traced_run(main()) <= bare + SLACK


@KINDS
def test_a_finished_task_is_freed_at_once(same_as_bare: Callable[..., Any], function: Any) -> None:
    """T10."""

    async def main() -> bool:
        task = await one(function)
        gone = weakref.ref(task)
        del task
        await asyncio.sleep(0)
        return gone() is None

    assert same_as_bare(main)


def test_a_pending_task_that_nobody_holds_is_collected(same_as_bare: Callable[..., Any]) -> None:
    """T10: as without tracing, which is how Python finds it destroyed."""

    async def main() -> bool:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        gone = weakref.ref(asyncio.create_task(wait_for_ever()))
        await asyncio.sleep(0)
        gc.collect()
        return gone() is None

    assert same_as_bare(main)


def test_a_closed_loop_is_freed_at_once(new_loop: NewLoop, traced_run: TracedRun, loop_kind: str) -> None:
    """T10: the hooks of one loop hold it weakly."""

    def freed(make: Callable[[], asyncio.AbstractEventLoop]) -> bool:
        loop = make()
        loop.run_until_complete(succeed())
        loop.close()
        gone = weakref.ref(loop)
        del loop
        return gone() is None

    bare = freed(new_loop)
    assert freed(traced_run.loop_with(traced_run.factory())) == bare


def test_an_exception_never_retrieved_is_reported_as_early_as_without_tracing(
    same_as_bare: Callable[..., Any],
) -> None:
    """T10: a cycle through the traceback would put it off to the next collection."""

    async def main() -> list[str]:
        said: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context["message"]))
        task = asyncio.create_task(fail())
        await asyncio.wait([task])
        del task
        return said

    assert same_as_bare(main) == ["Task exception was never retrieved"]


def test_a_task_made_past_us_is_asked_as_ever_while_it_is_collected(same_as_bare: Callable[..., Any]) -> None:
    """The references to it are gone by then, and its coroutine is still to be closed."""

    async def program() -> list[Any]:
        said: list[Any] = []

        async def waits() -> None:
            me: Any = asyncio.current_task()
            me.cancel()
            said.append(me.uncancel())
            me.cancel()
            try:
                try:
                    await asyncio.sleep(0)
                except asyncio.CancelledError:
                    await asyncio.Future()
            finally:
                said.extend([me.uncancel(), me.uncancel(), me.cancel(), me.cancelling()])

        asyncio.Task(waits())  # noqa: RUF006 - nobody keeps it
        for _ in range(3):
            await asyncio.sleep(0)
        gc.collect()
        return said

    assert same_as_bare(program)[:4] == [0, 0, 0, True]
