"""anyio's scopes and groups: asked again every turn of the loop, and told once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from harness import Spans, TracedRun, attributes, both_ways, links, span_id

from cancellation.ways import line_of


async def victim() -> None:
    await anyio.sleep_forever()  # at


async def fail() -> None:
    await anyio.sleep(0)
    raise LookupError


async def scope_cancelled() -> Any:
    async with anyio.create_task_group() as group:
        group.start_soon(victim)
        await anyio.sleep(0.001)
        group.cancel_scope.cancel()  # by
    return group.cancel_scope.cancelled_caught


async def sibling_failed() -> Any:
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(victim)
            group.start_soon(fail)
    except ExceptionGroup as errors:
        return repr(errors)


async def body_failed() -> Any:
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(victim)
            await anyio.sleep(0.001)
            raise LookupError
    except ExceptionGroup as errors:
        return repr(errors)


async def deadline_around_a_group() -> Any:
    with anyio.move_on_after(0.01) as scope:  # by
        async with anyio.create_task_group() as group:
            group.start_soon(victim)
    return scope.cancelled_caught


async def stubborn_cleanup() -> Any:
    async def victim() -> None:
        try:
            await anyio.sleep_forever()  # at
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.15)

    async with anyio.create_task_group() as group:
        group.start_soon(victim)
        await anyio.sleep(0.001)
        group.cancel_scope.cancel()  # by


async def native() -> Any:
    async def parent() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(victim)

    task = asyncio.create_task(parent())
    await anyio.sleep(0.001)
    task.cancel()  # by
    await asyncio.wait([task])
    return task.cancelled()


SAYS: dict[Any, tuple[str, bool, str | None]] = {
    scope_cancelled: ("cancel_scope", True, "by"),
    sibling_failed: ("task_group", False, None),
    body_failed: ("task_group", False, None),
    deadline_around_a_group: ("timeout", False, "by"),
    stubborn_cleanup: ("cancel_scope", True, "by"),
    native: ("explicit", True, "by"),
}
every_program = pytest.mark.parametrize("program", SAYS, ids=lambda program: program.__name__)


def cancels(spans: Spans) -> list[Any]:
    return [span for span in spans.all() if span.name.startswith("cancel ") and "victim" in span.name]


@every_program
@both_ways
def test_one_span_says_why(traced_run: TracedRun, spans: Spans, program: Any) -> None:
    traced_run(program())
    (span,) = cancels(spans)
    said, (origin, expected, by) = attributes(span), SAYS[program]
    assert (said["asyncio.cancel.origin"], said["asyncio.cancel.expected"]) == (origin, expected)
    assert said["asyncio.cancel.outcome"] == "delivered"
    assert said.get("asyncio.cancel.by.line") == (line_of(by, program) if by else None)
    assert said["asyncio.await.target"] == "anyio.sleep_forever"


async def deadline_around_a_group_with_a_body() -> Any:
    """While the victim takes its time to end, the group's own scope asks the body, too; the outer takes both back."""

    async def victim() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)

    with anyio.move_on_after(0.01) as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(victim)
            await anyio.sleep_forever()
    return scope.cancelled_caught


def test_what_a_scope_takes_back_for_one_within_it_is_no_cancellation(
    run: Any, instrumented_process: Any, spans: Spans
) -> None:
    run(deadline_around_a_group_with_a_body())
    counted = instrumented_process.observation.counters.cancellations
    assert {fate: count for (_, fate, _), count in counted.items()} == {"delivered": 1, "converted": 2}
    assert [span.name.rpartition(".")[2] for span in spans.all() if span.name.startswith("cancel ")] == ["victim"]


@every_program
def test_it_does_the_same(same_as_bare: Callable[..., Any], program: Any) -> None:
    same_as_bare(program)


def test_a_failed_sibling_is_linked(traced_run: TracedRun, spans: Spans) -> None:
    traced_run(sibling_failed())
    (span,) = cancels(spans)
    assert links(span)["sibling_failure"] == span_id(spans.task("fail"))


async def raised() -> Any:
    async def owner() -> None:
        with anyio.fail_after(0.01):  # owner
            await anyio.sleep_forever()

    try:
        await owner()
    except TimeoutError:
        return "somebody else caught it"


async def handled() -> Any:
    async def owner() -> Any:
        try:
            with anyio.fail_after(0.01):  # owner
                await anyio.sleep_forever()
        except TimeoutError:
            return None

    return await owner()


async def moved_on() -> Any:
    async def owner() -> Any:
        with anyio.move_on_after(0.01):  # owner
            await anyio.sleep_forever()

    return await owner()


async def absorbed() -> Any:
    async def owner() -> Any:
        with anyio.move_on_after(0.01):  # owner
            try:
                await anyio.sleep_forever()
            except asyncio.CancelledError:
                pass

    return await owner()


OUTCOMES = {raised: "raised", handled: "handled", moved_on: "handled", absorbed: "absorbed"}
every_deadline = pytest.mark.parametrize("program", OUTCOMES, ids=lambda program: program.__name__)


@every_deadline
@both_ways
def test_a_deadline_is_a_timeout_span(traced_run: TracedRun, spans: Spans, program: Any) -> None:
    traced_run(program())
    (span,) = [span for span in spans.all() if span.name.startswith("timeout ")]
    said = attributes(span)
    assert (said["asyncio.timeout.api"], said["asyncio.timeout.outcome"]) == ("anyio", OUTCOMES[program])
    assert said["code.line.number"] == line_of("owner", program)
    assert 0 <= said["asyncio.timeout.delay"] <= 0.011  # from where it was entered, which a crowded machine puts off
    assert [name for name in spans.names() if name.startswith("cancel ")] == []


@every_deadline
def test_a_deadline_does_the_same(same_as_bare: Callable[..., Any], program: Any) -> None:
    same_as_bare(program)


def test_a_deadline_that_does_not_pass_leaves_nothing(traced_run: TracedRun, spans: Spans) -> None:
    async def main() -> None:
        with anyio.fail_after(60), anyio.move_on_after(60):
            await anyio.sleep(0)

    traced_run(main())
    assert not [name for name in spans.names() if not name.startswith("task ")]
