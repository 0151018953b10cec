"""Whether a timer will end a wait: that of a scope that the task is in, or of one that an awaiter of it is in.

A scope is not noted anywhere when it is entered; that a task is in it shows when it is suspended. The frames of its
coroutines hold the scope, as the object whose `__aexit__` is to be called, or the handle of the timer. The garbage
collector visits a suspended frame's locals and its stack alike (`_PyFrame_Traverse`, read in 3.11 to 3.15).
"""

from __future__ import annotations

import asyncio
import functools
import gc
import math
import sys
from contextvars import Context
from types import CoroutineType, MethodType
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.anyio_scopes import BACKEND
from otel_asyncio.observe.chain import TASKS, follow
from otel_asyncio.observe.scopes import WAIT_FOR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from otel_asyncio.observe.records import TaskRecord

_MOST = 256  # so many awaiters are asked; a chain of more that hangs is none of those that run in production
_GATHERED = "gather.<locals>._done_callback"


def context_of(task: Any) -> Context | None:
    """The context that a task runs in. `get_context` is new in 3.12; before, the garbage collector knows."""
    if hasattr(task, "get_context"):
        return task.get_context()  # type: ignore[no-any-return]
    return next((held for held in gc.get_referents(task) if type(held) is Context), None)


def will_end(task: Any, now: float) -> bool:
    """Whether a deadline that has not passed at `now` (of the loop's time) will end what this task waits for."""
    seen: set[int] = set()
    waiting = [task]
    while waiting and len(seen) < _MOST:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if issubclass(type(item), TASKS) and not item.done() and _deadline_of(item) > now:
            return True
        waiting += _awaiters(item)
    return False


def ends_a_wait_for(record: TaskRecord) -> bool:
    """Whether what woke a task is the timer of a `wait_for` that it is in, before 3.12; since then that is a `Timeout`.

    The timer has set the future that the task waits on, and what it waits for is still not done.
    """
    task: Any = record.task() if record.task is not None else None
    if sys.version_info >= (3, 12) or task is None:
        return False
    return any(_has_expired(link) for link in follow(task) if getattr(link, "cr_code", None) is WAIT_FOR)


def _has_expired(waiting: Any) -> bool:
    futures = [item for item in gc.get_referents(waiting) if asyncio.isfuture(item)]
    woken = any(future.done() and not future.cancelled() for future in futures)
    return woken and not all(future.done() for future in futures)


def _deadline_of(task: Any) -> float:
    """The last deadline around what a task waits for, of the loop's time; minus infinity where there is none."""
    coroutines = [link for link in follow(task) if type(link) is CoroutineType]
    held = [item for coro in coroutines for item in gc.get_referents(coro)]
    # The bound `__aexit__` of a scope that is entered lies on the stack.
    scopes = [item.__self__ if type(item) is MethodType else item for item in held]
    return max(_anyios_deadline(task), *map(_when, scopes))


def _when(held: Any) -> float:
    """The deadline of a timer's handle, asyncio's or uvloop's, or of a scope; minus infinity of anything else."""
    kind = type(held)
    if kind is asyncio.Timeout:
        return held.when() or -math.inf
    if kind is asyncio.TimerHandle or (kind.__name__ == "TimerHandle" and kind.__module__.startswith("uvloop")):
        return -math.inf if held.cancelled() else float(held.when())
    if kind.__name__ == "Timeout" and kind.__module__.startswith("async_timeout"):
        return held.deadline or -math.inf
    return -math.inf


def _anyios_deadline(task: Any) -> float:
    """The nearest deadline of anyio's scopes around a task; minus infinity where there is none."""
    state = getattr(sys.modules.get(BACKEND), "_task_states", {}).get(task)
    scope, nearest = getattr(state, "cancel_scope", None), math.inf
    while scope is not None:
        nearest = min(nearest, getattr(scope, "deadline", math.inf))
        scope = None if getattr(scope, "_shield", False) else getattr(scope, "_parent_scope", None)
    return nearest if nearest < math.inf else -math.inf


def _awaiters(future: Any) -> Iterator[Any]:
    """Who would cancel this task or future when cancelled: its awaiter, its gather's, the owner of its TaskGroup.

    Not whoever only looks on: `asyncio.wait` and `asyncio.shield` leave alone what they wait for.
    """
    for entry in tuple(getattr(future, "_callbacks", None) or ()):
        callback: Callable[..., Any] = entry[0]
        owner = getattr(callback, "__self__", None)
        if issubclass(type(owner), TASKS):
            yield owner
        elif issubclass(type(owner), asyncio.TaskGroup):
            yield owner._parent_task  # type: ignore[union-attr]
        elif type(callback) is functools.partial:  # the `_release_waiter` of 3.11's wait_for
            yield from (held for held in callback.args if issubclass(type(held), asyncio.Future))
        elif getattr(callback, "__qualname__", None) == _GATHERED:
            cells = zip(callback.__code__.co_freevars, callback.__closure__ or (), strict=True)
            yield from (
                cell.cell_contents for name, cell in cells if name == "outer" and cell.cell_contents is not None
            )
