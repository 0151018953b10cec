"""T5, T6 and T7: results, exceptions, cancellations and timeouts are those of the program without tracing."""

from __future__ import annotations

import asyncio
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from harness import Spans, TracedRun, attributes, both_ways, needs_python

pytestmark = both_ways


class Custom(BaseException):
    """Neither an Exception nor one of Python's own."""


HARNESS = {"inside", "__call__", "<lambda>", "run_on"}  # what stands above the loop differs


def frames(error: BaseException) -> list[str]:
    """The functions on the traceback, outermost first."""
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


ERRORS = [
    ValueError("plain"),
    Custom("custom"),
    StopAsyncIteration("odd"),
    TimeoutError("raised by hand"),
    asyncio.CancelledError("raised by hand"),
    GeneratorExit("odd"),
    ExceptionGroup("several", [ValueError("one"), ExceptionGroup("nested", [KeyError("two")])]),
    BaseExceptionGroup("several", [Custom("one")]),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_exception_is_the_same_object_with_the_same_traceback(
    same_as_bare: Callable[..., Any], error: BaseException
) -> None:
    """T6."""

    async def fail() -> None:
        await asyncio.sleep(0)
        raise error

    async def main() -> list[Any]:
        error.__traceback__ = None
        try:
            await asyncio.create_task(fail())
        except BaseException as caught:  # noqa: BLE001 - all kinds are passed through here
            seen = [type(caught), caught is error, caught.args, frames(caught)]
            caught.__traceback__ = None
            return seen
        return []

    same_as_bare(main)


def test_stop_iteration_becomes_a_runtime_error_as_ever(same_as_bare: Callable[..., Any]) -> None:
    """T6."""

    async def fail() -> None:
        raise StopIteration(1)

    async def main() -> list[Any]:
        try:
            await asyncio.create_task(fail())
        except RuntimeError as caught:
            return [str(caught), type(caught.__cause__), frames(caught)]
        return []

    same_as_bare(main)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("step", ["first", "later", "in main"])
def test_an_exit_leaves_the_loop_with_the_same_traceback(
    run: Callable[..., Any], traced_run: TracedRun, kind: type[BaseException], step: str
) -> None:
    """T6: it passes through the loop itself, not through an awaiting task."""

    async def leave(error: BaseException) -> None:
        if step == "later":
            await asyncio.sleep(0)
        raise error

    async def main(error: BaseException) -> None:
        if step == "in main":
            raise error
        await asyncio.create_task(leave(error))

    def inside(run: Any) -> list[Any]:
        error = kind("now")
        with pytest.raises(kind) as caught:
            run(main(error))
        return [caught.value is error, [name for name in frames(caught.value) if name not in HARNESS]]

    assert inside(traced_run) == inside(run)


def test_results_are_the_same_objects(traced_run: TracedRun) -> None:
    """T6."""
    results = [object(), None, StopIteration, (), ValueError("returned, not raised")]

    async def give(result: object) -> object:
        return result

    async def main() -> list[object]:
        return await asyncio.gather(*map(give, results))

    assert all(ours is given for ours, given in zip(traced_run(main()), results, strict=True))


def _warned(call: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(warning.message) for warning in caught]


async def cancel_before_the_first_step() -> bool:
    async def never() -> None:
        raise AssertionError

    task = asyncio.create_task(never())
    task.cancel()
    await asyncio.wait([task])
    return task.cancelled()


def test_cancelling_before_the_first_step_warns_of_nothing(run: Callable[..., Any], traced_run: TracedRun) -> None:
    """T5: a wrapped coroutine would never be awaited."""
    bare = _warned(lambda: run(cancel_before_the_first_step()))
    assert _warned(lambda: traced_run(cancel_before_the_first_step())) == bare == []


def test_a_task_cancelled_before_its_first_step_has_a_span(traced_run: TracedRun, spans: Spans) -> None:
    """T5."""
    assert traced_run(cancel_before_the_first_step())
    assert attributes(spans.task("never"))["asyncio.task.outcome"] == "cancellation"


async def timeouts() -> list[Any]:
    """What leaves each of asyncio's timeouts, and what the task says of its cancellations."""
    task, history = asyncio.current_task(), list[Any]()
    assert task is not None
    try:
        await asyncio.wait_for(asyncio.Event().wait(), 0.001)
    except TimeoutError as error:
        history.append(["wait_for", str(error), type(error.__cause__), task.cancelling()])
    try:
        async with asyncio.timeout(0.001) as scope:
            await asyncio.Event().wait()
    except TimeoutError as error:
        history.append(["timeout", str(error), scope.expired(), task.cancelling()])
    history.append(await asyncio.wait_for(asyncio.sleep(0, "in time"), 60))
    done, pending = await asyncio.wait([asyncio.ensure_future(asyncio.Event().wait())], timeout=0.001)
    for left in pending:
        left.cancel()
    return [*history, len(done), len(pending)]


def test_timeouts_raise(same_as_bare: Callable[..., Any]) -> None:
    """T7."""
    same_as_bare(timeouts)


async def counts() -> list[Any]:
    """Requests made, taken back and counted."""
    history = list[Any]()

    async def stubborn() -> str:
        task = asyncio.current_task()
        assert task is not None
        for _ in range(2):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError as error:
                history.append([error.args, task.cancelling()])
        history.append([task.uncancel(), task.uncancel(), task.uncancel()])
        return "finished"

    task = asyncio.create_task(stubborn())
    for message in ("first", "second"):
        await asyncio.sleep(0)
        history.append(task.cancel(message))
    history += [await task, task.cancelled(), task.cancelling(), task.cancel()]
    return history


def test_cancel_requests_are_counted_as_ever(same_as_bare: Callable[..., Any]) -> None:
    """T7."""
    same_as_bare(counts)


async def groups() -> list[Any]:
    """A failing sibling, and an awaiter that hands its cancellation on."""
    history = list[Any]()

    async def fail() -> None:
        raise LookupError("sibling")

    async def wait(name: str) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            history.append([name, error.args])
            raise

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(wait("in group"))
            group.create_task(fail())
    except* LookupError as caught:
        history.append([repr(caught), len(caught.exceptions)])

    async def outer() -> None:
        await asyncio.create_task(wait("inner"))

    task = asyncio.create_task(outer())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel("message")
    result = await asyncio.gather(task, return_exceptions=True)
    return [*history, repr(result), task.cancelling()]


def test_cancellation_reaches_whom_it_reaches_without_tracing(same_as_bare: Callable[..., Any]) -> None:
    """T7."""
    same_as_bare(groups)


async def order() -> list[int]:
    """Which step runs when."""
    history: list[int] = []

    async def child(number: int) -> None:
        history.append(number)
        await asyncio.sleep(0)
        history.append(10 + number)
        asyncio.get_running_loop().call_soon(history.append, 20 + number)
        await asyncio.sleep(0)
        history.append(30 + number)

    tasks = [asyncio.create_task(child(number)) for number in range(4)]
    for task in tasks:
        task.add_done_callback(lambda done, tasks=tasks: history.append(40 + tasks.index(done)))
    await asyncio.gather(*tasks)
    await asyncio.sleep(0)
    return history


def test_steps_and_callbacks_run_in_the_same_order(same_as_bare: Callable[..., Any]) -> None:
    """T6."""
    same_as_bare(order)


@needs_python(3, 12)
def test_an_eager_task_that_finishes_at_once_is_done_when_made(same_as_bare: Callable[..., Any]) -> None:
    """T6."""

    async def instantly(result: int) -> int:
        if result < 0:
            raise ValueError(result)
        return result

    async def main() -> list[Any]:
        loop: Any = asyncio.get_running_loop()
        good, bad = (asyncio.Task(instantly(n), loop=loop, eager_start=True) for n in (1, -1))
        return [good.done(), good.result(), bad.done(), repr(bad.exception()), frames(bad.exception())]

    same_as_bare(main)
