"""Which facts deserve a span: pure functions of records and settings."""

from __future__ import annotations

import fnmatch
import re
from typing import TYPE_CHECKING

from otel_asyncio.observe.records import Outcome

if TYPE_CHECKING:
    from otel_asyncio.observe.records import TaskRecord
    from otel_asyncio.settings import Settings

_WENT_WRONG = {Outcome.ERROR, Outcome.TIMEOUT, Outcome.PENDING, Outcome.DESTROYED}


class Policy:
    """The recording policy, compiled from the settings once."""

    def __init__(self, settings: Settings) -> None:
        self.roots = settings.root_tasks != "none"
        self.root_problems_only = settings.root_tasks == "problems"
        self.root_context = settings.root_context
        self.executor_context = settings.executor_context
        self.min_task_duration = int(min(settings.min_task_duration, 1e9) * 1e9)
        self._include = _compile(settings.include)
        self._exclude = _compile(settings.exclude)
        self._detached = _compile(settings.detached_tasks)

    def selects(self, function: str) -> bool:
        """Whether tasks of this function (`module.qualname`) are recorded at all."""
        if self._exclude is not None and self._exclude.match(function):
            return False
        return self._include is None or self._include.match(function) is not None

    def detaches(self, function: str) -> bool:
        """Whether tasks of this function get a trace of their own."""
        return self._detached is not None and self._detached.match(function) is not None

    @property
    def looks_at_functions(self) -> bool:
        """Whether any of the globs is set, so that the function's name matters when a task is created."""
        return any((self._include, self._exclude, self._detached))

    @property
    def wants_all(self) -> bool:
        """Whether every task that has not yielded deserves a span, so that nobody need ask."""
        return not self.root_problems_only and self.min_task_duration == 0

    def wants(self, record: TaskRecord, *, root: bool, yielded: bool) -> bool:
        """Whether an ended task that nobody asked for deserves a span.

        `root`: no span of the program is above it; `yielded`: its facts stand under the spans opened in it.
        """
        if record.outcome in _WENT_WRONG or record.problem is not None:
            return True
        if yielded or (root and self.root_problems_only):
            return False
        return record.ended - record.created >= self.min_task_duration


def _compile(globs: tuple[str, ...]) -> re.Pattern[str] | None:
    return re.compile("|".join(fnmatch.translate(glob) for glob in globs)) if globs else None
