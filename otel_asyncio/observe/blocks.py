"""A loop that was held for long: what is known of it, and which line is to blame."""

from __future__ import annotations

import sysconfig
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_asyncio.observe.looks import Unit

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from otel_asyncio.observe.chain import Frame
    from otel_asyncio.observe.loops import LoopState
    from otel_asyncio.observe.records import TaskRecord

_PATHS = sysconfig.get_paths()
_STANDARD = (*{str(Path(_PATHS[key])) for key in ("stdlib", "platstdlib")}, "<frozen")
_INSTALLED = tuple({str(Path(_PATHS[key])) for key in ("purelib", "platlib")})


class Accuracy(StrEnum):
    """How well the two ends of a block are known (`asyncio.block.accuracy`)."""

    EXACT = "exact"
    """A recorded task's step: to the clock."""

    SAMPLED = "sampled"
    """From the first look that saw it to the last: it held the loop for at least so long."""


class Stack(NamedTuple):
    """One sample: innermost frame first; how many outer ones were left out."""

    frames: tuple[Frame, ...]
    omitted: int


class Block(NamedTuple):
    """One block, over, or so far. Times are of the observation's monotonic clock, in nanoseconds."""

    loop: LoopState
    unit: Unit
    record: TaskRecord | None
    parent: Any
    """The span that it stands under, as the sink has told it."""
    place: Any
    """The span in which it was seen, where nothing of the program is above its task; as the sink has told it."""
    start: int
    end: int
    accuracy: Accuracy
    samples: int
    stack: Stack
    blame: Frame | None
    """The innermost line of the program that was seen for the longest time."""
    callback: str | None
    """What was called, where it has no line."""
    gc_time: int
    victims: tuple[TaskRecord, ...] = ()
    """Tasks that were ready for more than half of it."""
    report: int = 0
    """1, 2, … while it still blocks; 0: it is over and was not reported before."""
    over: bool = True
    since: int = 0
    """From when on it blocks; `start` is later where a part of it was reported before."""

    @property
    def duration(self) -> int:
        """Nanoseconds."""
        return self.end - self.start


class Samples:
    """The stacks seen during one unit of work, each with the time that passed since the look before."""

    def __init__(self) -> None:
        self.count = 0
        self._weights: Counter[Stack] = Counter()
        self._last: Stack | None = None

    def add(self, stack: Stack, weight: int) -> None:
        """One more sample. Kept is what differs, so that a long block does not grow."""
        self.count += 1
        if stack not in self._weights and len(self._weights) >= 256:
            stack = Stack(stack.frames[:1], stack.omitted)
        self._weights[stack] += weight
        self._last = stack

    def again(self, weight: int) -> None:
        """The thread has not run since the last sample: it stands where it stood."""
        if self._last is not None:
            self.add(self._last, weight)

    def judge(self) -> tuple[Stack, Frame | None]:
        """The stack and the line to blame: first the function seen for the longest time, then the line in it."""
        seen = [(stack, blamed(stack.frames), weight) for stack, weight in tuple(self._weights.items())]
        if not seen:
            return Stack((), 0), None
        for of in (_function, _line, _stack):
            heaviest = _heaviest(seen, of)
            seen = [item for item in seen if of(item) == heaviest]
        return seen[0][0], seen[0][1]


class Suspicion:
    """One unit of work that takes long. Written by the watchdog's thread."""

    def __init__(self, unit: Unit, key: int, since: int) -> None:
        self.unit, self.key, self.since, self.last = unit, key, since, since
        self.samples = Samples()
        self.seen = 0
        """Nanoseconds of it in which whoever wanted to look could."""
        self.callback: str | None = None
        self.place: Any = None
        """The span in which it was first seen to take long, where nothing of the program is above its task."""
        self.nested = False
        """Whether another run of the loop was seen within it."""
        self.reports = 0
        self.reported = since
        """Up to when it has been reported."""
        self.victims: tuple[TaskRecord, ...] = ()
        self.counted = since
        """When the victims were looked for."""

    def told(
        self,
        loop: LoopState,
        record: TaskRecord | None,
        end: int,
        *,
        parent: Any,
        victims: tuple[TaskRecord, ...],
        gc_time: int,
        over: bool,
    ) -> Block:
        """What is known of it, from where the last report ended."""
        stack, blame = self.samples.judge()
        return Block(
            loop=loop,
            unit=self.unit,
            record=record,
            parent=parent,
            place=self.place,
            start=self.reported,
            end=end,
            accuracy=Accuracy.SAMPLED if record is None else Accuracy.EXACT,
            samples=self.samples.count,
            stack=stack,
            blame=blame,
            callback=self.callback,
            gc_time=gc_time,
            victims=victims,
            report=self.reports,
            over=over,
            since=self.since,
        )


_Seen = tuple[Stack, "Frame | None", int]


def _function(item: _Seen) -> Hashable:
    return item[1] and id(item[1].code.code)


def _line(item: _Seen) -> Hashable:
    return item[1] and item[1].line


def _stack(item: _Seen) -> Hashable:
    return item[0]


def _heaviest(seen: Iterable[_Seen], of: Callable[[_Seen], Hashable]) -> Hashable:
    weights: Counter[Hashable] = Counter()
    for item in seen:
        weights[of(item)] += max(1, item[2])
    return weights.most_common(1)[0][0]


def blamed(frames: tuple[Frame, ...]) -> Frame | None:
    """The innermost frame of the program: outside the standard library and installed packages.

    Where all of it is installed, the innermost one outside the standard library.
    """
    for places in (_INSTALLED + _STANDARD, _STANDARD):
        for frame in frames:
            file = frame.code.file or ""
            installed = file.startswith(_INSTALLED)
            if not (file.startswith(places) and not (places is _STANDARD and installed)) and not frame.code.internal:
                return frame
    return None
