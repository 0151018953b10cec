"""Where a cancellation is seen: `cancel` and `uncancel` of every task, and the step of one that is being cancelled."""

from __future__ import annotations

import asyncio
import sys
import weakref
from functools import update_wrapper
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.flavour import extension
from otel_asyncio.observe.records import EXITS

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_asyncio.observe.cancelling import Cancellations


def overrides(base: type[asyncio.Task[Any]]) -> dict[str, Any]:
    """`cancel` and `uncancel` of the observed subclass of a task class: they return what the base returns."""
    base_cancel, base_uncancel = base.cancel, base.uncancel

    def cancel(self: Any, msg: Any = None) -> bool:
        request = self._otel_asyncio.cancellations.requested(self, msg, sys._getframe(1))
        if request is None:
            return base_cancel(self, msg)
        try:
            return base_cancel(self, msg)
        finally:
            request.made()
            self = request = None

    def uncancel(self: Any) -> int:
        left = base_uncancel(self)
        self._otel_asyncio.cancellations.withdrawn(self, left, sys._getframe(1))
        return left

    cancel.__doc__, uncancel.__doc__ = base_cancel.__doc__, base_uncancel.__doc__
    if extension is not None:  # one more of a storm is dealt with in C, and all else as ever
        return {"cancel": update_wrapper(extension.Canceller(cancel, base_cancel), cancel), "uncancel": uncancel}
    return {"cancel": cancel, "uncancel": uncancel}


def _code_of(method: Any) -> Any:
    return getattr(getattr(method, "__wrapped__", method), "__code__", None)


def watch_foreign(task: Any) -> None:
    """See the cancellations of a task that is not of our class: by attributes of the instance, which hold it weakly."""
    cls = type(task)
    if cls is STOCK or _code_of(cls.cancel) not in OUR_CALLS:
        calls = OfTheInstance(task)
        calls.asked = task.cancelling()
        task.cancel, task.uncancel = calls.cancel, calls.uncancel


class OfTheInstance(weakref.ref[Any]):
    """Both for one task, which has been `asked` so often; a reference to it, because it is made for every request.

    When the collector takes a task away, the reference is gone before the coroutine is closed, and what is left of that
    may still call these: they answer what the task would.
    """

    __slots__ = ("asked",)
    asked: int

    def cancel(self, msg: Any = None) -> bool:
        """`task.cancel`."""
        task = self()
        if task is None:
            self.asked += 1
            return True
        request = task._otel_asyncio.cancellations.requested(task, msg, sys._getframe(1))
        try:
            return type(task).cancel(task, msg)  # type: ignore[no-any-return]
        finally:
            self.asked = task.cancelling()
            if request is not None:
                request.made()
            task = request = None

    def uncancel(self) -> int:
        """`task.uncancel`."""
        task = self()
        if task is None:
            self.asked = max(self.asked - 1, 0)
            return self.asked
        self.asked = type(task).uncancel(task)
        task._otel_asyncio.cancellations.withdrawn(task, self.asked, sys._getframe(1))
        return self.asked


STOCK = asyncio.Task
OUR_CALLS = (_code_of(overrides(asyncio.Task)["cancel"]), OfTheInstance.cancel.__code__)


def let_go_of_foreign(task: Any) -> None:
    """Undo `watch_foreign`."""
    own = getattr(task, "__dict__", {})
    for name in ("cancel", "uncancel"):
        if getattr(own.get(name), "__module__", None) == __name__:
            del own[name]


def make_watching_step(cancellations: Cancellations, inner: Callable[..., None]) -> Callable[..., None]:
    """The step of a task that is being cancelled, around the step that it has otherwise."""

    def watching_step(task: Any, *arguments: Any) -> None:
        record = task._otel_asyncio
        looking = cancellations.resumes(record, task)
        try:
            inner(task, *arguments)
        except EXITS as error:
            error.__traceback__ = error.__traceback__.tb_next  # type: ignore[union-attr]  # this frame, taken off
            raise
        finally:
            cancellations.suspends(record, task, looking)
            task = record = arguments = None  # type: ignore[assignment]

    return watching_step
