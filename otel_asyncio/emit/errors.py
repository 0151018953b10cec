"""An exception on a span, as the SDK's own `start_as_current_span` leaves it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.trace import Status, StatusCode

from otel_asyncio.emit import names
from otel_asyncio.observe.records import error_type

if TYPE_CHECKING:
    from opentelemetry.trace import Span


def record_error(span: Span, error: BaseException, timestamp: int) -> None:
    """Status ERROR, `error.type` and the exception's event."""
    span.set_attribute(names.ERROR_TYPE, error_type(error))
    span.record_exception(error, timestamp=timestamp)
    span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
