"""The project's promises, checked against the figures of this run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from figures import STEP, Row
from variants import LOOPS, VARIANTS
from workloads import EMPTY, REFERENCE

Rows = Mapping[tuple[str, str], Row]


@dataclass(frozen=True)
class Check:
    """One promise on one loop."""

    loop: str
    promise: str
    limit: float
    measured: float | None
    unit: str = ""

    @property
    def kept(self) -> bool | None:
        """None where it could not be measured."""
        return None if self.measured is None else self.measured <= self.limit

    def __str__(self) -> str:
        verdict = {True: "kept", False: "BROKEN", None: "not measured"}[self.kept]
        measured = "–" if self.measured is None else f"{round(self.measured, 2):g}{self.unit}"
        return f"| {self.loop} | {self.promise} | ≤ {self.limit:g}{self.unit} | {measured} | {verdict} |"


def checks(rows: Rows) -> list[Check]:
    """Every promise on every loop that was measured."""
    return [check for loop in LOOPS if ("bare", loop) in rows for check in _on(rows, loop)]


def _on(rows: Rows, loop: str) -> Iterator[Check]:
    for which, metrics in (("", ""), ("_load", ", metrics on, under load,")):
        unsampled, recorded = f"unsampled{which}", f"recorded{which}"
        task, step = _added(rows, unsampled, loop, EMPTY.key), _added(rows, unsampled, loop, STEP)
        alone = None if task is None or step is None else task - step
        yield Check(loop, f"unsampled{metrics} adds to a task, its one step taken off", 0.5, alone, " µs")
        yield Check(loop, f"unsampled{metrics} adds to a step", 0.5, step, " µs")
        yield Check(loop, f"recorded{metrics} adds to a step", 1.5, _added(rows, recorded, loop, STEP), " µs")
        ours = _added(rows, recorded, loop, REFERENCE.key)
        by_hand = _added(rows, "by_hand", loop, REFERENCE.key)
        share = None if ours is None or by_hand is None else ours / by_hand
        yield Check(loop, f"recorded{metrics} adds, as a share of what `start_as_current_span` adds", 0.6, share, "×")
    for variant in VARIANTS:
        if variant.ours:
            row = rows.get((variant.key, loop))
            garbage = None if row is None else row.more_garbage()
            yield Check(loop, f"cyclic objects left by all tasks, {variant.key}", 0, garbage)


def _added(rows: Rows, variant: str, loop: str, column: str) -> float | None:
    row = rows.get((variant, loop))
    return row.added_there(column) if row is not None and row.sweeps else None
