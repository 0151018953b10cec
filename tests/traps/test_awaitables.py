"""T8, T9 and T11: whatever asyncio accepts is run, whatever it refuses is refused in its own words."""

from __future__ import annotations

import asyncio
import types
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import Any

import pytest
from harness import NewLoop, Spans, TracedRun, both_ways

pytestmark = both_ways


class Awaitable:
    """Awaitable, and nothing else."""

    def __await__(self) -> Generator[Any, None, str]:
        yield from asyncio.sleep(0).__await__()
        return "awaitable"


class Nameless(Coroutine[Any, Any, str]):
    """A coroutine of somebody's own making: no name, no code, no frame."""

    def __init__(self) -> None:
        self._steps = iter([None])

    def send(self, value: Any) -> Any:
        try:
            return next(self._steps)
        except StopIteration:
            raise StopIteration("nameless") from None

    def throw(self, *error: Any) -> Any:
        raise error[0]

    def close(self) -> None:
        """Nothing is open."""

    def __await__(self) -> Generator[Any, None, str]:
        raise NotImplementedError


async def numbers() -> AsyncIterator[int]:
    for number in range(3):
        await asyncio.sleep(0)
        yield number


@types.coroutine
def old_style() -> Generator[Any, None, str]:
    yield
    return "old style"


async def asend() -> Any:
    generator: Any = numbers()
    result = await asyncio.create_task(generator.asend(None))
    await generator.aclose()
    return result


async def anext_task() -> Any:
    generator: Any = numbers()
    result = await asyncio.ensure_future(anext(generator))
    await generator.aclose()
    return result


async def athrow() -> Any:
    generator: Any = numbers()
    await anext(generator)
    return await asyncio.gather(generator.athrow(LookupError("thrown")), return_exceptions=True)


async def aclose() -> Any:
    generator: Any = numbers()
    await anext(generator)
    return await asyncio.create_task(generator.aclose())


async def awaitable() -> Any:
    return await asyncio.gather(Awaitable(), asyncio.wait_for(Awaitable(), 60))


async def nameless() -> Any:
    return await asyncio.create_task(Nameless())


async def generator_based() -> Any:
    return await asyncio.create_task(old_style())  # type: ignore[arg-type]


async def compiled() -> Any:
    """On uvloop this one is Cython's."""
    return await asyncio.create_task(asyncio.get_running_loop().shutdown_asyncgens())


async def future() -> Any:
    made = asyncio.get_running_loop().create_future()
    made.set_result("future")
    return await asyncio.gather(made, asyncio.shield(asyncio.sleep(0, "shielded")))


ZOO = [asend, anext_task, athrow, aclose, awaitable, nameless, generator_based, compiled, future]


@pytest.mark.parametrize("program", ZOO, ids=lambda program: program.__name__)
def test_an_awaitable_is_run_or_refused_as_without_tracing(same_as_bare: Callable[..., Any], program: Any) -> None:
    """T8."""

    async def main() -> str:
        try:
            return repr(await program())
        except TypeError as error:
            return str(error).partition("0x")[0]

    same_as_bare(main)


@pytest.mark.parametrize("debug", [False, True])
def test_a_coroutine_without_a_name_gets_a_span(traced_run: TracedRun, spans: Spans, *, debug: bool) -> None:
    """T8: it is called after its type."""
    assert traced_run(nameless(), debug=debug) == "nameless"
    assert len(spans.of("Nameless")) == 1


def test_a_step_of_an_async_generator_is_called_after_the_generator(traced_run: TracedRun, spans: Spans) -> None:
    """T8: `async_generator_asend` has no name of its own."""
    traced_run(asend())
    assert len(spans.of("numbers")) == 1


def test_a_long_lived_future_gathers_no_callbacks(same_as_bare: Callable[..., Any]) -> None:
    """T9."""

    async def main() -> int:
        closing: Any = asyncio.get_running_loop().create_future()
        for _ in range(200):
            await asyncio.wait([closing, asyncio.create_task(asyncio.sleep(0))], return_when="FIRST_COMPLETED")
        left = len(closing._callbacks or ())
        closing.cancel()
        return left

    assert same_as_bare(main) == 0


def test_a_task_gets_no_callbacks_of_ours(same_as_bare: Callable[..., Any]) -> None:
    """T9."""

    async def main() -> int:
        task: Any = asyncio.create_task(asyncio.sleep(0))
        await asyncio.sleep(0)
        left = len(task._callbacks or ())
        await task
        return left

    assert same_as_bare(main) == 0


@pytest.mark.parametrize("refused", [123, None, "text", lambda: None], ids=["int", "None", "str", "function"])
def test_what_is_no_coroutine_is_refused_in_the_same_words(same_as_bare: Callable[..., Any], refused: Any) -> None:
    """T11."""

    async def main() -> list[str]:
        said = []
        for make in (asyncio.create_task, asyncio.get_running_loop().create_task, asyncio.ensure_future):
            with pytest.raises(TypeError) as caught:
                make(refused)
            said.append(str(caught.value).partition(" at 0x")[0])
        return said

    same_as_bare(main)


def _on_closed_loop(new_loop: NewLoop) -> list[str]:
    loop = new_loop()
    loop.close()
    coro = asyncio.sleep(0)
    with pytest.raises(RuntimeError) as caught:
        loop.create_task(coro)
    coro.close()
    return [str(caught.value)]


def test_a_closed_loop_refuses_in_the_same_words(new_loop: NewLoop, traced_run: TracedRun) -> None:
    """T11."""
    factory = traced_run.factory()
    bare = _on_closed_loop(new_loop)
    assert _on_closed_loop(traced_run.loop_with(factory)) == bare


def test_a_closed_loop_refuses_in_the_same_words_when_the_process_is_traced(
    new_loop: NewLoop, spans: Spans, way_in: str, request: pytest.FixtureRequest
) -> None:
    """T11."""
    bare = _on_closed_loop(new_loop)
    request.getfixturevalue("instrumented_process")
    assert _on_closed_loop(new_loop) == bare
    assert spans.all() == []


async def finished_group() -> list[str]:
    async def child() -> None:
        """Never runs."""

    async with asyncio.TaskGroup() as group:
        pass
    coro = child()
    with warnings.catch_warnings(record=True) as caught, pytest.raises(RuntimeError) as refused:
        warnings.simplefilter("always")
        group.create_task(coro)
    coro.close()
    return [str(refused.value).partition(" ")[2][-20:], *(str(warning.message) for warning in caught)]


def test_a_finished_group_refuses_without_leaking_a_coroutine(same_as_bare: Callable[..., Any]) -> None:
    """T11."""
    same_as_bare(finished_group)


def test_a_refused_task_is_not_counted(new_loop: NewLoop, instrumented_process: Any, run: Any, way_in: str) -> None:
    """T11: and leaves no record behind."""

    counters = instrumented_process.observation.counters

    async def main() -> None:
        with pytest.raises(TypeError):
            asyncio.create_task(123)  # type: ignore[arg-type]
        coro = asyncio.sleep(0)
        with pytest.raises(TypeError):
            asyncio.Task(coro, unknown=1)  # type: ignore[call-arg]
        coro.close()
        assert (counters.started, counters.active) == (1, 1), "main's own"

    run(main())
