"""The tree of live tasks: who awaits whom, where, since when; from any thread, and by a signal."""

from __future__ import annotations

import asyncio
import gc
import inspect
import io
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import LOOP_KINDS, Spans, TracedRun, asyncio_only, both_ways, instrumented

from otel_asyncio import dump_tasks
from otel_asyncio.testing import AutojumpLoop, record


def dumped() -> list[str]:
    """The lines of a dump, with the tasks' own names and without directories."""
    file = io.StringIO()
    dump_tasks(file)
    return [line.replace(f"{Path(__file__).parent}{os.sep}", "") for line in file.getvalue().splitlines()]


def line_of(lines: list[str], name: str) -> str:
    (found,) = [line for line in lines if line.lstrip().startswith(f"{name} ")]
    return found


def here() -> int:
    """The line that calls this."""
    frame = inspect.currentframe()
    assert frame is not None and frame.f_back is not None
    return frame.f_back.f_lineno


async def sleeps() -> None:
    await asyncio.sleep(60)


async def awaits(task: Any) -> None:
    await task


async def groups() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(sleeps(), name="in the group")


async def gathers() -> None:
    await asyncio.gather(asyncio.create_task(sleeps(), name="gathered"))


async def waits() -> None:
    await asyncio.wait([asyncio.create_task(sleeps(), name="waited for")])


async def shields() -> None:
    await asyncio.shield(asyncio.create_task(sleeps(), name="shielded"))


async def holds(lock: asyncio.Lock) -> None:
    async with lock:
        await asyncio.sleep(60)


async def locks(lock: asyncio.Lock) -> None:
    async with lock:
        pass


async def settle(*tasks: Any) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def test_times_are_exact() -> None:
    async def works() -> None:
        loop.spin(0.25)
        await asyncio.sleep(1)
        await asyncio.sleep(60)

    async def main() -> list[str]:
        task = asyncio.create_task(works(), name="worker")
        await asyncio.sleep(3)
        lines = dumped()
        await settle(task)
        return lines

    loop = AutojumpLoop()
    with record(clock=loop.clock), asyncio.Runner(loop_factory=lambda: loop) as runner:
        line = line_of(runner.run(main()), "worker")
    assert "waiting for 1.750 s for asyncio.sleep at test_dump.py:" in line
    assert line.endswith("[busy 0.250 s, scheduled 0.000 s, idle 2.750 s]")


@both_ways
@pytest.mark.parametrize(
    ("program", "below"),
    [(groups, "in the group"), (gathers, "gathered"), (waits, "waited for"), (shields, "shielded")],
)
def test_whoever_is_awaited_stands_below_whoever_awaits(traced_run: TracedRun, program: Any, below: str) -> None:
    async def main() -> list[str]:
        task = asyncio.create_task(program(), name="above")
        await asyncio.sleep(0.01)
        lines = dumped()
        await settle(task, *(other for other in asyncio.all_tasks() - {asyncio.current_task(), task}))
        return lines

    lines = traced_run(main())
    number = lines.index(line_of(lines, "above"))
    assert lines[number].startswith("  above")
    assert lines[number + 1].startswith(f"    {below} ")


@both_ways
def test_a_task_that_two_await_is_told_once(traced_run: TracedRun) -> None:
    async def main() -> list[str]:
        one = asyncio.create_task(sleeps(), name="one")
        first, second = (asyncio.create_task(awaits(one), name=name) for name in ("first", "second"))
        await asyncio.sleep(0)
        lines = dumped()
        await settle(one, first, second)
        return lines

    lines = [line.partition(":")[0] for line in traced_run(main())]
    assert "    one sleeps" in lines
    assert "    one (see above)" in lines


@asyncio_only
def test_tasks_that_await_each_other_in_a_circle_are_all_told(traced_run: TracedRun) -> None:
    async def main() -> list[str]:
        tasks: list[Any] = []

        async def turns(number: int) -> None:
            await asyncio.sleep(0)
            await asyncio.shield(tasks[(number + 1) % 3])

        tasks += [asyncio.create_task(turns(number), name=f"turn{number}") for number in range(3)]
        await asyncio.sleep(0.01)
        lines = dumped()
        await settle(*tasks)
        return lines

    lines = traced_run(main())
    assert {f"turn{number}" for number in range(3)} <= {line.split()[0] for line in lines}


@both_ways
def test_of_a_lock_the_holder_is_told(traced_run: TracedRun) -> None:
    async def main() -> list[str]:
        lock = asyncio.Lock()
        tasks = [asyncio.create_task(holds(lock), name="holder"), asyncio.create_task(locks(lock), name="waiter")]
        await asyncio.sleep(0)
        lines = dumped()
        await settle(*tasks)
        return lines

    line = line_of(traced_run(main()), "waiter")
    taken = holds.__code__.co_firstlineno + 1
    assert re.search(rf"for Lock.acquire at .*, held by holder for \d.\d+ s, taken at test_dump.py:{taken} ", line)


@both_ways
def test_the_task_that_runs_names_its_line(traced_run: TracedRun) -> None:
    line = 0

    async def main() -> list[str]:
        nonlocal line
        task = asyncio.current_task()
        assert task is not None
        task.set_name("me")
        line = here() + 1
        return dumped()

    told = line_of(traced_run(main()), "me")
    assert re.search(r"me .*main: running for \d.\d+ s at ", told)
    assert "in dumped" in told


def block(release: threading.Event) -> None:
    deadline = time.monotonic() + 30
    while not release.is_set() and time.monotonic() < deadline:
        time.sleep(0.001)


