"""One loop, watched from outside: what it works on, since when, and what it was seen to do meanwhile."""

from __future__ import annotations

import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from otel_asyncio.observe.blocks import Block, Stack, Suspicion
from otel_asyncio.observe.clock import SYSTEM_CLOCK
from otel_asyncio.observe.looks import Unit, frames_survive, look, look_into_step
from otel_asyncio.observe.loopthread import Account, LoopThread
from otel_asyncio.observe.records import NOT_READY
from otel_asyncio.observe.runs import ENTRY_CODE
from otel_asyncio.observe.watchdog import Watched

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_asyncio.observe.loops import LoopState
    from otel_asyncio.observe.pauses import GcPauses, Stops
    from otel_asyncio.observe.records import TaskRecord

    Victims = tuple[TaskRecord, ...]


# How long at most after it was asked for a thread gives the GIL away, unless a C call keeps it.
_SWITCH = 10_000_000
_SHORTEST, _LONGEST = 5_000_000, 500_000_000
_LATE = 5_000_000  # a look that comes later than this after it was due had to ask for the GIL, or for a processor


class Watch(Watched):
    """What the watchdog knows of one loop.

    `limit`: from how long on a unit of work is a block; `patience`: after how long one that lasts is reported; both in
    nanoseconds. `depth`: how many frames of a stack are kept.
    """

    def __init__(
        self,
        loop: Any,
        state: LoopState,
        *,
        limit: int,
        patience: int,
        depth: int,
        pauses: GcPauses,
        stops: Stops,
        emit: Callable[[Block], None],
        wake: Callable[[], None],
        place: Callable[[TaskRecord], Any] = lambda _: None,
    ) -> None:
        super().__init__(loop)
        self.state = state
        self.limit, self._patience, self._depth = limit, patience, depth
        self._pauses, self._stops, self._emit, self._wake, self._place = pauses, stops, emit, wake, place
        self._doubtful: deque[Callable[[], None]] = deque()
        self._sees_frames = frames_survive()
        # Of a clock that is not the machine's nobody knows how it runs while the process does not.
        self._real = state.now is SYSTEM_CLOCK.monotonic_ns
        drowsy = max(2 * limit, min(state.observation.limits.wait, state.observation.limits.long))
        self._enter = partial(LoopThread, state=state, limit=limit, drowsy=drowsy, real=self._real)
        self._thread = self._enter(threading.get_ident())  # which is the loop's thread, as likely as not
        self._thread.begin(state.now())
        self.suspicion: Suspicion | None = None

    @property
    def _may_run_nested(self) -> bool:
        return hasattr(self.loop(), "_nest_patched")

    @property
    def period(self) -> int:
        """How long to wait before the next look, in nanoseconds: less while something is suspected, for a while."""
        if self.suspicion is None:
            return self._thread.period()
        pace = min(max(self.limit // 10, _SHORTEST), _LONGEST // 4)
        return min(pace << max(0, self.suspicion.samples.count - 20) // 8, _LONGEST // 2)

    @property
    def vigil(self) -> Any:
        """What may be asked without the GIL, while nothing is suspected."""
        return self._thread.vigil() if self.suspicion is None else None

    def stir(self) -> None:
        """Something is about to run: the next look is not put off any longer. In the loop's thread."""
        self._thread.stir(self.state.now())
        self._wake()

    def tick(self, kept_since: int | None = None) -> None:
        """Look at the loop once. In the watchdog's thread.

        `kept_since`: from when on somebody has kept the GIL from the watchdog, if that was so.
        """
        thread, now = self._running_thread(), self.state.now()
        if thread is None:
            self._thread.left()
            self._suspect(None)
        else:
            self._look(thread, now, kept_since)
        self.decide()

    def _look(self, thread: int, now: int, kept_since: int | None) -> None:
        """What is on the stack is read before anything that lets go of the GIL, a file or an exporter."""
        if thread != self._thread.ident:
            self._thread = self._enter(thread)
            self._thread.begin(now)
        ran, before = self._thread.ran(now), self.suspicion
        record = self.state.running
        started = record.step_started if record is not None else 0
        if record is not None and started:
            self._look_at_step(record, started, now, ran=ran)
        elif self._sees_frames:
            self._look_at_unit(now, kept_since, ran=ran)
        if before is None or before is not self.suspicion:
            self._thread.looked_at(now, ran=ran, suspected=self.suspicion is not None)

    def _running_thread(self) -> int | None:
        loop = self.loop()
        if loop is None or not loop.is_running():
            return None
        return getattr(loop, "_thread_id", None) or self.state.thread

    def _look_at_step(self, record: TaskRecord, started: int, now: int, *, ran: bool) -> None:
        suspicion = self.suspicion
        if suspicion is None or suspicion.unit is not Unit.RECORDED or suspicion.key != started:
            within = suspicion is not None and suspicion.since > started
            suspicion, ran = Suspicion(Unit.RECORDED, started, started), True
            suspicion.nested = within and self._may_run_nested
        if now - started < self.limit // 2:
            self._suspect(None)
            return
        if self._sees_frames:
            self._sample_step(suspicion, record, now, ran=ran)
        self._suspect(suspicion)
        self._persist(suspicion, record, now)

    def _sample_step(self, suspicion: Suspicion, record: TaskRecord, now: int, *, ran: bool) -> None:
        weight = self._passed(suspicion, now)
        if not ran:
            suspicion.samples.again(weight)
        elif (seen := look_into_step(self._thread.ident, self._depth, ENTRY_CODE, self.state, record)) is None:
            suspicion.nested = True
        elif self._is_in(record, suspicion):
            suspicion.samples.add(Stack(*seen), weight)
            place = suspicion.place or self._place(record)
            if self._is_in(record, suspicion):
                suspicion.place = place

    def _is_in(self, record: TaskRecord, suspicion: Suspicion) -> bool:
        return self.state.running is record and record.step_started == suspicion.key

    def _look_at_unit(self, now: int, kept_since: int | None, *, ran: bool) -> None:
        suspicion = self.suspicion
        if not ran and (self._thread.idle or (suspicion is not None and suspicion.unit is not Unit.RECORDED)):
            if suspicion is not None:
                suspicion.samples.again(self._passed(suspicion, now))
                self._seen(suspicion, now)
            return
        seen = look(self._thread.ident, self._depth, ENTRY_CODE, self.state)
        self._thread.idle = seen is None
        if seen is None or seen.unit is Unit.RECORDED:
            self._suspect(None)
            return
        if suspicion is None or not seen.seen_before or suspicion.key != seen.key:
            suspicion = Suspicion(seen.unit, seen.key, self._since(now, kept_since))
            suspicion.callback = seen.callback
        suspicion.samples.add(Stack(seen.stack, seen.omitted), self._passed(suspicion, now))
        self._suspect(suspicion)
        self._seen(suspicion, now)

    def _since(self, now: int, kept_since: int | None) -> int:
        """From when on the unit that is seen for the first time surely ran.

        Where somebody kept the GIL from the watchdog and the loop's thread was busy throughout, it was this unit: the
        next would have been asked for the GIL before it began.
        """
        if kept_since is None or not self._thread.was_busy(kept_since, now):
            return now
        return min(kept_since + _SWITCH, now)

    def _passed(self, suspicion: Suspicion, now: int) -> int:
        """How many nanoseconds since the last look. Seen of them is all, if this one came in time.

        Otherwise that for which the thread has slept by now: who waits for the GIL wakes up to ask for it.
        """
        last, suspicion.last = suspicion.last, now
        suspicion.seen += now - (last if self._stops.late <= _LATE else max(last, self._thread.ran_at))
        return now - last

    def _seen(self, suspicion: Suspicion, now: int) -> None:
        """It still works on what the watchdog cannot see the end of."""
        if now - suspicion.counted >= max(self.limit // 2, (suspicion.counted - suspicion.since) // 2):
            suspicion.victims, suspicion.counted = self._victims(None, suspicion.since, now), now
        self._persist(suspicion, None, now)

    def _suspect(self, suspicion: Suspicion | None) -> None:
        """Suspect this from now on. What was suspected is over, if it was something else.

        A recorded step tells of its end itself; of everything else this is how it is known.
        """
        before, self.suspicion = self.suspicion, suspicion
        if before is None or before is suspicion or before.unit is Unit.RECORDED:
            return
        if before.reports or before.last - before.since >= self.limit:
            self._settle(before, None, before.last, before.victims, self._thread.account(before.since, before.last))

    def _persist(self, suspicion: Suspicion, record: TaskRecord | None, now: int) -> None:
        """A block that does not end is told of while it lasts, at doubling intervals."""
        since, patience = suspicion.since, self._patience << suspicion.reports
        if suspicion.nested or now - since < patience:
            return
        if self._held_for(suspicion, now, self._thread.account(since, now)) < patience:
            return
        suspicion.reports += 1
        self._tell(suspicion, record, now, self._victims(record, since, now), over=False)
        suspicion.reported = now

    def held(self, record: TaskRecord, started: int, ended: int, parent: Any, *, doubtful: bool) -> None:
        """A recorded step that took long is over. In the loop's thread.

        `doubtful`: the watchdog should have run meanwhile and has not, so that it may yet find that the process was
        stopped; then it decides.
        """
        if (thread := threading.get_ident()) != self._thread.ident:
            self._thread = self._enter(thread)
        suspicion = self.suspicion
        if suspicion is None or suspicion.unit is not Unit.RECORDED or suspicion.key != started:
            suspicion = Suspicion(Unit.RECORDED, started, started)
        if suspicion.nested or (not suspicion.samples.count and self._may_run_nested):
            return  # other steps of the loop ran within this one
        account = self._thread.account(started, ended)
        if suspicion is self.suspicion and ended - suspicion.last <= self.period + _LATE:
            suspicion.seen += ended - suspicion.last
        suspicion.last = ended
        victims = self._victims(record, started, ended)
        settle = partial(self._settle, suspicion, record, ended, victims, account, parent)
        if doubtful and self._real:
            self._doubtful.append(settle)
        else:
            settle()

    def end(self) -> None:
        """Nobody looks any more: what was seen last is all that will be known."""
        self._suspect(None)
        self.decide()

    def decide(self) -> None:
        """Settle what was in doubt."""
        while self._doubtful:
            self._doubtful.popleft()()

    def _settle(
        self,
        suspicion: Suspicion,
        record: TaskRecord | None,
        end: int,
        victims: Victims,
        account: Account,
        parent: Any = None,
    ) -> None:
        """It is over: was it a block?"""
        if suspicion.reports or self._held_for(suspicion, end, account) >= self.limit:
            self._tell(suspicion, record, end, victims, parent)

    def _held_for(self, suspicion: Suspicion, end: int, account: Account) -> int:
        """For how many nanoseconds it has held the loop up to `end`: as much as is beyond doubt.

        While nobody could look the GIL was kept: by this thread, or by another, which may have been starved meanwhile
        as anybody on the machine was. Time on a processor is beyond doubt.
        """
        lasted, stopped = end - suspicion.since, self._stopped(suspicion.since, end)
        unseen = max(0, lasted - suspicion.seen - stopped)
        return max(account.used, lasted - account.starved - stopped - min(unseen, account.crowded))

    def _tell(
        self,
        suspicion: Suspicion,
        record: TaskRecord | None,
        end: int,
        victims: Victims,
        parent: Any = None,
        *,
        over: bool = True,
    ) -> None:
        gc_time = self._pauses.within(suspicion.reported, end) if self._real else 0
        self._emit(suspicion.told(self.state, record, end, parent=parent, victims=victims, gc_time=gc_time, over=over))

    def _stopped(self, start: int, end: int) -> int:
        return self._stops.within(start, end) if self._real else 0

    def _victims(self, record: TaskRecord | None, start: int, end: int) -> Victims:
        half = (start + end) // 2
        waiting = (other for other in tuple(self.state.alive) if NOT_READY < other.ready <= half)
        return tuple(other for other in waiting if other is not record)
