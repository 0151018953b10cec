"""Tasks that wait for each other: told once, and all of the circle named."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from harness import NewLoop, Spans, instrumented, parent_id, run_on, span_id
from test_stuck import AFTER, end, stuck, until


@pytest.fixture
def run_with(new_loop: NewLoop, spans: Spans) -> Any:
    def run(main: Any, **settings: Any) -> Any:
        with instrumented(spans, **({"stuck_after": AFTER} | settings)):
            return run_on(new_loop, main())

    return run


async def transfer(first: asyncio.Lock, second: asyncio.Lock) -> None:
    async with first:
        await asyncio.sleep(0)
        async with second:
            pass


async def report(first: asyncio.Lock, second: asyncio.Lock) -> None:
    await transfer(first, second)


async def seen(spans: Spans, *tasks: asyncio.Task[Any]) -> None:
    """It is told, and nothing more follows."""
    await until(lambda: stuck(spans))
    await asyncio.sleep(8 * AFTER)
    await end(*tasks)


def cycle_of(spans: Spans) -> tuple[Any, tuple[str, ...]]:
    (span,) = stuck(spans)
    assert span.name == "asyncio.deadlock"
    assert span.attributes["asyncio.problem"] == "deadlock"
    return span, span.attributes["asyncio.deadlock.cycle"]


def test_two_locks_in_two_orders_are_named_whole(run_with: Any, spans: Spans, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        a, b = asyncio.Lock(), asyncio.Lock()
        await seen(spans, asyncio.create_task(transfer(a, b)), asyncio.create_task(report(b, a)))

    run_with(main)
    span, cycle = cycle_of(spans)
    line = transfer.__code__.co_firstlineno
    place = f"{__file__}:"
    assert sorted(cycle) == [
        f"task report waits at {place}{line + 3} for Lock held by task transfer since {place}{line + 1}",
        f"task transfer waits at {place}{line + 3} for Lock held by task report since {place}{line + 1}",
    ]
    assert span.attributes["code.line.number"] == line + 3
    assert span.attributes["asyncio.resource.type"] == "Lock"
    assert {link.attributes["asyncio.link.type"] for link in span.links} == {"holder"}
    assert parent_id(span) == span_id(spans.task("report"))
    assert len([record for record in caplog.records if "deadlock: 2 tasks wait for each other" in record.message]) == 1


def test_three_in_a_circle(run_with: Any, spans: Spans) -> None:
    async def main() -> None:
        locks = [asyncio.Lock() for _ in range(3)]
        pairs = zip(locks, locks[1:] + locks[:1], strict=True)
        with spans.tracer.start_as_current_span("request"):
            tasks = [asyncio.create_task(transfer(*pair)) for pair in pairs]
        await seen(spans, *tasks)

    run_with(main)
    assert len(cycle_of(spans)[1]) == 3


def test_a_lock_held_by_a_task_that_awaits_the_one_that_wants_it(run_with: Any, spans: Spans) -> None:
    async def wants(lock: asyncio.Lock) -> None:
        async with lock:
            pass

    async def holds(lock: asyncio.Lock) -> None:
        async with lock:
            await asyncio.gather(wants(lock))

    async def main() -> None:
        await seen(spans, asyncio.create_task(holds(asyncio.Lock())))

    run_with(main)
    _, cycle = cycle_of(spans)
    assert any("for task" in line and "wants" in line for line in cycle)
    assert any("Lock held by task" in line and "holds" in line for line in cycle)


def test_a_lock_that_is_taken_twice_by_one_task(run_with: Any, spans: Spans) -> None:
    async def main() -> None:
        lock = asyncio.Lock()
        await seen(spans, asyncio.create_task(transfer(lock, lock)))

    run_with(main)
    assert len(cycle_of(spans)[1]) == 1


def test_a_circle_that_a_deadline_will_open_is_none(run_with: Any, spans: Spans) -> None:
    async def main() -> None:
        a, b = asyncio.Lock(), asyncio.Lock()
        tasks = [
            asyncio.create_task(asyncio.wait_for(transfer(a, b), 60)),
            asyncio.create_task(transfer(b, a)),
        ]
        await asyncio.sleep(10 * AFTER)
        await end(*tasks)

    run_with(main)
    assert stuck(spans) == []


def test_locks_taken_in_one_order_are_no_circle(run_with: Any, spans: Spans) -> None:
    async def works(a: asyncio.Lock, b: asyncio.Lock) -> None:
        async with a, b:
            await asyncio.sleep(AFTER / 4)

    async def main() -> None:
        a, b = asyncio.Lock(), asyncio.Lock()
        with spans.tracer.start_as_current_span("request"):
            tasks = [asyncio.create_task(works(a, b)) for _ in range(30)]
        await asyncio.gather(*tasks)

    run_with(main)
    assert stuck(spans) == []
