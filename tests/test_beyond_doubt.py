"""What nobody could look into while it lasted is a block only as far as it is beyond doubt: with the kernel's counts given."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from otel_asyncio.observe import loopthread, runqueue
from otel_asyncio.observe import watch as watch_module
from otel_asyncio.observe.blocks import Block
from otel_asyncio.observe.looks import Look, Unit
from otel_asyncio.observe.loopthread import Account, LoopThread
from otel_asyncio.observe.meter import ThreadMeter
from otel_asyncio.observe.pauses import GcPauses, Stops
from otel_asyncio.observe.watch import Watch

MS = 1_000_000
LIMIT, PATIENCE = 100 * MS, 1_000 * MS
PACE, LATE = 10, 30  # milliseconds from one look to the next, and by which one comes late


class Thread:
    """The loop's thread as the kernel tells of it."""

    ident, idle, dozes = threading.get_ident(), False, False

    def __init__(self) -> None:
        self.runs, self.ran_at = True, 0
        self.knows = Account(starved=0, crowded=0, used=0)

    def ran(self, now: int) -> bool:
        self.ran_at = now if self.runs else self.ran_at
        return self.runs

    def account(self, _start: int, _end: int) -> Account:
        return self.knows

    def was_busy(self, _since: int, _now: int) -> bool:
        return True

    def looked_at(self, _now: int, *, ran: bool, suspected: bool) -> None:
        """Nothing depends on it here."""


class Loop:
    _thread_id = Thread.ident

    def is_running(self) -> bool:
        return True


class Machine:
    """A loop that is watched, and a clock; what was told of it."""

    def __init__(self) -> None:
        self.now, self.told, self.loop = 1_000_000 * MS, list[Block](), Loop()
        limits = SimpleNamespace(wait=LIMIT, long=LIMIT)
        self.state: Any = SimpleNamespace(
            now=lambda: self.now, running=None, alive=(), frameless=0, observation=SimpleNamespace(limits=limits)
        )
        self.stops, self.thread = Stops(), Thread()
        self.watch: Any = Watch(
            self.loop,
            self.state,
            limit=LIMIT,
            patience=PATIENCE,
            depth=8,
            pauses=GcPauses(self.state.now),
            stops=self.stops,
            emit=self.told.append,
            wake=lambda: None,
        )
        self.watch._thread = self.thread

    def looks(self, milliseconds: int, *, late: int = 0, kept_since: int | None = None) -> None:
        """So much passes, at the end of which the watchdog looks, later than it wanted to."""
        self.now += milliseconds * MS
        self.stops.late = late * MS
        self.watch.tick(kept_since)

    def begins(self) -> Any:
        record = SimpleNamespace(step_started=self.now)
        self.state.running = record
        return record

    def ends(self, record: Any, milliseconds: int = 0) -> list[Block]:
        self.now += milliseconds * MS
        self.state.running = None
        self.watch.held(record, record.step_started, self.now, None, doubtful=False)
        return self.told


@pytest.fixture
def machine() -> Machine:
    return Machine()


QUIET = Account(starved=1 * MS, crowded=5 * MS, used=0)
CROWDED = Account(starved=10 * MS, crowded=10_000 * MS, used=5 * MS)
COMPUTES = CROWDED._replace(used=120 * MS)
NOT_COUNTED = Account(starved=0, crowded=0, used=0)

beyond_doubt = pytest.mark.parametrize(
    ("knows", "blocks"), [(QUIET, 1), (CROWDED, 0), (COMPUTES, 1), (NOT_COUNTED, 1)], ids=repr
)


@beyond_doubt
def test_a_step_that_nobody_could_look_into(machine: Machine, knows: Account, blocks: int) -> None:
    """One call in C that keeps the GIL; or the GIL was kept by a thread that had no processor."""
    machine.thread.knows = knows
    assert len(machine.ends(machine.begins(), 166)) == blocks


@beyond_doubt
def test_a_step_that_nobody_could_look_into_but_at_its_end(machine: Machine, knows: Account, blocks: int) -> None:
    """Who waited for the GIL may come to it just before, and has seen no more of it."""
    record = machine.begins()
    machine.looks(166, late=120)
    machine.thread.knows = knows
    assert len(machine.ends(record, 1)) == blocks


@beyond_doubt
def test_a_step_that_was_looked_into_late_each_time(machine: Machine, knows: Account, blocks: int) -> None:
    """Where several threads have the GIL in turns, and each of them starves."""
    record = machine.begins()
    for _ in range(8):
        machine.looks(LATE + PACE, late=LATE)
    machine.thread.knows = knows
    assert len(machine.ends(record)) == blocks


@beyond_doubt
def test_a_callback_that_was_looked_into_late_each_time(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, knows: Account, blocks: int
) -> None:
    seen = Look(Unit.CALLBACK, 1, True, (), 0, "callback")
    monkeypatch.setattr(watch_module, "look", lambda *_: seen)
    machine.looks(166, late=120, kept_since=machine.now)
    for _ in range(8):
        machine.looks(LATE + PACE, late=LATE)
    monkeypatch.setattr(watch_module, "look", lambda *_: None)
    machine.thread.knows = knows
    machine.looks(PACE)
    assert len(machine.told) == blocks


def slept_through(machine: Machine) -> None:
    """The looks come late, and the thread has not run in between: it does not wait for the GIL either."""
    machine.looks(60)
    machine.thread.runs = False
    for _ in range(4):
        machine.looks(LATE + PACE, late=LATE)