@both_ways
def test_another_thread_sees_where_a_blocked_loop_stands(traced_run: TracedRun) -> None:
    async def main() -> list[str]:
        lines: list[str] = []
        entered, release = threading.Event(), threading.Event()

        def watch() -> None:
            entered.wait(30)
            deadline = time.monotonic() + 30
            while not any("in block" in line for line in lines) and time.monotonic() < deadline:
                lines[:] = dumped()
            release.set()

        waiting = asyncio.create_task(sleeps(), name="waiting")
        await asyncio.sleep(0)
        thread = threading.Thread(target=watch)
        thread.start()
        entered.set()
        block(release)
        thread.join()
        await settle(waiting)
        return lines

    lines = traced_run(main())
    assert "for asyncio.sleep" in line_of(lines, "waiting")
    assert any(" running for " in line and "in block" in line for line in lines)


def test_the_loops_of_all_threads_are_told(run: Callable[..., Any], instrumented_process: Any) -> None:
    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        started, stop = threading.Event(), asyncio.Event()

        async def elsewhere() -> None:
            started.set()
            await asyncio.sleep(60)

        thread = threading.Thread(target=lambda: asyncio.run(_until(elsewhere(), stop_elsewhere)))
        stop_elsewhere = threading.Event()
        thread.start()
        await loop.run_in_executor(None, started.wait)
        lines = dumped()
        stop_elsewhere.set()
        await loop.run_in_executor(None, thread.join)
        del stop
        return lines

    lines = run(main())
    assert len([line for line in lines if line.startswith("event loop")]) == 2
    assert any("elsewhere: waiting" in line for line in lines)


async def _until(coro: Any, stop: threading.Event) -> None:
    task = asyncio.create_task(coro)
    while not stop.is_set():
        await asyncio.sleep(0.001)
    task.cancel()


def test_without_tracing_the_tree_is_there_without_times(run: Callable[..., Any]) -> None:
    async def main() -> list[str]:
        task = asyncio.create_task(sleeps(), name="plain")
        await asyncio.sleep(0)
        lines = dumped()
        await settle(task)
        return lines

    assert line_of(run(main()), "plain").partition(" at ")[0] == "  plain sleeps: waiting for asyncio.sleep"


def test_without_any_loop_it_says_so() -> None:
    assert dumped() == ["no event loop is known"]


@both_ways
def test_nothing_is_kept_by_a_dump(traced_run: TracedRun) -> None:
    """T10: a task looks at its own stack here."""

    async def dumps() -> None:
        dumped()

    async def main() -> int:
        await asyncio.create_task(dumps())
        gc.collect()
        gc.disable()
        try:
            for _ in range(10):
                await asyncio.create_task(dumps())
            return gc.collect()
        finally:
            gc.enable()

    assert traced_run(main()) < 10


def test_a_thousand_tasks_come_and_go_while_other_threads_dump(traced_run: TracedRun, spans: Spans) -> None:
    async def main() -> list[str]:
        stop, failures = threading.Event(), []

        def watch() -> None:
            try:
                while not stop.is_set():
                    dumped()
            except Exception as error:
                failures.append(repr(error))

        threads = [threading.Thread(target=watch) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            await asyncio.gather(*(asyncio.sleep(0) for _ in range(50)))
        stop.set()
        for thread in threads:
            thread.join()
        return failures

    assert traced_run(main()) == []


PROGRAM = """
    import asyncio, os, signal, sys, time
    from opentelemetry.sdk.trace import TracerProvider
    import otel_asyncio

    async def blocks():
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.01)

    async def waits():
        await asyncio.sleep(0.05)
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.sleep(0.05)

    async def main():
        task = asyncio.create_task(waits(), name="waits")
        await blocks()
        await task
        loop = asyncio.get_running_loop()
        loop.run_in_executor(None, lambda: (time.sleep(0.1), os.kill(os.getpid(), signal.SIGUSR1)))
        await asyncio.sleep(0.3)

    signal.signal(signal.SIGUSR1, lambda *_: print("theirs", flush=True))
    otel_asyncio.AsyncioInstrumentor().instrument(tracer_provider=TracerProvider())
    if sys.argv[1] == "uvloop":
        import uvloop
        uvloop.run(main())
    else:
        asyncio.run(main())
    otel_asyncio.AsyncioInstrumentor().uninstrument()
    os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.parametrize("kind", LOOP_KINDS)
def test_a_signal_prints_the_tree_also_while_the_loop_is_blocked_or_idle(kind: str) -> None:
    """And whoever has had the signal before gets it too, and has it back afterwards."""
    if kind == "uvloop":
        pytest.importorskip("uvloop")
    environment = {**os.environ, "OTEL_PYTHON_ASYNCIO_DUMP_SIGNAL": "SIGUSR1"}
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), kind]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("event loop 0") == 3
    assert "in blocks" in done.stderr
    assert done.stdout.split() == ["theirs"] * 4


def test_a_signal_outside_the_main_thread_is_said_not_to_be_watched(
    spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    def instrument() -> None:
        with instrumented(spans, dump_signal="SIGUSR1"):
            pass

    thread = threading.Thread(target=instrument)
    thread.start()
    thread.join()
    assert ["dump_signal" in record.getMessage() for record in caplog.records] == [True]


def test_the_signal_is_given_back(spans: Spans) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with instrumented(spans, dump_signal="SIGUSR1"):
        assert signal.getsignal(signal.SIGUSR1) is not before
    assert signal.getsignal(signal.SIGUSR1) is before


def test_no_signal_is_touched_unless_one_is_named(spans: Spans) -> None:
    before = [signal.getsignal(number) for number in signal.valid_signals()]
    with instrumented(spans):
        assert [signal.getsignal(number) for number in signal.valid_signals()] == before
