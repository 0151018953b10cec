"""Row 20: a worker pool too small for its work. `executor` spans tell time queued from time run."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from _show import show


def read_file() -> None:
    time.sleep(0.3)


async def read_all(workers: int) -> None:
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(workers) as pool:
        await asyncio.gather(*(loop.run_in_executor(pool, read_file) for _ in range(4)))


async def wrong() -> None:
    await read_all(workers=1)


async def right() -> None:
    await read_all(workers=4)


if __name__ == "__main__":
    show(wrong, right)
