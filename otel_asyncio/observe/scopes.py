"""Scopes with a deadline: what each notes when it is entered, and what is known of one that has expired."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from asyncio import timeouts
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_asyncio.observe.frames import deals_with_cancellation, owner_of, owns

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType

    from otel_asyncio.observe.chain import Chain
    from otel_asyncio.observe.sites import Site

_CACHE_SIZE = 10_000

WAIT_FOR = asyncio.wait_for.__code__
_STOCK = timeouts.Timeout
LEAVING: Any = timeouts.Timeout.__aexit__.__code__


class Api(StrEnum):
    """What a scope was made with (`asyncio.timeout.api`)."""

    __hash__ = str.__hash__

    TIMEOUT = "asyncio.timeout"
    WAIT_FOR = "asyncio.wait_for"
    ASYNC_TIMEOUT = "async_timeout"
    ANYIO = "anyio"


class TimeoutOutcome(StrEnum):
    """What became of a scope that expired (`asyncio.timeout.outcome`)."""

    __hash__ = str.__hash__

    RAISED = "raised"
    HANDLED = "handled"
    ABSORBED = "absorbed"


class Entry(NamedTuple):
    """What a scope notes when it is entered."""

    now: int
    time: float
    """Of the loop, as the deadline is: a loop may go by the time at which its iteration began."""
    context: contextvars.Context
    code: CodeType
    instruction: int
    api: Api


class Expiry:
    """A scope that has expired."""

    __slots__ = (
        "api",
        "context",
        "delay",
        "entered",
        "expired",
        "future",
        "handler",
        "left",
        "links",
        "outcome",
        "owner",
        "record",
        "returned",
        "scope",
        "scope_frame",
        "site",
        "stack",
    )

    def __init__(self, record: Any, api: Api, now: int) -> None:
        self.record = record
        self.api = api
        self.entered = self.expired = now
        self.left = 0
        self.delay = 0.0
        """Seconds from entering the scope to its deadline."""
        self.context: contextvars.Context | None = None
        self.site: Site | None = None
        """The line that owns the scope."""
        self.stack: Chain | None = None
        self.outcome: TimeoutOutcome | None = None
        self.handler: Site | None = None
        self.links: tuple[Any, ...] = ()
        """Weak references to the coroutines that were suspended when it expired."""
        self.owner: Any = None
        """A weak reference to that which owns the scope, while the TimeoutError may leave it."""
        self.scope: Any = None
        """A weak reference to the coroutine of `wait_for`, where the scope is that."""
        self.scope_frame = 0
        """The identity of `wait_for`'s frame, where the scope is that."""
        self.future: Any = None
        self.returned: bool | None = None
        """Whether the owning function has returned; None while nobody watches it."""


_direct: dict[int, CodeType] = {}
"""Code that owns the scopes it enters, by its identity: what is found once need not be looked for again."""


def _meet(frame: FrameType) -> bool:
    if not owns(frame):
        return False
    if len(_direct) >= _CACHE_SIZE:
        _direct.clear()
    _direct[id(frame.f_code)] = frame.f_code
    return True


def make_reschedule(original: Callable[..., None]) -> Callable[..., None]:
    """`Timeout.reschedule`, which `__aenter__` calls, so that a scope knows when and where it was entered."""
    copy_context, getframe, running_loop = contextvars.copy_context, sys._getframe, asyncio.get_running_loop

    def reschedule(self: Any, when: float | None) -> None:
        original(self, when)
        if when is None or "_otel_asyncio" in self.__dict__:
            return
        record = getattr(self._task, "_otel_asyncio", None)
        if record is not None and record.timed:
            frame: Any = getframe(2)
            code, api = frame.f_code, Api.TIMEOUT
            if type(self) is not _STOCK and type(self).__module__.startswith("async_timeout"):  # 5.0 derives from it
                api = Api.ASYNC_TIMEOUT
            elif code is WAIT_FOR and frame.f_back is not None:
                frame, api = frame.f_back, Api.WAIT_FOR
                code = frame.f_code
            if id(code) not in _direct and not _meet(frame):
                frame = owner_of(frame) or frame
                code = frame.f_code
            self._otel_asyncio = (record.loop.now(), running_loop().time(), copy_context(), code, frame.f_lasti, api)

    reschedule.__doc__ = original.__doc__
    return reschedule


def make_cancel_and_wait(original: Callable[..., Any]) -> Callable[..., Any]:
    """`_cancel_and_wait`, which `wait_for` calls when it has expired (before 3.12) or never waits (0 seconds)."""

    def _cancel_and_wait(*arguments: Any, **keywords: Any) -> Any:
        frame = sys._getframe(1)
        if frame.f_code is WAIT_FOR and not deals_with_cancellation(sys.exception()):
            state = getattr(asyncio.get_running_loop(), "_otel_asyncio", None)
            if state is not None:
                state.observation.timeouts.wait_for_expired(frame, arguments[0])
        return original(*arguments, **keywords)

    _cancel_and_wait.__doc__ = original.__doc__
    return _cancel_and_wait


def comes_from_scope(error: BaseException | None) -> bool:
    """Whether this is the TimeoutError of a scope, and not one that the program raised: by where it was raised."""
    if type(error) is not TimeoutError:
        return False
    entry = error.__traceback__
    while entry is not None and entry.tb_next is not None:
        entry = entry.tb_next
    return entry is not None and entry.tb_frame.f_code in RAISES


RAISES: set[CodeType] = {LEAVING, WAIT_FOR}
"""The code in which the TimeoutError of a scope is raised."""
