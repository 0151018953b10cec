"""Places in the code."""

from __future__ import annotations

from types import CodeType
from typing import NamedTuple

_MOST_LINES = 4096
_lines: dict[tuple[int, int], tuple[CodeType, int]] = {}


class Site(NamedTuple):
    """A place in the code: cheap to take, turned into a line number only when somebody reads it."""

    code: CodeType
    instruction: int

    @property
    def line(self) -> int:
        """The line of the instruction; the first line of the function where the compiler left none."""
        key = id(self.code), self.instruction  # to hash the code itself is to hash all of its constants
        known = _lines.get(key)
        if known is None:
            if len(_lines) >= _MOST_LINES:
                _lines.clear()
            known = _lines[key] = self.code, self._find_line()  # the code is kept, so that its id remains its own
        return known[1]

    def _find_line(self) -> int:
        for start, end, line in self.code.co_lines():
            if start <= self.instruction < end and line is not None:
                return line
        return self.code.co_firstlineno
