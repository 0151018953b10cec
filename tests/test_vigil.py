"""The watchdog's wait: how late it was and why, and what it sees without the GIL."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import Spans, instrumented, run_on

from otel_asyncio.observe import bell, flavour
from otel_asyncio.observe.bell import COUNTS_SWITCHES, Bell, Delay
from otel_asyncio.observe.cells import LoopCell
from otel_asyncio.observe.loopthread import LoopThread
from otel_asyncio.observe.pauses import Stops
from otel_asyncio.observe.runqueue import anybody_waited
from otel_asyncio.observe.runqueue import waited as own_wait

MS, SECOND = 1_000_000, 1_000_000_000
LIMIT = 60 * MS

where_switches_are_counted = pytest.mark.skipif(not COUNTS_SWITCHES, reason="needs Linux")
with_vigils = pytest.mark.skipif(bell.Vigil is None, reason="needs Python and the compiled step hook")


# What keeps the watchdog from running.


def delay(milliseconds: int, asked: int) -> Delay:
    return Delay(SECOND, SECOND + milliseconds * MS, asked)


@where_switches_are_counted
def test_one_that_keeps_the_gil_is_asked_for_it_every_switch_interval() -> None:
    assert Stops().woke([delay(300, asked=60)], 0) == SECOND


@where_switches_are_counted
def test_where_several_have_the_gil_in_turns_nobody_keeps_it() -> None:
    """Each time one lets go of it the watchdog wakes up, and comes too late."""
    assert Stops().woke([delay(300, asked=200)], 0) is None


@where_switches_are_counted
def test_what_was_a_convoy_was_no_stop_either() -> None:
    stops = Stops()
    stops.woke([delay(300, asked=200)], 0)
    assert stops.within(0, 2 * SECOND) == 0


@where_switches_are_counted
def test_a_process_that_asks_for_nothing_is_stopped() -> None:
    stops = Stops()
    assert stops.woke([delay(300, asked=0)], own_wait() or 0) is None
    assert stops.within(0, 2 * SECOND) >= 150 * MS


# The bell, in Python and compiled.


def later(seconds: float, call: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(seconds, call)
    timer.start()
    return timer


def test_a_bell_that_rings_ends_the_wait() -> None:
    waits = Bell()
    timer = later(0.05, waits.ring)
    start = time.perf_counter()
    waits.wait(60 * SECOND, ())
    assert time.perf_counter() - start < 30
    timer.join()


def test_a_bell_that_rang_before_ends_the_next_wait_and_no_other() -> None:
    waits = Bell()
    waits.ring()
    waits.ring()
    start = time.perf_counter()
    waits.wait(60 * SECOND, ())
    assert time.perf_counter() - start < 30
    waits.wait(10 * MS, ())
    assert time.perf_counter_ns() >= waits.due


def test_who_waits_says_when_it_wanted_to_wake_up_and_when_it_did() -> None:
    waits = Bell()
    before = time.perf_counter_ns()
    delays = [Delay(*each) for each in waits.wait(10 * MS, ())]
    after = time.perf_counter_ns()
    assert before + 10 * MS <= waits.due == delays[0].since
    assert delays[0].until <= delays[-1].until <= after


# What is seen without the GIL.


class Watched:
    """A loop's cell, and a thread that runs as it is told."""

    def __init__(self) -> None:
        self.cell: Any = LoopCell()
        self.works, self.ends = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while not self.ends.is_set():
            if self.works.wait(0.001):
                sum(range(1000))

    def vigil(self, drowsy: float = math.inf) -> Any:
        ends = int(min(drowsy, 3600) * SECOND)
        return bell.Vigil(self.cell, self.thread.native_id, limit=LIMIT, drowsy=ends)

    def end(self) -> None:
        self.ends.set()
        self.works.set()
        self.thread.join()


@pytest.fixture
def watched() -> Iterator[Watched]:
    watched = Watched()
    yield watched
    watched.end()


@pytest.fixture
def standing() -> Iterator[int]:
    """The kernel's number of a thread that stands still."""
    ends = threading.Event()
    thread = threading.Thread(target=ends.wait)
    thread.start()
    assert thread.native_id is not None
    yield thread.native_id
    ends.set()
    thread.join()


def spin(nanoseconds: int) -> None:
    until = time.thread_time_ns() + nanoseconds
    while time.thread_time_ns() < until:
        pass


def waited(vigil: Any, seconds: float) -> float:
    """For how many seconds a wait with this vigil lasted."""
    start = time.perf_counter()
    Bell().wait(int(seconds * SECOND), (vigil,))
    return time.perf_counter() - start


def seen_idle(vigil: Any) -> None:
    """As if Python had looked, once the thread had come to rest."""
    while vigil.ran():
        time.sleep(0.01)
    vigil.idle = True


