"""What is noted each time a lock is taken or set free: by whom, when and on which line."""

from __future__ import annotations

import asyncio
import sys
import weakref
from asyncio import locks
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.code import creation_point, is_program
from otel_asyncio.observe.records import TaskRecord

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType

    from otel_asyncio.observe.observer import Guard

Taken = tuple["TaskRecord | None", "weakref.ref[Any] | None", int, "tuple[CodeType, int] | None"]
"""What is noted of a lock that is taken: the first fields of a `Hold`, which is made when somebody asks."""

ENTER = locks._ContextManagerMixin.__aenter__.__code__
"""What stands between `acquire` and an `async with`."""


def make_set_attribute(before: Callable[..., None], told: list[Callable[[Any, bool], None]]) -> Callable[..., None]:
    """The `__setattr__` of asyncio.Lock that tells each of `told` whether the lock is locked now."""

    def __setattr__(self: Any, name: str, value: Any) -> None:  # noqa: N807
        before(self, name, value)
        if name == "_locked":
            for notice in told:
                notice(self, value)

    return __setattr__


def make_notice(
    guard: Guard,
    now: Callable[[], int],
    holds: dict[int, Taken],
    past: dict[int, Any],
    released: Callable[[Any, Taken | None], None],
    forget_oldest: Callable[[], None],
    most: int,
) -> Callable[[Any, bool], None]:
    """What is told of each change of a lock. Written out: it comes with every acquire and every release.

    Args:
        guard: switches it off where it fails.
        now: the monotonic clock (ns).
        holds: who holds which lock, by its identity.
        past: who held a lock that somebody has waited for since; `released` is told where there are any.
        released: a lock was set free while somebody waited for it; by whom, if that is known.
        forget_oldest: there are more than `most` holds.
    """
    frame_of_caller, enter, recorded, ref = sys._getframe, ENTER, TaskRecord, weakref.ref
    current_task: Any = asyncio.current_task

    def notice(lock: Any, locked: bool) -> None:
        if guard.failed:
            return
        try:
            if not locked:
                taken = holds.pop(id(lock), None)
                if past or (taken is not None and lock._waiters):
                    released(lock, taken)
                return
            try:
                task = current_task()
            except RuntimeError:  # no loop runs here
                task = None
            record, unrecorded = getattr(task, "_otel_asyncio", None), None
            if type(record) is not recorded:
                record, unrecorded = None, None if task is None else ref(task)
            frame: Any = frame_of_caller(3)  # below this, `__setattr__` and `acquire`
            code = frame.f_code
            if code is enter:
                frame = frame.f_back
                code = frame.f_code
            point = (code, frame.f_lasti) if is_program(code) else creation_point(3)
            holds[id(lock)] = (record, unrecorded, now(), point)
            if len(holds) > most:
                forget_oldest()
        except Exception as error:  # noqa: BLE001 - the border of the package: a lock goes on locking
            guard.fail(error)

    return notice
