"""Scopes that expired: which one, after how long, waiting on what, and whether the TimeoutError left their owner."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable
from typing import Any

import async_timeout
import pytest
from harness import Spans, TracedRun, attributes, both_ways, parent_id, span_id
from opentelemetry.trace import StatusCode

from cancellation.ways import line_of
from otel_asyncio.testing import AutojumpLoop, record


async def wait() -> None:
    await asyncio.Event().wait()


async def raised() -> str:
    async def owner() -> None:
        async with asyncio.timeout(0.01):  # owner
            await wait()

    try:
        await owner()
    except TimeoutError:
        return "somebody else caught it"


async def raised_after_cleaning_up() -> str:
    async def owner() -> None:
        try:
            async with asyncio.timeout(0.01):  # owner
                await wait()
        finally:
            await asyncio.sleep(0.01)

    try:
        await owner()
    except TimeoutError:
        return "somebody else caught it"


async def raised_in_a_retried_function() -> int:
    async def owner() -> None:
        async with asyncio.timeout(0.01):  # owner
            await wait()

    failed = 0
    for _ in range(2):
        try:
            await owner()
        except TimeoutError:
            failed += 1
    return failed


async def raised_by_wait_for() -> str:
    async def owner() -> None:
        await asyncio.wait_for(wait(), 0.01)  # owner

    try:
        await owner()
    except TimeoutError:
        return "somebody else caught it"


async def raised_by_wait_for_of_a_future() -> str:
    async def owner() -> None:
        await asyncio.wait_for(asyncio.get_running_loop().create_future(), 0.01)  # owner

    try:
        await owner()
    except TimeoutError:
        return "somebody else caught it"


async def raised_below_a_stack() -> str:
    async def owner() -> None:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(asyncio.timeout(0.01))  # owner
            await wait()

    try:
        await owner()
    except TimeoutError:
        return "somebody else caught it"


async def handled() -> str:
    async def owner() -> str:
        try:
            async with asyncio.timeout(0.01):  # owner
                await wait()
        except TimeoutError:
            await asyncio.sleep(0)
        return "went on"

    return await owner()


async def handled_at_once() -> Any:
    async def owner() -> Any:
        try:
            async with asyncio.timeout(0.01):  # owner
                await wait()
        except TimeoutError:
            return None

    return await owner()


async def handled_by_a_polling_worker() -> int:
    async def owner() -> int:
        queue: asyncio.Queue[int] = asyncio.Queue()
        for _ in range(1):
            try:
                await asyncio.wait_for(queue.get(), 0.01)  # owner
            except TimeoutError:
                continue
        return queue.qsize()

    return await owner()


async def handled_around_a_helper() -> str:
    @contextlib.asynccontextmanager
    async def limit() -> Any:
        async with asyncio.timeout(0.01):
            yield

    async def owner() -> str:
        try:
            async with limit():  # owner
                await wait()
        except TimeoutError:
            return "went on"
        return "in time"

    return await owner()


async def absorbed() -> str:
    async def owner() -> str:
        async with asyncio.timeout(0.01):  # owner
            try:
                await wait()
            except asyncio.CancelledError:  # swallowed
                pass
        return "as if nothing had been"

    return await owner()


async def raised_by_async_timeout() -> str:
    async def owner() -> None:
        async with async_timeout.timeout(0.01):  # owner
            await wait()

    try:
        await owner()
    except TimeoutError:
        return f"somebody else caught it, {asyncio.current_task().cancelling()}"


async def handled_around_async_timeout() -> str:
    async def owner() -> str:
        scope = async_timeout.timeout(60)
        try:
            async with scope:  # owner
                scope.shift(-59.99)
                await wait()
        except TimeoutError:
            return f"went on, {asyncio.current_task().cancelling()}"
        return "in time"

    return await owner()


async def absorbed_in_async_timeout() -> str:
    async def owner() -> str:
        async with async_timeout.timeout(0.01):  # owner
            try:
                await wait()
            except asyncio.CancelledError:  # swallowed
                pass
        return "as if nothing had been"

    return await owner()


OUTCOMES = {
    raised: "raised",
    raised_by_async_timeout: "raised",
    handled_around_async_timeout: "handled",
    absorbed_in_async_timeout: "absorbed",
    raised_after_cleaning_up: "raised",
    raised_in_a_retried_function: "raised",
    raised_by_wait_for: "raised",
    raised_by_wait_for_of_a_future: "raised",
    raised_below_a_stack: "raised",
    handled: "handled",
    handled_at_once: "handled",
    handled_by_a_polling_worker: "handled",
    handled_around_a_helper: "handled",
    absorbed: "absorbed",
}
PROBLEMS = {"raised": "timeout", "absorbed": "cancel_suppressed"}
every_program = pytest.mark.parametrize("program", OUTCOMES, ids=lambda program: program.__name__)


def api_of(name: str) -> str:
    if "async_timeout" in name:
        return "async_timeout"
    return "asyncio.wait_for" if "wait_for" in name or "polling" in name else "asyncio.timeout"


def timeouts(spans: Spans) -> list[Any]:
    return [span for span in spans.all() if span.name.startswith("timeout ")]


@every_program
@both_ways
def test_the_outcome_is_what_the_owner_made_of_it(traced_run: TracedRun, spans: Spans, program: Any) -> None:
    traced_run(program())
    found, outcome = timeouts(spans), OUTCOMES[program]
    assert len(found) == (2 if program is raised_in_a_retried_function else 1)
    for span in found:
        said = attributes(span)
        assert said["asyncio.timeout.outcome"] == outcome
        assert said.get("asyncio.problem") == PROBLEMS.get(outcome)
        assert (span.status.status_code is StatusCode.ERROR) == (outcome in PROBLEMS)
        assert said.get("error.type") == ("TimeoutError" if outcome == "raised" else None)


@every_program
def test_the_span_names_the_scope(traced_run: TracedRun, spans: Spans, program: Any) -> None:
    traced_run(program())
    for span in timeouts(spans):
        said = attributes(span)
        assert said["asyncio.timeout.api"] == api_of(program.__name__)
        # From entering the scope on: a crowded machine may come to that late.
        assert 0 <= said["asyncio.timeout.delay"] <= 0.012
        assert span.name.endswith("owner")
        assert (said["code.file.path"], said["code.line.number"]) == (__file__, line_of("owner", program))


@every_program
def test_the_span_says_what_it_was_waiting_on(traced_run: TracedRun, spans: Spans, program: Any) -> None:
    traced_run(program())
    for span in timeouts(spans):
        if program is not raised_by_wait_for_of_a_future:
            target = "Queue.get" if program is handled_by_a_polling_worker else "Event.wait"
            assert target in (attributes(span).get("asyncio.await.target"), "Queue.get")
            assert (
                "locks.py" in attributes(span)["code.stacktrace"] or "queues.py" in attributes(span)["code.stacktrace"]
            )


@every_program
def test_no_cancel_span_tells_of_what_the_scope_took_back(traced_run: TracedRun, spans: Spans, program: Any) -> None:
    traced_run(program())
    assert [name for name in spans.names() if name.startswith("cancel ")] == []


@every_program
def test_a_program_with_a_deadline_does_the_same(same_as_bare: Callable[..., Any], program: Any) -> None:
    same_as_bare(program)


@every_program
def test_an_expired_scope_is_counted(run: Callable[..., Any], instrumented_process: Any, program: Any) -> None:
    run(program())
    counted = instrumented_process.observation.counters.timeouts
    assert +counted == {OUTCOMES[program]: 2 if program is raised_in_a_retried_function else 1}


@pytest.mark.settings(root_tasks="none")
@every_program
def test_it_is_counted_without_a_span(
    run: Callable[..., Any], instrumented_process: Any, spans: Spans, program: Any
) -> None:
    run(program())
    counted = instrumented_process.observation.counters.timeouts
    assert +counted == {OUTCOMES[program]: 2 if program is raised_in_a_retried_function else 1}
    assert spans.all() == []


def test_a_scope_that_does_not_expire_leaves_nothing(traced_run: TracedRun, spans: Spans) -> None:
    async def main() -> None:
        async with asyncio.timeout(60):
            await asyncio.wait_for(asyncio.sleep(0), 60)

    traced_run(main())
    assert not [name for name in spans.names() if not name.startswith("task ")]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="needs Python 3.12")
def test_an_absorbed_deadline_names_the_except(traced_run: TracedRun, spans: Spans) -> None:
    traced_run(absorbed())
    (span,) = timeouts(spans)
    assert attributes(span)["asyncio.cancel.suppressed.line"] == line_of("swallowed", absorbed)


def test_a_task_that_a_timeout_left_says_so(traced_run: TracedRun, spans: Spans) -> None:
    async def child() -> None:
        async with asyncio.timeout(0.01):
            await wait()

    async def main() -> None:
        (task,), _ = await asyncio.wait([asyncio.create_task(child())])
        assert isinstance(task.exception(), TimeoutError)  # or the collector says so later, in another test

    traced_run(main())
    said = attributes(spans.task("child"))
    assert (said["asyncio.task.outcome"], said["error.type"]) == ("timeout", "TimeoutError")
    (span,) = timeouts(spans)
    assert attributes(span)["asyncio.timeout.outcome"] == "raised"
    assert parent_id(span) == span_id(spans.task("child"))


def test_a_timeout_error_of_the_programs_own_is_an_error(traced_run: TracedRun, spans: Spans) -> None:
    async def child() -> None:
        raise TimeoutError

    async def main() -> None:
        await asyncio.wait([asyncio.create_task(child())])

    traced_run(main())
    assert attributes(spans.task("child"))["asyncio.task.outcome"] == "error"


def test_the_span_is_below_the_one_open_on_entering(traced_run: TracedRun, spans: Spans) -> None:
    async def main() -> None:
        with spans.tracer.start_as_current_span("outside"), contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                with spans.tracer.start_as_current_span("inside"):
                    await wait()

    traced_run(main())
    (span,) = timeouts(spans)
    assert parent_id(span) == span_id(spans.named("outside"))


def on_virtual_time(main: Any) -> Any:
    loop = AutojumpLoop()
    with record(clock=loop.clock) as recorder, asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main)
    return recorder


def told(recorder: Any) -> list[Any]:
    return [
        (said["asyncio.timeout.outcome"], said["asyncio.timeout.delay"], round(said["asyncio.timeout.overrun"], 6))
        for span in sorted(recorder.spans, key=lambda span: (span.end_time, span.start_time))
        if span.name.startswith("timeout ")
        for said in [dict(span.attributes)]
    ]


def test_nested_scopes_are_told_apart() -> None:
    async def main() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        await wait()
                await wait()

    assert told(on_virtual_time(main())) == [("handled", 1.0, 0.0), ("handled", 5.0, 0.0)]


def test_two_scopes_that_expire_in_a_busy_loop_are_told_apart() -> None:
    """CPython's own case: both expire while the loop is busy, and one CancelledError serves both."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                async with asyncio.timeout(1):
                    loop.call_later(0.5, loop.spin, 3)
                    await wait()

    assert told(on_virtual_time(main())) == [("handled", 1.0, 2.5), ("handled", 2.0, 1.5)]


