"""A thread that gets no processor has not blocked its loop; and what does block it is told on a crowded machine, too."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crowded import crowded, where_it_is_counted
from harness import NewLoop, Spans, instrumented, run_on

from otel_asyncio.observe.runqueue import waited
from otel_asyncio.observe.starvation import Starvation

THRESHOLD = 0.2
NEEDS = 0.08  # of processor time, which takes as many times longer as there are others that want it
MS = 1_000_000


def compute(seconds: float) -> None:
    started = time.thread_time()
    while time.thread_time() - started < seconds:
        pass


def waits_for(function: Callable[[], None]) -> float:
    """For how many seconds this thread waited for a processor meanwhile."""
    before = waited() or 0
    function()
    return ((waited() or 0) - before) / 1e9


@pytest.fixture
def blocks(new_loop: NewLoop, spans: Spans) -> Callable[[Any], list[str]]:
    """Runs a program on a crowded core and returns the names of the blocks that are told."""

    def run(main: Any) -> list[str]:
        with crowded(), instrumented(spans, block_threshold=THRESHOLD):
            run_on(new_loop, main())
        return [span.name for span in spans.all() if span.name.startswith("block ")]

    return run


@where_it_is_counted
def test_a_step_that_gets_no_processor_is_no_block(blocks: Any) -> None:
    starved = []

    async def main() -> None:
        for _ in range(8):  # the first before anybody has looked
            starved.append(waits_for(lambda: compute(NEEDS)))
            await asyncio.sleep(0.05)

    assert blocks(main) == []
    assert max(starved) > THRESHOLD, "or nothing was shown"


@where_it_is_counted
def test_a_callback_that_gets_no_processor_is_no_block(blocks: Any) -> None:
    starved = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(8):
            over = loop.create_future()
            loop.call_later(0.05, lambda: starved.append(waits_for(lambda: compute(NEEDS))))
            loop.call_later(0.06, over.set_result, None)
            await over

    assert blocks(main) == []
    assert max(starved) > THRESHOLD, "or nothing was shown"


def sleeps() -> None:
    time.sleep(4 * THRESHOLD)


def computes() -> None:
    compute(3 * THRESHOLD)


@where_it_is_counted
@pytest.mark.parametrize("way", (sleeps, computes), ids=lambda way: way.__name__)
def test_a_step_that_blocks_is_told_however_crowded_the_machine_is(blocks: Any, way: Callable[[], None]) -> None:
    async def main() -> None:
        for _ in range(4):
            await asyncio.sleep(0.05)
        way()

    assert blocks(main) in (["block sleeps"], ["block computes"], ["block compute"])


@where_it_is_counted
@pytest.mark.parametrize("way", (sleeps, computes), ids=lambda way: way.__name__)
def test_a_callback_that_blocks_is_told_however_crowded_the_machine_is(blocks: Any, way: Callable[[], None]) -> None:
    async def main() -> None:
        await asyncio.sleep(0.2)
        asyncio.get_running_loop().call_soon(way)
        await asyncio.sleep(0.2)

    assert blocks(main) in (["block sleeps"], ["block computes"], ["block compute"])


@where_it_is_counted
def test_what_one_thread_waited_is_not_charged_to_another(new_loop: NewLoop, spans: Spans) -> None:
    """A loop that was taken in by a thread which then waited for long, and runs in another."""

    async def main() -> None:
        time.sleep(1.5 * THRESHOLD)

    with instrumented(spans, block_threshold=THRESHOLD):
        loop = new_loop()
        task = loop.create_task(main())
        with crowded():
            while waits_for(lambda: compute(4 * NEEDS)) < THRESHOLD:
                pass
        thread = threading.Thread(target=loop.run_until_complete, args=(task,))
        thread.start()
        thread.join()
        loop.close()
    assert [span.name.rpartition(".")[2] for span in spans.all() if span.name.startswith("block ")] == ["main"]


STOPPED = """
import asyncio, os, signal, sys, time
sys.path.append(sys.argv[2])
from crowded import crowded
from otel_asyncio import Settings
from otel_asyncio.testing import record

