"""The watchdog as a guest in the process: its thread, forks, several loops, and what it is not fooled by."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
from harness import NewLoop, Spans, attributes, instrumented, loop_maker, run_on

NAME = "otel_asyncio watchdog"
THRESHOLD = 0.15
LONG = 0.5


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == NAME]


def blocks(spans: Spans) -> list[Any]:
    return [span for span in spans.all() if span.name.startswith("block ")]


def until(condition: Any) -> bool:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(condition())


def test_without_a_loop_there_is_no_thread(spans: Spans) -> None:
    assert until(lambda: threads() == []), "that of an earlier test's loop, which was closed just now, ends"
    with instrumented(spans, block_threshold=THRESHOLD):
        assert threads() == []


def test_there_is_one_thread_for_all_loops(new_loop: NewLoop, spans: Spans) -> None:
    async def main() -> list[str]:
        return threads()

    with instrumented(spans, block_threshold=THRESHOLD):
        first, second = new_loop(), new_loop()
        assert first.run_until_complete(main()) == second.run_until_complete(main()) == [NAME]
        first.close()
        second.close()


def test_the_thread_ends_when_the_last_loop_is_closed(new_loop: NewLoop, spans: Spans) -> None:
    async def main() -> None:
        await asyncio.sleep(0)

    with instrumented(spans, block_threshold=THRESHOLD):
        run_on(new_loop, main())
        assert until(lambda: threads() == [])
        run_on(new_loop, main())
        assert until(lambda: threads() == [])


def test_uninstrument_stops_the_thread_and_the_collectors_callback(new_loop: NewLoop, spans: Spans) -> None:
    before = list(gc.callbacks)
    loop = new_loop()
    with instrumented(spans, block_threshold=THRESHOLD):
        loop.run_until_complete(asyncio.sleep(0))
        assert (threads(), len(gc.callbacks)) == ([NAME], len(before) + 1)
    assert (threads(), gc.callbacks) == ([], before)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def test_every_loop_of_every_thread_is_watched(loop_kind: str, spans: Spans) -> None:
    make = loop_maker(loop_kind)

    async def main(number: int) -> None:
        for _ in range(number):
            await asyncio.sleep(0.01)
        exec(compile(f"def hold_{number}():\n    time.sleep({LONG})", f"thread{number}.py", "exec"), globals())
        globals()[f"hold_{number}"]()

    with instrumented(spans, block_threshold=THRESHOLD):
        running = [threading.Thread(target=lambda n=n: run_on(make, main(n))) for n in range(4)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
    assert sorted(attributes(span)["code.file.path"] for span in blocks(spans)) == [f"thread{n}.py" for n in range(4)]


def test_what_a_protocol_is_told_may_block_as_well(new_loop: NewLoop, spans: Spans) -> None:
    """It passes no `call_soon`, and belongs to no task."""

    class Slow(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            time.sleep(LONG)  # the line
            told.set()

    async def main() -> None:
        nonlocal told
        told = asyncio.Event()
        ours, theirs = socket.socketpair()
        with theirs:
            transport, _ = await asyncio.get_running_loop().create_connection(Slow, sock=ours)
            theirs.sendall(b"x")
            await told.wait()
            await asyncio.sleep(0.05)
            transport.close()
            await asyncio.sleep(0)

    told: Any = None
    with instrumented(spans, block_threshold=THRESHOLD):
        run_on(new_loop, main())
    (span,) = blocks(spans)
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    assert "time.sleep(LONG)  # the line" in lines[attributes(span)["code.line.number"] - 1]
    assert span.name.endswith("Slow.data_received")


def test_a_task_without_a_span_names_its_line_in_the_log(
    new_loop: NewLoop, spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        await asyncio.sleep(0)
        time.sleep(LONG)
        await asyncio.sleep(0.05)

    with instrumented(spans, block_threshold=THRESHOLD, root_tasks="none"):
        run_on(new_loop, main())
    (line,) = [record for record in caplog.records if record.name == "otel_asyncio.problem"]
    assert "main" in line.getMessage() and __file__ in line.getMessage()
    assert spans.all() == []


def run_program(text: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(text), *arguments],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


SETUP = """
import asyncio, os, signal, sys, threading, time
import concurrent.futures.thread  # imported after a provider is made, the SDK's own fork handler waits for ever
from otel_asyncio import Settings
from otel_asyncio.testing import record

def problems(recorder):
    return [span.name for span in recorder.spans if "asyncio.problem" in span.attributes]
"""


def test_a_fork_in_a_coroutine_neither_warns_nor_alarms_in_the_child() -> None:
    """Python warns of a fork where another thread runs; the child of a coroutine never comes back to its loop."""
    out = run_program(
        SETUP
        + """
async def main():
    await asyncio.sleep(0.05)
    child = os.fork()
    if child == 0:
        time.sleep(0.6)
        names = {thread.name for thread in threading.enumerate()}
        os._exit(3 if problems(recorder) or "otel_asyncio watchdog" in names else 0)
    status = await asyncio.to_thread(os.waitpid, child, 0)
    time.sleep(0.5)
    await asyncio.sleep(0)
    return os.waitstatus_to_exitcode(status[1])

with record(settings=Settings(block_threshold=0.15)) as recorder:
    print(asyncio.run(main()))
print(problems(recorder))
"""
    )
    assert out == "0\n['block main']\n"


def test_a_loop_made_after_a_fork_is_watched() -> None:
    out = run_program(
        SETUP
        + """
