"""What our hooks take: a few tasks are run through them on a stage, beside the same tasks without them.

To time the hooks where they work would cost each step as much as the hooks do. The stage is a loop that has nothing but
its queue, run to its end in the thread of whoever asks, whose processor time is read before and after.
"""

from __future__ import annotations

import asyncio
import time
from asyncio import base_events
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_asyncio.observe.counters import Counters, LoopName, Shard
from otel_asyncio.observe.hotpath import make_call_soon, make_create_task
from otel_asyncio.observe.looptime import time_selector
from otel_asyncio.observe.observation import Observation
from otel_asyncio.observe.observer import Guard

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from otel_asyncio.observe.clock import Clock
    from otel_asyncio.observe.observer import Sink

_NAME = "otel_asyncio rehearsal"  # a name that is given is not counted: the program's next task stays Task-N
_TASKS, _STEPS, _ROUNDS = 8, 8, range(5)
_TURNS = 200
_AGAIN = 60 * 10**9
"""Nanoseconds after which the costs are taken anew: a machine is not always as quick."""
_STOCK = {name: vars(base_events.BaseEventLoop)[name] for name in ("create_task", "call_soon", "close")}


class Costs(NamedTuple):
    """Nanoseconds: of a task with its first step, and of each further step."""

    task: float
    step: float


class Scene(NamedTuple):
    """How tasks are recorded, or not, on the stage."""

    sink: Sink
    inside_a_span: Callable[[Callable[[], int]], int]
    """Runs a function inside a span of the scene's own."""
    metered: bool


class Expense:
    """The time that our hooks have taken on the loops of one installation: counts times costs, into `Counters.spent`.

    `scenes` makes one for each kind of `Counters.worked`: recorded tasks, those with a glimpse, those only counted.
    """

    def __init__(self, counters: Counters, clock: Clock, scenes: Callable[[], Sequence[Scene]]) -> None:
        self._counters, self._clock, self._scenes = counters, clock, scenes
        self._costs: list[Costs] = []
        self._turn = 0.0
        self._taken = 0
        self._worked, self._turns = counters.worked(), 0
        self._guard = Guard("rehearsal")

    def update(self) -> None:
        """Count what has come since. Not where a loop runs in this thread: then it is done the next time."""
        if asyncio._get_running_loop() is None:
            self._guard.run(self._update)

    def _update(self) -> None:
        now = self._clock.monotonic_ns()
        if not self._costs or now - self._taken >= _AGAIN:
            self._costs = rehearse(self._scenes(), self._clock)
            self._turn = cost_of_a_turn(self._clock)
            self._taken = now
        worked, turns = self._counters.worked(), self._counters.turns
        spent = (turns - self._turns) * self._turn
        for costs, late, early in zip(self._costs, worked, self._worked, strict=True):
            tasks, steps = max(0, late.tasks - early.tasks), max(0, late.steps - early.steps)
            spent += tasks * costs.task + max(0, steps - tasks) * costs.step
        self._counters.spent += round(spent)
        self._worked, self._turns = worked, turns


def rehearse(scenes: Sequence[Scene], clock: Clock) -> list[Costs]:
    """What the hooks of each scene add to a task.

    The scenes take turns, because a machine is not always as quick; the shortest of some rounds counts, because
    whatever else happens in between, a garbage collection for one, makes it longer.
    """
    stages = [_stage(None, clock), *(_stage(scene, clock) for scene in scenes)]
    try:
        rounds = [[_costs(stage, scene) for stage, scene in zip(stages, (None, *scenes), strict=True)] for _ in _ROUNDS]
    finally:
        for stage in stages:
            stage.close()
    bare, *watched = ([min(each) for each in zip(*stage, strict=True)] for stage in zip(*rounds, strict=True))
    return [Costs(*(max(0.0, added(of) - added(bare)) for added in (_first, _further))) for of in watched]


def _first(times: Sequence[int]) -> float:
    return times[0] / _TASKS


def _further(times: Sequence[int]) -> float:
    return (times[1] - times[0]) / _TASKS / _STEPS


def _costs(stage: Any, scene: Scene | None) -> tuple[int, int]:
    """The time of all tasks without a further step, and with some; in a context that has nothing of the caller's."""

    def once(steps: int) -> int:
        play = partial(_run, stage, _play(stage, steps))
        return Context().run(play if scene is None else partial(scene.inside_a_span, play))

    return once(0), once(_STEPS)


def _stage(scene: Scene | None, clock: Clock) -> Any:
    hooks = dict(_STOCK)
    if scene is not None:
        metered = partial(bool, scene.metered)
        observation = Observation(scene.sink, clock, Counters(), process_wide=False, is_metered=metered)
        observation.on_stage = True
        hooks["create_task"] = make_create_task(observation, _STOCK["create_task"])
        hooks["call_soon"] = make_call_soon(observation, _STOCK["call_soon"])
    stage = type("Stage", (base_events.BaseEventLoop,), hooks)()
    stage.set_debug(False)
    return stage


async def _play(stage: Any, steps: int) -> None:
    for _ in range(_TASKS):
        await stage.create_task(_part(steps), name=_NAME)


async def _part(steps: int) -> None:
    for _ in range(steps):
        await asyncio.sleep(0)


def _run(stage: Any, play: Any) -> int:
    """Until nobody has anything left to do. Returns the nanoseconds of this thread."""
    asyncio._set_running_loop(stage)
    try:
        began = time.thread_time_ns()
        stage.create_task(play, name=_NAME)
        ready = stage._ready
        while ready:
            ready.popleft()._run()
        return time.thread_time_ns() - began
    finally:
        asyncio._set_running_loop(None)


class _Selector:
    """Has nothing to wait for."""

    def select(self, timeout: float | None = None) -> list[Any]:
        return []


def cost_of_a_turn(clock: Clock) -> float:
    """Nanoseconds that it adds to a turn of a loop to time its selector."""
    stage = _stage(None, clock)
    stage._selector = selector = _Selector()
    bare = min(_turns(selector) for _ in _ROUNDS)
    undo = time_selector(stage, Shard(LoopName(-1, "asyncio")), clock.monotonic_ns)
    watched = min(_turns(selector) for _ in _ROUNDS)
    undo()
    stage.close()
    return max(0.0, (watched - bare) / _TURNS)


def _turns(selector: _Selector) -> int:
    began = time.thread_time_ns()
    for _ in range(_TURNS):
        selector.select(0)
    return time.thread_time_ns() - began
