"""Who cancelled, why, where it hit and what became of it: one row for each way in which a task is cancelled."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import sys
from collections.abc import Callable
from typing import Any

import pytest
from harness import Spans, TracedRun, attributes, both_providers, both_ways, links, needs_python, span_id
from opentelemetry.trace import StatusCode

from cancellation import ways
from cancellation.ways import Way, line_of

BY_NAME = {each.name: each for each in ways.ALL}


def had_until(version: tuple[int, ...]) -> pytest.MarkDecorator:
    """For what newer interpreters have no more."""
    return pytest.mark.skipif(
        sys.version_info >= version, reason="needs Python older than " + ".".join(map(str, version))
    )


every_way = pytest.mark.parametrize(
    "name", [pytest.param(each.name, marks=[needs_python(*each.needs), had_until(each.before)]) for each in ways.ALL]
)


def cancels(spans: Spans, function: str = "victim") -> list[Any]:
    return [
        span
        for span in spans.all()
        if span.name.startswith("cancel ") and span.name.rsplit(".", 1)[-1].endswith(function)
    ]


def expected(way: Way) -> dict[str, Any]:
    says = {f"asyncio.cancel.{key}": value for key, value in way.says.items() if value is not None}
    if way.name == "by_wait_for" and sys.version_info < (3, 12):
        del says["asyncio.cancel.via"]  # it cancels the task itself
    return says | way.extra


@every_way
@both_ways
def test_the_span_says_who_and_what_became_of_it(traced_run: TracedRun, spans: Spans, name: str) -> None:
    way = BY_NAME[name]
    traced_run(way.program())
    found = cancels(spans)
    assert len(found) == way.spans
    says = expected(way)
    for span in found:
        said = attributes(span)
        assert {key: said.get(key) for key in says} == says
        assert ("asyncio.cancel.via" in said) == ("asyncio.cancel.via" in says)


@every_way
@pytest.mark.parametrize("side", ["by", "at"])
def test_the_span_names_the_line_that_asked_and_the_one_it_hit(
    traced_run: TracedRun, spans: Spans, name: str, side: str
) -> None:
    way = BY_NAME[name]
    traced_run(way.program())
    mark = getattr(way, side)
    for span in cancels(spans):
        said = attributes(span)
        if mark is None:
            assert f"asyncio.cancel.{side}.line" not in said
            continue
        within = way.program if f"# {mark}" in inspect.getsource(way.program) else ways.victim
        assert said[f"asyncio.cancel.{side}.line"] == line_of(mark, within)
        assert said[f"asyncio.cancel.{side}.file"] == ways.__file__
        assert side == "by" or said["asyncio.await.target"] == "Event.wait"


@every_way
@both_providers
def test_the_span_is_linked_to_who_asked_first(traced_run: TracedRun, spans: Spans, name: str) -> None:
    way = BY_NAME[name]
    traced_run(way.program())
    for span in cancels(spans):
        linked = links(span).get("canceller")
        if way.canceller is None:
            assert linked is None
        else:
            who = way.program.__name__ if way.canceller == "main" else way.canceller
            assert linked == span_id(spans.task(who))


@every_way
def test_the_program_does_the_same_as_without(same_as_bare: Callable[..., Any], name: str) -> None:
    same_as_bare(BY_NAME[name].program)


@every_way
def test_a_cancellation_is_counted_once(run: Callable[..., Any], instrumented_process: Any, name: str) -> None:
    run(BY_NAME[name].program())
    counted = instrumented_process.observation.counters.cancellations
    says = BY_NAME[name].says
    assert sum(counted.values()) >= 1
    if BY_NAME[name].spans:
        assert counted[says["origin"], says["outcome"], says["expected"]] >= BY_NAME[name].spans


@pytest.mark.skipif(sys.version_info < (3, 12), reason="needs Python 3.12")
def test_a_swallowed_cancellation_names_the_except(traced_run: TracedRun, spans: Spans) -> None:
    traced_run(ways.swallowed())
    (span,) = cancels(spans)
    assert attributes(span)["asyncio.cancel.suppressed.line"] == line_of("swallowed", ways.swallowed)


@every_way
def test_a_task_that_is_only_counted_does_the_same(
    run: Callable[..., Any], traced_run: TracedRun, spans: Spans, name: str
) -> None:
    bare = run(BY_NAME[name].program())
    assert traced_run(BY_NAME[name].program(), root_tasks="none") == bare
    assert spans.all() == []


@pytest.mark.settings(root_tasks="none")
@every_way
def test_a_cancellation_of_a_task_that_is_only_counted_is_counted(
    run: Callable[..., Any], instrumented_process: Any, name: str
) -> None:
    run(BY_NAME[name].program())
    counted = instrumented_process.observation.counters.cancellations
    says = BY_NAME[name].says
    if BY_NAME[name].spans and name != "by_what_it_awaited":
        assert any((origin, fate) == (says["origin"], says["outcome"]) for origin, fate, _ in counted), counted


def test_the_span_of_a_cancellation_is_no_error(traced_run: TracedRun, spans: Spans) -> None:
    """T17: only one that was suppressed is."""
    traced_run(ways.by_another_task())
    (span,) = cancels(spans)
    assert span.status.status_code is StatusCode.UNSET
    assert spans.task("victim").status.status_code is StatusCode.UNSET


def test_a_message_leaves_the_process_only_if_asked_for(traced_run: TracedRun, spans: Spans) -> None:
    async def main() -> None:
        task = ways.asyncio.create_task(ways.victim())
        await ways.turn()
        task.cancel("secret")
        await ways.ended(task)

    traced_run(main())
    assert "asyncio.cancel.message" not in attributes(cancels(spans)[0])
    spans.exporter.clear()
    traced_run(main(), capture_messages=True)
    assert attributes(cancels(spans)[0])["asyncio.cancel.message"] == "secret"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="needs Python 3.12")
@pytest.mark.parametrize("taken", [(), (4,), (3, 4)])
def test_tools_of_others_are_not_disturbed(traced_run: TracedRun, spans: Spans, taken: tuple[int, ...]) -> None:
    """Where both places are taken, the line of the `except` is not known, and nothing else changes."""
    monitoring: Any = sys.monitoring
    for tool in taken:
        monitoring.use_tool_id(tool, f"somebody's {tool}")
    try:
        traced_run(ways.swallowed())
        assert [monitoring.get_tool(tool) for tool in (3, 4)] == [
            f"somebody's {tool}" if tool in taken else None for tool in (3, 4)
        ]
        assert [monitoring.get_events(tool) for tool in taken] == [0] * len(taken)
    finally:
        for tool in taken:
            monitoring.free_tool_id(tool)
    (span,) = cancels(spans)
    assert ("asyncio.cancel.suppressed.line" in attributes(span)) == (len(taken) < 2)


@both_providers
@both_ways
def test_a_root_task_that_cancels_another_is_linked(traced_run: TracedRun, spans: Spans) -> None:
    """Nothing had asked for its span before."""
    tasks: list[Any] = []

    async def canceller() -> None:
        tasks[0].cancel()
        await asyncio.sleep(0)

    async def main() -> None:
        tasks.append(asyncio.create_task(ways.victim(), context=contextvars.Context()))
        await ways.turn()
        await asyncio.wait([asyncio.create_task(canceller(), context=contextvars.Context()), tasks[0]])

    traced_run(main())
    (span,) = cancels(spans)
    assert links(span)["canceller"] == span_id(spans.task("canceller"))
