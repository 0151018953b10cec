"""anyio's cancel scopes: who asked for one, with which deadline, and what it takes back.

A scope asks its tasks again every turn of the loop, from a callback, so what is known of its `cancel()` is noted when
that is called. anyio 4.6 to 4.16 were read; a part that another version does not have is left out.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import sys
import weakref
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.cancellation import Origin, Request, Via
from otel_asyncio.observe.frames import owner_of
from otel_asyncio.observe.origins import follow_running
from otel_asyncio.observe.patching import replace_shared
from otel_asyncio.observe.scopes import RAISES, Api, Entry
from otel_asyncio.observe.sites import Site

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType

    from otel_asyncio.observe.loops import LoopState
    from otel_asyncio.observe.observation import Observation

BACKEND = "anyio._backends._asyncio"

_asked: weakref.WeakKeyDictionary[Any, Request] = weakref.WeakKeyDictionary()
_entered: weakref.WeakKeyDictionary[Any, Entry] = weakref.WeakKeyDictionary()
_deadline: set[CodeType] = set()
_leaving: set[CodeType] = set()


def watch(observation: Observation, backend: Any) -> list[Callable[[], None]]:
    """Follow the scopes of anyio's asyncio backend."""
    scope, cancellations = backend.CancelScope, observation.cancellations
    cancellations.origins.add(scope._deliver_cancellation, _delivering)
    for name in ("__exit__", "_uncancel"):
        if hasattr(scope, name):
            cancellations.scopes.add(getattr(scope, name).__code__)
    if hasattr(scope._timeout, "__code__"):
        _deadline.add(scope._timeout.__code__)
    _leaving.add(backend.TaskGroup.__aexit__.__code__)
    tasks = sys.modules.get("anyio._core._tasks")
    for name in ("fail_at", "fail_after"):
        function = getattr(getattr(tasks, name, None), "__wrapped__", None)
        if function is not None:
            RAISES.add(function.__code__)
    return [replace_shared(scope, "cancel", _make_cancel), replace_shared(scope, "_timeout", _make_timeout)]


def _make_cancel(original: Callable[..., None]) -> Callable[..., None]:
    def cancel(self: Any, *arguments: Any, **keywords: Any) -> None:
        if not self._cancel_called:
            _note(self, sys._getframe(1))
        original(self, *arguments, **keywords)

    cancel.__doc__ = original.__doc__
    return cancel


def _make_timeout(original: Callable[..., None]) -> Callable[..., None]:
    def _timeout(self: Any) -> None:
        if self._deadline != math.inf and self not in _entered:
            _enter(self, sys._getframe(2))
        original(self)

    _deadline.add(original.__code__)
    return _timeout


def _state() -> LoopState | None:
    return getattr(asyncio._get_running_loop(), "_otel_asyncio", None)


def _enter(scope: Any, frame: FrameType) -> None:
    state = _state()
    owner = owner_of(frame) if state is not None else None
    if state is not None and owner is not None:
        time = asyncio.get_running_loop().time()
        _entered[scope] = Entry(state.now(), time, contextvars.copy_context(), owner.f_code, owner.f_lasti, Api.ANYIO)


def _note(scope: Any, frame: FrameType) -> None:
    state = _state()
    if state is None:
        return
    try:
        asked = _asked[scope] = Request(None, 0)
        _find(frame, asked, state)
    except Exception as failure:  # noqa: BLE001 - the border of the package
        state.observation.cancellations.guard.fail(failure)


def _find(frame: FrameType, asked: Request, state: LoopState) -> None:
    asked.by = state.running
    code = frame.f_code
    if code in _deadline:
        asked.origin, asked.by = Origin.TIMEOUT, None
    elif code.co_qualname == "TaskGroup._spawn.<locals>.task_done":
        _child_ended(getattr(frame.f_locals.get("_task"), "_otel_asyncio", None), asked)
    elif code in _leaving:
        if not follow_running(asked, state):
            asked.origin, asked.failure = Origin.TASK_GROUP, state.running
    else:
        owner = owner_of(frame)
        asked.site = Site(owner.f_code, owner.f_lasti) if owner is not None else None
        if not follow_running(asked, state):
            asked.origin = Origin.CANCEL_SCOPE
            asked.expected = not isinstance(sys.exception(), Exception)


def _child_ended(record: Any, asked: Request) -> None:
    """A task of a group has failed, or was cancelled: then that is where the group's comes from."""
    cancellation = getattr(record, "cancellation", None)
    if cancellation is not None:
        asked.follows(cancellation.first)
    else:
        asked.origin = Origin.TASK_GROUP
        asked.by = asked.failure = record if record is not None and record.timed else None


def _delivering(frame: FrameType, request: Request, state: LoopState) -> None:
    """`CancelScope._deliver_cancellation`: on behalf of the scope that was cancelled."""
    scope: Any = frame.f_locals.get("origin")
    asked = _asked.get(scope)
    request.scope = id(scope)
    if asked is None:
        request.origin = Origin.CANCEL_SCOPE
        return
    request.origin, request.by, request.site = asked.origin, asked.by, asked.site
    request.failure, request.expected = asked.failure, asked.expected
    if asked.root is not asked:
        request.follows(asked)
        request.via = Via.TASK_GROUP
    host = getattr(getattr(scope, "_host_task", None), "_otel_asyncio", None)
    if asked.origin is Origin.TIMEOUT:
        expiry = asked.expiry
        if host is request.owner and expiry is None:
            expiry = asked.expiry = state.observation.timeouts.deadline_passed(
                request.owner, scope._host_task, _entered.get(scope), scope._deadline
            )
            request.expiry = expiry
        if expiry is not None:
            request.by, request.site = expiry.record if expiry.record.timed else None, expiry.site
        elif (entry := _entered.get(scope)) is not None:
            request.site = Site(entry.code, entry.instruction)
            request.by = host if getattr(host, "timed", False) else None
