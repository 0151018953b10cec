"""Which of the tasks that wait for long hang: asked on the loop's own thread, where nothing changes meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.awaits import tasks_of
from otel_asyncio.observe.chain import chain_of, follow
from otel_asyncio.observe.deadlines import context_of, will_end
from otel_asyncio.observe.deadlock import find_cycle, members_of
from otel_asyncio.observe.hands import hand_of, work_of
from otel_asyncio.observe.records import NOT_READY, TaskRecord
from otel_asyncio.observe.resources import waited_for
from otel_asyncio.observe.stuck import Deadlock, Hang, key_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_asyncio.observe.chain import Chain
    from otel_asyncio.observe.hands import Hand
    from otel_asyncio.observe.loops import LoopState
    from otel_asyncio.observe.resources import Hold, Locks
    from otel_asyncio.observe.stuck import History, StuckReporter

_ACQUIRE = asyncio.Lock.acquire.__code__
_LABOUR = 30
"""So many times as long as any other may a wait last that somebody is seen to work on."""


def is_suspended(record: TaskRecord) -> bool:
    """Whether a task has run, and waits for something that has not come."""
    return record.ready == NOT_READY and not record.step_started and record.steps > 0 and record.outcome is None


class Inquiry:
    """One look at the suspects of a loop. Holds tasks, so it is not kept longer than that.

    `lost`: how many nanoseconds of an interval the process did not run.
    """

    def __init__(
        self,
        state: LoopState,
        reporter: StuckReporter,
        history: History,
        is_idle: Callable[[Chain], bool],
        *,
        patience: int,
        depth: int,
        lost: Callable[[int, int], int],
    ) -> None:
        self._state, self._reporter, self._history, self._is_idle = state, reporter, history, is_idle
        self._locks: Locks = state.observation.locks
        self._executors = state.observation.executors
        self._patience, self._depth, self._lost = patience, depth, lost
        self._seen: set[tuple[int, bool]] = set()
        self._explored: set[int] = set()
        self._in_cycles: set[int] = set()
        self.hangs: dict[int, Hang] = {}
        """What hangs, by the records' ids."""
        self.deadlocks: list[Deadlock] = []
        self.excused: dict[int, int] = {}
        """Of tasks whose line is known for long waits, or that somebody works for: up to how long they may wait."""

    def look(self, record: TaskRecord, *, needed: bool) -> None:
        """Find what hangs where this task waits: itself, or whom it waits for.

        `needed`: whether others are known to wait for it, so that it may hang without a span of the program.
        """
        waiting = [(record, needed)]
        while waiting:
            record, needed = waiting.pop()
            if (record.id, needed) not in self._seen:
                self._seen.add((record.id, needed))
                waiting += self._look(record, needed=needed)

    def _look(self, record: TaskRecord, *, needed: bool) -> list[tuple[TaskRecord, bool]]:
        task: Any = record.task() if record.task is not None else None
        now = self._state.now()
        if task is None or not self._waits_long(record, now):
            return []
        parent = self._reporter.parent(record, context_of(task))
        links = follow(task)
        others = [other for other in tasks_of(links) if not other.done()]
        hold, lock = self._hold(links)
        if parent is None and not needed and lock is None and not others:
            return []
        if others or hold is not None:
            self._look_for_cycle(task, now)
        if record.id in self._in_cycles:
            return []
        matters = needed or parent is not None
        if others:
            found = [known for other in others if (known := self._record(other)) is not None]
            if found or not matters:
                return [(known, matters) for known in found]
        holder = self._record(hold.task) if hold is not None else None
        if holder is not None and self._waits_long(holder, now):
            return [(holder, True)]
        if matters and (hold is None or now - hold.since >= self._patience):
            chain = chain_of(links, self._depth)
            hang = Hang(record, record.suspended, chain, _kind(links), hold, parent, self._patience)
            self._judge(hang, task, hand_of(links, self._executors))
        return []

    def _waits_long(self, record: TaskRecord, now: int) -> bool:
        since = record.suspended
        return is_suspended(record) and now - since - self._lost(since, now) >= self._patience

    def _record(self, task: Any) -> TaskRecord | None:
        record = getattr(task, "_otel_asyncio", None)
        return record if type(record) is TaskRecord and record.loop is self._state else None

    def _hold(self, links: list[Any]) -> tuple[Hold | None, Any]:
        if not any(getattr(link, "cr_code", None) is _ACQUIRE for link in links):
            return None, None
        lock = waited_for(links)
        return (self._locks.holder_of(lock), lock) if isinstance(lock, asyncio.Lock) else (None, None)

    def _judge(self, hang: Hang, task: Any, hand: Hand | None) -> None:
        lasted = self._state.now() - hang.since
        excuse = 2 * self._history.longest(key_of(hang.chain))
        if self._is_idle(hang.chain) or will_end(task, task.get_loop().time()):
            return
        if hand is not None:
            hang = hang._replace(patience=_LABOUR * self._patience)
            excuse = max(excuse, hang.patience + max(0, hand.moved - hang.since))
        if lasted <= excuse:
            self.excused[hang.record.id] = excuse
            return
        work = None if hand is None or hand.thread is None else work_of(hand.thread, self._depth)
        self.hangs[hang.record.id] = hang._replace(work=work)

    def _look_for_cycle(self, task: Any, now: int) -> None:
        cycle = find_cycle(task, self._next, self._explored)
        if not cycle or any(will_end(member, member.get_loop().time()) for member in cycle):
            return
        members = members_of(cycle, self._hold, self._reporter.parent, self._depth)
        self._in_cycles |= {member.record.id for member in members if member.record is not None}
        times = [now if member.since is None else member.since for member in members]
        since = max(time for time, member in zip(times, members, strict=True) if member.since is not None)
        self.deadlocks.append(Deadlock(tuple(members), times.index(since), since, now))

    def _next(self, task: Any) -> list[Any]:
        """Whom a task cannot go on without."""
        record = getattr(task, "_otel_asyncio", None)
        if type(record) is TaskRecord and not is_suspended(record):
            return []
        links = follow(task)
        others = [other for other in tasks_of(links) if not other.done()]
        if others:
            one_is_enough = chain_of(links, 1).target in ("asyncio.wait", "asyncio.as_completed")
            return [] if one_is_enough and len(others) > 1 else others
        hold, _ = self._hold(links)
        holder = None if hold is None else hold.task
        return [holder] if holder is not None and holder.get_loop() is task.get_loop() and not holder.done() else []


def _kind(links: list[Any]) -> str | None:
    resource = waited_for(links)
    return None if resource is None else type(resource).__name__
