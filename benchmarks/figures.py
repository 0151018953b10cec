"""From raw pairs to figures: medians of differences and ratios, their spread, the slope that is a step."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from workloads import LONG, REFERENCE, YARDSTICK

Sweep = dict[str, dict[str, float]]
REFERENCE_US = 7.5
"""The bare reference task on the machine for which the promises are written, with asyncio's own loop."""

STEP = "step"
"""The column that is no workload: what one more `await asyncio.sleep(0)` costs."""


@dataclass(frozen=True)
class Spread:
    """A median and the middle half around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Of two values or more."""
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass
class Row:
    """Everything measured of one variant on one loop."""

    loop: str
    variant: str
    sweeps: list[Sweep] = field(default_factory=list)
    bare: dict[str, Any] = field(default_factory=dict)
    """Garbage and bytes of the bare loop in the same process with the same counts."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Garbage, bytes, spans a task of the variant; `unusable` or `note`: why something is missing."""
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def other(self) -> str:
        """The name in the pairs. The bare row's partner is a second bare loop: the noise of the method."""
        return "again" if self.variant == "bare" else self.variant

    def bare_cost(self, column: str) -> Spread:
        """Microseconds of the bare loop."""
        return self._over(column, lambda bare, _: bare / 1000)

    def added(self, column: str) -> Spread:
        """Microseconds on top of the bare loop, of pairs measured next to each other."""
        return self._over(column, lambda bare, other: (other - bare) / 1000)

    def ratio(self, column: str) -> Spread:
        """The variant's time as a multiple of the bare loop's."""
        return self._over(column, lambda bare, other: other / bare if bare else math.inf)

    def scale(self) -> float:
        """How much slower the machine was, while this was measured, than the one of the promises."""
        return Spread.of(map(_scale, self.sweeps)).median

    def added_there(self, column: str) -> float:
        """Microseconds on top of the bare loop on the machine of the promises, scaled sweep by sweep."""
        return Spread.of(
            (_cost(sweep, column, self.other) - _cost(sweep, column, "bare")) / 1000 / _scale(sweep)
            for sweep in self.sweeps
        ).median

    def _over(self, column: str, figure: Callable[[float, float], float]) -> Spread:
        return Spread.of(
            figure(_cost(sweep, column, "bare"), _cost(sweep, column, self.other)) for sweep in self.sweeps
        )

    def more_garbage(self) -> int | None:
        """Cyclic objects beyond the bare loop's, all outcomes together."""
        if "garbage" not in self.facts or "garbage" not in self.bare:
            return None
        more: int = sum(self.facts["garbage"].values()) - sum(self.bare["garbage"].values())
        return more

    def garbage_tasks(self) -> int:
        """How many tasks left that garbage."""
        tasks: int = self.facts["garbage_tasks"] * len(self.facts["garbage"])
        return tasks


def _scale(sweep: Sweep) -> float:
    """Always of asyncio's loop: uvloop makes the bare task cheaper, but no hook that runs in it."""
    return sweep[YARDSTICK]["bare"] / 1000 / REFERENCE_US


def _cost(sweep: Sweep, column: str, key: str) -> float:
    if column != STEP:
        return sweep[column][key]
    return (sweep[LONG.key][key] - sweep[REFERENCE.key][key]) / (LONG.waits - REFERENCE.waits)