def lasts(vigil: Any, seconds: float) -> bool:
    """Whether it lasts so long. On a crowded machine the watchdog wakes up late, which is for Python to look into."""
    return any(waited(vigil, seconds) >= seconds for _ in range(20))


@with_vigils
def test_a_loop_that_works_on_something_without_end_is_looked_at(watched: Watched) -> None:
    watched.works.set()
    assert waited(watched.vigil(), 60) < 30


@with_vigils
def test_a_loop_that_stands_still_is_looked_at_until_it_was_seen_idle(standing: int) -> None:
    """In a `time.sleep` it does not run either."""
    vigil = bell.Vigil(LoopCell(), standing, limit=LIMIT, drowsy=3600 * SECOND)
    unseen = waited(vigil, 60)
    seen_idle(vigil)
    assert unseen < 30
    assert lasts(vigil, 0.5)


@with_vigils
def test_a_loop_that_was_idle_and_stands_still_is_looked_at(watched: Watched) -> None:
    """It has run since it was seen idle, so that it may stand in a `time.sleep` now."""
    vigil = watched.vigil()
    vigil.ran()
    vigil.idle = True
    watched.works.set()
    spin(5 * MS)
    watched.works.clear()
    assert waited(vigil, 60) < 30
    assert not vigil.idle


def test_a_thread_that_has_run_is_not_known_to_be_idle() -> None:
    async def main() -> bool:
        state = asyncio.get_running_loop()._otel_asyncio  # type: ignore[attr-defined]
        thread = LoopThread(threading.get_ident(), state, limit=LIMIT, drowsy=SECOND, real=True)
        thread.idle = True
        spin(MS)
        thread.ran(state.now())
        return thread.idle

    with instrumented(Spans()):
        assert not run_on(asyncio.new_event_loop, main())


