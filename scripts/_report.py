"""What happened, kept per interpreter and stage, and printed as a table."""

from __future__ import annotations

from dataclasses import dataclass, field

from _lanes import say


@dataclass(frozen=True)
class Result:
    """One stage on one interpreter."""

    row: str
    stage: str
    outcome: str
    seconds: float

    def cell(self) -> str:
        """As it stands in the table. What is wrong stands out."""
        word = self.outcome if self.outcome == "passed" else self.outcome.upper()
        return f"{word} {self.seconds:.0f}s" if self.outcome != "not run" else word


@dataclass
class Report:
    """All results of a run, and what could not be run at all."""

    strict: bool
    results: list[Result] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)

    def add(self, result: Result) -> None:
        """Keep one result."""
        self.results.append(result)
        if result.outcome == "not run":
            self.not_run.append(f"{result.stage} on {result.row}")

    def passed(self) -> int:
        """Stages that passed."""
        return sum(result.outcome == "passed" for result in self.results)

    def failed(self) -> int:
        """Stages that failed, where nothing may be left out also those that were not run."""
        failed = sum(result.outcome not in ("passed", "not run") for result in self.results)
        return failed + (len(self.not_run) if self.strict else 0)

    def succeeded(self) -> bool:
        """A run that ran nothing has not succeeded either."""
        return self.failed() == 0 and self.passed() > 0

    def show(self) -> None:
        """The table, then what was left out, then the line that counts."""
        cells = {(result.row, result.stage): result.cell() for result in self.results}
        rows = list(dict.fromkeys(result.row for result in self.results))
        stages = list(dict.fromkeys(result.stage for result in self.results))
        lines = [["", *stages], *([row, *(cells.get((row, stage), "-") for stage in stages)] for row in rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(stages) + 1)]
        say("")
        for line in lines:
            say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        say("")
        for what in self.not_run:
            say(f"NOT RUN: {what}")
        say(f"{self.passed()} passed, {self.failed()} failed")
