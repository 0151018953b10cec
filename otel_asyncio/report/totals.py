"""The end of the page: how much there was, and where its time went."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.cells import cell_len
from rich.text import Text

from otel_asyncio.report.facts import Place, duration
from otel_asyncio.report.look import Glyphs, clip
from otel_asyncio.report.otlp import clean
from otel_asyncio.report.survey import Survey, Usage

_SHOWN = 5


def totals(survey: Survey, width: int, glyphs: Glyphs) -> Iterator[Text]:
    """Who held the loop, what was waited for, and how the tasks ended."""
    tasks = [usage for usage in survey.tasks.items() if usage[1].busy or usage[1].scheduled]
    tasks.sort(key=lambda item: -item[1].busy)
    if tasks:
        yield Text("Who ran on the loop", "page.title")
        head = ("", "tasks", "running", "ready", "waiting", "longest step")
        yield from _table(head, (_task_row(name, usage) for name, usage in tasks[:_SHOWN]), width, glyphs)
        yield Text()
    waits = sorted(survey.waits.items(), key=lambda item: -item[1].total)
    if waits:
        yield Text("What was waited for", "page.title")
        rows = (_wait_row(name, where, usage) for (name, where), usage in waits[:_SHOWN])
        yield from _table(("", "times", "in all", "longest", "at"), rows, width, glyphs)
        yield Text()
    outcomes = ", ".join(f"{count:,} {clean(word)}" for word, count in survey.outcomes.most_common())
    if outcomes:
        yield Text(f"tasks: {outcomes}", "page.quiet")


def _task_row(name: str, usage: Usage) -> Sequence[str]:
    times = (usage.busy, usage.scheduled, usage.idle, usage.longest_step)
    return (name, f"{usage.count:,}", *(duration(time * 1e9) for time in times))


def _wait_row(name: str, where: Place | None, usage: Usage) -> Sequence[str]:
    place = where.short if where is not None else ""
    return (name, f"{usage.count:,}", duration(usage.total), duration(usage.worst), place)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], width: int, glyphs: Glyphs) -> Iterator[Text]:
    """The first column takes what the others leave; they stand to the right."""
    lines = [head, *rows]
    widths = [max(cell_len(line[at]) for line in lines) for at in range(len(head))]
    widths[0] = min(widths[0], max(12, width - 2 - sum(widths[1:]) - 2 * (len(head) - 1)))
    for number, line in enumerate(lines):
        name = clip(line[0], widths[0], glyphs.dots)
        text = Text("  ").append(name + " " * (widths[0] - cell_len(name)))
        for at, cell in enumerate(line[1:], 1):
            text.append("  " + cell.replace("µ", glyphs.micro).rjust(widths[at]), "page.quiet" if not number else "")
        yield text


def head(survey: Survey, glyphs: Glyphs) -> Text:
    """The first line: whose spans these are, and how many."""
    services = ", ".join(name or "no service name" for name, _ in survey.services.most_common(3))
    loops = " and ".join(clean(name) for name, _ in survey.loops.most_common())
    facts = [loops] if loops else []
    facts.append(f"{_counted(survey.spans, 'span')} in {_counted(survey.traces, 'trace')}")
    facts.append(f"{duration(survey.end - survey.start)}".replace("µ", glyphs.micro))
    return (
        Text().append(services, "page.title").append("".join(f" {glyphs.dash} {fact}" for fact in facts), "page.quiet")
    )


def _counted(count: int, word: str) -> str:
    return f"{count:,} {word}{'s' * (count != 1)}"
