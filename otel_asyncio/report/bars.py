"""A span as a bar on the time axis of its trace."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from otel_asyncio.emit import names
from otel_asyncio.report.facts import seconds
from otel_asyncio.report.otlp import Span


class Shares(NamedTuple):
    """What a span's time was spent on; seconds."""

    busy: float
    scheduled: float
    idle: float


def shares(span: Span) -> Shares | None:
    """Running, ready to run, waiting: as far as the span tells."""
    attributes = span.attributes
    if names.TASK_BUSY_TIME in attributes:
        split = (names.TASK_BUSY_TIME, names.TASK_SCHEDULED_TIME, names.TASK_IDLE_TIME)
        return Shares(*(seconds(span, name) for name in split))
    if names.AWAIT_IDLE_TIME in attributes:
        return Shares(0, seconds(span, names.AWAIT_SCHEDULED_TIME), seconds(span, names.AWAIT_IDLE_TIME))
    if names.EXECUTOR_RUN_TIME in attributes:
        run, queued = seconds(span, names.EXECUTOR_RUN_TIME), seconds(span, names.EXECUTOR_QUEUED_TIME)
        return Shares(run, queued, max(0.0, span.duration / 1e9 - run - queued))
    if span.name.startswith("block "):
        return Shares(1, 0, 0)
    if span.name.startswith("timeout "):
        return Shares(0, 0, 1)
    return None


def cells(span: Span, start: int, end: int, width: int) -> Iterator[tuple[str, int]]:
    """Pieces of the bar from left to right: what (a field of `look.Glyphs`, or "" for nothing) and how many cells.

    A span has one cell at least. Its parts are shares of its time, in the order busy, scheduled, idle: they do not say
    when it ran.
    """
    length = max(1, end - start)
    first = min(width - 1, (span.start - start) * width // length)
    last = min(width, max(first + 1, -(-(span.end - start) * width // length)))
    yield "", first
    split = shares(span)
    if split is None or sum(split) <= 0:
        yield "span", last - first
    else:
        yield from zip(Shares._fields, _apportion(split, last - first), strict=True)
    yield "", width - last


def _apportion(split: Shares, width: int) -> list[int]:
    """Whole cells by the largest remainder, so that they add up to the width."""
    exact = [part * width / sum(split) for part in split]
    whole = [int(part) for part in exact]
    order = sorted(range(len(exact)), key=lambda at: whole[at] - exact[at])
    for at in order[: width - sum(whole)]:
        whole[at] += 1
    return whole
