"""Which spans were asked for."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from otel_asyncio.emit import names
from otel_asyncio.report.otlp import Span

ANY = "any"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The filters of `view`; without any, everything is selected.

    A trace is shown whole if one of its spans is selected, so that what is shown can be understood.
    """

    trace: str | None = None
    """The beginning of a trace id."""

    problem: str | None = None
    """A word of `asyncio.problem`, or `any`."""

    name: str | None = None
    """A glob for the span's name."""

    service: str | None = None
    """The value of `service.name`."""

    min_duration: int = 0
    """In nanoseconds."""

    @property
    def is_narrow(self) -> bool:
        """Whether any filter was given."""
        return self != Selection()

    def admits(self, span: Span) -> bool:
        """Whether the span was asked for."""
        return (
            span.duration >= self.min_duration
            and (self.trace is None or span.trace_id.startswith(self.trace))
            and (self.service is None or span.service == self.service)
            and (self.name is None or fnmatchcase(span.name, self.name))
            and (self.problem is None or self._has_problem(span))
        )

    def _has_problem(self, span: Span) -> bool:
        word = span.attributes.get(names.PROBLEM)
        return word is not None and self.problem in (ANY, word)
