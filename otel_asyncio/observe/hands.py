"""In whose hands a wait is: a thread works on what is waited for, or a child process; or nobody that can be seen.

Somebody who works is not hanging, however long it takes: that is asked of waits that last. So all of this reads a
suspended chain (`chain.follow`), and nothing is noted for it when work is handed over.
"""

from __future__ import annotations

import gc
import sys
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_asyncio.observe.blocks import blamed
from otel_asyncio.observe.calls import Stage
from otel_asyncio.observe.chain import behind_shield, frame_of
from otel_asyncio.observe.executors import Executors, source_of
from otel_asyncio.observe.looks import frames_survive, stack_of

if TYPE_CHECKING:
    from types import FrameType

    from otel_asyncio.observe.chain import Frame

_ANYIOS_WORK = "AsyncIOBackend.run_sync_in_worker_thread"
_CHILDS = {"asyncio.subprocess", "asyncio.base_subprocess", "anyio.to_process"}
_PIPE = "ReadSubprocessPipeProto"  # of asyncio and of uvloop: who reads what a child writes
_STREAMS = "asyncio.streams"
# What lies below the function in a thread that works.
_BELOW = {"threading", "concurrent.futures.thread", "anyio._backends._asyncio", Executors.__module__}


class Hand(NamedTuple):
    """Who works on what is waited for."""

    moved: int
    """When the work was last seen to get on (monotonic, ns): it was taken up, or its pool took up other work before
    it; 0 where that is not known."""
    thread: int | None = None
    """The thread that works on it now."""


class Work(NamedTuple):
    """Where a thread stands that works on what is waited for."""

    thread: int
    name: str | None
    frames: tuple[Frame, ...]
    """Outermost first, from the function on that was handed over."""
    omitted: int
    blame: Frame | None
    """The innermost line of the program."""


def hand_of(links: list[Any], executors: Executors) -> Hand | None:
    """Who works on what a suspended chain waits for; None where nobody is known to."""
    if not links:
        return None
    source = source_of(behind_shield(links[-1]))
    call = executors.call_of(source)
    if call is not None:
        running = call.stage is not Stage.QUEUED
        moved = call.started if running and call.started is not None else max(call.queued, call.pool.taken)
        return Hand(moved, call.thread_id if running else None)
    if source is not None and source.running():
        return Hand(0)
    frames = [frame for link in links if (frame := frame_of(link)) is not None]
    if frames and frames[-1].qualname == _ANYIOS_WORK:
        return Hand(0, _anyios_thread(links))
    if any(frame.code.module in _CHILDS for frame in frames) or _reads_of_child(links):
        return Hand(0)
    return None


def _anyios_thread(links: list[Any]) -> int | None:
    """The thread that anyio has given the work to: a local of the coroutine that waits for it."""
    held = (held for link in reversed(links) for held in gc.get_referents(link))
    return next((item.ident for item in held if issubclass(type(item), threading.Thread)), None)


def _reads_of_child(links: list[Any]) -> bool:
    """Whether a stream is read that a child process writes."""
    readers = [link for link in links if getattr(getattr(link, "cr_code", None), "co_name", "").startswith("read")]
    for reader in readers:
        for held in gc.get_referents(reader):
            if type(held).__module__ == _STREAMS:
                protocol = getattr(getattr(held, "_transport", None), "get_protocol", lambda: None)()
                if type(protocol).__name__.startswith(_PIPE):
                    return True
    return False


def work_of(thread: int, depth: int) -> Work | None:
    """Where a thread stands; None where it cannot be seen: it has ended, or there is no GIL to hold it still."""
    frame = sys._current_frames().get(thread) if frames_survive() else None
    stack = _function_and_above(frame)
    if not stack:
        return None
    frames = stack_of(stack, depth)
    known = threading._active.get(thread)  # type: ignore[attr-defined]
    return Work(thread, known and known.name, frames[::-1], max(0, len(stack) - depth), blamed(frames))


def _function_and_above(frame: FrameType | None) -> list[FrameType]:
    """The frames of the work itself, innermost first."""
    stack: list[FrameType] = []
    while frame is not None:
        stack.append(frame)
        frame = frame.f_back
    while stack and stack[-1].f_globals.get("__name__") in _BELOW:
        stack.pop()
    return stack
