"""Spans kept in memory: the latest, so that a session can look at them."""

from __future__ import annotations

from collections import deque

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor


class Keeping(SpanProcessor):
    """Puts every span that ends into a deque, which forgets the oldest by itself."""

    def __init__(self, kept: deque[ReadableSpan]) -> None:
        self._kept = kept

    def on_end(self, span: ReadableSpan) -> None:
        """Keep it."""
        self._kept.append(span)
