"""Whether many tasks cost more each than few: live tasks, steps, and very many cancelled at once.

    python benchmarks/scale.py [--quick] [--rounds N]

As `waits.py`: in one process, rounds with and without taking turns, ratios of neighbours; `--quick` leaves out the
million, which needs 4 GB. Needs this project in the environment.
Bytes a live task: by how much the process is larger (Linux). Without await spans: in a turn of the loop that takes
longer than `await_threshold`, every wait is one.
"""

from __future__ import annotations

import asyncio
import gc
import math
import resource
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from cancelling import counted, end_of_loop
from cancelling import recorded as recorded_with_awaits
from waits import arguments, bare

LIVE = (100, 1_000, 10_000, 100_000, 1_000_000)
STEPS = (1, 10, 100, 1_000)
STORMS = (100, 1_000, 10_000)
recorded = partial(recorded_with_awaits, await_threshold=math.inf)
AROUND = {"bare": bare, "counted": counted, "recorded": recorded}


def live(number: int, steps: int, around: Any) -> float:
    """Microseconds for one of so many tasks, all alive until the last has made its steps; made, run and freed."""

    async def body() -> None:
        for _ in range(steps):
            await asyncio.sleep(0)

    async def main() -> float:
        start = time.perf_counter()
        tasks = [asyncio.create_task(body()) for _ in range(number)]
        for task in tasks:
            await task
        return (time.perf_counter() - start) / number * 1e6

    gc.collect()
    with around(), asyncio.Runner() as runner:
        return runner.run(main())


def storm(number: int, around: Any) -> float:
    """Microseconds for one of so many that the end of their loop cancels."""

    async def parked() -> None:
        await asyncio.get_running_loop().create_future()

    async def leave_behind() -> list[Any]:
        tasks = [asyncio.create_task(parked()) for _ in range(number)]
        await asyncio.sleep(0)
        return tasks

    return end_of_loop(leave_behind, around) * 1e6


def row(title: str, timing: Any, rounds: int) -> None:
    """The middle of the times, and of the ratios to the bare round beside."""
    found: dict[str, list[float]] = {name: [] for name in AROUND}
    for number in range(rounds):
        for name in list(AROUND)[:: 1 if number % 2 else -1]:
            found[name].append(timing(AROUND[name]))
    cells = [f"{statistics.median(found['bare']):.2f} µs"]
    for name in list(AROUND)[1:]:
        pairs = list(zip(found["bare"], found[name], strict=True))
        ratio = statistics.median(with_it / without for without, with_it in pairs)
        added = statistics.median(with_it - without for without, with_it in pairs)
        cells.append(f"{ratio:.2f}× ({added:+.2f} µs)")
    print(f"| {title} | {' | '.join(cells)} |", flush=True)


def bytes_a_task(name: str, number: int) -> float:
    """In a process of its own: how large it is with so many live tasks, against with none."""

    def size(tasks: int) -> int:
        command = [sys.executable, __file__, "--weigh", name, str(tasks)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    return (size(number) - size(0)) / number


def weigh(name: str, number: int) -> None:
    async def main() -> None:
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def parked() -> None:
            await gate

        tasks = [asyncio.create_task(parked()) for _ in range(number)]
        await asyncio.sleep(0)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        print(pages * resource.getpagesize(), flush=True)
        gate.set_result(None)
        del tasks

    with AROUND[name](), asyncio.Runner() as runner:
        runner.run(main())


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--quick", action="store_true", help="without the million")
    parser.add_argument("--weigh", nargs=2, help="used by itself")
    options = parser.parse_args()
    if options.weigh:
        weigh(options.weigh[0], int(options.weigh[1]))
        return
    print("| | bare, each | counted | recorded |\n| --- | --: | --: | --: |")
    numbers = LIVE[:-1] if options.quick else LIVE
    for number in numbers:
        few = max(2, min(options.rounds, 300_000 // number))
        row(f"{number:,} live tasks, one step", partial(live, number, 1), few)
    for steps in STEPS:
        row(
            f"1,000 live tasks, {steps:,} steps", partial(live, 1_000, steps), max(3, min(options.rounds, 300 // steps))
        )
    for number in STORMS:
        row(f"{number:,} cancelled at once", partial(storm, number), max(5, min(options.rounds, 100_000 // number)))
    for number in numbers[-2:]:
        cells = [f"{bytes_a_task(name, number):,.0f} bytes" for name in AROUND]
        print(f"| memory of one of {number:,} live tasks | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