def child():
    async def main():
        await asyncio.sleep(0)
        time.sleep(0.5)
    asyncio.run(main())

with record(settings=Settings(block_threshold=0.15)) as recorder:
    asyncio.run(asyncio.sleep(0.05))
    pid = os.fork()
    if pid == 0:
        child()
        os.write(1, (repr(problems(recorder)) + "\\n").encode())
        os._exit(0)
    os.waitpid(pid, 0)
"""
    )
    assert out == "['block child.<locals>.main']\n"


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs Python on a system with SIGSTOP")
def test_a_process_that_was_stopped_has_not_blocked(loop_kind: str) -> None:
    """The step took long, and nothing in it was slow. Also not where the loop was idle."""
    out = run_program(
        SETUP
        + """
new_loop = __import__(sys.argv[1]).new_event_loop
async def main():
    await asyncio.sleep(0.05)
    for _ in range(2):
        waker = os.fork()
        if waker == 0:
            time.sleep(0.8)
            os.kill(os.getppid(), signal.SIGCONT)
            os._exit(0)
        await asyncio.sleep(0.1)
        os.kill(os.getpid(), signal.SIGSTOP)
        await asyncio.sleep(0)
        os.waitpid(waker, 0)

with record(settings=Settings(block_threshold=0.3)) as recorder:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
print(problems(recorder))
""",
        loop_kind,
    )
    assert out == "[]\n"


NESTED = (
    SETUP
    + """
import warnings
warnings.simplefilter("ignore")
import nest_asyncio
async def other():
    for _ in range(10):
        await asyncio.sleep(0.06)
    {then}
async def main():
    asyncio.get_event_loop().run_until_complete(other())
    await asyncio.sleep(0)

logging = __import__("logging")
said = []
logging.getLogger("otel_asyncio.problem").addFilter(lambda each: said.append(each.getMessage().split(":")[0]))
with record(settings=Settings(block_threshold=0.2, root_tasks={root_tasks!r})) as recorder:
    nest_asyncio.apply()
    asyncio.run(main())
print(problems(recorder), len(said))
"""
)


@pytest.mark.parametrize("root_tasks", ("all", "none"))
def test_a_nested_run_of_nest_asyncio_does_not_block(root_tasks: str) -> None:
    """The loop goes on within the step that waits for it, whether that has a span or not."""
    assert run_program(NESTED.format(then="", root_tasks=root_tasks)) == "[] 0\n"


def test_a_step_of_a_nested_run_that_blocks_is_told() -> None:
    out = run_program(NESTED.format(then="time.sleep(0.5)", root_tasks="all"))
    assert out == "['block other'] 1\n"


def test_a_callback_of_a_nested_run_that_blocks_is_told() -> None:
    then = "asyncio.get_running_loop().call_soon(lambda: time.sleep(0.5)); await asyncio.sleep(0.1)"
    out = run_program(NESTED.format(then=then, root_tasks="none"))
    assert out == "['block other.<locals>.<lambda>'] 1\n"


def test_the_callers_traceback_does_not_show_the_run(new_loop: NewLoop, spans: Spans) -> None:
    """The frame of ours that marks where uvloop begins is taken off what comes out of it."""

    async def main() -> None:
        raise KeyboardInterrupt

    loop = new_loop()
    with instrumented(spans, block_threshold=THRESHOLD):
        with pytest.raises(KeyboardInterrupt) as raised:
            loop.run_until_complete(main())
        frames = traceback.extract_tb(raised.value.__traceback__)
    loop.close()
    assert not [frame for frame in frames if frame.name == "run_forever" and "otel_asyncio" in frame.filename]


def test_where_nothing_runs_the_next_look_is_put_off(new_loop: NewLoop, spans: Spans) -> None:
    """Seen from a plain callback, which wakes nobody."""

    async def main(instrumentor: Any) -> list[bool]:
        loop, seen = asyncio.get_running_loop(), []
        (watch,) = instrumentor.observation.watching._watches
        watch.stir()  # the watchdog may have looked before the loop began to run
        seen.append(watch.state.dozes)
        for _ in range(40):
            timer = loop.create_future()
            loop.call_later(0.5, lambda done=timer: (seen.append(watch.state.dozes), done.set_result(None)))
            await timer
            if seen[-1]:
                break
        return seen

    with instrumented(spans, block_threshold=0.1) as instrumentor:
        first, *_, last = run_on(new_loop, main(instrumentor))
    assert not first
    assert last


def test_a_recorded_task_that_begins_or_goes_on_after_a_long_wait_wakes_the_watchdog(
    new_loop: NewLoop, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that its first step is looked at while it blocks."""
    woken: list[str] = []

    async def main(instrumentor: Any) -> None:
        loop, (watch,) = asyncio.get_running_loop(), instrumentor.observation.watching._watches
        monkeypatch.setattr(watch, "_wake", lambda: woken.append(at))
        monkeypatch.setattr(watch, "tick", lambda *_: None)

        def doze() -> None:
            watch.state.dozes = True

        doze()
        at = "begins"
        await asyncio.create_task(asyncio.sleep(0))
        at = "goes on"
        loop.call_later(0.5, doze)
        loop.call_later(0.5, (done := loop.create_future()).set_result, None)
        await done
        at = "fast"
        for _ in range(100):
            await asyncio.sleep(0)

    with instrumented(spans, block_threshold=0.1, await_threshold=0.1) as instrumentor:
        run_on(new_loop, main(instrumentor))
    assert woken == ["begins", "goes on"]