@with_vigils
def test_a_loop_that_is_idle_for_long_is_looked_at_once_more_to_be_left_alone(standing: int) -> None:
    vigil = bell.Vigil(LoopCell(), standing, limit=LIMIT, drowsy=SECOND // 10)
    seen_idle(vigil)
    first = waited(vigil, 60)
    vigil.dozes = True
    assert first < 30
    assert lasts(vigil, 0.5)


@with_vigils
def test_a_thread_that_is_gone_wants_a_look_and_is_given_up(watched: Watched) -> None:
    vigil = watched.vigil()
    vigil.idle = True
    watched.end()
    assert waited(vigil, 60) < 30
    assert vigil.ran()
    assert vigil.lost


def beside_steps(watches: Callable[[Any], Any]) -> Any:
    """What this says of a loop that takes one step after another, whose state it is given."""

    async def main() -> Any:
        state, answers = asyncio.get_running_loop()._otel_asyncio, []  # type: ignore[attr-defined]
        watcher = threading.Thread(target=lambda: answers.append(watches(state)))
        watcher.start()
        while watcher.is_alive():
            await asyncio.sleep(0)
        return answers[0]

    with instrumented(Spans()):
        return run_on(asyncio.new_event_loop, main())


def vigil_of_this_thread(state: Any, **seen: Any) -> Any:
    vigil = bell.Vigil(state, threading.main_thread().native_id, limit=3 * SECOND // 2, drowsy=3600 * SECOND)
    for name, value in seen.items():
        setattr(vigil, name, value)
    return vigil


@with_vigils
def test_a_loop_whose_steps_begin_one_after_another_is_not_looked_at() -> None:
    """However busy it is: nothing on its stack is old."""
    assert beside_steps(lambda state: lasts(vigil_of_this_thread(state), 2))


@with_vigils
def test_a_loop_that_dozed_is_looked_at_when_steps_begin() -> None:
    assert beside_steps(lambda state: waited(vigil_of_this_thread(state, dozes=True), 60)) < 30


@with_vigils
def test_turns_that_another_thread_takes_want_a_look(standing: int) -> None:
    def watches(state: Any) -> float:
        vigil = bell.Vigil(state, standing, limit=200 * SECOND, drowsy=3600 * SECOND)
        vigil.pace = 10 * MS
        vigil.ran()
        return waited(vigil, 60)

    assert beside_steps(watches) < 50


@with_vigils
def test_how_long_a_running_thread_was_starved_is_read_without_the_gil(watched: Watched) -> None:
    watched.works.set()
    vigil = watched.vigil()
    before = time.perf_counter_ns()
    waited(vigil, 1)
    readings = vigil.readings()
    if not readings and not os.path.exists("/proc/self/schedstat"):  # noqa: PTH110 - nothing else is asked of it
        pytest.skip("the kernel counts no time in the run queue")
    assert all(before <= by <= time.perf_counter_ns() and starved >= 0 for starved, by in readings)
    assert readings


@with_vigils
def test_how_long_anybody_was_starved_is_read_with_it(watched: Watched) -> None:
    watched.works.set()
    vigil, before = watched.vigil(), anybody_waited()
    waited(vigil, 1)
    after = anybody_waited()
    if before is None or after is None or own_wait() is None:
        assert vigil.crowd() == ()
        pytest.skip("the kernel does not count who waits for a processor")
    assert [by for _, by in vigil.crowd()] == [by for _, by in vigil.readings()]
    assert all(before <= crowd <= after for crowd, _ in vigil.crowd())
    assert vigil.crowd()


def own_vigil(**limits: int) -> tuple[Any, Any]:
    """This thread's, and the cell of the loop that it could run."""
    cell: Any = LoopCell()
    return bell.Vigil(cell, threading.get_native_id(), **{"limit": LIMIT, "drowsy": SECOND} | limits), cell


@with_vigils
def test_a_vigil_tells_what_its_thread_has_used_at_least() -> None:
    vigil, _ = own_vigil()
    assert vigil.used_since(0) == 0, "nothing was read before"
    spin(20 * MS)
    vigil.begin(now := time.perf_counter_ns())
    before = time.thread_time_ns()
    spin(20 * MS)
    used, later = vigil.used_since(now), vigil.used_since(now + 15 * MS)
    assert 20 * MS <= used <= time.thread_time_ns() - before + 2 * MS
    assert 0 < later < used
    assert vigil.used_since(now + 3600 * SECOND) == 0
    assert vigil.used_since(now - SECOND) >= used


@with_vigils
@pytest.mark.parametrize("turns", (True, False), ids=("steps begin", "one lasts"))
def test_what_a_thread_uses_is_counted_from_where_nothing_old_can_run(turns: bool) -> None:
    """Read without the GIL, while another thread runs: a step that began since the last time is young."""

    def watches(state: Any) -> bool:
        vigil = vigil_of_this_thread(state if turns else LoopCell())
        vigil.ran()
        Bell().wait(30 * MS, (vigil,))  # one look, at its end
        return bool(vigil.based)

    # On a crowded machine the thread may not have run from one look to the next.
    assert any(beside_steps(watches) == turns for _ in range(20))


@with_vigils
def test_what_a_thread_uses_is_counted_from_where_it_has_not_run(standing: int) -> None:
    vigil = bell.Vigil(LoopCell(), standing, limit=LIMIT, drowsy=3600 * SECOND)
    seen_idle(vigil)
    waited(vigil, 0.1)
    assert vigil.based


@with_vigils
@pytest.mark.parametrize("arguments", [(), (object(), 1), (1,)], ids=repr)
def test_a_vigil_made_in_another_way_says_so(arguments: Any) -> None:
    with pytest.raises(TypeError):
        bell.Vigil(*arguments, limit=1, drowsy=1)


@with_vigils
@pytest.mark.parametrize("vigils", [None, [], (1,)], ids=repr)
def test_a_wait_with_anything_but_vigils_says_so(vigils: Any) -> None:
    with pytest.raises(TypeError):
        flavour.extension.Bell().wait(1, vigils)


@with_vigils
def test_a_vigil_keeps_nothing_alive_once_it_is_gone() -> None:
    class Cell(LoopCell):
        """One that can be watched."""

        __slots__ = ("__weakref__", "vigil")

    cell: Any = Cell()
    cell.vigil = bell.Vigil(cell, threading.get_native_id(), limit=1, drowsy=1)
    gone = weakref.ref(cell)
    del cell
    gc.collect()
    assert gone() is None


@with_vigils
def test_who_kept_the_gil_is_not_asked_where_a_step_has_begun_meanwhile() -> None:
    """What is on the stack then is younger than the wait for the GIL."""

    async def main() -> list[bool]:
        state = asyncio.get_running_loop()._otel_asyncio  # type: ignore[attr-defined]
        thread = LoopThread(threading.get_ident(), state, limit=LIMIT, drowsy=SECOND, real=True)
        busy = []
        for steps in (0, 1):
            waited(thread._vigil, 0.001)
            spin(10 * MS)
            for _ in range(steps):
                await asyncio.sleep(0)
            thread.ran(state.now())
            busy.append(thread.was_busy(state.now() - MS, state.now()))
        return busy

    with instrumented(Spans()):
        assert run_on(asyncio.new_event_loop, main()) == [True, False]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("forks", ("main", "another"))
def test_the_thread_of_a_forked_child_is_known_by_its_new_number(forks: str) -> None:
    """Otherwise a worker that was forked knows neither whether its loop runs nor that it starved."""
    program = f"""
import os, threading
from otel_asyncio.observe.meter import native_id_of

def fork():
    if child := os.fork():
        os.waitpid(child, 0)
        return
    forked = threading.get_ident()
    asks = threading.Thread(target=lambda: print(native_id_of(forked) == os.getpid()))
    asks.start()
    asks.join()
    print(native_id_of(threading.get_ident()) == threading.get_native_id(), flush=True)
    os._exit(0)

if {forks == "main"}:
    fork()
else:
    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("True\nTrue\n", "")
