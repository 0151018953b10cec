"""How things look: colours, and the characters for terminals with Unicode and without."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.text import Text
from rich.theme import Theme

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

THEME = Theme(
    {
        "page.title": "bold",
        "page.quiet": "dim",
        "page.problem": "bold red",
        "page.warning": "yellow",
        "page.good": "green",
        "page.line": "cyan",
        "page.name": "bold",
        "page.advice": "italic",
        "bar.busy": "red",
        "bar.scheduled": "yellow",
        "bar.idle": "blue",
        "bar.span": "default",
    }
)
"""Named colours only: the reader's terminal decides what they are, on dark and on light."""


class Glyphs(NamedTuple):
    """The characters of a page, each one cell wide, except for what is said to be longer."""

    problem: str
    warning: str
    good: str
    times: str
    dots: str
    arrow: str
    dash: str
    micro: str
    branch: str
    last: str
    through: str
    blank: str
    busy: str
    scheduled: str
    idle: str
    span: str
    edge: str


UNICODE = Glyphs("✗", "!", "✓", "×", "…", "→", "·", "µ", "├─ ", "└─ ", "│  ", "   ", "█", "▒", "─", "━", "│")
ASCII = Glyphs("x", "!", "+", "x", "...", "->", "-", "u", "|- ", "`- ", "|  ", "   ", "#", "+", "-", "=", "|")


class Indented:
    """Text behind an indent, also where it takes more than one line, and without blanks at their ends."""

    _INDENT = 4

    def __init__(self, text: Text) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The lines."""
        for line in self._text.wrap(console, max(20, options.max_width - self._INDENT)):
            line.rstrip()
            yield Text(" " * self._INDENT).append_text(line)


def clip(text: str, width: int, dots: str) -> str:
    """The text, cut to a number of terminal cells; that it was cut is to be seen."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, max(0, width - len(dots))) + dots[: max(0, width)]
