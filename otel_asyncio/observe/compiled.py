"""The compiled hot path: the same makers as in `steps`, of callables that are written in C (`compiled/`).

A step that runs in C leaves no frame; the loop's cell says meanwhile that it runs (`LoopCell`). Steps that a loop does
not run by itself are Python's: those of eager starts, of tasks that are being cancelled, and of a loop in debug mode.
"""

from __future__ import annotations

from asyncio import events
from functools import WRAPPER_ASSIGNMENTS, update_wrapper
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe import steps
from otel_asyncio.observe.flavour import extension
from otel_asyncio.observe.records import Kind
from otel_asyncio.observe.steps import PY_STEPS, STEP_TYPE, STOCK_CALL_SOON
from otel_asyncio.observe.tasks import drop_own_frames

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_asyncio.observe.observation import Observation


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
    return extension.Step(
        steps.make_step(observation),
        observation.finish,
        clock=observation.clock.monotonic_ns,
        waited=observation.waited,
        held=observation.held,
        limits=(min(limits.wait, limits.long), limits.step),
        adopted=Kind.ADOPTED,
    )


def make_unrecorded_step(observation: Observation) -> Any:
    """The step of a task that gets no span: its end is counted."""
    return extension.Step(steps.make_unrecorded_step(observation), observation.finish_unrecorded)
