"""What frames tell: the stack that led here, the line of the program, and who deals with an exception."""

from __future__ import annotations

import asyncio
import gc
import weakref
from inspect import CO_ASYNC_GENERATOR, CO_GENERATOR
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.chain import Frame, follow
from otel_asyncio.observe.code import PACKAGE, info_of
from otel_asyncio.observe.sites import Site

if TYPE_CHECKING:
    from types import FrameType

_GENERATORS = CO_GENERATOR | CO_ASYNC_GENERATOR


def deals_with_cancellation(error: BaseException | None) -> bool:
    """Whether an exception is a CancelledError, or was raised while one was dealt with."""
    for _ in range(10):
        if error is None or isinstance(error, asyncio.CancelledError):
            break
        error = error.__context__
    return error is not None


def is_handling(task: Any) -> bool:
    """Whether a suspended task is in an `except` or `finally` that a CancelledError has led to, however deep.

    A coroutine suspended there holds the exception (`gi_exc_state`, which its `tp_traverse` visits).
    """
    return any(
        isinstance(held, BaseException) and deals_with_cancellation(held)
        for link in follow(task)
        for held in gc.get_referents(link)
    )


def stack_of(frame: FrameType | None, depth: int) -> tuple[Frame, ...]:
    """The stack that ends with this frame, outermost first, without what runs the loop."""
    found: list[Frame] = []
    while frame is not None and len(found) < depth:
        code = frame.f_code
        info = info_of(code, frame.f_globals.get("__name__"))
        if info.entry_point:
            break
        if not code.co_filename.startswith(PACKAGE):
            found.append(Frame(info, frame.f_lineno or code.co_firstlineno, code.co_qualname))
        frame = frame.f_back
    return tuple(reversed(found))


def line_of_the_program(frame: FrameType | None) -> Site | None:
    """The innermost line outside asyncio, `concurrent.futures` and this package."""
    while frame is not None:
        info = info_of(frame.f_code, frame.f_globals.get("__name__"))
        if not (info.internal or info.module.startswith("concurrent.futures")):
            return Site(frame.f_code, frame.f_lasti)
        frame = frame.f_back
    return None


def frame_object(link: Any) -> Any:
    """The frame of a coroutine, a generator or an async generator."""
    for name in ("cr_frame", "ag_frame", "gi_frame"):
        frame = getattr(link, name, None)
        if frame is not None:
            return frame
    return None


def reference_to(link: Any) -> Any:
    """A weak reference to a coroutine or generator of a chain; None where it can have none."""
    return weakref.ref(link) if link is not None and frame_object(link) is not None else None


def is_open(reference: Any) -> bool:
    """Whether the coroutine that was referred to is still suspended somewhere, or runs."""
    return reference is not None and frame_object(reference()) is not None


def owns(frame: FrameType | None) -> bool:
    """Whether a frame is that of a function which owns the scopes it enters: not a library's, nor the generator of a
    context manager, which owns them on behalf of whoever is in its `with`.
    """
    if frame is None or frame.f_code.co_flags & _GENERATORS:
        return False
    return not info_of(frame.f_code, frame.f_globals.get("__name__")).internal


def owner_of(frame: FrameType | None) -> FrameType | None:
    """The frame that owns a scope entered here, outwards."""
    while frame is not None and not owns(frame):
        if info_of(frame.f_code, frame.f_globals.get("__name__")).entry_point:
            return None
        frame = frame.f_back
    return frame


def cancelled_below(future: Any) -> Any:
    """The cancelled task behind a future that a step was woken with."""
    children = getattr(future, "_children", None) or (future,)
    return next((each for each in children if isinstance(each, asyncio.Task) and each.cancelled()), None)
