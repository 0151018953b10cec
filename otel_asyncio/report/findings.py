"""The problems, each with its line, its trace and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.text import Text

from otel_asyncio.emit import names
from otel_asyncio.report.advice import advice
from otel_asyncio.report.facts import code_place, duration, frames, place, seconds, short_function
from otel_asyncio.report.look import Glyphs, Indented
from otel_asyncio.report.otlp import clean
from otel_asyncio.report.survey import Finding, Survey

SHOWN = 12
OTHERS_SHOWN = 6


def findings(survey: Survey, glyphs: Glyphs) -> Iterator[Text | Indented]:
    """What went wrong, or that nothing did; then exceptions and cancellations."""
    problems, others = survey.problems(), survey.others()
    if problems:
        total = sum(finding.count for finding in problems)
        yield Text(f"{total} problem{'s' * (total != 1)}", "page.problem")
        yield from _list(problems, SHOWN, glyphs)
    else:
        yield Text(f"{glyphs.good} no problems", "page.good")
    if others:
        yield Text()
        yield Text("Exceptions and cancellations", "page.title")
        yield from _list(others, OTHERS_SHOWN, glyphs)


def _list(found: Sequence[Finding], limit: int, glyphs: Glyphs) -> Iterator[Text | Indented]:
    for finding in found[:limit]:
        yield Text()
        yield _headline(finding, glyphs)
        yield from _details(finding, glyphs)
    if len(found) > limit:
        count = sum(finding.count for finding in found[limit:])
        yield Indented(Text(f"\n{glyphs.dots} and {count} more at {len(found) - limit} other lines", "page.quiet"))


def _headline(finding: Finding, glyphs: Glyphs) -> Text:
    """`✗ loop_blocked  render_page  shop.py:41  12×`."""
    grave = finding.word not in ("error", "cancelled")
    mark = glyphs.problem if grave else glyphs.warning
    line = Text().append(f"  {mark} {clean(finding.word)}", "page.problem" if grave else "page.warning")
    line.append(f"  {_name(finding)}", "page.name")
    if finding.place is not None:
        line.append(f"  {finding.place.long}", "page.line")
    if finding.count > 1:
        line.append(f"  {finding.count}{glyphs.times}", "page.warning")
    return line


def _name(finding: Finding) -> str:
    span = finding.worst
    own = code_place(span)
    function = finding.place.function if finding.place is not None else ""
    if finding.word == "cancelled" or not (own and own.function):
        return span.name.removeprefix("cancel ") if finding.word == "cancelled" else short_function(function)
    return short_function(own.function)


def _details(finding: Finding, glyphs: Glyphs) -> Iterator[Text | Indented]:
    span = finding.worst
    facts = f" {glyphs.dash} ".join([*_facts(finding), *_times(finding)])
    yield Indented(Text(facts).append(f" {glyphs.dash} trace {span.trace_id[:8]}", "page.quiet"))
    stack = frames(span)[:3]
    if stack and (len(stack) > 1 or finding.place is None or stack[0].long != finding.place.long):
        text = f" {glyphs.arrow} ".join(f"{frame.function} {frame.short}" for frame in reversed(stack))
        yield Indented(Text().append("in ", "page.quiet").append(text, "page.line"))
    for each in span.attributes.get(names.DEADLOCK_CYCLE, ()):
        yield Indented(Text(f"{glyphs.arrow} {clean(each)}", "page.line"))
    if sentence := advice(finding.word):
        yield Indented(Text(sentence, "page.advice"))


def _times(finding: Finding) -> Iterator[str]:
    if finding.word == "cancelled":
        return  # to be cancelled takes no time
    if finding.count > 1:
        yield f"longest {duration(finding.worst.duration)}"
        yield f"{duration(finding.total)} in all"
    else:
        yield duration(finding.worst.duration)


def _facts(finding: Finding) -> Iterator[str]:
    """What the worst of them says beyond its line."""
    span, attributes = finding.worst, finding.worst.attributes
    if names.TIMEOUT_DELAY in attributes:
        yield f"{duration(seconds(span, names.TIMEOUT_DELAY) * 1e9)} allowed"
    if names.AWAIT_TARGET in attributes:
        yield f"waited for {clean(attributes[names.AWAIT_TARGET])}"
    held = place(attributes, names.RESOURCE_HOLDER_FILE, names.RESOURCE_HOLDER_LINE)
    if held is not None:
        yield f"held by {clean(attributes.get(names.RESOURCE_HOLDER_TASK, 'a task'))} at {held.short}"
    if victims := attributes.get(names.BLOCK_VICTIMS):
        yield f"{victims} ready task{'s' * (victims != 1)} waited"
    if names.CANCEL_ORIGIN in attributes:
        by = short_function(clean(attributes.get(names.CANCEL_BY_FUNCTION, "")))
        yield f"{clean(attributes[names.CANCEL_ORIGIN])}{', by ' if by else ''}{by}"
    if (hit := place(attributes, names.CANCEL_AT_FILE, names.CANCEL_AT_LINE)) is not None:
        yield f"it hit {hit.short}"
    yield from _exception(finding)


def _exception(finding: Finding) -> Iterator[str]:
    if finding.word in ("error", "exception_never_retrieved") and finding.worst.message:
        yield finding.worst.message
