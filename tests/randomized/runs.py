"""One program, run bare, watched by the witness, and traced: what is compared."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from otel_asyncio.testing import Recorder, record
from randomized.programs import Block, coroutine, outcome
from randomized.world import Event, Facts, ScriptedLoop, WitnessLoop, World, overheard

_ROUNDS = 60  # each cancels everything once; a program catches a cancellation as often as it says `Try`


@dataclass(frozen=True)
class Mode:
    """How a program is run."""

    eager: bool = False
    debug: bool = False
    abandon: bool = False
    """Whether the loop is closed over tasks that are pending; else they are cancelled first."""

    def factory(self) -> Any:
        return getattr(asyncio, "eager_task_factory") if self.eager else None  # noqa: B009 - not in 3.11


@dataclass
class Run:
    """What came of it."""

    history: list[Event]
    late: Counter[str]
    """What was said after the loop was closed, where order is the collector's business."""

    iterations: int
    facts: list[Facts]
    recorder: Recorder | None = None
    started: int = 0
    ended: Counter[str] = field(default_factory=Counter)


def run(program: Block, mode: Mode, loop_class: type[ScriptedLoop] = ScriptedLoop, way_in: str = "bare") -> Run:
    """Run a program from its first task to the loop's end, and collect the rubbish."""
    world = World(loop_class, factory=mode.eager or "factory" in way_in, debug=mode.debug)
    world.loop.set_task_factory(stock_factory if way_in == "stock factory" else mode.factory())
    with _traced(world, mode, way_in) as (recorder, counters), overheard(world):
        _drive(world, program, mode)
        result = Run(world.history, Counter(), world.loop.iterations, world.created, recorder)
        seen = len(world.history)
        asyncio.set_event_loop(None)
        world.let_go()
        gc.collect()
        result.late = Counter(repr(event[2:]) for event in world.history[seen:] if event[0] != "log")
        del world.history[seen:]
        if counters is not None:
            result.started, result.ended = counters().started, counters().ended
    return result


def bare(program: Block, mode: Mode, way_in: str) -> Run:
    """The program as it is; to compare with a traced factory, on a factory that makes asyncio's own tasks.

    Up to 3.13.2 a factory is not told the name of a task: each gets a number of its own, and then its name.
    """
    return run(program, mode, way_in="stock factory" if way_in == "factory" and not mode.eager else "bare")


def stock_factory(loop: Any, coro: Any, **options: Any) -> Any:
    """What asyncio does without a factory."""
    return asyncio.Task(coro, loop=loop, **options)


def watched(program: Block, mode: Mode) -> Run:
    """The program, and the facts of its tasks by a way of its own."""
    return run(program, mode, WitnessLoop)


@contextmanager
def _traced(world: World, mode: Mode, way_in: str) -> Iterator[tuple[Recorder | None, Callable[[], Any] | None]]:
    if way_in in ("bare", "stock factory"):
        yield None, None
        return
    with record(clock=world.loop.clock, process_wide=way_in == "instrumentor") as recorder:
        if way_in == "factory":
            world.loop.set_task_factory(recorder.task_factory(mode.factory()))
        loop: Any = world.loop
        yield recorder, lambda: loop._otel_asyncio.observation.counters


def _drive(world: World, program: Block, mode: Mode) -> None:
    """Run main, then what it left, and close the loop."""
    loop = world.loop
    asyncio.set_event_loop(loop)
    main: Any = loop.create_task(coroutine(world, program), name="main")
    _go_on(world, [main])
    for _ in range(_ROUNDS):
        pending = [task for task, _ in world.alive() if not task.done()]
        if not pending or (mode.abandon and main.done()):
            break
        for task in pending:
            task.cancel("the end")
        _go_on(world, pending)
    for task, _ in world.alive():
        name, state = world.task_name(task), outcome(task) if task.done() else "pending"
        world.history.append(("finally", name, state, task.cancelling()))
    task = main = None
    loop.close()


def _go_on(world: World, tasks: list[Any]) -> None:
    """Run until these are done, whatever comes through the loop, or until nothing moves any more."""
    while not all(task.done() for task in tasks):
        everything = asyncio.gather(*tasks, return_exceptions=True)
        try:
            world.loop.run_until_complete(everything)
        except (SystemExit, KeyboardInterrupt) as error:
            world.log("driver", type(error).__name__)
        except RuntimeError as error:
            world.log("driver", world.stable(str(error)))
            return
