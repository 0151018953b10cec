"""Plain integers that count, one shard per event loop, because `+=` across threads loses updates without a GIL."""

from __future__ import annotations

import threading
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_asyncio.observe.cells import ShardCell
from otel_asyncio.observe.records import NEVER, Outcome
from otel_asyncio.observe.samples import Samples

if TYPE_CHECKING:
    from otel_asyncio.observe.blocks import Accuracy
    from otel_asyncio.observe.glimpses import Glimpse
    from otel_asyncio.observe.records import TaskRecord


_MOST_BLOCKS = 1024  # between two readings


class LoopName(NamedTuple):
    """Which loop: the lowest number that was free, and whose make it is."""

    id: int
    implementation: str


class Work(NamedTuple):
    """Tasks that have ended, and the steps of such tasks."""

    tasks: int
    steps: int


class Shard(ShardCell):
    """What one loop counted. Written only by the thread that runs the loop, read by anybody."""

    __slots__ = (
        "__weakref__",
        "active",
        "blocks",
        "cancellations",
        "counted_steps",
        "delays",
        "durations",
        "ended",
        "glimpsed",
        "glimpsed_steps",
        "idle",
        "jitter",
        "loop",
        "probed",
        "timeouts",
        "turns",
    )

    def __init__(self, loop: LoopName) -> None:
        self.loop = loop
        self.started = self.succeeded = 0
        self.recorded = self.steps = self.glimpsed = self.glimpsed_steps = self.counted_steps = 0
        """Tasks with a glimpse and their steps, what steps those without one are thought to have had."""
        self.turns = 0
        """Of the loop, where its selector is timed."""
        self.glimpse_at = NEVER
        self.jitter = 0
        self.ended: dict[str, int] = dict.fromkeys(Outcome, 0)
        """Tasks that ended otherwise, by outcome."""
        self.active = self.idle = 0
        """Nanoseconds in which the loop ran callbacks, and in which it waited in its selector."""
        self.probed: tuple[int, int] | None = None
        """Where these are estimated: the time, and the processor time of the loop's thread, of the last probe."""
        self.durations: Samples[TaskRecord | Glimpse] = Samples()
        """Tasks that have ended."""
        self.delays: Samples[tuple[int, TaskRecord | Glimpse]] = Samples()
        """Nanoseconds from ready to running, and of which task."""
        self.blocks: deque[tuple[int, Accuracy, Any]] = deque(maxlen=_MOST_BLOCKS)
        """Nanoseconds for which the loop was held, how exactly that is known, the ids of the span it lies under.

        Of the loop's thread or the watchdog's, whichever saw the end: to append to a deque needs no lock."""
        self.cancellations: Counter[tuple[str, str, bool]] = Counter()
        """By origin, outcome and whether it was expected."""
        self.timeouts: Counter[str] = Counter()
        """Scopes that expired, by outcome."""

    def take_durations(self) -> list[TaskRecord | Glimpse]:
        """The tasks of `durations`; from here on every one is kept again while they are few."""
        if self.glimpse_at < NEVER:
            self.glimpse_at = 0
        return self.durations.take()


class Counters:
    """The sum over all shards, those of closed loops included; problems and drops, which are rare, under a lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shards: set[Shard] = set()
        self.retired: deque[Shard] = deque()
        """The shards of loops that are gone: put here by a finalizer, which must not take the lock."""
        self._past: dict[LoopName, Shard] = {}
        self._let_go = 0
        self.spent = 0
        """Nanoseconds that the hooks have taken, as far as is known. Of whoever collects."""
        self._problems: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()

    def shard(self, loop: LoopName) -> Shard:
        """A new shard, for a new loop."""
        shard = Shard(loop)
        with self._lock:
            self._shards.add(shard)
        return shard

    def problem(self, kind: str) -> None:
        """Count one problem of this kind."""
        with self._lock:
            self._problems[kind] += 1

    def drop(self, item: str, count: int = 1) -> None:
        """Count `count` dropped items: `span`, `await`, `problem` or `stack`."""
        with self._lock:
            self._dropped[item] += count

    @property
    def started(self) -> int:
        """Tasks created."""
        return sum(shard.started for shard in self.shards())

    @property
    def ended(self) -> Counter[str]:
        """Tasks ended, by outcome."""
        total: Counter[str] = Counter()
        for shard in self.shards():
            total.update(shard.ended)
            total[Outcome.SUCCESS] += shard.succeeded
        return total

    @property
    def cancellations(self) -> Counter[tuple[str, str, bool]]:
        """Cancellations, by origin, outcome and whether they were expected."""
        total: Counter[tuple[str, str, bool]] = Counter()
        for shard in self.shards():
            total.update(shard.cancellations.copy())
        return total

    @property
    def timeouts(self) -> Counter[str]:
        """Scopes that expired, by outcome."""
        total: Counter[str] = Counter()
        for shard in self.shards():
            total.update(shard.timeouts.copy())
        return total

    @property
    def active(self) -> int:
        """Tasks created and not ended, as far as they are still followed."""
        return self.started - self.ended.total() - self._let_go

    @property
    def problems(self) -> Counter[str]:
        """Problems, by kind."""
        with self._lock:
            return self._problems.copy()

    @property
    def dropped(self) -> Counter[str]:
        """Items that were not emitted, by item."""
        with self._lock:
            return self._dropped.copy()

    def worked(self) -> tuple[Work, Work, Work]:
        """What the hooks have had to do for recorded tasks, for those with a glimpse, and for those only counted."""
        shards = self.shards()
        recorded = Work(sum(shard.recorded for shard in shards), sum(shard.steps for shard in shards))
        glimpsed = Work(sum(shard.glimpsed for shard in shards), sum(shard.glimpsed_steps for shard in shards))
        others = self.ended.total() - recorded.tasks - glimpsed.tasks
        return recorded, glimpsed, Work(others, sum(shard.counted_steps for shard in shards))

    @property
    def turns(self) -> int:
        """Turns of the loops whose selectors are timed."""
        return sum(shard.turns for shard in self.shards())

    def absorb(self, other: Counters) -> None:
        """Add what another has counted, which counts no more: its active tasks are no longer followed."""
        left = other.active
        with self._lock:
            self._let_go += left
            self.spent += other.spent
            self._problems.update(other.problems)
            self._dropped.update(other.dropped)
            for shard in other.shards():
                self._retire(shard)

    def shards(self) -> tuple[Shard, ...]:
        """All shards: one for each live loop, and one for all past loops of the same name."""
        with self._lock:
            while self.retired:
                self._retire(self.retired.popleft())
            return (*self._past.values(), *self._shards)

    def _retire(self, shard: Shard) -> None:
        self._shards.discard(shard)
        past = self._past.setdefault(shard.loop, shard)
        if past is shard:
            return
        past.started += shard.started
        past.succeeded += shard.succeeded
        past.cancellations.update(shard.cancellations)
        past.timeouts.update(shard.timeouts)
        for outcome, count in shard.ended.items():
            past.ended[outcome] += count
        past.recorded += shard.recorded
        past.steps += shard.steps
        past.glimpsed += shard.glimpsed
        past.glimpsed_steps += shard.glimpsed_steps
        past.counted_steps += shard.counted_steps
        past.turns += shard.turns
        past.active += shard.active
        past.idle += shard.idle
        past.blocks.extend(shard.blocks)
        past.durations.extend(shard.durations)
        past.delays.extend(shard.delays)