def test_a_rescheduled_deadline_is_the_one_that_counts() -> None:
    async def main() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1) as scope:
                scope.reschedule(asyncio.get_running_loop().time() + 3)
                await wait()

    assert told(on_virtual_time(main())) == [("handled", 3.0, 0.0)]


def test_a_foreign_cancellation_is_not_the_scopes(traced_run: TracedRun, spans: Spans) -> None:
    """CPython's own case: the task is cancelled by another one while the scope expires."""

    async def child() -> None:
        async with asyncio.timeout(0.01):
            try:
                await wait()
            finally:
                asyncio.current_task().cancel()

    async def main() -> None:
        await asyncio.wait([asyncio.create_task(child())])

    traced_run(main())
    assert attributes(spans.task("child"))["asyncio.task.outcome"] == "cancellation"
    (cancelled,) = [span for span in spans.all() if span.name.startswith("cancel ")]
    assert attributes(cancelled)["asyncio.cancel.origin"] == "explicit"
    (span,) = timeouts(spans)
    assert attributes(span)["asyncio.timeout.outcome"] == "handled"


def test_a_timeout_is_one_warning_with_the_owners_line(traced_run: TracedRun, caplog: pytest.LogCaptureFixture) -> None:
    traced_run(raised())
    said = [each.getMessage() for each in caplog.records if each.name == "otel_asyncio.problem"]
    (line,) = [each for each in said if each.startswith("timeout:")]  # the collector may find what others left
    assert f"{__file__}:{line_of('owner', raised)}" in line