def looked_into_in_time(machine: Machine) -> None:
    """Nobody keeps the GIL from the watchdog: many short waits for a disk, for instance."""
    machine.looks(60)
    for _ in range(10):
        machine.looks(PACE)


def slept_before_the_first_look(machine: Machine) -> None:
    """It came late, but earlier looks, one of them without the GIL, have found that the thread runs no more."""
    machine.looks(20)
    machine.thread.runs = False
    machine.looks(120, late=70)


@pytest.mark.parametrize("looked", [slept_through, looked_into_in_time, slept_before_the_first_look])
def test_what_was_seen_throughout_is_told_however_crowded_the_machine_is(
    machine: Machine, looked: Callable[[Machine], None]
) -> None:
    record, machine.thread.knows = machine.begins(), CROWDED
    looked(machine)
    assert len(machine.ends(record, PACE)) == 1


def test_the_first_look_alone_even_in_time_is_not_enough(machine: Machine) -> None:
    record, machine.thread.knows = machine.begins(), CROWDED
    machine.looks(60)
    assert machine.ends(record, 150) == []


def test_what_is_in_doubt_is_not_told_while_it_lasts_either(machine: Machine) -> None:
    record, machine.thread.knows = machine.begins(), CROWDED
    for _ in range(100):
        machine.looks(LATE + PACE, late=LATE)
    assert machine.ends(record) == []


def test_what_is_beyond_doubt_is_told_while_it_lasts(machine: Machine) -> None:
    machine.begins()
    machine.thread.knows = CROWDED._replace(used=PATIENCE)
    for _ in range(30):
        machine.looks(LATE + PACE, late=LATE)
    assert [block.over for block in machine.told] == [False]


# What the kernel tells.


def test_by_how_much_the_watchdog_was_late_is_known_of_its_last_wait() -> None:
    stops = Stops()
    stops.woke([SimpleNamespace(since=0, until=9 * MS, asked=0), SimpleNamespace(since=0, until=MS, asked=0)], 0)  # type: ignore[list-item]
    assert stops.late == 9 * MS
    stops.woke([SimpleNamespace(since=0, until=MS, asked=0)], 0)  # type: ignore[list-item]
    assert stops.late == MS


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> Any:
    """One whose clock is set by hand."""
    meter: Any = ThreadMeter(None)
    meter.cpu = 500 * MS
    monkeypatch.setattr(meter, "_read", lambda: meter.cpu)
    return meter


def test_what_a_thread_used_before_is_not_counted(meter: Any) -> None:
    """All the time from the reading to the start may have been spent on a processor."""
    meter.begin(1_000 * MS)
    meter.cpu += 200 * MS
    assert meter.used_since(1_000 * MS) == 200 * MS
    assert meter.used_since(1_050 * MS) == 150 * MS
    assert meter.used_since(2_000 * MS) == 0


def test_of_a_reading_within_all_that_was_used_since_is_counted(meter: Any) -> None:
    meter.begin(1_000 * MS)
    meter.cpu += 200 * MS
    assert meter.used_since(900 * MS) == 200 * MS


def test_where_nothing_was_read_or_nobody_can_tell_nothing_was_used(meter: Any) -> None:
    assert meter.used_since(0) == 0
    meter.begin(1_000 * MS)
    meter.cpu = None
    assert meter.used_since(0) == 0


def test_what_a_thread_used_after_the_end_is_not_counted(meter: Any) -> None:
    """Of a callback the end is known when the next look is taken."""
    state: Any = SimpleNamespace(now=lambda: 1_300 * MS)
    thread: Any = LoopThread(0, state, limit=LIMIT, drowsy=LIMIT, real=False)
    thread._meter, thread._real = meter, True
    meter.begin(1_000 * MS)
    meter.cpu += 250 * MS
    assert thread.account(1_000 * MS, 1_200 * MS).used == 150 * MS
    assert thread.account(1_000 * MS, 1_000 * MS).used == 0


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        (
            b"some avg10=2.16 avg60=0.81 avg300=5.15 total=8751\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n",
            8751_000,
        ),
        (b"", None),
        (b"some", None),
    ],
)
def test_what_anybody_waited_is_read_in_nanoseconds(
    monkeypatch: pytest.MonkeyPatch, text: bytes, nanoseconds: int | None
) -> None:
    monkeypatch.setattr(runqueue, "_read", lambda _: text)
    assert runqueue.anybody_waited() == nanoseconds


def test_one_that_waited_may_have_waited_as_often_as_there_are_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's time is a mean over them."""
    counted = 7 * MS
    monkeypatch.setattr(loopthread, "PROCESSORS", 4)
    monkeypatch.setattr(loopthread, "anybody_waited", lambda: counted)
    monkeypatch.setattr(loopthread, "Vigil", None)
    thread = LoopThread(threading.get_ident(), SimpleNamespace(now=lambda: 0), limit=LIMIT, drowsy=LIMIT, real=True)  # type: ignore[arg-type]
    thread.begin(0)
    counted += 5 * MS
    assert thread.account(0, 100 * MS).crowded == 20 * MS
    assert thread.account(0, 10 * MS).crowded == 10 * MS


def test_where_nobody_counts_the_crowd_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(_: str) -> bytes:
        raise OSError

    monkeypatch.setattr(runqueue, "_read", read)
    assert runqueue.anybody_waited() is None


@pytest.mark.skipif(runqueue.anybody_waited() is None, reason="needs Linux that counts who waits for a processor")
def test_who_waited_becomes_more() -> None:
    first = runqueue.anybody_waited() or 0
    time.sleep(0.01)
    assert 0 <= first <= (runqueue.anybody_waited() or 0)
