"""What joins a burst, and what does not: whatever differs from the first is looked at as if it were alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Any

import pytest
from harness import Spans, instrumented

from cancellation.test_storms import cancels, told
from cancellation.ways import line_of
from otel_asyncio import AsyncioInstrumentor

MANY = 120
"""More than are looked at closely of one line in a second."""


async def wait() -> None:
    await asyncio.Event().wait()


async def started(count: int = MANY, what: Any = wait) -> list[Any]:
    tasks = [asyncio.create_task(what()) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


def ask(tasks: Iterable[Any]) -> list[bool]:
    return [task.cancel() for task in tasks]  # ask


async def all_alike(others: list[Any]) -> None:
    """Nothing is different."""
    ask([*await started(), *others])


async def made_by_somebody_else(others: list[Any]) -> None:
    ask([*await started(), *await asyncio.create_task(started(7)), *others])


async def in_the_next_step(others: list[Any]) -> None:
    ask(await started())
    await asyncio.sleep(0)
    ask(others)


async def not_begun(others: list[Any]) -> None:
    ask([*await started(), *(asyncio.create_task(wait()) for _ in range(7)), *others])


async def already_done(others: list[Any]) -> None:
    done = await started(7, partial(asyncio.sleep, 0))
    await asyncio.wait(done)
    assert ask([*await started(), *done, *others]) == [True] * MANY + [False] * 7 + [True] * len(others)


async def itself(others: list[Any]) -> None:
    tasks = await started()
    try:
        ask([*tasks, asyncio.current_task(), *others])
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        asyncio.current_task().uncancel()  # type: ignore[union-attr]


async def while_it_is_cancelled_itself(others: list[Any]) -> None:
    tasks, me = await started(), asyncio.current_task()
    assert me is not None
    ask(tasks)
    me.cancel()
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        ask(others)
        me.uncancel()


async def in_the_midst_of_its_own(others: list[Any]) -> None:
    tasks, me = await started(MANY + 7), asyncio.current_task()
    assert me is not None
    ask(tasks[:MANY])
    me.cancel()
    try:
        raise asyncio.CancelledError
    except asyncio.CancelledError:
        ask([*tasks[MANY:], *others])
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)  # before 3.13 to take it back does not keep it from coming
        me.uncancel()


async def while_it_deals_with_an_error(others: list[Any]) -> None:
    ask(await started())
    try:
        raise LookupError
    except LookupError:
        ask(others)


async def from_a_callback(others: list[Any]) -> None:
    tasks, loop = await started(), asyncio.get_running_loop()
    loop.call_soon(ask, tasks)
    loop.call_soon(ask, others)
    await asyncio.sleep(0)


async def yields_once(others: list[Any]) -> None:
    async def cleans_up() -> None:
        try:
            await wait()
        finally:
            await asyncio.sleep(0)

    async def stops() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await wait()
        await asyncio.sleep(0)

    tasks = [*await started(), *await started(7, cleans_up), *await started(7, stops)]
    ask([*tasks, *others])
    await asyncio.wait(tasks)


async def through_another(others: list[Any]) -> None:
    async def waits_for(task: Any) -> None:
        await task

    above = [asyncio.create_task(waits_for(task)) for task in others]
    ask([*await started(), *above])
    await asyncio.wait(above)


DELIVERED = ("explicit", "delivered")
SITUATIONS: dict[Any, dict[tuple[str, str, bool], int]] = {
    all_alike: {(*DELIVERED, True): MANY, (*DELIVERED, False): 5},
    made_by_somebody_else: {(*DELIVERED, True): MANY, (*DELIVERED, False): 12},
    in_the_next_step: {(*DELIVERED, True): MANY, (*DELIVERED, False): 5},
    not_begun: {(*DELIVERED, True): MANY + 7, (*DELIVERED, False): 5},
    already_done: {(*DELIVERED, True): MANY, (*DELIVERED, False): 5},
    itself: {(*DELIVERED, True): MANY, (*DELIVERED, False): 5, ("explicit", "converted", False): 1},
    while_it_is_cancelled_itself: {
        (*DELIVERED, True): MANY, (*DELIVERED, False): 5, ("explicit", "converted", False): 1,
    },
    in_the_midst_of_its_own: {
        (*DELIVERED, True): MANY, (*DELIVERED, False): 12, ("explicit", "converted", False): 1,
    },
    while_it_deals_with_an_error: {(*DELIVERED, True): MANY, (*DELIVERED, False): 5},
    from_a_callback: {(*DELIVERED, False): MANY + 5},
    yields_once: {
        (*DELIVERED, True): MANY + 7, (*DELIVERED, False): 5, ("explicit", "handled", True): 7,
    },
    through_another: {(*DELIVERED, True): MANY + 5, (*DELIVERED, False): 5},
}  # fmt: skip
every_situation = pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.__name__)


async def program(situation: Any) -> Any:
    """Five tasks of somebody else's are cancelled in this situation, after many of its own."""
    others = [asyncio.create_task(wait()) for _ in range(5)]
    await asyncio.sleep(0)
    await asyncio.create_task(situation(others))
    await asyncio.wait(others)
    await asyncio.sleep(0)
    return [(task.cancelled(), task.cancelling()) for task in others]


