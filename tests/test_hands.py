"""What a thread or a child process has in hand does not hang, however long it takes; not for ever, though."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from scanned import Time, scanned

from otel_asyncio.observe.awaits import tasks_of
from otel_asyncio.observe.chain import follow
from otel_asyncio.observe.hands import Hand, hand_of

AFTER = 10
MUCH_LATER = 30 * AFTER
LINES = Path(__file__).read_text(encoding="utf-8").splitlines()
CHILD = (sys.executable, "-c", "import time; time.sleep(600)")


class Gate:
    """What a thread waits for."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self.thread = 0

    def open(self) -> None:
        self._open.set()

    def pass_through(self) -> None:
        self.thread = threading.get_ident()
        assert self._open.wait(60)

    async def is_reached(self) -> None:
        while not self.thread:
            await asyncio.sleep(0)


def works(until: Gate) -> None:
    until.pass_through()


@contextmanager
def gates(number: int = 1) -> Iterator[list[Gate]]:
    """Some that are opened in the end."""
    made = [Gate() for _ in range(number)]
    try:
        yield made
    finally:
        for gate in made:
            gate.open()


async def in_pool(until: Gate, pool: Any = None) -> None:
    await asyncio.get_running_loop().run_in_executor(pool, works, until)


WAYS: dict[str, Callable[[Gate], Any]] = {
    "to_thread": lambda until: asyncio.to_thread(works, until),
    "run_in_executor": in_pool,
    "shielded": lambda until: asyncio.shield(asyncio.get_running_loop().run_in_executor(None, works, until)),
    "anyio": lambda until: anyio.to_thread.run_sync(works, until),
}


async def awaits(work: Any) -> None:
    await work


@pytest.mark.parametrize("way", WAYS)
def test_work_in_a_thread_hangs_only_much_later_and_is_told_with_the_line_where_it_stands(way: str) -> None:
    async def program(time: Time) -> None:
        with gates() as (gate,):
            task = time.request(awaits(WAYS[way](gate)))
            await gate.is_reached()
            await time.passes(MUCH_LATER)
            assert time.problems == []
            await time.passes(AFTER)
            (told,) = time.problems
            gate.open()
            await task
        assert told["asyncio.problem"] == "stuck"
        assert "self._open.wait" in LINES[told["code.line.number"] - 1]
        assert told["code.function.name"] == "test_hands.Gate.pass_through"
        assert told["thread.name"]
        stack = [line.rpartition(", in ")[2] for line in told["code.stacktrace"].splitlines()]
        assert stack.index("awaits") < stack.index("works")
        assert not {"Work.__call__", "_worker", "_WorkItem.run", "WorkerThread.run", "Thread.run"} & set(stack)

    scanned(program)


def test_it_is_told_again_when_it_has_taken_twice_as_long() -> None:
    async def program(time: Time) -> None:
        with gates() as (gate,):
            task = time.request(in_pool(gate))
            await time.passes(2 * MUCH_LATER - AFTER)
            assert len(time.problems) == 1
            await time.passes(2 * AFTER)
            assert len(time.problems) == 2
            gate.open()
            await task

    scanned(program)


def test_queued_work_does_not_hang_as_long_as_its_pool_goes_on_to_take_up_other_work() -> None:
    async def program(time: Time) -> None:
        with ThreadPoolExecutor(1) as pool, gates(4) as all_gates:
            tasks = [time.request(in_pool(gate, pool)) for gate in all_gates]
            for gate, task in zip(all_gates[:3], tasks, strict=False):
                await time.passes(MUCH_LATER * 0.9)
                gate.open()
                await task
            assert "stuck" not in [told["asyncio.problem"] for told in time.problems]
            all_gates[-1].open()
            await tasks[-1]

    scanned(program)


def test_queued_work_hangs_when_its_pool_does() -> None:
    async def program(time: Time) -> None:
        with ThreadPoolExecutor(1) as pool, gates() as (gate,):
            tasks = [time.request(in_pool(gate, pool)) for _ in range(2)]
            await time.passes(MUCH_LATER + AFTER)
            (told,) = time.problems
            assert told["asyncio.stuck.count"] == 2
            gate.open()
            await asyncio.gather(*tasks)

    scanned(program)


def child(wait: Callable[[Any], Any], **pipes: int) -> Callable[[list[Any]], Any]:
    async def run(processes: list[Any]) -> None:
        process = await asyncio.create_subprocess_exec(*CHILD, **pipes)
        processes.append(process)
        await wait(process)
        await process.wait()

    return run


CHILDREN = {
    "wait": child(lambda process: process.wait()),
    "communicate": child(lambda process: process.communicate(), stdout=-1),
    "output": child(lambda process: process.stdout.readline(), stdout=-1),
}


@pytest.mark.parametrize("what", CHILDREN)
def test_a_wait_for_a_child_process_hangs_only_much_later(what: str) -> None:
    async def program(time: Time) -> None:
        processes: list[Any] = []
        task = time.request(CHILDREN[what](processes))
        await time.passes(MUCH_LATER)
        assert time.problems == []
        await time.passes(2 * AFTER)
        assert [told["asyncio.problem"] for told in time.problems] == ["stuck"]
        processes[0].kill()
        await task

    scanned(program)


@pytest.mark.parametrize("what", CHILDREN)
def test_a_child_process_is_known_on_every_loop(what: str, run: Callable[..., Any], instrumented_process: Any) -> None:
    async def main() -> Hand | None:
        processes: list[Any] = []
        task = asyncio.create_task(CHILDREN[what](processes))
        while not processes:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)
        reads = [task, *(other for other in tasks_of(follow(task)) if not other.done())][-1]  # `communicate` gathers
        hand = hand_of(follow(reads), instrumented_process.observation.executors)
        processes[0].kill()
        await task
        return hand

    assert run(main()) == Hand(0)


@pytest.mark.parametrize("way", WAYS)
def test_the_thread_that_works_is_known_on_every_loop(
    way: str, run: Callable[..., Any], instrumented_process: Any
) -> None:
    async def main() -> tuple[Hand | None, int]:
        with gates() as (gate,):
            task = asyncio.create_task(awaits(WAYS[way](gate)))
            await asyncio.sleep(0)
            await gate.is_reached()
            hand = hand_of(follow(task), instrumented_process.observation.executors)
            gate.open()
            await task
        return hand, gate.thread

    hand, thread = run(main())
    assert hand is not None and hand.thread == thread


def test_what_nobody_has_in_hand_is_nobodys(run: Callable[..., Any], instrumented_process: Any) -> None:
    async def main() -> list[Hand | None]:
        reader, writer = asyncio.StreamReader(), asyncio.Event()
        tasks = [asyncio.create_task(awaits(wait)) for wait in (reader.read(), writer.wait(), asyncio.sleep(60))]
        await asyncio.sleep(0)
        hands = [hand_of(follow(task), instrumented_process.observation.executors) for task in tasks]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        return hands

    assert run(main()) == [None, None, None]
