"""A coroutine that nobody awaited: the line that made it, the task that forgot it, and Python's own warning as ever."""

from __future__ import annotations

import asyncio
import gc
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Spans, TracedRun, attributes, both_ways, parent_id, span_id

from otel_asyncio import AsyncioInstrumentor, Settings

SOURCE = Path(__file__).read_text(encoding="utf-8").splitlines()
KIND = "asyncio.coroutine_never_awaited"
TRACKING = {"origin_tracking": True}


async def fetch() -> None: ...


async def forgets() -> None:
    fetch()  # forgotten  # noqa: RUF100
    await asyncio.sleep(0)


async def collects() -> None:
    made = [fetch() for _ in range(2)]  # collected
    await asyncio.sleep(0)
    made.clear()
    await asyncio.sleep(0)


async def drops_at_its_end() -> None:
    kept = fetch()
    await asyncio.sleep(0)
    assert kept


async def leaves_it_to_the_collector() -> None:
    circle: list[Any] = [fetch()]
    circle.append(circle)
    await asyncio.sleep(0)
    del circle
    gc.collect()


async def closes() -> None:
    made = fetch()
    await asyncio.sleep(0)
    made.close()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def told(spans: Spans) -> list[Any]:
    return [span for span in spans.all() if span.name == KIND]


def line_of(span: Any) -> str:
    return SOURCE[attributes(span)["code.line.number"] - 1]


@both_ways
def test_a_forgotten_await_is_told_with_its_line_and_its_task(traced_run: TracedRun, spans: Spans) -> None:
    traced_run(forgets())
    (problem,) = told(spans)
    task = spans.task("forgets")
    assert "# forgotten" in line_of(problem)
    assert attributes(problem)["asyncio.problem"] == "coroutine_never_awaited"
    assert attributes(problem)["code.function.name"].endswith("forgets")
    assert parent_id(problem) == span_id(task)


@both_ways
def test_with_origin_tracking_the_line_that_made_it_is_told(traced_run: TracedRun, spans: Spans) -> None:
    traced_run(collects(), **TRACKING)
    assert ["# collected" in line_of(problem) for problem in told(spans)] == [True, True]


@both_ways
@pytest.mark.parametrize("program", (collects, drops_at_its_end, leaves_it_to_the_collector))
def test_where_the_line_is_not_known_none_is_made_up(traced_run: TracedRun, spans: Spans, program: Any) -> None:
    traced_run(program())
    for problem in told(spans):
        assert "async def fetch" in line_of(problem)
    assert told(spans)


@both_ways
def test_a_coroutine_that_is_closed_is_no_problem(traced_run: TracedRun, spans: Spans) -> None:
    traced_run(closes(), **TRACKING)
    assert told(spans) == []


def essence(message: str) -> str:
    """Of the lines that led to the coroutine, the last one: above it stand this test, and the hook in Python."""
    head, _, frames = message.partition("\nCoroutine created at")
    return "\n".join([head, *[line for line in frames.splitlines() if line.lstrip().startswith("File")][-1:]])


def warned(call: Callable[[], Any]) -> list[tuple[str, str, int, type]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
        gc.collect()
    return [
        (essence(str(each.message)), each.filename, each.lineno, type(each.source))
        for each in caught
        if "never awaited" in str(each.message)
    ]


@both_ways
@pytest.mark.parametrize("settings", ({}, TRACKING), ids=("plain", "tracking"))
@pytest.mark.parametrize("debug", (False, True), ids=("", "debug"))
@pytest.mark.parametrize("program", (forgets, collects, drops_at_its_end, leaves_it_to_the_collector))
def test_python_warns_as_without_us(
    run: Callable[..., Any], traced_run: TracedRun, program: Any, debug: bool, settings: dict[str, bool]
) -> None:
    bare = warned(lambda: run(program(), debug=debug))
    assert bare
    assert warned(lambda: traced_run(program(), debug=debug, **settings)) == bare


def test_undone_nothing_of_ours_is_left() -> None:
    hook, depth = warnings._warn_unawaited_coroutine, sys.get_coroutine_origin_tracking_depth()  # type: ignore[attr-defined]
    AsyncioInstrumentor().instrument(settings=Settings(**TRACKING))
    try:
        assert warnings._warn_unawaited_coroutine is not hook  # type: ignore[attr-defined]
        assert sys.get_coroutine_origin_tracking_depth() == 1
    finally:
        AsyncioInstrumentor().uninstrument()
    assert warnings._warn_unawaited_coroutine is hook  # type: ignore[attr-defined]
    assert sys.get_coroutine_origin_tracking_depth() == depth


def test_who_tracks_already_goes_on_as_before() -> None:
    sys.set_coroutine_origin_tracking_depth(7)
    try:
        AsyncioInstrumentor().instrument(settings=Settings(**TRACKING))
        assert sys.get_coroutine_origin_tracking_depth() == 7
        AsyncioInstrumentor().uninstrument()
        assert sys.get_coroutine_origin_tracking_depth() == 7
    finally:
        sys.set_coroutine_origin_tracking_depth(0)


def test_a_hook_of_somebody_else_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(warnings, "_warn_unawaited_coroutine", lambda coro: seen.append(coro.__qualname__))
    AsyncioInstrumentor().instrument()
    try:
        fetch()
    finally:
        AsyncioInstrumentor().uninstrument()
    assert seen == ["fetch"]
