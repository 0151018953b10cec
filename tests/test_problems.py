"""What deserves a person: one line in the log whatever the sampler said, one span, one count, at a bounded rate."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from typing import Any

import pytest
from harness import Spans, TracedRun, attributes, both_providers, both_ways, parent_id, span_id
from opentelemetry.sdk.trace import sampling
from opentelemetry.trace import StatusCode

pytestmark = both_providers

LOGGER = "otel_asyncio.problem"


async def for_ever() -> None:
    await asyncio.get_running_loop().create_future()


async def fail() -> None:
    await asyncio.sleep(0)
    raise LookupError("nobody asks")


async def forget(function: Any, times: int = 1) -> None:
    """Make tasks and let go of them; the last one lets what was noticed be told."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    for _ in range(times):
        task = asyncio.create_task(function(), name="forgotten")
        await asyncio.wait([task], timeout=0.001)
        del task
    gc.collect()
    await asyncio.create_task(asyncio.sleep(0))


KINDS = pytest.mark.parametrize(
    ("function", "kind"),
    [(for_ever, "task_destroyed_pending"), (fail, "exception_never_retrieved")],
    ids=["destroyed", "never retrieved"],
)


def lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == LOGGER]


@both_ways
@KINDS
def test_a_problem_is_one_warning(
    traced_run: TracedRun, caplog: pytest.LogCaptureFixture, function: Any, kind: str
) -> None:
    traced_run(forget(function))
    assert [(line.levelname, vars(line)["asyncio.problem"]) for line in lines(caplog)] == [("WARNING", kind)]


@both_ways
@KINDS
def test_the_warning_names_kind_function_and_creation_line(
    traced_run: TracedRun, caplog: pytest.LogCaptureFixture, function: Any, kind: str
) -> None:
    """Which Python does not give."""
    traced_run(forget(function))
    (line,) = lines(caplog)
    said = line.getMessage()
    created = f"{__file__}:{vars(line)['asyncio.task.created.line']}"
    assert all(part in said for part in (kind, f"{__name__}.{function.__name__}", created))


@KINDS
def test_the_warning_has_the_attributes_in_extra(
    traced_run: TracedRun, caplog: pytest.LogCaptureFixture, function: Any, kind: str
) -> None:
    traced_run(forget(function))
    seen = vars(lines(caplog)[0])
    assert seen["code.function.name"] == f"{__name__}.{function.__name__}"
    assert seen["asyncio.task.name"] == "forgotten"
    assert seen["asyncio.task.created.function"] == "forget"


@KINDS
def test_the_warning_has_the_ids_of_the_tasks_span(
    traced_run: TracedRun, spans: Spans, caplog: pytest.LogCaptureFixture, function: Any, kind: str
) -> None:
    traced_run(forget(function))
    context, seen = spans.task(function.__name__).get_span_context(), vars(lines(caplog)[0])
    assert (seen["trace_id"], seen["span_id"]) == (f"{context.trace_id:032x}", f"{context.span_id:016x}")


@both_ways
def test_the_span_of_a_destroyed_task_carries_the_problem(traced_run: TracedRun, spans: Spans) -> None:
    traced_run(forget(for_ever))
    seen = attributes(spans.task("for_ever"))
    assert (seen["asyncio.problem"], seen["asyncio.task.outcome"]) == ("task_destroyed_pending", "destroyed")


@both_ways
def test_an_exception_never_retrieved_has_a_span_of_its_own(traced_run: TracedRun, spans: Spans) -> None:
    """That of the task has ended when Python finds that nobody asked."""
    traced_run(forget(fail))
    span, task = spans.named("asyncio.exception_never_retrieved"), spans.task("fail")
    seen = attributes(span)
    assert parent_id(span) == span_id(task)
    assert (seen["asyncio.problem"], seen["error.type"]) == ("exception_never_retrieved", "LookupError")
    assert span.status.status_code is StatusCode.ERROR
    assert [(event.attributes or {})["exception.message"] for event in span.events] == ["nobody asks"]


def test_the_span_of_a_problem_covers_its_interval(traced_run: TracedRun, spans: Spans) -> None:
    traced_run(forget(fail))
    span, task = spans.named("asyncio.exception_never_retrieved"), spans.task("fail")
    assert span.start_time is not None and span.end_time is not None and task.end_time is not None
    assert abs(span.start_time - task.end_time) < 1_000_000_000
    assert span.start_time <= span.end_time


@KINDS
@pytest.mark.parametrize("recorded", ["unsampled", "none"])
def test_a_problem_without_a_span_is_logged_all_the_same(
    traced_run: TracedRun, provider_kind: str, caplog: pytest.LogCaptureFixture, function: Any, kind: str,
    recorded: str,
) -> None:  # fmt: skip
    """Head sampling must not silence it."""
    if recorded == "unsampled":
        traced_run.spans = Spans(provider_kind, sampler=sampling.ALWAYS_OFF)
    traced_run(forget(function), root_tasks="all" if recorded == "unsampled" else "none")
    (line,) = lines(caplog)
    assert vars(line)["asyncio.problem"] == kind
    assert traced_run.spans.all() == []


@KINDS
def test_problems_are_counted(run: Callable[..., Any], instrumented_process: Any, function: Any, kind: str) -> None:
    run(forget(function, times=3))
    assert instrumented_process.observation.counters.problems[kind] == 3


@KINDS
@pytest.mark.settings(problem_rate=2)
def test_no_more_than_problem_rate_are_logged(
    run: Callable[..., Any], instrumented_process: Any, caplog: pytest.LogCaptureFixture, function: Any, kind: str
) -> None:
    """All are counted, and what was not said is counted as dropped."""
    run(forget(function, times=6))
    counters = instrumented_process.observation.counters
    logged = len(lines(caplog))
    assert 2 <= logged < 6, "two a second"
    assert (counters.problems[kind], counters.dropped["problem"]) == (6, 6 - logged)


@pytest.mark.settings(problem_log=False)
def test_without_the_log_there_is_still_the_span(
    run: Callable[..., Any], instrumented_process: Any, spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    run(forget(fail))
    assert lines(caplog) == []
    assert spans.named("asyncio.exception_never_retrieved")


@both_ways
def test_a_problem_makes_a_root_task_a_span(traced_run: TracedRun, spans: Spans) -> None:
    traced_run(forget(for_ever), root_tasks="problems")
    assert len(spans.of("for_ever")) == 1


@both_ways
def test_the_exception_handler_of_the_program_is_told_as_ever(same_as_bare: Callable[..., Any]) -> None:
    async def main() -> list[str]:
        told: list[str] = []
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        for function in (for_ever, fail):
            task = asyncio.create_task(function())
            loop.set_exception_handler(lambda _, context: told.append(context["message"]))
            await asyncio.wait([task], timeout=0.001)
            del task
            gc.collect()
        return told

    told = same_as_bare(main)
    assert told == ["Task was destroyed but it is pending!", "Task exception was never retrieved"]


@both_ways
def test_a_healthy_program_has_no_problem(
    traced_run: TracedRun, spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    """A false alarm is as bad as a missed one."""

    async def main() -> None:
        task = asyncio.create_task(for_ever())
        await asyncio.gather(fail(), return_exceptions=True)
        task.cancel()
        await asyncio.wait([task])

    traced_run(main())
    assert lines(caplog) == []
    assert not [span for span in spans.all() if "asyncio.problem" in attributes(span)]
