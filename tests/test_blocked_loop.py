"""A loop that is blocked: the line to blame, while it is blocked, however it is blocked."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import NewLoop, Spans, attributes, instrumented, run_on
from opentelemetry.sdk.trace import ReadableSpan

THRESHOLD = 0.15
LONG = 0.5  # of processor time where a way to block computes: a starved thread does not block for as long as it takes
HERE = Path(__file__).name


@pytest.fixture
def blocked(new_loop: NewLoop, spans: Spans) -> Callable[..., list[ReadableSpan]]:
    """Runs a program and returns the spans of the loops that were blocked meanwhile."""

    def run(main: Callable[[], Any], **settings: Any) -> list[ReadableSpan]:
        spans.exporter.clear()
        with instrumented(spans, **{"block_threshold": THRESHOLD} | settings):
            run_on(new_loop, main())
        return [span for span in spans.all() if span.name.startswith("block ")]

    return run


def line_of(function: Any, text: str) -> int:
    """The line on which this text stands in a function of this file."""
    first = function.__code__.co_firstlineno
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return next(number for number in range(first, len(lines)) if text in lines[number - 1])


def by_sleeping() -> None:
    time.sleep(LONG)  # ←


def by_reading_a_socket() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, ours.makefile("rb") as stream:
        threading.Timer(LONG, theirs.sendall, (b"answer\n",)).start()
        stream.readline()  # ←


def by_reading_a_file() -> None:
    read, write = os.pipe()
    timer = threading.Timer(LONG, os.close, (write,))
    timer.start()
    with os.fdopen(read) as file:
        file.read()  # ←
    timer.join()


# Reading a thread's clock may itself take long on a crowded machine: it stands on the line to blame.


def by_matching() -> None:
    started = time.thread_time()
    while time.thread_time() - started < LONG: re.match(r"(a+)+$", "a" * 16 + "b")  # ←  # noqa: E701  # fmt: skip


def by_dumping() -> None:
    started = time.thread_time()
    while time.thread_time() - started < LONG: json.dumps(ROWS)  # ←  # noqa: E701  # fmt: skip


ROWS = [{str(n): [n, None, "text"] for n in range(1000)} for _ in range(100)]


def by_computing() -> None:
    started = time.thread_time()
    while time.thread_time() - started < LONG: sum(n * n for n in range(20_000))  # ←  # noqa: E701  # fmt: skip


def by_running_a_program() -> None:
    subprocess.run([sys.executable, "-c", f"import time; time.sleep({LONG})"], check=True)  # ←


def by_waiting_for_a_thread() -> None:
    lock = threading.Lock()
    lock.acquire()
    threading.Timer(LONG, lock.release).start()
    lock.acquire()  # ←


def by_asking_a_database() -> None:
    started = time.thread_time()
    with sqlite3.connect(":memory:") as base:
        while time.thread_time() - started < LONG: base.execute("with recursive n(i) as (select 1 union all select i+1 from n limit 200000) select sum(i) from n").fetchall()  # ←  # noqa: E701  # fmt: skip
    base.close()


def by_hashing() -> None:
    started = time.thread_time()
    while time.thread_time() - started < LONG: hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 100_000)  # ←  # noqa: E701  # fmt: skip


def by_importing() -> None:
    sys.modules.pop("slow_to_import", None)
    importlib.import_module("slow_to_import")  # ←


def by_sorting() -> None:
    started = time.thread_time()
    while time.thread_time() - started < LONG: sorted(str(n) for n in range(200_000))  # ←  # noqa: E701  # fmt: skip


WAYS = [
    by_sleeping, by_reading_a_socket, by_reading_a_file, by_matching, by_dumping, by_computing, by_running_a_program,
    by_waiting_for_a_thread, by_asking_a_database, by_hashing, by_importing, by_sorting,
]  # fmt: skip


@pytest.fixture
def slow_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_to_import.py").write_text(f"import time\ntime.sleep({LONG})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "slow_to_import", raising=False)


def blames(span: ReadableSpan, way: Any) -> bool:
    """Whether a span blames the marked line. Of an import, which is code of the program, too: its line that sleeps."""
    seen = attributes(span)
    if way is by_importing and seen["code.file.path"].endswith("slow_to_import.py"):
        return bool(seen["code.line.number"] == 2)
    return (Path(seen["code.file.path"]).name, seen["code.line.number"]) == (HERE, line_of(way, "# ←"))


def blocked_by(blocked: Any, main: Any, way: Any) -> list[ReadableSpan]:
    """What is told of a block. On a crowded machine a C call may keep the watchdog out for all of its time: three tries."""
    for _ in range(3):
        found: list[ReadableSpan] = blocked(main)
        if [blames(span, way) for span in found] == [True]:
            break
    return found


@pytest.mark.usefixtures("slow_module")
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_step_that_blocks_is_blamed_on_its_line(blocked: Any, way: Callable[[], None]) -> None:
    async def main() -> None:
        await asyncio.sleep(0)
        way()
        await asyncio.sleep(0)

    found = blocked_by(blocked, main, way)
    assert [blames(span, way) for span in found] == [True], [dict(attributes(span)) for span in found]
    (span,) = found
    assert attributes(span)["asyncio.block.accuracy"] == "exact"
    assert span.end_time - span.start_time >= LONG * 0.9e9


@pytest.mark.usefixtures("slow_module")
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_callback_that_blocks_is_blamed_on_its_line(blocked: Any, way: Callable[[], None]) -> None:
    """Which no task runs, and which the package is not told of."""

    async def main() -> None:
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        loop.call_later(0.01, way)
        loop.call_later(0.02, over.set)
        await over.wait()
        await asyncio.sleep(0.1)

    found = blocked_by(blocked, main, way)
    assert [blames(span, way) for span in found] == [True], [dict(attributes(span)) for span in found]
    assert attributes(found[0])["asyncio.block.accuracy"] == "sampled"


def by_one_pattern() -> None:
    re.match(r"(a+)+$", "a" * 25 + "b")  # ←


def by_one_sum() -> None:
    sum(range(40_000_000))  # ←


@pytest.mark.parametrize("way", (by_one_pattern, by_one_sum), ids=lambda way: way.__name__)
def test_one_call_in_c_that_keeps_the_interpreter_is_told_and_whether_its_line_was_seen(blocked: Any, way: Any) -> None:
    """Nobody can look while it lasts: as it returns, the line; or, if nobody came to look, where the coroutine begins."""
    used = 0.0

    async def main() -> None:
        nonlocal used
        await asyncio.sleep(0)
        started = time.thread_time()
        way()
        used = time.thread_time() - started
        await asyncio.sleep(0)

    for _ in range(5):
        if found := blocked(main):
            break
    if not found and used < 2 * THRESHOLD:
        return  # the machine is so fast that it may be in doubt on a crowded one (README, limits)
    (span,) = found
    seen = attributes(span)
    assert seen["asyncio.block.accuracy"] == "exact"
    assert span.end_time - span.start_time >= used * 1e9 >= THRESHOLD * 1e9
    if seen["asyncio.block.samples"] == 0:
        assert "code.stacktrace" not in seen
        assert seen["code.line.number"] == main.__code__.co_firstlineno
    else:
        assert Path(seen["code.file.path"]).name == HERE
