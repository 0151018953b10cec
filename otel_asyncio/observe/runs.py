"""Which thread runs a uvloop, and where on its stack the loop begins: uvloop leaves no frame to see either by."""

from __future__ import annotations

import threading
import weakref
from types import CodeType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_asyncio.observe.observation import Observation


def make_run_forever(observation: Observation, original: Callable[..., Any]) -> Callable[..., Any]:
    """The `run_forever` that notes the thread, for a class of uvloop, whose `run_until_complete` calls it, too.

    Takes the loop, or a weak reference to it.
    """

    def run_forever(self: Any) -> Any:
        loop = self() if type(self) is weakref.ref else self
        state = observation.state_of(loop)
        before, state.thread = state.thread, threading.get_ident()
        try:
            return original(loop)
        except BaseException as error:
            error.__traceback__ = error.__traceback__.tb_next  # type: ignore[union-attr]  # this frame, taken off
            raise
        finally:
            state.thread = before
            loop = None  # this frame may live on in a traceback

    return run_forever


ENTRY_CODE: CodeType = next(
    item for item in make_run_forever.__code__.co_consts if isinstance(item, CodeType) and item.co_name == "run_forever"
)
"""The code of the frame above which lies what the loop works on."""
