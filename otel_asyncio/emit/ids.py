"""The ids of a span, without what the SDK does for those of any."""

from __future__ import annotations

import random
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import DEFAULT_TRACE_STATE, SpanContext, TraceFlags

from otel_asyncio.observe.flavour import extension

if TYPE_CHECKING:
    from collections.abc import Callable

_SAMPLED = int(TraceFlags.SAMPLED)
RANDOM = 0x02
"""TraceFlags.RANDOM_TRACE_ID, W3C Trace Context level 2; not in every supported SDK."""
_STOCK: Any = RandomIdGenerator.generate_span_id
_READS = ("random", "getrandbits", "trace", "INVALID_SPAN_ID")
_IS_KNOWN = type(_STOCK) is FunctionType and _STOCK.__code__.co_names == _READS
"""Whether the SDK's own generator takes random bits, again where all of them are zero. Another one is called."""


def span_id_maker(generator: Any) -> Callable[[], int]:
    """What makes the id of a span; of the SDK's own generator what it calls itself, which may be zero."""
    make: Callable[[], int] = generator.generate_span_id
    return partial(random.getrandbits, 64) if _IS_KNOWN and getattr(make, "__func__", None) is _STOCK else make


def random_flag(generator: Any) -> int:
    """What the flags of a root say of its trace id."""
    is_random = getattr(generator, "is_trace_id_random", None)
    return RANDOM if is_random is not None and is_random() else 0


def root_ids(generator: Any) -> SpanContext:
    """The ids of a sampled root, made in the order in which the SDK makes them."""
    trace_id, span_id = generator.generate_trace_id(), generator.generate_span_id()
    return SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags(_SAMPLED | random_flag(generator)))


def _make_child_ids() -> Callable[[SpanContext, Callable[[], int]], SpanContext | None]:
    # Siblings come one after the other: of what they have in common, to read it takes longer than all the rest.
    last: tuple[Any, ...] = None, None, None, None

    def child_ids(parent: SpanContext, new_span_id: Callable[[], int]) -> SpanContext | None:
        """The ids of a child that is sampled because this local parent is; None: it is not, or not local."""
        nonlocal last
        known, trace_id, flags, state = last
        if known is not parent:
            trace_id, _, is_remote, flags, state, is_valid = parent
            if not is_valid or is_remote or not flags & _SAMPLED:
                return None
            last = parent, trace_id, flags, state
        return _make_ids(SpanContext, (trace_id, new_span_id() or new_span_id(), False, flags, state, True))

    return child_ids


child_ids = _make_child_ids()
_make_ids: Callable[[Any, tuple[Any, ...]], SpanContext] = tuple.__new__
_PROBE = SpanContext(1, 2, False, TraceFlags(_SAMPLED), DEFAULT_TRACE_STATE)
_PARTS = (1, 2, False, TraceFlags(_SAMPLED), DEFAULT_TRACE_STATE, True)
ARE_KNOWN = isinstance(_PROBE, tuple) and tuple(_PROBE) == _PARTS
"""Whether ids are the tuple that we know, which can be had without its constructor in Python."""

if not ARE_KNOWN:

    def _make_ids(kind: Any, parts: tuple[Any, ...]) -> SpanContext:
        return kind(*parts[:5])  # type: ignore[no-any-return]

elif not TYPE_CHECKING and extension is not None:
    child_ids = partial(extension.child_ids, SpanContext)
