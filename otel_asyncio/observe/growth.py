"""Tasks that one task makes at one line faster than they end: counted in the watchdog's thread, judged on the loop's.

There is no number of tasks that is too many, so it takes all of this: thousands that one task has made at one line,
more of them at each look, twice as many as when it began, and most of them waiting for something that is in short
supply. Connections that wait for their clients, and whatever else may be waited for without end, are nobody's backlog.
"""

from __future__ import annotations

import contextvars
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.chain import Frame, chain_of, follow
from otel_asyncio.observe.code import info_of
from otel_asyncio.observe.observer import Guard
from otel_asyncio.observe.problems import Growth, Problem, ProblemKind
from otel_asyncio.observe.stuck import idle_matcher
from otel_asyncio.observe.watchdog import Watched, the_watchdog

if TYPE_CHECKING:
    from otel_asyncio.observe.loops import LoopState
    from otel_asyncio.observe.records import Origin, TaskRecord

_LEAST = 1_000
_RISES = 6
_SAMPLE = 20
_RARELY = 200  # of the time, counting takes one part in so many
_SECOND = 1_000_000_000
_PEERS = ("*.read", "*.read[_lu]*", "*.readexactly", "*.recv*", "*.receive*", "*.sock_*", "*.accept")
"""What waits for somebody at the other end, beside `idle_targets`."""


class _Line:
    """What was counted at one line, from when its number began to rise."""

    __slots__ = ("began", "first", "last", "rises")

    def __init__(self, count: int, now: int) -> None:
        self.first = self.last = count
        self.began, self.rises = now, 0


class Counting(Watched):
    """The counting of one loop's tasks.

    `pace`: nanoseconds from one look to the next; `idle`: globs of what may be waited for without end.
    """

    def __init__(self, loop: Any, state: LoopState, guard: Guard, *, pace: int, idle: tuple[str, ...]) -> None:
        super().__init__(loop)
        self._state, self._guard, self._pace = state, guard, pace
        self._is_idle = idle_matcher((*idle, *_PEERS))
        self._lines: dict[Origin, _Line] = {}
        self._due = 0
        self._active = True

    @property
    def period(self) -> int:
        """How long to wait before the next look, in nanoseconds."""
        return self._pace

    def tick(self, _: int | None = None) -> None:
        """Count, if it is time to. In the watchdog's thread."""
        now = self._state.now()
        if now < self._due or not self._active or self._guard.failed:
            return
        began = time.thread_time_ns()
        self._guard.run(self.look, now)
        spent = time.thread_time_ns() - began
        self._due = now + max(self._pace, min(spent * _RARELY, _RISES * self._pace))

    def look(self, now: int) -> None:
        """Count once, and have the loop look at what has grown."""
        if len(self._state.alive) < _LEAST:
            self._lines.clear()
            return
        lines: dict[Origin, _Line] = {}
        for key, count in self._count().items():
            if count < _LEAST:
                continue
            line = self._lines.get(key)
            if line is None or count <= line.last:
                line = _Line(count, now)
            else:
                line.last, line.rises = count, line.rises + 1
            lines[key] = line
            if line.rises >= _RISES and count >= 2 * line.first:
                self._ask(key, line, now)
                lines[key] = _Line(count, now)
        self._lines = lines

    def _count(self) -> dict[Origin, int]:
        counts: dict[Origin, int] = {}
        for record in tuple(self._state.alive):
            if (key := record.origin) is not None:
                counts[key] = counts.get(key, 0) + 1
        return counts

    def _ask(self, key: Origin, line: _Line, now: int) -> None:
        loop = self.loop()
        if loop is not None:
            growth = Growth(line.last, (line.last - line.first) * _SECOND / (now - line.began))
            with suppress(RuntimeError):  # it has been closed
                loop.call_soon_threadsafe(
                    self._guard.run, self.judge, key, growth, line.began, now, context=contextvars.Context()
                )

    def judge(self, key: Origin, growth: Growth, began: int, now: int) -> None:
        """Tell of it, if most of these tasks wait for something in short supply. In the loop's thread."""
        found = [record for record in self._state.alive if record.origin == key]
        sample = found[:: max(1, len(found) // _SAMPLE)]
        queueing = sum(map(self._queues, sample))
        if not self._active or 2 * queueing <= len(sample):
            return
        maker = next((record for record in self._state.alive if record.id == key.maker), None)
        observation, site, made = self._state.observation, sample[0].site, sample[0]
        if maker is None or site is None:
            return
        wall = observation.clock.wall_ns()
        what = f"{growth.live} tasks {made.qualname} made at one line are alive, {growth.rate:.0f} more each second"
        at = Frame(info_of(site.code), site.line, site.code.co_qualname)
        kind, code, span = ProblemKind.TASK_GROWTH, maker.code, observation.sink.open_span(maker, None)
        start = wall - (now - began)
        problem = Problem(kind, what, code, maker.qualname, maker, start, wall, at=at, span=span, growth=growth)
        observation.outbox.append(problem)
        observation.drain()

    def _queues(self, record: TaskRecord) -> bool:
        """Whether a task waits for something that others have; one that has not even begun waits for the loop."""
        task: Any = record.task() if record.task is not None else None
        if task is None:
            return False
        return not record.steps or not self._is_idle(chain_of(follow(task), _SAMPLE))

    def end(self) -> None:
        """Nobody looks any more."""
        self._active = False
        self._lines.clear()


class Growing:
    """The countings of one observation.

    `patience`: how long it takes at least until something is told, in nanoseconds; `idle`: as `Counting` has it.
    """

    def __init__(self, *, patience: int, idle: tuple[str, ...]) -> None:
        self._pace, self._idle = patience // _RISES, idle
        self._guard = Guard("growth")
        self.countings: list[Counting] = []

    def attend(self, loop: Any, state: LoopState) -> None:
        """A loop has been taken in."""
        counting = Counting(loop, state, self._guard, pace=self._pace, idle=self._idle)
        self.countings = [known for known in self.countings if not known.gone]
        self.countings.append(counting)
        the_watchdog().add(counting)

    def stop(self) -> None:
        """Look at none of the loops any more."""
        countings, self.countings = self.countings, []
        for counting in countings:
            counting.end()
        the_watchdog().remove(countings)
