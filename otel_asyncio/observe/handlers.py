"""Which `except` catches a CancelledError: asked of `sys.monitoring`, in the step that raises one and no longer.

Python 3.12 and later. There are six tools in a process; a debugger, coverage and a profiler have places of their own.
One of the two that are nobody's is taken for the time of a step and given back, with nothing left switched on. Where
both are taken, nobody is disturbed and the line is not known.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.frames import deals_with_cancellation
from otel_asyncio.observe.sites import Site

if TYPE_CHECKING:
    from types import CodeType

_NOBODYS = (4, 3)  # sys.monitoring names 0, 1, 2 and 5 (PEP 669)
_NAME = "otel_asyncio"

# To switch an event on costs every code object that runs next a look: in a storm, this often a second.
_PER_SECOND = 20
_SECOND = 1_000_000_000


def take_tool(monitoring: Any) -> int | None:
    """One of the places that are nobody's, if it is free."""
    for tool in _NOBODYS:
        try:
            monitoring.use_tool_id(tool, _NAME)
        except ValueError:
            continue
        return tool
    return None


class HandlerWatch:
    """Notes the handlers that a CancelledError reaches in this thread, between `arm` and `disarm`."""

    def __init__(self) -> None:
        self._monitoring: Any = getattr(sys, "monitoring", None)
        self._lock = threading.Lock()
        self._tool: int | None = None
        self._thread = 0
        self._last: tuple[CodeType, int] | None = None
        self._second, self._used = 0, 0

    def arm(self) -> bool:
        """Begin to look, if nobody does already, and not too often. Returns whether `disarm` is to be called."""
        monitoring = self._monitoring
        if monitoring is None or not self._may() or not self._lock.acquire(blocking=False):
            return False
        self._tool = take_tool(monitoring)
        if self._tool is None:
            self._lock.release()
            return False
        self._thread, self._last = threading.get_ident(), None
        event = monitoring.events.EXCEPTION_HANDLED
        monitoring.register_callback(self._tool, event, self._handled)
        monitoring.set_events(self._tool, event)
        return True

    def disarm(self) -> Site | None:
        """Leave everything as it was. Returns the last handler that was reached."""
        tool, monitoring = self._tool, self._monitoring
        monitoring.set_events(tool, 0)
        monitoring.register_callback(tool, monitoring.events.EXCEPTION_HANDLED, None)
        monitoring.free_tool_id(tool)
        last, self._last, self._tool, self._thread = self._last, None, None, 0
        self._lock.release()
        return _at_its_line(*last) if last is not None else None

    def seen(self) -> Site | None:
        """The last handler that was reached so far."""
        last = self._last
        return _at_its_line(*last) if last is not None and self._thread == threading.get_ident() else None

    def _may(self) -> bool:
        second = time.monotonic_ns() // _SECOND
        if second != self._second:
            self._second, self._used = second, 0
        self._used += 1
        return self._used <= _PER_SECOND

    def _handled(self, code: CodeType, offset: int, error: BaseException) -> None:
        if self._thread == threading.get_ident() and deals_with_cancellation(error):
            self._last = (code, offset)


def _at_its_line(code: CodeType, offset: int) -> Site:
    """A handler begins with an instruction that has no line; the next one that has stands on the `except`."""
    starts = (start for start, _, line in code.co_lines() if start >= offset and line is not None)
    return Site(code, next(starts, offset))