new_loop = __import__(sys.argv[1]).new_event_loop

async def main():
    await asyncio.sleep(0.3)
    for _ in range(2):
        waker = os.fork()
        if waker == 0:
            time.sleep(2)
            os.kill(os.getppid(), signal.SIGCONT)
            os._exit(0)
        await asyncio.sleep(0.3)  # the watchdog, which a fork stops, starts again
        os.kill(os.getpid(), signal.SIGSTOP)
        started = time.thread_time()
        while time.thread_time() - started < 0.05:
            pass
        await asyncio.sleep(0)
        os.waitpid(waker, 0)

with crowded(), record(settings=Settings(block_threshold=0.3, stuck_after=0.6)) as recorder:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
print([span.name for span in recorder.spans if "asyncio.problem" in span.attributes])
"""


@where_it_is_counted
def test_a_step_that_is_stopped_and_starved_is_no_block(loop_kind: str) -> None:
    command = [sys.executable, "-c", STOPPED, loop_kind, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


class Kernel:
    """A clock, and what is counted of one thread."""

    def __init__(self) -> None:
        self.now = 1_000 * MS
        self.counted: int | None = 0
        self.starvation = Starvation(lambda: self.counted, lambda: self.now)

    def waits(self, milliseconds: int) -> None:
        assert self.counted is not None
        self.now += milliseconds * MS
        self.counted += milliseconds * MS

    def runs(self, milliseconds: int) -> None:
        self.now += milliseconds * MS


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


def test_what_was_waited_before_the_last_reading_is_not_charged_to_what_began_later(kernel: Kernel) -> None:
    kernel.waits(500)
    kernel.starvation.note()
    start = kernel.now
    kernel.waits(30)
    kernel.runs(300)
    assert kernel.starvation.at_most(start, kernel.now) == 30 * MS


def test_a_wait_in_the_middle_of_which_the_count_was_read_is_charged_in_full(kernel: Kernel) -> None:
    """The kernel counts it when it is over: the reading knew nothing of it."""
    kernel.starvation.note()
    start = kernel.now
    kernel.now += 100 * MS
    kernel.starvation.note()
    kernel.now += 1 * MS
    kernel.counted = 101 * MS
    assert kernel.starvation.at_most(start, kernel.now) == 101 * MS


def test_a_reading_that_took_long_counts_as_read_at_its_end(kernel: Kernel) -> None:
    """Whoever reads may lose its processor between the clock and the file."""
    start = kernel.now

    def read() -> int:
        counted = kernel.counted or 0
        kernel.waits(200)  # of this the reading does not know
        return counted

    starvation = Starvation(read, lambda: kernel.now)
    starvation.note()
    starvation._waited = lambda: kernel.counted
    assert starvation.at_most(start, kernel.now) == 200 * MS


def test_where_nothing_was_read_before_it_began_a_later_reading_bounds_it(kernel: Kernel) -> None:
    """All that was before that reading may have been waited, and of what was counted since nothing is left out."""
    kernel.waits(5_000)
    start = kernel.now
    kernel.runs(40)
    kernel.starvation.note()
    kernel.waits(30)
    kernel.runs(300)
    assert kernel.starvation.at_most(start, kernel.now) == (40 + 30) * MS


def test_never_more_than_there_was_is_charged(kernel: Kernel) -> None:
    kernel.waits(500)
    start = kernel.now
    kernel.runs(100)
    assert kernel.starvation.at_most(start, kernel.now) == 100 * MS


def test_where_nobody_counts_nobody_was_starved(kernel: Kernel) -> None:
    kernel.counted = None
    kernel.starvation.note()
    assert kernel.starvation.at_most(0, kernel.now) == 0
    assert waited(2**30) is None
