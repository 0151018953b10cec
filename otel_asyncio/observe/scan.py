"""One loop, scanned for tasks that wait for long: integers in the watchdog's thread, the rest on the loop's own.

What was kept back to be told at once is told then, too.

While an inquiry is under way on the loop, the watchdog's thread leaves everything here alone; so the two never touch
it at once, and need no lock.
"""

from __future__ import annotations

import contextvars
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.clock import SYSTEM_CLOCK
from otel_asyncio.observe.eager import is_past_first_step, make_up_for_first_step
from otel_asyncio.observe.records import NEVER
from otel_asyncio.observe.stuck import Stuck
from otel_asyncio.observe.suspects import Inquiry, is_suspended
from otel_asyncio.observe.watchdog import Watched

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_asyncio.observe.loops import LoopState
    from otel_asyncio.observe.observer import Guard
    from otel_asyncio.observe.records import TaskRecord
    from otel_asyncio.observe.stuck import Hang, Key, StuckReporter

_SHORTEST, _LONGEST = 20_000_000, 1_000_000_000
_CHUNK = 50
_RARELY = 1_000  # of the time, a scan takes one part in so many, if that does not put it off for long


class _Seen:
    """What is known of one task's present wait."""

    __slots__ = ("key", "needed", "next", "since")

    def __init__(self, since: int, due: int) -> None:
        self.since = since
        self.next = due
        """When it is to be looked at (again), as far as it is not counted at its line."""
        self.key: Key | None = None
        """Where it hangs."""
        self.needed = False


class _Place:
    """What is known of one line where tasks hang."""

    def __init__(self, since: int, due: int) -> None:
        self.reported = since
        self.next = due
        self.reports = 0


