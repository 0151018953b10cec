"""An exception on a span, as the SDK's own `start_as_current_span` leaves it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.trace import Status, StatusCode

from otel_asyncio.emit import names

if TYPE_CHECKING:
    from opentelemetry.trace import Span


def error_type(error: BaseException) -> str:
    """`error.type`: the qualified name of the exception's class, without `builtins`."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def record_error(span: Span, error: BaseException, timestamp: int) -> None:
    """Status ERROR, `error.type` and the exception's event."""
    span.set_attribute(names.ERROR_TYPE, error_type(error))
    span.record_exception(error, timestamp=timestamp)
    span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
