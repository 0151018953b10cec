"""The rules for asyncio's own functions that cancel tasks.

Read in CPython 3.11 to 3.15; a function that a release does not have is left out of the table.
"""

from __future__ import annotations

import weakref
from asyncio import runners, taskgroups, tasks, timeouts
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.cancellation import Origin, Via
from otel_asyncio.observe.code import info_of
from otel_asyncio.observe.origins import follow_running
from otel_asyncio.observe.shutdown import begin_one
from otel_asyncio.observe.sites import Site

if TYPE_CHECKING:
    from types import FrameType

    from otel_asyncio.observe.cancellation import Request
    from otel_asyncio.observe.loops import LoopState
    from otel_asyncio.observe.origins import Rule

_LEAVING_GROUP = tuple(
    function.__code__
    for name in ("__aexit__", "_aexit")
    if (function := getattr(taskgroups.TaskGroup, name, None)) is not None
)
SCOPES = (*_LEAVING_GROUP, timeouts.Timeout.__aexit__.__code__)
"""The code of asyncio's that takes back, by `uncancel()`, what it has asked for."""


def keeps_the_count(frame: FrameType | None, record: Any, state: LoopState) -> bool:
    """Whether a TaskGroup asks its own task again for what it has just taken back, so that the count is right."""
    return frame is not None and frame.f_code in _LEAVING_GROUP and record is state.running


def _gathering(frame: FrameType, request: Request, state: LoopState) -> FrameType | None:
    request.via = Via.GATHER
    return frame.f_back


def _aborting(frame: FrameType, request: Request, state: LoopState) -> FrameType | None:
    request.via = Via.TASK_GROUP
    return frame.f_back


def _sibling_failed(frame: FrameType, request: Request, state: LoopState) -> None:
    """`TaskGroup._on_task_done`: the task it was called for has failed."""
    request.origin, request.via = Origin.TASK_GROUP, None
    failed = getattr(frame.f_locals.get("task"), "_otel_asyncio", None)
    request.by = request.failure = failed if getattr(failed, "timed", False) else None
    _of_the_group(frame, request)


def _of_the_group(frame: FrameType, request: Request) -> None:
    """The group takes back what it asked of its own task, and of nobody else."""
    group = frame.f_locals["self"]
    parent = getattr(group._parent_task, "_otel_asyncio", None)
    if parent is request.owner:
        request.scope, request.group = id(group), weakref.ref(group)


def _leaving_group(frame: FrameType, request: Request, state: LoopState) -> None:
    """`TaskGroup.__aexit__`: its own body failed, or is being cancelled."""
    request.by = state.running
    if not follow_running(request, state):
        request.origin, request.via = Origin.TASK_GROUP, None
        request.failure = state.running
    _at_the_users_line(frame, request)


def _at_the_users_line(frame: FrameType | None, request: Request) -> None:
    while frame is not None:
        info = info_of(frame.f_code, frame.f_globals.get("__name__"))
        if not info.internal:
            request.site = Site(frame.f_code, frame.f_lasti)
            return
        if info.entry_point:
            return
        frame = frame.f_back


def _too_late_for_the_group(frame: FrameType, request: Request, state: LoopState) -> None:
    """`TaskGroup.create_task` of a group that is being aborted (3.15)."""
    request.origin, request.by = Origin.TASK_GROUP, state.running
    _at_the_users_line(frame, request)


def _cancelling_group(frame: FrameType, request: Request, state: LoopState) -> FrameType | None:
    """`TaskGroup.cancel` (3.15): whoever calls it."""
    _of_the_group(frame, request)
    request.via = Via.TASK_GROUP
    return frame.f_back


def _expired(frame: FrameType, request: Request, state: LoopState) -> None:
    request.origin = Origin.TIMEOUT
    scope = frame.f_locals["self"]
    request.scope = id(scope)
    request.expiry = state.observation.timeouts.expired(scope, request)
    by_the_expiry(request)


def by_the_expiry(request: Request) -> None:
    """Whoever owns the expired scope is who asks."""
    expiry = request.expiry
    if expiry is not None:
        request.by, request.site = expiry.record if expiry.record.timed else None, expiry.site


def _cancelling_and_waiting(frame: FrameType, request: Request, state: LoopState) -> None:
    """`_cancel_and_wait`, of `wait_for`: it has expired, or whoever waits there is being cancelled."""
    request.by = state.running
    request.own = state.observation.timeouts.made_for_waiting(frame.f_back, request.owner)
    if follow_running(request, state):
        request.via = Via.AWAITER
        _at_the_users_line(frame, request)
        return
    request.origin = Origin.TIMEOUT
    request.expiry = state.observation.timeouts.waiting(frame.f_back)
    if request.expiry is None:
        _at_the_users_line(frame, request)
    by_the_expiry(request)


def _interrupted(frame: FrameType, request: Request, state: LoopState) -> None:
    request.origin, request.expected = Origin.SIGNAL, True


def _shutting_down(frame: FrameType, request: Request, state: LoopState) -> None:
    request.origin, request.expected = Origin.SHUTDOWN, True
    begin_one(state, request.task_id)


_Group: Any = taskgroups.TaskGroup

ASYNCIO_RULES: list[tuple[Any, Rule]] = [
    (tasks._GatheringFuture.cancel, _gathering),  # type: ignore[attr-defined]
    (_Group._abort, _aborting),
    (_Group._on_task_done, _sibling_failed),
    (_Group.__aexit__, _leaving_group),
    (getattr(_Group, "_aexit", None), _leaving_group),
    (getattr(_Group, "cancel", None), _cancelling_group),
    (_Group.create_task, _too_late_for_the_group),
    (timeouts.Timeout._on_timeout, _expired),  # type: ignore[attr-defined]
    (tasks._cancel_and_wait, _cancelling_and_waiting),  # type: ignore[attr-defined]
    (runners.Runner._on_sigint, _interrupted),  # type: ignore[attr-defined]
    (runners._cancel_all_tasks, _shutting_down),  # type: ignore[attr-defined]
]
