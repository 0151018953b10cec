"""What stands at the end of a span's line: how it ended, and which line and whose doing it was."""

from __future__ import annotations

from collections.abc import Iterator

from otel_asyncio.emit import names
from otel_asyncio.report.facts import Place, code_place, created_place, duration, place, seconds, short_function
from otel_asyncio.report.look import Glyphs
from otel_asyncio.report.otlp import Span, clean

_UNREMARKABLE = ("success",)
_UNREMARKABLE_KINDS = ("task", "root_segment")


def notes(span: Span, glyphs: Glyphs) -> Iterator[tuple[str, str]]:
    """Pieces of text, each with its style, the most telling first."""
    attributes = span.attributes
    word = attributes.get(names.PROBLEM)
    if word is not None:
        yield f"{glyphs.problem} {clean(word)}", "page.problem"
    else:
        yield from _ending(span)
    yield from _by_kind(span)
    for link in span.links:
        kind = link.attributes.get(names.LINK_TYPE)
        where = "" if link.trace_id == span.trace_id else f" trace {link.trace_id[:8]}"
        if kind is not None:
            yield f"{glyphs.arrow} {clean(kind)}{where}", "page.quiet"


def _ending(span: Span) -> Iterator[tuple[str, str]]:
    """The outcome, unless it is what everybody expects."""
    attributes = span.attributes
    error = attributes.get(names.ERROR_TYPE) or next(
        (event.get(names.EXCEPTION_TYPE) for name, event in span.events if name == "exception"), None
    )
    if error is not None:
        yield clean(error), "page.problem"
    elif span.failed:
        yield span.message or "error", "page.problem"
    else:
        outcome = attributes.get(names.TASK_OUTCOME, "success")
        if outcome not in _UNREMARKABLE:
            yield clean(outcome), "page.warning"
    kind = attributes.get(names.TASK_KIND, "task")
    if kind not in _UNREMARKABLE_KINDS:
        yield clean(kind), "page.quiet"


def _by_kind(span: Span) -> Iterator[tuple[str, str]]:
    attributes, here = span.attributes, code_place(span)
    if names.CANCEL_ORIGIN in attributes:
        yield from _cancel(span)
    elif names.TIMEOUT_DELAY in attributes:
        yield from _line("", here)
        yield f"after {duration(seconds(span, names.TIMEOUT_DELAY) * 1e9)}", "page.warning"
    elif names.AWAIT_IDLE_TIME in attributes:
        yield from _line("", here)
        yield from _holder(span)
    elif names.BLOCK_VICTIMS in attributes or span.name.startswith("block "):
        yield from _line("", here)
        victims = attributes.get(names.BLOCK_VICTIMS)
        if victims:
            yield f"kept {victims} waiting", "page.warning"
    elif names.TASK_CREATED_FILE in attributes:
        yield from _line("from", created_place(span))
    else:
        yield from _line("", here)


def _cancel(span: Span) -> Iterator[tuple[str, str]]:
    attributes = span.attributes
    by = place(attributes, names.CANCEL_BY_FILE, names.CANCEL_BY_LINE, names.CANCEL_BY_FUNCTION)
    origin = clean(attributes[names.CANCEL_ORIGIN])
    if by is None or origin != "explicit":
        yield origin, "page.warning"
    if by is not None:
        who = short_function(by.function) or clean(attributes.get(names.CANCEL_BY_TASK, ""))
        yield f"by {who}", "page.warning"
        yield by.short, "page.line"
    yield from _line("at", place(attributes, names.CANCEL_AT_FILE, names.CANCEL_AT_LINE))
    outcome = attributes.get(names.CANCEL_OUTCOME)
    if outcome not in (None, "delivered"):
        yield clean(outcome), "page.quiet"


def _holder(span: Span) -> Iterator[tuple[str, str]]:
    attributes = span.attributes
    held = place(attributes, names.RESOURCE_HOLDER_FILE, names.RESOURCE_HOLDER_LINE)
    if held is not None:
        yield "held at", "page.warning"
        yield held.short, "page.line"
        yield f"by {clean(attributes.get(names.RESOURCE_HOLDER_TASK, 'a task'))}", "page.warning"


def _line(word: str, where: Place | None) -> Iterator[tuple[str, str]]:
    if where is not None and word:
        yield word, "page.quiet"
    if where is not None:
        yield where.short, "page.line"
