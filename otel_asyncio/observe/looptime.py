"""How a loop divides its time: running callbacks, or waiting for something to happen."""

from __future__ import annotations

import selectors
import time
import weakref
from asyncio import base_events
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.patching import replace, undo_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_asyncio.observe.counters import Shard

# Called once when a run begins and once when it ends, in CPython 3.11 to 3.15, and leaves no frame while it runs.
_AT_BOTH_ENDS = "_set_coroutine_origin_tracking"


def measures_exactly(loop: Any) -> bool:
    """Whether this loop waits in a selector of the standard library, which can be timed."""
    return (
        isinstance(loop, base_events.BaseEventLoop)
        and isinstance(getattr(loop, "_selector", None), selectors.BaseSelector)
        and hasattr(base_events.BaseEventLoop, _AT_BOTH_ENDS)
    )


def time_selector(loop: Any, shard: Shard, now: Callable[[], int]) -> Callable[[], None]:
    """Time the waits of a loop's selector, and what lies between them, while the loop runs. Returns the undo.

    Two clock reads for each turn of the loop. What is set on the loop and its selector holds neither of them, or they
    would not be freed without the garbage collector.
    """
    loop_ref, selector_ref = weakref.ref(loop), weakref.ref(loop._selector)
    plain_select, plain_switch = type(loop._selector).select, getattr(type(loop), _AT_BOTH_ENDS)
    since = 0  # when the loop came out of its selector; 0 while it does not run

    def select(timeout: float | None = None) -> Any:
        nonlocal since
        began = now()
        if since:
            shard.active += began - since
        try:
            return plain_select(selector_ref(), timeout)
        finally:
            since = now()
            shard.idle += since - began
            shard.turns += 1

    def switch(enabled: bool) -> None:
        nonlocal since
        if since:
            shard.active += now() - since
        since = 0
        plain_switch(loop_ref(), enabled)

    undos = [replace(loop._selector, "select", select), replace(loop, _AT_BOTH_ENDS, switch)]
    return lambda: undo_all(undos)


def probe(shard: Shard, now: Callable[[], int]) -> None:
    """Estimate how the thread of a loop that cannot be timed divides its time: by its processor time.

    Runs in that thread, once for each collection. What blocks without computing passes for idle.
    """
    wall, busy = now(), time.thread_time_ns()
    if shard.probed is not None:
        active = max(0, busy - shard.probed[1])
        shard.active += active
        shard.idle += max(0, wall - shard.probed[0] - active)
    shard.probed = wall, busy
