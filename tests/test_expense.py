"""What the instrumentation says it takes: counts times what the same hooks took on a stage, and nothing of it shows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from harness import NewLoop, Spans, run_on
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from test_metrics import OF_THE_RUNNER, Meters, metered

from otel_asyncio.emit.scenes import scenes
from otel_asyncio.observe import rehearsal
from otel_asyncio.observe.clock import SYSTEM_CLOCK
from otel_asyncio.observe.rehearsal import Costs, cost_of_a_turn, rehearse
from otel_asyncio.observe.watchdog import the_watchdog
from otel_asyncio.policy import Policy
from otel_asyncio.settings import Settings

TASKS, STEPS = 20, 3
RECORDED, GLIMPSED, COUNTED = Costs(1e9, 1e6), Costs(2e9, 2e6), Costs(4e9, 4e6)
"""A second, two, four for a task; a thousandth of it for each further step."""


@pytest.fixture
def meters() -> Iterator[Meters]:
    meters = Meters()
    yield meters
    meters.provider.shutdown()


@pytest.fixture
def agreed_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "rehearse", lambda *_: [RECORDED, GLIMPSED, COUNTED])
    monkeypatch.setattr(rehearsal, "cost_of_a_turn", lambda *_: 0.0)
    monkeypatch.setattr(the_watchdog(), "cpu_time", 0)


async def steps() -> None:
    for _ in range(STEPS):
        await asyncio.sleep(0)


async def some_tasks() -> None:
    for _ in range(TASKS):
        await asyncio.create_task(steps())


def spent(meters: Meters) -> float:
    value: float = meters.values("asyncio.instrumentation.time")[()]
    return value


def test_recorded_tasks_and_their_steps_are_paid_for(
    meters: Meters, spans: Spans, new_loop: NewLoop, agreed_costs: None
) -> None:
    with metered(meters, spans, block_threshold=float("inf"), stuck_after=float("inf")):
        with spans.tracer.start_as_current_span("request"):
            run_on(new_loop, some_tasks())
        tasks = 1 + TASKS
        further_steps = TASKS * STEPS + TASKS  # main is woken by each of them
        of_the_runner = OF_THE_RUNNER * GLIMPSED.task
        assert spent(meters) == pytest.approx((tasks * 1e9 + further_steps * 1e6 + of_the_runner) / 1e9)


def test_tasks_without_a_span_are_paid_for_with_their_glimpses(
    meters: Meters, new_loop: NewLoop, agreed_costs: None
) -> None:
    spans = Spans(sampler=ALWAYS_OFF)
    with metered(meters, spans, block_threshold=float("inf"), stuck_after=float("inf")):
        with spans.tracer.start_as_current_span("request"):
            run_on(new_loop, some_tasks())
        assert spent(meters) == pytest.approx((1 + TASKS + OF_THE_RUNNER) * 2, abs=1)


def test_it_goes_on_where_it_was(meters: Meters, spans: Spans, new_loop: NewLoop, agreed_costs: None) -> None:
    with metered(meters, spans, block_threshold=float("inf"), stuck_after=float("inf")):
        run_on(new_loop, some_tasks())
        once = spent(meters)
        assert spent(meters) == once
        run_on(new_loop, some_tasks())
        assert spent(meters) == pytest.approx(2 * once)
    assert spent(meters) == pytest.approx(2 * once)


def test_inside_a_running_loop_nothing_is_rehearsed_and_nothing_forgotten(
    meters: Meters, spans: Spans, new_loop: NewLoop, agreed_costs: None
) -> None:
    async def collect_meanwhile() -> float:
        await some_tasks()
        return spent(meters)

    with metered(meters, spans, block_threshold=float("inf"), stuck_after=float("inf")):
        assert run_on(new_loop, collect_meanwhile()) == 0
        assert spent(meters) > TASKS


def test_a_rehearsal_finds_that_spans_take_more_than_counting() -> None:
    recorded, glimpsed, counted = rehearse(scenes(Policy(Settings())), SYSTEM_CLOCK)
    assert min(recorded.task, glimpsed.task) > counted.task >= 0  # a glimpse is Python's, also where spans are C's
    assert cost_of_a_turn(SYSTEM_CLOCK) > 0


def test_a_rehearsal_does_not_show(meters: Meters, spans: Spans, new_loop: NewLoop) -> None:
    async def name_and_loop() -> tuple[int, Any]:
        task = asyncio.create_task(asyncio.sleep(0))
        await task
        return int(task.get_name().removeprefix("Task-")), asyncio.get_running_loop()._otel_asyncio.id  # type: ignore[attr-defined]

    with metered(meters, spans):
        before, loop_before = run_on(new_loop, name_and_loop())
        emitted, counted = spans.names(), meters.values("asyncio.task.started")
        rehearse(scenes(Policy(Settings())), SYSTEM_CLOCK)
        assert (spans.names(), meters.values("asyncio.task.started")) == (emitted, counted)
        assert asyncio._get_running_loop() is None
        after, loop_after = run_on(new_loop, name_and_loop())
    assert after - before == 2 + OF_THE_RUNNER
    assert loop_after == loop_before
