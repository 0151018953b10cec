"""How a task ended: the outcome, the status, the recorded exception."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest
from harness import Spans, TracedRun, attributes, both_providers, both_ways, instrumented
from opentelemetry.trace import StatusCode

pytestmark = both_providers


class Mine(Exception):
    """An exception with a module."""


async def fail() -> None:
    await asyncio.sleep(0)
    raise Mine("as asked")


def _traced(traced_run: TracedRun, spans: Spans, call: Callable[[], None]) -> None:
    if traced_run.way == "factory":
        return call()
    with instrumented(spans):
        return call()


OUTCOMES: dict[str, tuple[str, StatusCode, str | None]] = {
    "returns": ("success", StatusCode.UNSET, None),
    "fails": ("error", StatusCode.ERROR, f"{__name__}.Mine"),
    "fails_by_value": ("error", StatusCode.ERROR, "ValueError"),
    "fails_in_a_group": ("error", StatusCode.ERROR, "ExceptionGroup"),
    "is_cancelled": ("cancellation", StatusCode.UNSET, None),
    "cancels_itself": ("cancellation", StatusCode.UNSET, None),
    "generator_exit": ("exit", StatusCode.UNSET, None),
}


async def end_as(how: str) -> None:
    await asyncio.sleep(0)
    raised: dict[str, BaseException] = {
        "fails": Mine("as asked"),
        "fails_by_value": ValueError("as asked"),
        "fails_in_a_group": ExceptionGroup("several", [Mine("one")]),
        "cancels_itself": asyncio.CancelledError(),
        "generator_exit": GeneratorExit(),
    }
    if how == "is_cancelled":
        await asyncio.Event().wait()
    if how in raised:
        raise raised[how]


@both_ways
@pytest.mark.parametrize("how", OUTCOMES)
def test_the_outcome_and_the_status_say_how_it_ended(traced_run: TracedRun, spans: Spans, how: str) -> None:
    async def watches() -> None:
        task = asyncio.create_task(end_as(how))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if how == "is_cancelled":
            task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()

    traced_run(watches())
    span = spans.task("end_as")
    outcome, status, error = OUTCOMES[how]
    assert attributes(span)["asyncio.task.outcome"] == outcome
    assert span.status.status_code is status
    assert attributes(span).get("error.type") == error


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_an_exit_is_no_error(traced_run: TracedRun, spans: Spans, kind: type[BaseException]) -> None:
    async def leaves() -> None:
        raise kind

    with pytest.raises(kind):
        traced_run(leaves())
    span = spans.task("leaves")
    assert (attributes(span)["asyncio.task.outcome"], span.status.status_code) == ("exit", StatusCode.UNSET)
    assert span.events == ()


def test_the_exception_is_recorded_as_the_sdk_records_it(traced_run: TracedRun, spans: Spans) -> None:
    async def records() -> None:
        with spans.tracer.start_as_current_span("the SDK's"):
            await fail()

    async def catches() -> None:
        await asyncio.gather(fail(), records(), return_exceptions=True)

    traced_run(catches())
    ours, theirs = spans.task("fail"), spans.named("the SDK's")
    seen = [{key: value for key, value in (span.events[0].attributes or {}).items()} for span in (ours, theirs)]
    stacks = [str(event.pop("exception.stacktrace")) for event in seen]
    assert seen[0] == seen[1]
    assert all("Mine: as asked" in stack for stack in stacks)
    assert (ours.status.status_code, ours.status.description) == (theirs.status.status_code, theirs.status.description)


def test_the_exception_is_at_the_end_of_the_span(traced_run: TracedRun, spans: Spans) -> None:
    async def catches() -> None:
        await asyncio.gather(fail(), return_exceptions=True)

    traced_run(catches())
    span = spans.task("fail")
    assert [event.timestamp for event in span.events] == [span.end_time]


@both_ways
def test_a_task_alive_when_its_loop_closes_is_pending(traced_run: TracedRun, spans: Spans) -> None:
    async def for_ever() -> None:
        await asyncio.Event().wait()

    held: list[Any] = []

    async def leaves() -> None:
        held.append(asyncio.create_task(for_ever()))
        await asyncio.sleep(0)
        held[0]._log_destroy_pending = False

    def close_with_it() -> None:
        loop = traced_run.loop_with(traced_run.factory())()
        loop.run_until_complete(leaves())
        loop.close()

    _traced(traced_run, spans, close_with_it)
    held.clear()
    span = spans.task("for_ever")
    assert (attributes(span)["asyncio.task.outcome"], span.status.status_code) == ("pending", StatusCode.UNSET)


@both_ways
def test_a_destroyed_task_says_so(traced_run: TracedRun, spans: Spans) -> None:
    async def for_ever() -> None:
        await asyncio.get_running_loop().create_future()

    async def forgets() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        asyncio.create_task(for_ever())  # noqa: RUF006 - that nobody holds it is the point
        await asyncio.sleep(0)
        gc.collect()
        await asyncio.sleep(0)

    traced_run(forgets())
    seen = attributes(spans.task("for_ever"))
    assert (seen["asyncio.task.outcome"], seen["asyncio.problem"]) == ("destroyed", "task_destroyed_pending")
