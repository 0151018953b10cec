"""What span processors want to know of a span: its start, or only its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

from otel_asyncio.observe.flavour import extension

if TYPE_CHECKING:
    from collections.abc import Callable

_BATCHING = ("context", "trace_flags", "sampled", "_batch_processor", "emit")
"""What `BatchSpanProcessor.on_end` reads: whether the span is sampled, and where it goes. Another one is called."""

# Processors whose on_start is known to do nothing, so that calling it late, or never, is the same.
_SILENT_AT_START = {sdk.SpanProcessor.on_start, BatchSpanProcessor.on_start, SimpleSpanProcessor.on_start}
_SILENT_AT_ENDING = {
    getattr(processor, "_on_ending", None)  # not in every supported SDK
    for processor in (sdk.SpanProcessor, BatchSpanProcessor, SimpleSpanProcessor)
}


_QUEUEING = (
    "_shutdown", "_logger", "info", "_exporting", "_metrics", "drop_items", "_pid", "os", "getpid", "_bsp_reset_once",
    "do_once", "_at_fork_reinit", "len", "_queue", "_max_queue_size", "warning", "appendleft", "_max_export_batch_size",
    "_worker_awaken", "is_set", "set",
)  # fmt: skip
"""What its `emit` reads. Of these the process is not asked for compiled: the SDK hears of every fork of Python's."""


def taker(processor: Any) -> Callable[[sdk.ReadableSpan], None]:
    """What takes a sampled span that has ended; of the SDK's own batch processor its queue, which asks no more."""
    if type(processor) is BatchSpanProcessor and BatchSpanProcessor.on_end.__code__.co_names == _BATCHING:
        return _into_the_queue(processor._batch_processor)
    return processor.on_end  # type: ignore[no-any-return]


def _into_the_queue(batch: Any) -> Callable[[sdk.ReadableSpan], None]:
    """Its `emit`; compiled, and where that is the known one, what does the same as long as the queue has room."""
    emit: Callable[[sdk.ReadableSpan], None] = batch.emit
    code = getattr(getattr(emit, "__func__", None), "__code__", None)
    if extension is None or code is None or code.co_names != _QUEUEING:
        return emit
    room = min(batch._max_export_batch_size, batch._max_queue_size)
    return extension.Taker(emit, batch, room)  # type: ignore[no-any-return]


def is_silent(processor: Any) -> bool:
    """Whether it does nothing at a start, so that it need not be told of one."""
    return getattr(processor, "ignores_task_spans", False) or (
        type(processor).on_start in _SILENT_AT_START
        and getattr(type(processor), "_on_ending", None) in _SILENT_AT_ENDING
    )
