"""A loop used wrongly is a problem with both lines: who runs it, or where it was closed, and who tried."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from harness import NewLoop, Spans, TracedRun, attributes, both_ways, parent_id, run_on, span_id
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF


async def nothing() -> None: ...


async def runs_another() -> None:
    coro = nothing()
    try:
        asyncio.run(coro)  # nested
    finally:
        coro.close()


async def runs_its_own_loop_again() -> None:
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().run_until_complete(future)  # running


async def uses_a_closed_loop() -> None:
    loop = asyncio.new_event_loop()
    loop.close()  # closed
    await asyncio.sleep(0)
    loop.call_soon(print)  # used


async def awaits_a_future_of_another_loop() -> None:
    loop = asyncio.new_event_loop()
    try:
        await loop.create_future()  # foreign
    finally:
        loop.close()


PROGRAMS = (
    (runs_another, "nested_run", "# nested"),
    (runs_its_own_loop_again, "loop_already_running", "# running"),
    (awaits_a_future_of_another_loop, "wrong_loop", "# foreign"),
)
SOURCE = Path(__file__).read_text(encoding="utf-8").splitlines()


def line_of(span: Any, key: str = "code.line.number") -> str:
    return SOURCE[attributes(span)[key] - 1]


@both_ways
@pytest.mark.parametrize(("program", "problem", "line"), PROGRAMS, ids=lambda value: getattr(value, "__name__", None))
def test_an_error_of_the_loop_that_leaves_a_task_is_a_problem(
    traced_run: TracedRun, spans: Spans, caplog: pytest.LogCaptureFixture, program: Any, problem: str, line: str
) -> None:
    with pytest.raises(RuntimeError):
        traced_run(program())
    span = spans.named(f"asyncio.{problem}")
    assert attributes(span)["asyncio.problem"] == problem
    assert line in line_of(span)
    assert parent_id(span) == span_id(spans.task(program.__name__))
    assert "run_on" in attributes(span)["code.stacktrace"]
    assert "otel_asyncio/observe" not in attributes(span)["code.stacktrace"]
    assert [record.message for record in caplog.records if record.name == "otel_asyncio.problem"] != []


def test_a_closed_loop_tells_where_it_was_closed(traced_run: TracedRun, spans: Spans, loop_kind: str) -> None:
    with pytest.raises(RuntimeError, match="closed"):
        traced_run(uses_a_closed_loop())
    span = spans.named("asyncio.loop_closed")
    assert "# used" in line_of(span)


def test_a_closed_loop_of_ours_tells_by_whom_and_how_long_ago(
    traced_run: TracedRun, spans: Spans, new_loop: NewLoop
) -> None:
    async def main() -> None:
        loop = asyncio.SelectorEventLoop()
        task = loop.create_task(nothing())
        task.get_coro().close()  # type: ignore[union-attr]
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()  # closed here
        loop.call_soon(print)

    with pytest.raises(RuntimeError, match="closed"):
        traced_run(main())
    span = spans.named("asyncio.loop_closed")
    assert "# closed here" in line_of(span, "asyncio.loop.closed.line")
    assert attributes(span)["asyncio.loop.closed.age"] >= 0


def test_an_error_that_leaves_two_tasks_is_one_problem(traced_run: TracedRun, spans: Spans) -> None:
    async def main() -> None:
        await asyncio.create_task(runs_another())

    with pytest.raises(RuntimeError):
        traced_run(main())
    assert spans.names().count("asyncio.nested_run") == 1


def test_an_error_that_is_handled_is_no_problem(traced_run: TracedRun, spans: Spans) -> None:
    async def main() -> None:
        loop = asyncio.new_event_loop()
        loop.close()
        with pytest.raises(RuntimeError):
            loop.call_soon_threadsafe(print)

    traced_run(main())
    assert [name for name in spans.names() if name.startswith("asyncio.")] == []


def test_an_error_of_the_program_is_no_misuse(traced_run: TracedRun, spans: Spans) -> None:
    async def main() -> None:
        raise RuntimeError("out of cheese")

    with pytest.raises(RuntimeError):
        traced_run(main())
    assert [name for name in spans.names() if name.startswith("asyncio.")] == []


def test_it_is_logged_where_nothing_is_sampled(new_loop: NewLoop, caplog: pytest.LogCaptureFixture) -> None:
    spans = Spans(sampler=ALWAYS_OFF)
    with pytest.raises(RuntimeError):
        TracedRun("instrumentor", new_loop, spans)(runs_another())
    (record,) = [record for record in caplog.records if record.name == "otel_asyncio.problem"]
    assert record.__dict__["asyncio.problem"] == "nested_run"


def test_the_error_is_the_same_as_bare(new_loop: NewLoop, traced_run: TracedRun) -> None:
    def frames(run: Any) -> list[str]:
        with pytest.raises(RuntimeError) as caught:
            run(runs_another())
        return [entry.name for entry in caught.traceback if "harness" not in str(entry.path)]

    assert frames(partial(run_on, new_loop)) == frames(traced_run)