@every_situation
def test_what_is_different_is_counted_as_what_it_is(
    run: Any, instrumented_process: AsyncioInstrumentor, spans: Spans, situation: Any
) -> None:
    assert run(program(situation)) == [(True, 1)] * 5
    counted = +instrumented_process.observation.counters.cancellations
    assert counted == SITUATIONS[situation]
    assert told(spans.all()) == sum(count for (_, fate, _), count in counted.items() if fate != "converted")


@every_situation
@pytest.mark.settings(root_tasks="none")
def test_tasks_without_a_span_are_all_counted(
    run: Any, instrumented_process: AsyncioInstrumentor, situation: Any
) -> None:
    assert run(program(situation)) == [(True, 1)] * 5
    counted, expected = +instrumented_process.observation.counters.cancellations, Counter(SITUATIONS[situation])
    assert sorted(fate for _, fate, _ in counted.elements()) == sorted(fate for _, fate, _ in expected.elements())


@pytest.mark.parametrize("how", ["in the same function", "in another one"])
def test_another_line_is_looked_at_closely(
    run: Any, instrumented_process: AsyncioInstrumentor, spans: Spans, how: str
) -> None:
    async def main() -> None:
        tasks = await started(MANY + 3)
        if how == "in another one":
            ask(tasks[:MANY])
        else:
            for task in tasks[:MANY]:
                task.cancel()
        for task in tasks[MANY:]:
            task.cancel()  # elsewhere
        await asyncio.wait(tasks)

    run(main())
    lines = [dict(span.attributes)["asyncio.cancel.by.line"] for span in cancels(spans)]
    assert lines.count(line_of("elsewhere", main)) == 3


@pytest.mark.parametrize("root_tasks", ["all", "none"])
@pytest.mark.parametrize("what", ["uninstrument", "guard"])
def test_whatever_ends_the_observation_ends_the_burst(
    run: Any, spans: Spans, what: str, root_tasks: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> Any:
        tasks = await started(2 * MANY)
        ask(tasks[:MANY])
        if what == "guard":
            instrumentor.observation.cancellations.guard.fail(LookupError("injected"))
        else:
            instrumentor.uninstrument()
        ask(tasks[MANY:])
        await asyncio.wait(tasks)
        return [(task.cancelled(), task.cancelling()) for task in tasks]

    with instrumented(spans, root_tasks=root_tasks) as instrumentor:
        counters = instrumentor.observation.counters
        assert run(main()) == [(True, 1)] * 2 * MANY
    assert counters.cancellations.total() == 0  # none had ended
    assert caplog.text.count("is switched off") == (what == "guard")


@pytest.mark.parametrize("method", ["burst", "closed"])
def test_a_sink_that_fails_is_told_of_no_more(
    run: Any, spans: Spans, method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*facts: Any) -> None:
        raise LookupError("injected")

    async def main() -> Any:
        tasks = await started()
        ask(tasks)
        await asyncio.wait(tasks)
        return [task.cancelled() for task in tasks]

    monkeypatch.setattr(f"otel_asyncio.emit.sink.SpanSink.{method}", fails)
    with instrumented(spans) as instrumentor:
        assert run(main()) == [True] * MANY
        assert instrumentor.observation.ending.failed
    assert caplog.text.count("is switched off") == 1
