"""More and more tasks: told of a line where one task makes them faster than they end, and of nothing that is healthy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from harness import Spans, attributes, instrumented, parent_id, run_on, span_id

from otel_asyncio import AsyncioInstrumentor
from otel_asyncio.observe.growth import Counting

SOURCE = Path(__file__).read_text(encoding="utf-8").splitlines()
NAME = "asyncio.task_growth"
SECOND = 1_000_000_000
PACE = 5 * SECOND
LOOKS = 7


class Connection:
    def __init__(self) -> None:
        self._answer = asyncio.get_running_loop().create_future()

    async def read(self) -> Any:
        return await self._answer


async def queues(pool: asyncio.Semaphore) -> None:
    await pool.acquire()


async def listens(_: asyncio.Semaphore) -> None:
    await Connection().read()


async def sleeps(_: asyncio.Semaphore) -> None:
    await asyncio.sleep(3600)


async def stop(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def counting() -> Counting:
    """That of the loop that runs here, which the watchdog leaves alone."""
    observation = AsyncioInstrumentor().observation
    assert observation is not None
    assert observation.growing is not None
    (found,) = [each for each in observation.growing.countings if each.loop() is asyncio.get_running_loop()]
    found._due = 1 << 62
    return found


async def grows(work: Callable[..., Coroutine[Any, Any, Any]], numbers: list[int]) -> None:
    """So many tasks at each look."""
    count, pool, tasks = counting(), asyncio.Semaphore(0), []
    for look, number in enumerate(numbers):
        while len(tasks) < number:
            tasks.append(asyncio.create_task(work(pool)))  # made
        await stop([tasks.pop() for _ in range(len(tasks) - number)] or [asyncio.create_task(asyncio.sleep(0))])
        count.look(look * PACE)
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    await stop(tasks)


async def grows_from_callbacks(numbers: list[int]) -> None:
    """As connections do that a server accepts."""
    count, pool, tasks = counting(), asyncio.Semaphore(0), []
    loop = asyncio.get_running_loop()

    def accept() -> None:
        tasks.append(loop.create_task(queues(pool)))

    for look, number in enumerate(numbers):
        for _ in range(number - len(tasks)):
            loop.call_soon(accept)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        count.look(look * PACE)
    await asyncio.sleep(0)
    await stop(tasks)


def told(spans: Spans) -> list[Any]:
    return [span for span in spans.all() if span.name == NAME]


RISING = [1_000 + 200 * look for look in range(LOOKS)]


def test_it_is_told_with_the_line_the_number_and_the_rate(new_loop: Any, spans: Spans) -> None:
    with instrumented(spans):
        run_on(new_loop, grows(queues, RISING))
    (problem,) = told(spans)
    facts = attributes(problem)
    assert facts["asyncio.problem"] == "task_growth"
    assert facts["asyncio.growth.live"] == RISING[-1]
    assert facts["asyncio.growth.rate"] == pytest.approx(40)
    assert SOURCE[facts["code.line.number"] - 1].endswith("# made")
    assert parent_id(problem) == span_id(spans.task("grows"))
    assert problem.end_time - problem.start_time == 6 * PACE


def test_it_is_told_again_when_there_are_twice_as_many(new_loop: Any, spans: Spans) -> None:
    with instrumented(spans):
        run_on(new_loop, grows(queues, [1_000 + 200 * look for look in range(18)]))
    assert [attributes(span)["asyncio.growth.live"] for span in told(spans)] == [2_200, 4_400]


@pytest.mark.parametrize(
    "numbers",
    (
        [2_000] * LOOKS,
        [100 + 100 * look for look in range(LOOKS)],
        [2_000 + 100 * look for look in range(LOOKS)],
        [1_000, 1_300, 1_600, 1_500, 1_900, 2_200, 2_500],
        [2_500 - 200 * look for look in range(LOOKS)],
    ),
    ids=("many, and no more", "few", "not twice as many", "one less at one look", "less and less"),
)
def test_other_numbers_are_no_problem(new_loop: Any, spans: Spans, numbers: list[int]) -> None:
    with instrumented(spans):
        run_on(new_loop, grows(queues, numbers))
    assert told(spans) == []


@pytest.mark.parametrize("work", (listens, sleeps))
def test_who_waits_for_a_peer_or_sleeps_is_no_problem(new_loop: Any, spans: Spans, work: Any) -> None:
    with instrumented(spans):
        run_on(new_loop, grows(work, RISING))
    assert told(spans) == []


def test_what_no_task_has_made_is_no_problem(new_loop: Any, spans: Spans) -> None:
    with instrumented(spans):
        run_on(new_loop, grows_from_callbacks(RISING))
    assert told(spans) == []


def test_without_stuck_after_nobody_counts(new_loop: Any, spans: Spans) -> None:
    with instrumented(spans, stuck_after=float("inf")) as instrumentor:
        run_on(new_loop, asyncio.sleep(0))
        assert instrumentor.observation is not None
        assert instrumentor.observation.growing is None
