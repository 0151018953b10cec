"""One program, run bare, watched by the witness, and traced: what is compared."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan

from otel_asyncio import Settings
from otel_asyncio.emit import names
from otel_asyncio.testing import Recorder, record
from randomized.facts import Facts
from randomized.programs import Block, coroutine, outcome
from randomized.witness import WitnessLoop
from randomized.world import Chronicle, Event, Scripted, ScriptedLoop, World, overheard

# The programs sleep for milliseconds: every wait that takes any time at all becomes a span.
# Nothing looks from outside: a look holds a loop, or a task, for a moment longer than the program does.
SETTINGS = Settings(await_threshold=0.001, block_threshold=math.inf, stuck_after=math.inf)
_IDENTITY = re.compile(r'(0x|\bTask-|"asyncio\.(?:task|eventloop)\.id": )([0-9a-f]+)')
_ROUNDS = 60  # each cancels everything once; a program catches a cancellation as often as it says `Try`


@dataclass(frozen=True)
class Mode:
    """How a program is run."""

    eager: bool = False
    debug: bool = False
    uvloop: bool = False
    abandon: bool = False
    """Whether the loop is closed over tasks that are pending; else they are cancelled first."""

    def loop_class(self) -> type[Scripted]:
        """The loop on virtual time that it asks for."""
        if not self.uvloop:
            return ScriptedLoop
        from randomized.uvloops import ScriptedUvloop

        return ScriptedUvloop

    def factory(self) -> Any:
        return getattr(asyncio, "eager_task_factory") if self.eager else None  # noqa: B009 - not in 3.11


@dataclass
class Run:
    """What came of it."""

    history: list[Event]
    late: Counter[str]
    """What was said after the loop was closed, where order is the collector's business."""

    iterations: int
    """Turns of the loop; on uvloop, what was announced to it."""

    facts: list[Facts]
    recorder: Recorder | None = None
    started: int = 0
    ended: Counter[str] = field(default_factory=Counter)


def run(program: Block, mode: Mode, loop_class: type[Scripted] | None = None, way_in: str = "bare") -> Run:
    """Run a program from its first task to the loop's end, and collect the rubbish."""
    chronicle = Chronicle(factory=mode.eager or "factory" in way_in, uvloop=mode.uvloop)
    gc.freeze()  # the collection at the end has only this run to look through
    loop: Any = (loop_class or mode.loop_class())()
    with _traced(loop, mode, way_in) as recorder, overheard(chronicle):
        world = World(loop, chronicle, debug=mode.debug)
        _drive(world, program, mode)
        result = Run(chronicle.events[:], Counter(), loop.iterations, world.created, recorder)
        state: Any = getattr(loop, "_otel_asyncio", None)
        counters = state and state.observation.counters
        asyncio.set_event_loop(None)
        del world, loop, state
        gc.collect()
        late = chronicle.events[len(result.history) :]
        result.late = Counter(repr(event[2:]) for event in late if event[0] != "log")
        if counters is not None:
            result.started, result.ended = counters.started, counters.ended
    return result


def bare(program: Block, mode: Mode, way_in: str) -> Run:
    """The program as it is; to compare with a traced factory, on a factory that makes asyncio's own tasks.

    Up to 3.13.2 a factory is not told the name of a task: each gets a number of its own, and then its name.
    """
    return run(program, mode, way_in="stock factory" if way_in == "factory" and not mode.eager else "bare")


@dataclass(frozen=True)
class Account:
    """What came of a run, as another process can be told."""

    history: list[Event]
    late: Counter[str]
    iterations: int
    facts: list[Any]
    started: int
    ended: Counter[str]


def account(program: Block, mode: Mode, way_in: str) -> Account:
    """Run a program with tracing, in the flavour of this process."""
    return _told(run(program, mode, way_in=way_in))


def bare_account(program: Block, mode: Mode, way_in: str) -> Account:
    """Run it as it is."""
    return _told(bare(program, mode, way_in))


def _told(run: Run) -> Account:
    facts = _facts(run.recorder.spans) if run.recorder else []
    return Account(run.history, run.late, run.iterations, facts, run.started, +run.ended)


def _facts(spans: Sequence[ReadableSpan]) -> list[Any]:
    """Everything that the spans say, with numbers for ids, tasks and loops: each process has its own.

    In the order in which the tasks were made: which of those that end together comes first, and which of several that
    are awaited at once is linked first, is decided by addresses.
    """
    made = {span.context.span_id: (span.attributes or {}).get(names.TASK_ID, 0) for span in spans}

    def place(span: ReadableSpan) -> tuple[Any, ...]:
        task = made[span.context.span_id] or made.get(span.parent.span_id if span.parent else 0, 0)
        return task, span.start_time, span.end_time, span.name, _IDENTITY.sub("", span.to_json())

    def number(found: re.Match[str]) -> str:
        return f"{found[1]}{numbers.setdefault(found[0], len(numbers))}"

    ordered = sorted(spans, key=place)
    numbers = {f"0x{span.context.span_id:016x}": place for place, span in enumerate(ordered)}
    facts = [json.loads(_IDENTITY.sub(number, span.to_json())) for span in ordered]
    for said in facts:
        said["links"].sort(key=repr)
    return facts


def stock_factory(loop: Any, coro: Any, **options: Any) -> Any:
    """What asyncio does without a factory."""
    return asyncio.Task(coro, loop=loop, **options)


def watched(program: Block, mode: Mode) -> Run:
    """The program, and the facts of its tasks by a way of its own."""
    return run(program, mode, WitnessLoop)


@contextmanager
def _traced(loop: Any, mode: Mode, way_in: str) -> Iterator[Recorder | None]:
    loop.set_task_factory(stock_factory if way_in == "stock factory" else mode.factory())
    tracing = way_in in ("instrumentor", "factory")
    with (
        record(settings=SETTINGS, clock=loop.clock, process_wide=way_in == "instrumentor")
        if tracing
        else nullcontext() as recorder
    ):
        if recorder is not None and way_in == "factory":
            loop.set_task_factory(recorder.task_factory(mode.factory()))
        del loop  # that it goes, and what goes with it, is looked at while still tracing
        yield recorder


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
        world.chronicle.events.append(("finally", name, state, task.cancelling()))
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
            world.log("driver", world.chronicle.stable(str(error)))
            return