class Scan(Watched):
    """The scan of one loop; the watchdog's thread calls `tick`, as it does of a `Watch`.

    `patience`: after how many nanoseconds a wait is suspected; `lost`: how many of an interval the process stood still.
    """

    def __init__(
        self,
        loop: Any,
        state: LoopState,
        inquire: Callable[[LoopState], Inquiry],
        reporter: StuckReporter,
        guard: Guard,
        patience: int,
    ) -> None:
        super().__init__(loop)
        self._state, self._inquire, self._reporter, self._guard = state, inquire, reporter, guard
        self._patience = patience
        self._pace = min(max(patience // 8, _SHORTEST), _LONGEST)
        # Of a clock that is not the machine's, nobody but a test knows when to look.
        self._real = state.now is SYSTEM_CLOCK.monotonic_ns
        self._due = self._ticked = 0
        self._asking = False
        self._active = True
        self._seen: dict[int, _Seen] = {}
        self._places: dict[Key, _Place] = {}
        self._told: dict[frozenset[int], None] = {}

    @property
    def period(self) -> int:
        """How long to wait before the next scan, in nanoseconds."""
        return self._pace if self._real else _LONGEST

    def tick(self, _: int | None = None) -> None:
        """Scan, if it is time to. In the watchdog's thread."""
        if not self._real:
            return
        now = self._state.now()
        if now - self._ticked > self._patience // 2:  # the process stood still: let the loop come to itself first
            self._due = max(self._due, now + self._patience // 4)
        self._ticked = now
        if now >= self._due and not self._asking and not self._guard.failed:
            began = time.thread_time_ns()
            self.scan()
            rest = min((time.thread_time_ns() - began) * _RARELY, self._patience // 4)
            self._due = now + max(self._pace, rest)

    def scan(self) -> None:
        """Look for waits that are long, and have them looked into by the loop."""
        loop = self.loop()
        if loop is None or not loop.is_running() or not self._active:
            return
        now = self._state.now()
        suspects = self._suspects(now)
        cancelled = [each for each in tuple(self._state.alive) if each.cancellation is not None]
        with suppress(RuntimeError):  # it has been closed
            if cancelled:
                loop.call_soon_threadsafe(self._look_at_cancelled, cancelled, context=contextvars.Context())
            if self._state.observation.sink.keeps:  # of a storm after which nobody is cancelled for long
                loop.call_soon_threadsafe(self._state.observation.drain, context=contextvars.Context())
            if suspects:
                self._asking = True
                loop.call_soon_threadsafe(self._ask, suspects, now, context=contextvars.Context())

    def _look_at_cancelled(self, records: list[TaskRecord]) -> None:
        """Whether a task that was cancelled waits on. In the loop's thread."""
        for record in records:
            if self._active and record.outcome is None and is_suspended(record):
                self._guard.run(self._state.observation.cancellations.waits_on, record)

    def _suspects(self, now: int) -> list[TaskRecord]:
        before, self._seen = self._seen, {}
        horizon, suspects = now - self._patience, []
        oldest: dict[Key, TaskRecord] = {}
        for record in tuple(self._state.alive):
            since = record.suspended
            if since > horizon or not (is_suspended(record) or is_past_first_step(record)):
                continue
            seen = before.get(record.id)
            if seen is None or seen.since != since:
                seen = _Seen(since, now)
            self._seen[record.id] = seen
            if seen.key is not None:
                known = oldest.get(seen.key)
                if known is None or since < known.suspended:
                    oldest[seen.key] = record
            elif now >= seen.next:
                suspects.append(record)
        self._places = {key: place for key, place in self._places.items() if key in oldest}
        self._told = {members: None for members in self._told if members <= self._seen.keys()}
        return suspects + [record for key, record in oldest.items() if now >= self._places[key].next]

    def _ask(self, suspects: list[TaskRecord], asked: int, inquiry: Inquiry | None = None) -> None:
        """Look into so many suspects as do not hold up the loop. In the loop's thread."""
        loop = self.loop()
        try:
            if loop is None or not self._active or self._guard.failed:
                return
            inquiry = inquiry or self._inquire(self._state)
            chunk, rest = suspects[:_CHUNK], suspects[_CHUNK:]
            for record in chunk:
                self._look(record, inquiry)
            if rest:
                loop.call_soon(self._ask, rest, asked, inquiry, context=contextvars.Context())
                return
            self._conclude(inquiry, late=self._state.now() - asked > self._patience // 4)
            self._asking = False
        except Exception as error:  # noqa: BLE001 - the border of the package
            self._guard.fail(error)

    def _look(self, record: TaskRecord, inquiry: Inquiry) -> None:
        make_up_for_first_step(record)
        seen = self._seen.get(record.id)
        if seen is None or seen.since != record.suspended:
            return
        now = self._state.now()
        inquiry.look(record, needed=seen.needed)
        excused = inquiry.excused.get(record.id)
        seen.next = 2 * now - seen.since if excused is None else seen.since + excused + 1
        seen.key = None

    def _conclude(self, inquiry: Inquiry, *, late: bool) -> None:
        for deadlock in inquiry.deadlocks:
            members = frozenset(member.record.id for member in deadlock.members if member.record is not None)
            if members not in self._told and not late:
                self._told[members] = None
                self._reporter.deadlocked(deadlock)
        oldest: dict[Key, Hang] = {}
        for number, hang in inquiry.hangs.items():
            seen = self._seen.setdefault(number, _Seen(hang.since, NEVER))
            seen.key, seen.needed = hang.key, hang.parent is None
            known = oldest.get(hang.key)
            if known is None or hang.since < known.since:
                oldest[hang.key] = hang
        for key, hang in oldest.items():
            self._hangs(key, hang, late=late)

    def _hangs(self, key: Key, hang: Hang, *, late: bool) -> None:
        """Something hangs there. It is told when it has been seen twice, and the loop was not busy in between."""
        now, again = self._state.now(), self._patience // 4
        place = self._places.get(key)
        if place is None:
            self._places[key] = _Place(hang.since, now + again)
        elif late:
            place.next = now + again
        elif now >= place.next:
            place.reports += 1
            count = sum(1 for seen in self._seen.values() if seen.key == key)
            self._reporter.stuck(Stuck(hang, place.reported, now, place.reports, count))
            place.reported = now
            place.next = max(
                now + (hang.patience << (place.reports - 1)), hang.since + (hang.patience << place.reports)
            )

    def end(self) -> None:
        """Nobody looks any more."""
        self._active = False
        self._seen, self._places, self._told = {}, {}, {}