@pytest.mark.parametrize(
    "program", [raised_by_wait_for, raised_by_wait_for_of_a_future, raised, raised_by_async_timeout]
)
def test_no_await_span_doubles_the_timeout_span(traced_run: TracedRun, spans: Spans, program: Any) -> None:
    traced_run(program(), await_threshold=0.005)
    assert [span.name for span in spans.all() if span.name.startswith("await ")] == []
    assert len(timeouts(spans)) == 1


def test_a_wait_for_that_is_in_time_is_an_await_span(traced_run: TracedRun, spans: Spans) -> None:
    async def main() -> None:
        await asyncio.wait_for(asyncio.sleep(0.02), 10)

    traced_run(main(), await_threshold=0.005)
    assert any(span.name.startswith("await ") for span in spans.all())
    assert timeouts(spans) == []


async def polls(jobs: asyncio.Queue[int]) -> None:
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(jobs.get(), 1)
        await asyncio.sleep(5)


@pytest.mark.parametrize("cancelled_after", (1.0, 7.0, 20.0))
def test_who_is_given_a_job_in_the_turn_in_which_the_deadline_passes_has_handled_it(cancelled_after: float) -> None:
    """Its step is queued already when the scope expires, so it is not one that is watched."""
    loop = AutojumpLoop()

    async def main() -> None:
        jobs: asyncio.Queue[int] = asyncio.Queue()
        worker = asyncio.create_task(polls(jobs))
        loop.call_later(0.9, loop.spin, 0.5)  # so that both are late, and come in one turn
        loop.call_later(0.99, jobs.put_nowait, 1)
        await asyncio.sleep(0.95 + cancelled_after)
        worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await worker

    with record(clock=loop.clock) as recorder, asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())
    outcomes = [attributes(span)["asyncio.timeout.outcome"] for span in recorder.spans if span.name == "timeout polls"]
    assert outcomes or sys.version_info < (3, 12)  # there a `wait_for` that is given something returns it
    assert set(outcomes) <= {"handled"}
    assert [span.name for span in recorder.spans if "asyncio.problem" in attributes(span)] == []
