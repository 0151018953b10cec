"""Signal handlers of a uvloop: there a callback has no frame of its own, and nothing tells which ones are handlers."""

from __future__ import annotations

import weakref
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.tasks import hide_own_frames

if TYPE_CHECKING:
    from collections.abc import Callable


class _Handler:
    """Stands in for a signal's handler, so that it runs above a frame that is known; answers as the handler does."""

    __slots__ = ("_handler",)

    def __init__(self, handler: Callable[..., object]) -> None:
        self._handler = handler

    def __call__(self, *args: Any) -> object:
        try:
            return self._handler(*args)
        except BaseException as error:
            error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next  # this frame, taken off
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handler, name)

    def __repr__(self) -> str:
        return repr(self._handler)


HANDLING = _Handler.__call__.__code__
"""The code of the frame below a signal's handler."""


def make_add_signal_handler(original: Callable[..., Any]) -> Callable[..., Any]:
    """The `add_signal_handler` of a class of uvloop. Takes the loop, or a weak reference to it."""

    def add_signal_handler(self: Any, sig: Any, callback: Any, *args: Any) -> Any:
        loop = self() if type(self) is weakref.ref else self
        refused = not callable(callback) or iscoroutinefunction(callback)
        try:
            return original(loop, sig, callback if refused else _Handler(callback), *args)
        except BaseException as error:
            hide_own_frames(error, keep=0)
            raise

    add_signal_handler.__doc__ = original.__doc__
    return add_signal_handler
