"""An async generator left open: told where a statement drops one that has to clean up, and nowhere else."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from harness import Spans, TracedRun, attributes, both_ways, instrumented, parent_id, run_on, span_id

from otel_asyncio import AsyncioInstrumentor

SOURCE = Path(__file__).read_text(encoding="utf-8").splitlines()
NAME = "asyncio.asyncgen_not_closed"

cleaned: list[str] = []


@asynccontextmanager
async def connection() -> AsyncIterator[None]:
    try:
        yield
    finally:
        await asyncio.sleep(0)
        cleaned.append("connection")


async def with_finally() -> AsyncIterator[int]:
    try:
        while True:
            yield 1
    finally:
        cleaned.append("finally")


async def with_connection() -> AsyncIterator[int]:
    async with connection():
        while True:
            yield 1


async def with_finally_around_except() -> AsyncIterator[int]:
    try:
        while True:
            try:
                yield 1
            except (ValueError, OSError):
                pass
    finally:
        cleaned.append("finally")


async def with_bare_except() -> AsyncIterator[int]:
    try:
        yield 1
    except:  # noqa: E722
        cleaned.append("except")
        raise


async def with_nothing() -> AsyncIterator[int]:
    while True:
        yield 1


async def with_except() -> AsyncIterator[int]:
    while True:
        try:
            yield 1
        except (ValueError, OSError):
            cleaned.append("never")


async def with_except_of_one() -> AsyncIterator[int]:
    while True:
        try:
            yield 1
        except asyncio.TimeoutError:
            cleaned.append("never")


async def past_its_finally() -> AsyncIterator[int]:
    try:
        await asyncio.sleep(0)
    finally:
        cleaned.append("before")
    yield 1
    yield 2


async def empty() -> AsyncIterator[int]:
    try:
        for number in ():
            yield number
    finally:
        cleaned.append("finally")


async def breaks(make: Any = with_finally) -> None:
    async for _ in make():  # iterated
        break  # dropped
    await asyncio.sleep(0)


async def returns() -> int:
    async for number in with_finally():  # iterated
        return number  # dropped
    return 0


async def deletes() -> None:
    kept = with_finally()
    await anext(kept)  # iterated
    del kept  # dropped


async def assigns() -> None:
    kept: Any = with_finally()
    await anext(kept)  # iterated
    kept = None  # dropped
    assert kept is None


async def closes() -> None:
    async with aclosing(with_finally()) as numbers:
        async for _ in numbers:
            break


async def exhausts() -> None:
    async for _ in empty():
        pass


async def raises() -> None:
    with suppress(ValueError):
        async for _ in with_finally():
            raise ValueError
    await asyncio.sleep(0)


async def is_cancelled() -> None:
    async def iterates() -> None:
        async for _ in with_finally():
            await asyncio.sleep(10)

    task = asyncio.create_task(iterates())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def handles_it_elsewhere() -> None:
    async def iterates() -> None:
        numbers = with_finally()
        async for _ in numbers:
            raise ValueError

    try:
        await iterates()
    except ValueError as error:
        assert error.__traceback__ is not None
    await asyncio.sleep(0)


async def never_iterates() -> None:
    with_finally()
    await asyncio.sleep(0)


def told(spans: Spans) -> list[Any]:
    return [span for span in spans.all() if span.name == NAME]


@both_ways
@pytest.mark.parametrize("program", (breaks, returns, deletes, assigns))
def test_it_is_told_with_the_line_that_iterated_and_the_line_that_dropped_it(
    traced_run: TracedRun, spans: Spans, program: Any, caplog: pytest.LogCaptureFixture
) -> None:
    traced_run(program())
    gc.collect()
    (problem,) = told(spans)
    facts = attributes(problem)
    assert facts["asyncio.problem"] == "asyncgen_not_closed"
    assert SOURCE[facts["code.line.number"] - 1].endswith("# iterated")
    assert facts["code.function.name"].endswith(f".{program.__name__}")
    assert facts["asyncio.asyncgen.open_time"] >= 0
    assert parent_id(problem) == span_id(spans.task(program.__name__))
    (line,) = [record.getMessage() for record in caplog.records if record.name == "otel_asyncio.problem"]
    dropped = int(line.partition("was left open at line ")[2].partition(":")[0])
    assert "'with_finally'" in line
    assert SOURCE[dropped - 1].endswith("# dropped")


@pytest.mark.parametrize("make", (with_connection, with_finally_around_except, with_bare_except))
def test_whatever_is_left_to_clean_up(traced_run: TracedRun, spans: Spans, make: Any) -> None:
    traced_run(breaks(make))
    assert len(told(spans)) == 1


@pytest.mark.parametrize("make", (with_nothing, with_except, with_except_of_one, past_its_finally))
def test_where_nothing_is_left_to_clean_up_it_is_no_problem(traced_run: TracedRun, spans: Spans, make: Any) -> None:
    traced_run(breaks(make))
    assert told(spans) == []


@both_ways
@pytest.mark.parametrize(
    "program", (closes, exhausts, raises, is_cancelled, handles_it_elsewhere, never_iterates), ids=lambda p: p.__name__
)
def test_one_that_is_closed_or_unwound_is_no_problem(traced_run: TracedRun, spans: Spans, program: Any) -> None:
    traced_run(program())
    gc.collect()
    assert told(spans) == []


@both_ways
def test_it_cleans_up_as_without_us(run: Any, traced_run: TracedRun) -> None:
    async def program() -> tuple[str, ...]:
        cleaned.clear()
        for make in (with_finally, with_connection, with_nothing, with_bare_except):
            await breaks(make)
        for _ in range(5):
            await asyncio.sleep(0)
        return tuple(cleaned)

    assert traced_run(program()) == run(program()) == ("finally", "connection", "except")


def test_a_loop_that_runs_already_is_heard_from_then_on(new_loop: Any, spans: Spans) -> None:
    async def program() -> None:
        before = sys.get_asyncgen_hooks()
        with instrumented(spans):
            await asyncio.create_task(breaks())
        await asyncio.create_task(breaks())
        assert sys.get_asyncgen_hooks() == before

    run_on(new_loop, program())
    assert len(told(spans)) == 1


def test_a_generator_that_lived_before_is_closed_without_a_word(new_loop: Any, spans: Spans) -> None:
    async def program() -> None:
        kept: Any = with_finally()
        await anext(kept)
        with instrumented(spans):
            await asyncio.create_task(asyncio.sleep(0))
            del kept
            cleaned.clear()
            await asyncio.sleep(0.01)
        assert cleaned == ["finally"]

    run_on(new_loop, program())
    assert told(spans) == []


def test_undone_nothing_of_ours_is_left() -> None:
    names = ("_asyncgen_firstiter_hook", "_asyncgen_finalizer_hook")
    before = [vars(asyncio.BaseEventLoop)[name] for name in names]
    AsyncioInstrumentor().instrument()
    try:
        assert [vars(asyncio.BaseEventLoop)[name] for name in names] != before
    finally:
        AsyncioInstrumentor().uninstrument()
    assert [vars(asyncio.BaseEventLoop)[name] for name in names] == before
