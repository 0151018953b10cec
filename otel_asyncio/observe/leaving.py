"""Whether a function returned, or an exception left it: watched while a TimeoutError may leave the owner of a scope.

On 3.12 and later by `sys.monitoring`'s PY_RETURN, a local event of that one code object, with a tool's place that is
nobody's and is given back. On 3.11 by a trace function of that one frame; not where a debugger or coverage traces.
"""

from __future__ import annotations

import dis
import sys
import threading
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.frames import frame_object
from otel_asyncio.observe.handlers import take_tool

if TYPE_CHECKING:
    from types import CodeType, FrameType

    from otel_asyncio.observe.scopes import Expiry

_RETURNS = {dis.opmap[name] for name in ("RETURN_VALUE",)}


class LeavingWatch:
    """Sets `returned` of every watched expiry to False, and to True when its owner returns."""

    def __init__(self) -> None:
        self._monitoring: Any = getattr(sys, "monitoring", None)
        self._lock = threading.Lock()
        self._tool: int | None = None
        self._watched: dict[CodeType, list[Expiry]] = {}

    def arm(self, frame: FrameType, expiry: Expiry) -> None:
        """Watch the frame of the expiry's owner."""
        if self._monitoring is None:
            self._trace(frame, expiry)
            return
        with self._lock:
            if self._tool is None:
                self._tool = take_tool(self._monitoring)
                if self._tool is None:
                    return
                event = self._monitoring.events.PY_RETURN
                self._monitoring.register_callback(self._tool, event, self._returned)
            expiry.returned = False
            watched = self._watched.setdefault(frame.f_code, [])
            if expiry not in watched:
                watched.append(expiry)
            self._monitoring.set_local_events(self._tool, frame.f_code, self._monitoring.events.PY_RETURN)

    def disarm(self, expiry: Expiry) -> None:
        """Watch it no more."""
        if self._monitoring is None:
            if sys.gettrace() is _no_further:
                sys.settrace(None)
            return
        with self._lock:
            for code, watched in tuple(self._watched.items()):
                if expiry in watched:
                    watched.remove(expiry)
                    if not watched:
                        del self._watched[code]
                        self._monitoring.set_local_events(self._tool, code, 0)
            if self._tool is not None and not self._watched:
                self._monitoring.register_callback(self._tool, self._monitoring.events.PY_RETURN, None)
                self._monitoring.free_tool_id(self._tool)
                self._tool = None

    def _returned(self, code: CodeType, offset: int, value: object) -> None:
        frame = sys._getframe(1)
        for expiry in self._watched.get(code, ()):
            if expiry.owner is None or frame_object(expiry.owner()) is frame:
                expiry.returned = True

    @staticmethod
    def _trace(frame: FrameType, expiry: Expiry) -> None:
        if sys.gettrace() not in (None, _no_further) or frame.f_trace is not None:
            return
        expiry.returned = False

        def local(frame: FrameType, event: str, argument: object) -> Any:
            if event != "return":
                return local
            expiry.returned = frame.f_code.co_code[frame.f_lasti] in _RETURNS
            frame.f_trace = None
            sys.settrace(None)
            return None

        frame.f_trace_lines = False
        frame.f_trace = local
        sys.settrace(_no_further)


def _no_further(frame: FrameType, event: str, argument: object) -> None:
    """The trace function of a thread in which only frames that were chosen are traced."""
