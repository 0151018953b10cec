"""The ids of a child span, without what the SDK does for those of any span."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import DEFAULT_TRACE_STATE, SpanContext, TraceFlags

from otel_asyncio.observe.flavour import extension

if TYPE_CHECKING:
    from collections.abc import Callable

_SAMPLED = int(TraceFlags.SAMPLED)


def child_ids(parent: SpanContext, new_span_id: Callable[[], int]) -> SpanContext | None:
    """The ids of a child that is sampled because this local parent is; None: it is not, or not local."""
    trace_id, _, is_remote, flags, state, is_valid = parent
    if not is_valid or is_remote or not flags & _SAMPLED:
        return None
    return _make_ids((trace_id, new_span_id(), False, flags, state, True))


_make_ids: Callable[[tuple[Any, ...]], SpanContext] = partial(tuple.__new__, SpanContext)
_PROBE = SpanContext(1, 2, False, TraceFlags(_SAMPLED), DEFAULT_TRACE_STATE)
if not isinstance(_PROBE, tuple) or tuple(_PROBE) != (1, 2, False, TraceFlags(_SAMPLED), DEFAULT_TRACE_STATE, True):
    # Not the tuple that we know, which can be had without its constructor in Python.
    def _make_ids(parts: tuple[Any, ...]) -> SpanContext:
        return SpanContext(*parts[:5])

elif not TYPE_CHECKING and extension is not None:
    child_ids = partial(extension.child_ids, SpanContext)
