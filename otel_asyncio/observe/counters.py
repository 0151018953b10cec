"""Plain integers that count, one shard per event loop, because `+=` across threads loses updates without a GIL."""

from __future__ import annotations

import threading
from collections import Counter, deque
from typing import TYPE_CHECKING

from otel_asyncio.observe.records import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable


class Shard:
    """What one loop counted. Written only by the thread that runs the loop, read by anybody."""

    __slots__ = ("__weakref__", "ended", "started")

    def __init__(self) -> None:
        self.started = 0
        self.ended: dict[str, int] = dict.fromkeys(Outcome, 0)


class Counters:
    """The sum over all shards, those of closed loops included; problems and drops, which are rare, under a lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shards: set[Shard] = set()
        self.retired: deque[Shard] = deque()
        """The shards of loops that are gone: put here by a finalizer, which must not take the lock."""
        self._past = Shard()
        self._problems: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()

    def shard(self) -> Shard:
        """A new shard, for a new loop."""
        shard = Shard()
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
        return sum(shard.started for shard in self._all())

    @property
    def ended(self) -> Counter[str]:
        """Tasks ended, by outcome."""
        total: Counter[str] = Counter()
        for shard in self._all():
            total.update(shard.ended)
        return total

    @property
    def active(self) -> int:
        """Tasks created and not ended."""
        return self.started - self.ended.total()

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

    def _all(self) -> Iterable[Shard]:
        with self._lock:
            while self.retired:
                self._retire(self.retired.popleft())
            return (self._past, *self._shards)

    def _retire(self, shard: Shard) -> None:
        self._shards.discard(shard)
        self._past.started += shard.started
        for outcome, count in shard.ended.items():
            self._past.ended[outcome] += count
