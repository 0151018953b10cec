"""The compiled hot path: the same makers as in `steps` and `create`, of callables that are written in C (`compiled/`).

A step that runs in C leaves no frame; the loop's cell says meanwhile that it runs (`LoopCell`). Steps that a loop does
not run by itself are Python's: those of eager starts, of tasks that are being cancelled, and of a loop in debug mode.
So is the making of whatever is not a task of a coroutine on a loop without a factory.
"""

from __future__ import annotations

from asyncio import events, tasks
from functools import WRAPPER_ASSIGNMENTS, update_wrapper
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe import bursts, code, create, eager, notices, overrides, records, steps
from otel_asyncio.observe.flavour import extension
from otel_asyncio.observe.glimpses import glimpse
from otel_asyncio.observe.records import PERHAPS_EAGER, Kind, Outcome, TaskRecord
from otel_asyncio.observe.steps import PY_STEPS, STEP_TYPE, STOCK_CALL_SOON
from otel_asyncio.observe.tasks import drop_own_frames, hidden, make_recorded, observed_classes

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_asyncio.observe.cancelling import Cancellations
    from otel_asyncio.observe.observation import Observation
    from otel_asyncio.observe.observer import Guard


_COMPILED = {"cython_function_or_method", "method_descriptor"}

extension.use_handles(events.Handle)


def make_call_soon(observation: Observation, original: Callable[..., Any]) -> Callable[..., Any]:
    """The `call_soon` that announces steps, for a class whose own is `original`."""
    return make_call_soon_of(observation, original, None)


def make_call_soon_of(observation: Observation, original: Callable[..., Any], loop: Any) -> Callable[..., Any]:
    """The same as an attribute of this one loop, which it holds weakly."""
    in_place = {"direct": observation.direct} if original is STOCK_CALL_SOON else {}
    parts = (original, observation.clock.monotonic_ns, observation.adopt, drop_own_frames, STEP_TYPE, *PY_STEPS)
    # A loop that is compiled, as uvloop is, leaves no frame that tells one handle from the next.
    hook = extension.Announcer(*parts, loop=loop, frameless=type(original).__name__ in _COMPILED, **in_place)
    return update_wrapper(hook, original, assigned=WRAPPER_ASSIGNMENTS, updated=())


def make_step(observation: Observation) -> Any:
    """The step of a recorded task."""
    limits = observation.limits
    untold = observation.timeouts.pending, observation.outbox
    return extension.Step(
        steps.make_step(observation),
        observation.finish,
        clock=observation.clock.monotonic_ns,
        waited=observation.waited,
        held=observation.held,
        limits=(min(limits.wait, limits.long), limits.step),
        adopted=Kind.ADOPTED,
        untold=untold,
        closed=observation.sink.closed,
        ending=observation.ending,
        success=Outcome.SUCCESS,
    )


def make_unrecorded_step(observation: Observation) -> Any:
    """The step of a task that gets no span: its end is counted; in C, where it has returned and that is all."""
    untold = observation.timeouts.pending, observation.outbox
    return extension.Step(steps.make_unrecorded_step(observation), observation.finish_unrecorded, untold=untold)


def make_brief_step(cancellations: Cancellations, inner: Any) -> Any:
    """The next step of a task that belongs to a burst; in C, where it ends there or goes on as one of the others."""
    return inner.brief(bursts.make_brief_step(cancellations, inner), cancellations.goes_on, Outcome.CANCELLATION)


def make_create_task(observation: Observation, original: Callable[..., Any]) -> Callable[..., Any]:
    """The `create_task` that makes observed tasks, for a class whose own is `original`."""
    plain = create.make_create_task(observation, original)
    if create.is_wrapped(original):
        return plain
    make = _make_maker(observation, plain, stock=create.has_known_loops(original), factory=False)
    return update_wrapper(make, original, assigned=WRAPPER_ASSIGNMENTS, updated=())


def make_factory(observation: Observation, construct: Callable[..., Any]) -> Callable[..., Any]:
    """A task factory; what is not usual is for `construct`."""
    plain = create.make_factory(observation, construct)
    return update_wrapper(_make_maker(observation, plain, stock=False, factory=True), plain)


def _make_recorded(*parts: Any) -> Any:
    """`make_recorded` for C, with a frame where `create_task` in Python has one: the caller is as many frames up."""
    return make_recorded(*parts)


def _make_maker(observation: Observation, plain: Callable[..., Any], *, stock: bool, factory: bool) -> Any:
    """What makes tasks in the usual case, and else calls `plain`.

    `stock`: whether the attributes of its loops are asyncio's own; `factory`: whether it is called as one.
    """
    return extension.Maker(
        plain=plain,
        observation=observation,
        sink=observation.sink,
        surroundings=observation.sink.surroundings,
        variable=getattr(observation.sink.surroundings, "__self__", None),  # `get` of a context variable, as a rule
        tasks=tasks,
        task=tasks.Task,
        observed=observed_classes[tasks.Task],
        stock=stock,
        factory=factory,
        recorded=_make_recorded,
        glimpse=glimpse,
        hide=hidden,
        recorder=_make_recorder(observation),
        kind=Kind.TASK,
    )


def _make_recorder(observation: Observation) -> Any:
    """What makes records."""
    return extension.Recorder(
        observation=observation,
        clock=observation.clock.monotonic_ns,
        wall=observation.clock.wall_ns,
        record_type=TaskRecord,
        lost=TaskRecord.lost,
        next_id=records.next_id,
        opened=observation.sink.opened,
        infos=code.infos,
        passed=code.passed,
        find_point=code.creation_point,
        get_running_loop=events._get_running_loop,
        current_task=tasks.current_task,
        eager_tasks=PERHAPS_EAGER,
    )


def who_runs(observation: Observation) -> dict[str, Callable[..., Any]]:
    """The methods of the observation that tell which task runs, and take in one that was started past us."""
    recorder = _make_recorder(observation)
    return {
        name: extension.Running(
            name,
            plain=getattr(observation, name),
            recorder=recorder,
            kind=Kind.EAGER,
            stock=overrides.STOCK,
            watched=overrides.OfTheInstance,
            first_step=None if eager.ENDS_ARE_TOLD else eager.take_in_first_step,
        )
        for name in ("running_record", "make_sure_of_running")
    }


def make_set_attribute(before: Callable[..., None], told: list[Callable[[Any, bool], None]]) -> Callable[..., None]:
    """The `__setattr__` of asyncio.Lock that tells each of `told` whether the lock is locked now."""
    return extension.SetAttribute(before, told)  # type: ignore[no-any-return]


def make_notice(
    guard: Guard, now: Any, holds: Any, past: Any, released: Any, forget_oldest: Any, most: int
) -> Callable[[Any, bool], None]:
    """What is told of each change of a lock."""
    return extension.Notice(  # type: ignore[no-any-return]
        guard=guard,
        holds=holds,
        past=past,
        released=released,
        forget_oldest=forget_oldest,
        most=most,
        record_type=TaskRecord,
        clock=now,
        current_task=tasks.current_task,
        enter=notices.ENTER,
        infos=code.infos,
        find_point=code.creation_point,
    )


def make_register(registry: Any) -> Callable[[Any], None]:
    """The `add` of asyncio's weak set of tasks, which tells of those that we do not know yet."""
    plain = create.make_register(registry)
    return extension.Register(plain, registry.data, registry._pending_removals, registry._remove)  # type: ignore[no-any-return]
