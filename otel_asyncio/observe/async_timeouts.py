"""The scopes of async_timeout 4, which cancel their task from a timer of their own; those of 5 are asyncio's.

4.0 was read. Its class has slots and takes no weak reference, so what a scope notes is kept by its identity until it
is left.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.cancellation import Origin
from otel_asyncio.observe.frames import owner_of
from otel_asyncio.observe.patching import replace_shared
from otel_asyncio.observe.rules import by_the_expiry
from otel_asyncio.observe.scopes import RAISES, Api, Entry

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType

    from otel_asyncio.observe.cancellation import Request
    from otel_asyncio.observe.loops import LoopState
    from otel_asyncio.observe.observation import Observation

MODULE = "async_timeout"

_MOST = 10_000
_entered: dict[int, Entry] = {}


def watch(observation: Observation, module: Any) -> list[Callable[[], None]]:
    """Follow the scopes of async_timeout's own class, if it has one."""
    scope: Any = module.Timeout
    if issubclass(scope, asyncio.Timeout) or not hasattr(scope, "_do_exit"):
        return []
    cancellations, leaving = observation.cancellations, scope._do_exit.__code__
    cancellations.origins.add(scope._on_timeout, _expired)
    cancellations.scopes |= {leaving, module._uncancel_task.__code__}
    RAISES.add(leaving)
    return [
        replace_shared(scope, "_reschedule", _make_reschedule),
        replace_shared(scope, "_reject", partial(_make_reject, leaving)),
    ]


def _state() -> LoopState | None:
    return getattr(asyncio._get_running_loop(), "_otel_asyncio", None)


def _make_reschedule(original: Callable[..., None]) -> Callable[..., None]:
    """`Timeout._reschedule`, which is called when a scope with a deadline is entered, and when that is moved."""

    def _reschedule(self: Any) -> None:
        original(self)
        state, owner = _state(), owner_of(sys._getframe(1))
        if state is None or owner is None or id(self) in _entered or len(_entered) >= _MOST:
            return
        context = contextvars.copy_context()
        _entered[id(self)] = Entry(
            state.now(), self._loop.time(), context, owner.f_code, owner.f_lasti, Api.ASYNC_TIMEOUT
        )

    return _reschedule


def _make_reject(leaving: CodeType, original: Callable[..., None]) -> Callable[..., None]:
    """`Timeout._reject`, called when a scope is left without raising: what it asked of its task, nobody takes back."""

    def _reject(self: Any) -> None:
        task, state, frame = self._task, _state(), sys._getframe(1)
        original(self)
        _entered.pop(id(self), None)
        if frame.f_code is leaving and task is not None and state is not None:
            state.observation.cancellations.withdrawn(task, task.cancelling(), frame)

    return _reject


def _expired(frame: FrameType, request: Request, state: LoopState) -> None:
    """`Timeout._on_timeout`, which the scope's own timer calls."""
    scope: Any = frame.f_locals["self"]
    request.origin, request.scope = Origin.TIMEOUT, id(scope)
    entry = _entered.pop(id(scope), None)
    request.expiry = state.observation.timeouts.deadline_passed(request.owner, scope._task, entry, scope._deadline)
    by_the_expiry(request)
