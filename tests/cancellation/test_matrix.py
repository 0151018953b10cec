"""Who cancelled, why, where it hit and what became of it: one row for each way in which a task is cancelled."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from harness import Spans, TracedRun, attributes, both_providers, both_ways, links, span_id

from cancellation import ways
from cancellation.ways import Way, line_of

BY_NAME = {each.name: each for each in ways.ALL}
every_way = pytest.mark.parametrize("name", list(BY_NAME))


def cancels(spans: Spans, function: str = "victim") -> list[Any]:
    return [
        span
        for span in spans.all()
        if span.name.startswith("cancel ") and span.name.rsplit(".", 1)[-1].endswith(function)
    ]


def expected(way: Way, loop_kind: str) -> dict[str, Any]:
    says = {f"asyncio.cancel.{key}": value for key, value in way.says.items() if value is not None}
    if way.name == "by_wait_for" and sys.version_info < (3, 12):
        del says["asyncio.cancel.via"]  # it cancels the task itself
    if way.name == "by_ctrl_c" and loop_kind == "uvloop":
        says |= {"asyncio.cancel.origin": "explicit", "asyncio.cancel.expected": False}  # its handlers leave no frame
    return says | way.extra


@every_way
@both_ways
def test_the_span_says_who_and_what_became_of_it(
    traced_run: TracedRun, spans: Spans, name: str, loop_kind: str
) -> None:
    way = BY_NAME[name]
    traced_run(way.program())
    found = cancels(spans)
    assert len(found) == way.spans
    says = expected(way, loop_kind)
    for span in found:
        said = attributes(span)
        assert {key: said.get(key) for key in says} == says
        assert ("asyncio.cancel.via" in said) == ("asyncio.cancel.via" in says)


@every_way
def test_the_span_names_the_line_that_asked(traced_run: TracedRun, spans: Spans, name: str) -> None:
    way = BY_NAME[name]
    traced_run(way.program())
    for span in cancels(spans):
        said = attributes(span)
        if way.by is None:
            assert "asyncio.cancel.by.line" not in said
        else:
            assert said["asyncio.cancel.by.line"] == line_of(way.by, way.program)
            assert said["asyncio.cancel.by.file"] == ways.__file__


@every_way
def test_the_span_names_the_line_it_hit(traced_run: TracedRun, spans: Spans, name: str) -> None:
    way = BY_NAME[name]
    traced_run(way.program())
    for span in cancels(spans):
        said = attributes(span)
        if way.at is None:
            assert "asyncio.cancel.at.line" not in said
        else:
            own = "# at" in _source(way.program)
            assert said["asyncio.cancel.at.line"] == line_of("at", way.program if own else ways.victim)
            assert said["asyncio.await.target"] == "Event.wait"


def _source(function: Any) -> str:
    import inspect

    return inspect.getsource(function)


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
    if BY_NAME[name].spans and name != "by_ctrl_c":
        assert counted[says["origin"], says["outcome"], says["expected"]] >= BY_NAME[name].spans


@pytest.mark.skipif(sys.version_info < (3, 12), reason="needs Python 3.12")
def test_a_swallowed_cancellation_names_the_except(traced_run: TracedRun, spans: Spans) -> None:
    traced_run(ways.swallowed())
    (span,) = cancels(spans)
    assert attributes(span)["asyncio.cancel.suppressed.line"] == line_of("swallowed", ways.swallowed)
